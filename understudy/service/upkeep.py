"""What keeps the vault itself in order: verifications, pruning, and what a restore from it would cost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, get_args

from understudy.errors import Conflict, Corrupt, Denied, NotFound, Refused, Transient
from understudy.failover.guard import read_unheld
from understudy.report import quiet
from understudy.service.records import Records
from understudy.settings import SiteRole
from understudy.vault.pointers import proven_key

if TYPE_CHECKING:
    from datetime import datetime

    from understudy.artifacts.estimate import RestoreCost
    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.report import Progress
    from understudy.vault.pruned import PruneResult, Served
    from understudy.vault.verified import Kind, VaultProof
    from understudy.vault.verify import VerifyResult

logger = logging.getLogger("understudy.service")


class Upkeep(Records):
    """The vault's own upkeep."""

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
