"""Some tensors of a version as one safetensors file: of the vault only the chunks that hold them are read."""

from __future__ import annotations

import logging
import re
import struct
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import orjson

from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.cut import DTYPE_BITS
from understudy.artifacts.layouts.safetensors import LENGTH_BYTES, METADATA, header_length, read_layout
from understudy.artifacts.pull import open_folder
from understudy.artifacts.vault_file import VaultFile
from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.report import Report, human_bytes, human_seconds, quiet
from understudy.vault.documents import parse_json, shown
from understudy.vault.reading import ChunkReader
from understudy.vault.sets import set_pinning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from understudy.artifacts.cut import Tensor
    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.report import Progress
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.artifacts")

#: The number of a layer, as the families of models name them: ``model.layers.7.``, ``encoder.layer.7.``, ``h.7.``,
#: ``blk.7.``, ``down_blocks.7.``; the outermost one where they are nested.
_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|\w*blocks?|h|blk)\.([0-9]{1,6})(?=\.|$)")
#: Where the data begins is a multiple of this, as the safetensors library has it.
_ALIGNED = 8
#: Tensors that a sentence names.
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor and the file in the vault that it is a part of."""

    tensor: Tensor
    file: VaultFile
    path: str


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor is in, None for one in no layer: embeddings, last norm, head."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def choose(names: Iterable[str], patterns: Sequence[str], layers: int | None) -> set[str]:
    """Return the tensors that are asked for. Pure.

    Args:
        names: of all tensors.
        patterns: with ``*``, ``?`` and ``[...]``, as a shell has them; a tensor that matches any of them. Empty: all.
        layers: of these, those in the first so many layers, and those in no layer; None: in any.
    """
    matched = (name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns))
    if layers is None:
        return set(matched)
    return {name for name in matched if (number := layer_of(name)) is None or number < layers}


def pull_tensors(
    vault: Vault,
    folder: Path,
    *,
    model: str,
    version: str | None = None,
    revision: int | None = None,
    patterns: Sequence[str] = (),
    layers: int | None = None,
    progress: Progress = quiet,
) -> Report:
    """Write some tensors of a version to ``<folder>/<model>/<version>.subset.safetensors``; see ``choose``.

    The file is new and complete in itself, so no manifest has its SHA-256: each chunk is proven by its id instead.

    Raises:
        Refused: the folder is a store: a bucket that something is served from, or a vault.
        NotFound: the vault has no such model or version, or that has no such tensor.
        Unsupported: none of its files is safetensors, or several have a tensor of that name.
        Corrupt: a byte in the vault is wrong; the sentence names pack, chunk and file.
    """
    started = time.monotonic()
    if version is None and (pinned := set_pinning(vault, model)):
        version, revision = pinned.version, pinned.revision if revision is None else revision
    manifest = find_manifest(vault, model, version, revision)
    what = f"{manifest.model} {manifest.version}"
    key = f"{manifest.model}/{manifest.version}.subset.safetensors"
    with ChunkReader(vault) as reader:
        parts, metadata = _read_headers(reader, manifest)
        wanted = _wanted(parts, patterns, layers, what)
        header = _header([part.tensor for part in wanted], metadata)
        size = len(header) + sum(part.tensor.end - part.tensor.start for part in wanted)
        pieces = [piece for part in wanted for piece in part.file.pieces(part.tensor.start, part.tensor.end)]

        def content() -> Iterator[bytes]:
            yield header
            done = len(header)
            plain = reader.stream((chunk for chunk, _ in pieces), what)
            for data, (_, inside) in zip(plain, pieces, strict=True):
                yield data[inside]
                done += inside.stop - inside.start
                progress(what, done, size, "bytes")

        target = open_folder(folder)
        target.put_stream(key, content(), size)
        target.leave()
        seconds = time.monotonic() - started
        proven = f"blake3 {len(pieces)}/{len(pieces)} chunks"
        report = Report(
            noun="artifacts",
            name=manifest.model,
            verdict="changed",
            sentence=(
                f"{what}: {len(wanted)} of {len(parts)} tensors, {human_bytes(size)} written to {folder / key}; "
                f"{human_bytes(reader.bytes_read)} read from the vault of {human_bytes(manifest.size)} "
                f"in {human_seconds(seconds)}; {proven}"
            ),
            items_total=len(parts),
            items_new=len(wanted),
            bytes_total=manifest.size,
            bytes_read=reader.bytes_read,
            bytes_sent=size,
            seconds=seconds,
            version=manifest.version,
            proven=proven,
            details={"revision": manifest.revision, "digest": manifest.digest, "file": str(folder / key)},
        )
    logger.info(report.sentence)
    return report


def _read_headers(reader: ChunkReader, manifest: ArtifactManifest) -> tuple[list[_Part], dict[str, str]]:
    """Return every tensor of a version, by file and then by place, and what the files say of themselves."""
    parts: list[_Part] = []
    metadata: dict[str, str] = {}
    for file in manifest.files:
        if file.kind != "safetensors":
            continue
        what = f"{manifest.model}/{manifest.version}/{file.path}"
        stored = VaultFile(reader, file, what)
        try:
            length = header_length(stored.read(0, min(file.size, LENGTH_BYTES)), file.size)
            header = stored.read(LENGTH_BYTES, length)
            parts += [_Part(tensor, stored, file.path) for tensor in read_layout(header, file.size).tensors]
        except Corrupt as error:
            message = error.message if what in error.message else f"{what} {error.message}"
            raise Corrupt(message, hint=error.hint or "run: understudy vault verify --deep") from error
        told = parse_json(header).get(METADATA)
        if isinstance(told, dict):
            metadata = {name: text for name, text in told.items() if isinstance(text, str)} | metadata
    if not parts:
        kinds = sorted({file.layout for file in manifest.files if file.layout})
        more = f", its weights are {' and '.join(kinds)}" if kinds else ""
        raise Unsupported(
            f"{manifest.model} {manifest.version} has no safetensors file{more}",
            hint="tensors are taken out of safetensors files alone; pull the whole version",
            next_command=f"understudy artifacts pull {manifest.model} {manifest.version}",
        )
    return parts, metadata


def _wanted(parts: list[_Part], patterns: Sequence[str], layers: int | None, what: str) -> list[_Part]:
    """Return the parts that are asked for: longest words first, as the format recommends, so that each is aligned."""
    names = [part.tensor.name for part in parts]
    if layers is not None and all(layer_of(name) is None for name in names):
        raise NotFound(
            f"no tensor of {what} says in which layer it is",
            hint=f"name tensors with --tensors; it has {_some(names)}",
        )
    chosen = choose(names, patterns, layers)
    if not chosen:
        raise NotFound(f"{what} has no such tensor", hint=f"it has {_some(names)}")
    wanted = [part for part in parts if part.tensor.name in chosen]
    seen: dict[str, str] = {}
    for part in wanted:
        if (other := seen.setdefault(part.tensor.name, part.path)) != part.path:
            raise Unsupported(
                f"{what} has the tensor {shown(part.tensor.name)} in {other} and in {part.path}",
                hint="one file holds one tensor of a name: pull the whole version",
            )
    return sorted(wanted, key=lambda part: -DTYPE_BITS.get(part.tensor.dtype, 0))


def _header(tensors: Sequence[Tensor], metadata: dict[str, str]) -> bytes:
    """Return the header of a safetensors file of these tensors, one after another."""
    listed: dict[str, object] = {METADATA: metadata} if metadata else {}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.end - tensor.start
        listed[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (start, end)}
    encoded = orjson.dumps(listed)
    encoded += b" " * (-len(encoded) % _ALIGNED)
    return struct.pack("<Q", len(encoded)) + encoded


def _some(names: Sequence[str]) -> str:
    ordered = sorted(set(names))
    more = f" and {len(ordered) - _NAMED_MAX} more" if len(ordered) > _NAMED_MAX else ""
    return ", ".join(shown(name) for name in ordered[:_NAMED_MAX]) + more
