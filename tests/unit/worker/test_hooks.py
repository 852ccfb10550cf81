from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import safetensors
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._device import _device_constructors

from meminspect.architectures import ARCHITECTURES, Parameter
from meminspect.capture.records import EventKind, Operation, Pool
from meminspect.checkpoint import read_checkpoint
from meminspect.worker import models
from meminspect.worker.hooks import installed
from meminspect.worker.hooks.derived import Attribution
from meminspect.worker.hooks.modules import constructed, plan_construction
from meminspect.worker.hooks.tracker import Tracker, describe, replaced
from meminspect.worker.recorder import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from worker_doubles import Recording

TEACHING: dict[str, object] = {
    "emb_dim": 32, "n_heads": 2, "n_layers": 1, "context_length": 16, "vocab_size": 40, "qkv_bias": True,
}  # fmt: skip
META: dict[str, object] = {
    "dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 40, "multiple_of": 16, "norm_eps": 1e-5,
}  # fmt: skip

HOOKED = [
    (torch, "load"), (torch, "cat"), (torch, "frombuffer"), (torch._C, "PyTorchFileReader"),
    (torch.Tensor, "to"), (torch.Tensor, "new_empty"), (torch, "bucketize"),
    (torch.Tensor, "copy_"), (torch.UntypedStorage, "from_file"),
    (torch.UntypedStorage, "__getitem__"), (nn.Module, "load_state_dict"), (nn.Module, "_load_from_state_dict"),
    (safetensors, "safe_open"), (safetensors.torch, "safe_open"),
]  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file with an empty tensor where another one begins."""
    path = tmp_path / "model.safetensors"
    save_file(
        {"a": torch.ones(8), "an empty one": torch.empty(0, 8), "b": torch.full((8,), 2.0), "c": torch.empty(0)}, path
    )
    return path


@pytest.fixture
def tracker(checkpoint: Path, recording: Recording) -> Tracker:
    return Tracker(recording.recorder, read_checkpoint(checkpoint))


def test_hooks_leave_torch_as_they_found_it(tracker: Tracker) -> None:
    before = [owner.__dict__.get(name) for owner, name in HOOKED]

    def fail_while_watched() -> None:
        with installed(tracker):
            assert [owner.__dict__.get(name) for owner, name in HOOKED] != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_watched()
    assert [owner.__dict__.get(name) for owner, name in HOOKED] == before


def test_a_replaced_attribute_that_was_inherited_is_inherited_again_and_an_absent_one_stays_absent() -> None:
    class Parent:
        value = 1

    class Heir(Parent):
        pass

    with replaced(Heir, "value", lambda value: value + 1), replaced(Heir, "absent", lambda value: value):
        assert (Heir.value, Parent.value) == (2, 1)
        assert not hasattr(Heir, "absent")
    assert "value" not in vars(Heir)


@pytest.mark.parametrize(("backend", "pool"), [("mmap", Pool.FILE), ("pread", Pool.HEAP)])
def test_every_tensor_of_a_safetensors_file_is_reported_with_its_bytes_beside_empty_ones(
    backend: str, pool: Pool, checkpoint: Path, tracker: Tracker, recording: Recording
) -> None:
    with installed(tracker):
        tensors = load_file(checkpoint, backend=backend)
    begun = [event for event in recording.events(EventKind.BEGIN) if event.nbytes]
    assert {(event.name, event.nbytes, event.pool, event.detail) for event in begun} == {
        ("a", 32, pool, "float32 [8]"), ("b", 32, pool, "float32 [8]"),
    }  # fmt: skip
    # and each is released when it goes
    del tensors
    gc.collect()
    released = [event for event in recording.events(EventKind.RELEASE) if event.nbytes]
    assert {(event.name, event.id) for event in released} == {(event.name, event.id) for event in begun}


def test_a_file_of_somebody_elses_is_none_of_our_business(
    tmp_path: Path, tracker: Tracker, recording: Recording
) -> None:
    other = tmp_path / "other"
    save_file({"a": torch.ones(8)}, other)
    torch.save({"a": torch.ones(8)}, tmp_path / "other.pt")
    with installed(tracker):
        load_file(other)
        load_file(other, backend="pread")
        torch.load(tmp_path / "other.pt", weights_only=True)
        torch.load(tmp_path / "other.pt", weights_only=True, mmap=True)
        torch.cat([torch.ones(2), torch.ones(2)])
        torch.ones(2).to(torch.float16).copy_(torch.ones(2))
    assert recording.events(EventKind.BEGIN) == []


def test_a_cast_a_join_and_a_copy_are_reported_under_the_tensors_name(
    checkpoint: Path, tracker: Tracker, recording: Recording
) -> None:
    with installed(tracker):
        source = load_file(checkpoint)["a"]
        recording.events()
        cast = source.to(torch.bfloat16)
        joined = torch.cat([source, source])
        cast.copy_(source)
        same = source.to(torch.float32)
    assert same is source
    begun = recording.events(EventKind.BEGIN)
    assert [(event.operation, event.pool, event.name, event.nbytes) for event in begun] == [
        (Operation.MATERIALISE, Pool.HEAP, "a", 16),
        (Operation.MATERIALISE, Pool.HEAP, "a", 64),
        (Operation.COPY, Pool.NONE, "a", 32),
    ]
    assert joined.shape == (16,)


@pytest.mark.parametrize(
    "make",
    [lambda one: one.clone(), lambda one: one.to(torch.float16), lambda one: torch.cat([one])],
    ids=["clone", "to", "cat"],
)
def test_memory_is_read_before_what_was_copied_goes_and_of_mapped_tensors_before_the_last_of_their_file_does(
    make: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path, recording: Recording
) -> None:
    # given two mapped tensors that are large enough for a reading
    path = tmp_path / "large.safetensors"
    save_file({name: torch.ones(SMALL_BYTES) for name in "ab"}, path)
    tracker, readings = Tracker(recording.recorder, read_checkpoint(path)), 0
    with installed(tracker):
        stored = load_file(path)
        recording.events()
        # when they are copied and dropped one by one
        for expected in (0, 1):
            name, source = stored.popitem()
            copy = make(source)
            del source
            readings += len(recording.events(EventKind.READING))
            # then only the second, with which the file's pages go, is preceded by a reading
            assert readings == expected
        # and what is in memory of its own goes with each tensor
        tracker.name(copy.untyped_storage(), name)
        copy.clone()
        assert len(recording.events(EventKind.READING)) == 1


@pytest.mark.parametrize("call", ["positional", "keyword", "another tensor"])
def test_every_way_of_writing_a_cast_is_seen(
    call: str, checkpoint: Path, tracker: Tracker, recording: Recording
) -> None:
    with installed(tracker):
        source = load_file(checkpoint)["a"]
        recording.events()
        other = torch.ones(1, dtype=torch.float16)
        made = {
            "positional": lambda: source.to(torch.float16),
            "keyword": lambda: source.to(dtype=torch.float16),
            "another tensor": lambda: source.to(other),
        }[call]()
    assert made.dtype is torch.float16
    assert [event.name for event in recording.events(EventKind.BEGIN)] == ["a"]


def test_memory_that_is_reused_is_not_taken_for_what_was_there_before(tracker: Tracker, recording: Recording) -> None:
    # given a tensor that has gone, and an unnamed one at its address
    memory = bytearray(64)
    with installed(tracker):
        id_ = recording.recorder.begin(Operation.MATERIALISE, Pool.HEAP, "gone", 64)
        storage = torch.frombuffer(memory, dtype=torch.float64).untyped_storage()
        tracker.end(id_, Pool.HEAP, "gone", storage)
        del storage
        assert [event.name for event in recording.events(EventKind.RELEASE)] == ["gone"]
        torch.frombuffer(memory, dtype=torch.float64).copy_(torch.ones(8))
    assert recording.events(EventKind.BEGIN) == []


@pytest.mark.parametrize(("family", "naming", "config"), [("gpt2", "teaching", TEACHING), ("llama", "meta", META)])
def test_building_a_model_reports_every_parameter_and_buffer_that_takes_memory(
    family: str, naming: str, config: dict[str, object], recording: Recording, tracker: Tracker
) -> None:
    architecture = ARCHITECTURES[family].architecture(config, naming)
    if naming == "meta":
        frequencies = Parameter("rope.freqs", (8,), buffer=True)
        architecture = replace(architecture, parameters=(*architecture.parameters, frequencies))

    def build() -> nn.Module:
        return models.build(architecture)

    model = constructed(tracker, build, plan_construction(build))
    begun = recording.events(EventKind.BEGIN)
    expected = [parameter.name for parameter in architecture.parameters if parameter.elements]
    assert [event.name for event in begun] == expected
    sizes = {name: tensor.nbytes for name, tensor in model.state_dict().items()}
    assert {event.name: event.nbytes for event in begun} == sizes


def test_building_on_meta_reports_nothing(recording: Recording, tracker: Tracker) -> None:
    with torch.device("meta"):
        constructed(tracker, lambda: nn.Linear(3, 4), [])
    assert recording.events(EventKind.BEGIN) == []


def test_a_device_that_is_first_asked_for_while_hooks_are_there_is_the_default_then_and_later(tracker: Tracker) -> None:
    _device_constructors.cache_clear()
    with installed(tracker), torch.device("meta"):
        assert torch.empty(0).is_meta
    with torch.device("meta"):
        assert torch.empty(0).is_meta


def test_a_model_goes_with_its_last_user_though_torch_keeps_functions_of_ours(
    tracker: Tracker,
) -> None:
    with installed(tracker), torch.device("meta"):
        kept = torch.Tensor.copy_  # as torch.overrides and torch._dynamo do, who list what they find
        model = constructed(tracker, lambda: nn.Linear(2, 2), {})
    gone = weakref.ref(model)
    del model
    gc.collect()

    assert gone() is None
    assert kept is not torch.Tensor.copy_


def test_a_description_is_type_and_shape() -> None:
    assert describe("torch.float16", (2, 3)) == "float16 [2, 3]"
    assert describe("bool", ()) == "bool []"


def test_what_a_quantiser_makes_of_a_tensor_is_reported_under_its_name_and_what_it_writes_is_not(
    checkpoint: Path, tracker: Tracker, recording: Recording
) -> None:
    with installed(tracker):
        source = load_file(checkpoint)["b"]
        recording.events()
        values = source.new_empty(2, 4, dtype=torch.int8)
        block = source.view(2, 4)[:1].to(torch.float32, copy=True)
        codes = torch.bucketize(block.div_(2), torch.ones(3), out_int32=True)
        values[:1].copy_(codes)
        torch.ones(3).new_empty(4)
    told = recording.events(EventKind.PHASE, EventKind.BEGIN, EventKind.RELEASE)
    assert [(event.kind, event.name, event.nbytes, event.detail) for event in told] == [
        (EventKind.PHASE, "quantise", 0, ""),
        (EventKind.BEGIN, "b", 8, "int8 [2, 4]"),
        (EventKind.PHASE, "copy", 0, ""),
        (EventKind.BEGIN, "b", 16, "float32 [1, 4]"),
        (EventKind.PHASE, "cast", 0, ""),
        (EventKind.BEGIN, "b", 16, "int32 [1, 4]"),
    ]
    # and it is gone when it is dropped
    del values, block, codes
    assert [event.nbytes for event in recording.events(EventKind.RELEASE)] == [8, 16, 16]


@pytest.fixture
def watched(tracker: Tracker) -> Iterator[tuple[Tracker, Attribution]]:
    """A tracker under which every operation is watched."""
    tracker.attribution = Attribution()
    with installed(tracker):
        yield tracker, tracker.attribution


def test_what_is_made_of_tensors_with_names_goes_by_them_also_in_other_threads(
    watched: tuple[Tracker, Attribution], recording: Recording
) -> None:
    tracker, attribution = watched
    first, second = torch.ones(64), torch.ones(64)
    tracker.name(first.untyped_storage(), "q")
    tracker.name(second.untyped_storage(), "k")

    merged = torch.cat([first, second])
    with ThreadPoolExecutor(1) as pool:
        cast = pool.submit(first.to, torch.float16).result()

    made = [(event.name, event.nbytes) for event in recording.events(EventKind.BEGIN)]
    assert made == [("q", merged.nbytes), ("q", cast.nbytes)]
    assert tracker.name_of(merged) == tracker.name_of(cast) == "q"
    assert attribution.document(nn.Module())["named_bytes"] == merged.nbytes + cast.nbytes


def test_a_fusion_tells_its_sources(watched: tuple[Tracker, Attribution], recording: Recording) -> None:
    tracker, _ = watched
    parts = [torch.ones(64) for _ in range(3)]
    for name, part in zip("qkv", parts, strict=True):
        tracker.name(part.untyped_storage(), name)

    torch.stack(parts)

    assert [event.detail for event in recording.events(EventKind.BEGIN)] == ["float32 [3, 64] from q, k, v"]


def test_memory_without_a_name_gets_one_by_a_copy_or_by_its_place_in_the_model_or_is_told_with_its_line(
    watched: tuple[Tracker, Attribution], recording: Recording
) -> None:
    tracker, attribution = watched
    source = torch.ones(64)
    tracker.name(source.untyped_storage(), "a")

    copied, placed, _never_written = torch.empty(64), nn.Linear(8, 8, bias=False), torch.empty(1 << 20)
    copied.copy_(source)
    lost = torch.zeros(512)

    assert [event.name for event in recording.events(EventKind.BEGIN)] == ["a"]
    document = attribution.document(placed)
    assert document["named_bytes"] == copied.nbytes + placed.weight.nbytes
    [site] = [one for one in document["unattributed"] if one["bytes"] >= lost.nbytes]
    assert "test_hooks" in site["site"]
    assert site["bytes"] < 1 << 20
