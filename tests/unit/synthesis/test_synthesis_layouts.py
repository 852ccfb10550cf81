from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when transformers is imported

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open

from meminspect.architectures import ARCHITECTURES, Architecture, Parameter, detect
from meminspect.checkpoint.registry import read_checkpoint
from meminspect.errors import UsageError
from meminspect.synthesis import DTYPES, LAYOUTS
from meminspect.synthesis.plan import Layout, PlannedTensor, balanced
from meminspect.synthesis.values import Zeros

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]
    Tensors = dict[str, torch.Tensor]

COMBINATIONS = [(architecture, layout.id) for layout in LAYOUTS.values() for architecture in layout.namings]


def read(folder: Path, *, mmap: bool = False) -> Tensors:
    """Every tensor of a checkpoint whose files are not slices, by the libraries that the layouts belong to."""
    if (folder / ".metadata").exists():
        return read_dcp(folder)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            found |= safetensors.torch.load_file(file)
        elif file.suffix == ".gguf":
            found |= read_gguf(file)
        elif file.suffix == ".pt":
            found[file.stem] = torch.load(file, weights_only=True, mmap=mmap)
        elif file.suffix in (".pth", ".bin"):
            found |= torch.load(file, weights_only=True, mmap=mmap)
    return found


def read_dcp(folder: Path) -> Tensors:
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    found: dict[str, Any] = {name: torch.empty(item.size, dtype=item.properties.dtype) for name, item in stored.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.load(found, checkpoint_id=folder)
    return found


def read_gguf(file: Path) -> Tensors:
    gguf = pytest.importorskip("gguf")
    bfloat16 = gguf.GGMLQuantizationType.BF16
    tensors = {stored.name: (torch.from_numpy(stored.data), stored) for stored in gguf.GGUFReader(file, "c").tensors}
    return {
        name: tensor.view(torch.bfloat16) if stored.tensor_type == bfloat16 else tensor
        for name, (tensor, stored) in tensors.items()
    }


def assert_equal(first: Tensors, second: Tensors) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype is second[name].dtype, name
        assert tensor.equal(second[name]), name


def own(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return {p.name: p.shape for p in architecture.parameters if p.tied_to is None}


@pytest.mark.parametrize(("architecture", "layout"), COMBINATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_of_the_architecture_is_there(
    write: Write, small: Callable[[str, str], Architecture], architecture: str, layout: str, dtype: str
) -> None:
    # when it is written and read back by torch, mapped and not, or safetensors
    folder = write(architecture, layout, dtype=dtype)
    tensors, mapped = read(folder), read(folder, mmap=True)

    # then names, shapes and dtypes are the model's, and the values are weights
    frequencies = tensors.pop("rope.freqs", None)
    assert (frequencies is not None) == (layout == "meta")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == own(small(architecture, layout))
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    mapped.pop("rope.freqs", None)
    assert_equal(tensors, mapped)


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [2, 5, 20])
def test_shards_hold_what_one_file_holds(write: Write, layout: str, shards: int) -> None:
    one, several = write("llama", layout, seed=3), write("llama", layout, shards=shards, seed=3)
    assert_equal(read(one), read(several))

    suffix = ".safetensors" if layout == "safetensors" else ".bin"
    files = sorted(file.name for file in several.iterdir() if file.suffix == suffix)
    stem = "model" if layout == "safetensors" else "pytorch_model"
    assert files == [f"{stem}-{i:05}-of-{shards:05}{suffix}" for i in range(1, shards + 1)]

    index = json.loads((several / f"{stem}{suffix}.index.json").read_text())
    tensors = read(several)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    assert set(index["weight_map"].values()) == set(files)


def test_a_tensor_has_the_same_bytes_in_every_layout(write: Write) -> None:
    assert_equal(read(write("llama", "safetensors")), read(write("llama", "bin", shards=3)))
    meta = read(write("llama", "meta"))
    meta.pop("rope.freqs")
    assert_equal(meta, read(write("llama", "per-tensor")))


@pytest.mark.parametrize(
    ("architecture", "layout", "shards"),
    [("llama", "meta", 1), ("llama", "meta", 2), ("llama", "safetensors", 1), ("gpt2", "safetensors", 3),
     ("llama", "bin", 1), ("gpt2", "bin", 3), ("litgpt", "litgpt", 1)],
)  # fmt: skip
def test_our_own_readers_recognise_it(
    write: Write, small: Callable[[str, str], Architecture], architecture: str, layout: str, shards: int
) -> None:
    found = read_checkpoint(write(architecture, layout, shards=shards))
    headers = {tensor.name: (tensor.shape, tensor.dtype) for tensor in found.tensors}
    detection = detect(found.config, headers, found.tied, len(found.files) if found.parallel_files else 1)
    expected = [p for p in small(architecture, layout).parameters if p.name in headers]
    assert not found.warnings
    assert not detection.note
    assert [p for p in detection.architecture.parameters if p.name != "rope.freqs"] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_seed_decides_every_byte(write: Write, layout: str) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    architecture = next(iter(LAYOUTS[layout].namings))
    first, again, other = (write(architecture, layout, seed=seed) for seed in (1, 1, 2))
    assert content(first) == content(again)
    assert content(first).keys() == content(other).keys()
    weights = [name for name in read(first) if not any(part in name for part in ("norm", "rope", "ln_f", "bias"))]
    tensors, others = read(first), read(other)
    assert not any(tensors[name].equal(others[name]) for name in weights)


@pytest.mark.parametrize("files", [2, 4])
def test_model_parallel_slices_make_up_the_whole(
    write: Write, small: Callable[[str, str], Architecture], files: int
) -> None:
    # given one file and several
    whole = read(write("llama", "meta"))
    folder = write("llama", "meta", shards=files)
    names = [f"consolidated.{rank:02}.pth" for rank in range(files)]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "params.json"]

    # when the slices are joined along the dimension that Meta's code splits, then they are the whole
    slices = [torch.load(folder / name, weights_only=True) for name in names]
    dimensions = {parameter.name: parameter.split_dim for parameter in small("llama", "meta").parameters}
    dimensions["rope.freqs"] = None
    assert {name.rpartition("attention.")[2] for name, at in dimensions.items() if at == 1} == {
        "tok_embeddings.weight", "wo.weight", "layers.0.feed_forward.w2.weight", "layers.1.feed_forward.w2.weight",
    }  # fmt: skip
    for name, at in dimensions.items():
        if at is None:
            assert all(part[name].equal(whole[name]) for part in slices)
        else:
            assert torch.cat([part[name] for part in slices], dim=at).equal(whole[name])


def test_slices_of_tensors_beyond_a_chunk_make_up_the_whole(write: Write) -> None:
    # given rows that no chunk holds a whole number of, and a slice of few bytes; split along each dimension
    shape = (6, 1000, 334)
    parameters = tuple(Parameter(f"w{at}", shape, split_dim=at) for at in (0, 1, 2))
    model = Architecture("llama", "meta", {}, parameters)
    whole, folder = read(write(model, "meta", dtype="float32")), write(model, "meta", dtype="float32", shards=2)
    slices = [torch.load(folder / f"consolidated.0{rank}.pth", weights_only=True) for rank in (0, 1)]
    for at in (0, 1, 2):
        assert torch.cat([part[f"w{at}"] for part in slices], dim=at).equal(whole[f"w{at}"])


def test_rotary_frequencies_are_in_files_before_llama_3_only(write: Write) -> None:
    config = {"dim": 32, "n_layers": 1, "n_heads": 2, "multiple_of": 32}
    family = ARCHITECTURES["llama"]
    second = write(family.architecture({**config, "vocab_size": 32_000}, "meta"), "meta", dtype="bfloat16")
    third = write(family.architecture({**config, "vocab_size": 128_256}, "meta"), "meta", dtype="bfloat16")
    frequencies = read(second)["rope.freqs"]
    assert frequencies.dtype is torch.bfloat16
    assert frequencies.equal((10_000.0 ** -(torch.arange(0, 16, 2) / 16)).bfloat16())
    assert "rope.freqs" not in read(third)


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_file_is_the_librarys_byte_for_byte(
    write: Write, odd: Architecture, tmp_path: Path, dtype: str
) -> None:
    file = write(odd, "safetensors", dtype=dtype) / "model.safetensors"
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        assert opened.metadata() == {"format": "pt"}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == own(odd)
    safetensors.torch.save_file(tensors, tmp_path / "again", {"format": "pt"})
    assert file.read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(("layout", "shards"), [("safetensors", 1), ("safetensors", 3), ("bin", 1), ("bin", 2)])
def test_transformers_loads_it(write: Write, architecture: str, layout: str, shards: int) -> None:
    from transformers import AutoModelForCausalLM

    folder = write(architecture, layout, dtype="bfloat16", shards=shards)
    load: Any = AutoModelForCausalLM.from_pretrained  # its stubs do not know that this returns two things
    model, report = load(folder, dtype="auto", output_loading_info=True)
    loaded: dict[str, Any] = model.state_dict()
    assert model.dtype is torch.bfloat16
    assert not any(report.values())
    tensors = read(folder)
    assert tensors.keys() <= loaded.keys() <= {*tensors, "lm_head.weight"}
    assert all(loaded[name].equal(tensor) for name, tensor in tensors.items())


def test_shards_are_balanced_and_never_empty() -> None:
    # given sizes with a giant at either end, for every number of shards
    sizes = [1000, 1, 1, 1, 50, 60, 1, 0, 0, 70, 2000]
    tensors = [PlannedTensor(str(i), "uint8", (size,), Zeros(size)) for i, size in enumerate(sizes)]
    for order in (tensors, tensors[::-1], tensors[1:-1]):
        total = sum(tensor.source.nbytes for tensor in order)
        for shards in range(1, len(order) + 1):
            groups = balanced(order, shards)
            assert [tensor for group in groups for tensor in group] == order
            assert len(groups) == shards
            bound = -(-total // shards) + max(tensor.source.nbytes for tensor in order)
            assert all(group and sum(tensor.source.nbytes for tensor in group) <= bound for group in groups)


def test_more_shards_than_tensors_are_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="22 shards are more than the 21 tensors"):
        write("llama", "safetensors", shards=22)


@pytest.mark.parametrize(
    ("config", "shards", "message"),
    [
        ({"n_heads": 4}, 3, "cannot share 4 heads"),
        ({"n_heads": 8, "n_kv_heads": 2}, 4, "cannot share 2 heads"),
        ({"n_heads": 4, "vocab_size": 401}, 2, "output.weight"),
    ],
)
def test_slices_that_nobody_could_load_are_refused(
    write: Write, config: dict[str, int], shards: int, message: str
) -> None:
    base = {"dim": 96, "n_layers": 1, "vocab_size": 400, "multiple_of": 32}
    model = ARCHITECTURES["llama"].architecture({**base, **config}, "meta")
    with pytest.raises(UsageError, match=message):
        write(model, "meta", shards=shards)


def test_registry_is_the_folder() -> None:
    from pathlib import Path

    import meminspect.synthesis.layouts as package

    files = {file.stem for file in Path(package.__path__[0]).glob("*.py")} - {"__init__", "hugging_face"}
    registered = {module for module in files if isinstance(getattr(package, module).LAYOUT, Layout)}
    assert registered == files
    assert len(LAYOUTS) == len(files)
