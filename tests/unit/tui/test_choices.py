"""The options of the runs to come, in words and as a specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from meminspect.engine.spec import RunSpec
from meminspect.strategies import LoadOptions
from meminspect.tui.choices import Choices

MIB = 1 << 20


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (Choices(), "cpu, dtype as stored, no limit, page cache as it is"),
        (
            Choices(LoadOptions("cuda", "bfloat16", "float16"), 512 * MIB, "cold", 600.0),
            "cuda, bfloat16, built in float16, limit 512.00 MiB, cold page cache, at most 10:00 min",
        ),
        (
            Choices(LoadOptions(quantisation="nf4")),
            "cpu, dtype as stored, quantised to nf4, no limit, page cache as it is",
        ),
        (
            Choices(LoadOptions(max_memory_bytes=2048 * MIB)),
            "cpu, dtype as stored, 2.00 GiB may stay, no limit, page cache as it is",
        ),
        (
            Choices(LoadOptions(read_ahead="thread")),
            "cpu, dtype as stored, read ahead by thread, no limit, page cache as it is",
        ),
        (Choices(forward=True), "cpu, dtype as stored, no limit, page cache as it is, then called once"),
        (Choices(aim="resident"), "cpu, dtype as stored, no limit, page cache as it is, by soonest resident"),
        (Choices(LoadOptions(dtype="float32"), 0, "warm"), "cpu, float32, limit 0 B, warm page cache"),
    ],
)
def test_choices_are_said_in_a_line(choices: Choices, words: str) -> None:
    assert choices.words() == words


def test_every_choice_is_in_the_run_that_is_asked_for() -> None:
    load = LoadOptions("cuda", "bfloat16", "float16")
    spec = Choices(load, 512 * MIB, "cold", 90.0, forward=True).spec(
        Path("model"), "sharded", Path("x.meminspect"), force=True
    )
    assert spec == RunSpec(
        checkpoint=Path("model"), strategy="sharded", capture=Path("x.meminspect"), options=load, force=True,
        cache="cold", limit_bytes=512 * MIB, timeout_s=90.0, forward=True, repeat_index=1,
        repeat_of=1,
    )  # fmt: skip


def test_without_choices_a_run_is_as_the_command_line_makes_it() -> None:
    spec = Choices().spec(Path("model"), "naive", Path("x.meminspect"), force=False)
    assert spec == RunSpec(Path("model"), "naive", Path("x.meminspect"))
    assert RunSpec.from_document(spec.document()) == RunSpec(Path("model").absolute(), "naive", Path("x.meminspect"))
