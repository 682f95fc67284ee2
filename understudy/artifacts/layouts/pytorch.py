"""PyTorch's ``.pt``, ``.pth``, ``.bin``, ``.ckpt``: a ZIP of storages, stored plain, and a pickle that names them.

The pickle is never run (``pickled.py``). Where it cannot be followed, the storages are cut all the same, as bytes of
unknown meaning. https://github.com/pytorch/pytorch/blob/main/caffe2/serialize/inline_container.cc
"""

from __future__ import annotations

import math
import struct
import zipfile
from typing import IO, TYPE_CHECKING, cast

from understudy.artifacts.cut import DTYPE_BITS, Layout, Tensor
from understudy.artifacts.layouts.header import Window
from understudy.artifacts.layouts.pickled import Stored, stored_tensors
from understudy.errors import Corrupt
from understudy.vault.documents import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.artifacts.layouts import Read

#: The list of a ZIP's members: some 40,000 of PyTorch's.
_LIST_BYTES_MAX = 4 << 20
#: The pickle of some 20,000 tensors.
_PICKLE_BYTES_MAX = 4 << 20
_TAIL_BYTES = 256 << 10
_WINDOW_BYTES = 64 << 10
_READS_MAX = 2000
_ENCRYPTED = 1
_LOCAL = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"
#: PyTorch fills the header of a member up so that its data begins at a multiple of this.
_ALIGNED = 64
_FOUR_BYTES_MAX = 0xFFFFFFFF
#: Members of which the header is read to see whether they all lie where PyTorch puts them: a request each is too many.
_PROBED = 4
#: What a pickle that lies makes the machine stumble over.
_STUMBLES = (Corrupt, ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error)


def look_into(size: int, read: Read) -> Layout:
    """Return where the storages lie. Raises Corrupt, and what a list of members that lies makes Python raise."""
    try:
        listed = zipfile.ZipFile(cast("IO[bytes]", _Ranged(size, read))).infolist()
    except zipfile.BadZipFile as error:
        raise Corrupt("is a ZIP without a list of its members") from error
    plain = {each.filename: each for each in listed if _is_plain(each)}
    folder = next((name for name in plain if name.rpartition("/")[2] == "data.pkl"), "data.pkl").removesuffix(
        "data.pkl"
    )
    data = f"{folder}data/"
    storages = [each for each in plain.values() if each.filename.startswith(data) and each.file_size]
    window = Window(size, read, window_bytes=_WINDOW_BYTES, reads_max=_READS_MAX)
    starts = _starts(sorted(storages, key=lambda each: each.header_offset), window)
    described = _described(plain, folder, window) if storages else {}
    tensors = [
        _storage(key, described.get(key, _UNKNOWN), start, start + info.file_size)
        for info, start in starts
        for key in [info.filename.removeprefix(data)]
    ]
    end = 0
    for tensor in tensors:
        if tensor.start < end or tensor.end > size:
            message = f"has storages that overlap, or that reach beyond its end, at {quoted(tensor.name)}"
            raise Corrupt(message)
        end = tensor.end
    return Layout("pytorch", tuple(tensors), tensors[0].start if tensors else 0)


_UNKNOWN = Stored("", "", ())


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Return whether a member's bytes stand in the file as they are."""
    stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
    return stored and not member.flag_bits & _ENCRYPTED


def _storage(key: str, told: Stored, start: int, end: int) -> Tensor:
    """Return a storage as the tensor that fills it; where none does, as one of a single dimension."""
    bits = DTYPE_BITS.get(told.dtype, 0)
    words, rest = divmod((end - start) * 8, bits or 8)
    dtype = told.dtype if bits and not rest else ""
    shape = told.shape if dtype and math.prod(told.shape) == words else (words if dtype else end - start,)
    return Tensor(told.name or f"data/{key}", dtype, shape, start, end)


def _described(plain: dict[str, zipfile.ZipInfo], folder: str, window: Window) -> dict[str, Stored]:
    """Return what the pickle says of the storages, by key; nothing where it cannot be followed."""
    try:
        if (order := plain.get(f"{folder}byteorder")) and _member(order, window) != b"little":
            return {}
        pickle = plain.get(f"{folder}data.pkl")
        return stored_tensors(_member(pickle, window)) if pickle else {}
    except _STUMBLES:
        return {}


def _member(member: zipfile.ZipInfo, window: Window) -> bytes:
    if member.file_size > _PICKLE_BYTES_MAX:
        message = f"has {quoted(member.filename)} of {member.file_size} bytes"
        raise Corrupt(message)
    return window(_data_start(member, window), member.file_size)


def _starts(members: Sequence[zipfile.ZipInfo], window: Window) -> list[tuple[zipfile.ZipInfo, int]]:
    """Return where the data of each member begins, which the list does not say, from as few headers as will do."""
    step = max(1, (len(members) - 1) // (_PROBED - 1))
    if all(_data_start(member, window) == _aligned_start(member) for member in members[::step]):
        return [(member, _aligned_start(member)) for member in members]
    return [(member, _data_start(member, window)) for member in members]


def _data_start(member: zipfile.ZipInfo, window: Window) -> int:
    """Return where a member's data begins, by its own header. Raises Corrupt."""
    magic, name_length, extra_length = _LOCAL.unpack(window(member.header_offset, _LOCAL.size))
    if magic != _LOCAL_MAGIC:
        message = f"lists {quoted(member.filename)} where it is not"
        raise Corrupt(message)
    return member.header_offset + _LOCAL.size + int(name_length) + int(extra_length)


def _aligned_start(member: zipfile.ZipInfo) -> int:
    """Return where PyTorch lets a member's data begin: behind a filler that the header carries."""
    start = member.header_offset + _LOCAL.size + len(member.orig_filename.encode()) + 4
    long, far = member.file_size >= _FOUR_BYTES_MAX, member.header_offset >= _FOUR_BYTES_MAX
    if long or far:
        start += 4 + 16 * long + 8 * far
    return start + -start % _ALIGNED


class _Ranged:
    """What ``zipfile`` reads a list of members from: the end of the file in one request, all else by ranges."""

    def __init__(self, size: int, read: Read) -> None:
        self._size, self._read, self._place = size, read, 0
        self._tail_start = max(0, size - _TAIL_BYTES)
        self._tail = read(self._tail_start, size - self._tail_start)

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place. Raises OSError before the first byte."""
        place = offset + (0, self._place, self._size)[whence]
        if place < 0:
            message = "before the first byte"
            raise OSError(message)
        self._place = place
        return place

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, fewer at the end. Raises Corrupt for more than any list of members has."""
        start = min(self._place, self._size)
        end = self._size if count < 0 else min(self._size, start + count)
        if end - start > _LIST_BYTES_MAX:
            message = f"declares a list of members of {end - start} bytes"
            raise Corrupt(message)
        self._place = end
        if start >= self._tail_start:
            return self._tail[start - self._tail_start : end - self._tail_start]
        return self._read(start, end - start)
