"""Runs in an interpreter of the user's: with torch and modules of their own, and without meminspect."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from command_line import Home

from meminspect.synthesis import tiny_checkpoint

OURS = ("strategies", "worker", "units", "capture", "checkpoint", "recipe", "hooks", "main", "errors", "text")
OLD = {"torch": "2.1.2", "numpy": "1.26.4", "safetensors": "0.4.0"}


def environment(folder: Path) -> Path:
    """A virtual environment that sees torch and what it needs, but neither meminspect nor what it is made of."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(("meminspect", "_meminspect", "__editable__", "click", "rich", "textual")):
            (site / entry.name).symlink_to(entry)
    for name in OURS:
        (site / f"{name}.py").write_text(f"raise ImportError('the worker has imported {name} of the user')\n")
    (site / "sitecustomize.py").write_text(
        "import importlib.util\n"
        f"for name in {OURS!r}:\n"
        f"    assert importlib.util.find_spec(name).origin.startswith({str(site)!r}), name\n"
    )
    return folder / "bin" / "python"


def test_a_run_in_an_environment_of_their_own(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    checkpoint = tiny_checkpoint("llama", "hf", "safetensors", "float16", tmp_path / "tiny")

    done = Home(tmp_path / "home").meminspect(
        "run", "--ckpt", checkpoint, "-s", "meta-assign", "--python", python, "--json"
    )

    assert (done.status, done.run["outcome"]) == (0, "completed"), done.run["message"]
    assert done.run["environment"]["executable"] == str(python)
    assert done.run["tensors"]["verified"] == done.run["tensors"]["expected"]


def test_an_interpreter_that_will_not_do_is_one_line_and_a_hint(tmp_path: Path) -> None:
    done = Home(tmp_path / "home").meminspect("plan", "--ckpt", tmp_path, "--python", tmp_path / "absent")

    assert (done.status, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error == f"meminspect: error: the Python interpreter {tmp_path}/absent is not there"
    assert hint.startswith("hint: ")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_with_an_older_torch(tmp_path: Path) -> None:
    """MEMINSPECT_OLD_PYTHON names an environment with torch 2.1; without it one is made, of several gigabytes."""
    python = Path(os.environ.get("MEMINSPECT_OLD_PYTHON") or _old_environment(tmp_path / "venv"))
    home = Home(tmp_path / "home")

    # In bfloat16: torch 2.1 multiplies no float16 on the CPU.
    for layout, naming, strategies in (
        ("meta", "meta", "mmap-assign,meta-assign,naive"),
        ("safetensors", "hf", "mmap-assign,sharded,naive"),
    ):
        checkpoint = tiny_checkpoint("llama", naming, layout, "bfloat16", tmp_path / layout)
        done = home.meminspect("run", "--ckpt", checkpoint, "-s", strategies, "--python", python, "--forward", "--json")
        assert done.status == 0, done.stderr
        for run in done.document["runs"]:
            assert run["outcome"] == "completed", run["message"]
            assert run["environment"]["torch"].startswith("2.1")
            assert run["forward"]["s"] is not None
    plan = home.meminspect("plan", "--ckpt", checkpoint, "--python", python, "--json").document
    why_not = {row["strategy"]: row["why_not"] for row in plan["strategies"]}
    assert "has safetensors 0.4.0, and 0.8 or newer is needed" in why_not["meta-assign"]
    assert "and 2.3 or newer is needed" in why_not["lazy"]


def _old_environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = [f"{name}=={version}" for name, version in OLD.items()]
    done = subprocess.run([folder / "bin" / "pip", "install", "-q", "--no-cache-dir", *wanted], check=False)
    if done.returncode:
        pytest.skip("the registry has no torch 2.1 for this Python")
    return folder / "bin" / "python"
