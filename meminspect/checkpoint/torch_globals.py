"""The globals that a pickled state dict may refer to, as inert stand-ins.

They mirror `_get_allowed_globals` of torch/_weights_only_unpickler.py as far as plain dense tensors need it; the
rebuild functions follow torch/_utils.py and record a view of a storage where torch makes a tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from meminspect.dtypes import BITS, TORCH_STORAGES
from meminspect.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ALLOWED",
    "BITS_IN_TORCH",
    "INERT_LIST",
    "PLAIN_SAVE",
    "DType",
    "Function",
    "Inert",
    "PickledTensor",
    "Refused",
    "StorageRef",
    "StorageType",
    "describe",
    "make_size",
    "stand_in",
]

PLAIN_SAVE = "save model.state_dict() with torch.save, or as safetensors"
MAX_DIMS = 64
MAX_ELEMENTS = 1 << 63
PACKED_FLOAT4 = "float4_e2m1fn_x2"  # torch's name for bytes of two F4 elements each


class Refused(Exception):  # noqa: N818 (it never leaves the package: archives turn it into a CheckpointError)
    """The pickle is damaged or holds what no plain state dict does."""

    def __init__(self, message: str, hint: str = "fetch the file again") -> None:
        super().__init__(message)
        self.hint = hint


class Inert(NamedTuple):
    """A value that is not read: what it is, and nothing that it holds."""

    what: str


class StorageType(NamedTuple):
    """A storage class; no dtype for UntypedStorage, which counts bytes."""

    dtype: str | None


class DType(NamedTuple):
    """A torch dtype by name."""

    name: str


class Function(NamedTuple):
    """A rebuild function: what REDUCE may call, on arguments that nobody has checked."""

    call: Callable[[tuple[object, ...]], object]


class StorageRef(NamedTuple):
    """A storage that the pickle refers to by its record's key."""

    key: str
    dtype: str | None
    elements: int

    @property
    def nbytes(self) -> int:
        """Bytes of the record; an untyped storage counts bytes."""
        return self.elements * (BITS[self.dtype] // 8 if self.dtype else 1)


class PickledTensor(NamedTuple):
    """A view of a storage, checked to lie within it."""

    storage: StorageRef
    dtype: str
    offset: int  # bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  # elements; None for row-major without gaps
    lazy: bool  # conjugated or negated on reading


INERT_LIST: Final = Inert("list")
BITS_IN_TORCH: Final = {name: bits for name, bits in BITS.items() if bits % 8 == 0}


def _rebuild_tensor_v2(args: tuple[object, ...]) -> PickledTensor:
    """torch/_utils.py: (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])."""
    if len(args) not in (6, 7) or not isinstance(args[0], StorageRef) or args[0].dtype is None:
        raise Refused("has a tensor without a typed storage")
    return _view(args[0], args[0].dtype, args[1:4], args[6] if len(args) == 7 else None)


def _rebuild_tensor_v3(args: tuple[object, ...]) -> PickledTensor:
    """torch/_utils.py: (storage, offset, size, stride, requires_grad, backward_hooks, dtype[, metadata])."""
    if len(args) not in (7, 8) or not isinstance(args[0], StorageRef) or not isinstance(args[6], DType):
        raise Refused("has a tensor without a storage or a dtype")
    return _view(args[0], args[6].name, args[1:4], args[7] if len(args) == 8 else None)


def _view(storage: StorageRef, dtype: str, layout: tuple[object, ...], metadata: object) -> PickledTensor:
    offset, shape, strides = layout[0], _naturals(layout[1]), _naturals(layout[2])
    if type(offset) is not int or offset < 0 or shape is None or strides is None or len(shape) != len(strides):
        raise Refused("has a tensor with an impossible shape")
    elements = math.prod(shape)
    if max(elements, offset, *shape, *strides, 0) >= MAX_ELEMENTS:
        raise Refused("has a tensor with more than 2**63 elements")
    item_bytes = 1 if dtype == PACKED_FLOAT4 else BITS[dtype] // 8
    if elements * item_bytes >= MAX_ELEMENTS:  # what an expanded view of one element can pretend to
        raise Refused("has a tensor of more than 2**63 bytes")
    if elements:
        last = offset + sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))
        if (last + 1) * item_bytes > storage.nbytes:
            raise Refused("has a tensor that reaches beyond its storage")
    else:
        offset = min(offset, storage.nbytes // item_bytes)  # an empty slice may begin anywhere, and reads nothing
    order = None if _row_major(shape, strides) else strides
    if dtype == PACKED_FLOAT4:
        dtype, shape = "float4_e2m1", _unpacked(shape, order)
    return PickledTensor(storage, dtype, offset * item_bytes, shape, order, bool(metadata))


def _naturals(value: object) -> tuple[int, ...] | None:
    if type(value) is not tuple or len(value) > MAX_DIMS:
        return None
    return value if all(type(number) is int and number >= 0 for number in value) else None


def _row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for dim, stride in zip(reversed(shape), reversed(strides), strict=True):
        if dim == 0:
            return True
        if dim != 1 and stride != expected:  # the stride of a dimension of one is never used
            return False
        expected *= dim
    return True


def _unpacked(shape: tuple[int, ...], order: tuple[int, ...] | None) -> tuple[int, ...]:
    if order is not None or not shape:
        raise Refused(f"has a {PACKED_FLOAT4} tensor that is not row-major", "save it contiguous")
    return (*shape[:-1], shape[-1] * 2)


def _rebuild_parameter(args: tuple[object, ...]) -> PickledTensor:
    """torch/_utils.py: (data, requires_grad, backward_hooks[, state])."""
    if len(args) not in (3, 4) or not isinstance(args[0], PickledTensor):
        raise Refused("has a parameter without a tensor")
    return args[0]


def _rebuild_from_type_v2(args: tuple[object, ...]) -> object:
    """torch/_tensor.py: (function, type, arguments, state), for a plain tensor that carries attributes."""
    if len(args) != 4 or not isinstance(args[0], Function) or args[1] is not TENSOR or type(args[2]) is not tuple:
        raise Refused("has a tensor of a class of its own", "save plain tensors")
    if args[0].call is _rebuild_from_type_v2:
        raise Refused("has a tensor within a tensor")
    return args[0].call(args[2])


def _ordered_dict(args: tuple[object, ...]) -> dict[object, object]:
    if args:
        raise Refused("has an OrderedDict with initial values, which torch never writes")
    return {}


def make_size(args: tuple[object, ...]) -> object:
    """`torch.Size`, from the tuple that it is written with."""
    if len(args) != 1 or type(args[0]) is not tuple:
        raise Refused("has a torch.Size that is not a tuple")
    return args[0]


def _inert(what: str) -> Function:
    value = Inert(what)
    return Function(lambda _args: value)


TENSOR: Final = Inert("torch.Tensor")

ALLOWED: Final[dict[str, object]] = {
    "collections.OrderedDict": Function(_ordered_dict),
    "torch._utils._rebuild_tensor_v2": Function(_rebuild_tensor_v2),
    "torch._utils._rebuild_tensor_v3": Function(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": Function(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Function(_rebuild_parameter),
    "torch._tensor._rebuild_from_type_v2": Function(_rebuild_from_type_v2),
    "torch._utils._rebuild_meta_tensor_no_storage": _inert("tensor on the meta device"),
    "torch.Tensor": TENSOR,
    "torch.nn.parameter.Parameter": TENSOR,
    "torch.Size": Function(make_size),
    "torch.device": _inert("torch.device"),
    "torch.storage.UntypedStorage": StorageType(None),
    "torch.UntypedStorage": StorageType(None),
    "collections.Counter": _inert("Counter"),
    "_codecs.encode": _inert("bytes"),  # how protocol 2 writes bytes
    # Python 2's name for builtins, which protocol 2 keeps
    **{f"builtins.{name}": _inert(name) for name in ("bytearray", "complex", "set")},
    **{f"__builtin__.{name}": _inert(name) for name in ("bytearray", "complex", "set")},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in TORCH_STORAGES.items() if BITS[dtype] % 8 == 0},
    **{f"torch.{name}": DType(name) for name in BITS_IN_TORCH},
    f"torch.{PACKED_FLOAT4}": DType(PACKED_FLOAT4),
}  # fmt: skip


def stand_in(name: str) -> object:
    """The stand-in for a global by its full name.

    Raises:
        Refused: it is nothing that a plain state dict refers to.
    """
    found = ALLOWED.get(name)
    if found is not None:
        return found
    if name.startswith(("torch.nn.modules.", "transformers.", "__main__.")):
        raise Refused(f"holds a whole pickled model ({shown(name)}), not a plain state dict", PLAIN_SAVE)
    if name.startswith("torch."):
        raise Refused(f"refers to {shown(name)}; only plain dense tensors are read", PLAIN_SAVE)
    raise Refused(f"refers to {shown(name)}; it is not a plain state dict, and is not executed", PLAIN_SAVE)


def describe(value: object) -> str:
    """What a value of a pickle is, in a word or two."""
    if isinstance(value, Inert):
        return value.what
    if isinstance(value, PickledTensor):
        return "tensor"
    return "None" if value is None else type(value).__name__
