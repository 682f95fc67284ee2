"""The coders a chunk can be stored with, by name. A reader that does not know a name says so; it never guesses."""

from __future__ import annotations

import threading
from typing import Protocol, TypeAlias

import zstandard

from understudy.errors import Corrupt, Unsupported
from understudy.vault.chunks import RAW_BYTES_MAX
from understudy.vault.documents import quoted

Buffer: TypeAlias = "bytes | bytearray | memoryview"

#: A frame that saves less than one part in this many is stored raw: decoding it would cost more than it saves.
_WORTH_ONE_PART_IN = 50
_LEVEL = 3


class Coder(Protocol):
    """One way to store a chunk. Both methods are called from many threads."""

    name: str

    def encode(self, raw: Buffer) -> bytes:
        """Return the frame of these plain bytes, decodable alone."""

    def decode(self, frame: Buffer, raw_length: int) -> bytes:
        """Return the plain bytes; never makes more than ``raw_length`` of them. Raises Corrupt."""


class _Raw:
    name = "raw"

    def encode(self, raw: Buffer) -> bytes:
        return bytes(raw)

    def decode(self, frame: Buffer, raw_length: int) -> bytes:
        data = bytes(frame)
        if len(data) != raw_length:
            message = f"a raw chunk has {len(data)} bytes, {raw_length} were declared"
            raise Corrupt(message)
        return data


class _Zstd:
    name = "zstd"

    def __init__(self) -> None:
        # A zstd context must not be shared between threads, and making one costs more than a small chunk does.
        self._local = threading.local()

    def encode(self, raw: Buffer) -> bytes:
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        return bytes(compressor.compress(raw))

    def decode(self, frame: Buffer, raw_length: int) -> bytes:
        decompressor = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor(max_window_size=RAW_BYTES_MAX)
        try:
            # The library allocates what the frame's own header declares: that must be checked before it does.
            declared = zstandard.get_frame_parameters(frame).content_size
            if declared != raw_length:
                said = "no size" if declared in (zstandard.CONTENTSIZE_UNKNOWN, -1) else f"{declared} bytes"
                message = f"a zstd frame declares {said}, {raw_length} bytes were expected"
                raise Corrupt(message)
            data: bytes = decompressor.decompress(frame, max_output_size=raw_length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            message = f"a zstd frame cannot be decoded: {error}"
            raise Corrupt(message) from error
        if len(data) != raw_length:  # a skippable frame declares a length and gives nothing
            message = f"a zstd frame gives {len(data)} bytes, {raw_length} were declared"
            raise Corrupt(message)
        return data


_CODERS: dict[str, Coder] = {coder.name: coder for coder in (_Raw(), _Zstd())}


def coder_named(name: str) -> Coder:
    """Return a coder. Raises Unsupported for a name that this version does not know."""
    try:
        return _CODERS[name]
    except KeyError:
        message = f"the vault holds a chunk coded with {quoted(name)}, which this version of understudy does not know"
        raise Unsupported(message, hint="upgrade understudy to the version that wrote it, or a later one") from None


def encode(raw: memoryview) -> tuple[str, bytes]:
    """Return (coder name, frame) of plain bytes: zstd, or raw where zstd saves less than about 2 %."""
    frame = _CODERS["zstd"].encode(raw)
    if len(frame) <= raw.nbytes - raw.nbytes // _WORTH_ONE_PART_IN and len(frame) < raw.nbytes:
        return "zstd", frame
    return "raw", bytes(raw)


def decode(name: str, frame: Buffer, raw_length: int) -> bytes:
    """Return exactly ``raw_length`` plain bytes of a frame.

    Raises:
        Unsupported: the coder is not known.
        Corrupt: the frame is damaged, or is not of the declared length; nothing longer is ever made.
    """
    if not 0 <= raw_length <= RAW_BYTES_MAX:
        message = f"a chunk declares {raw_length} bytes, the limit is {RAW_BYTES_MAX}"
        raise Corrupt(message)
    return coder_named(name).decode(frame, raw_length)
