"""The app as a user has it: the installed command in a terminal, with its processes, its files and its end."""

from __future__ import annotations

import csv
import json
import signal
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import pytest
from checkpoint_variants import ABSURD_PARAMETERS, PARAMETERS, Variants, sound
from command_line import Home, phase_of, until
from terminal import Modes, Terminal, terminal

from meminspect.capture.store import CaptureReader
from meminspect.strategies import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AT_REST = Modes(alternate_screen=False, cursor_hidden=False, mouse=False, raw=False)
LOADING = ("build", "read", "copy", "assign")
STARTING = ("import", "warm-up", *LOADING)
MISFORTUNES = ("Traceback", "internal error", "Something went wrong", "Error:")
AT_THE_TOP = ("mmap-assign", "lazy-quantize", "stream", "meta-assign")  # of the list, whatever its length
SIXTEEN = {*range(30, 38), 39, *range(40, 48), 49, *range(90, 98), *range(100, 108)}


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    return Variants(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What takes a second to load, and no disk."""
    return sound(tmp_path_factory.mktemp("models") / "big", "safetensors", parameters=50 * PARAMETERS, sparse=True)


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What no machine loads with `naive`, in files that any maps one by one."""
    out = tmp_path_factory.mktemp("models") / "huge"
    return sound(out, "safetensors", parameters=ABSURD_PARAMETERS, shards=200, sparse=True)


@pytest.fixture(scope="module")
def captures(variants: Variants, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A capture of `mmap-assign` and one of `naive`, which has both heap and file pages."""
    folder = tmp_path_factory.mktemp("captures")
    home = Home(folder / "home")
    done = home.meminspect("run", "--ckpt", variants["shards"], "-s", "mmap-assign", "-s", "naive", "--json")
    assert done.status == 0, done.stderr
    first, second = (folder / run["capture"] for run in done.document["runs"])
    return first, second


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def window(tmp_path: Path, home: Home) -> Iterator[Terminal]:
    with terminal(tmp_path / "here", home) as made:
        yield made


def left_in_order(window: Terminal) -> None:
    """The app has ended: nothing of it is left, and the terminal is a shell's again."""
    assert not window.home.processes()
    assert window.modes == AT_REST
    for word in (*MISFORTUNES, *STRATEGIES):
        assert word not in window.screen
    window.types("echo $((6 * 7)) is usable")
    window.keys("Enter")
    window.sees("42 is usable")


def to_strategy(window: Terminal, name: str) -> None:
    """Move from the recommended strategy, where the cursor is at first, to another."""
    window.sees("★", *AT_THE_TOP)
    rows = [
        (found[0], "★" in line)
        for line in window.screen.splitlines()
        if (found := [word for word in line.split() if word in STRATEGIES]) and line.split()[0] in ("★", found[0])
    ]
    names = [name for name, _ in rows]
    at = next(index for index, (_, recommended) in enumerate(rows) if recommended)
    steps = names.index(name) - at
    if steps:
        window.keys(*["Down" if steps > 0 else "Up"] * abs(steps))
    window.sees(f"{name} {STRATEGIES[name].summary[:20]}")


def exported(window: Terminal, suffix: str, presses: int) -> Path:
    """Export what is on the screen, in the format that is so many lines down."""
    window.keys("e")
    window.sees("Export into the current folder")
    window.keys(*["Down"] * presses, "Enter")
    window.loses("Export into the current folder")
    until(lambda: list(window.folder.glob(f"*.{suffix}")))
    (path,) = window.folder.glob(f"*.{suffix}")
    window.sees("written:")
    return path


def one_run(window: Terminal) -> None:
    """Run what is under the cursor, and look at all of it."""
    window.keys("Enter")
    result = window.sees("mmap-assign peaked at", "× the model", "floor (file)", "theory", "e export")
    assert "░" in result
    window.keys("1")
    window.sees("duration", "lm_head.weight", "touched")
    window.keys("3")
    window.sees("import torch", "load_file")
    window.keys("2")
    window.sees("floor (file)")

    document = json.loads(exported(window, "json", 0).read_text())
    rows = list(csv.reader(exported(window, "csv", 1).read_text().splitlines()))
    picture = ElementTree.parse(exported(window, "svg", 2))  # noqa: S314 - our own

    assert document["run"]["outcome"] == "completed"
    assert len(rows) > 2
    assert len({len(row) for row in rows}) == 1
    assert "mmap-assign\N{NO-BREAK SPACE}peaked" in "".join(picture.getroot().itertext())
    window.keys("Escape")
    window.sees("★", *AT_THE_TOP)


def a_race(window: Terminal) -> None:
    """Run two beside each other."""
    window.keys("r")
    window.sees("mark two")
    window.keys("Space")
    window.sees("◉")
    window.keys("Down", "Space")
    window.sees("◉", times=2)
    window.keys("r")
    window.sees("completed", times=2)
    window.loses("have run")
    window.keys("Escape")
    window.sees("★", *AT_THE_TOP)


def a_comparison(window: Terminal) -> None:
    """Lay two earlier runs beside each other."""
    window.keys("h")
    window.sees("Earlier captures in")
    shown = window.sees("completed", times=3)
    assert shown.count("completed") == 3
    window.keys("Space", "Down", "Space")
    window.sees("◉", times=2)
    window.keys("c")
    window.sees("× floor", "✓", "completed", times=1)
    window.sees("completed", times=2)
    window.loses("have run", "Earlier captures")
    window.keys("Escape")
    window.sees("Earlier captures")
    window.keys("Escape")
    window.sees("★", *AT_THE_TOP)


def test_given_a_checkpoint_then_everything_from_the_plan_to_a_comparison_can_be_seen_and_the_end_is_clean(
    variants: Variants, window: Terminal
) -> None:
    window.start("--ckpt", variants["shards"])

    card = window.sees("★", "safetensors-sharded", "3 files", "usable", *AT_THE_TOP)
    assert "peak heap" in card
    one_run(window)
    a_race(window)
    a_comparison(window)
    assert window.modes.alternate_screen
    window.keys("q")

    assert window.status() == 0
    left_in_order(window)
    assert len(list(window.home.captures.glob("*.meminspect"))) == 3
    assert not list(window.home.folder.rglob("app.log"))


def test_given_no_checkpoint_then_one_is_picked_by_typing_and_a_wrong_path_is_explained(
    variants: Variants, window: Terminal
) -> None:
    (window.folder / "models").symlink_to(variants["shards"].parent)
    window.start()
    window.sees("Which checkpoint?", "the demo")

    window.types("nowhere/at-all")
    window.keys("Enter")
    window.sees("nowhere/at-all: no such file or folder")
    window.keys("Escape")
    window.loses("nowhere")
    window.sees("the demo")
    window.types("mod")
    window.keys("Tab")
    window.sees("models/")
    window.types("sh")
    window.keys("Tab")
    window.sees("models/shards/")
    window.keys("Enter")

    window.sees("★", "safetensors-sharded", *AT_THE_TOP)
    window.keys("q")
    assert window.status() == 0
    left_in_order(window)


def test_given_captures_then_view_shows_one_alone_and_two_beside_each_other_and_leaves_on_escape(
    captures: tuple[Path, Path], window: Terminal
) -> None:
    window.start("view", captures[1])
    window.sees("naive peaked at", "█", "░")
    window.keys("Escape")
    assert window.status() == 0
    left_in_order(window)

    window.start("view", *captures)
    window.sees("mmap-assign ✓", "naive ✓")
    window.sees("completed", times=2)
    window.keys("Escape")
    assert window.status() == 0
    left_in_order(window)


def test_given_a_file_that_is_no_capture_then_view_says_so_in_a_line_before_the_screen_is_taken_over(
    captures: tuple[Path, Path], window: Terminal
) -> None:
    (window.folder / "other").write_text("something else\n" * 1000)

    window.start("view", captures[0], "other")

    assert window.status() == 2
    (said,) = (line for line in window.screen.splitlines() if "error" in line)
    assert said.startswith("meminspect: error: other")
    left_in_order(window)


def test_given_a_prediction_that_does_not_fit_then_it_is_asked_first_and_no_starts_nothing(
    huge: Path, window: Terminal
) -> None:
    window.start("--ckpt", huge)
    to_strategy(window, "naive")

    for answer in ("n", "Escape", "Enter"):  # enter alone must not hurt: the focus is on 'no'
        window.keys("Enter")
        window.sees("naive: does not fit", "run all the same", "of heap")
        window.keys(answer)
        window.loses("run all the same")
        window.sees("★", *AT_THE_TOP)

    assert not window.home.captures.exists()
    window.keys("q")
    assert window.status() == 0
    left_in_order(window)


class Ending(NamedTuple):
    """A way to end the app."""

    end: Callable[[Terminal], object]
    phases: tuple[str, ...]  # one of these has been reached by then
    status: int | None  # None: nobody is left to see one
    in_order: bool  # whether the app can put the terminal back


ENDINGS = {
    "q": Ending(lambda window: window.keys("q"), LOADING, 0, in_order=True),
    "Ctrl-C": Ending(lambda window: window.keys("C-c"), STARTING, 0, in_order=True),
    "SIGTERM": Ending(lambda window: window.app.terminate(), STARTING, 0, in_order=True),
    "SIGHUP": Ending(lambda window: window.app.send_signal(signal.SIGHUP), STARTING, 129, in_order=False),
    "a closed window": Ending(lambda window: window.close(), LOADING, None, in_order=False),
    "SIGKILL": Ending(lambda window: window.app.kill(), STARTING, 137, in_order=False),
}


@pytest.mark.parametrize(
    "ending",
    [pytest.param(ending, id=name, marks=pytest.mark.slow if name != "q" else ()) for name, ending in ENDINGS.items()],
)
def test_given_a_run_under_way_when_the_app_ends_then_nothing_is_left_running_and_the_capture_has_an_outcome(
    big: Path, window: Terminal, home: Home, ending: Ending
) -> None:
    window.start("--ckpt", big)
    to_strategy(window, "naive")
    window.keys("Enter")
    until(lambda: list(home.captures.glob("*.meminspect")))
    (capture,) = home.captures.glob("*.meminspect")
    until(lambda: phase_of(capture) in ending.phases)

    ending.end(window)

    if ending.status is not None:
        assert window.status() == ending.status
    until(lambda: not home.processes())
    if ending.in_order:
        left_in_order(window)
    done = home.meminspect("export", capture, "--to", "json", "--output", home.folder / "run.json")
    assert done.status == 0, done.stderr
    document = json.loads((home.folder / "run.json").read_text())
    assert document["run"]["outcome"] in ("cancelled", "failed")
    with CaptureReader(capture) as reader:
        assert reader.fact("outcome")["outcome"] == document["run"]["outcome"]


@pytest.mark.slow
def test_given_a_run_under_way_when_the_window_changes_its_size_then_the_app_goes_on(
    big: Path, window: Terminal
) -> None:
    window.start("--ckpt", big)
    to_strategy(window, "naive")
    window.keys("Enter")
    window.sees("naive ·")

    window.resize(40, 10)
    window.sees("make this terminal larger")
    window.loses("naive")
    window.resize(200, 60)
    window.sees("naive")
    window.loses("make this terminal larger")
    window.sees("naive peaked at", "theory", "█")
    wide = window.sees("ceiling", "└─")
    assert max(map(len, wide.splitlines())) > 150
    window.resize(120, 36)
    window.sees("naive peaked at", "└─", "q quit")
    assert max(map(len, window.screen.splitlines())) <= 120

    window.keys("q")
    assert window.status() == 0
    left_in_order(window)


def test_given_no_colour_then_there_are_only_greys_and_pools_differ_in_their_characters(
    captures: tuple[Path, Path], home: Home, tmp_path: Path
) -> None:
    with terminal(tmp_path / "here", home, NO_COLOR="1", COLORTERM="truecolor") as window:
        window.start("view", captures[1])
        window.sees("naive peaked at", "█", "░")

        assert all(len(set(colour[2:])) == 1 for colour in window.colours if len(colour) == 5)
        assert {len(colour) for colour in window.colours} <= {1, 5}
        assert {colour[0] for colour in window.colours if len(colour) == 1} <= {39, 49}


def test_given_a_terminal_of_sixteen_colours_then_the_picture_has_no_others(
    captures: tuple[Path, Path], home: Home, tmp_path: Path
) -> None:
    with terminal(tmp_path / "here", home, TERM="xterm") as window:
        window.start("view", captures[1])
        window.sees("naive peaked at", "█", "░")

        assert {colour[0] for colour in window.colours} <= SIXTEEN
        assert len(window.colours) > 4


def test_given_no_terminal_to_draw_in_then_one_line_says_so_with_a_hint(variants: Variants, window: Terminal) -> None:
    window.start("--ckpt", variants["shards"], behind="| cat")

    assert window.status() == 2
    said = window.screen
    assert "meminspect: error: the app needs a terminal" in said
    assert "hint: meminspect plan" in said
    left_in_order(window)


def refused_or_drawing(window: Terminal) -> int | None:
    """Wait until the command has ended, whose status this is, or has taken the terminal over."""
    until(lambda: window.modes.raw or "ended with status" in window.screen)
    return None if window.modes.raw else window.status()


def test_given_a_terminal_that_can_only_print_then_one_line_says_so_with_a_hint(
    variants: Variants, home: Home, tmp_path: Path
) -> None:
    with terminal(tmp_path / "here", home, TERM="dumb") as window:
        window.start("--ckpt", variants["shards"])

        assert refused_or_drawing(window) == 2
        assert "the app needs a terminal" in window.screen


def test_given_stderr_in_a_file_then_the_app_does_not_draw_into_it(variants: Variants, window: Terminal) -> None:
    window.start("--ckpt", variants["shards"], behind="2>said")

    assert refused_or_drawing(window) == 2
    assert "the app needs a terminal" in (window.folder / "said").read_text()
