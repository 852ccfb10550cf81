"""A folder of torch.distributed.checkpoint, as ranks of a sharded model write it with one file for each chunk.

Source: torch/distributed/checkpoint/filesystem.py, `_split_by_size_and_type` and `_write_files_from_queue` with
`single_file_per_rank=False`; FSDP slices every tensor along its first dimension.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from meminspect.synthesis.dcp_pickle import ChunkRecord, pickle_metadata
from meminspect.synthesis.layouts.hugging_face import config_of
from meminspect.synthesis.plan import Layout, Plan, PlannedFile, sliced, whole
from meminspect.synthesis.torch_zip import write_tensor

if TYPE_CHECKING:
    from meminspect.synthesis.output import Output
    from meminspect.synthesis.plan import PlannedTensor, SynthesisSpec

__all__ = ["LAYOUT"]


def _plan(spec: SynthesisSpec) -> Plan:
    written: list[ChunkRecord] = []  # sizes are known once the files are there, and the metadata comes last
    files: list[PlannedFile] = []
    for index, tensor in enumerate(whole(spec)):
        shape = tensor.shape
        ranks = spec.shards if shape and shape[0] and shape[0] % spec.shards == 0 else 1
        for rank in range(ranks):
            part = sliced(tensor, 0, rank, ranks)
            start = (rank * part.shape[0], *[0] * (len(shape) - 1)) if shape else ()
            name = f"__{rank}_{index}.distcp"
            write = functools.partial(
                _write_chunk, tensor=part, whole_shape=shape, start=start, name=name, done=written
            )
            files.append(PlannedFile(name, (part,), write))
    files.append(PlannedFile(".metadata", (), lambda output: output.header(pickle_metadata(written))))
    config = "params.json" if spec.architecture.naming == "meta" else "config.json"
    return Plan(tuple(files), {config: config_of(spec)})


def _write_chunk(
    output: Output,
    tensor: PlannedTensor,
    whole_shape: tuple[int, ...],
    start: tuple[int, ...],
    name: str,
    done: list[ChunkRecord],
) -> None:
    write_tensor(output, "archive", tensor)  # the name that torch takes where it writes to a stream
    done.append(ChunkRecord(tensor.name, tensor.dtype, whole_shape, start, tensor.shape, name, output.position))


LAYOUT = Layout(
    id="dcp",
    summary="torch.distributed.checkpoint's .metadata and *.distcp; shards are chunks along the first dimension",
    namings={"llama": ("meta", "hf"), "gpt2": ("hf", "teaching")},
    plan=_plan,
)
