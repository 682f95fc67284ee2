"""Features as an inference instance reads and writes them: the live generation, also while a rebuild swaps it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from understudy.errors import NotFound, NotReady, Unreachable, Unsupported
from understudy.features.interface import Cell, Pointer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from understudy.features.interface import OnlineStore

_SWAPS_MAX = 5


class LiveFeatures:
    """The live generation of an online store. Safe to use from many threads."""

    def __init__(self, store: OnlineStore, *, pointer_seconds_max: float = 1.0) -> None:
        """Read the pointer at most so often for reads: the generation before the live one is kept, and still serves."""
        self.store = store
        self._pointer_seconds_max = pointer_seconds_max
        self._pointer: Pointer | None = None
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def read(self, entity: str, names: Sequence[str] | None = None) -> dict[str, str]:
        """Return an entity's features, name to JSON text; those that it does not have are left out.

        Args:
            entity: whose.
            names: only these, strongly consistent, by key: the quicker way when the model's features are known.

        Raises:
            NotReady: nothing is live yet.
        """
        for _ in range(_SWAPS_MAX):
            generation = self._generation(fresh=False)
            try:
                if names is None:
                    cells = self.store.read(generation, entity)
                else:
                    found = self.store.read_keys(generation, [(entity, name) for name in names])
                    cells = {cell.feature: cell for cell in found.values()}
            except NotFound:
                self._generation(fresh=True)
                continue
            return {name: cell.value for name, cell in cells.items() if cell.value is not None}
        raise self._swapping()

    def write(self, cells: Sequence[Cell]) -> int:
        """Write cells where they are newer and return how many were; on return the live generation has them.

        The pointer is read again after the write: when a rebuild swapped meanwhile, the write is repeated there. A
        write that found its generation still live is seen by the carry-over that every rebuild makes after its swap.

        Raises:
            NotReady: nothing is live yet.
        """
        for cell in cells:
            if not cell.entity or not cell.feature:
                message = "a feature needs an entity and a name"
                raise Unsupported(message, hint="write both")
        written = 0
        generation = self._generation(fresh=False)
        for _ in range(_SWAPS_MAX):
            try:
                written = max(written, self.store.write_newer(generation, cells))
            except NotFound:
                generation = self._generation(fresh=True)
                continue
            live = self._generation(fresh=True)
            if live == generation:
                return written
            generation = live
        raise self._swapping()

    def _generation(self, *, fresh: bool) -> int:
        with self._lock:
            pointer = self._pointer
            old = time.monotonic() - self._read_at > self._pointer_seconds_max
        if fresh or old or pointer is None:
            read_at = time.monotonic()
            pointer = self.store.pointer()
            if pointer is None:
                message = f"the feature store {self.store.name} holds nothing yet"
                raise NotReady(message, hint="rebuild it", next_command="understudy features rebuild")
            with self._lock:
                if self._pointer is None or pointer.revision >= self._pointer.revision:
                    self._pointer, self._read_at = pointer, read_at
        return pointer.generation

    def _swapping(self) -> Unreachable:
        message = f"the live table of {self.store.name} changed {_SWAPS_MAX} times meanwhile"
        return Unreachable(message, hint="try again")


def begin(store: OnlineStore, cells: Iterable[Cell] = ()) -> Pointer:
    """Make the first generation of a store that never had one, hold these cells in it, and return what is live.

    A store that has a live generation is left alone. The first rebuild from a vault replaces it by a proven one.
    """
    pointer = store.pointer()
    if pointer is not None:
        return pointer
    generation = max(store.generations(), default=0) + 1
    store.create_generation(generation)
    count = store.fill(generation, cells)
    first = Pointer(revision=1, generation=generation, sequence=0, cells=count)
    store.move_pointer(first, expected=None)
    return first
