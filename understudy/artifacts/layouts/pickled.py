"""What a pickle of PyTorch says of its tensors. It is never run: no name in it is looked up, nothing is called.

The opcodes are followed on a stack of plain values. What would be built by calling something is kept as what it is: the
name of the function and its arguments. Three such calls are known, those by which PyTorch describes a tensor.
"""

from __future__ import annotations

import pickletools
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

#: Opcodes followed; a state dict has some 45 a tensor. Python follows about a million a second.
STEPS_MAX = 2_000_000
_DEPTH_MAX = 16
_NAME_LETTERS_MAX = 1024
_DIMENSIONS_MAX = 64
_LENGTH_MAX = 1 << 48

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}  # fmt: skip
_DTYPES = {
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
_REBUILT = ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_tensor")


class Stored(NamedTuple):
    """One storage as the pickle describes it.

    Attributes:
        name: of the first tensor in it: the keys that lead there, with dots; empty where none do.
        dtype: as safetensors names it; empty where it is none of those.
        shape: of that tensor, if it begins where the storage does and lies row by row; else empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class _Called(NamedTuple):
    """A global by its module and name, which an unpickler would look up and call."""

    module: str
    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    dtype: str
    shape: tuple[int, ...]


#: Whatever an opcode has, or stands on the stack.
_Value: TypeAlias = Any
_MARK = object()
#: Whatever is of no interest here.
_OTHER = None


def stored_tensors(data: bytes) -> dict[str, Stored]:
    """Return what a pickle says of each storage, by the storage's key.

    Raises:
        ValueError: it is no pickle, or one of more steps than are followed. IndexError, TypeError, KeyError: the same.
    """
    machine = _Machine()
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        if step >= STEPS_MAX:
            message = f"has a pickle of more than {STEPS_MAX} steps"
            raise ValueError(message)
        machine.follow(code, argument)
    found: dict[str, Stored] = {}
    for tensor, name in _named(machine.dictionaries, machine.seen):
        storage = tensor.storage
        found.setdefault(storage.key, Stored(name, tensor.dtype or storage.dtype, tensor.shape))
    return found


class _Machine:
    """A pickle's stack and memo, of plain values alone."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.seen: list[_Tensor] = []  # every tensor, in the order of the pickle
        self.dictionaries: list[dict[str, Any]] = []  # every dictionary, and list as one, in the order of the pickle

    def follow(self, code: pickletools.OpcodeInfo, argument: _Value) -> None:
        """Do to the stack what an opcode does."""
        if code.name in _PUSHES:
            self.stack.append(argument)
        elif (step := _STEPS.get(code.name)) is not None:
            step(self, argument)
        else:
            self._other(code)

    def get(self, argument: _Value) -> None:
        self.stack.append(self.memo[int(argument)])

    def put(self, argument: _Value) -> None:
        self.memo[int(argument)] = self.stack[-1]

    def memoize(self, _: _Value) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def make_folder(self, _: _Value) -> None:
        self.stack.append(self._dictionary())

    def make_tuple(self, _: _Value, count: int | None = None) -> None:
        if count is None:
            self.stack.append(tuple(self._to_mark()))
            return
        start = len(self.stack) - count
        self.stack[start:] = [tuple(self.stack[start:])]

    def set_one(self, _: _Value) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def set_many(self, _: _Value) -> None:
        items = self._to_mark()
        self._set(self.stack[-1], items)

    def append_one(self, _: _Value) -> None:
        value = self.stack.pop()
        self._append(self.stack[-1], [value])

    def append_many(self, _: _Value) -> None:
        items = self._to_mark()
        self._append(self.stack[-1], items)

    def named_global(self, argument: _Value) -> None:
        self.stack.append(_Called(*str(argument).split(" ", 1)))

    def stacked_global(self, _: _Value) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        named = isinstance(name, str) and isinstance(module, str)
        self.stack.append(_Called(module, name) if named else _OTHER)

    def reduce(self, _: _Value) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._reduced(called, arguments))

    def persistent(self, _: _Value) -> None:
        self.stack.append(_storage(self.stack.pop()))

    def build(self, _: _Value) -> None:
        state = self.stack.pop()
        if self.stack[-1] is _OTHER:  # an object is what its state says
            self.stack[-1] = state

    def _other(self, code: pickletools.OpcodeInfo) -> None:
        """Do to the stack what the opcode does, with values of which nothing is known."""
        before = code.stack_before
        if pickletools.stackslice in before or pickletools.markobject in before:
            self._to_mark()
            before = before[: before.index(pickletools.markobject)]
        if len(before) > len(self.stack):
            raise IndexError(code.name)
        if before:
            del self.stack[-len(before) :]
        self.stack += [_MARK if made is pickletools.markobject else _OTHER for made in code.stack_after]

    def _to_mark(self) -> list[Any]:
        """Take what lies above the last mark off the stack, and the mark."""
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        found.reverse()
        return found

    def _dictionary(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        self.dictionaries.append(made)
        return made

    def _set(self, into: _Value, items: list[Any]) -> None:
        if isinstance(into, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if (type(key) is str and len(key) <= _NAME_LETTERS_MAX) or (
                    type(key) is int and 0 <= key < _LENGTH_MAX
                ):
                    into[str(key)] = value

    def _append(self, into: _Value, items: list[Any]) -> None:
        if isinstance(into, dict):
            for value in items:
                into[str(len(into))] = value

    def _reduced(self, called: _Value, arguments: _Value) -> _Value:
        if not isinstance(called, _Called) or not isinstance(arguments, tuple):
            return _OTHER
        if called.name == "OrderedDict":
            return self._dictionary()
        if called.name in _REBUILT:
            tensor = _tensor(called.name, arguments)
            if tensor is not None:
                self.seen.append(tensor)
            return tensor
        if called.name == "_rebuild_parameter" and arguments and isinstance(arguments[0], _Tensor):
            return arguments[0]
        return _OTHER


_PUSHES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
})  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST"), _Machine.make_folder),
    "MEMOIZE": _Machine.memoize,
    "EMPTY_TUPLE": partial(_Machine.make_tuple, count=0),
    "TUPLE1": partial(_Machine.make_tuple, count=1),
    "TUPLE2": partial(_Machine.make_tuple, count=2),
    "TUPLE3": partial(_Machine.make_tuple, count=3),
    "TUPLE": _Machine.make_tuple,
    "SETITEM": _Machine.set_one,
    "SETITEMS": _Machine.set_many,
    "APPEND": _Machine.append_one,
    "APPENDS": _Machine.append_many,
    "GLOBAL": _Machine.named_global,
    "STACK_GLOBAL": _Machine.stacked_global,
    "REDUCE": _Machine.reduce,
    "BINPERSID": _Machine.persistent,
    "BUILD": _Machine.build,
}


def _storage(told: _Value) -> _Storage | None:
    """Return the storage of PyTorch's persistent id: ``('storage', class, key, place, words)``."""
    if not isinstance(told, tuple) or len(told) < 3 or told[0] != "storage":
        return None
    kind, key = told[1:3]
    return _Storage(_STORAGES.get(kind.name, ""), key) if isinstance(kind, _Called) and isinstance(key, str) else None


def _tensor(name: str, arguments: tuple[Any, ...]) -> _Tensor | None:
    """Return the tensor of ``(storage, offset, size, stride, ...)``; version 3 names the dtype beside it."""
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        return None
    storage, offset, shape, stride = arguments[:4]
    dtype = ""
    if name == "_rebuild_tensor_v3":
        told = next((each for each in arguments[4:] if isinstance(each, _Called) and each.module == "torch"), None)
        dtype = _DTYPES.get(told.name, "") if told else ""
    return _Tensor(storage, dtype, shape if offset == 0 and _by_rows(shape, stride) else ())


def _by_rows(shape: _Value, stride: _Value) -> bool:
    """Return whether a tensor of this shape lies row by row without gaps."""
    if not _are_counts(shape) or not _are_counts(stride) or len(shape) != len(stride):
        return False
    words = 1
    for length, step in zip(reversed(shape), reversed(stride), strict=True):
        if length != 1 and step != words:
            return False
        words *= length
    return True


def _are_counts(value: _Value) -> bool:
    if not isinstance(value, tuple) or len(value) > _DIMENSIONS_MAX:
        return False
    return all(type(each) is int and 0 <= each < _LENGTH_MAX for each in value)


def _named(dictionaries: list[dict[str, Any]], seen: list[_Tensor]) -> list[tuple[_Tensor, str]]:
    """Return every tensor with a name: the keys that lead to it, from a dictionary that is in no other one."""
    inside = {id(value) for each in dictionaries for value in each.values() if isinstance(value, dict)}
    found: list[tuple[_Tensor, str]] = []
    visited: set[int] = set()
    waiting = [(each, "", 0) for each in dictionaries if id(each) not in inside]
    waiting.reverse()
    while waiting:
        folder, above, depth = waiting.pop()
        if id(folder) in visited:
            continue
        visited.add(id(folder))
        for key, value in folder.items():
            name = f"{above}{key}"[:_NAME_LETTERS_MAX]
            if isinstance(value, _Tensor):
                found.append((value, name))
            elif isinstance(value, dict) and depth < _DEPTH_MAX:
                waiting.append((value, f"{name}.", depth + 1))
    return found + [(tensor, "") for tensor in seen]
