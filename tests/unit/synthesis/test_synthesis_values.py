from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meminspect.architectures import Parameter
from meminspect.dtypes import BITS
from meminspect.synthesis.contents import source_of
from meminspect.synthesis.crc import crc32_zeros
from meminspect.synthesis.values import CHUNK, DTYPES, CausalMask, Noise, NoisePool, Repeated, Source, Table, Zeros

POOL = NoisePool(0, "float16")
SOURCES: dict[str, Source] = {
    "noise": Noise("w", CHUNK + 12345, POOL),
    "ones": Repeated("float32", CHUNK // 2 + 3, one=True),
    "mask": CausalMask("float32", (2, 700, 700), above=True),
    "table": Table(bytes(range(256))),
    "zeros": Zeros(3 * CHUNK + 1),
}
WHOLE = {name: b"".join(source.read(0, source.nbytes)) for name, source in SOURCES.items()}


def tensor(source: Source, dtype: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"".join(source.read(0, source.nbytes))), dtype=getattr(torch, dtype))


@given(st.integers(0, 1 << 21), st.integers(0, 0xFFFFFFFF))
def test_checksum_of_zeros_is_zlibs(count: int, crc: int) -> None:
    assert crc32_zeros(count, crc) == zlib.crc32(bytes(count), crc)


def test_checksum_of_more_zeros_than_memory_is_found_at_once() -> None:
    # given two runs, which zlib would have to read; then one after the other is the same as both at once
    assert crc32_zeros(10**13, crc32_zeros(10**12)) == crc32_zeros(11 * 10**12)


@given(st.sampled_from(sorted(SOURCES)), st.data())
def test_any_range_is_that_part_of_the_whole(name: str, data: st.DataObject) -> None:
    whole = WHOLE[name]
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    pieces = list(SOURCES[name].read(start, stop))
    assert b"".join(pieces) == whole[start:stop]
    assert all(len(piece) <= CHUNK for piece in pieces)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_finite_small_and_of_both_signs(dtype: str) -> None:
    values = tensor(Noise("w", 300_000, NoisePool(7, dtype)), dtype).double()
    assert len(values) == 300_000
    assert values.isfinite().all()
    assert values.abs().max() < 0.04
    assert 0.01 < values.std() < 0.03
    assert abs(values.mean()) < 0.001
    assert len(set(values.tolist())) > (200 if BITS[dtype] > 8 else 10)


def test_no_chunk_is_like_another() -> None:
    # given a tensor of many chunks, and another of the same size
    seen: set[bytes] = set()
    for name in ("a", "b"):
        source = Noise(name, 16 * CHUNK, POOL)
        for start in range(0, source.nbytes, CHUNK):
            content = b"".join(source.read(start, start + CHUNK))
            seen.update(content[at : at + 4096] for at in (0, 4096, CHUNK // 2))
    assert len(seen) == 2 * 32 * 3


@pytest.mark.parametrize("dtype", ["bool", *DTYPES])
def test_masks_are_causal(dtype: str) -> None:
    kind = getattr(torch, dtype)
    upper = tensor(CausalMask(dtype, (2, 5, 5), above=True), dtype).reshape(2, 5, 5).float()
    lower = tensor(CausalMask(dtype, (2, 5, 5), above=False), dtype).reshape(2, 5, 5).float()
    assert kind in (torch.bool, getattr(torch, dtype))
    assert upper.equal(torch.ones(2, 5, 5).triu(diagonal=1))
    assert lower.equal(torch.ones(2, 5, 5).tril())


@pytest.mark.parametrize(
    "name",
    ["norm.weight", "layers.0.ffn_norm.weight", "model.layers.1.input_layernorm.weight", "h.0.ln_1.weight",
     "trf_blocks.0.norm1.scale"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_of_norms_are_one(name: str, dtype: str) -> None:
    source = source_of(Parameter(name, (33,)), NoisePool(0, dtype), {})
    assert tensor(source, dtype).float().equal(torch.ones(33))


@pytest.mark.parametrize("name", ["output.weight", "h.0.ln_1.bias", "final_norm.shift", "lm_head.weight"])
def test_other_tensors_are_noise(name: str) -> None:
    assert isinstance(source_of(Parameter(name, (33,)), POOL, {}), Noise)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_rotary_frequencies_are_those_of_the_model(dtype: str) -> None:
    source = source_of(Parameter("rope.freqs", (64,), buffer=True), NoisePool(0, dtype), {"rope_theta": 500_000.0})
    expected = 1.0 / (500_000.0 ** (torch.arange(0, 128, 2, dtype=torch.float64) / 128))
    kind = getattr(torch, dtype)
    torch.testing.assert_close(tensor(source, dtype), expected.to(kind), rtol=torch.finfo(kind).eps, atol=1e-6)
