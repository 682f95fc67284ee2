"""Where files are cut: at tensor boundaries where a file says where its tensors lie, else where its content says.

An unchanged tensor gives the same chunks wherever it stands, also after the header has moved every byte. What a file
says is read by ``understudy.artifacts.layouts``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from understudy.vault.chunks import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT_BYTES_MIN = 256 << 10
CONTENT_BYTES_AVERAGE = 1 << 20
#: Of tensors with longer rows the blocks do not hold whole ones: too few would fit.
ROW_BYTES_MAX = 1 << 20

#: Who says where the tensors lie. ``onnx`` also is the file beside an ONNX model that holds its weights.
LayoutKind = Literal["safetensors", "pytorch", "gguf", "onnx"]

#: A tensor as its header describes it: dtype and shape.
Described = tuple[str, tuple[int, ...]]

#: Bits of one value, by the names that safetensors gives to dtypes.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: as the file says.
        dtype: as safetensors names it; empty where it is none of those, such as GGUF's quantized blocks.
        shape: its dimensions, the last one is contiguous.
        start, end: where its bytes lie in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row where blocks hold whole rows, else 0."""
        rows = math.prod(self.shape[:-1])
        length = self.end - self.start
        if not self.shape or not rows or length % rows or length // rows > ROW_BYTES_MAX:
            return 0
        return length // rows

    @property
    def columns(self) -> int:
        """Words of one row where blocks hold whole rows of a known dtype, else 0."""
        return self.shape[-1] if self.dtype and self.row_bytes else 0


@dataclass(frozen=True)
class Layout:
    """How a file of tensors is laid out.

    Attributes:
        kind: which format says so.
        tensors: sorted by where they start; none overlaps the next, none is beyond the file.
        data_start: where the data begins: before it no tensor lies.
        hole: of safetensors the name of the first tensor before which bytes lie that belong to none; None without any.
            The format knows no such bytes and its library refuses them; cut they can be all the same.
        external: of ONNX the tensors in other files, as (path as the model gives it, tensor).
    """

    kind: LayoutKind
    tensors: tuple[Tensor, ...]
    data_start: int
    hole: str | None = None
    external: tuple[tuple[str, Tensor], ...] = ()

    @cached_property
    def described(self) -> dict[str, Described]:
        """Each tensor's dtype and shape by its name."""
        return {tensor.name: (tensor.dtype, tensor.shape) for tensor in self.tensors}


class Cut(NamedTuple):
    """One chunk of a file of tensors.

    Attributes:
        length: bytes.
        tensor: which of the layout's tensors it is a part of, -1 for bytes between them.
        offset: where in that tensor it begins; 0 between them.
    """

    length: int
    tensor: int
    offset: int


def cut_tensors(layout: Layout, size: int) -> Iterator[Cut]:
    """Yield the chunks of a file of ``size`` bytes, in order; their lengths add up to it.

    The header is cut from the data, and each tensor from its neighbours. A longer tensor is cut into blocks of at most
    4 MiB that hold whole rows, or of just 4 MiB where a row has more than 1 MiB; what lies between tensors as well.
    """
    end = 0
    edges = ((number, tensor.start, tensor.end) for number, tensor in enumerate(layout.tensors))
    for number, start, stop in chain([(-1, layout.data_start, layout.data_start)], edges, [(-1, size, size)]):
        for length in blocks(start - end):
            yield Cut(length, -1, 0)
        if stop > start:
            offset = 0
            for length in blocks(stop - start, layout.tensors[number].row_bytes):
                yield Cut(length, number, offset)
                offset += length
        end = stop


def blocks(length: int, row_bytes: int = 0) -> Iterator[int]:
    """Yield the lengths of the blocks of one span: of whole rows where ``row_bytes`` says how long one is."""
    block = BLOCK_BYTES // row_bytes * row_bytes if row_bytes else BLOCK_BYTES
    while length > 0:
        yield min(length, block)
        length -= block


class ContentCutter:
    """Cuts a stream where its content says (FastCDC, 1 MiB on average): an insertion moves only the cuts beside it."""

    def __init__(self) -> None:
        """Start at the beginning of a file."""
        # Imported here: a push that finds nothing to do must not pay for it.
        from pyfastcdc import FastCDC

        self._cutter = FastCDC(avg_size=CONTENT_BYTES_AVERAGE, min_size=CONTENT_BYTES_MIN, max_size=BLOCK_BYTES)
        self._rest = b""

    def feed(self, data: bytes, *, last: bool) -> list[memoryview]:
        """Return the chunks that are complete after these bytes; with ``last``, all that is left."""
        whole = memoryview(self._rest + data if self._rest else data)
        if not whole:
            return []
        cuts = [whole[piece.offset : piece.offset + piece.length] for piece in self._cutter.cut_buf(whole)]
        # The last cut is where the buffer ended, not where the content said.
        self._rest = b"" if last else bytes(cuts.pop())
        return cuts
