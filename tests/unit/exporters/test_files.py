"""An export in a file: whole, or not at all."""

from __future__ import annotations

import errno
import os
import tty
from typing import IO, TYPE_CHECKING, Any, cast

import pytest

from meminspect.errors import CaptureError
from meminspect.exporters import Exporter
from meminspect.exporters.files import write_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.capture.store import CaptureReader

READER = cast("CaptureReader", object())
TEXT = "t_s,größe\n1,\r\n"


def exporter(write: Callable[[IO[str]], object] = lambda file: file.write(TEXT)) -> Exporter:
    """Hands the file to a function, and sees to it that the reader is the one that was given."""

    def handed_on(reader: CaptureReader, file: IO[str]) -> None:
        assert reader is READER
        write(file)

    return Exporter("test", "", handed_on)


def failing(error: BaseException) -> Exporter:
    """Writes half of it first."""

    def write(file: IO[str]) -> None:
        file.write("half of ")
        file.flush()
        raise error

    return exporter(write)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_given_nothing_there_then_the_file_has_the_exporters_bytes_and_is_alone(tmp_path: Path) -> None:
    write_file(exporter(), READER, tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_bytes() == TEXT.encode(), "in UTF-8, with the line ends that were written"
    assert names(tmp_path) == ["run.csv"]


def test_given_a_file_there_then_a_reader_sees_the_old_one_or_the_new_one_and_never_half(tmp_path: Path) -> None:
    out = tmp_path / "run.csv"
    out.write_text("old")

    def write(file: IO[str]) -> None:
        file.write("half of ")
        file.flush()
        assert out.read_text() == "old"
        file.write("new")

    with out.open() as opened_before:
        write_file(exporter(write), READER, out)
        assert opened_before.read() == "old"
    assert out.read_text() == "half of new"
    assert names(tmp_path) == ["run.csv"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "error",
    [CaptureError("damaged"), KeyboardInterrupt(), ValueError("a defect")],
    ids=lambda error: type(error).__name__,
)
def test_given_an_error_half_way_then_nothing_has_changed(tmp_path: Path, error: BaseException, *, there: bool) -> None:
    out = tmp_path / "run.csv"
    if there:
        out.write_text("old")
    with pytest.raises(type(error)) as caught:
        write_file(failing(error), READER, out)
    assert caught.value is error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == ([("run.csv", "old")] if there else [])


def test_given_a_full_disk_then_it_is_said_and_nothing_has_changed(tmp_path: Path) -> None:
    out = tmp_path / "run.csv"
    out.write_text("old")
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CaptureError) as caught:
        write_file(failing(error), READER, out)
    assert caught.value.message == f"cannot write {out}: No space left on device"
    assert caught.value.hint == "name another file"
    assert out.read_text() == "old"
    assert names(tmp_path) == ["run.csv"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("folder", "Is a directory"),
        ("absent/run.csv", "No such file or directory"),
        ("file/run.csv", "Not a directory"),
        ("round", "Too many levels of symbolic links"),
        ("x" * 256, "File name too long"),
    ],
)
def test_given_a_place_that_cannot_be_written_then_it_is_named_and_nothing_has_changed(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "round").symlink_to("round")
    before = names(tmp_path)
    with pytest.raises(CaptureError) as caught:
        write_file(exporter(), READER, tmp_path / name)
    assert caught.value.message == f"cannot write {tmp_path / name}: {why}"
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("exists", [True, False])
def test_given_a_link_then_what_it_leads_to_is_written_and_it_stays_a_link(tmp_path: Path, *, exists: bool) -> None:
    target, link = tmp_path / "there" / "run.csv", tmp_path / "link.csv"
    target.parent.mkdir()
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    write_file(exporter(), READER, link)
    assert link.is_symlink()
    assert target.read_bytes() == TEXT.encode()
    assert names(target.parent) == ["run.csv"]


def test_given_a_pipe_then_it_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    # given a pipe with a reader
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(exporter(), READER, pipe)
        assert os.read(reader, 1000) == TEXT.encode()
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_given_a_device_then_it_is_written_to_also_through_a_link(tmp_path: Path) -> None:
    # given a terminal, and a link to it, as /dev/stdout is one
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    link = tmp_path / "stdout"
    link.symlink_to(os.ttyname(theirs))
    try:
        write_file(exporter(), READER, link)
        assert os.read(ours, 1000) == TEXT.encode()
        assert link.resolve().is_char_device()
    finally:
        os.close(ours)
        os.close(theirs)
    assert names(tmp_path) == ["stdout"]


def test_given_a_pipe_whose_reader_goes_then_it_is_said(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def write(file: IO[str]) -> Any:
        os.close(reader)
        return file.write(TEXT)

    with pytest.raises(CaptureError, match="Broken pipe"):
        write_file(exporter(write), READER, pipe)
    assert pipe.is_fifo()
