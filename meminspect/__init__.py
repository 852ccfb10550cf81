"""meminspect: which way of loading a checkpoint fits, how fast is it, and which tensor makes the peak?"""

from __future__ import annotations

__version__ = "0.1.0"
