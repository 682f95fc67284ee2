"""What a site serves is read back; a failover brings it up to a set first, and makes anew what was damaged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from understudy.errors import Conflict, Corrupt
from understudy.service.copies import Copies

if TYPE_CHECKING:
    from understudy.report import Report
    from understudy.settings import Pair, SiteRole

logger = logging.getLogger("understudy.service")


class Proofs(Copies):
    """Reading back, and the catching up of a failover."""

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


def _just_proven(report: Report) -> bool:
    """Whether a rebuild read back all that it wrote; one that found nothing to do has read nothing."""
    return report.verdict == "changed" and report.proven.startswith("digest")


def _not_of_set(report: Report, set_sequence: int, wanted: str) -> Conflict:
    return Conflict(
        f"{report.name} serves {report.version} when read back, set {set_sequence} pins {wanted}",
        hint="another run changes what is served there; find out which",
    )
