"""The 4-bit NormalFloat of QLoRA (arXiv:2305.14314; appendix E has its 16 values)."""

from __future__ import annotations

from typing import Final

__all__ = ["NF4_BLOCK", "NF4_CODES"]

NF4_BLOCK: Final = 64
"""How many values share a scale."""

NF4_CODES: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The values that four bits stand for."""
