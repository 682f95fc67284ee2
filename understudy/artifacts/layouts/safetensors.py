"""safetensors: eight bytes of length, JSON, the tensors' bytes.

The format: https://github.com/huggingface/safetensors#format

What the library would refuse is refused here too, so that what the vault calls whole is what a server can load.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from understudy.artifacts.cut import DTYPE_BITS, Layout, Tensor
from understudy.errors import Corrupt
from understudy.vault.documents import parse_json, quoted

if TYPE_CHECKING:
    from understudy.artifacts.layouts import Read

#: As the safetensors library: a longer header is refused.
HEADER_BYTES_MAX = 100_000_000
#: A longer one, though it may be well formed, is not held in memory to be looked into: some 150,000 tensors fit.
HEADER_CHECKED_MAX = 16 << 20
LENGTH_BYTES = 8
_VALUES_MAX = 2_000_000
METADATA = "__metadata__"
_DIMENSIONS_MAX = 64


def look_into(size: int, read: Read) -> Layout:
    """Return where the tensors lie. Raises Corrupt."""
    length = header_length(read(0, min(size, LENGTH_BYTES)), size)
    return read_layout(read(LENGTH_BYTES, length) if length else b"", size)


def header_length(prefix: bytes, size: int) -> int:
    """Return how many bytes of JSON follow the first eight.

    Args:
        prefix: the file's first eight bytes, or fewer when it has no more.
        size: the file's bytes.

    Raises:
        Corrupt: the file cannot be safetensors, or is cut short.
    """
    if len(prefix) < LENGTH_BYTES:
        message = f"has {size} bytes, a safetensors file has at least {LENGTH_BYTES}"
        raise Corrupt(message)
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > HEADER_BYTES_MAX:
        message = f"declares a header of {length} bytes, the limit is {HEADER_BYTES_MAX}"
        raise Corrupt(message)
    if LENGTH_BYTES + length > size:
        message = f"declares a header of {length} bytes and has only {size} in all"
        raise Corrupt(message)
    if length > HEADER_CHECKED_MAX:
        message = f"has a header of {length} bytes, more than the {HEADER_CHECKED_MAX} that are looked into"
        raise Corrupt(message)
    return length


def read_layout(header: bytes, size: int) -> Layout:
    """Return where the tensors lie.

    Args:
        header: the JSON, without the eight bytes before it.
        size: the file's bytes; header and tensors must account for all of them.

    Raises:
        Corrupt: not JSON, a name that is there twice, an offset out of range, tensors that overlap, or a file of
            another size than they make.
    """
    try:
        listed = parse_json(header, values_max=_VALUES_MAX)
    except ValueError as error:
        message = f"has a header that is not JSON: {error}"
        raise Corrupt(message) from error
    if not isinstance(listed, dict):
        message = "has a header that is not an object"
        raise Corrupt(message)
    _check_names(header, listed)
    data_start = LENGTH_BYTES + len(header)
    data_size = size - data_start
    spans = sorted(_span(name, tensor, data_size) for name, tensor in listed.items() if name != METADATA)
    end = 0
    hole = None
    for start, stop, name in spans:
        if start < end:
            message = f"has tensors that overlap, at {quoted(name)}"
            raise Corrupt(message)
        if start > end and hole is None:
            hole = name
        end = stop
    if end != data_size:
        message = f"has {size} bytes, its header and tensors make {data_start + end}"
        raise Corrupt(message)
    tensors = tuple(
        Tensor(name, str(listed[name]["dtype"]), tuple(listed[name]["shape"]), data_start + start, data_start + stop)
        for start, stop, name in spans
    )
    return Layout("safetensors", tensors, data_start, hole)


def _check_names(header: bytes, listed: dict[str, Any]) -> None:
    """Refuse a name that is there twice, of which one reader would take the first and another the last."""
    metadata = listed.get(METADATA)
    strings = 5 * (len(listed) - (METADATA in listed))  # name, dtype and its value, shape, data_offsets
    if isinstance(metadata, dict):
        strings += 1 + 2 * len(metadata)
        if any(isinstance(value, dict | list) for value in metadata.values()):
            # The format has texts there, and how deep a parser follows anything else differs from one to the next.
            raise Corrupt("has a header that not every reader understands")
    # Without escapes, the number of quotes says how many strings there were; a dropped name leaves some over.
    if b"\\" not in header and header.count(b'"') == 2 * strings:
        return
    try:
        json.loads(header, object_pairs_hook=_once)
    except (RecursionError, ValueError):
        message = "has a header that not every reader understands"
        raise Corrupt(message) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        message = f"has a header that names {quoted(twice)} twice"
        raise Corrupt(message)
    return found


def _span(name: str, tensor: Any, data_size: int) -> tuple[int, int, str]:  # noqa: ANN401 - any JSON value
    problem = None
    try:
        dtype, shape, (start, stop) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        message = f"describes the tensor {quoted(name)} without dtype, shape and data_offsets"
        raise Corrupt(message) from error
    if not all(type(place) is int for place in (start, stop)) or not 0 <= start <= stop:
        problem = "has offsets that are not numbers in order"
    elif stop > data_size:
        problem = f"ends at {stop}, beyond the {data_size} bytes of data that the file has"
    elif not isinstance(shape, list) or len(shape) > _DIMENSIONS_MAX:
        problem = "has no shape"
    elif not all(type(length) is int and length >= 0 for length in shape):
        problem = "has a shape that is not numbers"
    elif isinstance(dtype, str) and dtype in DTYPE_BITS and math.prod(shape) * DTYPE_BITS[dtype] != (stop - start) * 8:
        problem = f"has {stop - start} bytes, which {dtype} {quoted(shape)} does not give"
    if problem:
        message = f"describes the tensor {quoted(name)}, which {problem}"
        raise Corrupt(message)
    return start, stop, name
