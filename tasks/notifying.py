"""Slack, PagerDuty and others through Prefect's notification blocks; nothing waits more than two seconds for them."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from understudy import notices
from understudy.errors import InvalidConfig, UnderstudyError, Unreachable
from understudy.notices import Marks, Notice
from understudy.service import open_service
from understudy.threads import BEST_EFFORT_SECONDS, best_effort
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from prefect.blocks.abstract import NotificationBlock

    from understudy.failover.engine import Outcome
    from understudy.failover.plan import Plan
    from understudy.failover.telling import Event
    from understudy.service import Service

logger = logging.getLogger("understudy.prefect")

#: A custom webhook gets the key as its subject, so that its template can hand it on (PagerDuty's dedup_key).
_TAKES_KEY = "custom-webhook"


class Channel:
    """One notification block of the config's ``notify``."""

    def __init__(self, reference: str) -> None:
        """Name the block: ``block:slack-webhook/incidents``."""
        self.name = reference.removeprefix("block:")
        self._block: NotificationBlock | None = None

    def send(self, subject: str, key: str, sentence: str) -> None:
        """Send now. No error shows what the block holds: its URL is a secret.

        Raises:
            InvalidConfig: there is no such block, or it is of another kind.
            Unreachable: it did not take the words.
        """
        block = self.open()
        if self.name.startswith(f"{_TAKES_KEY}/"):
            subject = key
        try:
            with block.raise_on_failure():
                sending: object = block.notify(body=sentence, subject=subject)
                if inspect.iscoroutine(sending):  # a block that has the asynchronous form alone
                    asyncio.run(sending)
        except Exception as error:  # noqa: BLE001 - whatever it was, its words may hold the URL
            status = getattr(getattr(error, "response", None), "status_code", None)
            why = f"answers {status}" if status else type(error).__name__
            raise Unreachable(f"block:{self.name} did not take the notice: {why}") from None

    def open(self) -> NotificationBlock:
        """Load the block; kept, so that a Prefect server that dies later does not matter. Raises as ``send`` does."""
        if self._block is None:
            self._block = self._load()
        return self._block

    def _load(self) -> NotificationBlock:
        from prefect.blocks.abstract import NotificationBlock
        from prefect.blocks.core import Block

        try:
            block = Block.load(self.name)
        except ValueError:
            raise InvalidConfig(
                f"the Prefect block {self.name} does not exist", hint="make deploy says how to create it"
            ) from None
        except Exception as error:  # noqa: BLE001 - Prefect's client has a dozen kinds
            raise Unreachable(f"block:{self.name} cannot be read from Prefect: {type(error).__name__}") from None
        if not isinstance(block, NotificationBlock):
            raise InvalidConfig(f"block:{self.name} is no notification block", hint="see notify in the config")
        return block


class Announcer:
    """Tells every channel from a thread of its own, each thing once."""

    def __init__(self, service: Service) -> None:
        """Start the thread; without channels there is none."""
        self._service = service
        self._channels = [Channel(reference) for reference in service.settings.notify]
        self._queue: queue.SimpleQueue[Callable[[Marks], None] | None] = queue.SimpleQueue()
        context = contextvars.copy_context()  # so that what it logs finds the run's page
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="notify", daemon=True)
        if self._channels:
            self._thread.start()

    def tell(self, *said: Notice) -> None:
        """Have notices told, and return at once."""
        for notice in said:
            self._queue.put(lambda marks, notice=notice: self._tell(marks, notice))  # type: ignore[misc]

    def stand(self, standing: dict[str, Notice | None], epoch: int) -> None:
        """Have told what begins to stand against a failover, and what no longer does; return at once.

        What stood in an earlier epoch is over first: marks are an epoch's, and nobody else would end it.
        """
        self._queue.put(lambda marks: self._end_earlier(marks, epoch))
        for what, notice in standing.items():
            known = notice or Notice(self._service.name, epoch, what, "")
            self._queue.put(lambda marks, known=known, on=bool(notice): self._stand(marks, known, on=on))  # type: ignore[misc]

    def close(self, seconds: float = BEST_EFFORT_SECONDS) -> None:
        """Wait until all was told, but not longer than ``seconds``; a slow channel may still hear the rest."""
        self._queue.put(None)
        if self._channels:
            self._thread.join(seconds)
            if self._thread.is_alive():
                logger.warning("a notification took longer than %.0f s; going on without it", seconds)

    def _run(self) -> None:
        marks = Marks(Vault(self._service.register.store))
        for channel in self._channels:
            with suppress(UnderstudyError):  # said when it is to carry something
                channel.open()
        while (action := self._queue.get()) is not None:
            try:
                action(marks)
            except Exception as error:  # noqa: BLE001 - a notification must not matter
                logger.warning("a notification was not possible: %s", error)

    def _tell(self, marks: Marks, notice: Notice) -> None:
        for channel in self._channels:
            self._send(marks, channel, notice)

    def _stand(self, marks: Marks, notice: Notice, *, on: bool) -> None:
        for channel in self._channels:
            if on:
                self._send(marks, channel, notice)
            else:
                self._end(marks, channel, notice, "")

    def _end_earlier(self, marks: Marks, epoch: int) -> None:
        for channel in self._channels:
            for notice in marks.open_before(self._service.name, epoch, channel.name):
                self._end(marks, channel, notice, f" (of epoch {notice.epoch}; what stands now is told by itself)")

    def _end(self, marks: Marks, channel: Channel, notice: Notice, more: str) -> None:
        sentence = f"{notice.service}: over: {notice.what}{more}"
        try:
            marks.over(notice, channel.name, lambda: channel.send(notice.service, notice.key, sentence))
        except UnderstudyError as error:
            logger.warning("%s", error)

    def _send(self, marks: Marks, channel: Channel, notice: Notice) -> None:
        sentence = f"{notice.service}: {notice.sentence}"
        subject = f"understudy {notice.service} epoch {notice.epoch}"
        try:
            marks.once(notice, channel.name, lambda: channel.send(subject, notice.key, sentence))
        except UnderstudyError as error:
            logger.warning("%s", error)


class Commentary:
    """What a failover tells while it runs."""

    def __init__(self, announcer: Announcer, plan: Plan) -> None:
        """Speak of one plan."""
        self._announcer = announcer
        self._plan = plan

    def heard(self, listener: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return a listener that also tells people what they must know."""

        def listen(event: Event) -> None:
            listener(event)
            self._announcer.tell(*notices.of_event(event, self._plan))

        return listen

    def ended(self, outcome: Outcome) -> None:
        """Tell that the failover is done."""
        self._announcer.tell(*notices.of_outcome(outcome, self._plan))


@contextmanager
def announced(service: Service, plan: Plan) -> Iterator[Commentary]:
    """Tell people of a failover: what it says, how it ended, or why it did not."""
    announcer = Announcer(service)
    try:
        yield Commentary(announcer, plan)
    except UnderstudyError as error:
        announcer.tell(notices.of_error(error, plan))
        raise
    finally:
        announcer.close()


def announce_standing(config: str, plan: Plan) -> None:
    """Tell once what stands against a failover: a missed target, a gate that would refuse. Best effort."""
    service = open_service(config or None)
    if not service.settings.notify:
        return
    announcer = Announcer(service)

    def read() -> None:
        status = service.status()
        announcer.stand(notices.of_standing(status, plan), status.epoch)

    best_effort(read, "reading the status", seconds=5 * BEST_EFFORT_SECONDS)
    announcer.close(5 * BEST_EFFORT_SECONDS)
