"""Fixtures of the samplers' tests: processes of another user."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from sampling_processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOBODY = 65534


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[str], Any]:
    """Runs a script in tmp_path that becomes another user where it calls `drop()`, after its imports.

    What it prints, as JSON, is returned.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    tmp_path.chmod(0o755)
    prologue = (
        f"import json, os\nos.chdir({str(tmp_path)!r})\n"
        f"def drop():\n    os.setgroups([])\n    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
    )
    return lambda script: run_python(prologue + script)
