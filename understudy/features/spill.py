"""Cells by partition, on disk once there are many: what keeps rebuild and verify in bounded memory."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import cbor2

from understudy.features.digest import PARTITIONS, partition_of
from understudy.features.interface import Cell, Key, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: Cells kept in memory before all are written out; about 400 bytes each.
CELLS_IN_MEMORY_MAX = 200_000


class Spill:
    """A bag of cells; ``partition`` gives back the newest of each key, one partition at a time."""

    def __init__(self, directory: Path, name: str, *, cells_in_memory_max: int = CELLS_IN_MEMORY_MAX) -> None:
        """Use files ``<name>-<partition>`` in a directory that the caller removes."""
        self._directory = directory
        self._name = name
        self._limit = cells_in_memory_max
        self._held: list[list[Cell]] = [[] for _ in range(PARTITIONS)]
        self._count = 0
        self._places: dict[str, int] = {}
        self.added = 0

    def add(self, cells: Iterable[Cell]) -> None:
        """Add cells in any order, from one thread."""
        places, held = self._places, self._held
        for cell in cells:
            place = places.get(cell.entity)
            if place is None:
                if len(places) > self._limit:
                    places.clear()
                place = places[cell.entity] = partition_of(cell.entity)
            held[place].append(cell)
            self._count += 1
            self.added += 1
            if self._count > self._limit:
                self._write_out()

    def _write_out(self) -> None:
        for number, cells in enumerate(self._held):
            if cells:
                with self._path(number).open("ab") as file:
                    cbor2.dump([list(cell) for cell in cells], file)
                cells.clear()
        self._count = 0

    def partition(self, number: int) -> list[Cell]:
        """Return the newest cell of each key in a partition, sorted by (entity, feature)."""
        newest: dict[Key, Cell] = {}
        for cell in self._all(number):
            key = (cell.entity, cell.feature)
            other = newest.get(key)
            if other is None or version_of(other) < version_of(cell):
                newest[key] = cell
        return [newest[key] for key in sorted(newest)]

    def partitions(self) -> Iterator[tuple[int, list[Cell]]]:
        """Yield every partition that has cells, in order, with its newest cells."""
        for number in range(PARTITIONS):
            if cells := self.partition(number):
                yield number, cells

    def _all(self, number: int) -> Iterator[Cell]:
        path = self._path(number)
        if path.exists():
            with path.open("rb") as file:
                buffered = io.BufferedReader(file)
                while buffered.peek(1):
                    for values in cbor2.load(buffered):
                        yield Cell(*values)
        yield from self._held[number]

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._name}-{number:03d}"
