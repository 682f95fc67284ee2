"""Which chunks are needed, and what that makes of the packs: arrays over the rows of an index, one row a chunk's place.

Of a chunk that lies in several packs one place is its home: the one written last whose pack is whole and not condemned,
and whose base, if it has one, can be read itself. Only homes make a pack needed. Rows that the index does not list any
more, and packs of which a home could not be proven, come after all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from understudy.vault.chunks import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray

    from understudy.vault.chunks import Location
    from understudy.vault.index import ChunkIndex, Segment

_ID = f"S{ID_BYTES}"
_NO_BASE = -1
_UNKNOWN = -2


class Census:
    """The rows of an index, about 150 bytes each, and what follows from which packs are whole.

    Args:
        index: as it was loaded.
        whole: packs that are listed with the length that was recorded.
        condemned: packs that are marked; a chunk's home is in one of them only when it has no other place.
        unlisted: rows that the index does not have: a chunk's home only when no listed one is sound.
        suspects: packs that do not hold what is said of them: a home only where there is no other place at all.
    """

    def __init__(
        self,
        index: ChunkIndex,
        *,
        whole: Container[str],
        condemned: Container[str],
        unlisted: Sequence[Segment] = (),
        suspects: Container[str] = (),
    ) -> None:
        """Count; nothing is needed yet."""
        segments = [*index.segments, *unlisted]
        self.packs = sorted({name for segment in segments for name in segment.packs})
        number = {name: position for position, name in enumerate(self.packs)}
        self._segments = segments
        self._starts = np.cumsum([0, *(len(segment.keys) for segment in segments)])
        ids = np.concatenate([np.empty((0, ID_BYTES), np.uint8), *(segment.ids for segment in segments)])
        self._listed_rows = int(self._starts[len(index.segments)])
        self._ids, inverse = np.unique(_named(ids), return_inverse=True)
        self._id_of = inverse.astype(np.int64).ravel()
        del ids, inverse
        self._pack_of = np.concatenate(
            [np.empty(0, np.int64)]
            + [np.array([number[name] for name in segment.packs], np.int64)[segment.pack_of] for segment in segments]
        )
        self._lengths = np.concatenate([np.empty(0, np.uint32), *(segment.lengths for segment in segments)])
        self._base_of = np.full(len(self._id_of), _NO_BASE, np.int64)
        for start, segment in zip(self._starts[:-1], segments, strict=True):
            if segment.bases:
                rows = np.fromiter(segment.bases, np.int64, len(segment.bases)) + start
                self._base_of[rows] = self.positions(b"".join(segment.bases.values()))
        usable = np.array([name in whole for name in self.packs], bool)
        self._usable = usable[self._pack_of] if len(self.packs) else np.empty(0, bool)
        self._sound = self._grounded(self._usable)
        last = np.array([(name in condemned) + 4 * (name in suspects) for name in self.packs], np.int8)
        rank = last[self._pack_of] if len(self.packs) else np.empty(0, np.int8)
        rank[self._listed_rows :] += 2
        self._home = self._homes(rank)
        self.live = np.zeros(len(self._ids), bool)

    def positions(self, ids: bytes) -> NDArray[np.int64]:
        """Return the number of each of these ids (32 bytes each, one after another); -2 where no row has it."""
        wanted = np.frombuffer(ids, _ID)
        found = np.searchsorted(self._ids, wanted)
        if not len(self._ids):
            return np.full(len(wanted), _UNKNOWN, np.int64)
        found[found == len(self._ids)] = 0
        return np.where(self._ids[found] == wanted, found, _UNKNOWN).astype(np.int64)

    def homeless(self, chunks: NDArray[np.int64]) -> int:
        """Return how many of these chunks cannot be read from any pack."""
        known = chunks[chunks >= 0]
        return int(len(chunks) - len(known) + np.count_nonzero(self._home[known] < 0))

    def unlisted(self, chunks: NDArray[np.int64]) -> int:
        """Return how many of these chunks have their home where the index lists nothing."""
        known = chunks[chunks >= 0]
        return int(np.count_nonzero(self._home[known] >= self._listed_rows))

    def at_risk(self, gone: Container[str], *, forgotten: bool) -> NDArray[np.int64]:
        """Return the needed chunks that can be read elsewhere than at home now, and would not when these packs go.

        Of several places of a chunk its home stays; so before the others go, the home of these has to be proven.

        Args:
            gone: packs.
            forgotten: whether what is unlisted goes too, because the objects that list it are deleted.
        """
        going = np.array([name in gone for name in self.packs], bool)
        away = self._usable & (going[self._pack_of] if len(self.packs) else np.empty(0, bool))
        if forgotten:
            away[self._listed_rows :] |= self._usable[self._listed_rows :]
        touched = np.zeros(len(self._ids), bool)
        touched[self._id_of[away]] = True
        based = self._usable & (self._base_of >= 0)
        while True:  # what is decoded from a chunk of which a place goes may go with it
            leaning = based.copy()
            leaning[based] = touched[self._base_of[based]]
            fresh = leaning & ~touched[self._id_of]
            if not fresh.any():
                break
            touched[self._id_of[fresh]] = True
        rows = np.arange(len(self._id_of))
        risky = (away | leaning) & (self._home[self._id_of] != rows)
        chunks = np.unique(self._id_of[risky])
        found: NDArray[np.int64] = chunks[self.live[chunks]]
        return found

    def moved_bytes(self) -> dict[str, int]:
        """Return, by pack, the coded bytes of the homes of needed chunks that have a place in it beside their home."""
        homes = self._home[self._id_of]
        moved = self._usable & self.live[self._id_of] & (homes != np.arange(len(homes))) & (homes >= 0)
        weights = self._lengths[homes[moved]].astype(np.float64)
        sums = np.bincount(self._pack_of[moved], weights=weights, minlength=len(self.packs))
        return {self.packs[number]: int(sums[number]) for number in np.flatnonzero(sums)}

    def home(self, chunk: int) -> Location | None:
        """Return where one chunk is at home, by its number; None where nothing is sound."""
        row = int(self._home[chunk]) if chunk >= 0 else -1
        if row < 0:
            return None
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._segments[number].location(row - int(self._starts[number]))

    def homes(self, chunks: NDArray[np.int64]) -> list[Location]:
        """Return where these chunks are at home, in the order in which packs are read."""
        found = [place for chunk in chunks.tolist() if (place := self.home(chunk)) is not None]
        return sorted(found, key=lambda place: (place.pack, place.offset))

    def unlisted_homes(self) -> list[Location]:
        """Return the homes of needed chunks that the index does not list."""
        chunks = np.flatnonzero(self.live)
        return self.homes(chunks[self._home[chunks] >= self._listed_rows])

    def need(self, chunks: NDArray[np.int64]) -> None:
        """Count chunks that have a home as needed, and all that they are decoded from."""
        fresh = np.unique(chunks[chunks >= 0])
        fresh = fresh[self._home[fresh] >= 0]
        while len(fresh):
            self.live[fresh] = True
            bases = np.unique(self._base_of[self._home[fresh]])
            fresh = bases[bases >= 0]
            fresh = fresh[~self.live[fresh]]

    def bytes_alone(self, chunks: Sequence[NDArray[np.int64]]) -> int:
        """Return the coded bytes of what is among these chunks and not needed."""
        if not chunks:
            return 0
        found = np.unique(np.concatenate(chunks))
        found = found[found >= 0]
        homes = self._home[found[~self.live[found]]]
        return int(self._lengths[homes[homes >= 0]].sum(dtype=np.int64))

    def needed_bytes(self, *, each: int = 0) -> dict[str, int]:
        """Return, by pack, the coded bytes of needed chunks whose home it is; packs without any are left out.

        Args:
            each: added for every chunk, such as for its line in the pack's list.
        """
        homes = self._home[self.live]
        weights = self._lengths[homes].astype(np.float64) + each
        sums = np.bincount(self._pack_of[homes], weights=weights, minlength=len(self.packs))
        counts = np.bincount(self._pack_of[homes], minlength=len(self.packs))
        return {self.packs[number]: int(sums[number]) for number in np.flatnonzero(counts)}

    def homes_in(self, segment: int) -> NDArray[np.bool_]:
        """Return which rows of a segment (by its position in the index) are their chunk's home."""
        rows = np.arange(self._starts[segment], self._starts[segment + 1])
        found: NDArray[np.bool_] = self._home[self._id_of[rows]] == rows
        return found

    def homes_of(self, chunks: NDArray[np.bool_], segment: int) -> NDArray[np.bool_]:
        """Return which rows of a segment are the home of one of these chunks (a flag each, as ``live`` is)."""
        rows = self._id_of[self._starts[segment] : self._starts[segment + 1]]
        needed: NDArray[np.bool_] = chunks[rows] & self.homes_in(segment)
        return needed

    def lost_in(self, segment: int, gone: Container[str]) -> NDArray[np.bool_]:
        """Return which rows of a segment lie in packs that are gone, or stand on a base that nothing has any more.

        Call it on a census in which the packs that are gone are not whole.
        """
        rows = slice(self._starts[segment], self._starts[segment + 1])
        away = np.array([name in gone for name in self.packs], bool)[self._pack_of[rows]]
        lost: NDArray[np.bool_] = away | ((self._base_of[rows] != _NO_BASE) & ~self._sound[rows])
        return lost

    def _grounded(self, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which rows can be decoded: their pack is whole, and their base can be decoded, and so on."""
        sound: NDArray[np.bool_] = usable & (self._base_of == _NO_BASE)
        while True:
            standing = np.zeros(len(self._ids), bool)
            standing[self._id_of[sound]] = True
            more: NDArray[np.bool_] = usable & ~sound & (self._base_of >= 0)
            more[more] = standing[self._base_of[more]]
            if not more.any():
                return sound
            sound |= more

    def _homes(self, rank: NDArray[np.int8]) -> NDArray[np.int64]:
        """Return the row that is each chunk's home, -1 where none is sound. Newest rows and low ranks go first."""
        rows = np.flatnonzero(self._sound)
        order = np.lexsort((rows, rank[rows], self._id_of[rows]))
        rows = rows[order]
        chunks, first = np.unique(self._id_of[rows], return_index=True)
        home = np.full(len(self._ids), -1, np.int64)
        home[chunks] = rows[first]
        return home


def _named(ids: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    return np.ascontiguousarray(ids).view(_ID).ravel()
