"""What the UI's process imports, in fresh interpreters: a test of names, not of times."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = {"torch", "numpy", "transformers", "safetensors"}

_EVERYTHING = """
import importlib, pkgutil, sys, meminspect
TORCH_SIDE = ("meminspect.worker", "meminspect.stream")  # run in a process of their own
def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.startswith(TORCH_SIDE) and not module.name.endswith("__main__"):
            found = importlib.import_module(module.name)
            if module.ispkg:
                walk(found)
walk(meminspect)
import textual.app
print(*sys.modules)
"""

_HELP = """
import sys
from meminspect.cli import main
main(["--help"])
print(*sys.modules, file=sys.stderr)
"""


def test_nothing_that_the_ui_imports_brings_in_torch_or_its_friends() -> None:
    modules = set(_python(_EVERYTHING).stdout.split())

    assert modules & _HEAVY == set()
    expected = {"cli.inspect", "cli.plan", "analysis.describe", "engine", "sampling.machine", "synthesis", "exporters"}
    assert {f"meminspect.{name}" for name in expected} <= modules  # the walk has seen them


def test_help_imports_neither_the_app_nor_the_verbs() -> None:
    modules = set(_python(_HELP).stderr.split())

    assert modules & (_HEAVY | {"textual", "rich.console", "plotext", "psutil", "pynvml", "sqlite3"}) == set()
    assert "meminspect.cli.plan" not in modules


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
