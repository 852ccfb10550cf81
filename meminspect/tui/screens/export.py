"""Writing a run, or the screen, into a file of the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from meminspect.errors import CaptureError
from meminspect.exporters import EXPORTERS
from meminspect.text import TEXT_LIMIT, shown
from meminspect.tui.screens.base import Dialog

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from meminspect.analysis.follow import RunView
    from meminspect.tui.screens.base import BaseScreen

__all__ = ["ExportScreen"]

_SCREENSHOT: Final = "svg"


class ExportScreen(Dialog[None]):
    """Asks for a format.

    Args:
        view: the run.
        screen: what a screenshot shows, and who reports when writing fails.
    """

    def __init__(self, view: RunView, screen: BaseScreen) -> None:
        super().__init__()
        self._view = view
        self._below = screen

    def compose(self) -> ComposeResult:
        """A line a format."""
        able = (one for one in EXPORTERS.values() if not one.needs or self._view.spec.get(one.needs))
        formats = {exporter.id: exporter.summary for exporter in able}
        formats[_SCREENSHOT] = "a picture of this screen"
        width = max(map(len, formats)) + 2
        with VerticalScroll(classes="box") as box:
            box.border_title = "Export into the current folder"
            yield OptionList(
                *(Option(Text.assemble((id_.ljust(width), "answer"), words), id=id_) for id_, words in formats.items()),
                compact=True,
            )
            yield Static("enter to write · escape to close", classes="keys")

    def on_mount(self) -> None:
        """Begin with the first format."""
        formats = self.query_one(OptionList)
        formats.highlighted = 0
        formats.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Write it."""
        below, capture, id_ = self._below, self._view.capture, str(event.option_id)
        self.dismiss()

        def begin() -> None:
            write = _screenshot(below) if id_ == _SCREENSHOT else _export(capture, id_)
            below.in_background(lambda: _keep(below, capture.name, id_, write), f"exporting as {id_}")

        below.call_after_refresh(begin)  # when this box is gone


def _free(path: Path, suffix: str) -> Path:
    """A path that nothing is at yet."""
    candidates = (path.with_name(f"{path.stem}{number}{suffix}") for number in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(candidate for candidate in candidates if not candidate.exists())


def _screenshot(screen: BaseScreen) -> Callable[[Path], object]:
    picture = screen.app.export_screenshot(title="meminspect")
    return lambda path: path.write_text(picture, encoding="utf-8")


def _export(capture: Path, exporter_id: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        from meminspect.capture.store import CaptureReader
        from meminspect.engine.session import conclude
        from meminspect.exporters.files import write_file

        with CaptureReader(capture) as reader:
            conclude(reader)  # for itself, where the file is not ours to finish
            write_file(EXPORTERS[exporter_id], reader, path)

    return write


def _keep(screen: BaseScreen, name: str, format_id: str, write: Callable[[Path], object]) -> None:
    try:
        path = _free(Path.cwd() / name, f".{format_id}")
        write(path)
    except OSError as error:  # the folder may be gone, or take no files
        message = f"cannot write {Path(name).stem}.{format_id} into the current folder: {error.strerror}"
        raise CaptureError(message, "begin meminspect in another folder") from error
    screen.app.call_from_thread(_announce, screen, path)


def _announce(screen: BaseScreen, path: Path) -> None:
    screen.notify(f"written: {shown(str(path), TEXT_LIMIT)}", markup=False)
