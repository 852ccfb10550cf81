"""The torch modules of the architectures: built with exactly the names, shapes and order that those declare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meminspect.worker.models import gpt2, hugging_face, litgpt, llama, own, skeleton

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from meminspect.architectures.model import Architecture

__all__ = ["BUILDERS", "build", "hugging_face", "own"]

BUILDERS: Mapping[str, Callable[[Architecture], nn.Module]] = {
    "llama": llama.build,
    "gpt2": gpt2.build,
    "litgpt": litgpt.build,
    "skeleton": skeleton.build,
}


def build(architecture: Architecture) -> nn.Module:
    """The module, randomly initialised as torch does it, in the default dtype and on the device in context.

    `forward` takes tokens (batch, sequence) and returns logits (batch, sequence, vocabulary); a skeleton's raises.
    Nothing in it is kept outside parameters and persistent buffers, so that one built on meta is complete once
    its state dict is assigned.
    """
    return BUILDERS[architecture.id](architecture)
