"""What running a plan and undoing one have in common: taking over, waiting, leaving in order, and telling."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from understudy.errors import HeldByAnother, UnderstudyError
from understudy.failover.journal import Journal
from understudy.failover.telling import Event
from understudy.redaction import redact
from understudy.report import human_seconds
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.failover.hold import Hold
    from understudy.failover.plan import Plan
    from understudy.failover.register import Claim, State
    from understudy.failover.steps import Pace, Run
    from understudy.failover.world import World

logger = logging.getLogger("understudy.failover")


class Commander:
    """One process that acts on one plan at one epoch."""

    def __init__(
        self, plan: Plan, world: World, *, who: str, host: str, pace: Pace, tell: Callable[[Event], None]
    ) -> None:
        """Name the plan, the world it acts on, and who acts where."""
        self.plan = plan
        self.world = world
        self.who = who
        self.host = host
        self.pace = pace
        self.tell = tell
        self.epoch = plan.epoch + 1
        self.journal: Journal
        self.started = time.monotonic()

    def journal_of(self, state: State) -> Journal:
        """Return the journal of the plan's epoch under a register; not yet read."""
        return Journal(
            self.world.vault,
            Vault(self.world.register.store),
            epoch=self.epoch,
            who=f"{self.who}@{self.host}",
            plan=self.plan.id,
            register=state.id,
            directory=self.world.journal_directory,
            service=self.plan.service,
            clock=self.world.register.reckoned,
        )

    def take_over(self, *, aborting: str = "") -> Claim:
        """Take over our plan once its holder's hold has lapsed; at once refused while that is somebody else's.

        Raises:
            HeldByAnother: another commander lives.
            Refused: see ``Register.take_over``.
        """
        register = self.world.register
        first = register.read().holder
        while True:
            try:
                return register.take_over(
                    self.plan.id, who=self.who, host=self.host, seconds=self.pace.hold_seconds, aborting=aborting
                )
            except HeldByAnother:
                holder = register.read().holder
                if holder is None or first is None:
                    raise
                alive = (holder.nonce, holder.beat) != (first.nonce, first.beat)
                if alive or (holder.who, holder.host) != (self.who, self.host):
                    raise
                left = (register.hold_expires(holder) - register.now()).total_seconds()
                self.say(holder.stage, "", "told", f"the hold of {holder} lapses in {human_seconds(max(left, 0))}")
                time.sleep(max(self.pace.poll_seconds, min(left / 2, 1.0)))

    def wait_out(self, run: Run) -> None:
        """Wait until a call that an earlier process may have sent can no longer arrive."""
        deadline = time.monotonic() + self.pace.effect_seconds
        while (left := deadline - time.monotonic()) > 0:
            run.tell(f"waiting {human_seconds(left)} until an earlier call can no longer arrive")
            run.hold.check()
            time.sleep(min(left, 1.0))

    def leave(self, hold: Hold, why: str) -> None:
        """Say in the journal and the register that this process stops; neither may stand in the error's way."""
        why = redact(why)  # a vendor's own words may repeat what it was sent
        self.say(hold.stage, "", "stopped", why, seconds=time.monotonic() - self.started)
        try:
            self.journal.write("stopped", "", {"stage": hold.stage, "why": why}, confirm=hold.own)
            hold.stop()
            self.world.register.leave(hold.claim, hold.stage)
        except UnderstudyError as error:
            logger.warning("the epoch could not be left in order, its hold lapses by itself: %s", error.message)

    def teller_about(self, stage: str, action: str) -> Callable[[str], None]:
        """Return what says a sentence about an action that begins now."""
        return partial(self._tell_about, stage, action, time.monotonic())

    def _tell_about(self, stage: str, action: str, started: float, sentence: str) -> None:
        self.say(stage, action, "told", sentence, seconds=time.monotonic() - started)

    def say(
        self,
        stage: str,
        action: str,
        what: Any,  # noqa: ANN401 - one of Event's words
        sentence: str,
        *,
        seconds: float = 0.0,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Tell whoever listens."""
        self.tell(Event(stage, action, what, sentence, seconds, data or {}))
