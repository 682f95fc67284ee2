"""Pushes models into the vault: the listing says what changed, only that is read, only new chunks are sent."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from understudy import __version__
from understudy.artifacts.catalog import newest_manifests, newest_readable, read_manifest
from understudy.artifacts.manifest import ArtifactManifest, encode_manifest, manifest_key, model_digest
from understudy.artifacts.plan import plan, versions_in
from understudy.errors import Conflict, NotFound
from understudy.report import Report, human_bytes, human_seconds, quiet

if TYPE_CHECKING:
    from understudy.artifacts.manifest import ArtifactFile
    from understudy.artifacts.plan import Planned, SourceVersion
    from understudy.artifacts.sending import Sender
    from understudy.errors import UnderstudyError
    from understudy.objects.interface import ObjectStore
    from understudy.report import Progress
    from understudy.vault.store import Vault
    from understudy.vault.writing import ChunkWriter

logger = logging.getLogger("understudy.artifacts")

#: A version whose objects change while they are read is listed and read again this often, then held.
_READ_TRIES = 3
#: So many complaints about one version are kept in its manifest, word for word.
_COMPLAINTS_MAX = 20


def push(
    source: ObjectStore,
    vault: Vault,
    *,
    model: str | None = None,
    accept_change: str | None = None,
    progress: Progress = quiet,
) -> list[Report]:
    """Bring every new or changed version of every model below the source into the vault.

    A version becomes visible whole, by its manifest, after all its chunks are in the vault's index. A version that is
    no whole model yet, or keeps changing, is reported as ``held`` with the reason and not recorded; so is one that
    contradicts itself or its parent (``details["action"]`` is then ``refused``), and so is a whole model whose
    manifests in the vault cannot be read (``damaged``), unless it is the one that was named. The others go on. Running
    it again after a kill sends only what is missing. What the newest manifest knows is not read, and when nothing
    changed neither is the chunk index.

    Args:
        source: objects at ``<model>/<version>/<path>``; ``pointers/`` is no model.
        vault: where to.
        model: only this one; None takes all.
        accept_change: the reason for which a person takes versions that would be held or refused for what is in
            their files; the manifest keeps it, with what was wrong. None accepts nothing.
        progress: told plain bytes of each version.

    Returns:
        A report for each version that is new, changed or held, in the order of their models and versions; for a model
        without any, one ``unchanged`` report of its newest version.

    Raises:
        NotFound: the source has no such model, or none at all.
        Corrupt: the vault's index, or a manifest of the model that was named, is damaged.
        Unsupported: a later version of this software wrote a manifest of the model that was named.
    """
    started = time.monotonic()
    versions = versions_in(source.list(f"{model}/" if model else ""), model)
    if not versions:
        message = f"{source.url} holds no model {model!r}" if model else f"{source.url} holds no model"
        raise NotFound(message, hint="models lie at <model>/<version>/<file> below it")
    newest, damaged = (
        (newest_manifests(vault, model), {})
        if model
        else newest_readable(vault, {version.model for version in versions})
    )
    reports = [damaged_report(name, damage) for name, damage in sorted(damaged.items())]
    versions = [version for version in versions if version.model not in damaged]
    with ExitStack() as stack:
        run = _Run(source, vault, newest, progress, stack, accept_change=accept_change)
        for position, version in enumerate(versions):
            planned = plan([version], newest)[0]
            if planned.action != "unchanged":
                reports.append(run.bring(planned))
            elif _is_last(versions, position) and not any(report.name == version.model for report in reports):
                reports.append(_unchanged(planned, time.monotonic() - started))
    for report in reports:
        logger.info(report.sentence)
    return reports


class _Run:
    """One push; the vault's index is loaded, and threads are started, when the first version needs them."""

    def __init__(
        self,
        source: ObjectStore,
        vault: Vault,
        newest: dict[tuple[str, str], ArtifactManifest],
        progress: Progress,
        stack: ExitStack,
        *,
        accept_change: str | None,
    ) -> None:
        self._accept_change = accept_change
        self._source = source
        self._vault = vault
        self._newest = newest
        self._progress = progress
        self._stack = stack
        self._open: tuple[ChunkWriter, Sender] | None = None

    def bring(self, planned: Planned) -> Report:
        """Push one version, or hold it."""
        started = time.monotonic()
        if planned.action == "held":
            return _held(planned, planned.source.complaint or "its names cannot be kept", started)
        # Imported here: a push that finds nothing to do must not pay for what reads and codes.
        from understudy.artifacts.sending import Changed, Incomplete, Refusal

        what = ""
        for _ in range(_READ_TRIES):
            try:
                return self._send(planned, started)
            except (Incomplete, Refusal) as reason:
                action: Literal["held", "refused"] = "refused" if isinstance(reason, Refusal) else "held"
                return _held(planned, str(reason), started, action=action, acceptable=True)
            except Changed as changed:
                what = str(changed)
                logger.info("%s %s: %s changed while it was read", planned.source.model, planned.source.version, what)
            again = self._plan_again(planned.source)
            if again is None:
                return _held(planned, "it was removed while it was read", started)
            if again.action == "unchanged":
                return _unchanged(again, time.monotonic() - started)
            planned = again
        return _held(planned, f"{what} keeps changing while it is read", started)

    def _plan_again(self, version: SourceVersion) -> Planned | None:
        listed = versions_in(self._source.list(f"{version.model}/{version.version}/"), version.model)
        return plan(listed[:1], self._newest)[0] if listed else None

    def _send(self, planned: Planned, started: float) -> Report:
        writer, sender = self._opened()
        name = f"{planned.source.model} {planned.source.version}"
        total = sum(file.info.size for file in planned.fresh)
        sent_before, read_before, done = writer.bytes_sent, sender.bytes_read, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._progress(name, done, total, "bytes")

        sent = sender.send(planned, advance, accept=self._accept_change is not None)
        writer.commit()
        tags = accepted_tags(self._accept_change or "", sent.accepted) if sent.accepted else {}
        manifest, written = self._record(planned, sent.files, tags)
        self._newest[manifest.model, manifest.version] = manifest
        bytes_sent = writer.bytes_sent - sent_before + written
        return _changed(
            manifest,
            planned,
            new=len(sent.new),
            bytes_sent=bytes_sent,
            bytes_read=sender.bytes_read - read_before,
            seconds=time.monotonic() - started,
        )

    def _record(
        self, planned: Planned, files: tuple[ArtifactFile, ...], tags: dict[str, str]
    ) -> tuple[ArtifactManifest, int]:
        """Make the version visible, by its manifest; return it and its bytes, none when another push just wrote it."""
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


def _is_last(versions: list[SourceVersion], position: int) -> bool:
    return position + 1 == len(versions) or versions[position + 1].model != versions[position].model


_ALL_PERCENT = 100.0


def _changed(
    manifest: ArtifactManifest, planned: Planned, *, new: int, bytes_sent: int, bytes_read: int, seconds: float
) -> Report:
    count, size = len(manifest.files), manifest.size
    # What is sent has its own packing and index: of a tiny model that is more than the files themselves.
    percent = round(100 * bytes_sent / size, 1) if size else None
    share = f" ({percent:.1f} %)" if percent is not None and percent <= _ALL_PERCENT else ""
    revision = f" revision {manifest.revision}" if manifest.revision > 1 else ""
    sentence = (
        f"{manifest.model} {manifest.version}{revision}: {count} files {human_bytes(size)}; {count - new} known, "
        f"{new} new, {human_bytes(bytes_sent)} sent{share} in {human_seconds(seconds)}; sha256 {count}/{count}"
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


def damaged_report(model: str, damage: UnderstudyError) -> Report:
    """Return what is said of a model that was left as it is, because of what is wrong with it in the vault."""
    return Report(
        noun="artifacts",
        name=model,
        verdict="held",
        sentence=f"{model}: left as it is, {damage.message}",
        details={"action": "damaged", "reason": damage.message, "hint": damage.hint},
    )


def accepted_tags(reason: str, complaints: tuple[str, ...]) -> dict[str, str]:
    """Return what a manifest keeps of an exception: a person's reason, and all that was wrong."""
    shown = [*complaints[:_COMPLAINTS_MAX]]
    if len(complaints) > _COMPLAINTS_MAX:
        shown.append(f"and {len(complaints) - _COMPLAINTS_MAX} more")
    return {"accepted": reason, "accepted_changes": "; ".join(shown)}


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
