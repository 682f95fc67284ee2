"""What the schedules run: copies from the active site into the vault, and rebuilds of the standby from it."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.report import quiet
from understudy.service.records import Records, measurements, move_watermark

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from understudy.artifacts.spread import Part, PartSent, Workers
    from understudy.objects.interface import ObjectStore
    from understudy.report import Progress, Report
    from understudy.settings import Pair, SiteRole

logger = logging.getLogger("understudy.service")


class Copies(Records):
    """Copies into the vault and out of it."""

    def push_artifacts(
        self,
        pair: Pair,
        *,
        model: str | None = None,
        accept_change: str | None = None,
        progress: Progress = quiet,
        workers: Workers | None = None,
    ) -> list[Report]:
        """Send new and changed model versions into the vault, then pin what belongs together.

        ``accept_change`` is a person's reason to take versions that would be refused, ``workers`` are other processes
        that send; see ``artifacts.replicate``.
        """
        from understudy.artifacts.replicate import push

        role, vault = self.replicates_from(pair)
        source = self.models(pair, role)
        watermark = source.now()
        reports = push(source, vault, model=model, accept_change=accept_change, progress=progress, workers=workers)
        damaged = [report for report in reports if report.details.get("action") == "damaged"]
        if model is None and all(report.verdict != "held" for report in reports):
            move_watermark(vault, "training", pair, watermark)
        try:
            pinned = self._compose(vault)
        except (Corrupt, Unsupported) as damage:
            if not damaged:
                raise
            logger.warning("no new set of %s: %s", self.name, damage.message)
            pinned = None
        return [self._as_served(report, pinned) for report in reports]

    def push_models(self, pair: Pair, names: Sequence[str]) -> list[Report]:
        """Send some models of a pair, as a worker of a push; whoever coordinates it pins what belongs together."""
        from understudy.artifacts.replicate import push

        role, vault = self.replicates_from(pair)
        return push(self.models(pair, role), vault, models=names)

    def send_part(self, pair: Pair, part: Part) -> PartSent:
        """Send a part of a version, as a worker of a push; whoever coordinates it records the version."""
        from understudy.artifacts.catalog import Shelf
        from understudy.artifacts.spread import send_part

        role, vault = self.replicates_from(pair)
        return send_part(self.models(pair, role), vault, Shelf(vault, part.model), part)

    def hydrate(
        self,
        pair: Pair,
        *,
        role: SiteRole | None = None,
        model: str | None = None,
        set_sequence: int | None = None,
        as_of: datetime | None = None,
        full: bool = False,
        follow: bool = False,
        progress: Progress = quiet,
    ) -> list[Report]:
        """Bring a site's serving bucket to the model that a set pins (role None: the standby; set None: the newest).

        Without a name, a model that is damaged is left as it is, and reported as ``held`` with the ``action``
        ``damaged``; the others are brought up to date.

        Args:
            pair: whose buckets.
            role: the site to fill.
            model: only this one.
            set_sequence: the set whose model is wanted.
            as_of: instead of a set: what the vault held at this moment of its clock, by the set of then where there was
                one; a model that it did not hold yet is left as it is.
            full: read back every file that is there.
            follow: do what the config's ``serving`` asks for when a pointer moved: warm the CDN, time the loading.
            progress: told plain bytes written.

        Raises:
            Refused: no role was named, and a commander holds the epoch.
            Corrupt, NotFound, Unsupported: the model that was named is damaged, or not in the vault; or the vault held
                none at that moment.
        """
        from understudy.artifacts.catalog import DAMAGE
        from understudy.artifacts.hydrate import hydrate
        from understudy.artifacts.replicate import damaged_report

        site = self._work_at(role)
        vault, target = self._vault_for(site), self._written(self.models(pair, site))
        names = [model] if model else self._models_in_vault()
        chosen = self._versions_at(names, as_of) if as_of else {}
        if set_sequence is not None:
            pinned = self._set(set_sequence).model
            chosen = {pinned.name: (pinned.version, pinned.revision)}
        reports = []
        for name in names if as_of is None else chosen:
            version, revision = chosen.get(name, (None, None))
            try:
                report = hydrate(
                    vault, target, model=name, version=version, revision=revision, full=full, progress=progress
                )
                if follow and not self.dry:
                    report = self._followed(report, site, target, moved=time.monotonic())
            except DAMAGE as damage:
                if model:
                    raise
                report = damaged_report(name, damage)
                logger.info(report.sentence)
            reports.append(report)
        self._record_work(site, pair, reports)
        if measured := measurements(reports, at=self.vault.store.now()):
            self._keep_beside_proof(site, pair, measured)
        return reports

    def _versions_at(self, names: list[str], moment: datetime) -> dict[str, tuple[str, int]]:
        """Return by model the version and revision that the vault held at a moment. Raises NotFound when none of all.

        What the set of then pins goes before what was merely there.
        """
        from understudy.artifacts.catalog import newest_at

        found: dict[str, tuple[str, int]] = {}
        absent: NotFound | None = None
        for name in names:
            try:
                found[name] = newest_at(self.vault, name, moment)
            except NotFound as error:
                absent = error
        try:
            pinned = self.set_as_of(moment).model
        except NotFound:
            pinned = None
        if pinned is not None and pinned.name in names:
            found[pinned.name] = (pinned.version, pinned.revision)
        if not found:
            raise absent or NotFound("the vault holds no model", next_command="understudy vault stat")
        return found

    def version_at(self, model: str, moment: datetime) -> tuple[str, int]:
        """Return the version and revision of a model that a restore to a moment brings. Raises NotFound."""
        return self._versions_at([model], moment)[model]

    def _followed(self, report: Report, site: SiteRole, target: ObjectStore, *, moved: float) -> Report:
        """Warm the CDN and time the loading of what a site serves now; keep both, and say both in the report."""
        serving = self.settings.serving
        if report.verdict != "changed" or not (serving.warm or serving.loaded):
            return report
        from understudy.artifacts.pointer import read_pointer
        from understudy.serving import await_loaded, health_of, sentences, warm
        from understudy.threads import ThreadPool

        inference = self.settings.components.get("inference")
        ask = health_of(self.settings.traffic, site, inference.health if inference else "/health")
        digest = str(report.details["digest"])
        with ThreadPool(1, thread_name_prefix="loading") as pool:
            waiting = pool.submit(await_loaded, serving, version=report.version, digest=digest, moved=moved, ask=ask)
            served, _ = read_pointer(target, report.name)
            warmed = warm(serving, served) if serving.warm and served is not None else None
            loaded = waiting.result()
        found = {"warmed": warmed.as_json() if warmed else None, "loaded": loaded.as_json() if loaded else None}
        sentence = report.sentence + sentences((warmed, loaded))
        return replace(report, sentence=sentence, details={**report.details, **found})

    def export_vectors(self, pair: Pair, *, progress: Progress = quiet) -> Report:
        """Export the active site's index into the vault, then pin what belongs together."""
        from understudy.vectors.export import export

        role, vault = self.replicates_from(pair)
        report = export(
            self.index(pair, role),
            vault,
            index=pair.name,
            deletes_max=self.settings.limits.deletes_max,
            progress=progress,
        )
        self._compose(vault)
        return report

    def rebuild_index(
        self,
        pair: Pair,
        *,
        role: SiteRole | None = None,
        set_sequence: int | None = None,
        full: bool = False,
        progress: Progress = quiet,
    ) -> Report:
        """Rebuild a site's index as a set pins it from the vault (role None: the standby; set None: the newest).

        Raises:
            Refused: no role was named, and a commander holds the epoch; or more rows would vanish than may.
        """
        from understudy.vectors.rebuild import rebuild

        site = self._work_at(role)
        target = self.index(pair, site)
        sequence = self._pinned_sequence(pair, set_sequence)
        report = rebuild(
            self._vault_for(site),
            target,
            index=pair.name,
            sequence=sequence,
            deletes_max=self.settings.limits.deletes_max,
            full=full,
            progress=progress,
        )
        self._record_work(site, pair, [report])
        return report

    def replicate_offline(self, pair: Pair) -> Report:
        """Copy the active site's offline feature store into the vault, then pin what belongs together."""
        from understudy.features.replicate import replicate_offline

        role, vault = self.replicates_from(pair)
        report = replicate_offline(self.offline(pair, role), vault, view=pair.name)
        self._compose(vault)
        return report

    def rebuild_features(
        self,
        pair: Pair,
        *,
        role: SiteRole | None = None,
        as_of: datetime | None = None,
        full: bool = False,
        progress: Progress = quiet,
    ) -> Report:
        """Rebuild a site's online store from the vault's offline store (role None: the standby).

        Raises:
            Refused: no role was named, and a commander holds the epoch; or more values would vanish than may.
        """
        from understudy.features.rebuild import rebuild

        site = self._work_at(role)
        report = rebuild(
            self._vault_for(site),
            self.online(pair, site),
            view=pair.name,
            as_of=as_of,
            deletes_max=self.settings.limits.deletes_max,
            full=full,
            progress=progress,
        )
        self._record_work(site, pair, [report])
        return report

    def preview_index(
        self, pair: Pair, *, role: SiteRole | None = None, set_sequence: int | None = None, full: bool = False
    ) -> Report:
        """Say what ``rebuild_index`` would do; nothing is changed. Raises Refused where that is sure to be."""
        from understudy.vectors.rebuild import preview

        sequence = self._pinned_sequence(pair, set_sequence)
        target = self.index(pair, self._work_at(role))
        return preview(
            self.vault,
            target,
            index=pair.name,
            sequence=sequence,
            deletes_max=self.settings.limits.deletes_max,
            full=full,
        )

    def preview_features(
        self, pair: Pair, *, role: SiteRole | None = None, as_of: datetime | None = None, full: bool = False
    ) -> Report:
        """Say what ``rebuild_features`` would do; nothing is changed. Raises Refused while a commander holds."""
        from understudy.features.rebuild import preview

        return preview(
            self.vault,
            self.online(pair, self._work_at(role)),
            view=pair.name,
            as_of=as_of,
            deletes_max=self.settings.limits.deletes_max,
            full=full,
        )
