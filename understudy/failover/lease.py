"""Strict leases: a writer stops by itself when it could not renew, so that silence becomes proof."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from understudy.errors import Conflict, UnderstudyError

if TYPE_CHECKING:
    from understudy.failover.register import Register
    from understudy.settings import SiteRole

logger = logging.getLogger("understudy.lease")


class StrictLease:
    """One writer's lease, renewed by a thread; ``may_write`` is asked before every write.

    The lease runs from the moment *before* a good renewal was sent, on this machine's monotonic clock; the register
    committed it later than that. So when the register's clock has moved by ``seconds`` after a claim was committed,
    this writer has stopped, whatever its own wall clock says, however long it was frozen. (A write that was let through
    at the very end is still under way then: the fence waits its margin longer for that.)
    """

    def __init__(self, register: Register, *, name: str, site: SiteRole, seconds: float) -> None:
        """Prepare a lease; ``start`` begins to renew it.

        Args:
            register: where it is renewed.
            name: of this writer, unique among all of both sites.
            site: where it runs.
            seconds: how long it may write without a renewal; the fence of a failover waits as long.
        """
        self.name = name
        self.site = site
        self.seconds = seconds
        self._register = register
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._good_until = float("-inf")
        self._epoch: int | None = None
        self._why = "it has not reached the register yet"
        self._thread = threading.Thread(target=self._run, name=f"lease-{name}", daemon=True)

    @property
    def epoch(self) -> int | None:
        """The epoch this writer last renewed at or saw; None before the first answer."""
        return self._epoch

    def start(self) -> StrictLease:
        """Try once, then renew every third of the lease until ``stop``. Returns itself."""
        self.renew_once()
        self._thread.start()
        return self

    def may_write(self) -> bool:
        """Whether a write may be accepted at this very moment."""
        return not self._stopping.is_set() and time.monotonic() < self._good_until

    def why_not(self) -> str:
        """Say in words why ``may_write`` is False."""
        with self._lock:
            return self._why

    def renew_once(self) -> bool:
        """Renew now; what the thread does. Returns ``may_write``."""
        sent = time.monotonic()
        try:
            if self._epoch is None:
                self._epoch = self._register.read().epoch
            state = self._register.renew(self.name, self.site, self._epoch, self.seconds)
        except Conflict as error:
            self._set(float("-inf"), error.message)
            self._epoch = None  # learn the epoch anew at the next try
        except UnderstudyError as error:  # unreachable: goes on until the lease lapses
            with self._lock:
                self._why = f"its lease could not be renewed: {error.message}"
            logger.warning("%s could not renew its lease: %s", self.name, error.message)
        else:
            if state.writes:
                self._set(sent + self.seconds, "its lease lapsed")
            else:
                self._set(float("-inf"), f"writes are off at epoch {state.epoch}")
        return self.may_write()

    def stop(self) -> None:
        """Stop writing, then tell the register, if it answers, that this writer need not be waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self.seconds)
        self._set(float("-inf"), "it is stopping")
        try:
            self._register.drop(self.name)
        except UnderstudyError as error:
            logger.info("%s could not give back its lease, which lapses by itself: %s", self.name, error.message)

    def _run(self) -> None:
        while not self._stopping.wait(self.seconds / 3):
            try:
                self.renew_once()
            except Exception:  # a writer must never lose its renewing thread silently
                logger.exception("%s could not renew its lease", self.name)

    def _set(self, good_until: float, why: str) -> None:
        with self._lock:
            self._good_until = good_until
            self._why = why
