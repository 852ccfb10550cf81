"""Element types by torch's names: how many bits an element takes, and the safetensors code of each.

Sizes follow ``torch.finfo``/``torch.iinfo`` and the safetensors format description; a bool takes a byte.
"""

from __future__ import annotations

import functools
from typing import Final

__all__ = ["BITS", "FLOATING", "GGML_BLOCKS", "GGML_TYPES", "SAFETENSORS_CODES", "TORCH_STORAGES", "bytes_of"]

BITS: Final[dict[str, int]] = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8, "float8_e8m0fnu": 8,
    "float6_e2m3": 6, "float6_e3m2": 6, "float4_e2m1": 4,
    "complex32": 32, "complex64": 64, "complex128": 128,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8,
    "bool": 8, "qint8": 8, "quint8": 8, "qint32": 32, "quint4x2": 4, "quint2x4": 2,
}  # fmt: skip

FLOATING: Final = frozenset(name for name in BITS if name.startswith(("float", "bfloat")))

# https://github.com/huggingface/safetensors, safetensors/src/tensor.rs, enum Dtype
SAFETENSORS_CODES: Final[dict[str, str]] = {
    "BOOL": "bool", "F4": "float4_e2m1", "F6_E2M3": "float6_e2m3", "F6_E3M2": "float6_e3m2",
    "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64",
    "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip

# torch/storage.py, _dtype_to_storage_type_map: the class names that a pickled state dict carries.
TORCH_STORAGES: Final[dict[str, str]] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip


# https://github.com/ggml-org/ggml, src/ggml.c (`type_traits`) and src/ggml-common.h (the blocks' structs): how many
# elements share a block, and its bytes.
GGML_BLOCKS: Final[dict[str, tuple[int, int]]] = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q8_1": (32, 40),
    "q2_K": (256, 84), "q3_K": (256, 110), "q4_K": (256, 144), "q5_K": (256, 176), "q6_K": (256, 210),
    "q8_K": (256, 292), "iq2_xxs": (256, 66), "iq2_xs": (256, 74), "iq3_xxs": (256, 98), "iq1_s": (256, 50),
    "iq4_nl": (32, 18), "iq3_s": (256, 110), "iq2_s": (256, 82), "iq4_xs": (256, 136), "iq1_m": (256, 56),
    "tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17), "nvfp4": (64, 36), "q1_0": (128, 18),
}  # fmt: skip

# ggml.h, enum ggml_type: the numbers that a GGUF header carries.
GGML_TYPES: Final[dict[int, str]] = {
    0: "float32", 1: "float16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_K",
    11: "q3_K", 12: "q4_K", 13: "q5_K", 14: "q6_K", 15: "q8_K", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs",
    19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "int8", 25: "int16", 26: "int32",
    27: "int64", 28: "float64", 29: "iq1_m", 30: "bfloat16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4",
    41: "q1_0",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)  # a model has few sizes, and each strategy's theory asks for all of them
def bytes_of(dtype: str, elements: int) -> int:
    """Bytes that `elements` elements of `dtype` take, sub-byte types packed and rounded up to a byte or a block."""
    if dtype in GGML_BLOCKS:
        block, nbytes = GGML_BLOCKS[dtype]
        return -(-elements // block) * nbytes
    return (BITS[dtype] * elements + 7) // 8
