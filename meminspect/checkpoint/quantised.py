"""In what form a checkpoint's weights are quantised: by the names and shapes of its tensors, and by its config.

Sources: AutoGPTQ, nn_modules/qlinear (qweight, qzeros, scales, g_idx); AutoAWQ, modules/linear/gemm.py (the same
without g_idx); bitsandbytes, functional.py (`QuantState.as_dict`) and nn/modules.py (SCB); transformers,
utils/quantization_config.py for `quantization_config`.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meminspect.checkpoint.model import Checkpoint, StoredTensor

__all__ = ["quantisation"]

_ENDINGS = (".qweight", ".SCB", ".weight_scale", ".weight_scale_inv", "_blocks")
_PACK_BITS = 32  # of the integers that GPTQ and AWQ pack weights into
_BNB_STATE = ".quant_state.bitsandbytes__"
_NAMES = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "float8", "mxfp4": "MXFP4", "hqq": "HQQ",
    "eetq": "EETQ", "aqlm": "AQLM",
}  # fmt: skip


class _Form(NamedTuple):
    """What is known of how weights are packed; None for what is not."""

    method: str
    bits: int | None = None
    group: int | None = None
    kind: str = ""


def quantisation(checkpoint: Checkpoint) -> str | None:
    """One line, as "GPTQ, 4 bits, groups of 128, by config.json"; None where weights are plain numbers."""
    config = (checkpoint.config or {}).get("quantization_config")
    told = _by_config(config) if isinstance(config, dict) else None
    names = map(attrgetter("name"), checkpoint.tensors)
    telling = [name for name in names if name.endswith(_ENDINGS) or _BNB_STATE in name]
    found = _by_tensors(telling, {tensor.name: tensor for tensor in checkpoint.tensors}) if telling else None
    if told is None:
        return f"{_words(found)}, by its tensors" if found else None
    if found is None or found.method == told.method:
        return f"{_words(told)}, by its config"
    return f"{_words(found)}, by its tensors; its config says {_words(told)}"


def _words(form: _Form) -> str:
    parts = [_NAMES.get(form.method, shown(form.method, 40))]
    if form.kind:
        parts.append(form.kind)
    if form.bits is not None:
        parts.append(f"{form.bits} bits")
    if form.group is not None:
        parts.append(f"groups of {form.group}" if form.group > 0 else "one group a column")
    return ", ".join(parts)


def _by_config(config: Mapping[str, object]) -> _Form | None:
    method = config.get("quant_method")
    if method == "bitsandbytes" or (method is None and (config.get("load_in_4bit") or config.get("load_in_8bit"))):
        kind = config.get("bnb_4bit_quant_type") if config.get("load_in_4bit") else "int8"
        return _Form("bitsandbytes", kind=shown(kind, 20) if isinstance(kind, str) else "")
    if not isinstance(method, str):
        return None
    bits = next((config[key] for key in ("bits", "w_bit") if key in config), None)
    group = next((config[key] for key in ("group_size", "q_group_size") if key in config), None)
    return _Form(method, bits if type(bits) is int else None, group if type(group) is int else None)


def _by_tensors(telling: Iterable[str], tensors: Mapping[str, StoredTensor]) -> _Form | None:
    for name in telling:
        tensor = tensors[name]
        if name.endswith(".qweight"):
            form = _packed(tensors, name.removesuffix("qweight"), tensor)
        elif _BNB_STATE in name:
            form = _Form("bitsandbytes", kind=shown(name.partition(_BNB_STATE)[2], 20))
        elif name.endswith(".SCB"):
            form = _Form("bitsandbytes", kind="int8")
        elif name.endswith((".weight_scale", ".weight_scale_inv")):
            form = _scaled(tensors.get(name.rpartition("_scale")[0]))
        elif name.endswith("_blocks") and f"{name.removesuffix('blocks')}scales" in tensors:
            form = _Form("mxfp4") if tensor.dtype == "uint8" else None
        else:
            form = None
        if form is not None:
            return form
    return None


def _packed(tensors: Mapping[str, StoredTensor], prefix: str, weight: StoredTensor) -> _Form | None:
    """GPTQ packs along the input, AWQ along the output; `scales` has a row a group and a column an output."""
    zeros, scales = tensors.get(f"{prefix}qzeros"), tensors.get(f"{prefix}scales")
    if zeros is None or scales is None or not len(weight.shape) == len(zeros.shape) == len(scales.shape) == 2:
        return None
    groups, outputs = scales.shape
    bits = zeros.shape[1] * _PACK_BITS // outputs if outputs else 0
    method = "gptq" if f"{prefix}g_idx" in tensors else "awq"
    if not bits or not groups:
        return _Form(method)
    inputs = weight.shape[0] * _PACK_BITS // bits if method == "gptq" else weight.shape[0]
    return _Form(method, bits, inputs // groups)


def _scaled(weight: StoredTensor | None) -> _Form | None:
    if weight is None or not weight.dtype.startswith("float8"):
        return None
    return _Form("fp8", kind=weight.dtype)
