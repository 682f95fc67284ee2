"""A service's stores at both sites, each opened when it is first asked for, and which way copies go.

The direction comes from the register alone: replication flows from the active site toward the other one, and when
the register cannot be read, nothing flows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from understudy import opening
from understudy.errors import InvalidConfig, Refused, Transient
from understudy.failover.guard import GuardedStore, read_register, read_unheld
from understudy.settings import other, split_url
from understudy.vault.store import Vault, decrypting, open_to_read, open_vault

if TYPE_CHECKING:
    from datetime import datetime

    from understudy.failover.register import Register, State
    from understudy.features.interface import OnlineStore
    from understudy.objects.interface import ObjectStore
    from understudy.settings import ComponentName, Pair, Settings, Site, SiteRole
    from understudy.transfer.budget import TransferBudget, Transferred
    from understudy.transfer.limit import Bandwidth
    from understudy.vault.encryption import Encryption
    from understudy.vault.signing import Signing
    from understudy.vectors.interface import VectorStore


class Stores:
    """The service's stores at both sites."""

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

    def pairs(self, component: ComponentName) -> tuple[Pair, ...]:
        """Return a component's pairs; none when it is not configured."""
        found = self.settings.components.get(component)
        return found.pairs if found else ()

    def _first_pair(self, component: ComponentName) -> Pair | None:
        return next(iter(self.pairs(component)), None)
