"""Strategies of other packages: what is fit for use is in the registry, and of all else there is a line."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from meminspect.sampling.interpreter import Interpreter
from meminspect.strategies import STRATEGIES, LoadOptions, Strategy
from meminspect.strategies.plugins import GROUP, load_plugins
from meminspect.strategies.task import LoadTask, task_for
from meminspect.synthesis import imagined_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
import dataclasses
from meminspect.strategies.naive import STRATEGY as NAIVE

GOOD = dataclasses.replace(NAIVE, id="other")
SHADOW = NAIVE
RESERVED = dataclasses.replace(NAIVE, id="script")
ODD = dataclasses.replace(NAIVE, id="Not An Id")
NUMBER = 5

def fails(task):
    raise KeyError("wq")

BAD_RECIPE = dataclasses.replace(NAIVE, id="bad-recipe", recipe=fails)
BAD_LEDGER = dataclasses.replace(NAIVE, id="bad-ledger", ledger=fails)
BAD_MAPS = dataclasses.replace(NAIVE, id="bad-maps", maps=fails)
BAD_WORDS = dataclasses.replace(NAIVE, id="bad-words", recipe=lambda task: "model = (")
"""
OURS = dict.fromkeys(STRATEGIES)


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_plug_in.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def a_task(options: LoadOptions | None = None) -> LoadTask:
    return task_for(imagined_checkpoint(), options or LoadOptions())


def loaded(*names: str) -> tuple[dict[str, Strategy], tuple[str, ...]]:
    points = [EntryPoint(name.lower(), value=f"a_plug_in:{name}", group=GROUP) for name in names]
    found = load_plugins(OURS, points)
    return found.strategies, found.faults


def test_a_plug_in_is_a_strategy_like_ours() -> None:
    strategies, faults = loaded("GOOD")

    task = a_task()
    assert (list(strategies), faults) == (["other"], ())
    assert strategies["other"].why_not(task) is None
    assert strategies["other"].theory(task) == STRATEGIES["naive"].theory(task)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SHADOW", "its id 'naive' is one of meminspect's own"),
        ("RESERVED", "its id 'script' is one of meminspect's own"),
        ("ODD", "its id 'Not An Id' is not of small letters, digits and single hyphens"),
        ("NUMBER", "a_plug_in:NUMBER is a int, not a meminspect.strategies.Strategy"),
        ("ABSENT", "AttributeError: module 'a_plug_in' has no attribute 'ABSENT'"),
    ],
)
def test_what_is_unfit_is_left_out_with_a_line_and_the_others_stay(name: str, why: str) -> None:
    strategies, faults = loaded(name, "GOOD")

    assert list(strategies) == ["other"]
    assert faults == (f"plug-in '{name.lower()}' is left out: {why}",)


def test_of_two_with_one_id_the_first_by_name_stays() -> None:
    strategies, faults = loaded("GOOD", "GOOD")

    assert list(strategies) == ["other"]
    assert faults == ("plug-in 'good' is left out: another plug-in has its id 'other'",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BAD_RECIPE", "its plug-in fails: KeyError: 'wq'"),
        ("BAD_LEDGER", "its plug-in fails: KeyError: 'wq'"),
        ("BAD_MAPS", "its plug-in fails: KeyError: 'wq'"),
        ("BAD_WORDS", "its plug-in fails: SyntaxError: "),
    ],
)
def test_what_fails_over_a_checkpoint_cannot_load_it(name: str, words: str) -> None:
    strategies, _ = loaded(name)
    (strategy,) = strategies.values()

    assert (strategy.why_not(a_task()) or "").startswith(words)


def test_an_environment_without_the_plug_in_is_named() -> None:
    class Package:
        name, version = "a-package", "1.0"

    point: Any = EntryPoint("good", value="a_plug_in:GOOD", group=GROUP)
    vars(point)["dist"] = Package()
    found = load_plugins(OURS, [point])

    elsewhere = Interpreter("/there/bin/python", "3.12.1", {"torch": "2.6.0", "safetensors": "0.8.0"})
    with_it = dataclasses.replace(elsewhere, packages={**elsewhere.packages, "a-package": "1.0"})
    why = [found.strategies["other"].why_not(a_task(LoadOptions(interpreter=where))) for where in (elsewhere, with_it)]
    assert found.packages == ("a-package",)
    assert why == [
        "the environment of --python has no a-package, the plug-in that this is from: install it there, too",
        None,
    ]
