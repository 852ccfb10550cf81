"""Writes checkpoints of any size in the layouts of the real tools, without torch and in a few megabytes of memory."""

from __future__ import annotations

from meminspect.synthesis.choosing import architecture_for, naming_for
from meminspect.synthesis.demo import demo_checkpoint, remove_demo, tiny_checkpoint
from meminspect.synthesis.imagined import imagined_checkpoint
from meminspect.synthesis.layouts import LAYOUTS
from meminspect.synthesis.plan import SynthesisSpec
from meminspect.synthesis.values import DTYPES
from meminspect.synthesis.writing import synthesise

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "SynthesisSpec",
    "architecture_for",
    "demo_checkpoint",
    "imagined_checkpoint",
    "naming_for",
    "remove_demo",
    "synthesise",
    "tiny_checkpoint",
]
