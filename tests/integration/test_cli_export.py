"""`meminspect export`, as a user starts it, and the bytes of each format."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meminspect.capture.records import Sample
from meminspect.exporters import EXPORTERS
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from command_line import Done, Home

GOLDEN = Path(__file__).parents[1] / "golden"
CAPTURE = "capture-v1.meminspect"
TEXTS = [id_ for id_, exporter in EXPORTERS.items() if exporter.is_text]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(GOLDEN / CAPTURE, tmp_path / CAPTURE))


@pytest.mark.parametrize("format_", TEXTS)
def test_given_the_golden_capture_then_every_format_is_what_it_was(home: Home, capture: Path, format_: str) -> None:
    """Other programs read these bytes: a change of them is a change of the contract, and means a new golden file."""
    done = home.meminspect("export", capture, "--to", format_)

    assert (done.status, done.stderr) == (0, "")
    golden = (GOLDEN / f"export-v1.{format_}").read_text(encoding="utf-8")
    assert done.stdout.replace(str(capture), CAPTURE) == golden


@pytest.mark.parametrize("format_", TEXTS)
def test_given_an_output_file_then_it_holds_the_same_bytes_and_replaces_what_was_there(
    home: Home, capture: Path, tmp_path: Path, format_: str
) -> None:
    out = tmp_path / "exported"
    out.write_text("older, and much longer than nothing")

    to_stdout = home.meminspect("export", capture, "--to", format_)
    to_file = home.meminspect("export", capture, "--to", format_, "-o", out)

    assert (to_file.status, to_file.stdout) == (0, "")
    assert out.read_bytes().decode() == to_stdout.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"exported", CAPTURE, "home"}


def test_given_a_run_of_now_then_both_formats_agree_with_its_document(home: Home, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gpt2", "hf", "safetensors", "float32", tmp_path / "tiny")
    ran = home.meminspect("run", "--ckpt", checkpoint, "-s", "meta-assign", "--json").run

    document = home.meminspect("export", ran["capture"], "--to", "json").document
    rows = list(csv.DictReader(io.StringIO(home.meminspect("export", ran["capture"], "--to", "csv").stdout)))

    assert document["schema"] == "meminspect.capture/1"
    assert document["run"] == ran
    assert document["samples"]["columns"] == list(Sample._fields)
    assert len(document["samples"]["rows"]) == len(rows) == ran["overhead"]["samples"]
    assert list(rows[0]) == ["t_s", *Sample._fields[1:]]
    assert [int(row["heap_bytes"]) for row in rows] == [row[1] for row in document["samples"]["rows"]]
    assert [float(row["t_s"]) for row in rows] == sorted(float(row["t_s"]) for row in rows)
    assert rows[1]["minor_faults"] == "", "what is unknown is empty"
    events = document["events"]
    assert {event["kind"] for event in events} >= {"phase", "begin", "end", "reading", "report"}
    assert {line["operation"] for line in document["ledger"]} == {"materialise", "assign"}
    assert "torch" in document["recipe"]
    assert document["environment"]["pid"] > 0


def with_version(version: int) -> bytes:
    """The golden capture as a later schema would mark it."""
    content = bytearray((GOLDEN / CAPTURE).read_bytes())
    content[60:64] = version.to_bytes(4, "big")  # user_version (sqlite.org/fileformat2.html)
    return bytes(content)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT)")
    database.close()


def refused(done: Done, message: str) -> bool:
    first, *hints = done.stderr.splitlines()
    assert (done.status, done.stdout) == (2, "")
    assert first.startswith("meminspect: error: ")
    assert all(hint.startswith("hint: ") for hint in hints)
    return message in first


def test_given_no_capture_then_one_line_says_what_it_is_instead(home: Home, tmp_path: Path) -> None:
    text, empty, newer, foreign = (tmp_path / name for name in ("text", "empty", "newer", "foreign"))
    text.write_text("not a capture, and longer than the header of a database\n" * 10)
    empty.write_bytes(b"")
    newer.write_bytes(with_version(1000))
    foreign_database(foreign)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def export(path: Path) -> Done:
        return home.meminspect("export", path, "--to", "json")

    assert refused(export(tmp_path / "absent"), "absent: no such capture")
    assert refused(export(tmp_path), "no such capture")
    assert refused(export(text), "is not a readable capture")
    assert refused(export(empty), "is not a meminspect capture")
    assert refused(export(foreign), "is not a meminspect capture")
    assert refused(export(newer), "was written by a newer meminspect (schema 1000)")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before, "only read"


def test_given_an_unknown_format_then_those_that_exist_are_listed(home: Home, capture: Path) -> None:
    done = home.meminspect("export", capture, "--to", "xml")

    assert refused(done, "'xml' is not one of")
    assert all(f"'{format_}'" in done.stderr for format_ in EXPORTERS)


@pytest.mark.parametrize("out", ["absent/exported", "a file/exported", "."])
def test_given_an_output_that_cannot_be_written_then_it_is_said_and_nothing_is_left(
    home: Home, capture: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "a file").write_text("")
    done = home.meminspect("export", capture, "--to", "csv", "-o", tmp_path / out)

    assert refused(done, f"cannot write {tmp_path / out}")
    assert not list(tmp_path.parent.rglob("*.partial"))


def test_given_a_pipe_as_output_then_it_is_written_to_and_never_replaced(
    home: Home, capture: Path, tmp_path: Path
) -> None:
    """What holds for a pipe holds for devices: no `-o /dev/null` of root's may put a file in its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        try:
            done = home.meminspect("export", capture, "--to", "csv", "-o", pipe)
            assert done.status == 0, done.stderr
            assert stat.S_ISFIFO(pipe.stat().st_mode)
            assert reader.communicate()[0].startswith("t_s,heap_bytes,")
        finally:
            reader.kill()


def test_given_a_link_as_output_then_the_file_behind_it_is_written(home: Home, capture: Path, tmp_path: Path) -> None:
    behind, link = tmp_path / "behind", tmp_path / "link"
    link.symlink_to(behind)

    done = home.meminspect("export", capture, "--to", "csv", "-o", link)

    assert done.status == 0, done.stderr
    assert link.is_symlink()
    assert behind.read_text().startswith("t_s,heap_bytes,")


def test_given_a_capture_that_may_only_be_read_then_it_is_exported_and_left_alone(home: Home, capture: Path) -> None:
    before = capture.stat()
    capture.chmod(0o444)

    done = home.meminspect("export", capture, "--to", "json")

    assert done.status == 0
    assert json.loads(done.stdout)["run"]["outcome"] == "completed"
    after = capture.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
