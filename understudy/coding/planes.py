"""``planes``: the bytes of words apart, those of the exponents coded, those that are noise left as they are.

The words of weights turn left by one bit first, so that the sign goes to the lowest byte and the exponent of a bfloat16
or float32 fills the highest one alone. That byte takes some dozen values: two fit into one byte, whose Huffman code
comes within 2 % of what two exponents carry, in half the time. ``docs/formats.md`` has the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from understudy.coding.native import way
from understudy.coding.streams import Reader, Writer
from understudy.errors import Corrupt

if TYPE_CHECKING:
    from understudy.coding.transforms import Buffer, Bytes

FORMAT = 1
WIDTHS = (1, 2, 4, 8)
#: A frame that saves less than one part in this many is not made.
_WORTH_ONE_PART_IN = 50
_WHOLE, _PAIRS = 0, 1
_HEADER_BYTES = 3
_SAMPLE_BYTES = 8192
#: Bits of a byte from which on coding a plane is not worth its time.
_NOISE_BITS = 7.9
#: The part of a plane that may lie outside the 15 values of a pair; each of those costs a byte.
_FAR_PART_MAX = 1 / 64


def encode(raw: Buffer, width: int, *, dense: bool = False) -> bytes | None:
    """Return the frame of a block of words, decodable alone.

    Args:
        raw: contiguous bytes; what is left behind the last whole word is kept as it is.
        width: bytes of a word: 1, 2, 4 or 8. Wider ones are taken for floats, as is what has no sign.
        dense: more CPU for fewer bytes.

    Returns:
        None where it would save less than 2 %.

    Raises:
        ValueError: no such width.
    """
    if width not in WIDTHS:
        message = f"words of {width} bytes"
        raise ValueError(message)
    view = memoryview(raw).cast("B")
    whole = view.nbytes - view.nbytes % width
    if not whole:
        return None
    planes = way.split(view[:whole], width)
    plans = [_plan(plane) for plane in planes]
    if not dense and all(kind == _WHOLE and noise for kind, _, noise in plans):
        return None
    header = bytes([FORMAT, width, view.nbytes - whole])
    writer = Writer(dense=dense)
    for plane, (kind, top, noise) in zip(planes, plans, strict=True):
        header += bytes([kind, top])
        if kind == _PAIRS:
            pairs, far = way.pair(plane, top)
            writer.add(pairs.data)
            writer.add(far.data)
        else:
            writer.add(plane.data, plain=noise and not dense)
    writer.add(view[whole:], plain=True)
    frame = writer.finish(header)
    return frame if len(frame) <= view.nbytes - view.nbytes // _WORTH_ONE_PART_IN else None


def decode(frame: Buffer, raw_length: int) -> bytes:
    """Return the plain bytes of a frame.

    Args:
        frame: as ``encode`` made it.
        raw_length: how many bytes there must be; nothing longer is ever made.

    Raises:
        Corrupt: the frame is damaged, or of another length.
    """
    view = memoryview(frame).cast("B")
    if view.nbytes < _HEADER_BYTES or view[0] != FORMAT:
        raise Corrupt("a frame of planes does not begin as one does")
    width, tail = view[1], view[2]
    if width not in WIDTHS or tail >= width or tail > raw_length or (raw_length - tail) % width:
        message = f"a frame of planes of {width}-byte words and {tail} bytes does not make {raw_length} bytes"
        raise Corrupt(message)
    directory = _HEADER_BYTES + 2 * width
    kinds = bytes(view[_HEADER_BYTES:directory])
    if len(kinds) != 2 * width or any(kind not in {_WHOLE, _PAIRS} for kind in kinds[::2]):
        raise Corrupt("a frame of planes has a plane of a kind that there is not")
    length = (raw_length - tail) // width
    reader = Reader(view, directory, 1 + sum(1 + (kind == _PAIRS) for kind in kinds[::2]))
    planes: list[Bytes] = []
    highest: tuple[Bytes, Bytes, int] | None = None
    try:
        for kind, top in zip(kinds[::2], kinds[1::2], strict=True):
            if kind == _WHOLE:
                planes.append(np.frombuffer(reader.take(length), np.uint8))
                continue
            pairs = np.frombuffer(reader.take((length + 1) // 2), np.uint8)
            if reader.length() > length:
                raise Corrupt("a plane has more far bytes than bytes")
            far = np.frombuffer(reader.take(reader.length()), np.uint8)
            if planes or highest or width == 1:
                planes.append(way.unpair(pairs, far, top, length))
            else:
                highest = pairs, far, top  # nearly always the one that is in pairs: it is joined as it is taken apart
        joined = way.join_pairs(*highest, planes, width) if highest else way.join(planes, width)
    except ValueError as error:
        message = f"a plane does not fit its far bytes: {error}"
        raise Corrupt(message) from error
    rest = reader.take(tail)
    return joined + rest if rest else joined


def _plan(plane: Bytes) -> tuple[int, int, bool]:
    """Return (kind, top, whether it is noise) of a plane, from a sample of it."""
    # Short runs from all over: whole rows and columns are seen, and nothing is read twice.
    step = max(1, plane.size // _SAMPLE_BYTES)
    counts = np.bincount(plane[::step], minlength=256)
    part = counts[counts > 0] / counts.sum()
    if -float((part * np.log2(part)).sum()) > _NOISE_BITS:
        return _WHOLE, 0, True
    around = np.concatenate([counts[-14:], counts])
    near = np.convolve(around, np.ones(15, counts.dtype), "valid")  # near[t]: of the values t - 14 to t
    top = int(near.argmax())
    if counts.sum() - near[top] > counts.sum() * _FAR_PART_MAX:
        return _WHOLE, 0, False
    return _PAIRS, top, False
