"""Pushes models into the vault: the listing says what changed, only that is read, only new chunks are sent."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from understudy import __version__
from understudy.artifacts.catalog import Shelf, Unreadable, read_manifest
from understudy.artifacts.manifest import (
    ArtifactManifest,
    complaint_about_length,
    encode_manifest,
    manifest_key,
    model_digest,
)
from understudy.artifacts.plan import grouped, natural, plan, versions_in
from understudy.errors import Conflict, Corrupt, NotFound, Unsupported
from understudy.report import Report, human_bytes, human_seconds, quiet
from understudy.vault.verified import known_damage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from understudy.artifacts.manifest import ArtifactFile
    from understudy.artifacts.plan import Planned, SourceVersion
    from understudy.artifacts.sending import Coded, Sender
    from understudy.artifacts.spread import Part, Workers
    from understudy.errors import UnderstudyError
    from understudy.objects.interface import ObjectStore
    from understudy.report import Progress
    from understudy.vault.condemned import Retired
    from understudy.vault.store import Vault
    from understudy.vault.writing import ChunkWriter

logger = logging.getLogger("understudy.artifacts")

#: A version whose objects change while they are read is listed and read again this often, then held.
_READ_TRIES = 3
#: So many complaints about one version are kept in its manifest, word for word.
_COMPLAINTS_MAX = 20
#: So many listed files of versions that are to be pushed are kept in memory, some 100 MB; those of the versions beyond
#: are listed again when their turn comes.
_LISTED_FILES_MAX = 200_000


def push(
    source: ObjectStore,
    vault: Vault,
    *,
    model: str | None = None,
    models: Collection[str] = (),
    accept_change: str | None = None,
    progress: Progress = quiet,
    workers: Workers | None = None,
) -> list[Report]:
    """Bring every new or changed version of every model below the source into the vault.

    A version becomes visible whole, by its manifest, after all its chunks are in the vault's index. A version that is
    no whole model yet, or keeps changing, is reported as ``held`` with the reason and not recorded; so is one that
    contradicts itself or its parent (``details["action"]`` is then ``refused``), and so is one whose own manifest in
    the vault cannot be read (``damaged``), unless its model is the one that was named. The others go on. Running it
    again after a kill sends only what is missing. What the newest manifest knows is not read, and when nothing changed
    neither is the chunk index; unless the last verification found damage in the vault: then every version is looked
    up in the index, and what is lost of one is read and sent again. Memory holds one version's files and manifests,
    not those of all versions.

    Args:
        source: objects at ``<model>/<version>/<path>``; ``pointers/`` is no model.
        vault: where to.
        model: only this one; None takes all.
        models: only these, of which none is named: what is wrong with one does not stop the others.
        accept_change: the reason for which a person takes versions that would be held or refused for what is in
            their files; the manifest keeps it, with what was wrong. None accepts nothing.
        progress: told plain bytes of each version.
        workers: other processes that read and send: small models whole, large versions in parts; None does all here.

    Returns:
        A report for each version that is new, changed or held, in the order of their models and versions; for a model
        without any, one ``unchanged`` report of its newest version.

    Raises:
        NotFound: the source has no such model, or none at all.
        Corrupt: the vault's index, or a manifest of the model that was named, is damaged.
        Unsupported: a later version of this software wrote a manifest of the model that was named.
    """
    shelf = Shelf(vault, model)
    mending = known_damage(vault).damage is not None
    found = _with_lost(source, vault, shelf, model, models) if mending else survey(source, shelf, model, models)
    reports = list(found.damaged)
    elsewhere = _pushed_elsewhere(found, workers) if workers and accept_change is None else {}
    waiting_of: dict[str, list[Waiting]] = {name: [] for name in found.unchanged}
    for waiting in found.waiting:
        waiting_of.setdefault(waiting.model, []).append(waiting)
    with ExitStack() as stack:
        run = _Run(source, vault, shelf, progress, stack, accept_change=accept_change, workers=workers, mending=mending)
        for name in sorted(waiting_of):
            brought = elsewhere[name] if name in elsewhere else [run.bring(waiting) for waiting in waiting_of[name]]
            unchanged = found.unchanged.get(name)
            # What is left as it is is told only of a model of which there is nothing else to tell.
            told = [report for report in brought if report.details.get("action") not in ("retired", "unchanged")]
            brought = told if told or unchanged is not None else brought[-1:]
            untold = unchanged is not None and not brought and all(report.name != name for report in reports)
            reports += [unchanged] if unchanged is not None and untold else brought
    for report in reports:
        logger.info(report.sentence)
    return reports


@dataclass(frozen=True, slots=True)
class Waiting:
    """A version that is not in the vault as the source has it.

    Attributes:
        model: its name.
        version: of the model.
        listed: its files; None when they are to be listed again.
        size: plain bytes of all of them.
        count: how many they are.
    """

    model: str
    version: str
    listed: SourceVersion | None
    size: int
    count: int


@dataclass(frozen=True, slots=True)
class Survey:
    """How a source stands beside the vault.

    Attributes:
        waiting: versions to push, to hold or to mend, by model, then in natural order.
        unchanged: by model, a report of its newest version, where that is in the vault as it is.
        damaged: reports of versions whose own manifest in the vault cannot be read.
    """

    waiting: list[Waiting] = field(default_factory=list)
    unchanged: dict[str, Report] = field(default_factory=dict)
    damaged: list[Report] = field(default_factory=list)


def survey(
    source: ObjectStore,
    shelf: Shelf,
    model: str | None = None,
    models: Collection[str] = (),
    *,
    knows: Callable[[bytes], bool] | None = None,
) -> Survey:
    """List a source and compare each version with its newest manifest; no file is read.

    Args:
        source: what is listed.
        shelf: the vault's manifests.
        model: only this one, by its name.
        models: only these, if any.
        knows: whether the vault has a chunk whole: versions wait also that it has, and has lost some of. None looks at
            no chunk.

    Raises:
        NotFound: the source has no such model, or none at all.
        Corrupt, Unsupported: a manifest of the model that was named cannot be read.
    """
    started = time.monotonic()
    found = Survey()
    newest: dict[str, str] = {}
    listed = 0
    wanted = [model] if model else sorted(models, key=str.encode)
    listing = (info for name in wanted for info in source.list(f"{name}/")) if wanted else source.list("")
    for version, last in shelf.beside(grouped(listing, model)):
        name = version.model
        is_newest = name not in newest or natural(newest[name]) < natural(version.version)
        if is_newest:
            newest[name] = version.version
            found.unchanged.pop(name, None)
        if isinstance(last, Unreadable):
            if model:
                raise last.damage
            found.damaged.append(damaged_report(name, last.damage, version.version))
            continue
        planned = plan(version, last)
        if planned.action != "unchanged" or (knows and _lost(planned, knows)):
            listed += len(version.files)
            kept = version if listed <= _LISTED_FILES_MAX else None
            size = sum(file.info.size for file in version.files)
            found.waiting.append(Waiting(name, version.version, kept, size, len(version.files)))
        if is_newest and planned.action == "unchanged":
            found.unchanged[name] = _unchanged(planned, time.monotonic() - started)
    if not newest:
        message = f"{source.url} holds no model {model!r}" if model else f"{source.url} holds no model"
        raise NotFound(message, hint="models lie at <model>/<version>/<file> below it")
    found.waiting.sort(key=lambda waiting: (waiting.model, natural(waiting.version)))
    found.damaged.sort(key=lambda report: (report.name, natural(report.version)))
    return found


def _with_lost(source: ObjectStore, vault: Vault, shelf: Shelf, model: str | None, models: Collection[str]) -> Survey:
    """Survey with a look at every chunk; what a run had mended when it was killed goes into the index before that."""
    from understudy.vault.writing import ChunkWriter

    with ChunkWriter(vault) as writer:
        writer.commit()
        return survey(source, shelf, model, models, knows=writer.knows)


def _pushed_elsewhere(found: Survey, workers: Workers) -> dict[str, list[Report]]:
    """Have small models pushed whole by workers, and return their reports by model; large ones are left."""
    from understudy.artifacts.spread import PART_BYTES, groups_of

    sizes: dict[str, tuple[int, int]] = {}
    for waiting in found.waiting:
        size, count = sizes.get(waiting.model, (0, 0))
        sizes[waiting.model] = size + waiting.size, count + waiting.count
    small = [(name, size, count) for name, (size, count) in sorted(sizes.items()) if size <= PART_BYTES]
    reports: dict[str, list[Report]] = {name: [] for name, _, _ in small}
    here = {(report.name, report.version) for report in found.damaged}
    for told in workers.push_models(groups_of(small)) if small else ():
        for report in told:
            if (report.name, report.version) not in here:
                reports[report.name].append(report)
    return reports


class _Rotten(Corrupt):
    """What was to mend the vault is not what was once pushed, whatever the source's listing says."""


class _Run:
    """One push; the vault's index is loaded, and threads are started, when the first version needs them."""

    def __init__(
        self,
        source: ObjectStore,
        vault: Vault,
        shelf: Shelf,
        progress: Progress,
        stack: ExitStack,
        *,
        accept_change: str | None,
        workers: Workers | None = None,
        mending: bool = False,
    ) -> None:
        self._accept_change = accept_change
        self._mending = mending
        self._workers = workers
        self._source = source
        self._vault = vault
        self._shelf = shelf
        self._progress = progress
        self._stack = stack
        self._open: tuple[ChunkWriter, Sender] | None = None
        self._retired: dict[tuple[str, str], Retired] | None = None

    def bring(self, waiting: Waiting) -> Report:
        """Push one version, or hold it."""
        started = time.monotonic()
        version = waiting.listed or self._list(waiting.model, waiting.version)
        if version is None:
            return _vanished(waiting)
        planned = self._plan(version)
        try:
            return _told_beforehand(planned, started) or self._brought(planned, started)
        except _Rotten as damage:
            return damaged_report(waiting.model, damage, waiting.version)

    def _brought(self, planned: Planned, started: float) -> Report:
        # Imported here: a push that finds nothing to do must not pay for what reads and codes.
        from understudy.artifacts.pinning import Changed
        from understudy.artifacts.sending import Incomplete, Refusal

        what = ""
        for _ in range(_READ_TRIES):
            try:
                return self._send(planned, started)
            except Unsupported as reason:  # more than a manifest can hold
                return _held(planned, reason.message, started)
            except (Incomplete, Refusal) as reason:
                action: Literal["held", "refused"] = "refused" if isinstance(reason, Refusal) else "held"
                return _held(planned, str(reason), started, action=action, acceptable=True)
            except Changed as changed:
                what = str(changed)
                logger.info("%s %s: %s changed while it was read", planned.source.model, planned.source.version, what)
            again = self._list(planned.source.model, planned.source.version)
            if again is None:
                return _held(planned, "it was removed while it was read", started)
            planned = self._plan(again)
            if told := _told_beforehand(planned, started):
                return told
        return _held(planned, f"{what} keeps changing while it is read", started)

    def _list(self, model: str, version: str) -> SourceVersion | None:
        return next(iter(versions_in(self._source.list(f"{model}/{version}/"), model)), None)

    def _plan(self, version: SourceVersion) -> Planned:
        names = version.model, version.version
        last = self._shelf.newest(*names)
        planned = plan(version, last, self._shelf.parent(*names) if last is None else None)
        if last is None:
            return self._unless_retired(planned)
        return self._mended(planned) if self._mending and planned.action == "unchanged" else planned

    def _mended(self, planned: Planned) -> Planned:
        """Have files of an unchanged version read again of which something is lost in the vault."""
        writer, _ = self._opened()
        found = _still_known(planned, writer)
        if not found.fresh:
            return planned
        return replace(found, action="mended", revision=planned.revision + 1, parent=planned.newest)

    def _accepts(self, planned: Planned) -> bool:
        """Return whether complaints stop nothing: a person said so, or did when what is now mended was first sent."""
        return self._accept_change is not None or planned.action == "mended"

    def _unless_retired(self, planned: Planned) -> Planned:
        """Leave a version out that retention took out, unless it has changed at the source since."""
        from understudy.vault.condemned import retired, source_digest

        if self._retired is None:
            self._retired = retired(self._vault)
        source = planned.source
        gone = self._retired.get((source.model, source.version))
        if gone is None or planned.action == "held":
            return planned
        found = source_digest((file.path, file.info.key, file.info.token, file.info.size) for file in source.files)
        action = "retired" if found == gone.source else planned.action
        return replace(planned, action=action, revision=gone.revision + 1)

    def _send(self, planned: Planned, started: float) -> Report:
        writer, sender = self._opened()
        planned = _still_known(planned, writer)
        if self._workers is not None:
            from understudy.artifacts.spread import parts_of

            parts = parts_of(planned, accept=self._accepts(planned))
            if len(parts) > 1:
                return self._send_parts(planned, parts, self._workers, started)
        name = f"{planned.source.model} {planned.source.version}"
        total = sum(file.info.size for file in planned.fresh)
        sent_before, read_before, done = writer.bytes_sent, sender.bytes_read, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._progress(name, done, total, "bytes", sender.counts)

        sent = sender.send(planned, advance, accept=self._accepts(planned))
        writer.commit()
        manifest, written = self._record(planned, sent.files, sent.accepted)
        bytes_sent = writer.bytes_sent - sent_before + written
        return _changed(
            manifest,
            planned,
            new=len(sent.new),
            bytes_sent=bytes_sent,
            bytes_read=sender.bytes_read - read_before,
            seconds=time.monotonic() - started,
            coded=sent.coded,
            pace=sent.pace,
        )

    def _send_parts(self, planned: Planned, parts: list[Part], workers: Workers, started: float) -> Report:
        """Check the version here, have its parts sent by workers, and record it once when all are in the index."""
        from understudy.artifacts.pinning import Changed
        from understudy.artifacts.sending import together

        writer, sender = self._opened()
        read_before = sender.bytes_read
        accepted = sender.check(planned, accept=self._accepts(planned))
        bytes_read = sender.bytes_read - read_before
        # The workers write into the index: what was loaded of it is old after that.
        sender.close()
        writer.close()
        self._open = None
        sent = workers.send_parts(parts)
        if changed := next((part.changed for part in sent if part.changed), None):
            raise Changed(changed)
        found = {file.path: file for file in planned.known} | {file.path: file for part in sent for file in part.files}
        manifest, written = self._record(planned, tuple(found[path] for path in sorted(found)), accepted)
        return _changed(
            manifest,
            planned,
            new=sum(len(part.new) for part in sent),
            bytes_sent=written + sum(part.bytes_sent for part in sent),
            bytes_read=bytes_read + sum(part.bytes_read for part in sent),
            seconds=time.monotonic() - started,
            coded=together(part.coded for part in sent),
            pace=next((part.pace for part in sent if part.pace), ""),
        )

    def _record(
        self, planned: Planned, files: tuple[ArtifactFile, ...], accepted: tuple[str, ...]
    ) -> tuple[ArtifactManifest, int]:
        """Make the version visible, by its manifest; return it and its bytes, none when it was there already."""
        _require_same(planned.lost, files)
        if planned.action == "mended" and planned.newest and _contents(planned.newest.files) == _contents(files):
            return planned.newest, 0
        manifest, written = self._written(planned, files, accepted)
        self._shelf.keep(manifest)
        return manifest, written

    def _written(
        self, planned: Planned, files: tuple[ArtifactFile, ...], accepted: tuple[str, ...]
    ) -> tuple[ArtifactManifest, int]:
        tags = accepted_tags(self._accept_change or "", accepted) if accepted else {}
        if planned.action == "mended" and planned.newest is not None:
            tags = dict(planned.newest.tags)
        revision = planned.revision
        while True:
            manifest = ArtifactManifest(
                model=planned.source.model,
                version=planned.source.version,
                revision=revision,
                digest=model_digest((file.path, file.sha256) for file in files),
                files=files,
                parent=planned.parent.as_lineage() if planned.parent else None,
                tags=tags,
                created={"by": f"understudy {__version__}", "at": self._vault.store.now().isoformat()},
            )
            key, data = manifest_key(manifest.model, manifest.version, revision), encode_manifest(manifest)
            try:
                self._vault.put_once(key, data)
            except Conflict:
                other = read_manifest(self._vault, manifest.model, manifest.version, revision)
                if other.files == manifest.files:
                    return other, 0
                revision += 1
            else:
                return manifest, len(self._vault.as_stored(key, data))

    def _opened(self) -> tuple[ChunkWriter, Sender]:
        if self._open is None:
            from understudy.artifacts.sending import Sender
            from understudy.vault.writing import ChunkWriter

            writer = self._stack.enter_context(ChunkWriter(self._vault))
            self._open = writer, self._stack.enter_context(Sender(self._source, writer))
        return self._open


_ALL_PERCENT = 100.0


def _changed(
    manifest: ArtifactManifest,
    planned: Planned,
    *,
    new: int,
    bytes_sent: int,
    bytes_read: int,
    seconds: float,
    coded: Mapping[str, Coded],
    pace: str,
) -> Report:
    count, size = len(manifest.files), manifest.size
    # What is sent has its own packing and index: of a tiny model that is more than the files themselves.
    percent = round(100 * bytes_sent / size, 1) if size else None
    share = f" ({percent:.1f} %)" if percent is not None and percent <= _ALL_PERCENT else ""
    revision = f" revision {manifest.revision}" if manifest.revision > 1 else ""
    done = f"{count} files {human_bytes(size)}; {count - new} known, {new} new"
    if planned.action == "mended":
        done = f"mended, {new} of {count} files had chunks that the vault lost"
    sentence = (
        f"{manifest.model} {manifest.version}{revision}: {done}, {human_bytes(bytes_sent)} sent{share} in "
        f"{human_seconds(seconds)}; {f'{pace}; ' if pace else ''}sha256 {count}/{count}"
    )
    return Report(
        noun="artifacts",
        name=manifest.model,
        verdict="changed",
        sentence=sentence,
        items_total=count,
        items_new=new,
        bytes_total=size,
        bytes_read=bytes_read,
        bytes_sent=bytes_sent,
        seconds=seconds,
        version=manifest.version,
        proven=f"sha256 {count}/{count}",
        details={
            "revision": manifest.revision,
            "digest": manifest.digest,
            "action": planned.action,
            "parent": f"{planned.parent.version} revision {planned.parent.revision}" if planned.parent else None,
            "coded": {name: asdict(each) for name, each in sorted(coded.items())},
            "pace": pace,
        },
    )


def _unchanged(planned: Planned, seconds: float) -> Report:
    source, last = planned.source, planned.newest
    count = len(source.files)
    return Report(
        noun="artifacts",
        name=source.model,
        verdict="unchanged",
        sentence=f"{source.model} {source.version}: unchanged, 0 of {count} files new, 0 B sent",
        items_total=count,
        bytes_total=sum(file.info.size for file in source.files),
        seconds=seconds,
        version=source.version,
        proven=f"listing {count}/{count}",
        details={"revision": planned.revision, "digest": last.digest if last else None, "action": planned.action},
    )


def damaged_report(model: str, damage: UnderstudyError, version: str = "", *, words: str = "left as it is") -> Report:
    """Return what is said of a model, or one version, that is passed over because of what is wrong with it."""
    return Report(
        noun="artifacts",
        name=model,
        verdict="held",
        sentence=f"{model} {version}".rstrip() + f": {words}, {damage.message}",
        version=version,
        details={"action": "damaged", "reason": damage.message, "hint": damage.hint, "kind": damage.kind},
    )


def accepted_tags(reason: str, complaints: tuple[str, ...]) -> dict[str, str]:
    """Return what a manifest keeps of an exception: a person's reason, and all that was wrong."""
    shown = [*complaints[:_COMPLAINTS_MAX]]
    if len(complaints) > _COMPLAINTS_MAX:
        shown.append(f"and {len(complaints) - _COMPLAINTS_MAX} more")
    return {"accepted": reason, "accepted_changes": "; ".join(shown)}


def _told_beforehand(planned: Planned, started: float) -> Report | None:
    """Return what is said of a version of which no file need be read, None of one that is to be pushed."""
    if planned.action == "unchanged":  # another run pushed it meanwhile
        return _unchanged(planned, time.monotonic() - started)
    if planned.action == "retired":
        return _left_out(planned, time.monotonic() - started)
    if planned.action == "held":
        return _held(planned, planned.source.complaint or "its names cannot be kept", started)
    complaint = complaint_about_length((file.info.key, file.info.size) for file in planned.source.files)
    return _held(planned, complaint, started) if complaint else None


def _still_known(planned: Planned, writer: ChunkWriter) -> Planned:
    """Have files read again of which a chunk is gone or condemned, although the newest manifest names it."""
    lost = _lost(planned, writer.knows)
    if not lost:
        return planned
    away = {file.path for file in lost}
    known = tuple(file for file in planned.known if file.path not in away)
    paths = {file.path for file in known}
    fresh = tuple(file for file in planned.source.files if file.path not in paths)
    return replace(planned, known=known, fresh=fresh, lost=(*planned.lost, *lost))


def _lost(planned: Planned, knows: Callable[[bytes], bool]) -> list[ArtifactFile]:
    """Return the known files of which a chunk is not known any more."""
    return [file for file in planned.known if not all(knows(bytes.fromhex(name)) for name, _ in file.chunks)]


def _require_same(lost: Collection[ArtifactFile], files: tuple[ArtifactFile, ...]) -> None:
    """Raise _Rotten when a file that the listing shows unchanged gave other bytes than it once did."""
    found = {file.path: file.sha256 for file in files} if lost else {}
    for file in lost:
        if file.sha256 != found[file.path]:
            raise _Rotten(
                f"the vault lost chunks of {file.path}, and the source, which lists it as unchanged, now has other "
                f"bytes of it (SHA-256 {found[file.path]}, not {file.sha256})",
                hint="restore the file at the source from its versions or a backup, then push again",
            )


def _contents(files: Iterable[ArtifactFile]) -> list[tuple[object, ...]]:
    """Return what files are, whichever version of an object and whenever they were read from."""
    return [(file.path, file.size, file.sha256, file.kind, file.layout, file.chunks) for file in files]


def _left_out(planned: Planned, seconds: float) -> Report:
    source, count = planned.source, len(planned.source.files)
    return Report(
        noun="artifacts",
        name=source.model,
        verdict="unchanged",
        sentence=(
            f"{source.model} {source.version}: not sent, vault.keep took it out of the vault and it is as it was; "
            "write it again at the source to have it sent"
        ),
        items_total=count,
        bytes_total=sum(file.info.size for file in source.files),
        seconds=seconds,
        version=source.version,
        details={"revision": planned.revision - 1, "action": planned.action},
    )


def _vanished(waiting: Waiting) -> Report:
    reason = "it was removed before it was read"
    return Report(
        noun="artifacts",
        name=waiting.model,
        verdict="held",
        sentence=f"{waiting.model} {waiting.version}: held, {reason}",
        version=waiting.version,
        details={"action": "held", "reason": reason},
    )


def _held(
    planned: Planned,
    reason: str,
    started: float,
    *,
    action: Literal["held", "refused"] = "held",
    acceptable: bool = False,
) -> Report:
    source = planned.source
    command = f'understudy artifacts push --model {source.model} --accept-change "REASON"'
    return Report(
        noun="artifacts",
        name=source.model,
        verdict="held",
        sentence=f"{source.model} {source.version}: {action}, {reason}",
        items_total=len(source.files),
        bytes_total=sum(file.info.size for file in source.files),
        seconds=time.monotonic() - started,
        version=source.version,
        details={"action": action, "reason": reason} | ({"next": command} if acceptable else {}),
    )
