"""A commander's hold of an epoch: a sign of life in the register, and the check before every effect."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from understudy.errors import HeldByAnother, StoppedPartWay, UnderstudyError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from understudy.failover.register import Claim, Register

logger = logging.getLogger("understudy.failover")


class Hold:
    """Keeps a claim alive from a thread while the engine works; use it as a context manager.

    Like a writer's lease it counts from the moment before the last good sign of life was sent, so ``check`` fails here
    before anybody else may take over.
    """

    def __init__(self, register: Register, claim: Claim, *, seconds: float, stage: str = "validate") -> None:
        """Hold a claim that was made or taken over a moment ago, for ``seconds`` at a time."""
        self.claim = claim
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
        """Return when this process surely holds the epoch.

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
            self._register.beat(self.claim, self._stage)
        except HeldByAnother as error:
            self._lost = error
        except UnderstudyError as error:
            logger.warning("no sign of life could be left in the register: %s", error.message)
        else:
            self._good_until = sent + self._seconds

    def _run(self) -> None:
        while not self._stopping and self._lost is None:
            self._wake.wait(self._seconds / 3)
            self._wake.clear()
            if not self._stopping:
                self._beat()
