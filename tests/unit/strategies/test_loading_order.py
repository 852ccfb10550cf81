from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategy_tasks import NAMES
from torch import nn

from meminspect.architectures import Architecture, Parameter
from meminspect.checkpoint import Checkpoint
from meminspect.strategies import module_order
from meminspect.strategies.task import LoadOptions, LoadTask
from meminspect.worker.models import build

if TYPE_CHECKING:
    from pathlib import Path

    from strategy_tasks import Tasks


def visited(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of a state dict in the order in which torch itself takes them out of it."""
    order: list[str] = []

    class Watched(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            order.append(name)
            return super().__getitem__(name)

    real = nn.Module._load_from_state_dict

    def load(self: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *rest: Any) -> None:
        # load_state_dict hands out plain dicts of each module's own part
        real(self, Watched(state_dict), prefix, *rest)

    monkeypatch.setattr(nn.Module, "_load_from_state_dict", load)
    model.load_state_dict(model.state_dict(), assign=True)
    return order


@pytest.mark.parametrize("name", NAMES)
def test_the_loading_order_is_the_one_in_which_torch_visits_the_model(
    name: str, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks(name)
    with torch.device("meta"):
        model = build(task.architecture)
    assert [parameter.name for parameter in task.loading_order] == visited(model, monkeypatch)


def test_buffers_come_after_a_modules_own_parameters_and_before_its_children(tmp_path: Path) -> None:
    # given a module that registers a child before its own buffer, and that before its own parameter
    parameters = (
        Parameter("outer.child.weight", (1,)),
        Parameter("outer.mask", (1,), buffer=True, dtype="bool"),
        Parameter("outer.weight", (1,)),
        Parameter("last", (1,)),
    )
    checkpoint = Checkpoint(tmp_path, "meta", (), ())
    task = LoadTask(checkpoint, Architecture("skeleton", "checkpoint", {}, parameters), LoadOptions())
    assert [parameter.name for parameter in task.loading_order] == [
        "last", "outer.weight", "outer.mask", "outer.child.weight",
    ]  # fmt: skip


PATHS = st.lists(st.sampled_from(["a", "b", "ab", ""]), min_size=1, max_size=4).map(".".join)


@given(st.lists(st.builds(Parameter, PATHS, st.just(()), st.booleans()), max_size=6).map(tuple))
def test_what_is_taken_for_ordered_is_what_sorting_would_leave_as_it_is(parameters: tuple[Parameter, ...]) -> None:
    in_order = module_order._are_in_loading_order(parameters)
    by_place = module_order._ordered(parameters, own=0, buffer=1, first_child=2)

    assert module_order.loading_order(parameters) == by_place
    assert in_order <= (by_place == parameters)
