"""Choosing a checkpoint: a path with completion, those of before, and the demo."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.widgets import Footer, Input, OptionList, ProgressBar, Static
from textual.widgets.option_list import Option
from textual.worker import WorkerError, get_current_worker

from meminspect.errors import MeminspectError, SeveralCheckpointsError
from meminspect.renderables.texts import safe
from meminspect.tui.screens.base import BaseScreen

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.worker import Worker

    from meminspect.tui.completion import Candidate

__all__ = ["PickScreen"]

_DEMO: Final = "the demo"
_DEMO_NOTE: Final = "a LLaMA of random numbers, about 500 MB, written to your cache folder on first use"


class _StoppedError(Exception):
    """The demo is not wanted any more."""


class _PathInput(Input):
    """The field; what its keys do is said in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("enter", "submit", "open"),
        ("tab", "screen.complete", "complete"),
        ("down", "screen.to_list", "choose"),
    ]


class PickScreen(BaseScreen):
    """Leads to the start screen."""

    CSS_PATH = "pick.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("ctrl+r", "history", "history"),
        ("escape", "leave", "clear"),
    ]

    def __init__(self, several: SeveralCheckpointsError | None = None) -> None:
        """Ask for a path.

        Args:
            several: what a folder holds, of which one is to be chosen.
        """
        super().__init__()
        self._several = several
        self._recent: list[Candidate] = []
        self._offered: list[Candidate] = []
        self._finding: Worker[object] | None = None  # looks for what the text could become

    def compose(self) -> ComposeResult:
        """A field, and what it could be completed to."""
        yield self.too_small()
        yield Static(safe("Which checkpoint?", "answer"), id="question")
        yield _PathInput(placeholder="a folder or file: safetensors, .pth, .bin, .ckpt …", id="path")
        yield Static("", id="error")
        yield OptionList(id="candidates", compact=True)
        yield ProgressBar(id="progress", show_eta=True)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Look for checkpoints of before, while the user may type already."""
        self.query_one("#progress").add_class("-absent")
        self.query_one("#path").focus()
        self._offer([])
        if self._several is None:
            self.in_background(self._find_recent, "looking for earlier captures")
        else:
            self._ask_for_one(self._several)

    def _find_recent(self) -> None:
        from meminspect.tui.completion import recent_checkpoints

        recent = recent_checkpoints(self.owner.folder)
        self.app.call_from_thread(self._found_recent, recent)

    def _found_recent(self, recent: list[Candidate]) -> None:
        self._recent = recent
        if not self._typed:
            self._offer(recent)

    @property
    def _typed(self) -> str:
        return self.query_one("#path", Input).value

    def on_input_changed(self) -> None:
        """Offer what begins like that, once the file system has told."""
        self.query_one("#error", Static).update("")
        typed = self._typed
        if typed:
            self._finding = self.in_background(lambda: self._find(typed), "completing the path")
        else:
            self._offer(self._recent)

    def _find(self, typed: str) -> None:
        from meminspect.tui.completion import complete

        self.app.call_from_thread(self._found, typed, complete(typed))

    def _found(self, typed: str, candidates: list[Candidate]) -> None:
        if typed == self._typed:  # else those of what is typed now are on their way
            self._offer(candidates)

    def _offer(self, candidates: list[Candidate]) -> None:
        self._offered = candidates
        options = [
            Option(Text.assemble(safe(candidate.path), "  ", safe(candidate.note, "quiet"))) for candidate in candidates
        ]
        if not self._typed:
            options.append(Option(Text.assemble((_DEMO, "answer"), "  ", (_DEMO_NOTE, "quiet")), id="demo"))
        self.query_one("#candidates", OptionList).set_options(options)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Open what is chosen from the list; a folder without a checkpoint is gone into."""
        if event.option_id == "demo":
            self.in_background(self._write_demo, "writing the demo checkpoint")
            return
        candidate = self._offered[event.option_index]
        if candidate.note:
            self._open(candidate.path)
        else:
            self._type(candidate.path)

    def on_input_submitted(self) -> None:
        """Open what is typed."""
        self.action_open()

    def action_open(self) -> None:
        """Open what is typed."""
        if self._typed.strip():
            self._open(self._typed.strip())
        else:
            self.action_to_list()

    def action_to_list(self) -> None:
        """Go to the list."""
        candidates = self.query_one("#candidates", OptionList)
        candidates.focus()
        if candidates.highlighted is None and candidates.option_count:
            candidates.highlighted = 0

    async def action_complete(self) -> None:
        """Type what all candidates have in common; where that is typed already, go to them, if there are any."""
        with contextlib.suppress(WorkerError):
            if self._finding is not None:
                await self._finding.wait()
        if not self._typed:
            self.action_to_list()
            return
        common = os.path.commonprefix([candidate.path for candidate in self._offered])  # noqa: RUF071 - letters
        if len(common) > len(self._typed):
            self._type(common)
        elif self._offered:
            self.action_to_list()

    def _type(self, text: str) -> None:
        # The field would hand control characters to the terminal as they are.
        if any(unicodedata.category(letter) in ("Cc", "Cf") for letter in text):
            self.notify("a name with control characters cannot be typed: name it with --ckpt", severity="warning")
            return
        path = self.query_one("#path", Input)
        path.value = text
        path.cursor_position = len(text)
        path.focus()

    def action_leave(self) -> None:
        """Begin again; while the demo is being written, stop that."""
        self.workers.cancel_node(self)
        self.query_one("#progress").add_class("-absent")
        self._type("")

    def _open(self, text: str) -> None:
        """Read the headers first, so that what cannot be opened is said here."""
        path = Path(os.path.expanduser(text))  # noqa: PTH111 - which leaves the unknown user's ~ as it is
        self.in_background(lambda: self._try(path), "opening the checkpoint")

    def _try(self, path: Path) -> None:
        from meminspect.checkpoint import read_checkpoint

        worker = get_current_worker()
        read_checkpoint(path)
        self.app.call_from_thread(self._start, path, worker)

    def _start(self, path: Path, worker: Worker[object]) -> None:
        if self.is_current and not worker.is_cancelled:
            self.owner.open_checkpoint(path)

    def failed(self, error: BaseException, doing: str) -> None:
        """Errors of the path stand under it."""
        self.query_one("#progress").add_class("-absent")
        if isinstance(error, _StoppedError):
            return
        if isinstance(error, SeveralCheckpointsError):
            self._ask_for_one(error)
            return
        if isinstance(error, MeminspectError):
            words = f"{error.message}: {error.hint}" if error.hint else error.message
            self.query_one("#error", Static).update(safe(words, "trouble"))
        else:
            super().failed(error, doing)

    def _ask_for_one(self, several: SeveralCheckpointsError) -> None:
        """Offer what a folder holds."""
        from meminspect.tui.completion import Candidate

        words = f"this folder holds {len(several.choices):,} checkpoints: which one?"
        self.query_one("#error", Static).update(safe(words, "tight"))
        self._offer([Candidate(str(path), what) for path, what in several.choices.items()])
        self.action_to_list()

    def _write_demo(self) -> None:
        from meminspect.synthesis import demo_checkpoint

        worker = get_current_worker()

        def progress(done: int, total: int) -> None:
            if worker.is_cancelled:
                raise _StoppedError
            self.app.call_from_thread(self._show_progress, done, total, worker)

        path = demo_checkpoint(progress)
        self.app.call_from_thread(self._start, path, worker)

    def _show_progress(self, done: int, total: int, worker: Worker[object]) -> None:
        if worker.is_cancelled:  # between asking and telling
            return
        bar = self.query_one("#progress", ProgressBar)
        bar.remove_class("-absent")
        bar.update(total=total, progress=done)

    def action_history(self) -> None:
        """Show earlier captures."""
        self.owner.open_history()
