"""The layouts that can be written. A new one is a file here and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meminspect.synthesis.layouts import dcp, gguf, litgpt, meta, per_tensor, pytorch_bin, safetensors

if TYPE_CHECKING:
    from meminspect.synthesis.plan import Layout

__all__ = ["LAYOUTS"]

LAYOUTS: Final[dict[str, Layout]] = {
    layout.id: layout
    for layout in (
        meta.LAYOUT,
        safetensors.LAYOUT,
        pytorch_bin.LAYOUT,
        per_tensor.LAYOUT,
        litgpt.LAYOUT,
        dcp.LAYOUT,
        gguf.LAYOUT,
    )
}
