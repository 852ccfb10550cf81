"""Every screen and state at three sizes, as pictures.

After a change that is meant, look at the report, and then `python -m pytest tests/tui --snapshot-update`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import captures
import pytest
from captures import Story
from screens import CHECKPOINT, TO_LIMIT, Writing, drawn, planned, settled, until
from textual.widgets import Input, TabbedContent

from meminspect.tui.app import MeminspectApp
from meminspect.tui.faults import Fault
from meminspect.tui.screens.history import HistoryScreen
from meminspect.tui.screens.message import MessageScreen
from meminspect.tui.screens.pick import PickScreen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.pilot import Pilot

    from meminspect.strategies import LoadTask

    Compare = Callable[..., bool]
    Drive = Callable[[Pilot[Any]], Awaitable[None]]

SIZES = {"80": (80, 24), "120": (120, 40), "200": (200, 60)}
SMALL, MEDIUM = SIZES["80"], SIZES["120"]
# The larger ones are slow: they repeat the smallest, where room is short, with more of it.
every_size = pytest.mark.parametrize(
    "size", [pytest.param(size, id=id_, marks=() if id_ == "80" else pytest.mark.slow) for id_, size in SIZES.items()]
)

KILLED = "killed by the kernel's OOM killer at its limit of 4.00 GiB"
STORIES = {
    "completed": Story("naive"),
    "mapped": Story("mmap-assign"),
    "killed": Story("naive", 0.33, "oom_killed", KILLED, limit_bytes=4 << 30),
    "failed": Story(
        "sharded", 0, "failed", "RuntimeError: Error(s) in loading state_dict for Llama: size mismatch for norm.weight",
        log=("Traceback (most recent call last):", "RuntimeError: size mismatch for norm.weight"),
    ),
    "refused": Story("naive", 0, "refused", "predicted to need 25.10 GiB of heap, where 14.00 GiB can be had"),
    "cancelled": Story("meta-assign", 0.4, "cancelled", "cancelled"),
    "gpu": Story("sharded", gpu=True),
    "hostile": Story("meta-assign", rename="\x1b[31m[bold]\u202e{}"),
}  # fmt: skip


@pytest.fixture
def compare(snap_compare: Compare) -> Callable[[MeminspectApp, tuple[int, int], Drive], bool]:
    """Whether the app looks as it did, once it has been driven somewhere."""

    def looks_the_same(app: MeminspectApp, size: tuple[int, int], drive: Drive) -> bool:
        app.animation_level = "none"

        async def run_before(pilot: Pilot[Any]) -> None:
            await drive(pilot)
            for field in app.screen.query(Input):
                field.cursor_blink = False
            await settled(pilot)

        return snap_compare(app, terminal_size=size, run_before=run_before)

    return looks_the_same


@every_size
def test_start(compare: Compare, task: LoadTask, size: tuple[int, int]) -> None:
    assert compare(MeminspectApp(CHECKPOINT), size, planned)


@pytest.mark.slow
def test_start_in_light(compare: Compare, task: LoadTask) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        await pilot.press("d", "space")

    assert compare(MeminspectApp(CHECKPOINT), MEDIUM, drive)


@pytest.mark.slow
def test_start_without_colours(compare: Compare, task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    assert compare(MeminspectApp(CHECKPOINT), MEDIUM, planned)


def test_start_with_a_checkpoint_that_cannot_be_read(compare: Compare) -> None:
    Path("broken.safetensors").write_bytes(b"\xff" * 100)

    async def drive(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: "p picks another" in str(pilot.app.screen.query_one("#subject").render()))

    assert compare(MeminspectApp(Path("broken.safetensors")), SMALL, drive)


@every_size
def test_pick(compare: Compare, task: LoadTask, size: tuple[int, int]) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, PickScreen))

    assert compare(MeminspectApp(), size, drive)


def test_pick_with_what_a_path_can_become(compare: Compare, task: LoadTask) -> None:
    for name in ("llama-old", "llama-new", "lamp.safetensors", "lamp.txt"):
        Path(name).mkdir()

    async def drive(pilot: Pilot[Any]) -> None:
        await pilot.press("l", "l")
        await pilot.press("enter")
        await until(pilot, lambda: "no such file" in str(pilot.app.screen.query_one("#error").render()))

    assert compare(MeminspectApp(), SMALL, drive)


# The ends that are told in a line or two look alike from 120 columns on.
SOON = [("completed", "80"), ("completed", "120"), ("killed", "80"), ("gpu", "80"), ("hostile", "80")]
RUNS = [
    pytest.param(name, SIZES[size], id=f"{name}-{size}", marks=() if (name, size) in SOON else pytest.mark.slow)
    for name in STORIES
    for size in SIZES
    if size != "200" or name not in ("failed", "refused", "cancelled", "hostile")
]


@pytest.mark.parametrize(("name", "size"), RUNS)
def test_run(compare: Compare, task: LoadTask, name: str, size: tuple[int, int]) -> None:
    capture = captures.write(Path(f"{name}.meminspect"), task, STORIES[name])

    async def drive(pilot: Pilot[Any]) -> None:
        await drawn(pilot)
        if name == "hostile":
            await pilot.press("1")

    assert compare(MeminspectApp(captures=[capture]), size, drive)


@every_size
@pytest.mark.parametrize("share", [pytest.param(0, marks=pytest.mark.slow), 0.6], ids=["starting", "loading"])
def test_run_under_way(compare: Compare, task: LoadTask, share: float, size: tuple[int, int]) -> None:
    capture = captures.write(Path("live.meminspect"), task, Story("naive", share, None))

    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        app = pilot.app
        assert isinstance(app, MeminspectApp)
        app.open_captures([capture], Writing("naive"))
        await until(pilot, lambda: app.screen.views[0].steps and app.screen._drawn is app.screen.views)

    assert compare(MeminspectApp(CHECKPOINT), size, drive)


@pytest.mark.slow
def test_run_in_light(compare: Compare, task: LoadTask) -> None:
    capture = captures.write(Path("light.meminspect"), task, Story("sharded"))

    async def drive(pilot: Pilot[Any]) -> None:
        await drawn(pilot)
        await pilot.press("d")

    assert compare(MeminspectApp(captures=[capture]), MEDIUM, drive)


def test_run_without_colours(compare: Compare, task: LoadTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    capture = captures.write(Path("grey.meminspect"), task, Story("sharded"))

    assert compare(MeminspectApp(captures=[capture]), MEDIUM, drawn)


@pytest.mark.parametrize("tab", ["tensors", "recipe", "log"])
def test_run_s_details(compare: Compare, task: LoadTask, tab: str) -> None:
    capture = captures.write(Path("details.meminspect"), task, Story("naive", log=("half way", "done")))

    async def drive(pilot: Pilot[Any]) -> None:
        await drawn(pilot)
        pilot.app.screen.query_one(TabbedContent).active = tab

    assert compare(MeminspectApp(captures=[capture]), SMALL, drive)


@every_size
def test_race(compare: Compare, task: LoadTask, size: tuple[int, int]) -> None:
    names = ("mmap-assign", "meta-assign", "sharded", "naive")
    saved = [captures.write(Path(f"{name}.meminspect"), task, Story(name)) for name in names[:-1]]
    saved.append(captures.write(Path("naive.meminspect"), task, STORIES["killed"]))

    assert compare(MeminspectApp(captures=saved), size, drawn)


@every_size
def test_race_under_way(compare: Compare, task: LoadTask, size: tuple[int, int]) -> None:
    names = ("meta-assign", "sharded", "naive")
    stories = (Story("meta-assign"), Story("sharded", 0.5, None))
    paths = [captures.write(Path(f"{story.strategy}.meminspect"), task, story) for story in stories]

    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        app = pilot.app
        assert isinstance(app, MeminspectApp)
        app.open_captures([*paths, Path("naive.meminspect")], Writing(*names))
        await until(pilot, lambda: app.screen.views[1].load_ns and app.screen._drawn is app.screen.views)

    assert compare(MeminspectApp(CHECKPOINT), size, drive)


@every_size
def test_history(compare: Compare, task: LoadTask, size: tuple[int, int]) -> None:
    folder = Path("captures")
    for number, name in enumerate(("completed", "killed", "mapped")):
        captures.write(folder / f"2026112{number}-120000-{name}.meminspect", task, STORIES[name])
    (folder / "20261120-000000-damaged.meminspect").write_text("not a capture")

    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        await pilot.press("h")
        await until(pilot, lambda: isinstance(pilot.app.screen, HistoryScreen))
        await until(pilot, lambda: all(worker.is_finished for worker in pilot.app.screen.workers))
        await pilot.press("space")

    assert compare(MeminspectApp(CHECKPOINT, folder=folder), size, drive)


def test_history_of_nothing(compare: Compare, task: LoadTask) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        await pilot.press("h")
        await until(pilot, lambda: "No captures" in str(pilot.app.screen.query_one("#title").render()))

    assert compare(MeminspectApp(CHECKPOINT, folder=Path("none")), SMALL, drive)


KEYS = {
    "options": ("o", *TO_LIMIT, "6", "x"),
    "recipe": ("i",),
    "help": ("question_mark",),
    "confirm": ("o", *TO_LIMIT, "4", "G", "ctrl+s"),
}


@pytest.mark.parametrize("dialog", KEYS)
def test_dialogs_of_start(compare: Compare, task: LoadTask, dialog: str) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        await pilot.press(*KEYS[dialog])
        if dialog == "confirm":
            await until(pilot, lambda: "limit 4.00" in str(pilot.app.screen.query_one("#details").render()))
            await pilot.press("end", "up", "enter")

    assert compare(MeminspectApp(CHECKPOINT), SMALL, drive)


@pytest.mark.parametrize("key", ["e", "question_mark"], ids=["export", "help"])
def test_dialogs_of_run(compare: Compare, task: LoadTask, key: str) -> None:
    capture = captures.write(Path("run.meminspect"), task, Story("naive"))

    async def drive(pilot: Pilot[Any]) -> None:
        await drawn(pilot)
        await pilot.press(key)

    assert compare(MeminspectApp(captures=[capture]), MEDIUM, drive)


def test_message(compare: Compare, task: LoadTask) -> None:
    async def drive(pilot: Pilot[Any]) -> None:
        await planned(pilot)
        await pilot.app.push_screen(MessageScreen(Fault("the disk is full", "name another folder with --out")))

    assert compare(MeminspectApp(CHECKPOINT), SMALL, drive)


def test_a_terminal_that_is_too_small(compare: Compare, task: LoadTask) -> None:
    assert compare(MeminspectApp(CHECKPOINT), (40, 10), planned)
