"""The outer form that coded frames share: a header, a directory of streams, and then their bytes.

A stream is a row of parts; a part is plain, or one standard zstd frame. Parts are there because their statistics
differ: zstd makes a Huffman code for each 128 KiB, and a part begins a new one. ``docs/formats.md`` has the bytes.
"""

from __future__ import annotations

import struct
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import zstandard

from understudy.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.coding.transforms import Buffer

RAW, ZSTD = 0, 1
_COUNT = struct.Struct("<H")
_PART = struct.Struct("<BII")
#: Shorter parts are not worth a frame's own header.
_TRY_BYTES_MIN = 32
#: No part is longer, whatever a frame says: chunks are not.
_PART_BYTES_MAX = 64 << 20
_WINDOW_BYTES_MAX = 16 << 20
#: What is coded here has entropy and no repeats: a match finder that gives up at once, and Huffman codes.
_ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    chain_log=6,
    search_log=1,
    target_length=0,
    window_log=18,
    write_content_size=True,
    write_checksum=False,
    write_dict_id=False,
)
_DENSE = zstandard.ZstdCompressionParameters.from_level(9, write_content_size=True, write_dict_id=False)


class _Contexts(threading.local):
    """A zstd context must not be shared between threads, and making one costs more than a small part does."""

    def __init__(self) -> None:
        self.entropy = zstandard.ZstdCompressor(compression_params=_ENTROPY)
        self.dense = zstandard.ZstdCompressor(compression_params=_DENSE)
        self.reading = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)


_contexts = _Contexts()


def squeeze(data: Buffer, *, dense: bool = False) -> tuple[int, Buffer]:
    """Return (mode, bytes) of one part: the shortest of plain, zstd for entropy and, if dense, zstd for repeats."""
    length = memoryview(data).nbytes
    if length < _TRY_BYTES_MIN:
        return RAW, data
    coded = _contexts.entropy.compress(data)
    if dense:
        coded = min(coded, _contexts.dense.compress(data), key=len)
    return (ZSTD, coded) if len(coded) < length else (RAW, data)


class Writer:
    """Collects streams. One frame each; not for several threads."""

    def __init__(self, *, dense: bool = False) -> None:
        """Start with nothing.

        Args:
            dense: try harder on every part.
        """
        self._dense = dense
        self._directory: list[bytes] = []
        self._payloads: list[Buffer] = []

    def add(self, data: Buffer, cuts: Sequence[int] = (), *, plain: bool = False) -> None:
        """Append the next stream.

        Args:
            data: its bytes; not copied before ``finish`` where they stay plain.
            cuts: ascending places inside it where a new part begins.
            plain: known to be incompressible; do not try.
        """
        view = memoryview(data).cast("B")
        edges = [0, *cuts, view.nbytes] if view.nbytes else [0]
        self._directory.append(_COUNT.pack(len(edges) - 1))
        for start, end in pairwise(edges):
            part = view[start:end]
            mode, coded = (RAW, part) if plain else squeeze(part, dense=self._dense)
            self._directory.append(_PART.pack(mode, end - start, memoryview(coded).nbytes))
            self._payloads.append(coded)

    def finish(self, header: bytes) -> bytes:
        """Return the frame: the header, the directory, the parts."""
        return b"".join([header, *self._directory, *self._payloads])


class Reader:
    """Hands a frame's streams out in their order. Nothing that the frame says is allocated before it is checked."""

    def __init__(self, frame: Buffer, offset: int, streams: int) -> None:
        """Parse the directory.

        Args:
            frame: all of it.
            offset: where the directory begins.
            streams: how many there must be.

        Raises:
            Corrupt: the directory does not fit the frame.
        """
        self._view = memoryview(frame).cast("B")
        self._streams: list[list[tuple[int, int, int]]] = []
        size = self._view.nbytes
        for _ in range(streams):
            if offset + _COUNT.size > size:
                raise Corrupt("a coded frame ends in its directory")
            (count,) = _COUNT.unpack_from(self._view, offset)
            offset += _COUNT.size
            if offset + count * _PART.size > size:
                raise Corrupt("a coded frame ends in its directory")
            self._streams.append([_PART.unpack_from(self._view, offset + n * _PART.size) for n in range(count)])
            offset += count * _PART.size
        said = sum(coded for parts in self._streams for _, _, coded in parts)
        if offset + said != size:
            message = f"a coded frame of {size} bytes declares {offset + said}"
            raise Corrupt(message)
        self._offset = offset
        self._next = 0

    def length(self) -> int:
        """Return the plain length that the next stream declares; nothing is allocated for it."""
        return sum(plain for _, plain, _ in self._streams[self._next])

    def take(self, length: int) -> Buffer:
        """Return the next stream's plain bytes: part of the frame itself where they lie there plain and whole.

        Args:
            length: how many there must be.

        Raises:
            Corrupt: it declares or gives another number of bytes, or does not decode.
        """
        declared = self.length()
        if declared != length or length > _PART_BYTES_MAX:
            message = f"a stream of a coded frame declares {declared} bytes, {length} were expected"
            raise Corrupt(message)
        parts = self._streams[self._next]
        self._next += 1
        plain: list[Buffer] = []
        for mode, part_length, coded_length in parts:
            coded = self._view[self._offset : self._offset + coded_length]
            self._offset += coded_length
            plain.append(_expand(mode, coded, part_length))
        return plain[0] if len(plain) == 1 else b"".join(plain)


def _expand(mode: int, coded: memoryview, length: int) -> Buffer:
    if mode == RAW:
        if coded.nbytes != length:
            message = f"a plain part of {coded.nbytes} bytes declares {length}"
            raise Corrupt(message)
        return coded
    if mode != ZSTD:
        message = f"a part of a coded frame has the mode {mode}, which there is not"
        raise Corrupt(message)
    try:
        # The library allocates what the frame's own header declares: that must be checked before it does.
        declared = zstandard.get_frame_parameters(coded).content_size
        if declared != length:
            message = f"a part of a coded frame declares {declared} bytes, {length} were expected"
            raise Corrupt(message)
        data: bytes = _contexts.reading.decompress(coded, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        message = f"a part of a coded frame cannot be decoded: {error}"
        raise Corrupt(message) from error
    if len(data) != length:  # a skippable frame declares a length and gives nothing
        message = f"a part of a coded frame gives {len(data)} bytes, {length} were declared"
        raise Corrupt(message)
    return data
