from __future__ import annotations

import pytest

from meminspect import errors
from meminspect.errors import (
    CaptureError,
    CheckpointError,
    ExitCode,
    MeminspectError,
    RunError,
    SeveralCheckpointsError,
    StreamError,
    UsageError,
)

CODES = {
    UsageError: ExitCode.USAGE,
    CheckpointError: ExitCode.USAGE,
    SeveralCheckpointsError: ExitCode.USAGE,
    CaptureError: ExitCode.USAGE,
    RunError: ExitCode.FAILED,
    StreamError: ExitCode.FAILED,
}


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_an_error_carries_a_message_a_hint_and_its_exit_code(kind: type[MeminspectError], code: ExitCode) -> None:
    error = kind("the file is gone", "look elsewhere")
    assert (error.message, error.hint, str(error)) == ("the file is gone", "look elsewhere", "the file is gone")
    assert kind("alone").hint == ""
    assert error.exit_code is code
    assert isinstance(error, MeminspectError)


def test_every_exception_is_exported_drawn_in_the_docstring_and_tested_here() -> None:
    defined = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)
    assert {kind.__name__ for kind in CODES} == defined - {"MeminspectError", "ExitCode"}
    for kind, code in CODES.items():
        (line,) = [line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line]
        assert line.endswith(f"→ {int(code)}")


def test_exit_codes_are_those_of_the_contract() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "USAGE": 2, "OUT_OF_MEMORY": 3, "FAILED": 4, "BUDGET_EXCEEDED": 5, "INTERRUPTED": 130,
    }  # fmt: skip
