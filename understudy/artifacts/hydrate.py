"""Rebuilds a model's plain files at a site: parallel ranged reads, SHA-256 before anything is visible, pointer last."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.pointer import Pointer, ServedFile, encode_pointer, pointer_key, read_pointer
from understudy.artifacts.validate import folded
from understudy.errors import Conflict, Corrupt, NotFound, NotReady, Unsupported
from understudy.objects.interface import KeepsPartial
from understudy.objects.parts import pieces
from understudy.report import Report, human_bytes, human_seconds, quiet
from understudy.threads import ThreadPool
from understudy.vault.sets import set_pinning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest
    from understudy.objects.interface import ObjectInfo, ObjectStore, Partial
    from understudy.report import Progress
    from understudy.vault.reading import ChunkReader
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.artifacts")

#: Files written at once; each streams, so this bounds what the target's client buffers.
_FILES_MAX = 4
#: In a folder, a file of at least this much that was left half written is gone on with: what is shorter is soon read.
_RESUMED_BYTES_MIN = 16 << 20


def hydrate(
    vault: Vault,
    target: ObjectStore,
    *,
    model: str,
    version: str | None = None,
    revision: int | None = None,
    full: bool = False,
    progress: Progress = quiet,
) -> Report:
    """Write one revision's files below ``<model>/<version>/`` of the target, then move the model's pointer to it.

    A file is visible only after all its bytes gave the SHA-256 that the manifest has for it. Files that are there
    already are not written: those that the pointer knows, by its record and the store's token; others of the right
    size by reading them back. A run that was killed is completed by running it again.

    Args:
        vault: where from.
        target: the site's store of models.
        model: which.
        version: None takes what the newest set pins, else the newest version.
        revision: None takes the newest revision of that version, or the one that the set pins.
        full: read back every file that is there, also those that the pointer knows: after damage.
        progress: told plain bytes written.

    Raises:
        NotFound: the vault has no such model, version or revision.
        Corrupt: a byte in the vault is wrong; the sentence names pack, chunk and file, and nothing is served from it.
        Conflict: another run moved the pointer meanwhile.
        NotReady: a new revision would overwrite files that are served, in a bucket that keeps no versions.
    """
    started = time.monotonic()
    if version is None and (pinned := set_pinning(vault, model)):
        version = pinned.version
        revision = pinned.revision if revision is None else revision
    manifest = find_manifest(vault, model, version, revision)
    before, token = read_pointer(target, model)
    prefix = f"{model}/{manifest.version}/"
    present = {info.key: info for info in target.list(prefix)}
    known = {file.key: file for file in before.files} if before else {}
    served: dict[str, ServedFile] = {}
    unsure: list[tuple[ArtifactFile, ObjectInfo]] = []
    missing: list[ArtifactFile] = []
    for file in manifest.files:
        key = prefix + file.path
        info = present.get(key)
        if info is None or info.size != file.size:
            missing.append(file)
        elif not full and _is_recorded(file, info, known.get(key)):
            served[file.path] = known[key]
        else:
            unsure.append((file, info))
    bytes_checked = sum(file.size for file, _ in unsure)
    bytes_read = 0
    if unsure or missing:
        with ThreadPool(_FILES_MAX, thread_name_prefix="hydrate") as pool:
            for file, info, found in pool.map(partial(_read_back, target), unsure):
                if found == file.sha256:
                    served[file.path] = _served(file, info)
                else:
                    missing.append(file)
            _refuse_to_overwrite(target, manifest, before, {prefix + file.path for file in missing})
            bytes_read = _write_all(
                vault, target, manifest, missing=missing, served=served, pool=pool, progress=progress
            )
    pointer = Pointer(
        model, manifest.version, manifest.revision, manifest.digest, tuple(served[path] for path in sorted(served))
    )
    moved = pointer != before
    if moved:
        _check_names_apart(target, pointer)
        _move(target, pointer, token)
    outcome = _Outcome(manifest, len(missing), sum(file.size for file in missing), bytes_read, bytes_checked)
    report = _report(outcome, before, moved=moved, seconds=time.monotonic() - started)
    logger.info(report.sentence)
    return report


def _refuse_to_overwrite(
    target: ObjectStore, manifest: ArtifactManifest, before: Pointer | None, keys: set[str]
) -> None:
    """Refuse to write over the served files of an earlier revision where no version of them would be kept.

    Until the pointer moves, instances load what it names; a kill in between would leave it naming what is gone.
    """
    if before is None or (before.version, before.revision) in (
        (manifest.version, manifest.revision),
        (manifest.version, None),
    ):
        return
    overwritten = sorted(keys & {file.key for file in before.files})
    if overwritten and not target.abilities.versions:
        message = (
            f"revision {manifest.revision} of {manifest.model} {manifest.version} would overwrite {overwritten[0]}, "
            f"which {target.url} serves"
        )
        raise NotReady(message, hint="turn versioning on for that bucket, or upload the files as a new version")


def _check_names_apart(target: ObjectStore, pointer: Pointer) -> None:
    """Read back files whose names differ in case or Unicode form alone: a disk may have written one over the other."""
    alike: dict[str, list[ServedFile]] = {}
    for file in pointer.files:
        alike.setdefault(folded(file.path), []).append(file)
    for files in alike.values():
        if len(files) > 1 and any(_hash_served(target, file) != file.sha256 for file in files):
            names = " and ".join(repr(file.path) for file in files)
            message = f"{target.url} takes {names} of {pointer.model} {pointer.version} for one file"
            raise Unsupported(message, hint="serve the model from an object store, or from a disk that minds case")


def verify_hydrated(vault: Vault, target: ObjectStore, model: str, *, progress: Progress = quiet) -> Report:
    """Read back every file that the target serves of a model and compare it with the vault's manifest by SHA-256.

    Raises:
        NotFound: nothing is served, or the vault does not have what is.
        Corrupt: a file is missing, differs, or is not the manifest's; the sentence names it.
    """
    started = time.monotonic()
    pointer, _ = read_pointer(target, model)
    if pointer is None:
        message = f"{target.url} serves no {model}"
        raise NotFound(message, hint="hydrate it first", next_command=f"understudy artifacts hydrate {model}")
    manifest = find_manifest(vault, model, pointer.version, pointer.revision)
    expected = {file.path: file.sha256 for file in manifest.files}
    recorded = {file.path: file.sha256 for file in pointer.files}
    if pointer.digest != manifest.digest or recorded != expected:
        message = f"{pointer_key(model)} in {target.url} does not name the files of {model} {manifest.version}"
        raise Corrupt(message, hint="hydrate again")
    total, done = manifest.size, 0
    with ThreadPool(_FILES_MAX, thread_name_prefix="verify") as pool:
        for file, found in zip(pointer.files, pool.map(partial(_hash_served, target), pointer.files), strict=True):
            if found != file.sha256:
                message = f"{file.key} in {target.url} " + (
                    "is missing" if found is None else "has another SHA-256 than its manifest"
                )
                raise Corrupt(
                    message,
                    hint="hydrate it whole; the wrong file is replaced",
                    next_command="understudy artifacts hydrate --full",
                )
            done += file.size
            progress(f"verify {model} {manifest.version}", done, total, "bytes")
    count, seconds = len(manifest.files), time.monotonic() - started
    return Report(
        noun="artifacts",
        name=model,
        verdict="unchanged",
        sentence=(
            f"{model} {manifest.version}: {count} files {human_bytes(total)} read back in {human_seconds(seconds)}; "
            f"sha256 {count}/{count}"
        ),
        items_total=count,
        bytes_total=total,
        bytes_read=total,
        seconds=seconds,
        version=manifest.version,
        proven=f"sha256 {count}/{count}",
        details={"revision": manifest.revision, "digest": manifest.digest},
    )


def _is_recorded(file: ArtifactFile, info: ObjectInfo, known: ServedFile | None) -> bool:
    """Return whether the pointer proves these bytes: written by us with this SHA-256, and not touched since."""
    if known is None or (known.sha256, known.size) != (file.sha256, info.size):
        return False
    return known.token is not None and known.token == info.token


def _served(file: ArtifactFile, info: ObjectInfo) -> ServedFile:
    return ServedFile(file.path, info.key, info.version, info.token, file.size, file.sha256)


def _read_back(
    target: ObjectStore, found: tuple[ArtifactFile, ObjectInfo]
) -> tuple[ArtifactFile, ObjectInfo, str | None]:
    file, listed = found
    try:
        info = target.head(listed.key)
        return file, info, _hash_object(target, info)
    except (NotFound, Corrupt):
        return file, listed, None  # gone, or shorter than a moment ago: it is written again


def _hash_served(target: ObjectStore, file: ServedFile) -> str | None:
    try:
        info = target.head(file.key)
        return _hash_object(target, info) if info.size == file.size else ""
    except NotFound:
        return None


def _hash_object(target: ObjectStore, info: ObjectInfo) -> str:
    digest = hashlib.sha256()
    for piece in pieces(target, info.key, info.size, version=info.version):
        digest.update(piece)
    return digest.hexdigest()


def _write_all(
    vault: Vault,
    target: ObjectStore,
    manifest: ArtifactManifest,
    *,
    missing: list[ArtifactFile],
    served: dict[str, ServedFile],
    pool: ThreadPool,
    progress: Progress,
) -> int:
    """Write the missing files, the longest first, add them to ``served``, and return the bytes read from the vault."""
    if not missing:
        return 0
    # Imported here: a run that finds everything in place does not need the index, nor what reads it.
    from understudy.vault.reading import ChunkReader

    total, done, lock = sum(file.size for file in missing), 0, threading.Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            current = done
        progress(f"{manifest.model} {manifest.version}", current, total, "bytes")

    stop = threading.Event()
    with ChunkReader(vault) as reader:
        ordered = sorted(missing, key=lambda file: -file.size)
        futures = [pool.submit(_write, reader, target, manifest, file, advance=advance, stop=stop) for file in ordered]
        try:
            for file, future in zip(ordered, futures, strict=True):
                served[file.path] = future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
        return reader.bytes_read


def _write(
    reader: ChunkReader,
    target: ObjectStore,
    manifest: ArtifactManifest,
    file: ArtifactFile,
    *,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> ServedFile:
    what = f"{manifest.model}/{manifest.version}/{file.path}"
    if isinstance(target, KeepsPartial) and file.size >= _RESUMED_BYTES_MIN:
        with target.partial(file.sha256) as partial:
            if partial is not None:
                return _served(file, _write_resumed(reader, partial, file, what, advance=advance, stop=stop))
    parts = _proven(_chunks_of(reader, file, what), file, what, advance=advance, stop=stop)
    return _served(file, target.put_stream(what, parts, file.size))


def _write_resumed(
    reader: ChunkReader,
    partial: Partial,
    file: ArtifactFile,
    what: str,
    *,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> ObjectInfo:
    """Go on behind the chunks that an earlier run has written, each of which is read back and proven by its id."""
    from understudy.vault.chunks import chunk_id

    digest, kept, count = hashlib.sha256(), 0, 0
    for name, length in file.chunks:
        if kept + length > partial.size:
            break
        data = partial.read(kept, length)
        if chunk_id(data).hex() != name:
            break
        digest.update(data)
        kept, count = kept + length, count + 1
        advance(length)
    if kept:
        logger.info("%s: %s of %s were there already", what, human_bytes(kept), human_bytes(file.size))
    partial.keep(kept)
    rest = replace(file, chunks=file.chunks[count:])
    for part in _proven(_chunks_of(reader, rest, what), file, what, digest=digest, advance=advance, stop=stop):
        partial.append(part)
    return partial.publish(what)


def _chunks_of(reader: ChunkReader, file: ArtifactFile, what: str) -> Iterator[bytes]:
    from understudy.vault.chunks import Chunk

    return reader.stream((Chunk(bytes.fromhex(name), length) for name, length in file.chunks), what)


def _proven(
    parts: Iterable[bytes],
    file: ArtifactFile,
    what: str,
    *,
    advance: Callable[[int], None],
    stop: threading.Event,
    digest: hashlib._Hash | None = None,
) -> Iterator[bytes]:
    """Pass parts on one behind: the last is handed over only after all of them gave the right SHA-256.

    A part is hashed by a thread of its own while whoever asked writes the one before: each takes a second a GB.
    ``digest`` has seen what comes before the parts, if anything does.
    """
    digest = digest or hashlib.sha256()
    waiting = b""
    with ThreadPool(1, thread_name_prefix="hash") as beside:
        for part in parts:
            if stop.is_set():
                message = f"{what} was not finished, because another file failed"
                raise Corrupt(message)
            if waiting:
                hashed = beside.submit(digest.update, part)
                yield waiting
                advance(len(waiting))
                hashed.result()
            else:
                digest.update(part)
            waiting = part
    if digest.hexdigest() != file.sha256:
        message = f"{what} has SHA-256 {digest.hexdigest()}, its manifest says {file.sha256}"
        raise Corrupt(message, hint="run: understudy vault verify --deep; hydrate an earlier revision meanwhile")
    if waiting:
        yield waiting
        advance(len(waiting))


def _move(target: ObjectStore, pointer: Pointer, token: str | None) -> None:
    key = pointer_key(pointer.model)
    try:
        target.replace(key, encode_pointer(pointer), expected=token)
    except Conflict as error:
        other, _ = read_pointer(target, pointer.model)
        if other == pointer:
            return
        message = f"another run moved {key} in {target.url} to {other.version if other else 'nothing'} meanwhile"
        raise Conflict(message, hint="run hydrate again") from error


@dataclass(frozen=True, slots=True)
class _Outcome:
    manifest: ArtifactManifest
    written: int
    bytes_written: int
    bytes_read: int
    bytes_checked: int


def _report(outcome: _Outcome, before: Pointer | None, *, moved: bool, seconds: float) -> Report:
    manifest = outcome.manifest
    name = f"{manifest.model} {manifest.version}"
    count, size = len(manifest.files), manifest.size
    proven = f"sha256 {count}/{count}"
    if outcome.written or moved:
        serves = (
            f"serves {_label(before)} -> {_label(manifest)}"
            if _label(before) != _label(manifest)
            else f"serves {_label(manifest)}"
        )
        sentence = (
            f"{name}: {count} files {human_bytes(size)}; {count - outcome.written} there, {outcome.written} written, "
            f"{human_bytes(outcome.bytes_read)} read from the vault in {human_seconds(seconds)}; {proven}; {serves}"
        )
    else:
        sentence = f"{name}: unchanged, {count} of {count} files there, serves {_label(manifest)}"
    return Report(
        noun="artifacts",
        name=manifest.model,
        verdict="changed" if outcome.written or moved else "unchanged",
        sentence=sentence,
        items_total=count,
        items_new=outcome.written,
        bytes_total=size,
        bytes_read=outcome.bytes_read,
        bytes_sent=outcome.bytes_written,
        seconds=seconds,
        version=manifest.version,
        proven=proven,
        details={
            "revision": manifest.revision,
            "digest": manifest.digest,
            "served_before": before.version if before else None,
            "bytes_checked": outcome.bytes_checked,
        },
    )


def _label(served: Pointer | ArtifactManifest | None) -> str:
    if served is None:
        return "nothing"
    return served.version if served.revision <= 1 else f"{served.version} revision {served.revision}"
