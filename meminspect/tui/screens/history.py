"""Earlier captures: opened, or two to four of them compared."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from meminspect.renderables.texts import safe
from meminspect.text import shown
from meminspect.tui.screens.base import BaseScreen
from meminspect.tui.sizes import MOST_PANELS

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["HistoryScreen"]

_MOST: Final = 200
_COLUMNS: Final = ("", "when", "checkpoint", "strategy", "peak", "outcome", "theory", "resident")
_NAME_WIDTH: Final = 18  # so that the peak is seen in 80 columns


class _Captures(DataTable[Text]):
    """The table; what enter does is said in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [("enter", "select_cursor", "open")]


class HistoryScreen(BaseScreen):
    """The newest captures of the user's folder, read in a thread, line by line."""

    CSS_PATH = "history.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("space", "mark", "mark"),
        ("c", "compare", "compare"),
        ("escape", "leave", "back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._marked: list[Path] = []
        self._captures: list[Path] = []

    def compose(self) -> ComposeResult:
        """A table, or why it is empty."""
        yield self.too_small()
        yield Static(safe("Earlier captures", "answer"), id="title")
        yield _Captures(id="captures", cursor_type="row")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read."""
        table = self.query_one(DataTable)
        for column in _COLUMNS:
            table.add_column(column, key=column)
        table.focus()
        self.in_background(self._read, "reading earlier captures")

    def _read(self) -> None:
        from meminspect.capture.library import default_folder, newest

        folder = self.owner.folder or default_folder()
        captures = newest(folder, _MOST)
        self.app.call_from_thread(self._found, captures, folder)
        worker = get_current_worker()
        for capture in captures:
            if worker.is_cancelled:
                return
            try:
                cells = _cells(capture)
            except Exception:  # noqa: BLE001 - whatever a file may hold, the others are shown
                cells = _damaged(capture)
            self.app.call_from_thread(self._fill, capture, cells)

    def _found(self, captures: list[Path], folder: Path) -> None:
        self._captures = captures
        title = f"Earlier captures in {folder}" if captures else f"No captures yet in {folder}: a run leaves one there"
        self.query_one("#title", Static).update(safe(title, "answer"))
        table = self.query_one(DataTable)
        for capture in captures:
            table.add_row(*("…" if column else " " for column in _COLUMNS), key=str(capture))

    def _fill(self, capture: Path, cells: list[Text]) -> None:
        table = self.query_one(DataTable)
        for column, cell in zip(_COLUMNS[1:], cells, strict=True):
            table.update_cell(str(capture), column, cell, update_width=True)

    @property
    def _under_cursor(self) -> Path | None:
        row = self.query_one(DataTable).cursor_row
        return self._captures[row] if 0 <= row < len(self._captures) else None

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click on the line under the cursor."""
        self.action_open()

    def action_open(self) -> None:
        """Show the capture under the cursor."""
        if self._under_cursor is not None:
            self.owner.open_captures([self._under_cursor])

    def action_mark(self) -> None:
        """Take the capture under the cursor into the comparison, or out of it."""
        capture = self._under_cursor
        if capture is None:
            return
        if capture in self._marked:
            self._marked.remove(capture)
        elif len(self._marked) == MOST_PANELS:
            self.notify(f"at most {MOST_PANELS} can be compared", severity="warning")
        else:
            self._marked.append(capture)
        self.query_one(DataTable).update_cell(str(capture), "", "◉" if capture in self._marked else " ")

    def action_compare(self) -> None:
        """Show the marked captures beside each other."""
        if len(self._marked) < 2:
            self.notify(f"mark two to {MOST_PANELS} captures with space first", severity="warning")
        else:
            self.owner.open_captures(self._marked)

    def action_leave(self) -> None:
        """Back to where we came from."""
        self.dismiss()


def _cells(capture: Path) -> list[Text]:
    """What the table says of a capture."""
    from meminspect.analysis.run import run_document
    from meminspect.analysis.words import OUTCOME_WORDS
    from meminspect.capture.store import CaptureReader
    from meminspect.units import format_bytes, format_duration

    with CaptureReader(capture) as reader:
        run = run_document(reader)
        started, checkpoint = reader.fact("started"), reader.fact("checkpoint")
    outcome = run["outcome"] or "under way"
    theory = run["theory"] or {}
    return [
        safe(_when(started)),
        safe(shown(((checkpoint or {}).get("path") or "–").rstrip("/").rpartition("/")[2], _NAME_WIDTH)),
        safe(run["strategy"] or "–"),
        Text(format_bytes(run["peak"]["rss_bytes"]), justify="right"),
        safe(OUTCOME_WORDS.get(outcome, outcome), "" if outcome in ("completed", "under way") else "trouble"),
        Text(format_bytes(theory.get("peak_rss_bytes")), justify="right"),
        Text(format_duration(run["resident_s"]), justify="right"),
    ]


def _damaged(capture: Path) -> list[Text]:
    nothing = Text("–")
    name = safe(shown(capture.name, _NAME_WIDTH), "quiet")
    return [nothing, name, nothing, nothing, safe("damaged", "trouble"), nothing, nothing]


def _when(started: dict[str, str] | None) -> str:
    if started is None:
        return "–"
    moment = datetime.datetime.fromisoformat(started["wall"]).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")
