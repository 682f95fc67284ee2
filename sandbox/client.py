"""The service's users: they know its name and a resolver, and remember what was answered."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.resolver

from sandbox.questions import QUESTIONS

if TYPE_CHECKING:
    from sandbox.proof import Recorded
    from sandbox.stage import Stage
    from understudy.settings import Settings

#: A slow answer is one; only the stopwatch does not wait so long.
_TIMEOUT_SECONDS = 15.0
_WATCH_TIMEOUT_SECONDS = 3.0
_LOOK_SECONDS = 0.25


class NotAnswered(Exception):
    """The name did not resolve, nothing answered there, or it answered with an error; ``status`` is None or HTTP's."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Keep HTTP's status, if there was an answer."""
        super().__init__(message)
        self.status = status


class Client:
    """Calls the service by its name. Not for use from many threads: one each."""

    def __init__(self, settings: Settings, *, timeout: float = _TIMEOUT_SECONDS) -> None:
        """Take name, port and resolvers from the config."""
        self.name = settings.traffic.url.rpartition("/")[2]
        self.port = settings.traffic.port
        self._timeout = timeout
        self._resolver = dns.resolver.Resolver(configure=False)
        hosts = [resolver.rpartition(":") for resolver in settings.traffic.resolvers]
        self._resolver.nameservers = [host for host, _, _ in hosts]
        self._resolver.nameserver_ports = {host: int(port) for host, _, port in hosts}
        self._resolver.cache = dns.resolver.Cache()  # which keeps an answer for its TTL, as anybody does

    def resolve(self) -> str:
        """Return the IPv4 address that the name leads to now. Raises NotAnswered."""
        try:
            return str(self._resolver.resolve(self.name, "A", lifetime=self._timeout)[0])
        except dns.exception.DNSException as error:
            message = f"{self.name} does not resolve: {error}"
            raise NotAnswered(message) from error

    def health(self) -> dict[str, Any]:
        """GET /health. Raises NotAnswered."""
        return self.call("GET", "/health")

    def recommend(
        self, entity: str = "canary", text: str | None = None, *, k: int = 10, exact: bool = False
    ) -> dict[str, Any]:
        """POST /recommend. Raises NotAnswered."""
        return self.call("POST", "/recommend", {"entity": entity, "text": text, "k": k, "exact": exact})

    def write(self, entity: str, feature: str, value: Any) -> dict[str, Any]:
        """POST /features; returns when it was acknowledged. Raises NotAnswered, with 409 where nobody may write."""
        return self.call("POST", "/features", {"entity": entity, "feature": feature, "value": value})

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the service at the address its name leads to now. Raises NotAnswered."""
        address = self.resolve()
        connection = http.client.HTTPConnection(address, self.port, timeout=self._timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Host": self.name, "Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            message = f"{self.name} ({address}:{self.port}) does not answer: {error or type(error).__name__}"
            raise NotAnswered(message) from error
        finally:
            connection.close()
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            message = f"{self.name} answered {answer.status} with something that is not JSON"
            raise NotAnswered(message, answer.status) from error
        if answer.status != http.HTTPStatus.OK:
            message = f"{self.name} answered {answer.status}: {found.get('error', found)}"
            raise NotAnswered(message, answer.status)
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question was answered: the exact hits with their scores, and what the HNSW graph found."""

    question: str
    exact: tuple[tuple[str, float], ...]
    approximate: tuple[str, ...]


def ask(client: Client, *, k: int = 10) -> list[Answer]:
    """Ask all questions, each by exact scan and by the graph. Raises NotAnswered."""
    answers = []
    for question in QUESTIONS:
        exact = client.recommend(text=question, k=k, exact=True)["hits"]
        approximate = client.recommend(text=question, k=k)["hits"]
        answers.append(
            Answer(
                question,
                tuple((hit["id"], float(hit["score"])) for hit in exact),
                tuple(hit["id"] for hit in approximate),
            )
        )
    return answers


@dataclass(frozen=True, slots=True)
class Written:
    """One feature write that the service acknowledged."""

    entity: str
    feature: str
    value: int
    event_us: int
    acknowledged: datetime
    site: str


class Writer:
    """Users who keep writing features through the service's name, and remember what was acknowledged.

    Each write has a key of its own, so that every one of them can be looked for afterwards: now a new entity, now a
    new feature of one that has a history.

    Attributes:
        acknowledged: all that was, in the order of the acknowledgements.
        refused: how many writes were not.
    """

    def __init__(self, stage: Stage, *, users: int = 4, pause_seconds: float = 0.05) -> None:
        """Prepare; ``start`` begins.

        Args:
            stage: whose service is written to.
            users: who write at the same time, each waiting for its acknowledgement.
            pause_seconds: of a user between two writes.
        """
        self.acknowledged: list[Written] = []
        self.refused = 0
        self._settings = stage.settings
        self._pause = pause_seconds
        self._entities = stage.entities
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"writer-{number}", daemon=True) for number in range(users)
        ]

    def start(self) -> Writer:
        """Begin to write; returns itself."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> list[Written]:
        """Stop, and return all that was acknowledged."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        return self.acknowledged

    def _run(self) -> None:
        client = Client(self._settings)
        while not self._stopping.wait(self._pause):
            number = next(self._numbers)
            entity, feature = f"visitor-{number:06d}", "visits_7d"
            if number % 2:
                entity, feature = f"user-{number % self._entities:05d}", f"clicks_{number // self._entities}"
            try:
                answer = client.write(entity, feature, number)
            except NotAnswered:
                self.refused += 1
                self._stopping.wait(_LOOK_SECONDS)
                continue
            self.acknowledged.append(
                Written(entity, feature, number, int(answer["event_us"]), datetime.now(UTC), str(answer["site"]))
            )


class Watch:
    """Someone with a stopwatch: from the kill on asks and writes by name until both are right at the other site.

    Attributes:
        answered_seconds: from the kill to the first correct answer; None before it.
        recovered_seconds: from the kill to the first correct answer with a write accepted after it; None before it.
    """

    def __init__(self, stage: Stage, recorded: Recorded, *, site: str = "away") -> None:
        """Prepare; ``start`` starts the clock.

        Args:
            stage: whose service is asked.
            recorded: what is a correct answer.
            site: which must give it.
        """
        self.answered_seconds: float | None = None
        self.recovered_seconds: float | None = None
        self._client = Client(stage.settings, timeout=_WATCH_TIMEOUT_SECONDS)
        self._expected = recorded.answers[0]
        self._site = site
        self._started = 0.0
        self._failure = ""
        self._failed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> Watch:
        """Start the clock; returns itself."""
        self._started = time.monotonic()
        self._thread.start()
        return self

    def first_failure(self, timeout: float = 10.0) -> str:
        """Return what the first call said that was not answered, waiting for it; empty when all were."""
        self._failed.wait(timeout)
        return self._failure

    def wait(self, timeout: float) -> bool:
        """Wait until the service has recovered; False when it has not in that time."""
        self._thread.join(timeout)
        return self.recovered_seconds is not None

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wanted = tuple(id_ for id_, _ in self._expected.exact)
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                answer = self._client.recommend(text=self._expected.question, exact=True)
                if answer["site"] != self._site or tuple(hit["id"] for hit in answer["hits"]) != wanted:
                    continue
                if self.answered_seconds is None:
                    self.answered_seconds = time.monotonic() - self._started
                if self._client.write("stopwatch", "visits_7d", 1)["site"] == self._site:
                    self.recovered_seconds = time.monotonic() - self._started
                    return
            except NotAnswered as error:
                if not self._failure:
                    self._failure = str(error)
                    self._failed.set()
