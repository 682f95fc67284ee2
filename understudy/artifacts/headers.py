"""Where the tensors lie of files that the vault has: read from the few chunks that say so."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias

from understudy.artifacts.cut import blocks
from understudy.artifacts.layouts import external_layouts, look_into
from understudy.artifacts.layouts.safetensors import HEADER_CHECKED_MAX, LENGTH_BYTES
from understudy.artifacts.vault_file import VaultFile
from understudy.errors import Permanent
from understudy.vault.chunks import chunk_id
from understudy.vault.reading import ChunkReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.artifacts.cut import Described, Layout, Tensor
    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest
    from understudy.vault.writing import ChunkWriter

logger = logging.getLogger("understudy.artifacts")

#: Files whose layouts are remembered: those of the newest version or two of a model.
_REMEMBERED_MAX = 2000

#: A tensor of a version: the path of its file, and its name there.
Named: TypeAlias = tuple[str, str]
#: The parts of its name, from the last to the first, and it.
_Parted: TypeAlias = tuple[list[str], Named]


class Headers:
    """Reads layouts of files in the vault, and remembers them, and those of files that this run has sent."""

    def __init__(self, source: ChunkWriter) -> None:
        """Take the run's writer, which has the vault and its index; nothing is read yet."""
        self._source = source
        self._known: dict[tuple[str, ...], Layout] = {}
        self._lock = threading.Lock()

    def remember(self, layout: Layout, whole: bytes) -> None:
        """Keep what a safetensors file's header says until it is asked for; the file may not be in the index yet.

        Args:
            layout: of the file.
            whole: its first ``layout.data_start`` bytes, which say all of it.
        """
        view, found, start = memoryview(whole), [], 0
        for length in blocks(layout.data_start):
            found.append(chunk_id(view[start : start + length]).hex())
            start += length
        self._keep(tuple(found), layout)

    def remember_file(self, file: ArtifactFile, layout: Layout) -> None:
        """Keep the layout of a file of any kind that this run has sent; see ``remember``."""
        self._keep((file.sha256,), layout)

    def of(self, file: ArtifactFile, what: str) -> Mapping[str, Described] | None:
        """Return the tensors of a file in the vault, None (and a warning) when they cannot be read."""
        layout = self.layout_of(file, what)
        return None if layout is None else layout.described

    def layout_of(self, file: ArtifactFile, what: str) -> Layout | None:
        """Return where the tensors of a file in the vault lie.

        None for a file that was not cut at tensors, for one beside an ONNX model (``layouts_of`` has those too), and,
        with a warning, when its chunks cannot be read.
        """
        if not is_cut_at_tensors(file):
            return None
        if (known := self._remembered(file)) is not None:
            return known
        try:
            with ChunkReader(self._source.vault, self._source.index) as reader:
                layout = look_into(file.path, file.size, VaultFile(reader, file, what).read)
        except Permanent as error:
            logger.warning("%s is not compared with its child: %s", what, error)
            return None
        if layout is not None:
            self.remember_file(file, layout)
        return layout

    def layouts_of(self, manifest: ArtifactManifest) -> dict[str, Layout]:
        """Return the layouts of all files of a version that were cut at tensors, by path."""
        found: dict[str, Layout] = {}
        sizes = {file.path: file.size for file in manifest.files}
        for file in manifest.files:
            layout = self.layout_of(file, f"{manifest.model}/{manifest.version}/{file.path}")
            if layout is not None:
                found[file.path] = layout
                for path, other in external_layouts(file.path, layout, sizes).items():
                    found.setdefault(path, other)
        return found

    def _keep(self, key: tuple[str, ...], layout: Layout) -> None:
        with self._lock:
            self._known[key] = layout
            if len(self._known) > _REMEMBERED_MAX:
                del self._known[next(iter(self._known))]

    def _remembered(self, file: ArtifactFile) -> Layout | None:
        if (known := self._known.get((file.sha256,))) is not None or file.kind != "safetensors":
            return known
        for count in range(1, min(len(file.chunks), header_blocks_max()) + 1):
            if (known := self._known.get(tuple(name for name, _ in file.chunks[:count]))) is not None:
                return known
        return None


def header_blocks_max() -> int:
    """Return into how many chunks the longest safetensors header that is looked into can be cut."""
    return sum(1 for _ in blocks(HEADER_CHECKED_MAX + LENGTH_BYTES))


def is_cut_at_tensors(file: ArtifactFile) -> bool:
    """Return whether a file in the vault is cut where its tensors begin."""
    return file.kind == "safetensors" or bool(file.layout)


def tensor_chunks(layout: Layout, file: ArtifactFile) -> dict[str, list[tuple[int, str, int]]]:
    """Return the chunks of each tensor as (offset in the tensor, id in hex, length), in order. Pure.

    A chunk that is not within one tensor is left out, as it is where a file was cut by other rules than today's. Of two
    tensors of one name the first counts.
    """
    found: dict[str, list[tuple[int, str, int]]] = {}
    chunks = iter(file.chunks)
    name, start, length = "", 0, 0
    for tensor in layout.tensors:
        rows: list[tuple[int, str, int]] = []
        while start < tensor.end:
            if start >= tensor.start and length and start + length <= tensor.end:
                rows.append((start - tensor.start, name, length))
            elif start + length > tensor.end:
                break
            start += length
            if (following := next(chunks, None)) is None:
                break
            name, length = following
        found.setdefault(tensor.name, rows)
    return found


def match_tensors(new: Mapping[str, Layout], old: Mapping[str, Layout]) -> dict[Named, Named]:
    """Return which tensor of an old version each tensor of a new one most likely comes from. Pure.

    First the tensor of the same name, in the file of the same path if it is there, else in any: re-sharding moves
    tensors between files. It must have the same dtype and rows of the same length; more or fewer rows are a
    vocabulary that has grown. For what is left: of the old tensors that no new one has the name of, one of the same
    dtype and shape whose name ends alike, in as many parts between dots as possible and at least the last one.

    Args:
        new: the files of the new version, by path.
        old: the files of the old version, by path.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for path, layout in old.items():
        for tensor in layout.tensors:
            by_name.setdefault(tensor.name, {}).setdefault(path, tensor)
    gone = _gone(by_name, {tensor.name for layout in new.values() for tensor in layout.tensors})
    found: dict[Named, Named] = {}
    for path, layout in new.items():
        for tensor in layout.tensors:
            places = by_name.get(tensor.name, {})
            ordered = [path, *places] if path in places else places
            same = next((other for other in ordered if _are_alike(tensor, places[other])), None)
            if same is not None:
                found.setdefault((path, tensor.name), (same, tensor.name))
            elif (alike := _ending_alike(tensor.name, gone.get((tensor.dtype, tensor.shape), []))) is not None:
                found.setdefault((path, tensor.name), alike)
    return found


def _gone(by_name: Mapping[str, Mapping[str, Tensor]], names: set[str]) -> dict[Described, list[_Parted]]:
    """Return the old tensors whose names are gone, by dtype and shape, sorted by the parts of their names."""
    found: dict[Described, list[_Parted]] = {}
    for name, places in by_name.items():
        if name not in names:
            for path, tensor in places.items():
                found.setdefault((tensor.dtype, tensor.shape), []).append((_parts(name), (path, name)))
    for listed in found.values():
        listed.sort()
    return found


def _parts(name: str) -> list[str]:
    """Return the parts of a name from the last to the first."""
    return name.split(".")[::-1]


def _are_alike(new: Tensor, old: Tensor) -> bool:
    same = new.dtype == old.dtype and new.shape[1:] == old.shape[1:] and len(new.shape) == len(old.shape)
    return same and new.row_bytes == old.row_bytes


def _ending_alike(name: str, candidates: list[_Parted]) -> Named | None:
    """Return the candidate whose parts, from the last, are most like the name's: it stands beside it in their order."""
    parts = _parts(name)
    at = bisect_left(candidates, (parts, ("", "")))
    best, count = None, 0
    for other, named in candidates[max(0, at - 1) : at + 1]:
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, other, strict=False)))
        if alike > count:
            best, count = named, alike
    return best
