"""Folders of one file for each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from checkpoint_files import refused

from meminspect.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {
    "a.weight": torch.randn(3, 5).half(), "scalar": torch.tensor(2), "parameter": torch.nn.Parameter(torch.randn(4)),
    "view": torch.arange(12.0)[4:8], "empty": torch.empty(0, 3), "größe": torch.tensor([True]),
}  # fmt: skip


def write(folder: Path, suffix: str = ".pt") -> Path:
    for name, tensor in TENSORS.items():
        torch.save(tensor, folder / f"{name}{suffix}")
    return folder


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_given_a_file_for_each_tensor_then_names_are_the_files(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    checkpoint = read_checkpoint(write(tmp_path, suffix))

    assert (checkpoint.layout, checkpoint.config) == ("per-tensor", {"model_type": "llama"})
    assert checkpoint.warnings == ()
    assert [file.name for file in checkpoint.files] == sorted(f"{name}{suffix}" for name in TENSORS)
    for stored in checkpoint.tensors:
        tensor = TENSORS[stored.name].detach()
        content = checkpoint.files[stored.storage.file].path.read_bytes()
        data = content[stored.file_offset : stored.file_offset + stored.nbytes]
        assert (stored.shape, len(data)) == (tuple(tensor.shape), tensor.nbytes)
        assert data == bytes(tensor.reshape(-1).view(torch.uint8).tolist())


def test_given_a_state_dict_among_them_then_they_are_no_checkpoint_of_their_own(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, write(tmp_path) / "model.pt")
    assert "model.pt" in refused(tmp_path, "checkpoints").message
    assert read_checkpoint(tmp_path / "model.pt").layout == "torch"


def test_given_one_tensor_twice_then_it_is_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(1), write(tmp_path) / "scalar.pth")
    refused(tmp_path, "holds the tensor 'scalar' twice")


def test_given_a_link_out_of_the_folder_then_it_is_not_followed(tmp_path: Path) -> None:
    (folder := tmp_path / "f").mkdir()
    torch.save(torch.ones(1), tmp_path / "outside.pt")
    (write(folder) / "link.pt").symlink_to(tmp_path / "outside.pt")
    refused(folder, "link out of the checkpoint's folder")


def test_given_a_damaged_file_then_its_name_is_told(tmp_path: Path) -> None:
    file = write(tmp_path) / "view.pt"
    file.write_bytes(file.read_bytes()[:-50])
    refused(tmp_path, "view.pt", "incomplete")
