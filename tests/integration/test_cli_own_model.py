"""`--model module:factory`: the worker loads into the user's own model, which no other process of ours imports."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command_line import Home

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import torch
from torch import nn
print("something of its own")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.register_buffer("angles", torch.arange(2.0), persistent=False)

def broken():
    raise ValueError("no such thing")
"""


@pytest.mark.slow
def test_a_model_of_the_current_folder_is_loaded_into_and_verified(tmp_path: Path) -> None:
    (tmp_path / "a_net.py").write_text(SOURCE)
    saved = "import torch, a_net; torch.save(a_net.Net().half().state_dict(), 'net.pth')"
    subprocess.run([sys.executable, "-c", saved], cwd=tmp_path, check=True)
    home = Home(tmp_path / "home")
    inside = ("env", "-C", str(tmp_path))  # as a user types it, in the project's folder

    done = home.meminspect("run", "--ckpt", "net.pth", "--model", "a_net:Net", "-s", "naive", "--json", wrapper=inside)
    refused = home.meminspect("plan", "--ckpt", "net.pth", "--model", "a_net:broken", wrapper=inside)

    assert (done.status, done.run["outcome"]) == (0, "completed"), done.run["message"]
    assert done.document["checkpoint"]["architecture"] == "a_net:Net"
    tensors = done.run["tensors"]
    assert (tensors["expected"], tensors["verified"], tensors["missing"]) == (2, 2, 0)
    assert (refused.status, refused.stdout) == (2, "")
    error, hint = refused.stderr.splitlines()
    assert error == "meminspect: error: --model: a_net:broken raised ValueError: no such thing"
    assert hint.startswith("hint: ")
