"""`meminspect run` as a user starts it: what it prints, where captures go, and what its exit status says."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from command_line import Done, Home

from meminspect.capture.records import EventKind
from meminspect.capture.store import CaptureReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from checkpoint_variants import Variants

# The types of the contract's values; a dict is an object with at least these keys, a list holds things of one kind.
_BYTES, _TIME, _TEXT = (int, None), (float, None), (str, None)
_POOLS = dict.fromkeys(
    ("heap_bytes", "file_bytes", "pinned_bytes", "vram_allocated_bytes", "vram_reserved_bytes"), _BYTES
)
_BILL = [{"item": (str,), "pool": _TEXT, "bytes": (int,)}]
RUN: dict[str, Any] = {
    "strategy": (str,), "outcome": (str,), "message": (str,), "died_at": (dict, None),
    "in_use": (dict, None), "ceiling": (dict, None), "evidence": _TEXT,
    "returned_s": _TIME, "resident_s": _TIME,
    "cache": {
        "state": _TEXT, "fraction_before": _TIME, "fraction_after": _TIME, "reason": _TEXT,
        "files": [
            {"name": (str,), "fraction_before": _TIME, "lowest_during": _TIME, "highest_during": _TIME,
             "fraction_after": _TIME, "reason": _TEXT}
        ],
    },
    "baseline": {"rss_bytes": _BYTES, "heap_bytes": _BYTES, "file_bytes": _BYTES},
    "peak": {**_POOLS, "rss_bytes": _BYTES, "vram_used_bytes": _BYTES},
    "peak_bracket_bytes": {**_POOLS, "rss_bytes": _BYTES}, "peak_bracket_reason": _TEXT, "vram_reason": _TEXT,
    "device": (dict, None), "device_shortage": (dict, None),
    "pools_reason": _TEXT,
    "peak_at": {"t_s": _TIME, "phase": _TEXT, "tensor": _TEXT},
    "steady": {
        **_POOLS, "rss_bytes": _BYTES, "vram_used_bytes": _BYTES, "retained_heap_bytes": _BYTES,
        "trimmed_heap_bytes": _BYTES,
    },
    "theory": {"floor_bytes": (int,), "peak": _POOLS, "steady": _POOLS, "bill": _BILL},
    "bill": _BILL,
    "tensors": dict.fromkeys(("expected", "materialised", "verified", "mismatched", "missing", "unexpected"), (int,)),
    "io": {
        "read_bytes": _BYTES, "major_faults": _BYTES, "minor_faults": _BYTES, "bytes_per_s": _TIME, "reason": _TEXT,
        "pressure": (dict, None), "pressure_reason": _TEXT, "file_system": _TEXT, "network": (bool, None),
        "file_system_reason": _TEXT,
    },
    "forward": (dict, None), "forward_reason": _TEXT,
    "overhead": {
        "samples": (int,), "sampler_cpu_s": (float,), "writer_cpu_s": (float,), "hooks_s": (float,),
        "cache_watch_cpu_s": (float,),
        "accounted_fraction": (float,), "max_gap_ms": (float,), "events": (int,), "event_us_median": (float,),
    },
    "limit": (dict, None),
    "repeat": {"index": (int,), "of": (int,)},
    "capture": (str,),
    "better": (dict, None),
}  # fmt: skip


def breaches(value: object, shape: Any, at: str = "run") -> list[str]:
    """Where a document differs from the contract."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{at} is no object"]
        missing = [f"{at}.{key} is missing" for key in shape.keys() - value.keys()]
        return missing + [
            breach for key in shape.keys() & value.keys() for breach in breaches(value[key], shape[key], f"{at}.{key}")
        ]
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [f"{at} is no list with something in it"]
        return [breach for item in value for breach in breaches(item, shape[0], f"{at}[]")]
    return [] if (None if value is None else type(value)) in shape else [f"{at} is {value!r}"]


class Scenario(NamedTuple):
    checkpoint: str
    arguments: tuple[str, ...]


SEVERAL = ("mmap-assign", "naive")

# All but those of slow tests are run when the first is asked for, two at a time: they measure nothing that their
# neighbours could disturb.
SCENARIOS = {
    "several": Scenario("meta", ("-s", ",".join(SEVERAL), "--out", "OUT")),
    "repeated": Scenario("shards", ("-s", "naive-cast,naive", "--repeat", "2", "--json")),
    "cast": Scenario("slices", ("-s", "naive", "--dtype", "bfloat16", "--json", "--out", "OUT.meminspect")),
    "bits cast wider": Scenario("random bits", ("-s", "mmap-assign", "--dtype", "float32", "--json")),
    "bits cast": Scenario("random bits", ("-s", "meta-assign", "--dtype", "bfloat16", "--json")),
    "bits": Scenario("random bits", ("-s", "sharded", "--forward", "--json")),
    "refused": Scenario("absurd", ("-s", "meta-assign,naive", "--json")),
    "refused, for a person": Scenario("absurd", ("-s", "naive",)),
    "refused, then run": Scenario("absurd", ("-s", "naive", "-s", "unknown")),
    "lacking": Scenario("without a norm", ("-s", "naive", "--json")),
    "extra": Scenario("with an extra tensor", ("-s", "sharded", "--forward")),
    "empty": Scenario("empty", ("-s", "naive",)),
}  # fmt: skip


OF_SLOW_TESTS = ("bits cast wider", "bits cast")


class Ended(NamedTuple):
    done: Done
    home: Home
    out: Path


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, variants: Variants) -> Callable[[str], Ended]:
    folder = tmp_path_factory.mktemp("runs")
    paths = {scenario.checkpoint: variants[scenario.checkpoint] for scenario in SCENARIOS.values()}

    def run(name: str, scenario: Scenario) -> Ended:
        home = Home(folder / name.replace(" ", "-"))
        out = home.folder / "out"
        arguments = [argument.replace("OUT", str(out)) for argument in scenario.arguments]
        return Ended(home.meminspect("run", "--ckpt", paths[scenario.checkpoint], *arguments), home, out)

    futures: dict[str, Future[Ended]] = {}
    with ThreadPoolExecutor(2) as executor:
        for name, scenario in SCENARIOS.items():
            if name not in OF_SLOW_TESTS:
                futures[name] = executor.submit(run, name, scenario)
    return lambda name: futures[name].result() if name in futures else run(name, SCENARIOS[name])


def test_given_several_strategies_then_a_person_gets_sentences_a_table_and_a_chart(
    ended: Callable[[str], Ended],
) -> None:
    done, home, out = ended("several")

    assert done.status == 0
    lines = done.stdout.splitlines()
    for strategy in SEVERAL:
        assert any(line.startswith(f"{strategy} peaked at ") for line in lines)
        assert any(line.startswith(strategy) and line.endswith("completed") for line in lines), "a row of the table"
        assert any(line.lstrip().startswith(f"{strategy}┤") for line in lines), "a bar of the chart"
    assert "measured, ░ theory" in done.stdout
    assert max(map(len, lines[: lines.index("captures")])) <= 80
    assert "\x1b" not in done.stdout + done.stderr
    *listed, hint = lines[lines.index("captures") + 1 :]
    assert hint.startswith("meminspect export ")
    named = [line.strip().replace("~", str(home.folder), 1) for line in listed]
    assert sorted(map(Path, named)) == sorted(out.iterdir())
    assert all(strategy in name for strategy, name in zip(SEVERAL, named, strict=True))


def test_given_no_terminal_then_progress_is_a_line_a_phase_on_stderr(ended: Callable[[str], Ended]) -> None:
    lines = ended("several").done.stderr.splitlines()

    assert all(line.partition(": ")[0] in SEVERAL for line in lines)
    assert {strategy for strategy in SEVERAL if f"{strategy}: import" in lines} == set(SEVERAL)


def test_given_json_then_stdout_is_one_document_with_every_key_of_the_contract(ended: Callable[[str], Ended]) -> None:
    for name in ("repeated", "cast", "bits"):
        document = ended(name).done.document
        assert document.keys() == {"schema", "checkpoint", "machine", "runs", "summary"}
        assert document["schema"] == "meminspect.run/1"
        for run in document["runs"]:
            assert breaches(run, RUN) == []
            assert sum(line["bytes"] for line in run["bill"]) == run["peak"]["rss_bytes"]


def test_given_repeats_then_strategies_take_turns_and_who_goes_first_changes(ended: Callable[[str], Ended]) -> None:
    done, home, _ = ended("repeated")
    runs = done.document["runs"]

    assert done.status == 0
    assert [(run["strategy"], run["repeat"]) for run in runs] == [
        ("naive-cast", {"index": 1, "of": 2}),
        ("naive", {"index": 1, "of": 2}),
        ("naive", {"index": 2, "of": 2}),
        ("naive-cast", {"index": 2, "of": 2}),
    ]
    started = []
    for run in runs:
        with CaptureReader(Path(run["capture"])) as capture:
            started.append(capture.fact("started")["monotonic_ns"])
    assert started == sorted(started)
    assert len({run["capture"] for run in runs}) == 4
    assert "naive-cast 2/2: import" in done.stderr.splitlines()
    assert {Path(run["capture"]).parent for run in runs} == {home.captures}, "XDG_DATA_HOME says where"
    for line, strategy in zip(done.document["summary"], ("naive-cast", "naive"), strict=True):
        times = sorted(run["resident_s"] for run in runs if run["strategy"] == strategy)
        assert (line["strategy"], line["runs"], line["completed"]) == (strategy, 2, 2)
        assert line["resident_s"] == {"median": sum(times) / 2, "min": times[0], "max": times[1]}


def test_given_a_file_as_out_then_it_is_a_capture_that_can_be_copied_alone(ended: Callable[[str], Ended]) -> None:
    done, home, out = ended("cast")
    capture = Path(done.run["capture"])

    assert capture == out.with_suffix(".meminspect")
    assert not home.captures.exists()
    assert not list(capture.parent.glob("out.meminspect-*")), "nothing beside the one file"
    assert capture.read_bytes()[18:20] == b"\x01\x01", (
        "out of WAL: a read-only folder can be opened (sqlite fileformat2)"
    )
    with sqlite3.connect(f"file:{capture}?immutable=1", uri=True) as database:
        assert database.execute("SELECT count(*) FROM events").fetchone()[0] > 0
    database.close()


@pytest.mark.slow
def test_given_a_dtype_then_the_loaded_model_has_it_and_is_the_checkpoint_all_the_same(
    ended: Callable[[str], Ended],
) -> None:
    runs = {name: ended(name).done for name in OF_SLOW_TESTS}
    for name, done in runs.items():
        tensors = done.run["tensors"]
        assert (done.status, tensors["mismatched"], done.run["message"]) == (0, 0, ""), name
        assert tensors["verified"] == tensors["expected"] > 0
    wide, narrow = (done.run["theory"]["floor_bytes"] for done in runs.values())
    assert wide == 2 * narrow


def test_given_nan_of_every_payload_then_copies_verify(ended: Callable[[str], Ended]) -> None:
    done = ended("bits").done
    tensors = done.run["tensors"]

    assert (done.status, tensors["mismatched"], tensors["missing"], tensors["unexpected"]) == (0, 0, 0, 0)
    assert tensors["verified"] == tensors["materialised"] == tensors["expected"] > 0


def test_given_a_first_forward_pass_then_it_is_measured_after_the_load_and_before_the_verification(
    ended: Callable[[str], Ended],
) -> None:
    (run,) = ended("bits").done.document["runs"]
    assert (run["outcome"], run["message"], run["forward_reason"]) == ("completed", "", None)
    assert run["forward"]["s"] > 0
    assert run["forward"]["peak_heap_bytes"] > 0
    assert {type(run["forward"][key]) for key in ("peak_rss_bytes", "major_faults")} == {int}
    with CaptureReader(Path(run["capture"])) as capture:
        phases = [event.name for _, event in capture.events() if event.kind is EventKind.PHASE]
        assert phases[-3:] == ["touch", "first forward", "verify"]
        assert {row.file for row in capture.page_cache()} == set(range(len(run["cache"]["files"])))


def test_given_a_model_that_cannot_be_called_then_a_person_reads_why(ended: Callable[[str], Ended]) -> None:
    said = " ".join(ended("extra").done.stdout.split())
    assert "first forward pass not available: a model of unknown architecture has no forward pass" in said


def test_given_a_checkpoint_beyond_the_machine_then_heap_strategies_are_refused(ended: Callable[[str], Ended]) -> None:
    done = ended("refused").done

    assert done.status == 4
    for run in done.document["runs"]:
        assert run["outcome"] == "refused"
        assert "--force" in run["message"]
        assert run["theory"]["floor_bytes"] > 500e9
        assert run["peak"]["rss_bytes"] is run["bill"] is run["returned_s"] is None
        unknown = ("cache", "bill", "tensors", "overhead")
        assert breaches(
            {key: value for key, value in run.items() if key not in unknown},
            {key: value for key, value in RUN.items() if key not in unknown},
        ) == []  # fmt: skip


def test_given_a_refused_run_then_a_person_reads_why_and_how_to_go_on(ended: Callable[[str], Ended]) -> None:
    done = ended("refused, for a person").done

    assert done.status == 4
    first = " ".join(done.stdout.split("\n\n")[0].split())
    assert first.startswith("naive: predicted to need ")
    assert first.endswith(" can be had: it runs only if that is forced (--force, or yes to the question in the app)")
    assert "refused" in done.stdout
    assert "Traceback" not in done.stderr


def test_given_one_unknown_strategy_then_none_is_run(ended: Callable[[str], Ended]) -> None:
    done, home, _ = ended("refused, then run")

    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("meminspect: error: there is no strategy 'unknown'\nhint: choose from ")
    assert not home.captures.exists()


def test_given_tensors_that_no_model_has_then_they_load_into_a_skeleton_and_that_is_said(
    ended: Callable[[str], Ended],
) -> None:
    lacking, extra = ended("lacking").done, ended("extra").done

    assert (lacking.status, extra.status) == (0, 0)
    assert lacking.document["checkpoint"]["architecture"] == "skeleton"
    assert any("model.norm.weight" in warning for warning in lacking.document["checkpoint"]["warnings"])
    tensors = lacking.run["tensors"]
    assert tensors["verified"] == tensors["expected"]
    assert tensors["missing"] == tensors["unexpected"] == 0
    assert "skeleton" in extra.stdout + extra.stderr
    assert "extra.bias" in extra.stdout + extra.stderr


def test_given_a_checkpoint_of_empty_tensors_then_nothing_divides_by_its_size(ended: Callable[[str], Ended]) -> None:
    done = ended("empty").done

    assert done.status == 0
    assert done.stdout.startswith("naive peaked at ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-s", "nave"), "there is no strategy 'nave'"),
        (("-s", " , "), "no strategy is named"),
        ((), "Missing option '-s'"),
        (("-s", "naive", "--repeat", "0"), "0 is not in the range"),
        (("-s", "naive", "--dtype", "int8"), "'int8' is not one of"),
        (("-s", "naive,sharded", "--out", "one.meminspect"), "--out one.meminspect is one file, but"),
        (("-s", "naive", "--repeat", "2", "--out", "one.meminspect"), "--out one.meminspect is one file, but"),
        (("-s", "naive", "--out", "params.json/captures"), "params.json"),
        (("-s", "naive", "--out", "/proc/meminspect"), "/proc/meminspect"),
        (("-s", "naive", "--ckpt", "absent"), "absent: no such file or folder"),
        (("-s", "naive", "--ckpt", __file__), "test_cli_run.py: "),
        (("-s", "naive", "--demo"), "--ckpt and --demo name two checkpoints"),
        (("-s", "naive", "--cold", "--warm"), "--cold and --warm contradict each other"),
        (("-s", "naive", "--limit", "much"), "--limit: 'much' is not a size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_given_what_makes_no_sense_then_one_line_says_so(
    variants: Variants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    home, checkpoint = Home(tmp_path / "home"), variants["meta"]
    monkeypatch.chdir(checkpoint)
    for_a_person = home.meminspect("run", "--ckpt", checkpoint, *arguments)
    for_a_machine = home.meminspect("run", "--ckpt", checkpoint, "--json", *arguments)

    assert (for_a_person.status, for_a_person.stdout) == (2, "")
    first, *hints = for_a_person.stderr.splitlines()
    assert first.startswith("meminspect: error: ")
    assert message in first
    assert all(hint.startswith("hint: ") for hint in hints)
    assert len(hints) <= 1
    assert (for_a_machine.status, for_a_machine.stderr) == (2, "")
    assert for_a_machine.document["schema"] == "meminspect.error/1"
    assert message in for_a_machine.document["message"]
    assert not home.processes()


def test_given_an_out_file_that_exists_then_it_is_left_as_it_is(variants: Variants, tmp_path: Path) -> None:
    out = tmp_path / "mine.meminspect"
    out.write_text("mine")

    done = Home(tmp_path / "home").meminspect("run", "--ckpt", variants["meta"], "-s", "naive", "--out", out)

    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"meminspect: error: --out {out} exists already")
    assert out.read_text() == "mine"


def test_given_a_damaged_checkpoint_then_it_is_named_and_nothing_is_started(variants: Variants, tmp_path: Path) -> None:
    copy = variants.at("shards", tmp_path / "copy")
    shard = next(copy.glob("*-00002-*"))
    shard.write_bytes(shard.read_bytes()[:-1])

    done = Home(tmp_path / "home").meminspect("run", "--ckpt", copy, "-s", "naive", "--out", tmp_path / "out")

    assert (done.status, done.stdout) == (2, "")
    assert shard.name in done.stderr.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_given_slices_that_are_no_known_model_then_it_is_said_what_is_missing(
    variants: Variants, tmp_path: Path
) -> None:
    done = Home(tmp_path / "home").meminspect("run", "--ckpt", variants["slices without a norm"], "-s", "naive")

    assert (done.status, done.stdout) == (2, "")
    assert "norm.weight" in done.stderr
