"""Element types by torch's names: how many bits an element takes, and the safetensors code of each.

Sizes follow ``torch.finfo``/``torch.iinfo`` and the safetensors format description; a bool takes a byte.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BITS", "FLOATING", "SAFETENSORS_CODES", "TORCH_STORAGES", "bytes_of"]

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


def bytes_of(dtype: str, elements: int) -> int:
    """Bytes that `elements` elements of `dtype` take, sub-byte types packed and rounded up to a byte."""
    return (BITS[dtype] * elements + 7) // 8
