"""Fixtures of the samplers' tests: a stub of NVIDIA's library, fake proc folders, and processes of another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `stubs` is found without the tests being a package

from stubs import StubNvml, build_stub_nvml, compiler  # noqa: E402 - after the path that it is found by

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[3]
NOBODY = 65534


def run_python(script: str, environment: dict[str, str] | None = None) -> Any:
    """Run a script in a fresh interpreter, in the repository's import path, and return what it printed as JSON."""
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    """Runs a script as another user: it does its imports and calls `drop()`; the working folder is tmp_path.

    What it prints, as JSON, is returned.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    tmp_path.chmod(0o755)

    def run(script: str) -> Any:
        drop = f"import os\nos.chdir({str(tmp_path)!r})\ndef drop():\n    os.setgroups([])\n    os.setresuid(*[{NOBODY}] * 3)\n"
        return run_python(drop + script)

    return run
