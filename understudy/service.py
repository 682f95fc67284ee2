"""One service and its two sites, opened from its config: what the tasks and the command line both call.

The direction comes from the register alone: replication flows from the active site toward the other one, and when
the register cannot be read, nothing flows.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from understudy import opening
from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidConfig,
    NotFound,
    NotReady,
    Refused,
    Transient,
    Unsupported,
)
from understudy.failover.guard import GuardedStore, read_register, read_unheld
from understudy.report import Progress, Report, quiet
from understudy.settings import Pair, Settings, SiteRole, load_settings, other, split_url
from understudy.vault.pointers import proven_key, watermark_key
from understudy.vault.store import Vault, decrypting, open_to_read, open_vault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.artifacts.estimate import RestoreCost
    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.artifacts.spread import Part, PartSent, Workers
    from understudy.failover.register import Register, State
    from understudy.failover.world import CatchUp, World
    from understudy.features.interface import OnlineStore
    from understudy.objects.interface import ObjectStore
    from understudy.settings import ComponentName, Site
    from understudy.status import Status
    from understudy.transfer.budget import TransferBudget, Transferred
    from understudy.transfer.limit import Bandwidth
    from understudy.vault.encryption import Encryption
    from understudy.vault.pruned import PruneResult, Served
    from understudy.vault.sets import SetManifest
    from understudy.vault.signing import Signing
    from understudy.vault.verified import Kind, VaultProof
    from understudy.vault.verify import VerifyResult
    from understudy.vectors.interface import VectorStore

logger = logging.getLogger("understudy.service")


class Service:
    """The service's stores at both sites; each is opened when it is first asked for."""

    def __init__(self, settings: Settings, *, dry: bool = False) -> None:
        """Take a config.

        Args:
            settings: the config.
            dry: copies into the vault and into buckets read what they would read and write nothing (``vault/dry.py``).
        """
        self.settings = settings
        self.dry = dry

    @property
    def name(self) -> str:
        """The service's name."""
        return self.settings.service

    @cached_property
    def vault(self) -> Vault:
        """The vault that protects the service. Raises Unreachable, Unsupported."""
        store = self._written(opening.open_store(self.settings.vault.url, self.settings.sites.away, holds="vault"))
        return open_vault(store, service=self.name, signing=self._signing(), encryption=self.encryption)

    def vault_at(self, name: str) -> Vault:
        """Return a vault of this service to read from, encrypted with this config's keys or not at all.

        Args:
            name: of a site, whose vault the config names, or a URL.

        Raises:
            InvalidConfig: the config names no vault there, or lacks its key.
            NotFound: there is none.
        """
        store = opening.open_store(*self._place_of_vault(name))
        return open_to_read(store, service=self.name, signing=self._signing(), encryption=self.encryption)

    def _place_of_vault(self, name: str) -> tuple[str, Site]:
        settings = self.settings
        if "://" in name:
            known = [(settings.vault.url, settings.sites.away), (settings.vault.home_url, settings.sites.home)]
            own = next((site for url, site in known if url and url.rstrip("/") == name.rstrip("/")), None)
            cloud = next((one.extra for one in opening.VENDORS if one.scheme == split_url(name)[0]), "")
            sites = [site for site in (settings.sites.away, settings.sites.home) if site.cloud == cloud]
            return name, own or next(iter(sites), settings.sites.away)
        role = settings.role_of(name)
        url = settings.vault.url if role == "away" else settings.vault.home_url
        if url is None:
            raise InvalidConfig(f"vault.home_url names no vault at {name}", hint="write it, or give the vault's URL")
        return url, settings.site(role)

    def _written(self, store: ObjectStore) -> ObjectStore:
        """Return the store to write to: in a dry run one that only pretends."""
        if not self.dry:
            return store
        from understudy.vault.dry import DryStore

        return DryStore(store)

    @cached_property
    def register(self) -> Register:
        """The epoch and the leases."""
        return opening.open_register(self.settings)

    def journal_vault(self) -> Vault:
        """The vault, also while it does not answer: whoever commands a failover has its journal's other copies."""
        try:
            return self.vault
        except Transient:
            store = opening.open_store(self.settings.vault.url, self.settings.sites.away, holds="vault")
            return Vault(decrypting(store, self.encryption), self._signing(), encryption=self.encryption)

    def active(self) -> SiteRole:
        """Return which site the register calls active.

        Raises:
            Refused: the register cannot be read; without it nobody may say which way to copy.
        """
        return read_register(self.register).active

    def standby(self) -> SiteRole:
        """Return the site that is not active. Raises Refused like ``active``."""
        return other(self.active())

    def replicates_from(self, pair: Pair) -> tuple[SiteRole, Vault]:
        """Return the source of a pair's replication, and the vault for it, which shows nothing after a claim.

        The source is the active site, if the vault stands at the other one.

        Raises:
            Refused: a commander holds the epoch; or the vault stands at the active site itself, and filling it from
                there would protect nothing.
        """
        state = read_unheld(self.register)
        if state.active == "away":
            raise Refused(
                f"{self.settings.sites.away.name} is active and holds the vault itself, so {pair.name} is not copied",
                hint="the service is unprotected until the other site is rebuilt",
                next_command="understudy status",
            )
        return state.active, self._guarded(state)

    def _guarded(self, state: State) -> Vault:
        """Return the vault for a copy that began when the register was ``state``."""
        signing = self.vault.signing
        if signing is not None:
            signing.ready()
        store = GuardedStore(self._across(self.vault.store), self.register, state)
        return Vault(store, signing, encryption=self.encryption)

    def _across(self, store: ObjectStore) -> ObjectStore:
        """Return the vault's store for a run at the other site: held to the limits of what passes between the sites.

        A run counts as one beside its source: a copy at the active site, a rebuild at the standby.
        """
        if self.dry or (self._bandwidth is None and self._transfer_budget is None):
            return store
        from understudy.objects.metered import MeteredStore

        return MeteredStore(store, bandwidth=self._bandwidth, budget=self._transfer_budget)

    @cached_property
    def _bandwidth(self) -> Bandwidth | None:
        """One for all threads of this run."""
        rate = self.settings.limits.bandwidth
        if rate is None:
            return None
        from understudy.transfer.limit import Bandwidth

        return Bandwidth(rate)

    @cached_property
    def _transfer_budget(self) -> TransferBudget | None:
        budget = self.settings.limits.transfer_month
        if budget is None:
            return None
        from understudy.transfer.budget import TransferBudget

        return TransferBudget(self.vault, budget, file=self.settings.line("limits")[0])

    def transferred(self, now: datetime) -> Transferred | None:
        """Return what passed between the sites this month; None where ``limits.transfer_month`` asks for no count."""
        budget = self.settings.limits.transfer_month
        if budget is None:
            return None
        from understudy.transfer.budget import read_transferred

        return read_transferred(self.vault, budget, now)

    def _vault_for(self, site: SiteRole) -> Vault:
        """Return the vault for a rebuild of a site; what the home site reads of it passes between the sites."""
        across = self._across(self.vault.store) if site == "home" else self.vault.store
        if across is self.vault.store:
            return self.vault
        return Vault(across, self.vault.signing, encryption=self.encryption)

    @cached_property
    def encryption(self) -> Encryption | None:
        """The keys that the vault is encrypted with, asked for at their first use; None where the config names none."""
        reference = self.settings.vault.encrypt_with
        if reference is None:
            return None
        from understudy.secrets import resolve
        from understudy.vault.encryption import Encryption

        return Encryption(self.name, lambda: resolve(reference).reveal())

    def _signing(self) -> Signing | None:
        """Return what signs and checks the vault's manifests; None where the config asks for neither."""
        reference, trust = self.settings.vault.sign_with, self.settings.vault.trust
        if reference is None and not trust:
            return None
        from understudy.secrets import resolve
        from understudy.vault.signing import Signing

        # Resolved at the first signature: whoever only reads needs no secret.
        private_key = (lambda: resolve(reference).reveal()) if reference else None
        return Signing(self.name, trust=trust, private_key=private_key)

    def _work_at(self, role: SiteRole | None) -> SiteRole:
        """Return the site of a rebuild: the one asked for, else the standby while nobody holds the epoch."""
        return role or other(read_unheld(self.register).active)

    def models(self, pair: Pair, role: SiteRole) -> ObjectStore:
        """Open the bucket that holds a site's models."""
        return opening.open_store(pair.home if role == "home" else pair.away, self.settings.site(role), holds="served")

    def index(self, pair: Pair, role: SiteRole) -> VectorStore:
        """Open a site's vector index."""
        return opening.open_vectors(
            pair.home if role == "home" else pair.away, self.settings.site(role), password=pair.password
        )

    def online(self, pair: Pair, role: SiteRole) -> OnlineStore:
        """Open a site's online feature store."""
        return opening.open_features(
            pair.home if role == "home" else pair.away, self.settings.site(role), password=pair.password
        )

    def offline(self, pair: Pair, role: SiteRole) -> ObjectStore:
        """Open the offline feature store that a site reads and appends to: at the away site, the vault's own copy."""
        if role == "home":
            return opening.open_store(pair.offline or pair.home, self.settings.sites.home)
        below = f"offline/{pair.name}/"
        store = opening.open_store(f"{self.settings.vault.url.rstrip('/')}/{below}", self.settings.sites.away)
        return decrypting(store, self.encryption, below=below)

    # ------------------------------------------------------------------ what the schedules run

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
            _move_watermark(vault, "training", pair, watermark)
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

    def restore_cost(self, manifest: ArtifactManifest) -> RestoreCost:
        """Return what restoring a version would read, and how long it would take as the last restore went.

        Raises:
            Corrupt: the vault's index is damaged.
        """
        from understudy.artifacts.estimate import look_at_packs, restore_cost
        from understudy.vault.index import load_index

        roles: tuple[SiteRole, ...] = ("home", "away")
        known = [self.vault.pointer(proven_key(role, pair.name)) for pair in self.pairs("training") for role in roles]
        measured = [found["restore"] for found in known if found and "restore" in found]
        last = max(measured, key=lambda each: str(each["at"]), default=None)
        rate = last["bytes"] / last["seconds"] if last else None
        cost = restore_cost(load_index(self.vault), manifest, rate=rate)
        return look_at_packs(self.vault, cost)

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

    # ------------------------------------------------------------------ what a failover runs

    def catch_up_models(self, pair: Pair, *, role: SiteRole, set_sequence: int) -> list[Report]:
        """Hydrate a site to a set's model, then read back what it serves: no traffic before that is proven.

        Other models in the vault are left to the schedules: what is wrong with them must not stop a failover.

        Raises:
            Corrupt: what is served differs from the vault's, and making it again from the vault did not help.
            Conflict: another run made the site serve something else meanwhile.
        """
        pinned = self._set(set_sequence).model
        reports = self.hydrate(pair, role=role, model=pinned.name, set_sequence=set_sequence)
        try:
            read_back = self.verify_models(pair, role=role, model=pinned.name)
        except Corrupt as damage:
            logger.warning("%s; it is hydrated whole", damage.message)
            reports = self.hydrate(pair, role=role, model=pinned.name, set_sequence=set_sequence, full=True)
            read_back = self.verify_models(pair, role=role, model=pinned.name)
        for report in read_back:
            found = report.version, report.details.get("revision"), report.details.get("digest")
            if found != (pinned.version, pinned.revision, pinned.digest):
                raise _not_of_set(report, set_sequence, pinned.version)
        return [*reports, *read_back]

    def catch_up_index(self, pair: Pair, *, role: SiteRole, set_sequence: int) -> list[Report]:
        """Rebuild a site's index to a set; read it back, unless the rebuild has just proven the whole by digest.

        Raises:
            Corrupt: what is served differs from the vault's, and making it again from the vault did not help.
            Conflict: another run made the site serve another sequence meanwhile.
        """
        report = self.rebuild_index(pair, role=role, set_sequence=set_sequence)
        if _just_proven(report):
            return [report]
        try:
            read_back = self.verify_index(pair, role=role)
        except Corrupt as damage:
            logger.warning("%s; it is rebuilt whole", damage.message)
            return [self.rebuild_index(pair, role=role, set_sequence=set_sequence, full=True)]
        if read_back.version != report.version:
            raise _not_of_set(read_back, set_sequence, report.version)
        return [report, read_back]

    def catch_up_features(self, pair: Pair, *, role: SiteRole) -> list[Report]:
        """Rebuild a site's online store; read it back, unless the rebuild has just proven the whole by digest.

        Features flow on under one schema: the newest that is replicated is brought, whichever the set.

        Raises:
            Corrupt: what is online differs from the offline truth, and making it again from the vault did not help.
        """
        report = self.rebuild_features(pair, role=role)
        if _just_proven(report):
            return [report]
        try:
            return [report, self.verify_features(pair, role=role)]
        except Corrupt as damage:
            logger.warning("%s; it is rebuilt whole", damage.message)
            return [self.rebuild_features(pair, role=role, full=True)]

    # ------------------------------------------------------------------ what is read back

    def verify_models(self, pair: Pair, *, role: SiteRole | None = None, model: str | None = None) -> list[Report]:
        """Read a site's served models back, or the one named, and compare each file's SHA-256.

        Without a name, a model that cannot be proven is reported as ``held``, and the others are read all the same.

        Raises:
            Corrupt, NotFound, Unsupported: the model that was named is damaged, or not served.
        """
        from understudy.artifacts.catalog import DAMAGE
        from understudy.artifacts.hydrate import verify_hydrated
        from understudy.artifacts.replicate import damaged_report

        site = role or self.standby()
        target = self.models(pair, site)
        reports = []
        for name in [model] if model else self._models_in_vault():
            try:
                reports.append(verify_hydrated(self.vault, target, model=name))
            except DAMAGE as damage:
                if model:
                    raise
                reports.append(damaged_report(name, damage, words="not proven"))
        if all(report.proven for report in reports):
            self._record_proof(site, pair, reports)
        return reports

    def verify_index(self, pair: Pair, *, role: SiteRole | None = None) -> Report:
        """Read a site's index back and compare its digest with the vault's. Raises Corrupt."""
        from understudy.vectors.verify import verify

        site = role or self.standby()
        report = verify(self.vault, self.index(pair, site), index=pair.name)
        self._record_proof(site, pair, [report])
        return report

    def verify_features(self, pair: Pair, *, role: SiteRole | None = None) -> Report:
        """Read a site's online store back and compare it with the offline truth. Raises Corrupt."""
        from understudy.features.verify import verify

        site = role or self.standby()
        report = verify(self.vault, self.online(pair, site), view=pair.name)
        self._record_proof(site, pair, [report])
        return report

    def verify_vault(
        self, kind: Kind | None = None, *, share: float | None = None, progress: Progress = quiet
    ) -> VerifyResult:
        """Check that the vault can be read, and keep what was found, for the status.

        Args:
            kind: quick, sampled or deep; None is what is due: deep when everything was last read too long ago, else a
                sample, which goes on where the last one stopped.
            share: of the bytes, for a sample; None takes what the config says.
            progress: told the bytes read.

        Raises:
            Transient, Denied, InvalidConfig: the store does not answer, or not to this config's identity and keys; what
                is wrong in the vault is in the result.
        """
        from understudy.settings import VerifySettings
        from understudy.vault.rounds import Sample
        from understudy.vault.verified import Verified, due, keep, read_verified
        from understudy.vault.verify import verify

        asked = self.settings.vault.verify or VerifySettings()
        try:
            before = read_verified(self.vault)
        except Corrupt as damage:
            logger.warning("%s; the round of samples begins anew", damage.message)
            before = Verified()
        kind = kind or due(before, asked, self.vault.store.now())
        sample = Sample(share or asked.sample, asked.most, before.cursor, frozenset(before.again))
        result = verify(
            self.vault, deep=kind == "deep", sample=sample if kind == "sampled" else None, progress=progress
        )
        logger.info("%s", result.sentence)
        if self._founded() is not None:
            try:
                keep(self.vault, result)
            except (Denied, Conflict) as error:
                logger.warning("what was found is not kept for the status: %s", error)
        return result

    def _founded(self) -> datetime | None:
        """Return when the vault was made; None while nothing was ever written to it."""
        from understudy.vault.store import FORMAT_KEY

        try:
            return self.vault.store.head(FORMAT_KEY).modified
        except NotFound:
            return None

    def _vault_proof(self, now: datetime) -> VaultProof:
        from understudy.vault.verified import judge, read_verified

        return judge(read_verified(self.vault), self.settings.vault.verify, now=now, founded=self._founded() or now)

    # ------------------------------------------------------------------ what is taken out

    def prune_vault(self, *, write: bool, progress: Progress = quiet) -> PruneResult:
        """Take out of the vault what ``vault.keep`` does not keep and nothing needs; without ``write`` only say what.

        Raises:
            Refused: a commander holds the epoch, or takes it meanwhile; or it cannot be read what a site serves.
            Corrupt, Unsupported: something in the vault cannot be read; nothing was changed.
            HeldByAnother: another prune is under way.
        """
        from understudy.vault.pruned import Rules
        from understudy.vault.pruning import prune
        from understudy.vault.retention import Keep

        begun = read_unheld(self.register)

        def still_allowed() -> None:
            if read_unheld(self.register).epoch != begun.epoch:
                raise Refused(
                    "the epoch was claimed while the vault was pruned, so the prune stops",
                    hint="run it again when the failover is finished",
                )

        asked = self.settings.vault
        keep = Keep(**asked.keep.model_dump()) if asked.keep else None
        return prune(
            self.vault,
            rules=Rules(keep=keep, condemned_for=asked.condemned_for, cold_after=asked.cold_after),
            served=self._served(),
            write=write,
            still_allowed=still_allowed,
            progress=progress,
        )

    def _served(self) -> list[Served]:
        """Return what each site serves of every model. Raises Refused where that cannot be read."""
        from understudy.artifacts.manifest import POINTERS
        from understudy.artifacts.pointer import read_pointer
        from understudy.vault.pruned import Served

        found: list[Served] = []
        for role, pair in ((role, pair) for role in get_args(SiteRole) for pair in self.pairs("training")):
            site = self.settings.site(role).name
            try:
                store = self.models(pair, role)
                names = [info.key.removeprefix(f"{POINTERS}/") for info in store.list(f"{POINTERS}/")]
                for name in (name.removesuffix(".json") for name in names if name.endswith(".json")):
                    pointer, _ = read_pointer(store, name)
                    if pointer is not None:
                        found.append(Served(site, name, pointer.version, pointer.revision))
            except (Transient, Denied, NotFound, Corrupt) as error:
                raise Refused(
                    f"nothing is pruned: what {site} serves of {pair.name} cannot be read ({error.message})",
                    hint="bring the site back, or correct its pair in the config, then prune again",
                ) from error
        return found

    def status(self) -> Status:
        """Gather the one screen. Raises Unreachable when the register or the vault cannot be read."""
        from understudy.status import Status, judge
        from understudy.vault.marks import read_marks

        state = self.register.read()
        standby = other(state.active)
        marks = read_marks(self.vault, self.settings.all_pairs(), (standby,))
        pinned = self.newest_set()
        protected = state.active == "home"
        return Status(
            service=self.name,
            active=self.settings.site(state.active).name,
            active_role=state.active,
            standby=self.settings.site(standby).name,
            epoch=state.epoch,
            writes=state.writes,
            holder=f"{state.holder}, at {state.holder.stage}" if state.holder else "",
            halt=state.halt,
            set_sentence=pinned.sentence if pinned else "no complete set yet",
            held=tuple(f"{item.model} {item.version}: {item.reason}" for item in pinned.held) if pinned else (),
            protected=protected,
            at=marks.now,
            vault=self._vault_proof(marks.now),
            transfer=self.transferred(marks.now),
            rows=tuple(
                judge(
                    self.settings,
                    now=marks.now,
                    watermarks=marks.watermarks,
                    proven=marks.proven[standby],
                    predicted=self._predicted(standby),
                    protected=protected,
                )
            ),
        )

    # ------------------------------------------------------------------ failover

    def world(self, target: SiteRole, *, catch_up: CatchUp | None = None) -> World:
        """Open all that a failover toward a site looks at and acts on.

        Args:
            target: the site that is to become active.
            catch_up: how the target is brought up to the plan's set; None calls this service's own methods.
        """
        from understudy.failover.world import FrontDoor, World

        settings = self.settings
        return World(
            settings=settings,
            register=self.register,
            vault=self.journal_vault(),
            traffic=opening.open_traffic(settings),
            compute=opening.open_compute(settings, target),
            alerts=opening.open_alerts(settings) if settings.alerts else None,
            outside=FrontDoor(settings, name=split_url(settings.traffic.url)[2]),
            catch_up=catch_up or self._catch_up(target),
            journal_directory=state_directory() / "journal" / self.name,
        )

    def _catch_up(self, target: SiteRole) -> CatchUp:
        from understudy.failover.world import CatchUp

        return CatchUp(
            hydrate_model=lambda sequence: [
                report
                for pair in self.pairs("training")
                for report in self.catch_up_models(pair, role=target, set_sequence=sequence)
            ],
            rebuild_index=lambda sequence: [
                report
                for pair in self.pairs("vector_index")
                for report in self.catch_up_index(pair, role=target, set_sequence=sequence)
            ],
            rebuild_features=lambda _sequence: [
                report for pair in self.pairs("feature_store") for report in self.catch_up_features(pair, role=target)
            ],
        )

    def pairs(self, component: ComponentName) -> tuple[Pair, ...]:
        """Return a component's pairs; none when it is not configured."""
        found = self.settings.components.get(component)
        return found.pairs if found else ()

    # ------------------------------------------------------------------ sets and pointers

    def compose_set(self) -> SetManifest | None:
        """Pin the newest model, index and features that belong together; None while one of them is missing.

        A service without an index or features pins what it has.

        Raises:
            Refused: a commander holds the epoch.
        """
        return self._compose(self._guarded(read_unheld(self.register)))

    def _compose(self, vault: Vault) -> SetManifest | None:
        from understudy.vault.sets import compose

        index, view = self._first_pair("vector_index"), self._first_pair("feature_store")
        if index is None and len(names := self._models_in_vault()) > 1:
            logger.info("no set of %s: without an index nothing says which of %s it serves", self.name, names)
            return None
        try:
            return compose(vault, self.name, index=index.name if index else None, view=view.name if view else None)
        except (NotFound, NotReady) as incomplete:
            logger.info("%s", incomplete)
            return None

    def newest_set(self) -> SetManifest | None:
        """Return the newest complete set, None before the first one."""
        from understudy.vault.sets import newest_set

        return newest_set(self.vault, self.name)

    def set_as_of(self, moment: datetime) -> SetManifest:
        """Return the set that was the newest at a moment of the vault's clock. Raises NotFound."""
        prefix = f"sets/{self.name}/"
        known = [info for info in self.vault.listing(prefix) if info.modified <= moment]
        if not known:
            raise NotFound(
                f"no set of {self.name} was complete at {moment.isoformat()}", next_command="understudy vault stat"
            )
        return self._set(int(known[-1].key.removeprefix(prefix).partition(".")[0]))

    def _set(self, sequence: int) -> SetManifest:
        from understudy.vault.sets import read_set

        return read_set(self.vault, self.name, sequence)

    def _pinned_sequence(self, pair: Pair, set_sequence: int | None) -> int | None:
        """Return which sequence of an index a set pins (None: the newest set); None when it pins none."""
        pinned = self.newest_set() if set_sequence is None else self._set(set_sequence)
        return pinned.index.sequence if pinned and pinned.index and pinned.index.name == pair.name else None

    def _models_in_vault(self) -> list[str]:
        from understudy.artifacts.catalog import revisions

        return sorted({name for name, _ in revisions(self.vault)})

    def _predicted(self, standby: SiteRole) -> dict[str, float]:
        """Return the seconds that the newest plan toward a site predicts, by component; empty without a fresh one."""
        from understudy.failover.plans import newest_plan

        try:
            plan = newest_plan(self.register.store, service=self.name, now=self.register.now())
        except Refused:
            return {}
        if plan.target != standby:
            return {}
        return dict.fromkeys(self.settings.components, plan.confirmed_seconds)

    def _first_pair(self, component: ComponentName) -> Pair | None:
        return next(iter(self.pairs(component)), None)

    def _record_work(self, role: SiteRole, pair: Pair, reports: list[Report]) -> None:
        """Keep by what a rebuild was proven; one that found nothing to do has proven nothing anew."""
        if self._transfer_budget is not None:
            self._transfer_budget.flush()
        self._record_proof(role, pair, [report for report in reports if report.verdict == "changed"])

    def _record_proof(self, role: SiteRole, pair: Pair, reports: list[Report]) -> None:
        """Keep by what a site was last proven, for the status."""
        proofs = [report.proven for report in reports if report.proven]
        if proofs:
            self._keep_beside_proof(role, pair, {"by": proofs[-1], "at": self.vault.store.now().isoformat()})

    def _keep_beside_proof(self, role: SiteRole, pair: Pair, values: dict[str, Any]) -> None:
        """Keep what was measured or proven of a pair at a site; what else is kept there stays.

        A measurement follows a proof: whoever reads the pointer finds that one in any case.
        """
        self.vault.move_pointer(proven_key(role, pair.name), lambda found: {**(found or {}), **values})

    @staticmethod
    def _as_served(report: Report, pinned: SetManifest | None) -> Report:
        """Turn a pushed version that the set does not serve into ``held``, with the reason."""
        if pinned is None or report.verdict != "changed":
            return report
        for item in pinned.held:
            if (item.model, item.version) == (report.name, report.version):
                sentence = f"{report.sentence}; held: {item.reason}"
                return replace(report, verdict="held", sentence=sentence)
        return report


def _move_watermark(vault: Vault, component: ComponentName, pair: Pair, watermark: datetime) -> None:
    """Move a pair's watermark forward; a slower run that began earlier never moves it back."""

    def forward(found: dict[str, str] | None) -> dict[str, str]:
        stood = datetime.fromisoformat(found["watermark"]) if found else None
        return {"watermark": max(watermark, stood or watermark).isoformat()}

    vault.move_pointer(watermark_key(component, pair.name), forward)


#: A restore of less says more of the store's answers than of its speed.
_MEASURED_BYTES_MIN = 16 << 20


def measurements(reports: list[Report], *, at: datetime) -> dict[str, Any]:
    """Return what a hydration measured: how quickly it restored, unless that was too little, and the loading. Pure."""
    found: dict[str, Any] = {}
    written = [report for report in reports if report.bytes_sent and report.bytes_read]
    size, seconds = sum(report.bytes_sent for report in written), sum(report.seconds for report in written)
    if size >= _MEASURED_BYTES_MIN and seconds > 0:
        read = sum(report.bytes_read for report in written)
        found["restore"] = {"bytes": size, "bytes_read": read, "seconds": round(seconds, 3), "at": at.isoformat()}
    for report in reports:
        loaded = report.details.get("loaded")
        if loaded and loaded["done"]:
            found["load"] = {"model": report.name, "at": at.isoformat()} | loaded
    return found


def _just_proven(report: Report) -> bool:
    """Whether a rebuild read back all that it wrote; one that found nothing to do has read nothing."""
    return report.verdict == "changed" and report.proven.startswith("digest")


def _not_of_set(report: Report, set_sequence: int, wanted: str) -> Conflict:
    return Conflict(
        f"{report.name} serves {report.version} when read back, set {set_sequence} pins {wanted}",
        hint="another run changes what is served there; find out which",
    )


def state_directory() -> Path:
    """Return where this machine keeps its copy of the journals (``$XDG_STATE_HOME/understudy``)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "understudy"


def open_service(config: str | os.PathLike[str] | None = None, *, dry: bool = False) -> Service:
    """Open the service of a config file (None: ``$UNDERSTUDY_CONFIG``), for a dry run or not. Raises InvalidConfig."""
    return Service(load_settings(config), dry=dry)
