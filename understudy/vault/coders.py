"""The coders a chunk can be stored with, by name. A reader that does not know a name says so; it never guesses.

``planes`` and ``delta`` are for weights: see ``understudy.coding``. A delta needs the plain bytes of its base chunk.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import zstandard

from understudy.errors import Corrupt, Unsupported
from understudy.vault.chunks import RAW_BYTES_MAX
from understudy.vault.documents import quoted

Buffer: TypeAlias = "bytes | bytearray | memoryview"

#: How much CPU the coders of weights may spend for fewer bytes; ``raw`` spends none, for links faster than any coder.
Effort = Literal["raw", "fast", "dense"]

#: A frame that saves less than one part in this many is stored raw: decoding it would cost more than it saves.
_WORTH_ONE_PART_IN = 50
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Grain:
    """What the words of a chunk are.

    Attributes:
        dtype: as safetensors names it; empty for bytes of unknown meaning.
        columns: words in a row of the tensor, of which the chunk holds whole ones; 0 where that is not so.
    """

    dtype: str = ""
    columns: int = 0


PLAIN = Grain()


class Coder(Protocol):
    """One way to read a chunk back. Called from many threads."""

    name: str
    needs_base: bool

    def decode(self, frame: Buffer, raw_length: int, base: Buffer | None) -> bytes:
        """Return the plain bytes; never makes more than ``raw_length`` of them. Raises Corrupt."""


class _Raw:
    name = "raw"
    needs_base = False

    def decode(self, frame: Buffer, raw_length: int, base: Buffer | None = None) -> bytes:
        del base
        data = bytes(frame)
        if len(data) != raw_length:
            message = f"a raw chunk has {len(data)} bytes, {raw_length} were declared"
            raise Corrupt(message)
        return data


class _Zstd:
    name = "zstd"
    needs_base = False

    def __init__(self) -> None:
        # A zstd context must not be shared between threads, and making one costs more than a small chunk does.
        self._local = threading.local()

    def encode(self, raw: Buffer) -> bytes:
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        return bytes(compressor.compress(raw))

    def decode(self, frame: Buffer, raw_length: int, base: Buffer | None = None) -> bytes:
        del base
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


class _Planes:
    name = "planes"
    needs_base = False

    def decode(self, frame: Buffer, raw_length: int, base: Buffer | None = None) -> bytes:
        del base
        from understudy.coding import planes

        return planes.decode(frame, raw_length)


class _Delta:
    name = "delta"
    needs_base = True

    def decode(self, frame: Buffer, raw_length: int, base: Buffer | None) -> bytes:
        from understudy.coding import delta

        if base is None or len(base) != raw_length:
            message = f"a delta of {raw_length} bytes has a base of {0 if base is None else len(base)}"
            raise Corrupt(message)
        return delta.decode(frame, base, raw_length)


_ZSTD = _Zstd()
_CODERS: dict[str, Coder] = {coder.name: coder for coder in (_Raw(), _ZSTD, _Planes(), _Delta())}

#: Bytes of a word of what is coded by planes. Wider integers are counters and positions: zstd knows them better.
_WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1, "F4": 1, "F6_E2M3": 1, "F6_E3M2": 1, "I8": 1, "U8": 1,
}  # fmt: skip


def coder_named(name: str) -> Coder:
    """Return a coder. Raises Unsupported for a name that this version does not know."""
    try:
        return _CODERS[name]
    except KeyError:
        message = f"the vault holds a chunk coded with {quoted(name)}, which this version of understudy does not know"
        raise Unsupported(message, hint="upgrade understudy to the version that wrote it, or a later one") from None


def encode(raw: memoryview, grain: Grain = PLAIN, *, effort: Effort = "fast") -> tuple[str, bytes]:
    """Return (coder name, frame) of plain bytes, decodable alone: raw where coding saves less than about 2 %."""
    if grain.dtype in _WIDTHS:
        if effort == "raw":
            return "raw", bytes(raw)
        from understudy.coding import planes

        coded = planes.encode(raw, _WIDTHS[grain.dtype], dense=effort == "dense")
        return ("raw", bytes(raw)) if coded is None else ("planes", coded)
    frame = _ZSTD.encode(raw)
    if len(frame) <= raw.nbytes - raw.nbytes // _WORTH_ONE_PART_IN and len(frame) < raw.nbytes:
        return "zstd", frame
    return "raw", bytes(raw)


def encode_delta(raw: memoryview, base: Buffer, grain: Grain, *, effort: Effort = "fast") -> bytes | None:
    """Return the frame of the difference to a base of the same length; None where that is not worth its base."""
    if effort == "raw" or not grain.dtype or len(base) != raw.nbytes:
        return None
    from understudy.coding import delta

    return delta.encode(raw, base, grain.dtype, grain.columns, dense=effort == "dense")


def decode(name: str, frame: Buffer, raw_length: int, base: Buffer | None = None) -> bytes:
    """Return exactly ``raw_length`` plain bytes of a frame.

    Args:
        name: of the coder.
        frame: as it lies in the pack.
        raw_length: as the index says.
        base: the plain bytes of the chunk that the index names as its base, None where it names none.

    Raises:
        Unsupported: the coder is not known.
        Corrupt: the frame is damaged, or is not of the declared length, or the base is missing or one too many;
            nothing longer is ever made.
    """
    if not 0 <= raw_length <= RAW_BYTES_MAX:
        message = f"a chunk declares {raw_length} bytes, the limit is {RAW_BYTES_MAX}"
        raise Corrupt(message)
    coder = coder_named(name)
    if coder.needs_base != (base is not None):
        message = f"a {name} chunk lacks its base" if base is None else f"a {name} chunk needs no base"
        raise Corrupt(message)
    data = coder.decode(frame, raw_length, base)
    if len(data) != raw_length:
        message = f"a {name} frame gives {len(data)} bytes, {raw_length} were declared"
        raise Corrupt(message)
    return data
