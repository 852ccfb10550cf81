"""From what a user asks for to an architecture whose tensor names suit the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.architectures import ARCHITECTURES
from meminspect.errors import UsageError
from meminspect.synthesis.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meminspect.architectures import Architecture

__all__ = ["architecture_for", "naming_for", "namings_for"]

_LLAMA_VOCABULARY = 32_000  # of the tokenizer of LLaMA 1 and 2, whose params.json says -1


def naming_for(architecture_id: str, layout_id: str) -> str:
    """Whose tensor names a checkpoint of this architecture has in this layout unless told otherwise.

    Raises:
        UsageError: the architecture does not come in this layout, or there is no such layout.
    """
    return namings_for(architecture_id, layout_id)[0]


def namings_for(architecture_id: str, layout_id: str) -> tuple[str, ...]:
    """All the tensor names that this architecture can have in this layout.

    Raises:
        UsageError: the architecture does not come in this layout, or there is no such layout.
    """
    if layout_id not in LAYOUTS:
        raise UsageError(f"there is no layout '{layout_id}' to write", f"choose from {', '.join(LAYOUTS)}")
    namings = LAYOUTS[layout_id].namings.get(architecture_id)
    if namings is None:
        others = [layout.id for layout in LAYOUTS.values() if architecture_id in layout.namings]
        raise UsageError(
            f"the layout '{layout_id}' does not exist for {architecture_id}",
            f"choose from {', '.join(others)}" if others else "",
        )
    return namings


def architecture_for(
    architecture_id: str, layout_id: str, *, parameters: int = 0, config: Mapping[str, object] | None = None
) -> Architecture:
    """The architecture of about `parameters` parameters, or exactly as `config` says, in the layout's naming.

    Raises:
        UsageError: the architecture is unknown, does not come in this layout or has no such size.
        CheckpointError: a field of the config is missing or absurd.
    """
    if architecture_id not in ARCHITECTURES:
        raise UsageError(f"there is no architecture '{architecture_id}'", f"choose from {', '.join(ARCHITECTURES)}")
    family, naming = ARCHITECTURES[architecture_id], naming_for(architecture_id, layout_id)
    if config is None:
        config = family.for_parameters(parameters, naming)
    elif naming == "meta" and config.get("vocab_size", -1) == -1:
        config = {**config, "vocab_size": _LLAMA_VOCABULARY}
    return family.architecture(config, naming)
