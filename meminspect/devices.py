"""What a device's name says, as torch has them: its kind, and which of several it is."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["KINDS", "PINNED_KINDS", "index_of", "is_device", "kind_of"]

KINDS: Final = ("cpu", "cuda", "xpu", "mps")
"""What a model can be loaded to: the host, NVIDIA's GPUs (AMD's with torch for ROCm), Intel's, Apple's."""

PINNED_KINDS: Final = ("cuda", "xpu")
"""To these memory is copied from page-locked memory; Metal's copies read any page of the host by themselves."""

_NAME: Final = re.compile(r"cpu|mps|(cuda|xpu)(:\d{1,3})?")


def is_device(name: str) -> bool:
    """Whether this is the name of something to load to."""
    return _NAME.fullmatch(name) is not None


def kind_of(name: str) -> str:
    """The kind of a device: "cuda" of "cuda:1"."""
    return name.partition(":")[0]


def index_of(name: str) -> int:
    """Which device of its kind a name means; the first where it has no number."""
    number = name.partition(":")[2]
    return int(number) if number.isdecimal() else 0
