"""Runs strategies in one process, on the meta device in a GPU's place: `python run_cells.py CELLS RESULTS`, pickles.

Each goes through the worker's own course, from the warm-up to *resident*. Verification, for which there are no values,
is left out: in its place it is told where each tensor of the model is and what it is, and what the allocator counted.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cuda_on_meta

from meminspect.capture.ring import RingReader, RingWriter, create_ring
from meminspect.sampling.own_memory import own_memory
from meminspect.worker import main as worker
from meminspect.worker import verify
from meminspect.worker.recorder import Recorder


def main(cells: Path, results: Path) -> None:
    """Run every cell: (strategy, checkpoint, tiny, options)."""
    cuda_on_meta.install()
    verify.verify = placement
    worker._DEVICE_LOOK_S = 0  # nobody looks
    gc.freeze()  # or each run looks through all of torch's compiler
    wanted = pickle.loads(cells.read_bytes())  # noqa: S301 - our own
    results.write_bytes(pickle.dumps([ran(*cell) for cell in wanted]))


def placement(model: Any, task: Any, strategy: Any) -> dict[str, Any]:
    """Device, dtype and shape of each tensor, and bytes of the device's: peak, allocated and reserved."""
    allocator = cuda_on_meta.ALLOCATOR
    return {
        "placed": {
            name: (tensor.device.type, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        },
        "bytes": (
            max(allocator.highest_bytes, allocator.peak_bytes),
            allocator.model.allocated_bytes,
            allocator.model.reserved_bytes,
        ),
    }


def ran(strategy: str, checkpoint: Path, tiny: Path, options: Any) -> tuple[list[Any], str]:
    """The events of a run, and what went wrong in it."""
    descriptor, failure = create_ring(4 << 20), ""
    reader, recorder = RingReader(descriptor), Recorder(RingWriter(descriptor), own_memory())
    os.close(descriptor)
    recorder.enabled = True
    try:
        worker._run(
            {"strategy": strategy, "checkpoint": str(checkpoint), "tiny": str(tiny), "heap_bytes": 0,
             "options": asdict(options), "forward": False},
            recorder,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - it is the test that tells
        failure = traceback.format_exc()
    events = list(reader.drain())
    reader.close()
    return events, failure


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
