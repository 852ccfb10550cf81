"""Very many tensors as fewer: what a theory is worked out for where a step for each would take minutes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from meminspect.architectures.model import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meminspect.checkpoint.model import StoredTensor
    from meminspect.strategies.task import LoadTask

__all__ = ["MANY", "SHARE", "coarse"]

MANY: Final = 20_000  # tensors; more than any architecture that we know by name has
SHARE: Final = 10_000  # a group has no more than one part in so many of the checkpoint


def coarse(task: LoadTask) -> LoadTask:
    """The same task where neighbours of one file and dtype are one tensor, if there are very many; else itself.

    Sums stay as they are. What a strategy stages one tensor at a time comes out larger, by at most a ten-thousandth of
    the checkpoint. On a device each block is rounded up, which a group would not be.
    """
    tensors, options = task.checkpoint.tensors, task.options
    named = {parameter.name: parameter for parameter in task.architecture.parameters}
    own_storage = len(task.checkpoint.storages) == len(tensors)
    one_each = list(named) == [tensor.name for tensor in tensors]  # a skeleton's order is the checkpoint's
    if len(tensors) <= MANY or options.device != "cpu" or not (own_storage and one_each):
        return task
    grouped, parameters = [], []
    for group in _groups(task):
        first = group[0]
        shape = (sum(tensor.elements for tensor in group),)
        nbytes = sum(tensor.storage.nbytes for tensor in group)
        storage = first.storage._replace(nbytes=nbytes)
        grouped.append(dataclasses.replace(first, shape=shape, storage=storage, offset=0, strides=None))
        parameter = named[first.name]
        parameters.append(Parameter(first.name, shape, parameter.buffer, parameter.dtype))
    return dataclasses.replace(
        task,
        checkpoint=dataclasses.replace(task.checkpoint, tensors=tuple(grouped)),
        architecture=dataclasses.replace(task.architecture, parameters=tuple(parameters)),
    )


def _groups(task: LoadTask) -> Iterator[Sequence[StoredTensor]]:
    most_bytes = task.checkpoint.nbytes // SHARE
    group: list[StoredTensor] = []
    held = 0
    for tensor in task.checkpoint.tensors:
        nbytes = tensor.storage.nbytes
        alike = group and (tensor.dtype, tensor.storage.file) == (group[0].dtype, group[0].storage.file)
        if group and (not alike or held + nbytes > most_bytes):
            yield group
            group, held = [], 0
        group.append(tensor)
        held += nbytes
    yield group
