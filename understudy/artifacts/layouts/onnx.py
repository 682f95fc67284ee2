"""ONNX: protobuf, of which the initializers of the main graph are looked for, in the file and in files beside it.

Only what leads to them is parsed, field by field: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Tensors in
nodes, subgraphs and functions are bytes like any others, as are small ones in the file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from understudy.artifacts.cut import DTYPE_BITS, Layout, Tensor
from understudy.artifacts.layouts.header import Window
from understudy.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from understudy.artifacts.layouts import Read

_WINDOW_BYTES = 64 << 10
_READS_MAX = 1000
_FIELDS_MAX = 1_000_000
_TEXT_BYTES_MAX = 4096
_DIMENSIONS_BYTES_MAX = 640
#: A shorter tensor in the model's own file is not worth chunks of its own.
_CUT_BYTES_MIN = 16 << 10
_VARINT_BYTES_MAX = 10
_LENGTH_MAX = 1 << 62

_VARINT, _EIGHT, _SPAN, _FOUR = 0, 1, 2, 5
_GRAPH = 7
_INITIALIZER = 5
_DIMS, _DATA_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL = 1, 2, 4, 8, 9, 10, 13

#: Of ONNX's data types those that safetensors has, too.
_TYPES = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 12: "U32",
    13: "U64", 14: "C64", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 23: "F4",
    24: "F8_E8M0",
}  # fmt: skip


class _Field(NamedTuple):
    """One field: its number, its wire type, and its value, or where its bytes lie."""

    number: int
    wire: int
    value: int
    end: int


class _Walker:
    """Yields the fields of messages, with a bound on how many."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._left = _FIELDS_MAX

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        """Yield the fields of the message that lies there. Raises Corrupt."""
        place = start
        while place < end:
            self._left -= 1
            if not self._left:
                message = f"has more than {_FIELDS_MAX} fields on the way to its tensors"
                raise Corrupt(message)
            tag, place = self.varint(place, end)
            number, wire = tag >> 3, tag & 7
            value = place
            if wire == _VARINT:
                value, place = self.varint(place, end)
            elif wire == _SPAN:
                length, value = self.varint(place, end)
                place = value + length
            elif wire in (_EIGHT, _FOUR):
                place += 8 if wire == _EIGHT else 4
            else:
                message = f"has a field of wire type {wire}"
                raise Corrupt(message)
            if not number or place > end:
                message = f"has a field that reaches to byte {place}, beyond {end}"
                raise Corrupt(message)
            yield _Field(number, wire, value, place)

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """Return a number and where the next field begins. Raises Corrupt."""
        value = shift = 0
        for place, byte in enumerate(self._window(start, min(_VARINT_BYTES_MAX, end - start)), start + 1):
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, place
            shift += 7
        raise Corrupt("has a number without an end")

    def text(self, field: _Field) -> str:
        """Return a field as text. Raises Corrupt."""
        if field.wire != _SPAN or field.end - field.value > _TEXT_BYTES_MAX:
            raise Corrupt("has a text that is none, or is too long")
        return self._window(field.value, field.end - field.value).decode(errors="replace")

    def counts(self, field: _Field) -> list[int]:
        """Return the numbers of a field that may be repeated, in one field or in many. Raises Corrupt."""
        if field.wire == _VARINT:
            return [field.value]
        if field.wire != _SPAN or field.end - field.value > _DIMENSIONS_BYTES_MAX:
            raise Corrupt("has a shape that is none")
        found, place = [], field.value
        while place < field.end:
            value, place = self.varint(place, field.end)
            found.append(value)
        return found


def look_into(size: int, read: Read) -> Layout:
    """Return where the tensors lie, in the file and beside it. Raises Corrupt."""
    walker = _Walker(Window(size, read, window_bytes=_WINDOW_BYTES, reads_max=_READS_MAX))
    inside: list[Tensor] = []
    external: list[tuple[str, Tensor]] = []
    graphs = [field for field in walker.fields(0, size) if field.number == _GRAPH and field.wire == _SPAN]
    if not graphs:
        raise Corrupt("has no graph")
    for graph in graphs:
        for field in walker.fields(graph.value, graph.end):
            if field.number == _INITIALIZER and field.wire == _SPAN:
                location, tensor = _initializer(walker, field)
                if tensor is not None and location is not None:
                    external.append((location, tensor))
                elif tensor is not None and tensor.end - tensor.start >= _CUT_BYTES_MIN:
                    inside.append(tensor)
    inside.sort(key=lambda tensor: tensor.start)
    return Layout("onnx", tuple(inside), inside[0].start if inside else 0, external=tuple(external))


def external_layouts(path: str, layout: Layout, sizes: Mapping[str, int]) -> dict[str, Layout]:
    """Return the layouts of the files beside a model; see ``understudy.artifacts.layouts``."""
    below = path.rpartition("/")[0]
    listed: dict[str, list[Tensor]] = {}
    for location, tensor in layout.external:
        beside = location.removeprefix("./")
        listed.setdefault(f"{below}/{beside}" if below else beside, []).append(tensor)
    found = {}
    for other, tensors in sorted(listed.items()):
        # Only what is a file of the version: its paths lead nowhere else, whatever the model names.
        if other in sizes and other != path and (placed := _placed(tensors, sizes[other])):
            found[other] = Layout("onnx", placed, placed[0].start)
    return found


def _placed(tensors: list[Tensor], size: int) -> tuple[Tensor, ...]:
    """Return tensors as they lie, each span once; none where two overlap, or one is beyond the file."""
    spans = {(tensor.start, tensor.end): tensor for tensor in reversed(tensors)}
    ordered = [spans[span] for span in sorted(spans)]
    end = 0
    for tensor in ordered:
        if tensor.start < end or tensor.end > size:
            return ()
        end = tensor.end
    return tuple(ordered)


def _initializer(walker: _Walker, message: _Field) -> tuple[str | None, Tensor | None]:
    """Return a tensor and the file that it lies in, None for this one; no tensor where its bytes are no plain run."""
    name, dtype, shape = "", "", list[int]()
    span: tuple[int, int] | None = None
    told: dict[str, str] = {}
    for field in walker.fields(message.value, message.end):
        if field.number == _NAME:
            name = walker.text(field)
        elif field.number == _DIMS:
            shape += walker.counts(field)
        elif field.number == _DATA_TYPE and field.wire == _VARINT:
            dtype = _TYPES.get(field.value, "")
        elif field.number in (_RAW, _FLOATS, _DOUBLES) and field.wire == _SPAN:
            span = field.value, field.end
        elif field.number == _EXTERNAL and field.wire == _SPAN:
            pair = {each.number: walker.text(each) for each in walker.fields(field.value, field.end)}
            told[pair.get(1, "")] = pair.get(2, "")
    if len(shape) * _VARINT_BYTES_MAX > _DIMENSIONS_BYTES_MAX or any(each > _LENGTH_MAX for each in shape):
        raise Corrupt("has a shape that is none")
    bits = math.prod(shape) * DTYPE_BITS.get(dtype, 0)
    if "location" in told:
        span = _external_span(told, bits)
    if span is None:
        return None, None
    fits = bits == (span[1] - span[0]) * 8 and dtype
    described = (dtype, tuple(shape)) if fits else ("", (span[1] - span[0],))
    return told.get("location"), Tensor(name, *described, *span)


def _external_span(told: dict[str, str], bits: int) -> tuple[int, int] | None:
    """Return where a tensor lies in its file: without a length it is as long as its values."""
    start, length = told.get("offset") or "0", told.get("length") or str((bits + 7) // 8)
    if not all(each.isascii() and each.isdigit() and len(each) < 20 for each in (start, length)) or length == "0":
        return None
    return int(start), int(start) + int(length)
