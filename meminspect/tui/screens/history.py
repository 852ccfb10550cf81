"""Earlier captures: opened, or two to four of them compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from meminspect.renderables.texts import safe
from meminspect.tui.screens.base import BaseScreen
from meminspect.tui.sizes import MOST_PANELS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["HistoryScreen"]

_MOST: Final = 200
_COLUMNS: Final = ("", "when", "checkpoint", "strategy", "peak", "outcome", "resident", "theory")
_NARROW: Final = 100  # columns of a terminal below which names are short, the year is known, and theory is left out
_NAME_WIDTHS: Final = (11, 18)
_YEAR: Final = len("2026-")


class _Row(NamedTuple):
    """What the table says of a capture."""

    started: str  # in UTC, to sort by; empty where nobody knows
    cells: dict[str, Text]  # by column


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
        self._rows: dict[Path, _Row] = {}

    def compose(self) -> ComposeResult:
        """A table, or why it is empty."""
        yield self.too_small()
        yield Static(safe("Earlier captures", "answer"), id="title")
        yield _Captures(id="captures", cursor_type="row")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one(DataTable).focus()
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
                row = _row(capture)
            except Exception:  # noqa: BLE001 - whatever a file may hold, the others are shown
                row = _damaged(capture)
            self.app.call_from_thread(self._fill, capture, row)
        self.app.call_from_thread(self._sort)

    def _found(self, captures: list[Path], folder: Path) -> None:
        self._captures = captures
        title = f"Earlier captures in {folder}" if captures else f"No captures yet in {folder}: a run leaves one there"
        self.query_one("#title", Static).update(safe(title, "answer"))
        self._draw()

    def _fill(self, capture: Path, row: _Row) -> None:
        self._rows[capture] = row
        table = self.query_one(DataTable)
        # A new size may not have drawn its own columns yet.
        shown = {str(key.value): column for key, column in table.columns.items()}
        if any(self._cell(capture, name).cell_len > column.width for name, column in shown.items()):
            self._draw()
            return
        for name in shown:
            table.update_cell(str(capture), name, self._cell(capture, name))

    def _sort(self) -> None:
        """By the time that they began: of those that were planned together, as a race's, names do not tell."""
        self._captures = sorted(self._captures, key=lambda capture: self._rows[capture].started, reverse=True)
        self._draw()

    def on_resize(self) -> None:
        """More columns find room, or fewer."""
        super().on_resize()
        if [str(column.value) for column in self.query_one(DataTable).columns] != list(self._columns):
            self._draw()

    @property
    def _columns(self) -> tuple[str, ...]:
        return _COLUMNS[:-1] if self.app.size.width < _NARROW else _COLUMNS

    def _cell(self, capture: Path, column: str) -> Text:
        if not column:
            return Text("◉" if capture in self._marked else " ")
        if capture not in self._rows:
            return Text("…")
        cell, narrow = self._rows[capture].cells[column].copy(), self.app.size.width < _NARROW
        if column == "checkpoint":
            cell.truncate(_NAME_WIDTHS[not narrow], overflow="ellipsis")
        return cell[_YEAR:] if column == "when" and narrow and len(cell) > _YEAR else cell

    def _draw(self) -> None:
        """Fill the table anew; the cursor stays on its capture."""
        table, chosen = self.query_one(DataTable), self._under_cursor
        table.clear(columns=True)
        for column in self._columns:
            # Measured here: the table measures when it is idle, and keeps lines that it has painted narrower before.
            cells = [self._cell(capture, column).cell_len for capture in self._captures]
            table.add_column(column, key=column, width=max(cell_len(column), 1, *cells))
        for capture in self._captures:
            table.add_row(*(self._cell(capture, column) for column in self._columns), key=str(capture))
        if chosen in self._captures:
            table.move_cursor(row=self._captures.index(chosen))

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
        self.query_one(DataTable).update_cell(str(capture), "", self._cell(capture, ""))

    def action_compare(self) -> None:
        """Show the marked captures beside each other."""
        if len(self._marked) < 2:
            self.notify(f"mark two to {MOST_PANELS} captures with space first", severity="warning")
        else:
            self.owner.open_captures(self._marked)

    def action_leave(self) -> None:
        """Back to where we came from."""
        self.dismiss()


def _row(capture: Path) -> _Row:
    from meminspect.analysis.run import run_document
    from meminspect.analysis.words import OUTCOME_WORDS
    from meminspect.capture.store import CaptureReader
    from meminspect.units import format_bytes, format_duration, format_moment

    with CaptureReader(capture) as reader:
        run = run_document(reader)
        started, checkpoint = (reader.fact("started") or {}).get("wall"), reader.fact("checkpoint") or {}
    outcome = run["outcome"] or "under way"
    theory = run["theory"] or {}
    return _Row(
        str(started or ""),
        {
            "when": safe(format_moment(started)),
            "checkpoint": safe((checkpoint.get("path") or _script(run) or "–").rstrip("/").rpartition("/")[2]),
            "strategy": safe(run["strategy"] or "–"),
            "peak": Text(format_bytes(run["peak"]["rss_bytes"]), justify="right"),
            "outcome": safe(
                OUTCOME_WORDS.get(outcome, outcome), "" if outcome in ("completed", "under way") else "trouble"
            ),
            "resident": Text(format_duration(run["resident_s"]), justify="right"),
            "theory": Text(format_bytes(theory.get("peak_rss_bytes")), justify="right"),
        },
    )


def _script(run: Mapping[str, Any]) -> str:
    """What was run where no checkpoint is named; empty for a strategy."""
    script = run["script"]
    return str(script["command"][0]) if script else ""


def _damaged(capture: Path) -> _Row:
    cells = dict.fromkeys(_COLUMNS[1:], Text("–"))
    return _Row("", {**cells, "checkpoint": safe(capture.name, "quiet"), "outcome": safe("damaged", "trouble")})
