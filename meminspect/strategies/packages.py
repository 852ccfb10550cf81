"""What a strategy needs beside torch: which package, since which version, and how one gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meminspect.sampling.interpreter import Interpreter
    from meminspect.strategies.task import LoadTask

__all__ = [
    "ACCELERATE",
    "BITSANDBYTES",
    "FABRIC",
    "FASTSAFETENSORS",
    "RUNAI",
    "TORCHAO",
    "TRANSFORMERS",
    "Package",
    "why_not_installed",
    "why_not_safetensors",
]


class Package(NamedTuple):
    """A distribution that a recipe imports from."""

    name: str
    oldest: tuple[int, ...]
    extra: str  # of meminspect, which installs it


TRANSFORMERS: Final = Package("transformers", (5, 0), "hf")  # 4 has another loader, which these theories are not of
ACCELERATE: Final = Package("accelerate", (1, 0), "hf")
BITSANDBYTES: Final = Package("bitsandbytes", (0, 46), "quantised")  # since when it runs without CUDA
FABRIC: Final = Package("lightning-fabric", (2, 4), "fabric")
FASTSAFETENSORS: Final = Package("fastsafetensors", (0, 5), "fast")  # since when its tensors keep their buffer
RUNAI: Final = Package("runai-model-streamer", (0, 17), "fast")  # since when they have memory of their own
TORCHAO: Final = Package("torchao", (0, 15), "quantised")


def why_not_safetensors(task: LoadTask) -> str | None:
    """In one sentence why a library that reads nothing but safetensors cannot read a checkpoint; None when it can."""
    if task.checkpoint.layout.startswith("safetensors") and not task.checkpoint.prefix:
        return None
    return "it reads safetensors files, under the names that they have"


def why_not_installed(packages: Iterable[Package], interpreter: Interpreter) -> str | None:
    """In one sentence which package the worker's environment lacks; None when all are there."""
    for package in packages:
        lack = interpreter.lacks(package.name, package.oldest)
        if lack is None:
            continue
        newer = "" if lack.startswith("has no ") else f", and {'.'.join(map(str, package.oldest))} or newer is needed"
        if interpreter.python is None:
            return f"this environment {lack}{newer}: pip install 'meminspect[{package.extra}]'"
        return f"the environment of --python {lack}{newer}: pip install {package.name} there"
    return None
