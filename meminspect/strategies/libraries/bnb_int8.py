"""`bnb-int8`: bitsandbytes' LLM.int8 through from_pretrained."""

from __future__ import annotations

from meminspect.strategies import packages
from meminspect.strategies.libraries.quantised_load import Quantiser, strategy

__all__ = ["STRATEGY"]

STRATEGY = strategy(
    "bnb-int8",
    Quantiser(
        packages.BITSANDBYTES,
        "int8",
        "BitsAndBytesConfig",
        "BitsAndBytesConfig(load_in_8bit=True)",
        dropped=(4,),  # backends/default/ops.py: the product with the scales, in float32,
        kept=(4,),  # and the same rounded: 7.98 bytes an element measured at the peak
        kept_on_device=(2,),  # nn/modules.py: `_quantize` makes it float16, after transformers has taken it to the host
        by_host=True,
    ),
    summary="from_pretrained quantises each linear layer to int8 with bitsandbytes as it loads",
    good="half of a float16 model, in the library that training tools expect",
    bad="every file stays mapped to the end and beyond: what is not quantised is its pages",
)
