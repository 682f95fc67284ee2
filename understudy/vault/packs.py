"""Packs: many chunks' frames in one immutable object that describes itself, so that no index is needed to read it.

Layout: the frames, one after another; the trailer, one zstd frame of JSON that lists the chunks; the trailer's length
as 8 bytes little endian; the 8 bytes ``USPACK01``. The pack's name is the BLAKE3 of all of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import zstandard

from understudy.errors import Corrupt, Unsupported
from understudy.vault.chunks import ID_BYTES, RAW_BYTES_MAX, CodedChunk, Location, chunk_id
from understudy.vault.documents import parse_json

if TYPE_CHECKING:
    from understudy.objects.interface import ObjectInfo, ObjectStore

PACKS_PREFIX = "packs/"
MAGIC = b"USPACK01"
#: A pack is closed once it holds this much. Three in upload and one being filled fit the memory bound.
PACK_BYTES_TARGET = 32 << 20
#: No pack is longer; a reader refuses one that is.
PACK_BYTES_MAX = 64 << 20
#: No frame is longer: a reader holds several of them at once. A coder that does not shrink a chunk is not used.
FRAME_BYTES_MAX = RAW_BYTES_MAX + (64 << 10)
#: Many tiny chunks close a pack early: its list must stay within what its readers take.
PACK_CHUNKS_MAX = 100_000
_FOOTER = struct.Struct("<Q8s")
_TRAILER_BYTES_MAX = 16 << 20
_TRAILER_RAW_BYTES_MAX = 64 << 20
#: One ranged read of this length from the end fetches nearly every trailer whole.
_TAIL_BYTES = 64 << 10
_HEX = frozenset("0123456789abcdef")


def pack_key(name: str) -> str:
    """Return the vault key of the pack of that hex name."""
    return f"{PACKS_PREFIX}{name[:2]}/{name}"


def pack_name(key: str) -> str | None:
    """Return the hex name that a vault key stands for, None when it is no pack's key."""
    name = key.rpartition("/")[2]
    return name if is_hex_id(name) and key == pack_key(name) else None


def is_hex_id(text: object) -> bool:
    """Return whether this is a 32-byte digest in lower-case hex."""
    return isinstance(text, str) and len(text) == 2 * ID_BYTES and _HEX.issuperset(text)


@dataclass(frozen=True, slots=True)
class SealedPack:
    """A finished pack: its name, all its bytes, and where each chunk lies in them."""

    name: str
    data: bytes
    locations: tuple[Location, ...]


class PackBuilder:
    """Collects frames until there are enough for a pack. Not thread-safe: one thread fills, then any one seals."""

    def __init__(self) -> None:
        """Start an empty pack."""
        self._listed: list[dict[str, Any]] = []
        self._frames: list[bytes | memoryview] = []
        self.size = 0

    def __len__(self) -> int:
        """Return how many chunks it holds."""
        return len(self._listed)

    def add(self, chunk: CodedChunk) -> None:
        """Append one frame."""
        self._listed.append(
            {
                "id": chunk.id.hex(),
                "offset": self.size,
                "length": len(chunk.frame),
                "raw_length": chunk.raw_length,
                "coder": chunk.coder,
                "base": chunk.base.hex() if chunk.base else None,
            }
        )
        self._frames.append(chunk.frame)
        self.size += len(chunk.frame)

    def seal(self, *, again: int = 0, salt: str = "") -> SealedPack:
        """Return the finished pack; the frames are from then on held once, in it.

        Args:
            again: a number that goes into the trailer and so changes the name, for when a damaged object stands
                where this pack should be created.
            salt: goes into the trailer too: in an encrypted vault a random one, so that who sees the name alone cannot
                tell whether this is the pack of files that he has.
        """
        content: dict[str, Any] = {"format": 1, "chunks": self._listed}
        content |= ({"again": again} if again else {}) | ({"salt": salt} if salt else {})
        trailer = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(orjson.dumps(content))
        data = b"".join([*self._frames, trailer, _FOOTER.pack(len(trailer), MAGIC)])
        self._frames = [memoryview(data)[: self.size]]
        name = chunk_id(data).hex()
        locations = tuple(
            Location(
                bytes.fromhex(row["id"]),
                name,
                row["offset"],
                row["length"],
                row["raw_length"],
                row["coder"],
                bytes.fromhex(row["base"]) if row["base"] else None,
            )
            for row in self._listed
        )
        return SealedPack(name, data, locations)


def read_trailer(store: ObjectStore, info: ObjectInfo) -> tuple[Location, ...]:
    """Return what a pack says that it holds, by ranged reads of its end alone.

    Nothing in it is trusted beyond its shape: a chunk's id is proven when the chunk is decoded.

    Raises:
        Corrupt: the magic, a length or the list is wrong; the sentence names the pack.
        Unsupported: a later version wrote it.
    """
    name = pack_name(info.key)
    if name is None:
        message = f"{info.key} is not named as a pack"
        raise Corrupt(message)
    if not _FOOTER.size <= info.size <= PACK_BYTES_MAX:
        message = f"pack {name} has {info.size} bytes, which no pack has"
        raise Corrupt(message)
    tail_length = min(info.size, _TAIL_BYTES)
    tail = store.get_range(info.key, info.size - tail_length, tail_length)
    length, magic = _FOOTER.unpack_from(tail, len(tail) - _FOOTER.size)
    if magic != MAGIC:
        message = f"pack {name} does not end as a pack does"
        raise Corrupt(message)
    if length > min(info.size - _FOOTER.size, _TRAILER_BYTES_MAX):
        message = f"pack {name} declares a trailer of {length} bytes, which does not fit"
        raise Corrupt(message)
    start = info.size - _FOOTER.size - length
    if length + _FOOTER.size > len(tail):
        trailer = store.get_range(info.key, start, length)
    else:
        trailer = tail[len(tail) - _FOOTER.size - length : len(tail) - _FOOTER.size]
    return _parse_trailer(name, trailer, frames_end=start)


def _parse_trailer(name: str, trailer: bytes, *, frames_end: int) -> tuple[Location, ...]:
    try:
        declared = zstandard.get_frame_parameters(trailer).content_size
        if not 0 <= declared <= _TRAILER_RAW_BYTES_MAX:
            message = f"pack {name} declares a chunk list of {declared} bytes, which no pack has"
            raise Corrupt(message)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_TRAILER_RAW_BYTES_MAX)
        listed = parse_json(decompressor.decompress(trailer, max_output_size=declared, allow_extra_data=False))
    except (zstandard.ZstdError, ValueError) as error:
        message = f"the trailer of pack {name} cannot be decoded: {error}"
        raise Corrupt(message) from error
    if isinstance(listed, dict) and listed.get("format") != 1:
        message = f"pack {name} has format {str(listed.get('format'))[:20]}, this version of understudy reads 1"
        raise Unsupported(message, hint="upgrade understudy to the version that wrote it, or a later one")
    try:
        locations = tuple(_location(name, row) for row in listed["chunks"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"the trailer of pack {name} lists something that is not a chunk"
        raise Corrupt(message) from error
    end = 0
    for location in locations:
        if location.offset != end:
            message = f"the trailer of pack {name} lists chunks that do not follow one another"
            raise Corrupt(message)
        end += location.length
    if end != frames_end:
        message = f"the trailer of pack {name} lists {end} bytes of chunks, the pack holds {frames_end}"
        raise Corrupt(message)
    return locations


def _location(name: str, row: dict[str, Any]) -> Location:
    base = row["base"]
    location = Location(
        bytes.fromhex(row["id"]),
        name,
        row["offset"],
        row["length"],
        row["raw_length"],
        row["coder"],
        None if base is None else bytes.fromhex(base),
    )
    numbers = (location.offset, location.length, location.raw_length)
    if not all(type(number) is int and number >= 0 for number in numbers) or location.raw_length > RAW_BYTES_MAX:
        raise ValueError(numbers)
    if location.base is not None and len(location.base) != ID_BYTES:
        raise ValueError(row)
    if len(location.id) != ID_BYTES or not isinstance(location.coder, str):
        raise ValueError(row)
    if location.length > FRAME_BYTES_MAX:
        raise ValueError(location.length)
    return location
