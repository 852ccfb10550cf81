"""Starting fresh interpreters for the samplers' tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]


def run_python(script: str, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> Any:
    """Run a script in a fresh interpreter, with the repository in its import path, and return what it printed as JSON.

    Args:
        script: the program.
        environment: variables beside our own.
        prefix: the command that starts the interpreter, as ``unshare -m``.
    """
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})}
    command = [*prefix, sys.executable, "-c", script]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
