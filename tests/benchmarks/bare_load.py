"""A recipe without meminspect's hooks, timed: `python bare_load.py PATH SPEC`, both in JSON.

The memory is populated, warmed up and trimmed as in a worker; the high-water mark is never reset.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from pathlib import Path


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main(spec: dict[str, str]) -> None:
    from meminspect.checkpoint import read_checkpoint
    from meminspect.sampling.procfs import ProcessMemory
    from meminspect.strategies import LoadOptions, find
    from meminspect.strategies.task import task_for
    from meminspect.worker.ballast import populate
    from meminspect.worker.models import build
    from meminspect.worker.recorder import Recorder
    from meminspect.worker.resident import touch

    silent = Recorder(None, ProcessMemory("self"))  # type: ignore[arg-type] - it is never enabled

    def prepared(path: str) -> tuple[object, dict[str, object]]:
        task = task_for(read_checkpoint(path), LoadOptions())
        code = compile(find(spec["strategy"]).recipe(task), "<recipe>", "exec")
        return code, {"Model": lambda _: build(task.architecture), "config": {}, "split_dims": task.split_dims}

    def load(code: object, names: dict[str, object]) -> object:
        exec(code, names)  # type: ignore[arg-type]  # noqa: S102 - the text that is measured
        touch(names["model"], silent, lambda _: False)  # type: ignore[arg-type]
        return names["model"]

    del_me = load(*prepared(spec["tiny"]))
    del del_me
    wanted = prepared(spec["checkpoint"])
    populate(int(spec["heap_bytes"]))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    baseline_bytes, started_ns = _status("VmRSS"), time.monotonic_ns()
    model = load(*wanted)
    elapsed_s = (time.monotonic_ns() - started_ns) / 1e9
    print(json.dumps({"resident_s": elapsed_s, "peak_bytes": _status("VmHWM") - baseline_bytes}))  # noqa: T201
    del model


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    main(json.loads(sys.argv[2]))
