"""`bnb-nf4`: bitsandbytes' 4-bit NormalFloat through from_pretrained."""

from __future__ import annotations

from meminspect.strategies import packages
from meminspect.strategies.libraries.quantised_load import Quantiser, strategy

__all__ = ["STRATEGY"]

STRATEGY = strategy(
    "bnb-nf4",
    Quantiser(
        packages.BITSANDBYTES,
        "nf4",
        "BitsAndBytesConfig",
        'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
        # backends/default/ops.py: the weight in float32, scaled, its codes as int32 and as uint8, every second of these
        # shifted. With the packed ones and their scales that is 14.06 bytes an element; 14.05 were measured.
        dropped=(),
        kept=(4, 4, 4, 1, 0.5),
        kept_on_device=(),
    ),
    summary="from_pretrained quantises each linear layer to nf4 with bitsandbytes as it loads",
    good="a quarter of a float16 model, as QLoRA has it",
    bad="14 bytes an element on the way, whose holes glibc keeps; every file stays mapped to the end and beyond",
)
