"""Another Python is asked what it is; each way in which it will not do is one sentence."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import pytest

from meminspect.errors import UsageError
from meminspect.sampling.interpreter import OURS, Interpreter, open_interpreter

if TYPE_CHECKING:
    from pathlib import Path


def fake(folder: Path, python: str, **packages: str) -> Path:
    """What answers as an interpreter with these versions would; its environment prints something of its own first."""
    answer = json.dumps({"python": python, "packages": packages})
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho a greeting\nprintf '%s' '{answer}'\n")
    path.chmod(0o755)
    return path


def test_an_environment_with_an_old_torch_will_do(tmp_path: Path) -> None:
    path = fake(tmp_path, "3.10.13", torch="2.1.2+cu121", safetensors="0.4.0")

    found = open_interpreter(str(path))

    assert found == Interpreter(str(path), "3.10.13", {"torch": "2.1.2+cu121", "safetensors": "0.4.0"})
    assert found.lacks("torch", (2, 1)) is None
    assert found.lacks("safetensors", (0, 8)) == "has safetensors 0.4.0"
    assert found.lacks("accelerate") == "has no accelerate"
    assert Interpreter.from_document(dataclasses.asdict(found)).packages == found.packages


def test_a_link_into_a_virtual_environment_is_not_followed(tmp_path: Path) -> None:
    path = fake(tmp_path, "3.12.1", torch="2.9.0")
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(path)

    assert open_interpreter(str(link)).executable == str(link)


def test_torch_is_asked_what_it_is_built_for_which_its_package_may_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = tmp_path / "torch"
    torch.mkdir()
    (torch / "__init__.py").write_text("raise SystemExit('nobody imports it')")
    (torch / "version.py").write_text("from typing import Optional\n__version__ = '2.9.1+xpu'\n")
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert open_interpreter(str(path)).packages["torch"] == "2.9.1+xpu"


def test_our_own_is_not_asked_and_lacks_nothing() -> None:
    assert open_interpreter(sys.executable) is OURS
    assert OURS.lacks("safetensors", (99, 0)) is None


@pytest.mark.parametrize(
    ("python", "packages", "words"),
    [
        ("3.9.18", {"torch": "2.1.2"}, "is Python 3.9.18, and a worker needs 3.10 or newer"),
        ("2.7.18", {}, "is Python 2.7.18"),
        ("3.11.7", {}, "has no torch, and a worker needs 2.1 or newer"),
        ("3.11.7", {"torch": "2.0.1"}, "has torch 2.0.1, and a worker needs 2.1 or newer"),
    ],
)
def test_what_is_too_old_is_refused(tmp_path: Path, python: str, packages: dict[str, str], words: str) -> None:
    path = fake(tmp_path, python, **packages)

    with pytest.raises(UsageError) as refused:
        open_interpreter(str(path))

    assert words in refused.value.message
    assert refused.value.hint


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    other, text = tmp_path / "other", tmp_path / "text"
    other.write_text("#!/bin/sh\necho it is broken >&2\n")
    other.chmod(0o755)
    text.write_text("import torch")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()

    for path, message, hint in (
        (other, "is no working Python: it is broken", "venv/bin/python"),
        (text, "may not be executed", "venv/bin/python"),
        (tmp_path / "absent", "is not there", "venv/bin/python"),
        (tmp_path / "venv", "is a folder, not a Python interpreter", f"name {tmp_path}/venv/bin/python"),
    ):
        with pytest.raises(UsageError) as refused:
            open_interpreter(str(path))
        assert message in refused.value.message
        assert hint in refused.value.hint
