"""The globals that a pickled state dict may refer to, as inert stand-ins.

They mirror `_get_allowed_globals` of torch/_weights_only_unpickler.py; the rebuild functions follow torch/_utils.py
and record a view of a storage where torch makes a tensor. What torch would not load with `weights_only=True` is
`Unknown`: it has a name, takes whatever is done to it and holds nothing.
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
    "PLAIN_SAVE",
    "DType",
    "Function",
    "Inert",
    "OddTensor",
    "PickledTensor",
    "Refused",
    "StorageRef",
    "StorageType",
    "Truncated",
    "Unknown",
    "describe",
    "make_size",
    "stand_in",
]

PLAIN_SAVE = "save model.state_dict() with torch.save, or as safetensors"
BITS_IN_TORCH: Final = {name: bits for name, bits in BITS.items() if bits % 8 == 0}
_LAZY = ("conj", "neg")  # torch/_utils.py, `get_tensor_metadata`
MAX_DIMS = 64
MAX_ELEMENTS = 1 << 63
PACKED_FLOAT4 = "float4_e2m1fn_x2"  # torch's name for bytes of two F4 elements each


class Refused(Exception):  # noqa: N818 (it never leaves the package: archives turn it into a CheckpointError)
    """The pickle is damaged or holds what no plain state dict does."""

    def __init__(self, message: str, hint: str = "fetch the file again") -> None:
        super().__init__(message)
        self.hint = hint


class Truncated(Refused):
    """The pickle ends before it is complete, or uses what it has not built, which looks the same."""


class Inert(NamedTuple):
    """A value that is not read: what it is, and nothing that it holds."""

    what: str


class Unknown(NamedTuple):
    """A class or function that torch loads only for those who trust the file, and what it would make."""

    name: str


class OddTensor(NamedTuple):
    """A tensor that is not a plain view of a storage: sparse, quantised, nested or of a class of its own."""

    kind: str


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
    lazy: tuple[str, ...]  # what is yet to be done to the bytes: "conj", "neg"


def _rebuild_tensor(args: tuple[object, ...]) -> PickledTensor:
    """torch/_utils.py: (storage, offset, size, stride), as torch 0.1 wrote them."""
    if len(args) != 4 or not isinstance(args[0], StorageRef) or args[0].dtype is None:
        raise Refused("has a tensor without a typed storage")
    return _view(args[0], args[0].dtype, args[1:4], None)


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
    lazy = tuple(kind for kind in _LAZY if type(metadata) is dict and metadata.get(kind))
    return PickledTensor(storage, dtype, offset * item_bytes, shape, order, lazy)


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


def _rebuild_parameter(args: tuple[object, ...]) -> PickledTensor | OddTensor:
    """torch/_utils.py: (data, requires_grad, backward_hooks[, state])."""
    if len(args) not in (3, 4) or not isinstance(args[0], (PickledTensor, OddTensor)):
        raise Refused("has a parameter without a tensor")
    return args[0]


def _rebuild_from_type_v2(args: tuple[object, ...]) -> object:
    """torch/_tensor.py: (function, type, arguments, state), for a tensor that carries attributes or has a class."""
    if len(args) == 4 and isinstance(args[1], Unknown):
        return OddTensor(f"of the class {shown(args[1].name)}")
    if len(args) != 4 or not isinstance(args[0], Function) or args[1] is not TENSOR or type(args[2]) is not tuple:
        raise Refused("has a tensor of a class of its own", "save plain tensors")
    if args[0].call is _rebuild_from_type_v2:
        raise Refused("has a tensor within a tensor")
    return args[0].call(args[2])


def _ordered_dict(args: tuple[object, ...]) -> dict[object, object]:
    """An empty one that items follow; Python 2, whose files are still about, gave it a list of pairs."""
    items = args[0] if args else []
    if len(args) > 1 or type(items) is not list:
        raise Refused("has an OrderedDict of something else than pairs")
    found: dict[object, object] = {}
    for item in items:
        if type(item) not in (list, tuple) or len(item) != 2 or type(item[0]) not in (str, int):
            raise Refused("has an OrderedDict of something else than pairs")
        found[item[0]] = item[1]
    return found


def make_size(args: tuple[object, ...]) -> object:
    """`torch.Size`, from the tuple that it is written with."""
    if len(args) != 1 or type(args[0]) is not tuple:
        raise Refused("has a torch.Size that is not a tuple")
    return args[0]


def _inert(what: str) -> Function:
    value = Inert(what)
    return Function(lambda _args: value)


def _odd(name: str) -> Function:
    value = OddTensor(f"made by {name}")
    return Function(lambda _args: value)


TENSOR: Final = Inert("torch.Tensor")

# What torch/_weights_only_unpickler.py calls and is not a view of a storage, or not of one on this device.
_ODD: Final = (
    "_rebuild_qtensor",
    "_rebuild_sparse_tensor",
    "_rebuild_nested_tensor",
    "_rebuild_wrapper_subclass",
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_device_tensor_from_cpu_tensor",
)
_SCHEMES: Final = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
                   "per_channel_affine_float_qparams")  # fmt: skip

# No data has a use for these: a pickle that names one wants to run something. torch refuses the first four also to
# those who would allow them; they are all named here rather than left to the reader of a warning.
_HOSTILE_MODULES: Final = frozenset(
    {"sys", "os", "posix", "nt", "subprocess", "runpy", "importlib", "pty", "socket", "ctypes", "_pickle", "pickle"}
)
_HOSTILE: Final = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("eval", "exec", "execfile", "compile", "__import__", "open", "breakpoint", "input")
)

ALLOWED: Final[dict[str, object]] = {
    "collections.OrderedDict": Function(_ordered_dict),
    "torch._utils._rebuild_tensor": Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Function(_rebuild_tensor_v2),
    "torch._utils._rebuild_tensor_v3": Function(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": Function(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Function(_rebuild_parameter),
    "torch._tensor._rebuild_from_type_v2": Function(_rebuild_from_type_v2),
    "torch._utils._rebuild_meta_tensor_no_storage": _inert("tensor on the meta device"),
    **{f"torch._utils.{name}": _odd(f"torch._utils.{name}") for name in _ODD},
    **{f"torch.{name}": Inert(f"torch.{name}") for name in _SCHEMES},
    "torch.serialization._get_layout": _inert("torch.layout"),
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
    """The stand-in for a global by its full name; `Unknown` for what torch does not load unasked.

    Raises:
        Refused: it is there to be run.
    """
    found = ALLOWED.get(name)
    if found is not None:
        return found
    if name.partition(".")[0] in _HOSTILE_MODULES or name in _HOSTILE:
        raise Refused(f"refers to {shown(name)}, which no weights need; it is not executed", "do not load this file")
    return Unknown(name)


def describe(value: object) -> str:
    """What a value of a pickle is, in a word or two."""
    if isinstance(value, Inert):
        return value.what
    if isinstance(value, Unknown):
        return shown(value.name, 60, keep_end=True)
    if isinstance(value, (PickledTensor, OddTensor)):
        return "tensor"
    return "None" if value is None else type(value).__name__
