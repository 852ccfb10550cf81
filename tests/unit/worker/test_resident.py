from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from meminspect.capture.records import EventKind, Operation, Pool
from meminspect.stream import ahead
from meminspect.worker import resident
from meminspect.worker.resident import live_bytes, storages, touch

if TYPE_CHECKING:
    from pathlib import Path

    from worker_doubles import Recording


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))


class Model(nn.Module):
    """A child before an own buffer and an own parameter, and a parameter that is another's."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Child()
        self.register_buffer("mask", torch.ones(10))
        self.own = nn.Parameter(torch.ones(100))
        self.tied = self.child.weight
        self.nothing = nn.Parameter(torch.empty(0, 3))


@pytest.fixture
def mapped(tmp_path: Path) -> Model:
    """The model with the pages of a file for its memory."""
    model = Model()
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    return model


def test_each_storage_stands_once_and_empty_ones_not_at_all() -> None:
    model = Model()
    names = [name for name, _ in storages(model)]
    assert sorted(names) in (["child.weight", "mask", "own"], ["mask", "own", "tied"])
    assert live_bytes(model) == 4 * (1000 + 10 + 100)


def test_storages_come_in_the_order_in_which_a_state_dict_is_loaded() -> None:
    """The ledger's steps are in that order, in which a module's buffers come before its children."""
    model = Model()
    model.tied = nn.Parameter(torch.ones(5))
    assert [name for name, _ in storages(model)] == ["own", "tied", "mask", "child.weight"]


def nowhere(_: int) -> bool:
    """What was seen of mappings; the kernel knows better."""
    return False


def test_where_the_kernel_tells_no_mappings_those_that_were_seen_are_reported(
    mapped: Model, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(resident, "_mapped_ranges", refuse)
    (seen,) = {storage.data_ptr() for name, storage in storages(mapped) if name == "own"}
    touch(mapped, recording.recorder, lambda address: address == seen)
    assert [event.name for event in recording.events(EventKind.BEGIN)] == ["own"]


def test_what_is_on_the_heap_is_touched_without_a_word(recording: Recording) -> None:
    touch(Model(), recording.recorder, nowhere)
    assert recording.events(EventKind.BEGIN, EventKind.END) == []


def test_what_was_read_ahead_is_not_reported_again(mapped: Model, recording: Recording) -> None:
    touched = {storage.data_ptr() for name, storage in storages(mapped) if name != "own"}
    touch(mapped, recording.recorder, nowhere, touched)
    assert [event.name for event in recording.events(EventKind.BEGIN)] == ["own"]


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_what_is_mapped_is_touched_and_reported(
    kernel: str, mapped: Model, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "old":  # it does not know MADV_POPULATE_READ
        monkeypatch.setattr(ahead, "_MADV_POPULATE_READ", 12345)
    touch(mapped, recording.recorder, nowhere)
    begun = recording.events(EventKind.BEGIN)
    assert {(event.operation, event.pool) for event in begun} == {(Operation.TOUCH, Pool.FILE)}
    # a file has each tensor by itself: its tie is gone
    assert {event.name: event.nbytes for event in begun} == {"own": 400, "mask": 40, "tied": 4000, "child.weight": 4000}
