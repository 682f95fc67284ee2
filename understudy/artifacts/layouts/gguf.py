"""GGUF: metadata, the list of tensors, then their bytes.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Little-endian files of version 2 and 3. Of a type that is not known here a tensor reaches to where the next begins.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from understudy.artifacts.cut import Layout, Tensor
from understudy.artifacts.layouts.header import Header
from understudy.errors import Corrupt
from understudy.vault.documents import quoted

if TYPE_CHECKING:
    from understudy.artifacts.layouts import Read

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
#: A vocabulary of some 500,000 words fits.
_HEADER_BYTES_MAX = 32 << 20
_TENSORS_MAX = 100_000
_KEYS_MAX = 100_000
#: Words of vocabularies, and how pairs of them merge: each is one step of this parser.
_STRINGS_MAX = 4_000_000
_NAME_BYTES_MAX = 1024
_DIMENSIONS_MAX = 8
_ALIGNMENT_KEY = b"general.alignment"
_ALIGNMENT = 32
_ALIGNMENT_MAX = 1 << 20
_START = struct.Struct("<4sIQQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_ARRAY = struct.Struct("<IQ")
_PLACE = struct.Struct("<IQ")

#: Bytes of a metadata value, by its type.
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TYPE_U32, _TYPE_STRING, _TYPE_ARRAY = 4, 8, 9

#: Of each GGML type: our dtype, values of a block, bytes of a block.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 30: ("BF16", 1, 2),
    2: ("", 32, 18), 3: ("", 32, 20), 6: ("", 32, 22), 7: ("", 32, 24), 8: ("", 32, 34), 9: ("", 32, 40),
    10: ("", 256, 84), 11: ("", 256, 110), 12: ("", 256, 144), 13: ("", 256, 176), 14: ("", 256, 210),
    15: ("", 256, 292), 16: ("", 256, 66), 17: ("", 256, 74), 18: ("", 256, 98), 19: ("", 256, 50), 20: ("", 32, 18),
    21: ("", 256, 110), 22: ("", 256, 82), 23: ("", 256, 136), 29: ("", 256, 56), 34: ("", 256, 54), 35: ("", 256, 66),
    39: ("", 32, 17), 40: ("", 64, 36), 41: ("", 128, 18),
}  # fmt: skip


def look_into(size: int, read: Read) -> Layout:
    """Return where the tensors lie. Raises Corrupt, also for a version or an order of bytes that is not known."""
    header = Header(size, read, bytes_max=_HEADER_BYTES_MAX)
    if size < _START.size:
        message = f"has {size} bytes, a GGUF file has at least {_START.size}"
        raise Corrupt(message)
    magic, version, tensors, keys = _START.unpack(header.bytes(_START.size))
    if magic != _MAGIC or version not in _VERSIONS:
        raise Corrupt("is not GGUF of version 2 or 3, little endian")
    if tensors > _TENSORS_MAX or keys > _KEYS_MAX:
        message = f"declares {tensors} tensors and {keys} keys"
        raise Corrupt(message)
    alignment = _alignment(header, keys)
    listed = [_tensor(header) for _ in range(tensors)]
    data_start = header.place + -header.place % alignment
    return Layout("gguf", _placed(listed, data_start, size), min(data_start, size))


def _alignment(header: Header, keys: int) -> int:
    """Go past the metadata; return what tensors are aligned to."""
    alignment, strings = _ALIGNMENT, 0
    for _ in range(keys):
        (length,) = header.numbers(_U64)
        name = header.bytes(length) if length == len(_ALIGNMENT_KEY) else header.skip(length)
        (kind,) = header.numbers(_U32)
        if kind == _TYPE_ARRAY:
            inner, count = header.numbers(_ARRAY)
            if inner != _TYPE_STRING:
                header.skip(_value_bytes(inner) * count)
                continue
            strings += count
            if strings > _STRINGS_MAX:
                message = f"declares {strings} texts"
                raise Corrupt(message)
            header.skip_texts(count)
        elif kind == _TYPE_STRING:
            header.skip(*header.numbers(_U64))
        elif kind == _TYPE_U32 and name == _ALIGNMENT_KEY:
            (alignment,) = header.numbers(_U32)
            if not 1 <= alignment <= _ALIGNMENT_MAX:
                message = f"declares an alignment of {alignment}"
                raise Corrupt(message)
        else:
            header.skip(_value_bytes(kind))
    return alignment


def _value_bytes(kind: int) -> int:
    if kind not in _VALUE_BYTES:
        message = f"has a value of type {kind}, which is not known"
        raise Corrupt(message)
    return _VALUE_BYTES[kind]


def _tensor(header: Header) -> tuple[int, str, int, tuple[int, ...]]:
    """Return (offset in the data, name, type, shape), of which the last dimension is contiguous, as ours."""
    (length,) = header.numbers(_U64)
    if length > _NAME_BYTES_MAX:
        message = f"has a tensor with a name of {length} bytes"
        raise Corrupt(message)
    name = header.bytes(length).decode(errors="replace")
    (dimensions,) = header.numbers(_U32)
    if dimensions > _DIMENSIONS_MAX:
        message = f"has the tensor {quoted(name)} of {dimensions} dimensions"
        raise Corrupt(message)
    shape = tuple(reversed([header.numbers(_U64)[0] for _ in range(dimensions)]))
    kind, offset = header.numbers(_PLACE)
    return offset, name, kind, shape


def _placed(listed: list[tuple[int, str, int, tuple[int, ...]]], data_start: int, size: int) -> tuple[Tensor, ...]:
    listed.sort()
    ends = [data_start + offset for offset, *_ in listed[1:]] + [size]
    found = []
    for (offset, name, kind, shape), limit in zip(listed, ends, strict=True):
        start = end = data_start + offset
        dtype, values, block = _TYPES.get(kind, ("", 0, 0))
        if values:
            blocks, rest = divmod(math.prod(shape), values)
            end += blocks * block
            if rest:
                message = f"has the tensor {quoted(name)} with a part of a block"
                raise Corrupt(message)
        else:
            end = max(start, limit)
        if end > limit or start > size:
            message = f"has the tensor {quoted(name)} that reaches to {end}, beyond {limit}"
            raise Corrupt(message)
        found.append(Tensor(name, dtype, shape, start, end))
    return tuple(found)
