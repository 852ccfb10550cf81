from __future__ import annotations

import re

import pytest

from meminspect.cli.options import able_strategies, chosen_strategies
from meminspect.strategies import LIBRARIES, STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.synthesis import imagined_checkpoint


def test_all_is_what_can_load_the_checkpoint_and_the_others_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    task = task_for(imagined_checkpoint(), LoadOptions())

    able = able_strategies(chosen_strategies(["all"]), task)

    assert able == [id_ for id_ in STRATEGIES if STRATEGIES[id_].why_not(task) is None]
    assert set(STRATEGIES) - set(able) == {"per-tensor-files", *LIBRARIES}
    notes = " ".join(capsys.readouterr().err.split())
    assert re.findall(r"note: (\S+) is left out: it takes", notes) == ["per-tensor-files"]
    assert notes.count("left out") < len(LIBRARIES), "one line for those that lack the same"
    assert "pip install 'meminspect[hf]'" in notes


@pytest.mark.parametrize("named", [["per-tensor-files"], ["naive,per-tensor-files"]])
def test_what_is_named_is_run_and_refused_there(named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = chosen_strategies(named)

    assert able_strategies(chosen, task_for(imagined_checkpoint(), LoadOptions())) == chosen
    assert capsys.readouterr().err == ""


def test_where_none_can_load_it_all_are_left_to_say_why() -> None:
    task = task_for(imagined_checkpoint(), LoadOptions(device="abacus"))
    assert able_strategies(list(STRATEGIES), task) == list(STRATEGIES)
