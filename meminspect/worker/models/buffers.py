"""What the modules share: buffers and heads that only some checkpoints of an architecture have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from meminspect.architectures.model import Architecture, Parameter

__all__ = ["declared", "dtype_of", "output_head", "register_nested_buffer"]


def declared(architecture: Architecture) -> dict[str, Parameter]:
    """The architecture's parameters and buffers by name."""
    return {parameter.name: parameter for parameter in architecture.parameters}


def dtype_of(parameter: Parameter) -> torch.dtype:
    """The dtype that a buffer is built in: its own, or the default one.

    Raises:
        AttributeError: this torch has no such dtype.
    """
    dtype = torch.get_default_dtype() if parameter.dtype is None else getattr(torch, parameter.dtype)
    if not isinstance(dtype, torch.dtype):
        raise AttributeError(f"torch has no dtype {parameter.dtype}")
    return dtype


def register_nested_buffer(module: nn.Module, path: str, value: torch.Tensor) -> None:
    """Register a persistent buffer below `module`, with containers for the path's inner names."""
    *inner, name = path.split(".")
    for part in inner:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_buffer(name, value)


def output_head(head: Parameter, embedding: nn.Embedding) -> nn.Linear:
    """The output projection without bias; a tied one is the embedding's own Parameter, and allocates nothing."""
    if head.tied_to is None:
        return nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
    linear = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
    linear.weight = embedding.weight
    return linear
