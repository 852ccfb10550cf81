"""What goes wrong, in whatever thread: the user is told, our own defects leave a log, and the app goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captures
import pytest
from captures import Story
from screens import CHECKPOINT, TO_LIMIT, FakeSession, FakeStandby, drawn, on, planned, session, told, until, watch
from textual.widgets import Input

from meminspect.errors import CheckpointError, RunError, UsageError
from meminspect.tui.app import MeminspectApp
from meminspect.tui.faults import log_path
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.message import MessageScreen
from meminspect.tui.screens.pick import PickScreen
from meminspect.tui.screens.race import RaceScreen
from meminspect.tui.screens.run import RunScreen
from meminspect.tui.screens.start import StartScreen

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask

SIZE = (100, 24)


def at_start(folder: Path | None = Path("captures")) -> MeminspectApp:
    return MeminspectApp(CHECKPOINT, folder=folder)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def logged() -> str:
    """What the log file holds; nothing where there is none."""
    path = log_path()
    assert path is not None
    return path.read_text() if path.exists() else ""


async def message(pilot: Pilot[Any]) -> str:
    """The words of the message that has appeared; it is closed."""
    await on(pilot, MessageScreen)
    words = told(pilot)
    await pilot.press("escape")
    return words


# Reading a checkpoint


async def test_a_checkpoint_that_cannot_be_read_is_said_in_its_place_and_another_can_be_picked() -> None:
    Path("broken.safetensors").write_bytes(b"\xff" * 100)
    app = MeminspectApp(Path("broken.safetensors"))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "p picks another checkpoint" in told(pilot, "#subject"))
        assert "broken.safetensors" in told(pilot, "#subject")
        assert logged() == ""
        await pilot.press("r", "i", "o", "space", "enter")  # what needs a plan does nothing
        assert isinstance(app.screen, StartScreen)
        assert FakeSession.begun == []

        await pilot.press("p")

        await on(pilot, PickScreen)


async def test_a_defect_in_the_first_reading_is_said_in_its_place_and_logged(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.analysis.prospect.prospect_of", raising(KeyError("of [ours]")))
    async with at_start().run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "internal error while reading the checkpoint" in told(pilot, "#subject"))
        assert "KeyError: 'of [ours]'" in told(pilot, "#subject")
        assert str(log_path()) in told(pilot, "#subject").replace("\n", "")
    assert "Traceback" in logged()
    assert "KeyError" in logged()


@pytest.mark.parametrize(
    ("error", "words", "is_logged"),
    [
        (CheckpointError("it is gone", "look"), "it is gone", False),
        pytest.param(
            OSError(5, "Input/output error", "params.json"),
            "params.json: Input/output error",
            False,
            marks=pytest.mark.slow,
        ),
        (ValueError("ours"), "internal error while reading the checkpoint: ValueError", True),
    ],
)
async def test_what_goes_wrong_later_is_a_message_and_the_plan_stays(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str, *, is_logged: bool
) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        monkeypatch.setattr("meminspect.checkpoint.read_checkpoint", raising(error))
        await pilot.press("o", "ctrl+s")

        assert words in await message(pilot)
        assert ("Traceback" in logged()) is is_logged
        await on(pilot, StartScreen)
        await pilot.press("i")
        await until(pilot, lambda: not isinstance(pilot.app.screen, StartScreen))


async def test_options_chosen_while_a_reading_is_slow_are_not_undone_when_it_ends(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the reading after a run, which takes its time
    from meminspect.checkpoint import read_checkpoint

    slow, arrived, calls = threading.Event(), threading.Event(), []

    def read(path: Path) -> object:
        calls.append(path)
        if len(calls) == 2:
            arrived.set()
            assert slow.wait(10)
        return read_checkpoint(path)

    monkeypatch.setattr("meminspect.checkpoint.read_checkpoint", read)
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("o", "ctrl+s")
        await until(pilot, arrived.is_set)
        # when the user chooses a limit meanwhile
        await pilot.press("o", *TO_LIMIT, *"4GiB", "ctrl+s")
        await until(pilot, lambda: "limit 4.00 GiB" in told(pilot, "#details"))
        slow.set()
        await until(pilot, lambda: all(worker.is_finished for worker in pilot.app.workers))
        # then it holds
        assert "limit 4.00 GiB" in told(pilot, "#details")


async def test_a_worker_that_cannot_be_started_ahead_is_told_and_the_plan_is_there(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.engine.session.Standby", raising(RunError("cannot start the supervisor: no")))
    async with at_start().run_test(size=SIZE) as pilot:
        assert "cannot start the supervisor: no" in await message(pilot)
        await planned(pilot)
        await pilot.press("enter")
        (await session(pilot)).end()
        await drawn(pilot)


def several() -> Path:
    """A folder with two checkpoints of one tensor each."""
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    folder = Path("several")
    folder.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


async def test_a_folder_of_several_checkpoints_leads_to_a_choice_among_them(home: Path) -> None:
    async with MeminspectApp(several()).run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "holds 2 checkpoints" in told(pilot, "#error"))
        assert isinstance(pilot.app.screen, PickScreen)

        await pilot.press("down", "enter")

        await on(pilot, StartScreen)
        await until(pilot, lambda: "b.safetensors" in told(pilot, "#subject"))


# Picking


async def test_a_typed_folder_of_several_checkpoints_is_asked_about(home: Path) -> None:
    several()
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await pilot.press(*"several", "enter")
        await until(pilot, lambda: "holds 2 checkpoints" in told(pilot, "#error"))

        await pilot.press("enter")

        await on(pilot, StartScreen)
        await until(pilot, lambda: "a.safetensors" in told(pilot, "#subject"))


async def test_what_cannot_be_opened_is_said_under_its_path_until_something_else_is_typed(task: LoadTask) -> None:
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await pilot.press(*"no[/]thing", "enter")
        await until(pilot, lambda: "no[/]thing" in told(pilot, "#error"))
        assert logged() == ""

        await pilot.press("x")

        await until(pilot, lambda: told(pilot, "#error") == "")
        assert isinstance(pilot.app.screen, PickScreen)


async def test_a_defect_while_opening_is_a_message(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await on(pilot, PickScreen)
        monkeypatch.setattr("meminspect.checkpoint.read_checkpoint", raising(ZeroDivisionError("ours")))
        await pilot.press("x", "enter")
        assert "internal error while opening the checkpoint: ZeroDivisionError: ours" in await message(pilot)
        assert "Traceback" in logged()
        await pilot.press("y")
        assert pilot.app.screen.query_one(Input).value == "xy"


async def test_a_defect_while_looking_for_earlier_ones_is_a_message(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meminspect.tui.completion.recent_checkpoints", raising(ZeroDivisionError("ours")))
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        assert "internal error while looking for earlier captures" in await message(pilot)
        await on(pilot, PickScreen)


async def test_a_demo_that_finds_no_room_is_told_and_its_bar_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(progress: Callable[[int, int], None]) -> Path:
        progress(1, 2)
        raise UsageError("the disk is full", "make room")

    monkeypatch.setattr("meminspect.synthesis.demo_checkpoint", write)
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await on(pilot, PickScreen)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "the disk is full: make room" in told(pilot, "#error"))
        assert not pilot.app.screen.query_one("#progress").display


async def test_escape_stops_the_demo_and_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def write(progress: Callable[[int, int], None]) -> Path:
        try:
            for done in range(100_000):
                progress(done, 100_000)
        except Exception:
            stopped.set()
            raise
        return CHECKPOINT

    monkeypatch.setattr("meminspect.synthesis.demo_checkpoint", write)
    async with MeminspectApp().run_test(size=SIZE) as pilot:
        await on(pilot, PickScreen)
        await pilot.press("down", "enter")
        bar = pilot.app.screen.query_one("#progress")
        await until(pilot, lambda: bar.display)

        await pilot.press("escape")
        await until(pilot, stopped.is_set)

        await until(pilot, lambda: not bar.display)
        assert isinstance(pilot.app.screen, PickScreen)
        assert told(pilot, "#error") == ""
        assert isinstance(pilot.app.focused, Input)


# History and captures


async def test_a_history_that_cannot_be_read_is_a_message(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        monkeypatch.setattr("meminspect.capture.library.newest", raising(ZeroDivisionError("ours")))
        await pilot.press("h")
        assert "internal error while reading earlier captures" in await message(pilot)
        await on(pilot, HistoryScreen)
        await pilot.press("enter", "space", "c", "escape")  # with nothing in it
        await on(pilot, StartScreen)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such capture"),
        (b"not a capture", "not a readable capture"),
        pytest.param(b"", "not a", marks=pytest.mark.slow),
    ],
)
async def test_a_capture_that_cannot_be_read_is_told_and_escape_ends(content: bytes | None, words: str) -> None:
    path = Path("some.meminspect")
    if content is not None:
        path.write_bytes(content)
    app = MeminspectApp(captures=[path])
    async with app.run_test(size=SIZE) as pilot:
        assert words in await message(pilot)
        assert logged() == ""
        await pilot.press("escape")
        await until(pilot, lambda: app.return_value is not None)


async def test_a_damaged_capture_among_several_is_told(task: LoadTask) -> None:
    good = captures.write(Path("good.meminspect"), task, Story("naive"))
    Path("bad.meminspect").write_bytes(b"bad")
    app = MeminspectApp(captures=[good, Path("bad.meminspect")])
    async with app.run_test(size=SIZE) as pilot:
        assert "bad.meminspect is not a readable capture" in await message(pilot)
        await on(pilot, RaceScreen)


# Runs


async def test_in_a_race_the_next_begins_where_one_cannot(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(spec: Any, standby: Any = None) -> FakeSession:
        if spec.strategy == "mmap-assign":
            raise RunError("cannot start the supervisor: no [/]more", "end something")
        return FakeSession(spec, standby)

    monkeypatch.setattr("meminspect.tui.runs.Session", begin)
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("home", "space", "down", "space", "r")
        words = await message(pilot)
        assert "cannot start the supervisor: no [/]more" in words
        assert "end something" in words
        await on(pilot, RaceScreen)
        (await session(pilot)).end()
        await until(pilot, lambda: watch(pilot).views[1].ended and not watch(pilot).running)
        assert logged() == ""
        await pilot.press("escape")
        await on(pilot, StartScreen)


async def test_a_defect_in_a_run_is_logged_and_the_app_goes_on(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("enter")
        run = await session(pilot)
        run.failure = ZeroDivisionError("ours")
        run.end()
        words = await message(pilot)
        assert "internal error while running into" in words
        assert "ZeroDivisionError: ours" in words
        assert "ZeroDivisionError: ours" in logged()
        await on(pilot, RunScreen)
        await pilot.press("escape", "enter")
        (await session(pilot, 2)).end()
        await drawn(pilot)


async def test_without_a_place_for_captures_nothing_begins(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("platformdirs.user_data_path", raising(RuntimeError("no home")))
    async with at_start(folder=None).run_test(size=SIZE) as pilot:
        await planned(pilot)
        await pilot.press("enter")
        assert "there is no home folder to keep captures in" in await message(pilot)
        assert FakeSession.begun == []
        await pilot.press("h")
        assert "there is no home folder to keep captures in" in await message(pilot)


async def test_a_machine_that_cannot_keep_a_worker_waiting_still_runs(task: LoadTask) -> None:
    async with at_start().run_test(size=SIZE) as pilot:
        await planned(pilot)
        await until(pilot, lambda: FakeStandby.made)
        pilot.app.close_standby()
        await pilot.press("enter")
        assert (await session(pilot)).standby is None
        FakeSession.begun[0].end()


# Exports


@pytest.mark.parametrize("down", [0, pytest.param(2, marks=pytest.mark.slow)], ids=["json", "svg"])
async def test_an_export_into_a_folder_that_takes_nothing_is_told(
    task: LoadTask, monkeypatch: pytest.MonkeyPatch, down: int
) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("mmap-assign")).absolute()
    app = MeminspectApp(captures=[path])
    async with app.run_test(size=SIZE) as pilot:
        await drawn(pilot)
        monkeypatch.chdir("/proc")
        await pilot.press("e", *["down"] * down, "enter")

        words = await message(pilot)

        assert "run." in words
        await on(pilot, RunScreen)
    assert app.fault is None


async def test_an_export_from_a_folder_that_is_gone_is_told(task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("mmap-assign")).absolute()
    app = MeminspectApp(captures=[path])
    async with app.run_test(size=SIZE) as pilot:
        await drawn(pilot)
        Path("gone").mkdir()
        monkeypatch.chdir("gone")
        Path("../gone").rmdir()
        await pilot.press("e", "enter")

        assert await message(pilot)

        await on(pilot, RunScreen)
    monkeypatch.undo()
    assert app.fault is None


async def test_a_defect_in_a_thread_is_told_and_logged_and_the_app_goes_on(
    task: LoadTask, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("meminspect.tui.following.RunFollower.poll", breaks)
    app = MeminspectApp(captures=[path])
    async with app.run_test() as pilot:
        await on(pilot, MessageScreen)
        told = "\n".join(str(static.render()) for static in app.screen.query("Static"))
        assert "internal error while reading the capture: ZeroDivisionError: of ours" in told
        await pilot.press("enter")
        await on(pilot, RunScreen)
    (log,) = home.rglob("app.log")
    assert "Traceback" in log.read_text()


async def test_a_defect_in_drawing_ends_the_app_with_a_line_and_a_log(
    task: LoadTask, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = captures.write(Path("run.meminspect"), task, Story("naive"))
    monkeypatch.setattr("meminspect.tui.widgets.run_chart.draw", lambda *_: 1 / 0)
    app = MeminspectApp(captures=[path])

    with pytest.raises(ZeroDivisionError):  # as the test's driver of the app hands it on
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.fault is not None)

    assert app.fault is not None
    assert app.fault.message.startswith("internal error while drawing the screen: ZeroDivisionError")
    (log,) = home.rglob("app.log")
    assert "Traceback" in log.read_text()
    assert "Traceback" not in "".join(capsys.readouterr())
