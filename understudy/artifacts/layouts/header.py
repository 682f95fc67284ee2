"""Ranges of a file read piece by piece, and never more than its format may need."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from understudy.errors import Corrupt

if TYPE_CHECKING:
    from understudy.artifacts.layouts import Read

_PIECE_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")


class Header:
    """Little-endian values one after another, from the beginning of a file.

    Attributes:
        place: where in the file the next value begins.
    """

    def __init__(self, size: int, read: Read, *, bytes_max: int) -> None:
        """Take a file of ``size`` bytes; beyond ``bytes_max`` nothing is read."""
        self._size, self._read, self._bytes_max = size, read, bytes_max
        self._held = bytearray()
        self.place = 0

    def bytes(self, count: int) -> bytes:
        """Return the next bytes. Raises Corrupt when they are beyond the file, or too far from its beginning."""
        start = self.skip(count)
        return bytes(memoryview(self._held)[start : start + count])

    def numbers(self, form: struct.Struct) -> tuple[int, ...]:
        """Return the next integers. Raises Corrupt."""
        return form.unpack_from(self._held, self.skip(form.size))

    def skip_texts(self, count: int) -> None:
        """Go past ``count`` texts, each with its length in 8 bytes before it. Raises Corrupt."""
        place, held, length_at = self.place, self._held, _LENGTH.unpack_from
        for _ in range(count):
            if place + _LENGTH.size > len(held):
                self._reach(place + _LENGTH.size)
            place += _LENGTH.size + length_at(held, place)[0]
        self._reach(place)
        self.place = place

    def skip(self, count: int) -> int:
        """Go past ``count`` bytes, which are held then, and return where they began. Raises Corrupt."""
        start, end = self.place, self.place + count
        self._reach(end)
        self.place = end
        return start

    def _reach(self, end: int) -> None:
        if end > self._size:
            message = f"has a header that goes on to byte {end}, and only {self._size} bytes in all"
            raise Corrupt(message)
        if end > self._bytes_max:
            message = f"has a header of more than the {self._bytes_max} bytes that are looked into"
            raise Corrupt(message)
        while len(self._held) < end:
            wanted = min(max(_PIECE_BYTES, end - len(self._held)), self._size - len(self._held))
            self._held += self._read(len(self._held), wanted)


class Window:
    """Reads small ranges that mostly lie near each other, by few requests."""

    def __init__(self, size: int, read: Read, *, window_bytes: int, reads_max: int) -> None:
        """Take a file of ``size`` bytes.

        Args:
            size: of the file.
            read: reads its ranges.
            window_bytes: read at once where less is asked for.
            reads_max: more requests are not made.
        """
        self._size, self._read, self._window_bytes, self._left = size, read, window_bytes, reads_max
        self._start, self._held = 0, b""

    def __call__(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises Corrupt beyond the file, and after too many reads."""
        if start < 0 or start + length > self._size:
            message = f"names bytes {start} to {start + length}, and has only {self._size}"
            raise Corrupt(message)
        at = start - self._start
        if at < 0 or at + length > len(self._held):
            if not self._left:
                raise Corrupt("is in too many pieces to be looked into")
            self._left -= 1
            self._held = self._read(start, min(max(length, self._window_bytes), self._size - start))
            self._start, at = start, 0
        return self._held[at : at + length]
