"""Names of tensors that a wrapper's own name stands before.

DistributedDataParallel keeps its model as `module`, torch.compile as `_orig_mod`, FullyShardedDataParallel as
`_fsdp_wrapped_module`, and a LightningModule mostly as `model`; `state_dict` puts that before each name, and whoever
loads into the bare model strips it. Where parts of a model are wrapped, such as each layer, it stands within names.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meminspect.checkpoint.model import Checkpoint

__all__ = ["ALWAYS_WRAPPERS", "inner_wrappers", "unwrapped"]

ALWAYS_WRAPPERS: Final = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What nobody calls a part of a model of his own; but one may well be all below "model"."""

# Of a part; "module" within a name may be anybody's.
_INNER_WRAPPERS: Final = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_WRAPPERS: Final = (*ALWAYS_WRAPPERS, "model.")


def unwrapped(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint without what wrappers have put before every name: first the outermost left out, then one more."""
    while prefix := _wrapper(checkpoint):
        bare = tuple(tensor._replace(name=tensor.name.removeprefix(prefix)) for tensor in checkpoint.tensors)
        checkpoint = dataclasses.replace(checkpoint, tensors=bare, prefix=checkpoint.prefix + prefix)
        yield checkpoint


def inner_wrappers(checkpoint: Checkpoint) -> list[str]:
    """What wrappers of a model's parts have put into names, behind a dot."""
    names = "\n".join([tensor.name for tensor in checkpoint.tensors])
    return [wrapper for wrapper in _INNER_WRAPPERS if f".{wrapper}" in names]


def _wrapper(checkpoint: Checkpoint) -> str:
    """What every name begins with; empty where it is no wrapper's, or where there are no names."""
    names = [tensor.name for tensor in checkpoint.tensors]
    return next((one for one in _WRAPPERS if names and all(name.startswith(one) for name in names)), "")
