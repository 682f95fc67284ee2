"""What the vault keeps of a service: sets of what belongs together, watermarks, and what was proven and measured."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from understudy.errors import NotFound, NotReady
from understudy.failover.guard import read_unheld
from understudy.service.stores import Stores
from understudy.vault.pointers import proven_key, watermark_key

if TYPE_CHECKING:
    from typing import Any

    from understudy.report import Report
    from understudy.settings import ComponentName, Pair, SiteRole
    from understudy.vault.sets import SetManifest
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.service")


class Records(Stores):
    """Sets, watermarks and proofs."""

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


def move_watermark(vault: Vault, component: ComponentName, pair: Pair, watermark: datetime) -> None:
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
