from __future__ import annotations

from pathlib import Path

from meminspect.cli.registry import VERBS
from meminspect.strategies import STRATEGIES

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
