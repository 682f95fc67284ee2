"""Files as ``torch.save`` writes them, without PyTorch: its ZIP, and its pickle by Python's own pickler.

What it stands for: protocol 2, classes and functions by their names in ``torch``, storages by persistent ids
``('storage', torch.FloatStorage, '0', 'cpu', words)``; the members ``<name>/data.pkl``, ``byteorder``, ``data/0``
and so on, ``version``, all stored plain, the data at multiples of 64 by a filler in the header, sizes and CRC behind
the data.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from unittest import mock

import numpy as np

_CLASSES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass
class Tensor:
    """A tensor over a storage of its own, or over ``storage``, from ``offset`` of its words on."""

    array: np.ndarray
    storage: np.ndarray | None = None
    offset: int = 0
    stride: tuple[int, ...] | None = None
    float8: bool = False


class _Torch(types.ModuleType):
    """Modules of which every class and function is a name alone."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Global:
    """A name of ``torch`` that stands for itself, such as ``torch.float8_e4m3fn``."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


class _Parts:
    def __init__(self, made, arguments):
        self.made, self.arguments = made, arguments

    def __reduce__(self):
        return self.made, self.arguments


def save(value, *, name="archive", files=()):
    """Return what ``torch.save(value)`` writes, of dictionaries, lists and Tensors; ``files`` are further members."""
    pickled, storages = dump(value)
    members = [
        ("data.pkl", pickled),
        ("byteorder", b"little"),
        *((f"data/{i}", each) for i, each in enumerate(storages)),
    ]
    return archive([(f"{name}/{path}", data) for path, data in [*members, ("version", b"3\n"), *files]])


def dump(value):
    """Return the pickle, and the storages' bytes in the order of their keys."""
    modules = {each: _Torch(each) for each in ("torch", "torch._utils", "torch.storage")}
    storages: list[np.ndarray] = []

    def parts(tensor):
        flat = tensor.array if tensor.storage is None else tensor.storage
        if not any(flat is each for each in storages):
            storages.append(flat)
        key = next(str(i) for i, each in enumerate(storages) if each is flat)
        words = tensor.array.itemsize
        stride = tensor.stride or tuple(
            step // words for step in np.empty(tensor.array.shape, tensor.array.dtype).strides
        )
        if tensor.float8:
            kind, version = modules["torch.storage"].UntypedStorage, 3
        else:
            kind, version = getattr(modules["torch"], _CLASSES[tensor.array.dtype.name]), 2
        told = (_Persistent(("storage", kind, key, "cpu", flat.size)), tensor.offset, tensor.array.shape, stride, False)
        more = (_Global("float8_e4m3fn"),) if tensor.float8 else ()
        rebuild = getattr(modules["torch._utils"], f"_rebuild_tensor_v{version}")
        return _Parts(rebuild, (*told, OrderedDict(), *more))

    class Pickler(pickle._Pickler):  # the one in Python, which lets a class be a name alone
        def persistent_id(self, obj):
            return obj.told if isinstance(obj, _Persistent) else None

        def save_global(self, obj, name=None):
            if name is not None and isinstance(obj, _Global):
                self.write(pickle.GLOBAL + b"torch\n" + name.encode() + b"\n")
                self.memoize(obj)
            else:
                super().save_global(obj, name)

    def plain(node):
        if isinstance(node, Tensor):
            return parts(node)
        if isinstance(node, dict):
            return type(node)((key, plain(each)) for key, each in node.items())
        return [plain(each) for each in node] if isinstance(node, list) else node

    target = io.BytesIO()
    with mock.patch.dict(sys.modules, modules):
        Pickler(target, protocol=2).dump(plain(value))
    return target.getvalue(), [each.tobytes() for each in storages]


class _Persistent:
    def __init__(self, told):
        self.told = told


def archive(members, *, aligned=64):
    """Return a ZIP as PyTorch's writer makes it, of (name, bytes)."""
    data, listed = b"", b""
    for name, content in members:
        encoded = name.encode()
        place, filler = len(data), -(len(data) + 34 + len(encoded)) % aligned
        crc = zlib.crc32(content)
        extra = struct.pack("<2sH", b"FB", filler) + b"Z" * filler
        data += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(encoded), len(extra))
        data += encoded + extra + content + struct.pack("<4sIII", b"PK\x07\x08", crc, len(content), len(content))
        listed += struct.pack("<4sHHHHHHIII", b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, len(content), len(content))
        listed += struct.pack("<HHHHHII", len(encoded), 0, 0, 0, 0, 0, place) + encoded
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(members), len(members), len(listed), len(data), 0)
    return data + listed + end
