"""What a worker reports of a checkpoint that belongs to somebody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOOKS = """
import types
from pathlib import Path
from meminspect import page_cache
from meminspect.worker.storage import StorageBooks
page_cache._libc()
Path("own.bin").write_bytes(b"x" * 5000)
os.chown("own.bin", 65534, 65534)
drop()
files = [types.SimpleNamespace(path=Path(name), nbytes=5000) for name in ("own.bin", "theirs.bin")]
reports = {}
recorder = types.SimpleNamespace(books=lambda: {"read_bytes": None}, report=reports.__setitem__)
books = StorageBooks(files, recorder)
before = dict(reports)
books.close()
print(json.dumps([before, reports]))
"""


def test_given_one_file_of_somebody_else_then_its_share_is_unknown_with_the_reason_and_the_others_known(
    as_nobody: Callable[[str], Any], tmp_path: Path
):
    (tmp_path / "theirs.bin").write_bytes(b"x" * 5000)

    before, after = as_nobody(BOOKS)

    (reason,) = before["cache"]["reasons"]
    assert "owner" in reason
    assert before["cache"] == {
        "fraction_before": None, "fraction_after": None, "before": [1.0, None], "after": None, "reasons": {reason: [1]},
    }  # fmt: skip
    assert after["cache"] == {**before["cache"], "after": [1.0, None]}
    assert (before["io"]["after"], after["io"]["after"]) == (None, {"read_bytes": None})
