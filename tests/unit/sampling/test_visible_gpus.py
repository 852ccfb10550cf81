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


A_CUT_GPU = [
    Gpu(0, "A GPU", "GPU-0", 8, 8, 0, unified=False),
    Gpu(1, "Cut", "GPU-1", 8, 8, 0, unified=False, is_cut=True),
    Gpu(2, "Cut 1g", "MIG-5f", 1, 1, 0, unified=False, slice_of=1),
    Gpu(3, "Cut 2g", "MIG-6a", 2, 2, 0, unified=False, slice_of=1),
]


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, [0, 2]),
        ("1", [2]),
        ("MIG-6a", [3]),
        ("MIG-6a,MIG-5f", [3]),  # one MIG device is all that CUDA takes
        ("MIG-6a,0", [3, 0]),
        ("GPU-1", [2]),
        ("2", []),  # MIG devices have no numbers of their own
        ("MIG-", []),
    ],
)
def test_given_mig_devices_then_cuda_sees_them_in_place_of_their_gpu(named: str | None, seen: list[int]) -> None:
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}

    assert [gpu.index for gpu in visible_gpus(A_CUT_GPU, environment)] == seen
