"""What the index does not say any more: rows of sequences that others replace, and of the packs' own lists.

Whoever may create objects below ``index/`` can write a sequence that replaces all others and names other places. So
before anything is deleted a prune looks at these rows as well: a chunk that one of them has elsewhere is proven first.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.threads import ThreadPool
from understudy.vault.chunks import ID_BYTES
from understudy.vault.index import replaced_segments, segment_of
from understudy.vault.lanes import each
from understudy.vault.packs import read_trailer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from understudy.objects.interface import ObjectInfo
    from understudy.vault.chunks import Location
    from understudy.vault.index import ChunkIndex, Segment
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

_READERS = 8
_NAME = f"S{ID_BYTES}"


def unlisted(vault: Vault, index: ChunkIndex, *, there: Collection[str], packs: Sequence[ObjectInfo]) -> list[Segment]:
    """Return rows that lie in packs that are there and that the index has not, as segments.

    Args:
        vault: whose.
        index: as it was loaded.
        there: names of packs that exist.
        packs: those whose own lists are read, of one ranged read each.
    """
    found: list[Segment] = []
    for segment in (*replaced_segments(vault, index), *_listed_by(vault, packs)):
        exists = np.array([name in there for name in segment.packs], bool)
        rows = np.flatnonzero(exists[segment.pack_of]) if len(segment.packs) else np.empty(0, np.int64)
        for known in (*index.segments, *found):
            if not len(rows):
                break
            rows = rows[~_has(known, segment, rows)]
        if len(rows):
            found.append(segment.only(rows))
    return found


def _listed_by(vault: Vault, packs: Sequence[ObjectInfo]) -> Iterator[Segment]:
    if not packs:
        return
    with ThreadPool(_READERS, thread_name_prefix="lists") as pool:
        for rows in each(pool, (partial(_list_of, vault, info) for info in packs), ahead=2 * _READERS):
            if rows:
                yield segment_of(rows)


def _list_of(vault: Vault, info: ObjectInfo) -> tuple[Location, ...]:
    try:
        return read_trailer(vault.store, info)
    except (Corrupt, NotFound, Unsupported) as error:
        logger.warning("%s", error.message)
        return ()


def _has(known: Segment, segment: Segment, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of these rows of a segment another one has too, to the last field."""
    ids = np.ascontiguousarray(known.ids).view(_NAME).ravel()
    wanted = np.ascontiguousarray(segment.ids[rows]).view(_NAME).ravel()
    found = np.zeros(len(rows), bool)
    left = np.arange(len(rows))
    at = np.searchsorted(ids, wanted)
    while len(left):
        inside = at < len(ids)
        left, at = left[inside], at[inside]
        same = ids[at] == wanted[left]
        left, at = left[same], at[same]
        equal = _equal(known, at, segment, rows[left])
        found[left[equal]] = True
        left, at = left[~equal], at[~equal] + 1  # a chunk may lie in several packs
    return found


def _equal(one: Segment, rows: NDArray[np.int64], other: Segment, other_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    packs, coders = (_numbers(getattr(one, name), getattr(other, name)) for name in ("packs", "coders"))
    equal = packs[0][one.pack_of[rows]] == packs[1][other.pack_of[other_rows]]
    equal &= coders[0][one.coder_of[rows]] == coders[1][other.coder_of[other_rows]]
    for column in ("offsets", "lengths", "raw_lengths"):
        equal &= getattr(one, column)[rows] == getattr(other, column)[other_rows]
    if one.bases or other.bases:
        bases = zip(rows.tolist(), other_rows.tolist(), strict=True)
        equal &= np.fromiter((one.bases.get(a) == other.bases.get(b) for a, b in bases), bool, len(rows))
    found: NDArray[np.bool_] = equal
    return found


def _numbers(one: Sequence[str], other: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two lists of names as numbers that are equal where the names are."""
    known = {name: number for number, name in enumerate(dict.fromkeys((*one, *other)))}
    return np.array([known[name] for name in one], np.int64), np.array([known[name] for name in other], np.int64)
