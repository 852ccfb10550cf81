from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from meminspect.cli import application, main
from meminspect.cli.diagnostics import error_document, failure_of, text, wants_json
from meminspect.errors import CaptureError, CheckpointError, ExitCode, MeminspectError, RunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Put a function in the place of `inspect`."""

    def put(function: Callable[[], object]) -> None:
        command = click.command("inspect")(click.option("--json", is_flag=True)(lambda json: function()))
        monkeypatch.setattr(application.root, "get_command", lambda _ctx, _name: command)

    return put


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (UsageError("m", "h"), "usage", 2),
        (CheckpointError("m", "h"), "checkpoint", 2),
        (CaptureError("m", "h"), "capture", 2),
        (RunError("m", "h"), "run", 4),
    ],
)
def test_an_error_is_one_line_and_a_hint_or_one_document(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str], error: MeminspectError, kind: str, code: int
) -> None:
    verb(raising(error))

    assert main(["inspect"]) == code
    assert capsys.readouterr() == ("", "meminspect: error: m\nhint: h\n")
    assert main(["inspect", "--json"]) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"schema": "meminspect.error/1", "error": kind, "message": "m", "hint": "h"}
    assert captured.err == ""


def test_an_error_without_a_hint_is_one_line() -> None:
    assert text(failure_of(UsageError("m"))) == "meminspect: error: m\n"


def test_a_verb_returns_its_exit_code(verb: Callable[..., None]) -> None:
    verb(lambda: ExitCode.OUT_OF_MEMORY)
    assert main(["inspect"]) == 3
    verb(lambda: None)
    assert main(["inspect"]) == 0


def test_an_interrupt_ends_with_130(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(KeyboardInterrupt()))

    assert main(["inspect"]) == 130
    assert capsys.readouterr().err.strip() == "meminspect: interrupted"
    assert main(["inspect", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"] == "interrupted"


def test_a_defect_of_ours_shows_its_trace_and_is_a_document_too(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(ZeroDivisionError("oh")))

    assert main(["inspect", "--json"]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"] == "internal"
    assert "Traceback" in captured.err


def test_a_failing_system_call_needs_no_trace() -> None:
    failure = failure_of(PermissionError(13, "Permission denied", "/x"))

    assert failure == ("system", "/x: Permission denied", "", ExitCode.FAILED, "")


def test_messages_cannot_drive_the_terminal() -> None:
    failure = failure_of(UsageError("a\x1b[31mb\nc\x9bd", "h\x07"))

    assert failure.message == "a\\x1b[31mb c\\x9bd"
    assert failure.hint == "h\\x07"
    assert error_document(failure)["message"].isprintable()


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["inspekt"], "there is no command 'inspekt'", "did you mean 'inspect'?"),
        (["plan"], "no checkpoint is named", "--ckpt PATH, or --demo for one that meminspect writes itself"),
        (["plan", "--demo", "--ckpt", "x"], "--ckpt and --demo name two checkpoints", "leave one of them out"),
        (["plan", "--demo", "--ram", "8x"], "--ram: '8x' is not a size", "write it like 8GiB, 512MiB or 16GB"),
        (["plan", "--demo", "--ram", "9" * 400], f"--ram: '{'9' * 40}' is beyond all measure", ""),
        (["--ckpt", "x y", "plan"], "--ckpt belongs behind the command", "meminspect plan --ckpt 'x y'"),
    ],
)
def test_a_senseless_command_line_says_what_is_wrong_with_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"meminspect: error: {message}\n" + (f"hint: {hint}\n" if hint else "")


@pytest.mark.parametrize(("arguments", "culprit"), [(["plan", "--xyzzy"], "--xyzzy"), (["synth"], "OUT")])
def test_what_click_refuses_points_to_the_command_s_help(
    capsys: pytest.CaptureFixture[str], arguments: list[str], culprit: str
) -> None:
    assert main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("meminspect: error: ")  # the words are click's, and differ among its versions
    assert culprit in first
    assert second == f"hint: meminspect {arguments[0]} --help lists what it takes"


def test_a_path_in_the_place_of_a_command_is_taken_for_a_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"meminspect plan --ckpt {tmp_path}" in capsys.readouterr().err


def test_a_command_line_that_does_not_parse_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--frobnicate", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"] == "usage"
    assert captured.err == ""


def test_json_is_asked_for_by_an_option_only() -> None:
    assert wants_json(["plan", "--json"])
    assert not wants_json(["plan", "--", "--json"])
    assert not wants_json([])


def test_without_a_command_there_is_help_and_a_pointer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Start with: meminspect plan --demo" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--ckpt", "a b"], ["view", "tests/golden/capture-v1.meminspect"]])
def test_given_no_terminal_then_the_app_says_what_to_use_instead(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])

    assert main(arguments) == ExitCode.USAGE

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "meminspect: error: the app needs a terminal\n"
        "hint: meminspect plan and meminspect run do the same for pipes and scripts\n"
    )


def test_the_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert application.EXIT_CODES.keys() == set(ExitCode)
    for code in ExitCode:
        assert f"  {code.value:<4} {application.EXIT_CODES[code]}\n" in out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from meminspect import __version__

    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_arguments_default_to_the_process_s_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["meminspect", "--version"])
    assert main() == 0
    assert capsys.readouterr().out
