from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from event_examples import files_in
from golden_capture import EVENTS, relative_events, write_capture

from meminspect.capture.schema import APPLICATION_ID, VERSION
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "captures"
    folder.mkdir()
    return folder / "run.meminspect"


@pytest.fixture
def read_only(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes `path` and its folder look as they do to a user who may not write there; returns the folder of copies.

    Tests may run as root, for whom no mode and no flag of a folder is a hindrance: the seam is the question itself.
    """
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    real = os.access

    def access(asked: Path, mode: int) -> bool:
        return not (mode & os.W_OK and asked in (path, path.parent)) and real(asked, mode)

    monkeypatch.setattr("meminspect.capture.store.os.access", access)
    return copies


def refused(path: Path) -> CaptureError:
    """Assert that opening fails in one line that names the file."""
    with pytest.raises(CaptureError) as caught:
        CaptureReader(path)
    assert str(path) in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint.isprintable()
    return caught.value


def read_everything_fails(path: Path) -> str:
    """Assert that somewhere between opening and the last table there is a CaptureError; return its message."""

    def read_everything() -> None:
        with CaptureReader(path) as capture:
            capture.fact("spec")
            capture.samples()
            capture.events()
            capture.log()
            capture.ledger()

    with pytest.raises(CaptureError) as caught:
        read_everything()
    return caught.value.message


def test_a_finished_capture_that_may_only_be_read_is_read_through_a_private_copy(path: Path, read_only: Path) -> None:
    write_capture(path)
    with CaptureReader(path) as capture:
        assert len(files_in(read_only)) == 1
        assert capture.path == path
        assert capture.events() == list(enumerate(relative_events(), 1))
    assert files_in(read_only) == []


def test_a_growing_capture_that_may_only_be_read_is_copied_with_its_wal(path: Path, read_only: Path) -> None:
    # given a capture whose content is in the WAL still
    writer = write_capture(path, close=False)
    before = {name: (path.parent / name).read_bytes() for name in files_in(path.parent)}
    with CaptureReader(path) as capture:
        assert capture.events() == list(enumerate(relative_events(), 1))
    # then nobody has written into the folder
    assert {name: (path.parent / name).read_bytes() for name in files_in(path.parent)} == before
    assert files_in(read_only) == []
    writer.close()


def test_giving_a_read_only_capture_an_outcome_leaves_it_as_it_is(path: Path, read_only: Path) -> None:
    write_capture(path)
    before = path.read_bytes()
    with CaptureReader(path) as capture:
        capture.finish({"outcome": "failed"})
    assert path.read_bytes() == before
    assert files_in(read_only) == []


def test_a_read_only_file_that_is_no_capture_leaves_no_copy_behind(path: Path, read_only: Path) -> None:
    path.write_text("not a database, but long enough to be taken for one\n" * 100)
    refused(path)
    assert files_in(read_only) == []


def test_a_missing_capture_is_refused_and_not_created(path: Path) -> None:
    assert "no such capture" in refused(path).message
    assert not path.exists()


def test_a_folder_is_refused(path: Path) -> None:
    refused(path.parent)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x7fELF" * 2000, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path)
    assert path.read_bytes() == content
    assert files_in(path.parent) == [path.name]


def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE events (seq INTEGER)")
    database.close()
    assert "not a meminspect capture" in refused(path).message


def test_a_capture_of_a_newer_version_is_refused_with_what_to_do(path: Path) -> None:
    write_capture(path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    error = refused(path)
    assert f"schema {VERSION + 1}" in error.message
    assert error.hint == "upgrade meminspect"


def test_a_capture_that_was_killed_before_it_had_tables_is_refused(path: Path) -> None:
    # given the marks of a capture, as they are set before its tables are made
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {VERSION}")
    database.close()
    assert read_everything_fails(path).isprintable()


def test_a_truncated_capture_is_refused(path: Path) -> None:
    write_capture(path)
    os.truncate(path, path.stat().st_size // 2)
    refused(path)


def test_a_capture_damaged_in_the_middle_ends_in_one_line(path: Path) -> None:
    # given a capture of which only the first page, with the schema, is as it was
    writer = write_capture(path, close=False)
    writer.append([], EVENTS * 500, [])
    writer.close()
    content = bytearray(path.read_bytes())
    page_bytes = int.from_bytes(content[16:18], "big")
    content[2 * page_bytes :] = b"\xa5" * (len(content) - 2 * page_bytes)
    path.write_bytes(content)
    assert read_everything_fails(path).isprintable()


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(CaptureError, match=r"exists") as caught:
        CaptureWriter(path, 0)
    assert caught.value.hint
    assert path.read_text() == "precious"


def test_a_capture_in_a_folder_that_cannot_be_made_is_refused(path: Path) -> None:
    path.write_text("a file, not a folder")
    with pytest.raises(CaptureError, match="cannot write the capture"):
        CaptureWriter(path / "run.meminspect", 0)


def test_finishing_gives_an_outcome_once_and_leaves_one_file(path: Path) -> None:
    # given a capture whose supervisor is gone: its files without the process
    writer = CaptureWriter(path, 0)
    writer.append([], EVENTS, [])
    abandoned = path.with_name("abandoned.meminspect")
    for suffix in ("", "-wal"):
        shutil.copyfile(path.with_name(path.name + suffix), abandoned.with_name(abandoned.name + suffix))
    writer.close()

    for message in ("the supervisor was killed", "said again"):
        with CaptureReader(abandoned) as capture:
            capture.finish({"outcome": "failed", "message": message})
            assert capture.fact("outcome") == {"outcome": "failed", "message": "the supervisor was killed"}
    assert files_in(path.parent) == ["abandoned.meminspect", "run.meminspect"]
    with CaptureReader(abandoned) as capture:
        assert [event for _, event in capture.events()] == list(EVENTS)


def test_finishing_keeps_the_outcome_that_a_supervisor_has_written(path: Path) -> None:
    write_capture(path)
    with CaptureReader(path) as capture:
        before = capture.fact("outcome")
        capture.finish({"outcome": "failed"})
        assert capture.fact("outcome") == before


_START = "import sys; sys.path[:] = sys.argv[1].split('\\n'); from pathlib import Path; path = Path(sys.argv[2])\n"

_WRITE_WITHOUT_END = f"""{_START}
from meminspect.capture.records import Event, EventKind
from meminspect.capture.store import CaptureWriter
writer = CaptureWriter(path, 0)
batch = 0
while True:
    writer.append([], [Event(batch, EventKind.PHASE, id=index, name="read") for index in range(10)], [])
    batch += 1
    print(batch, flush=True)
"""


def python(program: str, path: Path) -> list[str]:
    return [sys.executable, "-c", program, "\n".join(sys.path), str(path)]


def test_a_capture_whose_writer_was_killed_holds_every_batch_that_was_done(path: Path) -> None:
    # given a process that writes batches of ten events and says when each is done
    with subprocess.Popen(python(_WRITE_WITHOUT_END, path), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        done = 0
        while done < 50:
            done = int(child.stdout.readline())
        child.kill()
        said = child.stdout.read().split(b"\n")
        assert child.wait() == -signal.SIGKILL
    done = max([done, *map(int, said[:-1])])  # the last line may be cut

    with CaptureReader(path) as capture:
        events = [event for _, event in capture.events()]
        # then all of them are there, and whole; the one under way may be
        assert len(events) in (10 * done, 10 * (done + 1))
        assert [(event.t_ns, event.id) for event in events] == [divmod(index, 10) for index in range(len(events))]
        capture.finish({"outcome": "failed"})
    assert files_in(path.parent) == ["run.meminspect"]


_FILL_THE_DISK = f"""{_START}
import resource
from meminspect.capture.records import LogLine
from meminspect.capture.store import CaptureWriter
from meminspect.errors import CaptureError
writer = CaptureWriter(path, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # no file may grow beyond that: a write fails
text = "x" * 10_000
try:
    for index in range(1000):
        WRITE
except CaptureError as error:
    assert error.message.isprintable(), error.message
    print(index, "refused", flush=True)
writer.close()
"""


@pytest.mark.parametrize(
    "write",
    [
        'writer.append([], [], [LogLine(index, "stdout", text)])',
        'writer.fact(f"report {index}", text)',
        'writer.ledger([("read", "materialise", "heap", "floor", text, index)])',
    ],
    ids=["append", "fact", "ledger"],
)
def test_a_full_disk_is_a_capture_error_and_what_was_written_before_is_readable(path: Path, write: str) -> None:
    program = _FILL_THE_DISK.replace("WRITE", write)
    done = subprocess.run(python(program, path), capture_output=True, text=True, check=False)
    assert done.stderr == ""
    written, word = done.stdout.split()
    assert word == "refused"
    with CaptureReader(path) as capture:
        rows = len(capture.log()) + len(capture.ledger())
        rows += sum(capture.fact(f"report {index}") is not None for index in range(int(written)))
    assert rows == int(written) > 5
