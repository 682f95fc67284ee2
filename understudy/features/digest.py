"""The proof that two sets of cells are equal: BLAKE3 a partition over sorted deterministic CBOR, never a sum or XOR."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import cbor2
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from understudy.features.interface import Cell

#: Entities are spread over this many partitions, by the first byte of the MD5 of their UTF-8 (DuckDB has it too).
PARTITIONS = 256


def partition_of(entity: str) -> int:
    """Return the partition of an entity, 0 to 255."""
    return hashlib.md5(entity.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()[0]


def partition_digest(cells: Sequence[Cell]) -> str:
    """Return the hex BLAKE3 of cells, which must be sorted by (entity, feature), each key once.

    Hashed is the concatenation of ``[entity, feature, event_us, created_us, value]`` in deterministic CBOR
    (RFC 8949, 4.2); the value is JSON text, or null for a tombstone.
    """
    encoded = [
        cbor2.dumps([entity, feature, event, created, value], canonical=True)
        for entity, feature, value, event, created in cells
    ]
    return blake3(b"".join(encoded)).hexdigest()


def root_digest(digests: Mapping[int, str]) -> str:
    """Return the hex BLAKE3 over ``[partition, digest]`` of every partition that has cells, in order, in CBOR."""
    return blake3(cbor2.dumps([[number, digests[number]] for number in sorted(digests)], canonical=True)).hexdigest()


def chain_digest(before: str, cells: Iterable[Cell]) -> str:
    """Return the digest after a catch-up: BLAKE3 over the digest before and that of the cells it brought, in CBOR."""
    return blake3(cbor2.dumps([before, partition_digest(sorted(cells))], canonical=True)).hexdigest()
