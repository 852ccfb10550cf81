"""The user's own model, `module:factory`: a process in the worker's environment imports it and tells what it has."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any, Final

from meminspect.architectures.own import OwnModel
from meminspect.errors import UsageError
from meminspect.text import shown

if TYPE_CHECKING:
    from meminspect.checkpoint import Checkpoint
    from meminspect.strategies import LoadOptions

__all__ = ["own_model", "with_model_described"]

_PATIENCE_S: Final = 120.0  # with what a module does when it is imported
_DOTTED: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_NAME: Final = re.compile(f"{_DOTTED}:{_DOTTED}")


def own_model(name: str) -> OwnModel:
    """The model of a name, which nobody has looked at yet.

    Raises:
        UsageError: it is no "module:factory".
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"'{shown(name)}' is not a model", "write it as --model package.module:ClassOrFunction")
    try:
        return OwnModel(name, os.getcwd())  # noqa: PTH109 - sys.path is text
    except OSError as error:
        raise UsageError("the current folder is gone", "change to another") from error


def with_model_described(options: LoadOptions, checkpoint: Checkpoint) -> LoadOptions:
    """The options with what their own model consists of; they themselves where they name none, or know it.

    Args:
        options: the user's choices.
        checkpoint: whose config the model's factory may want.

    Raises:
        UsageError: the model cannot be imported or built.
    """
    own = options.model
    if own is None or own.parameters is not None:
        return options
    told = _told(options.interpreter.executable, own, checkpoint)
    if "error" in told:
        raise UsageError(f"--model: {told['error']}", told["hint"])
    return dataclasses.replace(options, model=OwnModel.from_document(told))


def _told(python: str, own: OwnModel, checkpoint: Checkpoint) -> dict[str, Any]:
    from meminspect.engine.worker_process import ENTRY  # takes long, and few name a model

    question = json.dumps({"name": own.name, "folder": own.folder, "config": dict(checkpoint.config or {})})
    lifeline, our_end = os.pipe()
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user names
            [python, str(ENTRY), str(lifeline)],
            input=question.encode(), capture_output=True, pass_fds=(lifeline,), timeout=_PATIENCE_S,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(
            f"cannot start {shown(python, 160, keep_end=True)}: {error.strerror}", "check --python"
        ) from error
    except subprocess.TimeoutExpired as error:
        hint = "import it by itself to see what it waits for"
        raise UsageError(f"--model {own.name} has not been built within {_PATIENCE_S:.0f} s", hint) from error
    finally:
        os.close(lifeline)
        os.close(our_end)
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = shown(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2], 200)
        raise UsageError(
            f"--model {own.name} ended its process with exit status {done.returncode}: {said}", "import it by itself"
        ) from None
    return told
