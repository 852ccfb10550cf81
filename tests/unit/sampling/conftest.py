"""Fixtures of the samplers' tests: a stub of NVIDIA's library, and processes of another user."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sampling_processes import run_python

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `stubs` is found without the tests being a package

from stubs import StubNvml, build_stub_nvml, compiler

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534


@pytest.fixture(scope="session")
def stub_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stub of libnvidia-ml.so.1."""
    if compiler() is None:
        pytest.skip("no C compiler to build the NVML stub with")
    return build_stub_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub_nvml(stub_nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubNvml:
    """A machine without GPUs as NVML sees it; plug some in with `gpu`. This process's pynvml uses it."""
    stub = StubNvml(stub_nvml_library, tmp_path / "nvml-answers")
    stub.install(monkeypatch)
    return stub


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
