from __future__ import annotations

import pytest

from meminspect.sampling.nvml import Gpu
from meminspect.sampling.visible_gpus import visible_gpus

GPUS = [Gpu(index, "A GPU", uuid, 8, 8, 0, unified=False) for index, uuid in enumerate(("GPU-1a2b", "GPU-1a3c", None))]


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 , 0", [1, 0]),
        ("GPU-1a3c,0", [1, 0]),
        ("GPU-1a3", [1]),
        ("GPU-1a", []),  # two begin so
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("0,none", [0]),
        ("MIG-5f,0", []),
    ],
)
def test_given_what_cuda_is_to_show_then_the_gpus_are_in_its_order(named: str | None, seen: list[int]) -> None:
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}

    assert [gpu.index for gpu in visible_gpus(GPUS, environment)] == seen
