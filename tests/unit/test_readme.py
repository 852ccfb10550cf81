from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from meminspect.cli.registry import VERBS
from meminspect.strategies import STRATEGIES

MOMENTS = [
    "before", "first torch.load", "del", "second torch.load", "del", "malloc_trim", "mmap=True", "every page touched",
]  # fmt: skip
README = Path(__file__).parents[2] / "README.md"


def test_the_table_of_strategies_is_the_registry() -> None:
    table = README.read_text().partition("<!-- strategies -->\n")[2].partition("<!-- /strategies -->")[0]

    rows = [f"| `{s.id}` | {s.summary} | {s.good} | {s.bad} |" for s in STRATEGIES.values()]

    assert table.splitlines()[2:] == rows


def test_every_verb_is_listed_and_no_other() -> None:
    verbs = README.read_text().partition("| verb |")[2].partition("\n\n")[0].splitlines()[2:]

    assert sorted(line.split("`")[1] for line in verbs) == sorted(VERBS)


def test_there_are_two_commands_and_each_installs_by_the_constraints() -> None:
    blocks = README.read_text().split("```sh\n")[1:]

    commands = [block.partition("\n```")[0] for block in blocks]

    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)
    assert all("-c constraints.txt" in command for command in commands)


def test_the_example_shows_that_tracemalloc_sees_no_tensor_and_that_a_mapping_is_no_heap(tmp_path: Path) -> None:
    # given the README's program, and a checkpoint of 128 MiB
    program = README.read_text().partition("<!-- blind -->\n```python\n")[2].partition("```")[0]
    torch.save({f"tensor {index}": torch.ones(4 << 20) for index in range(8)}, tmp_path / "weights.pth")

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "weights.pth"], capture_output=True, text=True, check=True
    )

    shown = done.stdout.splitlines()
    figures = [[float(number) for number in re.findall(r"\d+(?:\.\d)?(?= )", line)] for line in shown]
    traced, heap, file = zip(*figures, strict=True)
    assert [line.partition("  ")[0] for line in shown] == MOMENTS
    before, mapped, touched = (MOMENTS.index(name) for name in ("before", "mmap=True", "every page touched"))
    assert max(traced) < 1
    assert min(heap[before + 1], heap[MOMENTS.index("second torch.load")]) >= heap[before] + 127
    assert max(heap[mapped], heap[touched]) < heap[before] + 16
    assert file[mapped] < file[before] + 16
    assert file[touched] >= file[mapped] + 127


def test_the_output_beside_it_has_a_line_for_each_moment() -> None:
    rest = README.read_text().partition("<!-- blind -->\n```python\n")[2].partition("```")[2]
    shown = rest.partition("```\n")[2].partition("```")[0].splitlines()

    assert [line.partition("  ")[0] for line in shown] == MOMENTS
