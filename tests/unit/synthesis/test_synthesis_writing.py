from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from typing import TYPE_CHECKING, NamedTuple

import pytest
import safetensors.torch
import torch

from meminspect.architectures import Architecture, Parameter
from meminspect.errors import CheckpointError, UsageError
from meminspect.synthesis import LAYOUTS, SynthesisSpec, architecture_for, naming_for, synthesise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]

GIB = 1 << 30


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))


def python(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def test_progress_ends_with_all_the_bytes(tmp_path: Path, small: Callable[[str, str], Architecture]) -> None:
    calls: list[tuple[int, int]] = []
    spec = SynthesisSpec(tmp_path / "out", small("llama", "safetensors"), "safetensors", shards=3)
    synthesise(spec, lambda done, total: calls.append((done, total)))
    total = sum(t.nbytes for file in spec.out.glob("*.safetensors") for t in safetensors.torch.load_file(file).values())
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert {of for _, of in calls} == {total}
    assert calls[-1] == (total, total)


def test_sparse_checkpoint_of_70_billion_parameters_takes_no_disk(tmp_path: Path) -> None:
    # given Llama 2 70B in 15 shards
    model = architecture_for("llama", "safetensors", parameters=70_000_000_000)
    folder = synthesise(SynthesisSpec(tmp_path / "70b", model, "safetensors", shards=15, sparse=True))

    # then it has its nominal size, and the disk is not touched but for headers
    files = sorted(folder.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) > 137 * 10**9
    assert on_disk(folder) < 10 * 10**6
    with safetensors.safe_open(files[-1], "pt") as last:
        assert not last.get_slice("lm_head.weight")[-1].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_files_are_sound_and_all_zeros(write: Write, layout: str) -> None:
    architecture = next(iter(LAYOUTS[layout].namings))
    folder, full = write(architecture, layout, sparse=True), write(architecture, layout)
    for file in folder.iterdir():
        assert file.stat().st_size == (full / file.name).stat().st_size
        if file.suffix == ".safetensors":
            assert not any(tensor.any() for tensor in safetensors.torch.load_file(file).values())
        elif file.suffix not in (".json", ".gguf") and file.name != ".metadata":
            with zipfile.ZipFile(file) as archive:
                assert archive.testzip() is None
            loaded = torch.load(file, weights_only=True)
            assert not any(t.any() for t in (loaded.values() if isinstance(loaded, dict) else [loaded]))


def test_sparse_slices_have_the_shapes_of_full_ones(write: Write) -> None:
    sparse, full = write("llama", "meta", shards=4, sparse=True), write("llama", "meta", shards=4)
    for file in sparse.glob("*.pth"):
        assert file.stat().st_size == (full / file.name).stat().st_size


@pytest.mark.parametrize("split", [0, 1])
def test_memory_is_bounded_by_chunks(tmp_path: Path, split: int) -> None:
    # given one tensor of 256 MiB, sliced for two files
    code = f"""
import resource, sys
from pathlib import Path
from meminspect.architectures import Architecture, Parameter
from meminspect.synthesis import SynthesisSpec, synthesise
model = Architecture("llama", "meta", {{}}, (Parameter("w", (16384, 8192), split_dim={split}),))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
synthesise(SynthesisSpec(Path(sys.argv[1]), model, "meta", shards=2))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    extra = int(python(code, str(tmp_path / "out")))
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) > 256 << 20
    assert extra < 32 << 20
    shutil.rmtree(tmp_path / "out")


def test_package_is_standard_library_only() -> None:
    code = "import sys, meminspect.synthesis; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(python(code).split())
    assert not loaded & {"torch", "numpy", "safetensors", "platformdirs", "transformers"}


def test_folder_may_exist_if_it_is_empty(tmp_path: Path, small: Callable[[str, str], Architecture]) -> None:
    for out in (tmp_path / "empty", tmp_path / "not" / "yet" / "there"):
        if out.name == "empty":
            out.mkdir()
        assert synthesise(SynthesisSpec(out, small("gpt2", "bin"), "bin")) == out
        assert sorted(file.name for file in out.iterdir()) == ["config.json", "pytorch_model.bin"]
        assert [entry.name for entry in out.parent.iterdir()] == [out.name] or out.name == "empty"


def test_files_are_as_readable_as_any_other(tmp_path: Path, write: Write) -> None:
    (tmp_path / "other").mkdir()
    folder = write("llama", "meta")
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_folder_that_is_taken_is_refused(tmp_path: Path, small: Callable[[str, str], Architecture]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, message in (("taken", "exists and is not empty"), ("file", "is not a folder")):
        with pytest.raises(UsageError, match=message):
            synthesise(SynthesisSpec(tmp_path / name, small("llama", "meta"), "meta"))
    assert (tmp_path / "taken" / "precious").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "taken"]


def test_mount_point_is_refused_since_nothing_can_take_its_name(
    write: Write, small: Callable[..., Architecture]
) -> None:
    from pathlib import Path

    with pytest.raises(UsageError, match="is a mount point"):
        synthesise(SynthesisSpec(Path("/"), small("llama", "meta"), "meta"))


def test_full_disk_is_seen_before_a_byte_is_written(
    tmp_path: Path, small: Callable[[str, str], Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> DiskUsage:
        asked.append(path)
        return DiskUsage(100 * GIB, 0, 200_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    spec = SynthesisSpec(tmp_path / "new" / "out", small("llama", "meta"), "meta")
    with pytest.raises(UsageError, match=r"takes .* KiB and .* has 195\.31 KiB free") as caught:
        synthesise(spec)
    assert "--sparse" in caught.value.hint
    assert asked == [tmp_path]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), UsageError, "cannot write .*out: No space left on device"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_left_of_a_failure(
    tmp_path: Path,
    small: Callable[[str, str], Architecture],
    failure: BaseException,
    expected: type[BaseException],
    message: str | None,
    exists: bool,
) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()

    def fail(done: int, total: int) -> None:
        assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name]
        if done > total // 2:
            raise failure

    with pytest.raises(expected, match=message):
        synthesise(SynthesisSpec(out, small("llama", "safetensors"), "safetensors", shards=4), fail)

    assert list(tmp_path.iterdir()) == ([out] if exists else [])
    assert not exists or not list(out.iterdir())


def test_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    # given a limit on the size of files, by which the kernel refuses a write in the middle
    code = """
import resource, sys
from pathlib import Path
from meminspect.errors import UsageError
from meminspect.synthesis import SynthesisSpec, architecture_for, synthesise
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    synthesise(SynthesisSpec(Path(sys.argv[1]), architecture_for("llama", "meta", parameters=4_000_000), "meta"))
except UsageError as error:
    print(error.message)
"""
    assert "cannot write" in python(code, str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_of_two_at_once_one_wins_and_the_other_says_so(
    tmp_path: Path, small: Callable[[str, str], Architecture]
) -> None:
    # given a second one that is done while the first is halfway
    spec = SynthesisSpec(tmp_path / "out", small("llama", "meta"), "meta")

    def meanwhile(done: int, _: int) -> None:
        if done and not spec.out.exists():
            thread = threading.Thread(target=synthesise, args=(spec,))
            thread.start()
            thread.join()

    with pytest.raises(UsageError, match=r"cannot write .*out: Directory not empty"):
        synthesise(spec, meanwhile)
    assert list(tmp_path.iterdir()) == [spec.out]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "keras"}, "no layout 'keras'"),
        ({"dtype": "int4"}, "dtype 'int4'"),
        ({"dtype": "int64"}, "dtype 'int64'"),
        ({"shards": 0}, "0 is no number"),
        ({"shards": -2}, "-2 is no number"),
        ({"layout": "per-tensor", "shards": 2}, "one file a tensor"),
        ({"layout": "safetensors"}, "does not have the 'meta' tensor names"),
    ],
)
def test_what_does_not_exist_is_refused(
    tmp_path: Path, small: Callable[[str, str], Architecture], fields: dict[str, object], message: str
) -> None:
    asked = {"layout": "meta", **fields}
    with pytest.raises(UsageError, match=message):
        synthesise(SynthesisSpec(tmp_path / "out", small("llama", "meta"), **asked))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_layouts_say_which_architectures_they_are_for() -> None:
    assert naming_for("gpt2", "per-tensor") == "teaching"
    assert naming_for("llama", "per-tensor") == "meta"
    assert naming_for("gpt2", "safetensors") == "hf"
    with pytest.raises(UsageError, match="'meta' does not exist for gpt2") as caught:
        naming_for("gpt2", "meta")
    assert caught.value.hint == "choose from safetensors, bin, per-tensor, dcp, gguf"
    with pytest.raises(UsageError, match="no architecture 'bert'"):
        architecture_for("bert", "bin", parameters=10**8)


def test_config_decides_the_architecture(write: Write) -> None:
    config = {"dim": 64, "n_layers": 1, "n_heads": 2, "multiple_of": 32, "vocab_size": -1, "norm_eps": 1e-6}
    model = architecture_for("llama", "meta", config=config)
    assert model.parameters[0] == Parameter("tok_embeddings.weight", (32_000, 64), split_dim=1)
    written = json.loads((write(model, "meta") / "params.json").read_text())
    assert written == {**config, "vocab_size": 32_000}
    with pytest.raises(CheckpointError, match="hidden_size"):
        architecture_for("llama", "bin", config=config)


def test_of_float8_the_config_names_what_a_model_is_built_in(
    write: Write, small: Callable[[str, str], Architecture]
) -> None:
    folder = write(small("llama", "safetensors"), "safetensors", dtype="float8_e4m3fn")
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_config_names_the_dtype_once(write: Write, small: Callable[[str, str], Architecture], layout: str) -> None:
    model = small("llama", layout)
    model = Architecture("llama", "hf", {**model.config, "dtype": "float64"}, model.parameters)
    config = json.loads((write(model, layout, dtype="bfloat16") / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert "dtype" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"
