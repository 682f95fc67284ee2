"""The online store in memory: the executable description of the interface, and the quick double of tests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from understudy.errors import Conflict, NotFound
from understudy.features.interface import Cell, Key, Pointer, version_of
from understudy.report import Progress, quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class MemoryFeatures:
    """Tables are dicts; one lock makes every method atomic."""

    vendor = "memory"

    ABILITIES: ClassVar[dict[str, str]] = {
        "newest wins": "under a lock",
        "pointer": "under a lock",
        "bulk": "at once",
        "limits": "none",
    }

    def __init__(self, name: str = "features") -> None:
        """Begin empty, without a pointer."""
        self.name = name
        self._tables: dict[int, dict[Key, Cell]] = {}
        self._pointer: str | None = None
        self._lock = threading.Lock()

    def generations(self) -> list[int]:
        """Return the numbers of all data tables."""
        with self._lock:
            return sorted(self._tables)

    def create_generation(self, generation: int) -> None:
        """Make an empty data table."""
        with self._lock:
            if generation in self._tables:
                message = f"{self.name} has a generation {generation} already"
                raise Conflict(message, hint="another rebuild runs; let it finish")
            self._tables[generation] = {}

    def drop_generation(self, generation: int) -> None:
        """Remove a data table."""
        with self._lock:
            self._tables.pop(generation, None)

    def fill(self, generation: int, cells: Iterable[Cell], *, progress: Progress = quiet) -> int:
        """Write cells unconditionally."""
        written = 0
        for cell in cells:
            with self._lock:
                self._table(generation)[cell.key] = cell
            written += 1
        progress(self.name, written, None, "cells")
        return written

    def write_newer(self, generation: int, cells: Sequence[Cell]) -> int:
        """Write what is newer."""
        written = 0
        with self._lock:
            table = self._table(generation)
            for cell in cells:
                held = table.get(cell.key)
                if held is None or version_of(held) < version_of(cell):
                    table[cell.key] = cell
                    written += 1
        return written

    def scan(self, generation: int) -> Iterator[Cell]:
        """Yield every cell of a moment."""
        with self._lock:
            cells = list(self._table(generation).values())
        yield from cells

    def read(self, generation: int, entity: str) -> dict[str, Cell]:
        """Return an entity's cells."""
        with self._lock:
            return {cell.feature: cell for cell in self._table(generation).values() if cell.entity == entity}

    def read_keys(self, generation: int, keys: Sequence[Key]) -> dict[Key, Cell]:
        """Return the cells of these keys."""
        with self._lock:
            table = self._table(generation)
            return {key: table[key] for key in keys if key in table}

    def pointer(self) -> Pointer | None:
        """Return what is live."""
        with self._lock:
            return Pointer.from_text(self._pointer) if self._pointer else None

    def move_pointer(self, pointer: Pointer, *, expected: Pointer | None) -> None:
        """Compare-and-set."""
        with self._lock:
            if self._pointer == pointer.to_text():
                return
            if self._pointer != (expected.to_text() if expected else None):
                message = f"the pointer of {self.name} was moved by another run"
                raise Conflict(message, hint="run again: it starts from what is live now")
            self._pointer = pointer.to_text()

    def _table(self, generation: int) -> dict[Key, Cell]:
        try:
            return self._tables[generation]
        except KeyError:
            message = f"{self.name} has no generation {generation}"
            raise NotFound(message, hint="rebuild the features") from None
