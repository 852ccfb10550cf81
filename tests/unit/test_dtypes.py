from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meminspect.dtypes import BITS, FLOATING, SAFETENSORS_CODES, TORCH_STORAGES, bytes_of

SUB_BYTE = {name for name, bits in BITS.items() if bits < 8}
IN_TORCH = sorted(name for name in BITS if isinstance(getattr(torch, name, None), torch.dtype) and name not in SUB_BYTE)


@pytest.mark.parametrize("name", IN_TORCH)
def test_a_size_is_the_one_that_torch_says(name: str) -> None:
    dtype = getattr(torch, name)
    assert dtype.itemsize * 8 == BITS[name]
    assert dtype.is_floating_point == (name in FLOATING)


def test_most_types_are_checked_against_torch() -> None:
    assert {"float32", "bfloat16", "float8_e4m3fn", "int64", "uint16", "bool", "complex64"} <= set(IN_TORCH)


def test_every_code_stands_for_a_known_type() -> None:
    assert set(SAFETENSORS_CODES.values()) <= set(BITS)
    assert set(TORCH_STORAGES.values()) <= set(BITS)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_storage_names_are_those_that_torch_pickles() -> None:
    known = {kind.__name__: str(dtype).removeprefix("torch.") for dtype, kind in _storage_classes().items()}
    assert known.items() <= TORCH_STORAGES.items()


def _storage_classes() -> dict[torch.dtype, type]:
    names = ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "BoolStorage", "ComplexFloatStorage")
    return {getattr(torch, name).dtype: getattr(torch, name) for name in names}


@given(st.sampled_from(sorted(BITS)), st.integers(0, 2**48))
def test_bytes_are_bits_rounded_up(name: str, elements: int) -> None:
    nbytes = bytes_of(name, elements)
    assert 0 <= nbytes * 8 - BITS[name] * elements < 8


@pytest.mark.parametrize(("name", "elements", "nbytes"), [("float4_e2m1", 3, 2), ("float6_e2m3", 4, 3), ("bool", 5, 5)])
def test_small_types_are_packed_and_a_bool_takes_a_byte(name: str, elements: int, nbytes: int) -> None:
    assert bytes_of(name, elements) == nbytes
