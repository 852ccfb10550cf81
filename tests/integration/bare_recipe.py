"""Runs a recipe as a user would paste it: no hooks, no recorder. `python bare_recipe.py PATH SPEC`, both in JSON.

Prints one JSON document: the peak RSS above the baseline, a SHA-256 of every tensor of the model, and what verifying
it against the files found.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import sys
from pathlib import Path


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def main(spec: dict[str, str]) -> None:
    import torch

    from meminspect.checkpoint import read_checkpoint
    from meminspect.strategies import LoadOptions, LoadTask, find
    from meminspect.strategies.task import task_for
    from meminspect.worker.models import build
    from meminspect.worker.verify import verify

    strategy = find(spec["strategy"])

    def task_of(path: str) -> LoadTask:
        return task_for(read_checkpoint(path), LoadOptions(dtype=spec["dtype"] or None))

    def execute(path: str) -> torch.nn.Module:
        task = task_of(path)
        text = strategy.recipe(task)
        names = {"Model": lambda _: build(task.architecture), "config": {}, "split_dims": task.split_dims}
        exec(compile(text, "<recipe>", "exec"), names)  # noqa: S102 - the text under test
        return names["model"]  # type: ignore[return-value]

    execute(spec["tiny"])  # the same warm-up that a worker has
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    baseline = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again here

    model = execute(spec["checkpoint"])
    peak = _status("VmHWM")
    digests = {
        name: hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    found = {"peak_bytes": peak - baseline, "digests": digests}
    found["tensors"] = verify(model, task_of(spec["checkpoint"]), strategy)
    print(json.dumps(found))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    main(json.loads(sys.argv[2]))
