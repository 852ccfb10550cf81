"""Gives the worker a GPU that is none, and the other processes a torch that could use one.

With this folder and the project's on PYTHONPATH, and NVML's stub (`stubs`), the whole command runs on cuda.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

_version = importlib.metadata.version
importlib.metadata.version = lambda name: _version(name).replace("+cpu", "+cu130")


def _unverified(model: Any, task: Any, strategy: Any) -> dict[str, object]:
    """In verification's place, for which there are no values."""
    counts = dict.fromkeys(("verified", "mismatched", "missing", "unexpected"), 0)
    return {"expected": len(task.pieces), **counts, "names": {"mismatched": [], "missing": [], "unexpected": []}}


if any(argument.endswith("worker/__main__.py") for argument in sys.orig_argv):
    import cuda_on_meta

    from meminspect.worker import verify

    cuda_on_meta.install()
    verify.verify = _unverified
