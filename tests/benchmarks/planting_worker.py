"""Stands in for `worker/__main__.py`: a plant takes the place of the recipe, everything else is the product's.

The plant begins and ends inside one operation, as what a cast needs for a moment does: the reading at the operation's
end no longer sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from planting import Plant

from meminspect.capture.records import Operation, Pool
from meminspect.capture.ring import RingWriter
from meminspect.sampling.procfs import ProcessMemory
from meminspect.worker.ballast import populate
from meminspect.worker.lifeline import die_with
from meminspect.worker.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(spec: int, ring: int, lifeline: int) -> None:
    die_with(lifeline)
    recorder = Recorder(RingWriter(ring), ProcessMemory("self"))
    recorder.enabled = True

    @contextlib.contextmanager
    def operation(nbytes: int) -> Iterator[None]:
        id_ = recorder.begin(Operation.MATERIALISE, Pool.HEAP, "plant", nbytes)
        yield
        recorder.end(id_, Operation.MATERIALISE, Pool.HEAP, "plant", nbytes)

    with os.fdopen(spec) as file:
        plant = Plant(**json.loads(file.readline()))
    populate(plant.nbytes)
    recorder.reading("baseline", reset=True)
    plant.grow(operation)
    recorder.reading("resident", reset=True)
    recorder.report("finished", time.monotonic_ns())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
