"""How to load: device, dtypes, page cache, limits and the Python that loads, each checked before it is taken."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, cast

from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Input, Label, Select, Static

from meminspect.analysis.verdict import AIM_WORDS
from meminspect.devices import KINDS
from meminspect.engine.limits import parse_limit
from meminspect.errors import UsageError
from meminspect.renderables.texts import safe
from meminspect.sampling.interpreter import OURS, open_interpreter
from meminspect.staging import READ_AHEADS
from meminspect.strategies import CASTABLE, QUANTISATIONS, READ_TO, LoadOptions
from meminspect.text import shown
from meminspect.tui.choices import Cache, Choices
from meminspect.tui.screens.base import Dialog
from meminspect.units import format_bytes, parse_bytes, parse_duration, use_decimal, uses_decimal

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from meminspect.analysis.verdict import Aim
    from meminspect.sampling.interpreter import Interpreter

__all__ = ["OptionsScreen"]

Quantity = TypeVar("Quantity", int, float)

_AS_STORED: Final = "as stored"
_AS_IT_IS: Final = "as it is"
_CACHES: Final = (_AS_IT_IS, "cold", "warm")
_NOT: Final = "not at all"
_NO, _YES = "no", "yes"
_AIMS: Final[dict[str, Aim | None]] = {"what suits the device": None, **{word: aim for aim, word in AIM_WORDS.items()}}
_BINARY, _DECIMAL = "GiB (2³⁰)", "GB (10⁹)"
_DEVICES: Final = KINDS


class OptionsScreen(Dialog[Choices]):
    """Asks for options, beginning with those in force; answers with None when they are left as they are."""

    CSS_PATH = "options.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+s", "take", "take")]

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self._before = choices

    def compose(self) -> ComposeResult:
        """A line an option."""
        load, limit = self._before.load, self._before.limit_bytes
        with VerticalScroll(classes="box") as box:
            box.border_title = "Options"
            yield from _row("device", _select("device", _DEVICES, load.device))
            yield from _row("dtype of the loaded model", _select("dtype", (_AS_STORED, *CASTABLE), load.dtype))
            yield from _row("dtype that a model is built in", _select("init-dtype", CASTABLE, load.init_dtype))
            yield from _row("on a device, read state dict to", _select("read-to", READ_TO, load.read_to))
            yield from _row("linear layers are quantised to", _select("quantisation", QUANTISATIONS, load.quantisation))
            field = Input(
                _size(load.max_memory_bytes), placeholder="all, or a size like 8GiB",
                id="max-memory", compact=True,
            )  # fmt: skip
            yield from _row("of the model may stay in memory", field)
            yield from _row("mapped pages are read ahead", _select("read-ahead", (_NOT, *READ_AHEADS), load.read_ahead))
            field = Input(_size(limit), placeholder="none, or a size like 8GiB", id="limit", compact=True)
            yield from _row("memory limit of the run", field)
            yield from _row("page cache before the run", _select("cache", _CACHES, self._before.cache))
            timeout_s = self._before.timeout_s
            field = Input(
                "" if timeout_s is None else f"{timeout_s:.15g}s",
                placeholder="none, or a time like 10min", id="timeout", compact=True,
            )  # fmt: skip
            yield from _row("time limit of the run", field)
            yield from _row(
                "call the loaded model once", _select("forward", (_NO, _YES), _YES if self._before.forward else _NO)
            )
            aim = self._before.aim
            yield from _row("strategies sorted by", _select("aim", tuple(_AIMS), aim and AIM_WORDS[aim]))
            yield from _row("sizes in", _select("sizes", (_BINARY, _DECIMAL), _DECIMAL if uses_decimal() else _BINARY))
            executable = "" if load.interpreter.python is None else load.interpreter.executable
            field = Input(executable, placeholder="ours, or the path of another", id="python", compact=True)
            yield from _row("Python that loads", field)
            trusted = _YES if load.trust_pickle else _NO
            yield from _row("trust pickles to run any code", _select("trust-pickle", (_NO, _YES), trusted))
            yield Static("", id="error")
            with Horizontal(classes="buttons"):
                yield Button("take (ctrl+s)", id="take", variant="primary", compact=True)
                yield Button("leave (esc)", id="leave", compact=True)

    def on_mount(self) -> None:
        """Begin with the first field."""
        self.query_one("#device").focus()

    def on_input_changed(self) -> None:
        """Say at once what cannot be taken."""
        self._choices()

    def on_input_submitted(self) -> None:
        """Enter in a field takes them all."""
        self.action_take()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take or leave."""
        if event.button.id == "take":
            self.action_take()
        else:
            self.action_leave()

    def action_take(self) -> None:
        """Answer with what is chosen, if it makes sense; another Python is asked first what it is."""
        if self._choices() is None:
            return
        name = self._python
        if name:
            asked = shown(name, 160, keep_end=True)
            self.query_one("#error", Static).update(safe(f"asking {asked} what it is … (esc leaves)", "quiet"))
            self.run_worker(self._ask(name), exclusive=True)
        else:
            self._answer(OURS)

    @property
    def _python(self) -> str:
        return self.query_one("#python", Input).value.strip()

    async def _ask(self, name: str) -> None:
        """An interpreter may take its time; whoever names another meanwhile has not asked for this one."""
        try:
            interpreter = await asyncio.to_thread(open_interpreter, name)
        except UsageError as error:
            if name == self._python:
                self.query_one("#error", Static).update(safe(f"{error.message}: {error.hint}", "trouble"))
            return
        if name == self._python:
            self._answer(interpreter)

    def _answer(self, interpreter: Interpreter) -> None:
        choices = self._choices()
        if choices is None:
            return
        use_decimal(self._chosen("sizes") == _DECIMAL)
        load = dataclasses.replace(choices.load, interpreter=interpreter, model=self._before.load.model)
        self.dismiss(choices._replace(load=load))

    def _choices(self) -> Choices | None:
        told = self.query_one("#error", Static)
        try:
            limit = self._typed("limit", "memory limit", parse_limit)
            max_memory_bytes = self._typed("max-memory", "what may stay in memory", parse_bytes)
            timeout_s = self._typed("timeout", "time limit", parse_duration)
        except UsageError as error:
            told.update(safe(f"{error.message}: {error.hint}", "trouble"))
            return None
        told.update("")
        dtype, cache, ahead = self._chosen("dtype"), self._chosen("cache"), self._chosen("read-ahead")
        load = LoadOptions(
            self._chosen("device"),
            None if dtype == _AS_STORED else dtype,
            self._chosen("init-dtype"),
            self._chosen("read-to"),
            self._chosen("quantisation"),
            self._chosen("trust-pickle") == _YES,
            max_memory_bytes=max_memory_bytes,
            read_ahead=None if ahead == _NOT else ahead,
        )
        return Choices(
            load,
            limit,
            None if cache == _AS_IT_IS else cast("Cache", cache),
            timeout_s,
            self._chosen("forward") == _YES,
            _AIMS[self._chosen("aim")],
        )

    def _typed(self, name: str, label: str, parse: Callable[[str], Quantity]) -> Quantity | None:
        """What a field holds, if anything.

        Raises:
            UsageError: it makes no sense; the message begins with what the field is of.
        """
        text = self.query_one(f"#{name}", Input).value.strip()
        try:
            return parse(text) if text else None
        except UsageError as error:
            raise UsageError(f"{label}: {error.message}", error.hint) from error

    def _chosen(self, name: str) -> str:
        return str(self.query_one(f"#{name}", Select).value)


def _row(label: str, field: Select[str] | Input) -> ComposeResult:
    with Horizontal(classes="row"):
        yield Label(label)
        yield field


def _size(nbytes: int | None) -> str:
    """As it may be typed: short where that says the same, or opening the options would change them."""
    if nbytes is None:
        return ""
    short = format_bytes(nbytes).replace(" ", "")
    return short if parse_bytes(short) == nbytes else str(nbytes)


def _select(name: str, values: tuple[str, ...], value: str | None) -> Select[str]:
    return Select[str].from_values(values, value=value or values[0], allow_blank=False, id=name, compact=True)
