"""One prune at a time: an object of the vault that a prune holds, and renews."""

from __future__ import annotations

import logging
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from understudy.errors import Conflict, Denied, HeldByAnother, NotFound
from understudy.vault.condemned import LOCK_KEY
from understudy.vault.store import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

#: A prune that has not renewed its lock for so long is taken for dead.
LOCK_FOR = timedelta(hours=1)
_RENEW_AFTER = timedelta(minutes=10)


class PruneLock:
    """Held by one prune at a time. A dead one's is taken over after ``LOCK_FOR``, by the vault's clock."""

    def __init__(self, vault: Vault, still_allowed: Callable[[], object]) -> None:
        self._vault = vault
        self._still_allowed = still_allowed
        self._token = ""
        self._renewed = vault.store.now()
        self._body = to_json({"host": socket.gethostname(), "process": os.getpid(), "began": self._renewed.isoformat()})

    def __enter__(self) -> Self:
        store = self._vault.store
        self._still_allowed()
        try:
            stands = store.head(LOCK_KEY)
        except NotFound:
            expected = None
        else:
            if self._renewed - stands.modified < LOCK_FOR:
                raise HeldByAnother(
                    f"another prune of {self._vault.url} is under way since {stands.modified:%Y-%m-%d %H:%MZ}",
                    hint=f"when it has died, run this again after {stands.modified + LOCK_FOR:%H:%MZ}",
                )
            expected = stands.token
        try:
            self._token = store.replace(LOCK_KEY, self._body, expected=expected).token
        except Conflict as error:
            raise HeldByAnother(f"another prune of {self._vault.url} has just begun", hint="let it finish") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Let go, if it is still this run's."""
        try:
            if self._vault.store.head(LOCK_KEY).token == self._token:
                self._vault.store.delete(LOCK_KEY)
        except (NotFound, Denied, Conflict) as error:
            logger.warning("the lock of the prune was not removed: %s", error)

    def hold(self) -> None:
        """Return while this run may change things; renews the lock. Raises HeldByAnother."""
        self._still_allowed()
        store = self._vault.store
        now = store.now()
        try:
            lost = store.head(LOCK_KEY).token != self._token
            if not lost and now - self._renewed > _RENEW_AFTER:
                body = to_json({"renewed": now.isoformat(), "host": socket.gethostname(), "process": os.getpid()})
                self._token, self._renewed = store.replace(LOCK_KEY, body, expected=self._token).token, now
        except (NotFound, Conflict):
            lost = True
        if lost:
            words = f"another prune of {self._vault.url} took over meanwhile"
            raise HeldByAnother(words, hint="let it finish; nothing is lost")
