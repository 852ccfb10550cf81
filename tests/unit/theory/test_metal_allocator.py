"""Theory where nobody knows how the device's allocator rounds."""

from __future__ import annotations

from meminspect.capture.records import Operation, Pool
from meminspect.theory.evaluation import evaluate
from meminspect.theory.ledger import BillLine, Item, Step
from meminspect.theory.metal_allocator import TensorsAlone

WEIGHT = Step("read", Operation.MATERIALISE, Pool.VRAM, Item.FLOOR, "a", 1000)
STAGING = Step("read", Operation.MATERIALISE, Pool.VRAM, Item.STAGING, "b", 24)


def test_given_metal_then_what_is_allocated_is_what_tensors_take_and_nothing_is_said_of_what_is_reserved() -> None:
    theory = evaluate([WEIGHT, STAGING, STAGING._replace(operation=Operation.RELEASE)], 1000, allocator=TensorsAlone())

    assert (theory.peak.vram_allocated_bytes, theory.steady.vram_allocated_bytes) == (1024, 1000)
    assert (theory.peak.vram_reserved_bytes, theory.steady.vram_reserved_bytes) == (None, None)
    assert theory.bill == (BillLine(Item.FLOOR, "vram", 1000), BillLine(Item.STAGING, "vram", 24))
