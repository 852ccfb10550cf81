"""Recipes are executed: whatever a checkpoint calls its files, entries and tensors, it adds no code to them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import NATIVE, LoadOptions
from meminspect.strategies.task import task_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meminspect.strategies import LoadTask

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

PLAIN = "net"
HOSTILE = ("{print(1)}", '{name}"}; print(1) #', "'''\nprint(1)\n'''", "\\", "\n    print(1)", "%s{0!r}")


def saved(content: object, path: Path) -> Path:
    torch.save(content, path.parent / "new")  # torch itself does not write to every name
    return (path.parent / "new").rename(path)


def entry(text: str, folder: Path) -> Path:
    return saved({text: {"state_dict": {"w": torch.ones(2)}}, "epoch": 1}, folder / "net.pth")


def entry_of_chunks(text: str, folder: Path) -> Path:
    dcp.save({text: {"model": {"w": torch.ones(2)}}}, checkpoint_id=folder, no_dist=True)
    return folder


def file(text: str, folder: Path) -> Path:
    return saved({"w": torch.ones(2)}, folder / f"{text}.pth")


def files_of_tensors(text: str, folder: Path) -> Path:
    for name in ("a", "b"):
        saved(torch.ones(2), folder / f"{text}.{name}.pt")
    return folder


def shape_of(recipe: str) -> str:
    """A recipe's syntax tree without its texts."""
    tree = ast.parse(recipe)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def recipes(task: LoadTask) -> dict[str, str]:
    return {id_: shape_of(one.recipe(task)) for id_, one in NATIVE.items() if one.why_not(task) is None}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("write", [entry, entry_of_chunks, file, files_of_tensors])
def test_a_name_of_a_checkpoint_stays_text_in_every_recipe(
    write: Callable[[str, Path], Path], text: str, tmp_path: Path
) -> None:
    found: list[Any] = []
    for name in (PLAIN, text):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        found.append(recipes(task_for(read_checkpoint(write(name, folder)), LoadOptions())))

    assert found[0]
    assert found[0] == found[1]
