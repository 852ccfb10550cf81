"""The worker in an environment that is the user's, not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import Home

from meminspect.synthesis import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("main", "recorder", "recipe", "verify", "hooks", "models", "worker", "resident", "ballast", "lifeline")


@pytest.mark.parametrize("safe_path", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_given_users_modules_with_names_of_ours_then_neither_shadows_the_other(tmp_path: Path, safe_path: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in OURS:
        (theirs / f"{name}.py").write_text("raise ImportError('the worker has imported a module of the user')\n")
    # Python runs this one in every process, as it would theirs: it must find their module of such a name, not ours.
    (theirs / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "for name in ('recorder', 'recipe'):\n"
        f"    assert importlib.util.find_spec(name).origin.startswith({str(theirs)!r}), name\n"
    )
    checkpoint = tiny_checkpoint("llama", "meta", "meta", "float16", tmp_path / "tiny")

    environment = {"PYTHONPATH": str(theirs)} | ({"PYTHONSAFEPATH": safe_path} if safe_path else {})
    done = Home(tmp_path / "home").meminspect("run", "--ckpt", checkpoint, "-s", "meta-assign", "--json", **environment)

    assert (done.status, done.run["outcome"]) == (0, "completed"), done.run["message"]
