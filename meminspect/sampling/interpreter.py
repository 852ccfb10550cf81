"""The Python that a worker runs in: which one, and what is installed beside it. It is asked, and imports nothing."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from meminspect.errors import UsageError
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OURS", "Interpreter", "open_interpreter", "torch_version"]

_REQUIRED: Final = ("torch", "safetensors")  # by meminspect itself
_ASKED: Final = (
    *_REQUIRED, "gguf", "transformers", "accelerate", "bitsandbytes", "torchao", "fastsafetensors",
    "runai-model-streamer", "lightning-fabric",
)  # fmt: skip
_OLDEST: Final = {"python": (3, 10), "torch": (2, 1)}  # load_state_dict(assign=True) and torch.load(mmap=True)
_PATIENCE_S: Final = 30.0
_TORCH_SAYS: Final = re.compile(r"__version__ = '([^']+)'")  # torch/version.py, where packages are named without it

# Written for any Python, so that an old one can say how old it is. The folder that Python puts first on the path for
# `-c` is the current one, whose modules are nobody's environment.
_QUESTION: Final = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
import json
packages = {}
try:
    from importlib.metadata import version
except ImportError:
    version = None
for name in sys.argv[1:]:
    try:
        packages[name] = version(name)
    except Exception:
        pass
try:
    import importlib.util, os, re
    with open(os.path.join(os.path.dirname(importlib.util.find_spec("torch").origin), "version.py")) as file:
        packages["torch"] = re.search("__version__ = '([^']+)'", file.read()).group(1)
except Exception:
    pass
sys.stdout.write("\\n" + json.dumps({"python": sys.version.split()[0], "packages": packages}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python and its environment.

    Args:
        executable: an absolute path, links kept: a virtual environment is told by where its link lies.
        python: its version; None for our own, which is as meminspect's requirements say.
        packages: versions by name of what a recipe may need; what is absent is not installed.
    """

    executable: str = sys.executable
    python: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict, hash=False)

    def lacks(self, package: str, oldest: tuple[int, ...] = ()) -> str | None:
        """In words, to follow 'this environment', that a package is not there or too old; None when it will do."""
        if self.python is None and package in _REQUIRED:
            return None
        found = _version_here(package) if self.python is None else self.packages.get(package)
        if found is None:
            return f"has no {package}"
        return f"has {package} {shown(found)}" if _numbers(found) < oldest else None

    def words(self) -> str:
        """Which Python this is, and what it has."""
        packages = " and ".join(f"{name} {shown(self.packages[name])}" for name in _REQUIRED if name in self.packages)
        return f"Python {shown(self.python or '')} with {packages} ({shown(self.executable, 160, keep_end=True)})"

    @staticmethod
    def from_document(fields: Mapping[str, Any]) -> Interpreter:
        """The inverse of `dataclasses.asdict`."""
        return Interpreter(**fields)


@functools.cache
def _version_here(package: str) -> str | None:
    """A package's version in our own environment, which imports nothing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def torch_version() -> str | None:
    """Of the torch in our own environment, by itself: that says what it is built for (+cu130, +rocm7.0, +xpu)."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        said = _TORCH_SAYS.search(Path(found.origin).with_name("version.py").read_text())
    except OSError:
        said = None
    return _version_here("torch") if said is None else said[1]


OURS: Final = Interpreter()
"""The one that meminspect itself runs in."""


def open_interpreter(name: str, *, needs_torch: bool = True, also: Sequence[str] = ()) -> Interpreter:
    """Find an interpreter and ask it what it is; torch is not imported.

    Args:
        name: a path, or a command as a shell finds it.
        needs_torch: whether it is of no use without torch.
        also: packages to ask for beside those that every recipe may need.

    Raises:
        UsageError: there is none, it does not run, it is too old, or no torch that will do is installed beside it.
    """
    executable = _executable(name)
    if executable == sys.executable:
        return OURS
    said = shown(executable, 160, keep_end=True)
    answer = _answer(executable, said, also)
    packages = {str(package): str(version) for package, version in answer["packages"].items()}
    found = Interpreter(executable, answer["python"], packages)
    if _numbers(answer["python"]) < _OLDEST["python"]:
        raise UsageError(
            f"{said} is Python {found.python}, and a worker needs 3.10 or newer", "name another with --python"
        )
    torch = found.lacks("torch", _OLDEST["torch"])
    if torch is not None and needs_torch:
        hint = "install torch into that environment, or name another with --python"
        raise UsageError(f"the environment of {said} {torch}, and a worker needs 2.1 or newer", hint)
    return found


def _executable(name: str) -> str:
    path = Path(name).expanduser()
    said = shown(name, 160, keep_end=True)
    if path.is_dir():
        inside = path / "bin" / "python"
        hint = f"name {shown(str(inside), 160, keep_end=True)}" if inside.exists() else "name the interpreter in it"
        raise UsageError(f"{said} is a folder, not a Python interpreter", hint)
    found = shutil.which(path)
    if found is None:
        why = "may not be executed" if path.exists() else "is not there"
        raise UsageError(f"the Python interpreter {said} {why}", "name one with --python, as ./venv/bin/python")
    return os.path.abspath(found)  # noqa: PTH100 - `resolve` would follow a virtual environment's link out of it


def _answer(executable: str, said: str, also: Sequence[str] = ()) -> dict[str, Any]:
    hint = "name a Python interpreter with --python, as ./venv/bin/python"
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user names
            [executable, "-c", _QUESTION, *_ASKED, *also],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"{said} cannot be run: {error.strerror}", hint) from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{said} has not answered within {_PATIENCE_S:.0f} s", hint) from error
    try:
        answer = json.loads(done.stdout.decode().rpartition("\n")[2])
        return {"python": str(answer["python"]), "packages": dict(answer["packages"])}
    except (ValueError, KeyError, TypeError):
        pass
    words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise UsageError(f"{said} is no working Python" + (f": {shown(words, 200)}" if words else ""), hint)


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 1) of "2.1.2+cu121": what versions are compared by."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
