"""Progress of a run under way, read from its growing capture: a bar on a terminal, a line a phase elsewhere."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from meminspect.analysis.progress import RunProgress
from meminspect.capture.store import CaptureReader
from meminspect.cli import output
from meminspect.errors import CaptureError
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meminspect.engine.session import Session

    Show = Callable[[RunProgress, int, str], None]

__all__ = ["follow"]

_INTERVAL_S: Final = 0.1
_OTHERS_WIDTH: Final = 56  # of 80 columns: strategy, phase, a bar worth the name, per cent, rate and time
_STARTING: Final = "starting"


def follow(session: Session, label: str = "") -> None:
    """Show progress on stderr until the run ends, under the strategy's name unless another is given."""
    progress, seq, total = RunProgress(), 0, 0
    if not label:
        label = session.spec.strategy
        if session.spec.repeat_of > 1:
            label += f" {session.spec.repeat_index}/{session.spec.repeat_of}"
    with _shown(label) as show, contextlib.ExitStack() as stack:
        capture: CaptureReader | None = None
        while session.running:
            time.sleep(_INTERVAL_S)
            if capture is None:
                with contextlib.suppress(CaptureError):  # it is being created
                    capture = stack.enter_context(CaptureReader(session.spec.capture))
                continue
            total = total or (capture.fact("plan") or {}).get("work_bytes", 0)
            events = capture.events(seq)
            if events:
                seq = events[-1][0]
                progress.update(event for _, event in events)
            show(progress, total, progress.phase or capture.fact("preparing") or "")


@contextlib.contextmanager
def _shown(label: str) -> Iterator[Show]:
    console = output.stderr()
    if not console.is_terminal:
        yield _lines(label)
        return
    from rich import progress as bars
    from rich.table import Column

    from meminspect.cli.progress_columns import RateColumn

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.TaskProgressColumn(),
        RateColumn(table_column=Column(no_wrap=True)),
        bars.TimeRemainingColumn(compact=True),
    )
    with bars.Progress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task(f"{label} · {_STARTING}", total=None)
        moving = False

        def show(progress: RunProgress, total: int, stage: str) -> None:
            nonlocal moving
            if progress.done_bytes and not moving:
                moving = True
                bar.reset(task, total=total)  # the rate is the load's, without import and warm-up
            room = console.width - _OTHERS_WIDTH
            tensor = shown(progress.tensor, room, keep_end=True) if room > 0 else ""
            words = f"{label} · {stage or _STARTING}" + (f" · {tensor}" if tensor else "")
            bar.update(task, completed=progress.done_bytes, description=words)

        yield show


def _lines(label: str) -> Show:
    last = ""

    def show(progress: RunProgress, total: int, stage: str) -> None:
        nonlocal last
        if stage and stage != last:
            last = stage
            done = f", {min(100, 100 * progress.done_bytes // total)} % done" if total and progress.done_bytes else ""
            output.status(f"{label}: {stage}{done}")

    return show
