"""Tensors that come over and over, as the layers and experts of a model do, for theories that need not name each.

A run of equal blocks of tensors is reduced to its first block, its second one, which stands for all between, and its
last. Every pass of a ledger meets the blocks of a run one after the other, so its sums rise or fall from block to block
by the same bytes, and are highest within the first block or the last: `evaluate` finds the same peaks and the same bill
as with every tensor named. A run that some order of the task meets in any other way is left as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Final

from meminspect.capture.records import Pool
from meminspect.checkpoint.model import Storage, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meminspect.architectures.model import Parameter
    from meminspect.strategies.task import LoadTask

__all__ = ["Grouped", "grouped"]

_REPEATED: Final = re.compile(r"(.{1,128}?)\1{3}", re.DOTALL)  # a block of up to 128 tensors, four times
_WINDOW, _LONGEST_MATCH = 8192, 4 * 128  # characters; a search of a million would stop all threads for seconds
_DIGITS: Final = b"0123456789"
_ABSENT: Final = StoredTensor("", "", (), Storage(-1, "", -1, 0))  # of what is not stored
# For a million tensors: columns that are taken without a line of Python for each.
_ALL_BUT_NAME: Final = itemgetter(slice(1, None))
_TIED_TO: Final = attrgetter("tied_to")
_CHUNK, _STORAGE = attrgetter("chunk"), attrgetter("storage")
_FORM: Final = attrgetter("dtype", "shape", "offset", "strides")
_FILE_AND_SIZE: Final = attrgetter("file", "nbytes")
_AT_ONCE: Final = 10_000  # tensors: a call that takes a tenth of a second stops the app, whose thread waits for it
_MOST_KINDS: Final = 100_000  # of tensors, each a letter in the text that runs are looked for in; more are no groups


@dataclass(frozen=True)
class Grouped:
    """A task with fewer tensors that has the same theory, if those in `copies` count as often as that says."""

    task: LoadTask
    copies: Mapping[str, int]  # by name


@dataclass(frozen=True)
class _Run:
    """Equal blocks of tensors one after the other: places in the model's order."""

    start: int
    period: int  # tensors of a block
    end: int

    @property
    def blocks(self) -> int:
        return (self.end - self.start) // self.period

    def kept(self) -> Iterator[range]:
        """The places of the first block, of the second and of the last."""
        for block in (0, 1, self.blocks - 1):
            first = self.start + block * self.period
            yield range(first, first + self.period)


def grouped(task: LoadTask) -> Grouped:
    """The task with every run of equal blocks reduced; the task itself where there is none."""
    if task.checkpoint.parallel_files:  # of architectures that we know, which have no more than thousands of tensors
        return Grouped(task, {})
    orders = list(_orders(task))
    names, stored = orders[:2]
    runs = list(_runs(_kinds(task, in_step=stored == names)))
    others = [order for order in orders if order != names]
    places = {name: place for place, name in enumerate(names)} if others else {}
    for order in others:
        runs = _met_alike(runs, [places[name] for name in order])
    if not runs:
        return Grouped(task, {})
    stays = bytearray(b"\1") * len(names)
    for run in runs:
        stays[run.start : run.end] = bytes(run.end - run.start)
        for block in run.kept():
            stays[block.start : block.stop] = b"\1" * run.period
    rest = list(itertools.compress(names, stays))
    kept = set(rest)
    copies = {names[place]: run.blocks - 2 for run in runs for place in list(run.kept())[1]}
    checkpoint, architecture = task.checkpoint, task.architecture
    tensors = tuple(itertools.compress(checkpoint.tensors, map(kept.__contains__, orders[1])))
    parameters = tuple(itertools.compress(architecture.parameters, map(kept.__contains__, orders[2])))
    reduced = dataclasses.replace(
        task,
        checkpoint=dataclasses.replace(checkpoint, tensors=tensors),
        architecture=dataclasses.replace(architecture, parameters=parameters),
    )
    # A module may be met later once its first parameters are gone: then the sums would be others.
    for whole, found in zip(orders, _orders(reduced), strict=True):
        if found != (rest if whole == names else [name for name in whole if name in kept]):
            return Grouped(task, {})
    return Grouped(reduced, copies)


def _runs(kinds: str) -> Iterator[_Run]:
    """The runs in a text of kinds, from left to right: of four blocks or more."""
    at = 0
    while at < len(kinds):
        match = _REPEATED.search(kinds, at, at + _WINDOW)
        if match is None:
            at += _WINDOW - _LONGEST_MATCH
            continue
        at = match.end()
        for stride in (match[1] * 1000, match[1]):
            while kinds.startswith(stride, at):
                at += len(stride)
        yield _Run(match.start(), len(match[1]), at)


def _kinds(task: LoadTask, *, in_step: bool) -> str:
    """A letter for every parameter in the model's order: alike if they differ in nothing but numbers in their names.

    Args:
        task: what to load.
        in_step: the checkpoint's tensors are the parameters one by one.
    """
    parameters = task.loading_order
    stored: Sequence[StoredTensor] = task.checkpoint.tensors
    if not in_step:
        by_name = {tensor.name: tensor for tensor in stored}
        stored = [by_name.get(parameter.name, _ABSENT) for parameter in parameters]
    letters: defaultdict[object, int] = defaultdict(itertools.count().__next__)
    codes = array("I")
    for start in range(0, len(parameters), _AT_ONCE):
        some, their_stored = parameters[start : start + _AT_ONCE], stored[start : start + _AT_ONCE]
        lines = "\n".join([parameter.name.replace("\n", " ") for parameter in some])
        bare_names = lines.encode("utf-8", "surrogatepass").translate(None, _DIGITS).split(b"\n")
        places_in_files = map(_FILE_AND_SIZE, map(_STORAGE, their_stored))
        columns = bare_names, map(_ALL_BUT_NAME, some), map(_FORM, their_stored), places_in_files
        codes.extend([letters[kind] for kind in zip(*columns, strict=True)])
    for place in _lonely(task, parameters, stored):
        codes[place] = letters[place]
    if len(letters) > _MOST_KINDS:
        return ""
    # `chr` for each would take a tenth of a second in one go, in which no other thread runs.
    return codes.tobytes().decode("utf-32-le" if sys.byteorder == "little" else "utf-32-be", "surrogatepass")


def _lonely(task: LoadTask, parameters: Sequence[Parameter], stored: Sequence[StoredTensor]) -> list[int]:
    """The places of those that are like no other: not stored, in chunks, or not alone with their memory."""
    shares = task.checkpoint.shares
    if not shares and _ABSENT not in stored and not any(map(_CHUNK, stored)) and not any(map(_TIED_TO, parameters)):
        return []
    users = Counter(tensor.storage for tensor in task.checkpoint.tensors if shares)
    return [
        place
        for place, (parameter, tensor) in enumerate(zip(parameters, stored, strict=True))
        if tensor is _ABSENT or tensor.chunk or parameter.tied_to is not None or users[tensor.storage] > 1
    ]


def _orders(task: LoadTask) -> Iterator[list[str]]:
    """The names in every order that a ledger may go by; the first is that in which runs are looked for."""
    yield [parameter.name for parameter in task.loading_order]
    yield [tensor.name for tensor in task.checkpoint.tensors]
    yield [parameter.name for parameter in task.architecture.parameters]
    if task.pool is Pool.VRAM:
        yield [parameter.name for parameter in task.conversion_order]


def _met_alike(runs: Sequence[_Run], order: Sequence[int]) -> list[_Run]:
    """The runs that an order of places meets block by block too, be it in several stretches of a part of each block."""
    run_at = array("l", [-1]) * (max(order, default=-1) + 1)
    for index, run in enumerate(runs):
        run_at[run.start : run.end] = array("l", [index]) * (run.end - run.start)
    otherwise: set[int] = set()
    at = 0
    while at < len(order):
        index = run_at[order[at]]
        if index < 0 or index in otherwise:
            at += 1
            continue
        run, first = runs[index], at
        while at < len(order) and run.start <= order[at] < run.start + run.period:
            at += 1
        part = order[first:at]  # of the first block
        stretch = [place + block * run.period for block in range(run.blocks) for place in part]
        if not part or order[first : first + len(stretch)] != stretch:
            otherwise.add(index)
            at = first + 1
        else:
            at = first + len(stretch)
    return [run for index, run in enumerate(runs) if index not in otherwise]
