"""`torchao-int8`: torchao's int8 weights through from_pretrained."""

from __future__ import annotations

from meminspect.strategies import packages
from meminspect.strategies.libraries.quantised_load import Quantiser, strategy

__all__ = ["STRATEGY"]

STRATEGY = strategy(
    "torchao-int8",
    Quantiser(
        packages.TORCHAO,
        "int8",
        "TorchAoConfig",
        "TorchAoConfig(Int8WeightOnlyConfig())",
        dropped=(4,),  # quant_primitives.py: each step of scaling, rounding and clamping has two in float32 at a time,
        kept=(4,),  # of which the last is cast: 7.99 bytes an element measured at the peak
        imports="from torchao.quantization import Int8WeightOnlyConfig",
    ),
    summary="from_pretrained quantises each linear layer to int8 with torchao as it loads",
    good="half of a float16 model that torch.compile understands",
    bad="every file stays mapped to the end and beyond: what is not quantised is its pages",
)
