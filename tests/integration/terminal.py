"""The installed command in a real terminal: tmux draws, types and resizes; a shell waits for the command's end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from command_line import COMMAND, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psutil
    from command_line import Home

COLUMNS, ROWS = 120, 36
PATIENCE_S = 60.0  # a test may share its machine with others
_PROMPT = "ready>"
_PLACES = {"HOME": "", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state", "TMPDIR": ""}
_NOT_INHERITED = ("COLUMNS", "LINES", "NO_COLOR", "COLORTERM", "TMUX", "TERM_PROGRAM")
_ENDED = re.compile(r"ended with status (\d+)")
_COLOUR = re.compile(r"\x1b\[([\d;]*)m")


class Modes(NamedTuple):
    """What an app changes in a terminal and has to put back."""

    alternate_screen: bool
    cursor_hidden: bool
    mouse: bool
    raw: bool  # what is typed is not echoed, or not handed over by lines


class Terminal:
    """A terminal whose shell knows one command, `./meminspect`, which is at home in `home`.

    Args:
        folder: where the shell is, and where everything that it needs lies.
        home: the command's; the shell has another, so that `home.processes()` is what the command has started.
        columns: of the window.
        rows: of the window.
        environment: what the command finds beside what it inherits.
    """

    def __init__(self, folder: Path, home: Home, columns: int, rows: int, environment: dict[str, str]) -> None:
        self.folder = folder
        self.home = home
        self._socket = folder / "tmux"
        variables = {name: str(home.folder / below) for name, below in _PLACES.items()} | environment
        home.folder.mkdir(parents=True, exist_ok=True)
        script = folder / "meminspect"
        script.write_text(
            "#!/bin/sh\n"
            + "".join(f"export {name}='{value}'\n" for name, value in variables.items())
            + f'{COMMAND} "$@"\nstatus=$?\nunset HOME\necho "ended with status $status"\n'
        )
        script.chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        session = ("new-session", "-d", "-x", str(columns), "-y", str(rows))
        subprocess.run(
            ["tmux", "-u", "-f", "/dev/null", "-S", self._socket, *session, "env", f"PS1={_PROMPT} ", "sh"],
            check=True, cwd=folder, env={**inherited, "PYTHONUTF8": "1", "TERM": "xterm"},
        )  # fmt: skip
        self.sees(_PROMPT)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def keys(self, *names: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", *names)

    def types(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)

    def start(self, *arguments: object, behind: str = "") -> None:
        """Start the command as a user does, on an empty screen."""
        self.types(" ".join(("clear; ./meminspect", *map(str, arguments), behind)))
        self.keys("Enter")

    def resize(self, columns: int, rows: int) -> None:
        """Make the window smaller or larger."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def close(self) -> None:
        """Close the window, as a user with a mouse does: whatever runs in it is hung up."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    @property
    def screen(self) -> str:
        """The text that can be seen."""
        return self._tmux("capture-pane", "-p")

    @property
    def colours(self) -> set[tuple[int, ...]]:
        """The parameters of every escape sequence on the screen that chooses a colour, as (38, 2, r, g, b) or (31,)."""
        found: set[tuple[int, ...]] = set()
        for sequence in _COLOUR.findall(self._tmux("capture-pane", "-p", "-e")):
            numbers = [int(number or 0) for number in sequence.split(";")]
            while numbers:
                length = {2: 5, 5: 3}[numbers[1]] if numbers[0] in (38, 48) else 1
                colour, numbers = tuple(numbers[:length]), numbers[length:]
                if colour[0] in (*range(30, 39), *range(40, 49), *range(90, 98), *range(100, 108)):
                    found.add(colour)
        return found

    @property
    def modes(self) -> Modes:
        """What the terminal is set to now."""
        flags = self._tmux("display-message", "-p", "#{alternate_on}#{cursor_flag}#{mouse_any_flag} #{pane_tty}")
        (alternate, cursor, mouse), device = list(flags.split()[0]), flags.split()[1]
        settings = subprocess.run(["stty", "-a", "-F", device], check=True, capture_output=True, text=True).stdout
        raw = not {"echo", "icanon", "isig"} <= set(settings.replace(";", " ").split())
        return Modes(alternate == "1", cursor == "0", mouse == "1", raw)

    def sees(self, *words: str, times: int = 1) -> str:
        """Wait until all of these words are on the screen so many times; returns the screen."""
        shown = ""

        def there() -> bool:
            nonlocal shown
            shown = self.screen
            return all(shown.count(word) >= times for word in words)

        self._wait(there, f"{words} × {times}")
        return shown

    def loses(self, *words: str) -> None:
        """Wait until none of these words is on the screen."""
        self._wait(lambda: not any(word in self.screen for word in words), f"the end of {words}")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S

        def reached() -> bool:
            if time.monotonic() > deadline:
                pytest.fail(f"waited in vain for {what}; the screen was\n{self.screen}")
            return condition()

        until(reached)

    def status(self) -> int:
        """Wait for the command's end."""
        shown = self.sees("ended with status ", _PROMPT)
        match = _ENDED.search(shown)
        assert match is not None, shown
        return int(match[1])

    @property
    def app(self) -> psutil.Process:
        """The command's own process."""
        (found,) = (process for process in self.home.processes() if str(COMMAND) in process.cmdline())
        return found


@contextlib.contextmanager
def terminal(
    folder: Path, home: Home, *, columns: int = COLUMNS, rows: int = ROWS, **environment: str
) -> Iterator[Terminal]:
    """A terminal that is closed afterwards; whatever the command has left behind then is ended, and is an error."""
    if shutil.which("tmux") is None:
        pytest.skip("no tmux to draw a terminal with")
    folder.mkdir(parents=True, exist_ok=True)
    window = Terminal(folder, home, columns, rows, environment)
    try:
        yield window
    finally:
        window.close()
        try:
            until(lambda: not home.processes())
        finally:
            for process in home.processes():
                process.kill()
