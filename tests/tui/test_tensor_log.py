from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from rich.theme import Theme
from textual.app import App
from textual.events import MouseScrollDown, MouseScrollUp

from meminspect.analysis.operations import TensorOperation
from meminspect.renderables.palette import STYLES
from meminspect.tui.widgets.tensor_log import TensorLog

if TYPE_CHECKING:
    from textual.app import ComposeResult

MS = 1_000_000
SIZE = (80, 11)  # a header and ten rows


def operations(count: int, first: int = 0) -> list[TensorOperation]:
    """Reads of w0, w1, …, a millisecond each; every tenth is a copy."""
    return [
        TensorOperation(index * MS, "read", "copied" if index % 10 == 0 else "read", f"w{index}", "[8]", "f16", 16, MS)
        for index in range(first, first + count)
    ]


class LogApp(App[None]):
    """A log and what it has said."""

    def __init__(self) -> None:
        super().__init__()
        self.console.push_theme(Theme(STYLES))
        self.heard: list[str] = []

    def compose(self) -> ComposeResult:
        yield TensorLog()

    def on_mount(self) -> None:
        self.query_one(TensorLog).focus()

    def on_tensor_log_highlighted(self, message: TensorLog.Highlighted) -> None:
        assert message.control is self.log_widget
        self.heard.append(message.operation.tensor)

    @property
    def log_widget(self) -> TensorLog:
        return self.query_one(TensorLog)

    def screen_lines(self) -> list[str]:
        return [self.log_widget.render_line(y).text for y in range(self.log_widget.size.height)]

    def names(self) -> list[str]:
        return [line.split()[2] for line in self.screen_lines()[1:] if line.strip()]


def names(first: int, last: int) -> list[str]:
    return [f"w{index}" for index in range(first, last + 1)]


async def test_before_the_first_row_it_says_so_in_the_middle() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE):
        lines = app.screen_lines()

        assert lines[0].split() == ["time", "tensor", "dtype", "bytes", "duration", "what"]
        assert lines[5].strip() == "no tensor has been touched yet"
        assert app.log_widget.highlighted is None


async def test_the_header_stays_and_the_newest_rows_are_seen() -> None:
    # given
    app = LogApp()
    rows = operations(25)
    async with app.run_test(size=SIZE) as pilot:
        # when
        app.log_widget.show(rows, 0)
        await pilot.pause()
        assert app.names() == names(15, 24)
        rows += operations(5, first=25)
        app.log_widget.show(rows, 0)
        await pilot.pause()

        # then
        assert app.names() == names(20, 29)
        assert app.screen_lines()[0].split()[:2] == ["time", "tensor"]
        assert app.log_widget.following
        assert app.log_widget.highlighted == rows[-1]
        assert app.heard == []  # nobody moved the cursor


async def test_rows_that_fit_need_no_scrolling() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(3), 0)
        await pilot.pause()

        assert app.names() == names(0, 2)


async def test_an_operation_in_flight_gets_its_duration_in_place() -> None:
    app = LogApp()
    rows = [operations(1)[0]._replace(elapsed_ns=None)]
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(rows, 0)
        await pilot.pause()
        assert "…" in app.screen_lines()[1]
        shown = str(app.export_screenshot())

        rows[0] = rows[0]._replace(elapsed_ns=12 * MS)
        app.log_widget.show(rows, 0)
        await pilot.pause()

        assert "12.0" not in shown
        assert "12.0" in str(app.export_screenshot())


async def test_moving_the_cursor_stops_following_and_end_resumes() -> None:
    # given
    app = LogApp()
    rows = operations(25)
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(rows, 0)
        await pilot.pause()

        # when the user looks back
        await pilot.press("up", "k")
        rows += operations(5, first=25)
        app.log_widget.show(rows, 0)
        await pilot.pause()

        # then the view stays
        assert app.names() == names(15, 24)
        assert not app.log_widget.following
        assert app.heard == ["w23", "w22"]

        # when the user is done
        await pilot.press("end")
        await pilot.pause()

        # then it goes on
        assert app.names() == names(20, 29)
        assert app.log_widget.following
        assert app.heard[-1] == "w29"


async def test_the_cursor_takes_the_view_along() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(100), 0)
        await pilot.pause()

        await pilot.press("home")
        assert app.names() == names(0, 9)
        await pilot.press("pagedown", "down")
        assert app.names() == names(1, 10)
        await pilot.press("pageup", "pageup", "up")
        assert app.names() == names(0, 9)
        await pilot.press("G", "pagedown")
        assert app.names() == names(90, 99)

        assert app.heard == ["w0", "w9", "w10", "w1", "w0", "w0", "w99", "w99"]


async def test_the_wheel_moves_the_view_and_the_bottom_resumes() -> None:
    # given
    app = LogApp()
    rows = operations(25)
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(rows, 0)
        await pilot.pause()

        # when
        await pilot._post_mouse_events([MouseScrollUp], TensorLog)
        await pilot.pause()
        assert not app.log_widget.following
        app.log_widget.show(rows, 0)
        await pilot.pause()
        looked_back = app.names()
        await pilot._post_mouse_events([MouseScrollDown], TensorLog)
        await pilot.pause()

        # then
        assert looked_back[-1] != "w24"
        assert app.names()[-1] == "w24"
        assert app.log_widget.following
        assert app.heard == []


async def test_keys_go_on_from_where_the_wheel_has_been() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(100), 0)
        await pilot.pause()
        for _ in range(5):
            await pilot._post_mouse_events([MouseScrollUp], TensorLog)
        await pilot.pause()
        last = app.names()[-1]

        await pilot.press("up")

        assert app.heard == [f"w{int(last[1:]) - 1}"]


async def test_the_wheel_over_rows_that_fit_does_not_stop_following() -> None:
    app = LogApp()
    rows = operations(3)
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(rows, 0)
        await pilot.pause()

        await pilot._post_mouse_events([MouseScrollUp], TensorLog)

        assert app.log_widget.following


async def test_a_click_puts_the_cursor_on_a_row_and_on_nothing_else() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(3), 0)
        await pilot.pause()

        await pilot.click(TensorLog, offset=(5, 2))
        await pilot.click(TensorLog, offset=(5, 0))  # the header
        await pilot.click(TensorLog, offset=(5, 7))  # below the rows

        assert app.heard == ["w1"]
        assert app.log_widget.highlighted == operations(3)[1]


async def test_a_border_does_not_shift_what_a_click_means() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.styles.border = ("round", "white")
        app.log_widget.show(operations(3), 0)
        await pilot.pause()

        await pilot.click(TensorLog, offset=(5, 3))
        await pilot.click(TensorLog, offset=(5, 0))

        assert app.heard == ["w1"]


@pytest.mark.parametrize(("text", "count"), [("W1", 11), ("copied", 3), ("f16", 25), (" w24 ", 1), ("", 25)])
async def test_a_filter_looks_at_tensor_word_and_types(text: str, count: int) -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(25), 0)

        app.log_widget.set_filter(text)
        await pilot.pause()

        assert app.log_widget.matching == count


async def test_a_filter_looks_at_new_rows_as_they_come() -> None:
    # given
    app = LogApp()
    rows = operations(25)
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(rows, 0)
        app.log_widget.set_filter("copied")
        await pilot.pause()
        assert app.names() == ["w0", "w10", "w20"]

        # when
        rows += operations(10, first=25)
        app.log_widget.show(rows, 0)
        await pilot.pause()

        # then
        assert app.names() == ["w0", "w10", "w20", "w30"]

        # and without it everything is there again
        app.log_widget.set_filter("")
        await pilot.pause()
        assert app.names() == names(25, 34)


async def test_the_cursor_keeps_its_operation_when_the_filter_changes() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(100), 0)
        app.log_widget.set_filter("copied")
        await pilot.pause()
        await pilot.press("home", "down", "down")

        app.log_widget.set_filter("")
        await pilot.pause()

        assert app.log_widget.highlighted == operations(100)[20]
        assert "w20" in app.names()


async def test_a_filter_that_nothing_matches_says_so() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(3), 0)
        app.log_widget.set_filter("\x1b[31mnope")
        await pilot.pause()
        await pilot.press("up", "end", "pagedown")

        assert app.screen_lines()[5].strip() == "nothing matches '\\x1b[31mnope'"
        assert app.heard == []


async def test_another_list_starts_over() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(100), 0)
        app.log_widget.set_filter("w1")
        await pilot.pause()
        await pilot.press("up")

        app.log_widget.show(operations(5), 0)
        await pilot.pause()

        assert app.names() == ["w1"]
        assert app.log_widget.following


async def test_an_empty_list_takes_the_rows_away() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(5), 0)
        await pilot.pause()

        app.log_widget.show([], 0)
        await pilot.pause()

        assert "w4" not in app.export_screenshot()
        assert app.screen_lines()[5].strip() == "no tensor has been touched yet"


async def test_a_smaller_terminal_keeps_the_tail_in_sight() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show(operations(25), 0)
        await pilot.pause()

        await pilot.resize_terminal(60, 6)
        await pilot.pause()

        assert app.names() == names(20, 24)


async def test_a_hostile_name_reaches_the_screen_escaped() -> None:
    app = LogApp()
    async with app.run_test(size=SIZE) as pilot:
        app.log_widget.show([operations(1)[0]._replace(tensor="\x1b[2J[red]w")], 0)
        await pilot.pause()

        assert "\\x1b[2J[red]w" in app.screen_lines()[1]


async def test_a_hundred_thousand_rows_cost_no_more_than_a_screenful() -> None:
    # given
    app = LogApp()
    rows = operations(100_000)
    async with app.run_test(size=SIZE) as pilot:
        # when
        started = time.perf_counter()
        app.log_widget.show(rows, 0)
        opened_s = time.perf_counter() - started
        await pilot.pause()

        # then
        assert app.names() == names(99_990, 99_999)
        assert opened_s < 0.1
