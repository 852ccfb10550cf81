"""A bare model loaded from what a wrapper has saved: every name behind `module.`, `model.` or several of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from meminspect.errors import StreamError
from meminspect.stream import load

if TYPE_CHECKING:
    from pathlib import Path


def save(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    torch.save(state, path)
    return state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


class Wrapper(nn.Module):
    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)


@pytest.mark.parametrize("names", [["module"], ["model"], ["_orig_mod", "module"], ["_fsdp_wrapped_module"]])
def test_what_wrappers_put_before_the_names_is_left_out(names: list[str], path: Path) -> None:
    model = wrapped = small()
    for name in names:
        wrapped = Wrapper(name, wrapped)
    save(wrapped, path)

    loaded = load(small, path).state_dict()

    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["module", "model"])
def test_a_model_whose_own_names_begin_so_keeps_them(name: str, path: Path) -> None:
    state = save(Wrapper(name, small()), path)
    assert load(lambda: Wrapper(name, small()), path).state_dict().keys() == state.keys()

    state = save(Wrapper(name, Wrapper(name, small())), path)
    loaded = load(lambda: Wrapper(name, small()), path).state_dict()
    assert {f"{name}.{own}" for own in loaded} == state.keys()


def test_where_names_are_the_models_with_and_without_they_are_kept(path: Path) -> None:
    def both() -> nn.Module:
        inner = nn.Linear(2, 2)
        inner.add_module("module", nn.Linear(2, 2))
        return Wrapper("module", inner)

    state = save(both(), path)
    loaded = load(both, path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_without_a_model_names_are_as_they_are_stored(path: Path) -> None:
    state = save(Wrapper("module", small()), path)
    assert load(None, path).keys() == state.keys()


def test_of_another_models_checkpoint_the_names_are_told_as_they_are_stored(path: Path) -> None:
    save(Wrapper("module", nn.ModuleDict({"other": nn.Linear(2, 2)})), path)
    with pytest.raises(StreamError, match=r"unexpected: module\.other\.weight"):
        load(small, path)


def test_what_does_not_stand_before_every_name_is_no_wrappers(path: Path) -> None:
    torch.save({"module.0.weight": torch.ones(4, 3), "extra": torch.ones(1)}, path)
    with pytest.raises(StreamError, match=r"missing: 0\.weight.*unexpected: module\.0\.weight, extra"):
        load(small, path)
