from __future__ import annotations

import dataclasses
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from meminspect.checkpoint import read_checkpoint
from meminspect.checkpoint.model import Chunk
from meminspect.errors import CheckpointError, StreamError
from meminspect.stream import load, reading
from meminspect.stream.models import initialise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.stream.reading import Part

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
Saver = "Callable[[dict[str, torch.Tensor], Path], None]"


def save_torch(tensors: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(tensors, path / "model.pth")


def save_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path / "model.safetensors")


FORMATS = pytest.mark.parametrize("save", [save_torch, save_safetensors], ids=["torch", "safetensors"])


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=torch.Generator().manual_seed(seed))
    return raw.to(torch.uint8).view(dtype).reshape(shape)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return torch.equal(left.contiguous().flatten().view(torch.uint8), right.contiguous().flatten().view(torch.uint8))


shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple) | st.sampled_from([(700, 1024), (3, 700, 1024)])
tensor_sets = st.lists(st.tuples(st.sampled_from(DTYPES), shapes), min_size=1, max_size=12)


class Pair(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 6, bias=bias)
        self.head = nn.Linear(4, 7, bias=False)
        self.register_buffer("mask", torch.ones(3, 3))


class Watched:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[Part] = []
        self.ended: list[Part] = []
        self.dropped: list[str] = []
        self.assignments: list[str] = []
        self.together = False
        self._inside = threading.Lock()

    def begins(self, part: Part) -> None:
        self._alone(lambda: self.begun.append(part))

    def ends(self, part: Part) -> None:
        self._alone(lambda: self.ended.append(part))

    def drops(self, part: Part) -> None:
        self.dropped.append(part.name)

    def assigned(self, name: str, tensor: torch.Tensor) -> None:
        self.assignments.append(name)

    def _alone(self, keep: Callable[[], None]) -> None:
        if not self._inside.acquire(blocking=False):
            self.together = True
            return
        keep()
        self._inside.release()


@FORMATS
@settings(deadline=None, max_examples=10)
@given(tensor_sets, st.integers(1, 5), st.integers(1, 1 << 16))
def test_any_set_of_tensors_comes_back_bit_by_bit_with_any_number_of_threads(
    tmp_path_factory: pytest.TempPathFactory,
    save: Callable[[dict[str, torch.Tensor], Path], None],
    wanted: list[tuple[torch.dtype, tuple[int, ...]]],
    threads: int,
    chunk_units: int,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    tensors = {f"t.{number}": random_bits(*each, seed=number) for number, each in enumerate(wanted)}
    save(tensors, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meminspect.stream.arrange.CHUNK_BYTES", 64 * chunk_units)
        loaded = load(None, folder, threads=threads)
    assert set(loaded) == set(tensors)
    assert [name for name, tensor in loaded.items() if not same_bits(tensor, tensors[name])] == []


@FORMATS
@pytest.mark.parametrize("threads", [1, 3])
def test_a_cast_is_torchs_own_and_leaves_what_is_not_floating(
    tmp_path: Path, save: Callable[[dict[str, torch.Tensor], Path], None], threads: int
) -> None:
    tensors = {"big": torch.randn(3000, 1000), "small": torch.randn(7), "ids": torch.arange(10), "none": torch.empty(0)}
    save(tensors, tmp_path)
    loaded = load(None, tmp_path, dtype=torch.bfloat16, threads=threads)
    for name, tensor in tensors.items():
        assert same_bits(loaded[name], tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor)


def test_views_keep_their_strides_and_share_what_they_shared(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    torch.save({"whole": base, "transposed": base.t(), "part": base[1:3, 2:5], "row": base[2]}, tmp_path / "v.pth")
    loaded = load(None, tmp_path / "v.pth")
    assert torch.equal(loaded["transposed"], base.t())
    assert torch.equal(loaded["part"], base[1:3, 2:5])
    loaded["whole"][2, 3] = -1.0
    assert loaded["row"][3] == loaded["part"][1, 1] == loaded["transposed"][3, 2] == -1.0


def test_a_part_of_a_large_storage_takes_no_more_than_its_own_memory(tmp_path: Path) -> None:
    torch.save({"part": torch.arange(1000.0)[100:110]}, tmp_path / "v.pth")
    loaded = load(None, tmp_path / "v.pth")["part"]
    assert torch.equal(loaded, torch.arange(100.0, 110.0))
    assert loaded.untyped_storage().nbytes() == 40


def test_what_is_loaded_is_ordinary_memory(tmp_path: Path) -> None:
    save_torch({"a": torch.zeros(1 << 20), "b": torch.zeros(3)}, tmp_path)
    loaded = load(None, tmp_path)
    for tensor in loaded.values():
        tensor.add_(1)
        assert tensor.sum() == tensor.numel()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    torch.save(loaded, tmp_path / "again.pt")
    assert torch.equal(torch.load(tmp_path / "again.pt")["b"], torch.ones(3))


@FORMATS
@pytest.mark.parametrize("build", [lambda: Pair(), "on meta"], ids=["factory", "model"])
def test_a_model_gets_what_load_state_dict_would_give_it(
    tmp_path: Path, save: Callable[[dict[str, torch.Tensor], Path], None], build: Any
) -> None:
    trained = Pair()
    save(trained.state_dict(), tmp_path)
    if build == "on meta":
        with torch.device("meta"):
            build = Pair()
    model = load(build, tmp_path)
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in trained.state_dict().items()
    }
    assert all(isinstance(parameter, nn.Parameter) and parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model, Pair)
    assert torch.equal(model.mask, trained.mask)


def test_tied_parameters_stay_tied_and_one_name_is_enough(tmp_path: Path) -> None:
    def tied() -> Pair:
        model = Pair()
        model.head.weight = model.embedding.weight
        return model

    state = tied().state_dict()
    del state["head.weight"]
    save_safetensors(state, tmp_path)
    model = load(tied, tmp_path)
    assert isinstance(model, Pair)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight, state["embedding.weight"])


def test_of_tied_names_that_are_stored_apart_the_last_alone_is_read(tmp_path: Path) -> None:
    def tied() -> Pair:
        model = Pair()
        model.head.weight = model.embedding.weight
        return model

    state = {**tied().state_dict(), "head.weight": torch.full((7, 4), 5.0)}
    save_safetensors({name: tensor.clone() for name, tensor in state.items()}, tmp_path)
    watched = Watched()
    model = load(tied, tmp_path, observer=watched)
    reference = tied()
    reference.load_state_dict(state)
    assert torch.equal(model.get_parameter("embedding.weight"), reference.embedding.weight)
    assert "embedding.weight" not in {part.name for part in watched.begun}


def test_an_observer_is_told_of_every_tensor_in_the_order_of_the_file_and_never_by_two_threads_at_once(
    tmp_path: Path,
) -> None:
    tensors = {f"t{number:03}": torch.full((500 if number % 3 else 3 << 20,), float(number)) for number in range(24)}
    save_torch(tensors, tmp_path)
    watched = Watched()
    loaded = load(None, tmp_path, threads=4, observer=watched)
    assert [part.name for part in watched.begun] == list(tensors)
    assert sorted(part.name for part in watched.ended) == list(tensors)
    assert all(torch.equal(part.tensor, loaded[part.name]) for part in watched.ended)
    assert not watched.together


def test_an_observer_sees_the_staging_of_a_cast_and_that_it_is_gone_afterwards(tmp_path: Path) -> None:
    save_torch({f"t{number}": torch.zeros(3 << 20) for number in range(4)}, tmp_path)
    watched = Watched()
    load(None, tmp_path, dtype=torch.float16, threads=3, observer=watched)
    staging = [part for part in watched.begun if part.stored is None]
    assert [part.tensor.nbytes for part in staging] == [(8 << 20) + 512] * 3
    assert watched.dropped == [part.name for part in staging]
    gone = [weakref.ref(part.tensor) for part in staging]
    del staging, watched
    assert [ref() for ref in gone] == [None] * 3


def test_more_files_than_a_process_may_have_open_are_loaded(tmp_path: Path) -> None:
    import resource

    tensors = {f"part.{number:03}": torch.full((3,), float(number)) for number in range(150)}
    for name, tensor in tensors.items():
        torch.save(tensor, tmp_path / f"{name}.pt")
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
    try:
        loaded = load(None, tmp_path, threads=3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_all_that_differs_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    state = Pair().state_dict()
    del state["inner.bias"]
    state["head.weight"] = torch.zeros(2, 4)
    state["extra"] = torch.zeros(1)
    save_torch(state, tmp_path)
    with torch.device("meta"):
        model = Pair()
    with pytest.raises(RuntimeError) as refused:
        load(model, tmp_path)
    assert "'head.weight' is [2, 4] in the checkpoint and [7, 4] in the model" in str(refused.value)
    assert "missing: inner.bias" in str(refused.value)
    assert "unexpected: extra" in str(refused.value)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_without_strict_what_is_missing_is_initialised_by_a_module_of_which_nothing_was_there(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in Pair().state_dict().items() if not name.startswith("inner")}
    save_torch(state, tmp_path)
    model = load(Pair, tmp_path, strict=False)
    assert isinstance(model, Pair)
    assert 0 < model.inner.weight.abs().max() <= 0.5


def test_what_nobody_initialises_is_an_error_with_its_name(tmp_path: Path) -> None:
    state = Pair().state_dict()
    del state["mask"]
    save_torch(state, tmp_path)
    with torch.device("meta"):
        model = Pair()
    with pytest.raises(StreamError, match=r"has nothing for mask, which would stay without memory"):
        load(model, tmp_path, strict=False)
    assert all(parameter.is_meta for parameter in model.parameters()), "it is told before anything is read"


def test_what_initialises_itself_does_so_where_the_rest_is() -> None:
    module = nn.Linear(2, 2, device="meta")
    initialise([module], torch.device("meta"))
    assert module.weight.is_meta
    initialise([module], torch.device("cpu"))
    assert 0 < module.weight.abs().max() <= 1


def test_a_model_with_memory_is_refused_by_the_name_of_what_has_it(tmp_path: Path) -> None:
    save_torch(Pair().state_dict(), tmp_path)
    with pytest.raises(StreamError, match=r"'embedding.weight' has memory already"):
        load(Pair(), tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_model_parallel_slices_are_joined_as_they_are_read(tmp_path: Path, dtype: torch.dtype | None) -> None:
    whole = {
        "embedding.weight": torch.randn(7, 4).half(),
        "inner.weight": torch.randn(6, 4).half(),
        "inner.bias": torch.randn(6).half(),
        "head.weight": torch.randn(7, 4).half(),
        "mask": torch.ones(3, 3).half(),
        "scale": torch.tensor(3.0).half(),
    }
    dims = {
        "embedding.weight": 1, "inner.weight": 0, "inner.bias": 0, "head.weight": 1, "mask": None, "scale": None,
    }  # fmt: skip
    for rank in range(2):
        piece = {
            name: tensor if dims[name] is None else tensor.chunk(2, dims[name])[rank].clone()
            for name, tensor in whole.items()
        }
        torch.save(piece, tmp_path / f"consolidated.{rank:02d}.pth")
    (tmp_path / "params.json").write_text("{}")

    def scaled() -> Pair:
        model = Pair()
        model.register_buffer("scale", torch.tensor(1.0))
        return model

    model = load(scaled, tmp_path, dtype=dtype)
    for name, tensor in model.state_dict().items():
        assert same_bits(tensor, whole[name].to(dtype or torch.float16)), name


def test_slices_that_do_not_join_are_an_error(tmp_path: Path) -> None:
    for rank in range(2):
        torch.save({"embedding.weight": torch.zeros(5, 4)}, tmp_path / f"consolidated.{rank:02d}.pth")
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(StreamError, match=r"'embedding.weight' is \[5, 4\] in each of 2 slices"):
        load(Pair, tmp_path, strict=False)
    with pytest.raises(StreamError, match="only a model says how they join"):
        load(None, tmp_path)


def test_a_file_that_is_cut_while_it_is_read_is_an_error_that_names_file_and_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_torch({"first": torch.zeros(4 << 20), "second": torch.zeros(4 << 20)}, tmp_path)
    path = tmp_path / "model.pth"
    preadv = os.preadv

    def cutting(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        os.truncate(path, 20 << 20)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", cutting)
    with pytest.raises(StreamError, match=r"model\.pth ends at .*, in the middle of 'second'"):
        load(None, tmp_path, threads=2)


def test_a_file_that_is_written_to_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_torch({"first": torch.zeros(1 << 20)}, tmp_path)
    path = tmp_path / "model.pth"
    preadv = os.preadv

    def touching(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        os.utime(path, ns=(0, 0))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", touching)
    with pytest.raises(StreamError, match="has changed while it was being read"):
        load(None, tmp_path)


def test_an_error_of_the_disk_ends_all_threads_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_torch({f"t{number}": torch.zeros(2 << 20) for number in range(8)}, tmp_path)

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(StreamError, match=r"cannot be read at [\d,]+, in 't\d': Input/output error"):
        load(None, tmp_path, threads=3)


def test_an_interrupt_in_the_middle_ends_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_torch({f"t{number}": torch.zeros(2 << 20) for number in range(8)}, tmp_path)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(None, tmp_path, threads=3)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("stream")] == []


def test_what_is_not_the_bytes_of_whole_tensors_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"plain": torch.zeros(2), "c": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "lazy.pth")
    with pytest.raises(StreamError, match="'c' is stored conjugated or negated"):
        load(None, tmp_path / "lazy.pth")

    torch.save({"w": torch.zeros(2)}, tmp_path / "big.pth")
    turned = read_checkpoint(tmp_path / "big.pth")
    file = dataclasses.replace(turned.files[0], big_endian=True)
    chunk = turned.tensors[0]._replace(chunk=Chunk((4,), (0,)))
    for odd, words in (
        (dataclasses.replace(turned, files=(file,)), "big.pth is big-endian"),
        (dataclasses.replace(turned, tensors=(chunk,)), "'w' is stored in chunks"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["meminspect.stream.load"], "read_checkpoint", lambda _, odd=odd: odd)
            with pytest.raises(StreamError, match=words):
                load(None, tmp_path)


def test_no_checkpoint_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load(None, tmp_path / "nothing")


def test_a_bar_is_drawn_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_torch({"first": torch.zeros(1 << 20)}, tmp_path)
    load(None, tmp_path, progress=True)
    printed = capsys.readouterr()
    assert not printed.out
    assert "4.2/4.2" in printed.err or "4.0/4.0 MiB" in printed.err


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_given_inference_mode_then_all_loads_and_can_be_trained_afterwards(
    tmp_path: Path, dtype: torch.dtype | None
) -> None:
    save_file(Pair().state_dict(), tmp_path / "model.safetensors")

    with torch.inference_mode():
        model = load(Pair, tmp_path, dtype=dtype)

    assert isinstance(model, Pair)
    model.head(model.embedding(torch.tensor([1]))).sum().backward()
    assert model.head.weight.grad is not None
