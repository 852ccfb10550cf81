from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.theme import Theme

from meminspect.cli import output
from meminspect.renderables.palette import STYLES
from meminspect.renderables.texts import safe, table

if TYPE_CHECKING:
    import pytest

_HOSTILE = "evil\x1b[31m\x9b\x07\u202e[bold]x[/bold]\nnext"


def rendered(renderable: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), theme=Theme(STYLES), markup=False, highlight=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_text_from_outside_is_escaped_and_its_markup_is_not_obeyed() -> None:
    assert rendered(safe(_HOSTILE)) == "evil\\x1b[31m\\x9b\\x07\\u202e[bold]x[/bold]\\nnext\n"


def test_long_text_is_cut() -> None:
    assert len(safe("x" * 10**6).plain) == 2000
    assert len(safe("x" * 10**6, limit=5).plain) == 5


def test_a_table_folds_names_and_keeps_numbers_whole() -> None:
    drawn = table(("name", "size"), [("layers.0." + "x" * 40, "1.00 GiB"), (_HOSTILE, "2 B")])

    lines = rendered(drawn, width=30).splitlines()

    assert all(len(line) <= 30 for line in lines)
    assert "1.00 GiB" in lines[1]
    assert "x" * 40 in "".join(line[:20].strip() for line in lines)
    assert "\x1b" not in "".join(lines)


def test_a_document_is_ascii_and_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": _HOSTILE, "surrogate": "\udc80", "none": None})

    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"name": _HOSTILE, "surrogate": "\udc80", "none": None}


def test_streams_that_are_not_utf8_get_ascii_words(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    output.prepare_streams()
    console = output.stdout()
    console.print(safe("a · b – 2 × c … ★ 層"))
    sys.stdout.flush()

    assert raw.getvalue() == b"a - b - 2 x c ... * ?\n"
    assert output.ascii_only(console)


def test_a_stream_that_the_shell_closed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    output.prepare_streams()
    sys.stdout.write("x")
    output.status("y")

    sys.stdout.close()
    sys.stderr.close()


def test_progress_without_a_terminal_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with output.byte_progress("writing [x]") as progress:
        for done in range(0, 1025, 64):
            progress(done, 1024)

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "writing [x]: 0 B of 1.00 KiB, 0 %"
    assert lines[-1] == "writing [x]: 1.00 KiB of 1.00 KiB, 100 %"
    assert len(lines) == 5


def test_progress_of_nothing_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with output.byte_progress("writing"):
        pass

    assert capsys.readouterr().err == ""


def test_a_path_on_a_pipe_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))

    output.print_path(Path("/a\udcff\x1b[31m"))

    assert raw.getvalue() == b"/a\xff\x1b[31m\n"


def test_what_charts_are_drawn_with_has_a_stand_in_everywhere() -> None:
    output.prepare_streams()

    assert "█▍░│─┌┼▾✗".encode("latin-1", "meminspect-ascii") == b"##:|-++vx"
