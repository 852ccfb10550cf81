"""The user's own `module:factory`: what is found in it, what does not fit, and every way in which it is no model."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from meminspect.architectures.own import OwnModel
from meminspect.capture.records import Pool
from meminspect.checkpoint import read_checkpoint
from meminspect.errors import CheckpointError, UsageError
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import LoadTask, task_for
from meminspect.theory.ledger import Item
from meminspect.worker.models.own import build, described
from meminspect.worker.recipe import execute, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODULE = "a_model_of_theirs"
SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, rotary=False):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float32))
        self.head = nn.Linear(4, 5)
        self.head.weight = self.table.weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        if rotary:
            self.register_buffer("angles", torch.arange(2.0), persistent=False)

class family:
    @staticmethod
    def of(config):
        return nn.Linear(config["width"], 2)

class Config:
    @classmethod
    def from_dict(cls, fields):
        config = cls()
        config.width = fields["width"]
        return config

class Configured(nn.Linear):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config.width, 2)

def rotary(): return Net(rotary=True)
def wants(a, b): return Net()
def raises(): raise ValueError("no\\nsecond line")
def looks(): return Net() if torch.ones(3).sum().item() else None
def returns(): return {}
built = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with their module, that nothing has been imported from."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "broken_model.py").write_text("import nothing_like_it\n")
    (tmp_path / "leaving_model.py").write_text("raise SystemExit('enough')\n")
    return tmp_path


def found(folder: Path, factory: str, config: Mapping[str, object] | None = None) -> OwnModel:
    return described(OwnModel(f"{MODULE}:{factory}", str(folder)), config or {})


def test_what_is_found_is_what_the_factory_makes_in_the_module_s_order(theirs: Path) -> None:
    own = found(theirs, "Net")

    assert own.parameters is not None
    names = [(one.name, one.shape, one.dtype, one.tied_to, one.buffer) for one in own.parameters]
    assert names == [
        ("scale", (4,), "float32", None, False),
        ("steps", (), "int64", None, True),
        ("table.weight", (5, 4), None, None, False),
        ("head.weight", (5, 4), None, "table.weight", False),
        ("head.bias", (5,), None, None, False),
    ]
    assert torch.get_default_dtype() == torch.float32
    assert OwnModel.from_document(json.loads(json.dumps(dataclasses.asdict(own)))) == own


def test_a_factory_that_wants_the_config_is_given_it(theirs: Path) -> None:
    own = found(theirs, "family.of", {"width": 3})

    assert own.call == f"{MODULE}.family.of(config)"
    assert own.parameters is not None
    assert own.parameters[0].shape == (2, 3)
    assert [*build(own, {"width": 3}).state_dict()] == ["weight", "bias"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_model:Net", "there is no module 'no_such_model'"),
        ("broken_model:Net", "importing broken_model raised ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("leaving_model:Net", "importing leaving_model raised SystemExit: enough"),
        (f"{MODULE}:family.absent", f"{MODULE} has no 'family.absent'"),
        (f"{MODULE}:wants", f"{MODULE}:wants(a, b) wants more than a config"),
        (f"{MODULE}:raises", f"{MODULE}:raises raised ValueError: no"),
        (f"{MODULE}:looks", f"{MODULE}:looks raised RuntimeError: Tensor.item() cannot be called on meta tensors"),
        (f"{MODULE}:returns", f"{MODULE}:returns returned a dict, not a torch.nn.Module"),
        (f"{MODULE}:built", f"{MODULE}:built is a model that is built already, with memory"),
        (f"{MODULE}:number", f"{MODULE}:number is a int"),
    ],
)
def test_what_is_no_model_is_one_line_and_a_hint(theirs: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        described(OwnModel(name, str(theirs)), {})

    assert refused.value.message == words
    assert refused.value.hint


def checkpoint_with(folder: Path, *, beside: str = "") -> Path:
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2), **({beside: torch.ones(1)} if beside else {})}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"width": 3}')
    return folder / "model.safetensors"


def test_a_checkpoint_of_another_model_is_refused(theirs: Path) -> None:
    options = LoadOptions(model=found(theirs, "family.of", {"width": 3}))

    with pytest.raises(CheckpointError, match=r"of is not this checkpoint's model: the model has no tensor 'extra'"):
        task_for(read_checkpoint(checkpoint_with(theirs, beside="extra")), options)


def test_plans_know_the_model_and_say_what_they_do_not_know(theirs: Path) -> None:
    own = found(theirs, "family.of", {"width": 3})
    task = task_for(read_checkpoint(checkpoint_with(theirs)), LoadOptions(model=own))

    assert task.architecture.id == own.name
    assert "not what else its code may take in memory" in task.note
    assert task.floor_bytes == (2 * 3 + 2) * 4
    assert f"# Model(config) stands for {own.call}; config is the checkpoint's own." in NATIVE["naive"].recipe(task)


def rotary_task(theirs: Path) -> LoadTask:
    """A tied model with a buffer that its checkpoint holds and one that no state dict does."""
    own = found(theirs, "rotary")
    torch.save(build(own, {}).state_dict(), theirs / "net.pth")
    return task_for(read_checkpoint(theirs / "net.pth"), LoadOptions(model=own))


def test_what_no_state_dict_holds_keeps_strategies_from_building_all_of_it_on_meta(theirs: Path) -> None:
    task = rotary_task(theirs)

    why_not = {id_: strategy.why_not(task) for id_, strategy in NATIVE.items()}

    for id_ in ("naive", "sharded", "meta-assign", "mmap-assign", "lazy", "stream"):
        assert why_not[id_] is None, id_
    assert "where angles, which no state dict holds, gets no values" in (why_not["skip-init"] or "")


@pytest.mark.parametrize("id_", ["meta-assign", "mmap-assign", "lazy", "stream"])
def test_a_model_without_memory_has_what_no_state_dict_holds_from_its_constructor(theirs: Path, id_: str) -> None:
    task, strategy = rotary_task(theirs), NATIVE[id_]

    recipe = prepare(strategy, task)
    model = execute(recipe, recipe.build)

    state = torch.load(theirs / "net.pth", weights_only=True)
    assert torch.equal(model.angles, torch.arange(2.0))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not torch.nn.modules.module._global_parameter_registration_hooks
    angles = [step for step in strategy.ledger(task) if step.tensor == "angles"]
    assert [(step.phase, step.pool, step.item, step.nbytes) for step in angles] == [
        ("build", Pool.HEAP, Item.FLOOR, 2 * 4)
    ]


def test_a_class_that_names_its_config_s_class_is_given_that(theirs: Path) -> None:
    own = found(theirs, "Configured", {"width": 3})

    assert own.takes_config
    assert [tuple(tensor.shape) for tensor in build(own, {"width": 3}).state_dict().values()] == [(2, 3), (2,)]
