"""What a pickle of tensors says: read by an interpreter of its own, which builds nothing that the file could choose."""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, NamedTuple

_LARGEST_INT = 2**63 - 1
_MOST_AXES = 8
_TYPES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "DoubleStorage": "float64",
    "LongStorage": "int64",
}  # fmt: skip


class PickleFormError(ValueError):
    """The file is damaged, or no pickle of this kind."""


class WantsCodeError(ValueError):
    """The file names a function or a class that no state dict needs."""


class NotPlainError(ValueError):
    """The file holds tensors of other kinds."""


@dataclass(frozen=True, slots=True)
class DescribedTensor:
    """A tensor as a file describes it; none of its values has been read."""

    storage: str
    """Key of the values' place in the file."""
    dtype: str
    """``float32``, ``float16``, ``bfloat16``, ``float64`` or ``int64``."""
    elements: int
    """Of the whole storage, which other tensors may share."""
    offset: int
    """In the storage, in elements."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """Elements between neighbours along each axis."""

    @property
    def end(self) -> int:
        """The first element of the storage behind the tensor."""
        if 0 in self.shape:
            return self.offset
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))


class _StorageType(NamedTuple):
    dtype: str


class _StoredValues(NamedTuple):
    key: str
    dtype: str
    elements: int


class _Maker(NamedTuple):
    """A function that a file may call."""

    make: Callable[[tuple[object, ...]], object]


def _ordered_dict(args: tuple[object, ...]) -> object:
    if args:
        raise PickleFormError("it has a dictionary of an unknown form")
    return {}


def _tensor(args: tuple[object, ...]) -> object:
    match args:
        case (_StoredValues() as values, int(offset), tuple(shape), tuple(stride), bool(), _, *metadata):
            if any(metadata):
                raise NotPlainError("conjugated or negated")
            if len(shape) != len(stride) or len(shape) > _MOST_AXES:
                raise PickleFormError("it has a tensor of an unknown form")
            sizes, steps = tuple(map(_natural, shape)), tuple(map(_natural, stride))
            tensor = DescribedTensor(values.key, values.dtype, values.elements, _natural(offset), sizes, steps)
            if tensor.end > values.elements:
                raise PickleFormError(
                    f"a tensor of shape {sizes} reaches beyond the {values.elements} values that it is in"
                )
            return tensor
    raise PickleFormError("it has a tensor of an unknown form")


def _parameter(args: tuple[object, ...]) -> object:
    match args:
        case (DescribedTensor() as tensor, bool(), _):
            return tensor
    raise PickleFormError("it has a parameter of an unknown form")


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_INT:
        raise PickleFormError("it has a size that is none")
    return value


_KNOWN: dict[str, object] = {
    "collections OrderedDict": _Maker(_ordered_dict),
    "torch._utils _rebuild_tensor_v2": _Maker(_tensor),
    "torch._utils _rebuild_parameter": _Maker(_parameter),
    **{f"torch {name}": _StorageType(dtype) for name, dtype in _TYPES.items()},
}


def described(file: IO[bytes]) -> object:
    """The next pickle of a file: dictionaries, lists, tuples, strings and numbers, and descriptions of tensors.

    Nothing that the file names is imported or called, and what is built takes no more than a small multiple of the
    pickle's own length. The file stands behind the pickle afterwards.

    Raises:
        WantsCodeError: it names what no state dict needs.
        NotPlainError: it holds sparse, quantised or otherwise unusual tensors.
        ValueError: it is damaged, or no pickle of this kind; a :class:`PickleFormError` or what ``pickletools`` raises.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Of backslashes in names. A name that is not known is refused in any case.
            warnings.simplefilter("ignore")
            for code, argument, _ in pickletools.genops(file):
                if code.name == "STOP":
                    return machine.pop()
                step = _STEPS.get(code.name)
                if step is None:
                    raise PickleFormError(f"it has the instruction {code.name}")
                step(machine, argument)
    except (IndexError, KeyError) as error:
        raise PickleFormError("its instructions do not fit together") from error
    raise PickleFormError("it ends too early")


class _Machine:
    """The stack and the memory of a pickle."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        """Stacks that a mark has set aside."""
        self.memory: dict[int, object] = {}

    def pop(self) -> object:
        return self.stack.pop()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def remember(self, place: int) -> None:
        self.memory[place] = self.stack[-1]

    def group(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(items)

    def name(self, name: str) -> None:
        if name not in _KNOWN:
            kind = NotPlainError if name.startswith(("torch._utils ", "torch ")) else WantsCodeError
            raise kind(name)
        self.push(_KNOWN[name])

    def call(self) -> None:
        args, maker = self.pop(), self.pop()
        if not isinstance(maker, _Maker) or not isinstance(args, tuple):
            raise PickleFormError("it calls what is no function")
        self.push(maker.make(args))

    def stored(self) -> None:
        match self.pop():
            case ("storage", _StorageType(dtype), str(key), str(), int(elements)) | (
                "storage", _StorageType(dtype), str(key), str(), int(elements), None
            ):  # fmt: skip
                self.push(_StoredValues(key, dtype, _natural(elements)))
            case _:
                raise PickleFormError("it refers to values of an unknown form")

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        # Other keys may take for ever to hash: a tuple of tuples of tuples, each named twice.
        if not isinstance(target, dict) or len(items) % 2 or not all(type(key) in (str, int) for key in items[::2]):
            raise PickleFormError("it has a dictionary whose keys are no names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleFormError("it appends to what is no list")
        target.extend(items)

    def give_attributes(self) -> None:
        """Pass over what an object has beside its content: versions of modules, in a state dict."""
        self.pop()
        if not isinstance(self.stack[-1], dict):
            raise PickleFormError("it changes what is no dictionary")


_Instruction = Callable[[_Machine, object], None]
_CONSTANTS = ("BINUNICODE", "SHORT_BINSTRING", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_STEPS: dict[str, _Instruction] = {
    "PROTO": lambda _, __: None,
    "MARK": lambda m, _: m.mark(),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.group(1),
    "TUPLE2": lambda m, _: m.group(2),
    "TUPLE3": lambda m, _: m.group(3),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.give_attributes(),
    "BINPERSID": lambda m, _: m.stored(),
    "GLOBAL": lambda m, name: m.name(str(name)),
    **dict.fromkeys(_CONSTANTS, lambda m, value: m.push(value)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, place: m.remember(int(str(place)))),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, place: m.push(m.memory[int(str(place))])),
}
"""The instructions that ``torch.save`` writes for state dicts and checkpoints; names are those of ``pickletools``."""
