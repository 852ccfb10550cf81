"""Linear layers of int8 or 4-bit weights, which `load` fills from a checkpoint in full precision.

int8 is the absmax quantisation of LLM.int8() (arXiv:2208.07339) with a scale for each row and no outliers apart; nf4 is
the 4-bit NormalFloat of QLoRA (arXiv:2305.14314) without double quantisation.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from meminspect.nf4 import NF4_BLOCK, NF4_CODES

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["QuantisedLinear", "quantise_linears"]

_KINDS: Final = ("int8", "nf4")


class QuantisedLinear(nn.Module):
    """A linear layer without values yet; `meminspect.stream.load` quantises its weight while that is read.

    Its `weight` is int8 of shape (out, in), or uint8 of shape (in × out / 64, 32) with two codes of 4 bits a byte, the
    first in the high bits; its `scale` is float32 of shape (out, 1), or (in × out / 64, 1).

    Args:
        linear: what it stands for. Its bias, if any, stays as it is.
        kind: "int8" or "nf4".

    Raises:
        ValueError: there is no such kind, or nf4's blocks of 64 do not make up the weight.
    """

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise ValueError(f"there is no quantisation {kind!r}: use one of {', '.join(_KINDS)}")
        self.kind = kind
        self.shape = tuple(linear.weight.shape)
        elements = linear.weight.numel()
        self.group = NF4_BLOCK if kind == "nf4" else linear.in_features  # elements that share a scale
        if not elements or elements % self.group:
            raise ValueError(f"{kind} takes {NF4_BLOCK} values at a time, and a weight has {elements}")
        groups = elements // self.group
        shape, dtype = (self.shape, torch.int8) if kind == "int8" else ((groups, NF4_BLOCK // 2), torch.uint8)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", torch.empty(groups, 1, dtype=torch.float32, device="meta"))
        self.scale: torch.Tensor

    def dequantised(self) -> torch.Tensor:
        """The weight that the values stand for: float32, of shape (out, in)."""
        if self.kind == "int8":
            return self.weight * self.scale
        codes = torch.stack((self.weight >> 4, self.weight & 15), -1).flatten(1)
        return (_codes(self.weight.device)[codes.int()] * self.scale).view(self.shape)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's output, of shape (…, out), in the dtype of its inputs, of shape (…, in)."""
        return nn.functional.linear(inputs, self.dequantised().to(inputs.dtype), self.bias)

    def extra_repr(self) -> str:
        """What stands for the layer in the text of a model."""
        out, in_ = self.shape
        return f"{self.kind}, in_features={in_}, out_features={out}, bias={self.bias is not None}"


def quantise_linears(model: nn.Module, kind: str, *, keep: Collection[str] = ()) -> nn.Module:
    """Put a `QuantisedLinear` in the place of each linear layer of a model, to be loaded afterwards.

    A layer whose weight is another module's too, as an output head that is tied to the embedding, stays as it is. One
    that is in several places is replaced in all of them.

    Args:
        model: on the meta device; not a linear layer itself.
        kind: "int8" or "nf4".
        keep: the names of modules that stay as they are, as an output head should.

    Returns:
        The model itself.

    Raises:
        ValueError: there is no such kind, or a weight cannot be quantised.
        AttributeError: there is no module of a name that is to be kept.
    """
    kept = {model.get_submodule(name) for name in keep}
    layers: dict[nn.Module, QuantisedLinear] = {}
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if name and type(module) is nn.Linear and module not in kept and owners[id(module.weight)] == 1:
            try:
                layer = layers[module] = layers.get(module) or QuantisedLinear(module, kind)
            except ValueError as error:
                raise ValueError(f"'{name}' cannot be quantised: {error}") from None
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, layer)
    return model


@functools.cache
def _codes(device: torch.device) -> torch.Tensor:
    return torch.tensor(NF4_CODES, device=device)
