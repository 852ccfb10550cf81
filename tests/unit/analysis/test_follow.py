"""A capture followed while it grows: written step by step, polled in between."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from run_events import BASE, MIB, MS, baseline, begin, end, named, phase, reading, report, resident, sample, total

from meminspect.analysis.follow import Held, RunFollower, RunView
from meminspect.analysis.verdict import PROCESS_BYTES
from meminspect.capture.records import Event, EventKind, LogLine, Operation, Pool, Reading, Sample
from meminspect.capture.store import CaptureReader, CaptureWriter
from meminspect.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = {"strategy": "naive", "repeat_index": 1, "repeat_of": 1}
COMPLETED = {"outcome": "completed", "message": "", "died_at": None, "exit_status": 0}
KILLED = {"outcome": "oom_killed", "message": "killed", "died_at": {"phase": "read", "tensor": "a"}, "exit_status": -9}


class Run:
    """A growing capture and its follower."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.meminspect"
        self.writer = CaptureWriter(self.path, 0)
        self.follower = RunFollower(self.path, awaited=True)

    def adds(self, *records: Event | Sample | LogLine) -> RunView:
        """Commit these together, and look."""
        self.writer.append(
            [record for record in records if isinstance(record, Sample)],
            [record for record in records if isinstance(record, Event)],
            [record for record in records if isinstance(record, LogLine)],
        )
        return self.look()

    def knows(self, **facts: object) -> RunView:
        """Commit facts, and look."""
        for name, value in facts.items():
            self.writer.fact(name, value)
        return self.look()

    def look(self) -> RunView:
        view, behind = self.follower.poll()
        assert not behind
        return view


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    with made.follower:
        yield made
    made.writer.close()


def resets(answer: str) -> Event:
    """What the worker says right after its baseline."""
    return report(10.1, "baseline", f'{{"resets": {answer}}}')


# --- from nothing to the baseline


def test_given_no_capture_when_polled_then_nothing_is_known_and_nothing_is_wrong(tmp_path: Path) -> None:
    with RunFollower(tmp_path / "absent.meminspect", awaited=True) as follower:
        view, behind = follower.poll()
    assert not behind
    assert (view.strategy, view.facts, view.phase, view.load_ns, view.outcome) == ("", {}, "", None, None)
    assert list(tmp_path.iterdir()) == []


def test_given_a_capture_that_is_just_being_created_then_it_is_followed_once_it_has_tables(tmp_path: Path) -> None:
    path = tmp_path / "run.meminspect"
    with RunFollower(path, awaited=True) as follower:
        # given the moment between creating the file and its tables
        path.touch()
        assert follower.poll()[0].facts == {}
        path.unlink()
        # when it is one
        writer = CaptureWriter(path, 0)
        writer.fact("spec", SPEC)
        # then
        assert follower.poll()[0].strategy == "naive"
        writer.close()


def test_given_a_worker_that_prepares_itself_then_its_steps_are_told_and_the_load_has_not_begun(run: Run) -> None:
    run.adds(phase(1, "import", reading()))
    view = run.adds(phase(5, "warm-up", reading()), sample(6, reading(heap=5000 * MIB)))
    assert view.steps == ((1 * MS, "import"), (5 * MS, "warm-up"))
    assert (view.phase, view.load_ns, view.baseline, view.peak_bytes) == ("warm-up", None, None, 0)
    assert view.series.end_ns == 0


def test_given_what_is_done_to_the_page_cache_then_it_is_said_until_it_is_done(run: Run) -> None:
    assert run.knows(preparing="reading the checkpoint into the page cache").preparing.startswith("reading the check")
    assert run.knows(preparing="").preparing == ""


def test_given_samples_from_before_the_baseline_then_they_do_not_count_however_late_it_is_seen(run: Run) -> None:
    # given a warm-up that needed more than the load does, looked at before and together with the baseline
    run.adds(sample(5, reading(heap=900 * MIB)))
    view = run.adds(sample(9, reading(heap=800 * MIB)), baseline(10), sample(11, reading(heap=3)))
    assert (view.held, view.peaks, view.peak_bytes) == (Held(3, 0, 0), Held(3, 0, 0), 3)
    assert (view.load_began_ns, view.load_ns, view.baseline) == (10 * MS, 1 * MS, BASE.resident)


# --- the load


def test_given_samples_and_readings_then_pools_peak_at_their_own_moments_and_the_total_at_its(run: Run) -> None:
    run.adds(baseline(10), resets("true"))
    run.adds(phase(12, "read", reading(heap=50)), sample(13, reading(heap=70, file=10)))
    view = run.adds(sample(14, reading(heap=20, file=90, pinned=4)))
    assert view.held == Held(20, 90, 4)
    assert view.peaks == Held(70, 90, 4)
    assert (view.peak_bytes, view.peak_ns) == (114, 4 * MS)
    assert view.phases == ((2 * MS, "read"),)
    assert view.load_ns == 4 * MS


def test_given_a_load_that_returns_before_it_is_resident_then_the_moment_is_known(run: Run) -> None:
    assert run.adds(baseline(10), phase(12, "read", reading())).returned_ns is None
    assert run.adds(report(14, "returned", "{}"), phase(15, "touch", reading())).returned_ns == 4 * MS


def test_given_a_mark_that_was_reset_at_the_baseline_then_it_is_the_peak(run: Run) -> None:
    # given a warm-up that left a mark of 5000, and a load that touched 300 between two readings
    run.adds(baseline(10, mark_before=5000), resets("true"))
    view = run.adds(phase(12, "copy", reading(heap=100, mark=300)))
    assert (view.peak_bytes, view.peak_ns, view.peaks) == (300, 2 * MS, Held(100, 0, 0))


def test_given_marks_that_nobody_may_reset_then_only_what_goes_beyond_the_old_one_is_of_the_load(run: Run) -> None:
    run.adds(baseline(10, mark_before=5000), resets("false"))
    assert run.adds(phase(12, "copy", reading(heap=100, mark=5000))).peak_bytes == 100
    assert run.adds(phase(13, "copy", reading(heap=100, mark=5001))).peak_bytes == 5001


def test_given_the_same_height_twice_then_the_peak_is_where_it_was_first_whatever_is_read_first(run: Run) -> None:
    # given a sample of 12 ms that is applied after an event of 13 ms
    view = run.adds(baseline(10), sample(12, reading(heap=50)), phase(13, "read", reading(heap=50)))
    assert (view.peak_bytes, view.peak_ns) == (50, 2 * MS)


def test_given_a_tensor_in_flight_then_it_is_named_and_its_work_counts_when_it_is_done(run: Run) -> None:
    tensor = begin(12, Operation.MATERIALISE, Pool.HEAP, 1, "a", 64)
    run.knows(spec=SPEC, plan={"work_bytes": 128, "usable_bytes": 4096}, theory={"peak_rss_bytes": 99})
    view = run.adds(baseline(10), phase(11, "read"), tensor)
    assert (view.phase, view.tensor, view.done_bytes, view.work_bytes) == ("read", "a", 0, 128)
    assert view.theory_bytes == 99
    assert [(row.tensor, row.elapsed_ns) for row in view.operations] == [("a", None)]

    assert run.adds(end(14, tensor)).done_bytes == 64
    assert [(row.tensor, row.elapsed_ns) for row in view.operations] == [("a", 2 * MS)]


def test_given_what_the_code_printed_then_each_line_is_told_once_in_order(run: Run) -> None:
    lines = [LogLine(number * MS, "stderr", f"line {number}") for number in range(5)]
    run.adds(*lines[:2])
    assert run.look().log == tuple(lines[:2])
    assert run.adds(*lines[2:]).log == tuple(lines)


def test_given_facts_that_come_one_by_one_then_those_of_the_whole_run_are_kept(run: Run) -> None:
    assert run.knows(spec=SPEC).facts == {"spec": SPEC}
    view = run.knows(recipe="model = 1", tensors={"expected": 1})
    assert view.facts == {"spec": SPEC, "recipe": "model = 1"}
    assert run.look().facts is view.facts, "nothing new: nothing is built anew"


# --- its end


def test_given_what_comes_after_resident_then_it_is_not_in_the_picture(run: Run) -> None:
    run.adds(baseline(10), resets("true"), phase(11, "read", reading(heap=7)))
    before = run.adds(resident(20, reading(heap=40, file=2)))
    assert (before.resident, before.load_ns, before.peak_bytes) == (True, 10 * MS, 42)

    after = run.adds(
        sample(21, reading(heap=900 * MIB)),
        phase(22, "verify", reading(heap=900 * MIB)),
        sample(23, reading(file=900 * MIB)),
        named(24, "trimmed", reading(heap=900 * MIB)),
    )
    assert after.phase == "verify"
    assert (after.held, after.peaks, after.peak_bytes) == (Held(40, 2, 0), Held(40, 2, 0), 42)
    assert (after.load_ns, after.phases, after.series) == (10 * MS, ((1 * MS, "read"),), before.series)


def test_given_a_completed_run_then_its_document_is_there_and_nothing_is_read_any_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.knows(spec=SPEC)
    view = run.adds(baseline(10), resets("true"), resident(20, reading(heap=40)))
    assert (view.ended, view.died, view.result) == (False, False, None)

    view = run.knows(outcome=COMPLETED)
    assert (view.ended, view.died, view.outcome) == (True, False, COMPLETED)
    assert view.result is not None
    assert view.result["peak"]["rss_bytes"] == 40

    monkeypatch.setattr(CaptureReader, "_rows", lambda *_: pytest.fail("read after the end"))
    assert run.follower.poll() == (view, False)


def test_given_a_death_in_the_middle_then_the_picture_ends_where_it_was_last_seen(run: Run) -> None:
    tensor = begin(14, Operation.MATERIALISE, Pool.HEAP, 1, "a", 300 * MIB)
    run.adds(baseline(10), resets("true"), phase(11, "read", reading()), tensor)
    run.adds(sample(15, reading(heap=100 * MIB)), sample(25, reading(heap=200 * MIB, mark=210 * MIB)))
    view = run.knows(spec=SPEC, outcome=KILLED)
    assert (view.died, view.ended, view.resident) == (True, True, False)
    assert (view.tensor, view.operations[0].elapsed_ns) == ("a", None)
    assert (view.load_ns, view.held.heap_bytes, view.peak_bytes) == (15 * MS, 200 * MIB, 210 * MIB)
    assert view.result is not None
    assert (view.result["died_at"], view.result["peak"]["rss_bytes"]) == (KILLED["died_at"], 210 * MIB)


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "refused"])
def test_given_an_end_before_the_baseline_then_nothing_died_that_was_not_alive(run: Run, outcome: str) -> None:
    run.adds(phase(1, "import", reading()), sample(2, reading()))
    view = run.knows(spec=SPEC, outcome={"outcome": outcome, "message": "no", "died_at": None})
    assert (view.died, view.ended, view.load_ns) == (False, True, None)


def test_given_a_capture_damaged_under_its_eyes_then_it_says_so(run: Run) -> None:
    run.look()
    run.writer.append([], [phase(1, "import")], [])
    run.writer._db.execute("UPDATE events SET kind = 'dance'")
    with pytest.raises(CaptureError, match="damaged"):
        run.follower.poll()


def open_files_below(folder: Path) -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(f"{folder}/")]


def test_given_it_is_left_then_its_reader_is_closed(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "run.meminspect", 0)
    writer.fact("spec", SPEC)
    writer.close()
    with RunFollower(tmp_path / "run.meminspect") as follower:
        follower.poll()
        assert open_files_below(tmp_path) != []
    assert open_files_below(tmp_path) == []


# --- what a view tells of itself


@pytest.mark.parametrize(
    ("usable", "limit", "base", "ceiling"),
    [
        (None, None, BASE, None),
        (10**6, None, BASE, 10**6 - 1010),  # of heap and pinned; files' pages can be reclaimed
        (10**6, 10**5, BASE, 10**5 - 1000),  # the ring of events is charged to us, not to the limit
        (10**5, 10**6, BASE, 10**5 - 1010),
        (None, 10**5, BASE, 10**5 - 1000),
        (900, None, BASE, 0),  # never below nothing
        (2 * PROCESS_BYTES, None, None, PROCESS_BYTES),  # before the baseline: what such a process takes
    ],
)
def test_the_ceiling_is_what_the_tighter_of_machine_and_limit_leaves_above_the_baseline(
    usable: int | None, limit: int | None, base: Reading | None, ceiling: int | None
) -> None:
    facts = {"spec": {"limit_bytes": limit}, "plan": {"usable_bytes": usable}}
    assert RunView(Path("x"), facts=facts, baseline=base).ceiling_bytes == ceiling


def test_theory_under_a_limit_is_what_can_be_resident_and_in_the_end_what_the_result_says() -> None:
    pools = {"heap_bytes": 0, "file_bytes": 9000, "pinned_bytes": 0}
    theory = {
        "floor_bytes": 9000, "peak": pools, "peak_rss_bytes": 9000, "steady": pools,
        "bill": [{"item": "floor", "pool": "file", "bytes": 9000}],
    }  # fmt: skip
    view = RunView(Path("x"), facts={"spec": {"limit_bytes": 5000}, "theory": theory}, baseline=BASE)
    assert view.theory_bytes == 4000
    ended = RunView(Path("x"), facts=view.facts, baseline=BASE, result={"theory": theory})  # it was not confined
    assert ended.theory_bytes == 9000


def test_a_view_of_nothing_has_neither_ceiling_nor_theory_nor_work() -> None:
    view = RunView(Path("x"))
    assert (view.ceiling_bytes, view.theory_bytes, view.work_bytes, view.strategy) == (None, None, 0, "")


def test_a_document_says_whether_a_run_waits_is_not_to_be_or_goes_on(run: Run) -> None:
    absent = RunView(Path("x"))
    assert absent.document("sharded", waits=True)["outcome"] == "waiting"
    assert absent.document("sharded", waits=False) == {
        "strategy": "sharded",
        "outcome": "not_run",
        "peak": {"heap_bytes": None, "file_bytes": None, "pinned_bytes": None, "rss_bytes": None},
        "theory": None,
        "returned_s": None,
        "resident_s": None,
        "repeat": {"index": 1, "of": 1},
    }

    run.knows(spec=SPEC, theory={"floor_bytes": 9})
    document = run.adds(baseline(10), sample(11, reading(heap=5, file=6))).document("?", waits=True)
    assert (document["strategy"], document["outcome"], document["theory"]) == ("naive", "running", {"floor_bytes": 9})
    assert document["peak"] == {"heap_bytes": 5, "file_bytes": 6, "pinned_bytes": 0, "rss_bytes": 11}

    view = run.knows(outcome=COMPLETED)
    assert view.document("?", waits=True) is view.result


# --- where the system tells only the total


@pytest.mark.parametrize("together", [True, False])
def test_given_totals_only_then_they_are_followed_and_no_pool_is_claimed(run: Run, together: bool) -> None:
    untold = Event(10 * MS, EventKind.READING, name="baseline")
    if not together:
        run.adds(total(8, 900), total(9, 1000))
        run.adds(untold)
    view = run.adds(*([total(8, 900), total(9, 1000), untold] if together else []), total(12, 4000), total(14, 3000))
    assert view.baseline is not None
    assert (view.baseline.rss_bytes, view.tells_pools) == (1000, False)
    assert (view.held, view.peak_bytes) == (Held(undivided_bytes=2000), 3000)
    assert view.document("naive", waits=False)["peak"] == {
        "heap_bytes": None, "file_bytes": None, "pinned_bytes": None, "rss_bytes": 3000,
    }  # fmt: skip
    (column,) = view.series.columns(1, view.series.end_ns)
    assert column is not None
    assert (column.undivided_bytes, column.total_bytes) == (3000, 3000)


def test_given_no_sample_before_the_baseline_then_the_first_one_stands_for_it(run: Run) -> None:
    run.adds(Event(10 * MS, EventKind.READING, name="baseline"))
    view = run.adds(total(12, 4000), total(14, 5000))
    assert view.baseline is not None
    assert (view.baseline.rss_bytes, view.held.total_bytes) == (4000, 1000)
