"""The log of what was done to which tensor: a table of any length, of which only what is on the screen is drawn."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, ClassVar, Final

from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from meminspect.renderables.tensor_rows import header_line, tensor_line
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events
    from textual.geometry import Region
    from textual.scrollbar import ScrollTo, ScrollUp

    from meminspect.analysis.operations import TensorOperation

__all__ = ["TensorLog"]

_HEADER_ROWS: Final = 1
_DRAWN_ROWS: Final = 512  # some screenfuls


class TensorLog(ScrollView, can_focus=True):
    """Shows operations under a fixed header, follows their tail, and lets the user walk through them.

    It follows until the user scrolls up or moves the cursor. Without a cursor of the user's the last row is the
    highlighted one. Reaching the bottom again by scrolling resumes; once there is a cursor, only End or G does.
    """

    DEFAULT_CSS = """
    TensorLog {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-size-vertical: 1;
        background: transparent;
        color: $foreground;
        & > .tensor-log--header { background: $panel; color: $foreground; }
        & > .tensor-log--cursor { background: $foreground 8%; color: $foreground; }
        &:focus > .tensor-log--cursor { background: $foreground 14%; text-style: bold; }
    }
    """
    ALLOW_SELECT = False  # what is drawn line by line cannot be selected across lines
    COMPONENT_CLASSES: ClassVar[set[str]] = {"tensor-log--header", "tensor-log--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move_page(-1)", "Page up", show=False),
        Binding("pagedown", "move_page(1)", "Page down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "follow", "latest", show=False),
    ]

    placeholder = reactive("no tensor has been touched yet")
    """What stands in the middle while there are no rows."""

    class Highlighted(Message):
        """The user moved the cursor to an operation."""

        def __init__(self, tensor_log: TensorLog, operation: TensorOperation) -> None:
            super().__init__()
            self.tensor_log = tensor_log
            self.operation = operation

        @property
        def control(self) -> TensorLog:
            """The log that it happened in."""
            return self.tensor_log

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self._rows: Sequence[TensorOperation] = ()
        self._count = 0  # of the rows that may be longer by now
        self._start_ns = 0
        self._filter = ""
        self._matches: list[int] = []  # with a filter: the indices of the rows that match
        self._cursor: int | None = None  # index of a row; None until the user places it
        self._following = True
        self._drew_in_flight = False
        self._ground = Style.null()
        self._drawn: LRUCache[tuple[object, ...], Strip] = LRUCache(_DRAWN_ROWS)  # a row is drawn in many frames

    @property
    def matching(self) -> int:
        """How many rows there are to be seen: all of them without a filter."""
        return len(self._matches) if self._filter else self._count

    @property
    def following(self) -> bool:
        """Whether the view stays with the newest row."""
        return self._following

    @property
    def highlighted(self) -> TensorOperation | None:
        """The operation under the cursor; None without rows."""
        return self._operation_at(self._cursor_position) if self.matching else None

    def show(self, rows: Sequence[TensorOperation], start_ns: int) -> None:
        """Show the rows as they are now. Cheap enough for every frame: what has been seen is not looked at again.

        Args:
            rows: the same list each time, longer or not; another or a shorter one starts over.
            start_ns: the moment from which times count.
        """
        is_new = rows is not self._rows or len(rows) < self._count
        if is_new:
            self._start_over(rows)
        known, matched, self._count = self._count, self.matching, len(rows)
        self._match(known)
        if is_new or self.matching != matched or start_ns != self._start_ns or self._drew_in_flight:
            self._start_ns = start_ns
            self._update()

    def set_filter(self, text: str) -> None:
        """Show only rows whose tensor, types or word contain a text, whatever its case; all rows for an empty one."""
        text = text.strip().casefold()
        if text == self._filter:
            return
        self._filter, self._matches = text, []
        self._match(0)
        self._update()
        if not self._following:
            self._scroll_to_cursor()

    def _start_over(self, rows: Sequence[TensorOperation]) -> None:
        self._rows, self._count, self._matches = rows, 0, []
        self._cursor, self._following = None, True

    def _match(self, first: int) -> None:
        """Look for the filter's text in the rows from a first one on."""
        if self._filter:
            self._matches += [
                index for index in range(first, self._count) if _contains(self._rows[index], self._filter)
            ]

    def _update(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, self.matching + _HEADER_ROWS)
        if self._following:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        self.refresh()

    # Where things are

    @property
    def _page_rows(self) -> int:
        return max(self.size.height - _HEADER_ROWS, 1)

    @property
    def _cursor_position(self) -> int:
        """Where the highlighted row is among those to be seen: the cursor's or, if that is filtered out, the next."""
        if self._cursor is None:
            return self.matching - 1
        position = bisect.bisect_left(self._matches, self._cursor) if self._filter else self._cursor
        return min(position, self.matching - 1)

    def _operation_at(self, position: int) -> TensorOperation:
        return self._rows[self._matches[position] if self._filter else position]

    # Moving

    def action_move(self, rows: int) -> None:
        """Move the cursor by some rows."""
        self._move_to(self._origin + rows)

    def action_move_page(self, pages: int) -> None:
        """Move the cursor by pages."""
        self._move_to(self._origin + pages * max(self._page_rows - 1, 1))

    def action_first(self) -> None:
        """Move the cursor to the first row."""
        self._move_to(0)

    def action_follow(self) -> None:
        """Go to the newest row and stay with it."""
        self._cursor, self._following = None, True
        self._update()
        self._post_highlighted()

    @property
    def _origin(self) -> int:
        """From where a key moves: the cursor or, before there is one, the last row on the screen."""
        if self._cursor is not None or self._following:
            return self._cursor_position
        return min(self.scroll_offset.y + self._page_rows, self.matching) - 1

    def _move_to(self, position: int) -> None:
        if not self.matching:
            return
        position = max(0, min(position, self.matching - 1))
        self._cursor = self._matches[position] if self._filter else position
        self._following = False
        self._scroll_to_cursor()
        self.refresh()
        self._post_highlighted()

    def _scroll_to_cursor(self) -> None:
        position, top = self._cursor_position, self.scroll_offset.y
        nearest = max(min(top, position), position - self._page_rows + 1)
        self.scroll_to(y=max(nearest, 0), animate=False, force=True)

    def _post_highlighted(self) -> None:
        if self.matching:
            self.post_message(self.Highlighted(self, self._operation_at(self._cursor_position)))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        offset = event.get_content_offset(self)
        if offset is None or offset.y < _HEADER_ROWS:
            return
        position = self.scroll_offset.y + offset.y - _HEADER_ROWS
        if position < self.matching:
            self._move_to(position)

    # The wheel and the scrollbar move the view only. A handler, as `watch_scroll_y` cannot tell who scrolls.

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Let the user look back."""
        self._look_at(self.scroll_y - 1)

    def on_scroll_up(self, event: ScrollUp) -> None:
        """Let the user look back."""
        self._look_at(self.scroll_y - 1)

    def on_scroll_to(self, event: ScrollTo) -> None:
        """Let the user look back."""
        if event.y is not None:
            self._look_at(event.y)

    def _look_at(self, y: float) -> None:
        """Stop following before the view moves, as the next frame would take it back to the tail."""
        if 0 <= y < self.max_scroll_y:
            self._following = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Resume at the bottom."""
        super().watch_scroll_y(old_value, new_value)
        if self._cursor is None and new_value > old_value and new_value >= self.max_scroll_y:
            self._following = True

    # Drawing

    def on_resize(self) -> None:
        """Keep the tail or the cursor in sight."""
        self._update()
        if self._cursor is not None:
            self._scroll_to_cursor()

    def render_lines(self, crop: Region) -> list[Strip]:
        """Draw part of the screen."""
        self._ground = self.rich_style  # looked up through all ancestors: too dear for every line
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        width = self.scrollable_content_region.width
        if y < _HEADER_ROWS:
            self._drew_in_flight = False
            return self._strip(header_line(width), self._style_of("tensor-log--header"))
        position = self.scroll_offset.y + y - _HEADER_ROWS
        if position < self.matching:
            return self._row(position, width)
        words = self._words_for_nothing() if not self.matching and y == self.size.height // 2 else ""
        return self._strip(Text(end="").append(words.center(width), "quiet"), self._ground)

    def _row(self, position: int, width: int) -> Strip:
        operation = self._operation_at(position)
        self._drew_in_flight = self._drew_in_flight or operation.elapsed_ns is None
        is_cursor = position == self._cursor_position
        style = self._style_of("tensor-log--cursor") if is_cursor else self._ground
        key = (operation, self._start_ns, width, is_cursor, style)
        strip = self._drawn.get(key)
        if strip is None:
            line = tensor_line(operation, self._start_ns, width)
            if is_cursor:
                line.spans.clear()  # on the cursor's ground no colour could be told from another
            strip = self._drawn[key] = self._strip(line, style)
        return strip

    def _words_for_nothing(self) -> str:
        if not self._count:
            return self.placeholder
        return f"nothing matches '{shown(self._filter)}'"

    def _style_of(self, component: str) -> Style:
        return self._ground + self.get_component_rich_style(component)

    def _strip(self, line: Text, style: Style) -> Strip:
        strip = Strip(line.render(self.app.console)).apply_style(style)
        return strip.adjust_cell_length(self.scrollable_content_region.width, self._ground)


def _contains(operation: TensorOperation, text: str) -> bool:
    return text in operation.tensor.casefold() or text in operation.word or text in operation.dtypes
