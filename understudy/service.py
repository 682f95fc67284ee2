"""One service and its two sites, opened from its config: what the tasks and the command line both call.

The direction comes from the register alone: replication flows from the active site toward the other one, and when
the register cannot be read, nothing flows.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from understudy import opening
from understudy.errors import NotFound, Refused, Unreachable
from understudy.report import Progress, Report, quiet
from understudy.settings import Pair, Settings, SiteRole, load_settings, other
from understudy.vault.store import Vault, open_vault

if TYPE_CHECKING:
    import os
    from datetime import datetime

    from understudy.failover.register import Register
    from understudy.features.interface import OnlineStore
    from understudy.objects.interface import ObjectStore
    from understudy.vault.sets import SetManifest
    from understudy.vectors.interface import VectorStore

logger = logging.getLogger("understudy.service")


class Service:
    """The service's stores at both sites; each is opened when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def name(self) -> str:
        """The service's name."""
        return self.settings.service

    @cached_property
    def vault(self) -> Vault:
        """The vault that protects the service. Raises Unreachable, Unsupported."""
        return open_vault(opening.open_store(self.settings.vault.url, self.settings.sites.away))

    @cached_property
    def register(self) -> Register:
        """The epoch and the leases."""
        return opening.open_register(self.settings)

    def active(self) -> SiteRole:
        """Return which site the register calls active.

        Raises:
            Refused: the register cannot be read; without it nobody may say which way to copy.
        """
        try:
            return self.register.read().active
        except (Unreachable, NotFound) as error:
            raise Refused(
                f"the register {self.settings.register_.url} cannot be read, so nothing is copied",
                hint=f"bring it back, then run this again ({error.message})",
            ) from error

    def standby(self) -> SiteRole:
        """Return the site that is not active. Raises Refused like ``active``."""
        return other(self.active())

    def replicates_from(self, pair: Pair) -> SiteRole:
        """Return the source of a pair's replication: the active site, if the vault stands at the other one.

        Raises:
            Refused: the vault stands at the active site itself; filling it from there would protect nothing.
        """
        source = self.active()
        if source == "away":
            raise Refused(
                f"{self.settings.sites.away.name} is active and holds the vault itself, so {pair.name} is not copied",
                hint="the service is unprotected until the other site is rebuilt",
                next_command="understudy status",
            )
        return source

    def models(self, pair: Pair, role: SiteRole) -> ObjectStore:
        """Open the bucket that holds a site's models."""
        return opening.open_store(pair.home if role == "home" else pair.away, self.settings.site(role))

    def index(self, pair: Pair, role: SiteRole) -> VectorStore:
        """Open a site's vector index."""
        return opening.open_vectors(
            pair.home if role == "home" else pair.away, self.settings.site(role), password=pair.password
        )

    def online(self, pair: Pair, role: SiteRole) -> OnlineStore:
        """Open a site's online feature store."""
        return opening.open_features(pair.home if role == "home" else pair.away, self.settings.site(role))

    def offline(self, pair: Pair, role: SiteRole) -> ObjectStore:
        """Open the offline feature store that a site reads and appends to: at the away site, the vault's own copy."""
        if role == "home":
            return opening.open_store(pair.offline or pair.home, self.settings.sites.home)
        return opening.open_store(f"{self.settings.vault.url.rstrip('/')}/offline/", self.settings.sites.away)

    # ------------------------------------------------------------------ what the schedules run

    def push_artifacts(self, pair: Pair, *, model: str | None = None, progress: Progress = quiet) -> list[Report]:
        """Send new and changed model versions into the vault, then pin what belongs together."""
        from understudy.artifacts.replicate import push

        source = self.models(pair, self.replicates_from(pair))
        reports = push(source, self.vault, model=model, progress=progress)
        self.compose_set()
        return reports

    def hydrate(
        self, pair: Pair, *, role: SiteRole | None = None, model: str | None = None, progress: Progress = quiet
    ) -> list[Report]:
        """Bring a site's serving bucket to the model that the newest set pins (role None: the standby)."""
        from understudy.artifacts.hydrate import hydrate

        target = self.models(pair, role or self.standby())
        names = [model] if model else self._models_to_serve()
        return [hydrate(self.vault, target, model=name, service=self.name, progress=progress) for name in names]

    def export_vectors(self, pair: Pair, *, progress: Progress = quiet) -> Report:
        """Export the active site's index into the vault, then pin what belongs together."""
        from understudy.vectors.replicate import export

        source = self.index(pair, self.replicates_from(pair))
        report = export(
            source, self.vault, index=pair.name, deletes_max=self.settings.limits.deletes_max, progress=progress
        )
        self.compose_set()
        return report

    def rebuild_index(self, pair: Pair, *, role: SiteRole | None = None, progress: Progress = quiet) -> Report:
        """Rebuild a site's index from the vault (role None: the standby)."""
        from understudy.vectors.replicate import rebuild

        target = self.index(pair, role or self.standby())
        pinned = self.newest_set()
        sequence = pinned.index.sequence if pinned and pinned.index and pinned.index.name == pair.name else None
        return rebuild(
            self.vault,
            target,
            index=pair.name,
            sequence=sequence,
            deletes_max=self.settings.limits.deletes_max,
            progress=progress,
        )

    def replicate_offline(self, pair: Pair) -> Report:
        """Copy the active site's offline feature store into the vault, then pin what belongs together."""
        from understudy.features.replicate import replicate_offline

        source = self.offline(pair, self.replicates_from(pair))
        report = replicate_offline(source, self.vault, view=pair.name, deletes_max=self.settings.limits.deletes_max)
        self.compose_set()
        return report

    def rebuild_features(
        self,
        pair: Pair,
        *,
        role: SiteRole | None = None,
        as_of: datetime | None = None,
        progress: Progress = quiet,
    ) -> Report:
        """Rebuild a site's online store from the vault's offline store (role None: the standby)."""
        from understudy.features.rebuild import rebuild

        return rebuild(
            self.vault,
            self.online(pair, role or self.standby()),
            view=pair.name,
            as_of=as_of,
            deletes_max=self.settings.limits.deletes_max,
            progress=progress,
        )

    def compose_set(self) -> SetManifest | None:
        """Pin the newest model, index and features that belong together; None while one of them is missing."""
        from understudy.vault.sets import compose

        models = self._models_in_vault()
        indexes = self.settings.components["vector_index"].pairs if "vector_index" in self.settings.components else ()
        views = self.settings.components["feature_store"].pairs if "feature_store" in self.settings.components else ()
        if not (models and indexes and views):
            return None
        with suppress(NotFound):
            return compose(self.vault, self.name, model=models[0], index=indexes[0].name, view=views[0].name)
        return None

    def newest_set(self) -> SetManifest | None:
        """Return the newest complete set, None before the first one."""
        from understudy.vault.sets import newest_set

        return newest_set(self.vault, self.name)

    def _models_in_vault(self) -> list[str]:
        return sorted({info.key.split("/")[1] for info in self.vault.store.list("artifacts/")})

    def _models_to_serve(self) -> list[str]:
        pinned = self.newest_set()
        return [pinned.model.name] if pinned else self._models_in_vault()


def open_service(config: str | os.PathLike[str] | None = None) -> Service:
    """Open the service of a config file (None: ``$UNDERSTUDY_CONFIG``). Raises InvalidConfig."""
    return Service(load_settings(config))
