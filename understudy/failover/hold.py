"""A commander's hold of an epoch: a sign of life in the register, and the check before every effect.

Not to be mixed up with the order ``failover hold``, which the register calls a halt: it stops whoever holds an epoch.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from understudy.errors import HeldByAnother, StoppedPartWay, UnderstudyError
from understudy.failover.register import held_by, lost

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from understudy.failover.register import Claim, Halt, Register, State

logger = logging.getLogger("understudy.failover")


class Halted(StoppedPartWay):
    """A commander has ordered to stop; nothing failed."""


class Hold:
    """Keeps a claim alive from a thread while the engine works; use it as a context manager.

    Like a writer's lease it counts from the moment before the last good sign of life was sent, so ``check`` fails here
    before anybody else may take over.
    """

    def __init__(
        self, register: Register, claim: Claim, *, seconds: float, stage: str = "validate", despite: Halt | None = None
    ) -> None:
        """Hold a claim that was made or taken over a moment ago.

        Args:
            register: where the signs of life are left.
            claim: that is held.
            seconds: for which one sign of life is good.
            stage: where the engine is.
            despite: an order to stop that was known, and is passed over, when this began; any other one stops it.
        """
        self.claim = claim
        self._despite = despite
        self._halt: Halt | None = None
        self._register = register
        self._seconds = seconds
        self._stage = stage
        self._good_until = float("-inf")
        self._lost: HeldByAnother | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"hold-{claim.epoch}", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread; the register keeps the claim until ``finish`` or ``leave``."""
        self.stop()

    def stop(self) -> None:
        """Leave no more signs of life. Idempotent."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=self._seconds)

    @property
    def stage(self) -> str:
        """Where the engine is."""
        return self._stage

    def at(self, stage: str) -> None:
        """Say where the engine is; the register learns it within a moment."""
        if stage != self._stage:
            self._stage = stage
            self._wake.set()

    def check(self) -> None:
        """Return when this process surely holds the epoch, and nobody has ordered it to stop, as far as is known here.

        Raises:
            HeldByAnother: someone else took over.
            Halted: a commander ordered to stop.
            StoppedPartWay: the register did not answer for so long that someone else might have.
        """
        self.own()
        if self._halt is not None:
            message = f"failovers are {self._halt.sentence}"
            hint = "after understudy failover release the same command resumes; understudy failover abort goes back"
            raise Halted(message, hint=hint, next_command="understudy failover release")

    def look(self) -> None:
        """Ask the register once more, then ``check``: done right before an effect, so that an order stops it."""
        self._ask()
        self.check()

    def lost(self) -> HeldByAnother | None:
        """Ask the register once more whether somebody else took over: then an error was theirs to make, not ours."""
        self._ask()
        return self._lost

    def own(self) -> None:
        """Return when this process surely holds the epoch: what was done may be written down.

        Raises:
            HeldByAnother: someone else took over.
            StoppedPartWay: the register did not answer for so long that someone else might have.
        """
        if self._lost is not None:
            raise self._lost
        if time.monotonic() >= self._good_until:
            self._beat()  # once more, now: the thread may just be late
        if self._lost is not None:
            raise self._lost
        if time.monotonic() >= self._good_until:
            message = f"the register did not answer for {self._seconds:g}s, so epoch {self.claim.epoch} may be lost"
            raise StoppedPartWay(
                message,
                hint="bring the register back; the same command resumes",
                next_command="understudy failover run",
            )

    def _beat(self) -> None:
        sent = time.monotonic()
        try:
            self._notice(self._register.beat(self.claim, self._stage))
        except HeldByAnother as error:
            self._lost = error
        except UnderstudyError as error:
            logger.warning("no sign of life could be left in the register: %s", error.message)
        else:
            self._good_until = sent + self._seconds

    def _ask(self) -> None:
        try:
            self._notice(self._register.read())
        except UnderstudyError as error:
            logger.warning("the register does not answer: %s", error.message)

    def _notice(self, state: State) -> None:
        """Learn what the register says about this claim and about orders to stop."""
        holder, halt = state.holder, state.halt
        if holder is None or holder.nonce != self.claim.nonce:
            self._lost = held_by(holder, state.epoch) if holder else lost(self.claim, state)
        self._halt = None if halt is None or (self._despite and halt.nonce == self._despite.nonce) else halt

    def _run(self) -> None:
        while not self._stopping and self._lost is None:
            self._wake.wait(self._seconds / 3)
            self._wake.clear()
            if not self._stopping:
                self._beat()
