"""Which layout a path is, what else people name, and what the registry promises."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_archives import archive_of, state_dict, tensor
from checkpoint_files import f32, refused, safetensors_bytes

import meminspect
from meminspect.checkpoint import LAYOUTS, Layout, layouts, read_checkpoint
from meminspect.errors import CheckpointError, SeveralCheckpointsError

TINY = safetensors_bytes({"w": f32(0, 4)}, bytes(4))
TORCH = archive_of(state_dict(w=tensor()), _0=bytes(16))


def write(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is an empty file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
    "web page": (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
    "error": (b'{"error": "not found"}', "JSON document"),
    "xml": (b"<?xml version='1.0'?><Error/>", "XML"),
    "pickle": (b"\x80\x04\x95" + bytes(20), "is a pickle"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "tar archive"),
    "zeros": (bytes(5000), "filled with zeros"),
}


@pytest.mark.parametrize("name", ["a.safetensors", "consolidated.00.pth", "model.bin", "noname"])
@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
def test_given_another_kind_of_file_then_it_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name, name, words)
    assert error.hint


@pytest.mark.parametrize("content", [b"\1", b"\1\2\3\4\5\6\7\x08", b"\0\0\0\0\0\0\0\x08{", b"abcdefghijklm"])
def test_given_noise_then_it_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("a.safetensors", "consolidated.00.pth", "x"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, name)


def test_given_a_torch_archive_under_a_safetensors_name_then_it_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, **{"model.safetensors": TORCH})
    for path in (folder, folder / "model.safetensors"):
        assert "model.pth" in refused(path, "is a zip archive").hint


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "is empty"),
        (("README.md",), "holds no checkpoint"),
        (("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"), "but not their index"),
        (("checkpoint.pth",), "not a file that torch.save wrote"),
        (("optimizer.pt", "rng_state_0.pth", "training_args.bin"), "holds no checkpoint"),
        (("tf_model.h5",), "another framework"),
    ],
)
def test_given_a_folder_of_another_kind_then_it_says_what_it_holds(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    refused(write(tmp_path, **dict.fromkeys(names, b"x")), words)


def test_given_a_folder_above_the_checkpoint_then_the_hint_leads_there(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    assert "original/" in refused(tmp_path, "holds no weights itself").hint


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"consolidated.00.pth": TORCH, "model.safetensors": TINY},
            "2 checkpoints: consolidated.00.pth (meta), model.safetensors (safetensors)",
        ),
        ({"a.safetensors": TINY, "b.safetensors": TINY}, "a.safetensors (safetensors), b.safetensors (safetensors)"),
        (
            {"model.safetensors": TINY, "model.safetensors.index.json": b"{}"},
            "model.safetensors (safetensors), model.safetensors.index.json (safetensors-sharded)",
        ),
        (
            {"a.safetensors.index.json": b"{}", "b.safetensors.index.json": b"{}"},
            "a.safetensors.index.json (safetensors-sharded), b.safetensors.index.json (safetensors-sharded)",
        ),
        (
            {"pytorch_model.bin": TORCH, "model.safetensors": TINY, "training_args.bin": TORCH},
            "model.safetensors (safetensors), pytorch_model.bin (torch)",
        ),
        ({"a.pth": TORCH, "b.ckpt": TORCH, "c d.bin": TORCH}, "a.pth (torch), b.ckpt (torch), c d.bin (torch)"),
        ({"lit_model.pth": TORCH, "a.pt": TORCH}, "a.pt (torch), lit_model.pth (litgpt)"),
    ],
)
def test_given_several_checkpoints_in_a_folder_then_it_lists_them_and_each_can_be_named(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    error = refused(write(tmp_path, **files), words)
    assert isinstance(error, SeveralCheckpointsError)
    assert f"--ckpt {shlex.quote(str(next(iter(error.choices))))}" in error.hint
    for choice in error.choices:
        if choice.suffix != ".json":
            assert read_checkpoint(choice).tensors


def test_given_shards_without_an_index_then_the_hint_names_it(tmp_path: Path) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert "index" in refused(write(tmp_path, **dict.fromkeys(names, TINY)), "not their index").hint


def test_given_mistrals_params_beside_safetensors_then_it_is_safetensors(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path, **{"params.json": b'{"dim": 4}', "consolidated.safetensors": TINY}))
    assert (checkpoint.layout, checkpoint.config) == ("safetensors", {"dim": 4})


def test_given_a_path_that_is_nothing_then_it_says_so(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "absent", "no such file")
    refused("meta-llama/Llama-2-7b", "no such file")
    refused(f"{tmp_path}/a\0b", "not a path")
    refused(tmp_path / ("x" * 3000), "name too long")


def test_given_a_pipe_or_device_then_it_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "not a regular file")
    refused(tmp_path, "a.safetensors", "not a regular file")
    refused("/dev/zero", "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_given_no_permission_then_it_says_so(tmp_path: Path) -> None:
    write(tmp_path, **{"a.safetensors": TINY})
    (tmp_path / "a.safetensors").chmod(0)
    refused(tmp_path, "a.safetensors", "may not be read")


def test_given_a_file_that_the_system_cannot_open_then_its_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, **{"a.safetensors": TINY}) / "a.safetensors"

    def fail(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", fail)
    refused(path, "a.safetensors", "may not be read")


def test_given_a_file_that_shrinks_while_read_then_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, **{"a.safetensors": TINY}) / "a.safetensors"
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    refused(path, "shrank while it was being read")


def test_given_the_layouts_folder_then_the_registry_lists_every_module() -> None:
    modules = {path.stem.replace("_", "-") for path in Path(layouts.__path__[0]).glob("*.py")} - {"--init--", "base"}
    assert {layout.id for layout in LAYOUTS} == modules
    assert all(layout.summary.isprintable() for layout in LAYOUTS)


def test_given_a_fresh_interpreter_then_reading_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    write(tmp_path, **{"a.safetensors": TINY, "consolidated.00.pth": TORCH})
    code = (
        "import sys; from meminspect.checkpoint import read_checkpoint\n"
        "for path in sys.argv[1:]: assert read_checkpoint(path).tensors\n"
        "third = {'torch', 'numpy', 'safetensors', 'transformers', 'pickle', 'zipfile'} & set(sys.modules)\n"
        "assert not third, third"
    )
    paths = [str(tmp_path / name) for name in ("a.safetensors", "consolidated.00.pth")]
    root = str(Path(meminspect.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, *paths], check=True, env={**os.environ, "PYTHONPATH": root})


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_given_a_folder_that_is_emptied_between_two_looks_then_it_is_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        layout.read(tmp_path)
