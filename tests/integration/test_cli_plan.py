"""`python -m meminspect plan`, as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meminspect.strategies import STRATEGIES
from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line import Home

POOLS = {"heap_bytes", "file_bytes", "pinned_bytes", "vram_allocated_bytes", "vram_reserved_bytes"}


def meminspect(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meminspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plan") / "tiny"
    return tiny_checkpoint("gpt2", "hf", "safetensors", "float16", out, shards=2)


def test_a_person_gets_the_answer_first(checkpoint: Path) -> None:
    done = meminspect("plan", "--ckpt", checkpoint, "--ram", "1GiB")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Take ")
    assert "planned for 1.00 GiB of usable RAM, as --ram says" in lines
    assert all(strategy in done.stdout for strategy in STRATEGIES)
    assert max(map(len, lines)) <= 80


def test_a_machine_gets_one_document_of_the_contract(checkpoint: Path) -> None:
    done = meminspect("plan", "--ckpt", checkpoint, "--ram", "16GiB", "--vram", "24GB", "--dtype", "bfloat16", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document.keys() == {"schema", "checkpoint", "machine", "budgets", "recommended", "why", "strategies"}
    assert document["schema"] == "meminspect.plan/1"
    assert document["budgets"] == {"ram_bytes": 16 << 30, "vram_bytes": 24 * 10**9}
    assert sorted(row["strategy"] for row in document["strategies"]) == sorted(STRATEGIES)
    for row in document["strategies"]:
        assert row.keys() == {"strategy", "available", "why_not", "verdict", "theory"}
        if not row["available"]:
            assert (row["verdict"], row["theory"]) == (None, None)
            continue
        assert row["verdict"] == "fits"
        assert row["theory"].keys() >= {"floor_bytes", "peak", "steady", "bill"}
        assert row["theory"]["peak"].keys() == row["theory"]["steady"].keys() == POOLS


@pytest.mark.parametrize(
    ("by", "figure"),
    [
        ("heap", lambda theory: theory["peak"]["heap_bytes"] + theory["peak"]["pinned_bytes"]),
        ("vram", lambda theory: theory["peak"]["vram_reserved_bytes"]),
        ("resident", lambda theory: theory["moved_bytes"]),
    ],
)
def test_strategies_are_sorted_by_what_is_asked_for_and_the_first_is_recommended(
    checkpoint: Path, by: str, figure: Callable[[dict[str, Any]], int]
) -> None:
    done = meminspect("plan", "--ckpt", checkpoint, "--device", "cuda", "--vram", "24GB", "--by", by, "--json")

    document = json.loads(done.stdout)
    rows = [row for row in document["strategies"] if row["available"]]
    assert {row["verdict"] for row in rows} == {"fits"}
    figures = [figure(row["theory"]) for row in rows]
    assert figures == sorted(figures)
    assert document["recommended"] == rows[0]["strategy"]


def test_what_does_not_fit_is_said_and_not_recommended(checkpoint: Path) -> None:
    document = json.loads(
        meminspect("plan", "--ckpt", checkpoint, "--ram", "10", "--dtype", "float32", "--json").stdout
    )

    assert {row["verdict"] for row in document["strategies"] if row["available"]} == {"does_not_fit"}
    assert document["recommended"] is None
    assert document["why"].startswith("no strategy fits: even ")


def test_a_device_that_no_strategy_can_use_greys_them_all(checkpoint: Path) -> None:
    done = meminspect("plan", "--ckpt", checkpoint, "--device", "abacus")

    assert done.returncode == 0
    assert done.stdout.count("not available: ") == len(STRATEGIES)


def test_a_bad_option_is_an_error_document_under_json(checkpoint: Path) -> None:
    done = meminspect("plan", "--ckpt", checkpoint, "--dtype", "int4", "--json")

    assert (done.returncode, done.stderr) == (2, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "meminspect.error/1"
    assert document["error"] == "usage"
    assert "int4" in document["message"]


def test_a_terminal_without_unicode_gets_ascii(checkpoint: Path) -> None:
    done = meminspect("plan", "--ckpt", checkpoint, "--ram", "1MiB", PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "# cannot be reclaimed" in done.stdout


def test_colours_are_shown_when_forced_and_not_when_unwanted(checkpoint: Path) -> None:
    forced = meminspect("plan", "--ckpt", checkpoint, FORCE_COLOR="1", TERM="xterm-256color")
    unwanted = meminspect("plan", "--ckpt", checkpoint, FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")

    assert "\x1b[34m" in forced.stdout
    assert "\x1b[34m" not in unwanted.stdout


@pytest.mark.parametrize("arguments", [("plan",), ("--help",), ("plan", "--help")])
def test_a_reader_that_goes_away_is_no_error(checkpoint: Path, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    options = ("--ckpt", str(checkpoint)) if arguments == ("plan",) else ()
    command = [sys.executable, "-m", "meminspect", *arguments, *options]

    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_is_said(checkpoint: Path, options: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "meminspect", "plan", "--ckpt", str(checkpoint), *options]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 4
    assert done.stderr == "meminspect: error: No space left on device\n"


def test_given_metal_when_planned_then_what_its_allocator_would_reserve_is_null_with_the_reason(
    home: Home, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny")

    done = home.meminspect("plan", "--ckpt", checkpoint, "--device", "mps", "--json")

    rows = [row for row in done.document["strategies"] if row["available"]]
    assert rows
    for theory in (row["theory"] for row in rows):
        assert theory["peak"]["vram_allocated_bytes"] >= theory["floor_bytes"]
        assert theory["peak"]["vram_reserved_bytes"] is None
        assert "only Metal says" in theory["vram_reserved_reason"]
    table = home.meminspect("plan", "--ckpt", checkpoint, "--device", "mps").stdout
    assert "reserves for them is not available" in " ".join(table.split())


@pytest.mark.parametrize("device", ["xpu", "xpu:1", "mps"])
def test_given_no_such_gpu_when_a_run_on_it_is_asked_for_then_it_is_refused_with_the_fix_and_nothing_is_started(
    home: Home, tmp_path: Path, device: str
) -> None:
    checkpoint = tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny")

    done = home.meminspect("run", "--ckpt", checkpoint, "-s", "naive", "--device", device, "--out", tmp_path / "out")

    assert done.status == 2
    assert done.stderr.count("\n") <= 2
    assert f"there is no {device} here" in done.stderr
    assert f"meminspect plan --device {device}" in done.stderr
    assert not (tmp_path / "out").exists()
