"""Tells what the user's own model consists of, in a process of its own: user code runs in no other of ours."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback

from meminspect.worker.lifeline import die_with

__all__ = ["main"]


def main(lifeline: int) -> None:
    """Answer on standard output what is asked on standard input: the described model, or an error and a hint, as JSON.

    Args:
        lifeline: descriptor of the pipe whose other end the asker holds.
    """
    die_with(lifeline)
    answer = os.dup(1)
    os.dup2(2, 1)  # where what the user's code prints is in nobody's way
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    asked = json.load(sys.stdin)

    from meminspect.architectures.own import OwnModel
    from meminspect.errors import UsageError
    from meminspect.worker.models.own import described

    try:
        told: dict[str, object] = dataclasses.asdict(
            described(OwnModel(asked["name"], asked["folder"]), asked["config"])
        )
    except UsageError as error:
        traceback.print_exc()
        told = {"error": error.message, "hint": error.hint}
    with os.fdopen(answer, "w") as file:
        json.dump(told, file)
    os._exit(0)  # whatever threads the module has started
