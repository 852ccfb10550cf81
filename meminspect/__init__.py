"""meminspect: which way of loading a checkpoint fits, how fast is it, and which tensor makes the peak?

`run` loads a checkpoint in a process of its own, `record` watches code of yours in this one, and `mark` says to
whoever watches where a load begins and ends. They are imported when they are first used: this import costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meminspect.api import record, run
    from meminspect.marks import mark

__all__ = ["__version__", "mark", "record", "run"]

__version__ = "0.1.0"

_HOMES = {"mark": "meminspect.marks", "record": "meminspect.api", "run": "meminspect.api"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'meminspect' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
