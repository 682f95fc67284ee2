"""One service and its two sites, opened from its config: what the tasks and the command line both call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from understudy import opening
from understudy.errors import Refused
from understudy.service.proofs import Proofs
from understudy.service.upkeep import Upkeep
from understudy.settings import load_settings, other, split_url

if TYPE_CHECKING:
    from understudy.failover.world import CatchUp, World
    from understudy.settings import SiteRole
    from understudy.status import Status


class Service(Proofs, Upkeep):
    """A service as the tasks and the command line see it."""

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


def state_directory() -> Path:
    """Return where this machine keeps its copy of the journals (``$XDG_STATE_HOME/understudy``)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "understudy"


def open_service(config: str | os.PathLike[str] | None = None, *, dry: bool = False) -> Service:
    """Open the service of a config file (None: ``$UNDERSTUDY_CONFIG``), for a dry run or not. Raises InvalidConfig."""
    return Service(load_settings(config), dry=dry)
