"""How long the app takes to its first frame with content, beside an app of Textual's that does nothing.

Both are started on a pseudo-terminal, in turn, by the same interpreter and with the same environment. What counts as
the first frame is the same for both: from just before the process is started until, behind the switch to the alternate
screen, the output without its escape sequences contains a certain word. Our app writes it as the name of the
checkpoint, first in 'reading the headers of …'; the other one has a single Static with the word as its text.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
from checkpoint_variants import sound
from command_line import COMMAND, Home, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    Figure = Callable[[str, str], None]

PAIRS = 15
TRIPWIRE = 1.5
WORD = b"seventy-billion"
COLUMNS, ROWS = 120, 36
PATIENCE_S = 60.0
EMPTY = f"""\
from textual.app import App
from textual.widgets import Static


class Empty(App):
    def compose(self):
        yield Static("{WORD.decode()}")


Empty().run()
"""
_ALTERNATE_SCREEN = b"\x1b[?1049h"
_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[PX^_].*?\x1b\\|\x1b[ -/]*[0-~]")


def _shown(output: bytes) -> bytes:
    return _ESCAPES.sub(b"", output.partition(_ALTERNATE_SCREEN)[2])


def _environment(home: Home) -> dict[str, str]:
    home.folder.mkdir(parents=True, exist_ok=True)
    unwanted = ("COLUMNS", "LINES", "NO_COLOR")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    places = {"XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state", "TMPDIR": ""}
    folders = {name: str(home.folder / below) for name, below in places.items()}
    return {**inherited, **folders, "HOME": str(home.folder), "TERM": "xterm-256color", "COLORTERM": "truecolor"}


def seconds_until(words: Sequence[bytes], command: Sequence[object], home: Home) -> list[float]:
    """Start a command on a terminal of its own and end it; returns when each of the words was on the screen."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment, output, found = _environment(home), b"", list[float]()
    began_s = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)), stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=home.folder,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        while len(found) < len(words):
            assert select.select([master], [], [], PATIENCE_S)[0], _shown(output)
            output += os.read(master, 1 << 16)
            if words[len(found)] in _shown(output):
                found.append(time.perf_counter() - began_s)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        with contextlib.suppress(AssertionError):
            until(lambda: not home.processes())  # or a worker that still ends would slow the next one down
    return found


def _spread(values: Sequence[float], digits: int) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"median {median:.{digits}f}, quartiles {low:.{digits}f} to {high:.{digits}f}"


@pytest.mark.timeout(900)
def test_the_first_frame_beside_an_empty_app(
    benchmark: BenchmarkFixture, figure: Figure, home: Home, tmp_path: Path
) -> None:
    checkpoint = sound(tmp_path / WORD.decode(), "safetensors", parameters=70_000_000_000, shards=30, sparse=True)
    (empty := tmp_path / "empty.py").write_text(EMPTY)
    ours: list[float] = []
    theirs: list[float] = []
    plans: list[float] = []

    def start_ours() -> None:
        frame_s, plan_s = seconds_until([WORD, b"naive"], [COMMAND, "--ckpt", checkpoint], home)
        ours.append(frame_s)
        plans.append(plan_s)

    def start_theirs() -> None:
        theirs.extend(seconds_until([WORD], [sys.executable, empty], home))

    def pair() -> None:
        order = (start_ours, start_theirs) if len(ours) % 2 else (start_theirs, start_ours)
        for start in order:
            start()

    benchmark.pedantic(pair, rounds=PAIRS, warmup_rounds=1)

    ratios = [our_s / their_s for our_s, their_s in zip(ours[1:], theirs[1:], strict=True)]
    median = statistics.median(ratios)
    benchmark.extra_info.update(ours_s=ours[1:], empty_s=theirs[1:], plan_s=plans[1:], median_ratio=median)
    figure(f"first frame: ours / an empty app, {PAIRS} pairs", _spread(ratios, 2))
    figure("first frame of ours", f"{_spread([1e3 * s for s in ours[1:]], 0)} ms")
    figure("first frame of an empty app", f"{_spread([1e3 * s for s in theirs[1:]], 0)} ms")
    figure("plan of 70 B parameters in 30 files on the screen", f"{_spread([1e3 * s for s in plans[1:]], 0)} ms")
    assert median <= TRIPWIRE
