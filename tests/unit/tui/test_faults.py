"""What a user is told of an exception, and what is written down."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meminspect.errors import CheckpointError, RunError
from meminspect.tui.faults import Fault, fault_of, log_fault, log_path

PLEASE = "this is a defect of meminspect: please report it"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where defects go."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = log_path()
    assert path is not None
    assert path.is_relative_to(tmp_path / "state")
    return path


@pytest.fixture
def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user whom no file of passwords knows."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def raised(error: BaseException) -> BaseException:
    """An exception as it is caught: with where it came from."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - it is what was asked for
        return caught


@pytest.mark.parametrize("kind", [CheckpointError, RunError])
def test_what_a_user_can_mend_is_said_with_what_to_do_and_not_written_down(
    kind: type[CheckpointError | RunError], log: Path
) -> None:
    error = kind("model.pth is damaged\x1b[31m", "copy it\nagain")
    assert fault_of(error, "opening it") == Fault("model.pth is damaged\\x1b[31m", "copy it\\nagain")
    assert fault_of(kind("no hint"), "opening it") == Fault("no hint", "")
    assert not log.exists()


def test_what_the_system_refuses_is_no_defect_of_ours(log: Path) -> None:
    error = OSError(28, "No space left on device", "/mnt/full/a\x1b[31m")
    assert fault_of(error, "writing it") == Fault(
        "/mnt/full/a\\x1b[31m: No space left on device", "it happened while writing it"
    )
    assert not log.exists()


def test_a_defect_is_written_down_with_its_traceback_and_told_where(log: Path) -> None:
    fault = fault_of(raised(ZeroDivisionError("by zero")), "drawing")
    assert fault == Fault("internal error while drawing: ZeroDivisionError: by zero", f"{PLEASE} with the end of {log}")
    first, second, *_, last, blank = log.read_text().split("\n")[:-1]
    assert first.endswith(" while drawing")
    assert second == "Traceback (most recent call last):"
    assert f'File "{__file__}"' in log.read_text()
    assert (last, blank) == ("ZeroDivisionError: by zero", "")


def test_another_defect_is_written_behind_the_first(log: Path) -> None:
    log_fault(raised(ValueError("first")), "reading")
    log_fault(raised(ValueError("second")), "writing")
    text = log.read_text()
    assert text.index("while reading") < text.index("ValueError: first") < text.index("while writing")
    assert text.rstrip().endswith("ValueError: second")


def test_what_led_to_a_defect_is_written_down_as_well(log: Path) -> None:
    error = KeyError("outer")
    error.__cause__ = raised(OSError("the disk"))
    log_fault(raised(error), "reading")
    assert "OSError: the disk" in log.read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "internal error while it ran: KeyboardInterrupt"),
        (ValueError("two\nlines\x1b[2J"), "internal error while it ran: ValueError: two\\nlines\\x1b[2J"),
        (KeyError("k"), "internal error while it ran: KeyError: 'k'"),
        (ValueError("x" * 1000), "internal error while it ran: ValueError: " + "x" * 287 + "…"),
    ],
)
def test_the_message_is_one_printable_line(error: BaseException, message: str, log: Path) -> None:
    assert log_fault(error, "it ran").message == message
    assert log.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=[]), max_size=30) | st.just("a file called \ud800"))
def test_whatever_an_exception_says_it_can_be_printed_and_written_down(log: Path, text: str) -> None:
    fault = fault_of(ValueError(text), "it ran")
    assert fault.message.isprintable()
    assert str(log) in fault.hint
    log.read_text(encoding="utf-8")


@pytest.mark.usefixtures("without_home")
def test_without_a_home_a_defect_is_told_and_nothing_is_written_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert log_path() is None
    assert log_fault(ValueError("x"), "it ran") == Fault("internal error while it ran: ValueError: x", PLEASE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_depends_on_where_one_is_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_log_path", lambda _: Path("somewhere/here"))
    assert log_path() is None


def test_a_platform_that_knows_no_folder_is_no_second_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> None:
        raise RuntimeError("no home")

    monkeypatch.setattr("platformdirs.user_log_path", unknown)
    assert log_fault(ValueError("x"), "it ran").hint == PLEASE


def test_where_the_log_cannot_be_written_the_defect_is_told_all_the_same(log: Path) -> None:
    """Folders that may not be written to are none to root: a file is in their place."""
    log.mkdir(parents=True)
    assert log_fault(ValueError("x"), "it ran").hint == PLEASE
    log.rmdir()
    log.parent.rmdir()
    log.parent.write_text("")
    assert log_fault(ValueError("x"), "it ran") == Fault("internal error while it ran: ValueError: x", PLEASE)
