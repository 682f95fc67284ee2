"""What a chunk is: plain bytes named by their BLAKE3, and where their coded frame lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Bytes of a BLAKE3 digest: chunk ids and pack names.
ID_BYTES = 32
#: No chunk is cut longer than this; tensors are cut into blocks of exactly this size.
BLOCK_BYTES = 4 << 20
#: A reader refuses a chunk that claims to be longer: room for later writers, none for a zip bomb.
RAW_BYTES_MAX = 16 << 20
#: A chunk, its base, its base's base: a reader follows no more. Writers stop long before.
CHAIN_MAX = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file: the id of its plain bytes, and how many they are."""

    id: bytes
    length: int


@dataclass(frozen=True, slots=True)
class CodedChunk:
    """A chunk ready to be packed: ``frame`` is what ``coder`` made of ``raw_length`` plain bytes, and of a base's."""

    id: bytes
    raw_length: int
    coder: str
    frame: bytes
    base: bytes | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk lies: bytes ``offset`` to ``offset + length`` of the pack of that (hex) name.

    ``base`` is the id of the chunk whose plain bytes its coder needs; None where the frame is decodable alone.
    """

    id: bytes
    pack: str
    offset: int
    length: int
    raw_length: int
    coder: str
    base: bytes | None = None


def chunk_id(data: Buffer) -> bytes:
    """Return the 32-byte id of plain bytes. Releases the GIL for long ones."""
    return blake3(data).digest()
