"""The weights that libraries have quantised, as what verification looks at: values, scales, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from meminspect.nf4 import NF4_BLOCK
from meminspect.worker.quantised import QuantisedView

if TYPE_CHECKING:
    from meminspect.architectures.model import Parameter

__all__ = ["view"]

_INT8_STEPS: Final = 127
_TORCHAO_SLACK: Final = 0.1  # it scales by 127.5 steps in the weight's dtype, and clamps the largest value to 127


def view(tensor: Any, parameter: Parameter, built: torch.dtype) -> QuantisedView | None:
    """A quantised weight of bitsandbytes (LLM.int8, nf4) or torchao (int8 by rows); None for any other tensor.

    Args:
        tensor: the model's.
        parameter: what it was before.
        built: the dtype in which it was there before it was quantised.
    """
    rows_scale = getattr(tensor, "SCB", None)  # bitsandbytes: the largest absolute value of each row
    if isinstance(rows_scale, torch.Tensor):
        return QuantisedView.whole(tensor.detach(), rows_scale.view(-1, 1) / _INT8_STEPS, parameter, built)
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        packed = tensor.detach().view(-1, NF4_BLOCK // 2)
        return QuantisedView.whole(packed, state.absmax.view(-1, 1), parameter, built)
    values, scale = getattr(tensor, "qdata", None), getattr(tensor, "scale", None)  # torchao
    if isinstance(values, torch.Tensor) and isinstance(scale, torch.Tensor):
        whole = QuantisedView.whole(values, scale.view(-1, 1).float(), parameter, built)
        return whole._replace(slack_steps=_TORCHAO_SLACK)
    return None
