"""Folders of torch.distributed.checkpoint that several ranks have written: tensors cut along any dimension."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from test_dcp_checkpoints import loaded

from meminspect.checkpoint import read_checkpoint
from meminspect.strategies import STRATEGIES, LoadOptions
from meminspect.strategies.task import task_for
from meminspect.worker.models import build
from meminspect.worker.recipe import default_dtype
from meminspect.worker.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

WHOLE = {
    "rows": torch.arange(42.0).view(7, 6),
    "columns": torch.arange(45.0).view(5, 9).half(),
    "one": torch.arange(4.0).view(1, 4),  # of which the second rank has nothing
    "norm": torch.arange(6.0),  # which every rank has
}
CUT = {"rows": 0, "columns": 1, "one": 0}


def by_hand(folder: Path) -> Path:
    """What two ranks would write, without any: each saves its part, and the metadata of both are made one."""
    whole: Any = None
    for rank in (0, 1):
        parts = {f"model.{name}": WHOLE[name].chunk(2, dim) for name, dim in CUT.items()}
        state = {name: cut[rank].clone() for name, cut in parts.items() if rank < len(cut)}
        if rank == 0:
            state["model.norm"] = WHOLE["norm"]
        dcp.save(state, checkpoint_id=folder / str(rank), no_dist=True)
        (folder / str(rank) / "__0_0.distcp").rename(folder / f"__{rank}_0.distcp")
        found: Any = dcp.FileSystemReader(folder / str(rank)).read_metadata()
        whole = whole or copy.deepcopy(found)
        if rank == 0:
            whole.storage_data.clear()
        for index, place in found.storage_data.items():
            entry, cut = whole.state_dict_metadata[index.fqn], parts.get(index.fqn)
            start = [0] * len(entry.size)
            if cut is not None:
                dim = CUT[index.fqn.removeprefix("model.")]
                start[dim] = rank * cut[0].shape[dim]
            if rank == 1:
                (chunk,) = found.state_dict_metadata[index.fqn].chunks
                entry.chunks.append(type(chunk)(torch.Size(start), chunk.sizes))
            entry.size = WHOLE[index.fqn.removeprefix("model.")].shape
            place.relative_path = f"__{rank}_0.distcp"
            whole.storage_data[type(index)(index.fqn, torch.Size(start))] = place
    whole.planner_data = {name: tuple(name.split(".")) for name in whole.state_dict_metadata}
    (folder / ".metadata").write_bytes(pickle.dumps(whole))
    return folder


def _rank(rank: int, folder: str, meeting: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = {
        name: distribute_tensor(tensor, mesh, [Shard(CUT[name]) if name in CUT else Replicate()])
        for name, tensor in WHOLE.items()
    }
    dcp.save({"model": model, "step": rank}, checkpoint_id=folder)
    dist.destroy_process_group()


def by_ranks(folder: Path) -> Path:
    """What two ranks write."""
    torch.multiprocessing.spawn(_rank, (str(folder / "saved"), str(folder / "meeting")), nprocs=2)  # type: ignore[no-untyped-call]
    return folder / "saved"


@pytest.mark.parametrize("write", [by_hand, pytest.param(by_ranks, marks=pytest.mark.slow)])
def test_what_ranks_have_cut_is_put_together_planned_loaded_and_verified(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path)

    checkpoint = read_checkpoint(folder)

    assert (checkpoint.layout, checkpoint.prefix, len(checkpoint.files)) == ("dcp", "model.", 2)
    assert {tensor.name for tensor in checkpoint.tensors if tensor.chunk} >= {"rows", "columns"}
    found = loaded(checkpoint)
    assert found.keys() == WHOLE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WHOLE.items())
    task = task_for(checkpoint, LoadOptions())
    assert {id_ for id_, strategy in STRATEGIES.items() if strategy.why_not(task) is None} == {"naive", "meta-assign"}
    for id_ in ("naive", "meta-assign"):
        assert STRATEGIES[id_].theory(task).floor_bytes == sum(tensor.nbytes for tensor in WHOLE.values())
        names: dict[str, Any] = {"Model": lambda _: build(task.architecture), "config": None}
        with default_dtype("float32"):
            exec(STRATEGIES[id_].recipe(task), names)  # noqa: S102 - the text under test
        counts = verify(names["model"], task)
        assert (counts["expected"], counts["mismatched"], counts["missing"], counts["unexpected"]) == (4, 0, 0, 0), id_
