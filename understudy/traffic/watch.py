"""The cutover from outside: what resolvers answer, and what a client of the service gets through that answer."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import NotReady, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP call gave.

    Attributes:
        status: HTTP status.
        body: as text, at most 64 kB.
        seconds: from connecting to the last byte.
    """

    status: int
    body: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the status says success."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Seen:
    """What the watch saw when it was content.

    Attributes:
        resolvers: how many resolvers answer the new address.
        good: calls in a row that were answered well.
        slowest: seconds of the slowest of these.
        canary: whether a write was accepted; None when no canary is configured.
    """

    resolvers: int
    good: int
    slowest: float
    canary: bool | None


class Client:
    """Calls one service by name at an address that the caller chose; what a load balancer's client does.

    Args:
        name: of the service; the Host header and, over https, the name the certificate must have.
        port: TCP port at every address.
        scheme: http or https.
        timeout: seconds for connecting and for each read.
    """

    def __init__(self, name: str, port: int, *, scheme: str = "https", timeout: float = 2.0) -> None:
        """Keep what is the same for all calls."""
        self.name = name
        self.port = port
        self.scheme = scheme
        self.timeout = timeout

    def call(self, address: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """GET, or POST a JSON body. Raises Unreachable when there is no answer; a bad status is an answer."""
        started = time.monotonic()
        connection = http.client.HTTPConnection(address, self.port, timeout=self.timeout)
        try:
            plain = socket.create_connection((address, self.port), timeout=self.timeout)
            if self.scheme == "https":
                connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.name)
            else:
                connection.sock = plain
            data = None if body is None else json.dumps(body).encode()
            headers = {"Host": self.name, "Connection": "close"}
            if data is not None:
                headers["Content-Type"] = "application/json"
            connection.request("GET" if data is None else "POST", path, body=data, headers=headers)
            response = connection.getresponse()
            text = response.read(65_536).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            message = f"{self.scheme}://{address}:{self.port}{path} does not answer"
            raise Unreachable(message, hint=str(error) or type(error).__name__) from error
        finally:
            connection.close()
        return Answer(response.status, text, time.monotonic() - started)


def resolve(name: str, resolver: str = "", *, timeout: float = 1.0) -> list[str]:
    """Return the IPv4 addresses that one resolver answers, sorted; empty when the name has none.

    Args:
        name: to look up.
        resolver: ``host:port`` or ``host``; empty asks the system's own.
        timeout: seconds for the whole question.

    Raises:
        Unreachable: the resolver does not answer.
    """
    import dns.exception  # the watch alone needs it, and it is slow to import
    import dns.resolver

    asked = dns.resolver.Resolver(configure=not resolver)
    if resolver:
        host, _, port = resolver.partition(":")
        asked.nameservers = [host]
        asked.port = int(port or _DNS_PORT)
    asked.cache = None
    try:
        answer = asked.resolve(name, "A", lifetime=timeout, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError) as error:
        message = f"the resolver {resolver or 'of this system'} does not answer about {name}"
        raise Unreachable(message, hint=str(error)) from error
    return sorted(str(record) for record in answer)


def watch(
    client: Client,
    *,
    address: str,
    resolvers: Sequence[str],
    health: str,
    probe: tuple[str, dict[str, Any]] | None,
    canary: tuple[str, dict[str, Any]] | None,
    times: int,
    seconds_max: float,
    pause: float = 0.2,
    tell: Callable[[str], None] | None = None,
) -> Seen:
    """Wait until the name leads every resolver to ``address`` and the service answers there, ``times`` times in a row.

    Each call goes to the address that a resolver answered just then, as a client's call would.

    Args:
        client: of the service.
        address: that the name must lead to.
        resolvers: ``host:port`` each; empty asks the system's own.
        health: path of the health check, GET.
        probe: path and JSON body of a real question, POST; None asks none.
        canary: path and JSON body of a write, POST; None writes none.
        times: good rounds in a row.
        seconds_max: how long to watch; at least the records' TTL plus what the service needs.
        pause: seconds between two rounds.
        tell: called with a sentence when what is seen changes.

    Raises:
        NotReady: not within that time; says what was wrong last.
    """
    asked = list(resolvers) or [""]
    deadline = time.monotonic() + seconds_max
    good, slowest, said = 0, 0.0, ""
    written: bool | None = None if canary is None else False
    while True:
        wrong = _round(client, asked, address, health, probe)
        if isinstance(wrong, float):
            good, slowest = good + 1, max(slowest, wrong)
            if canary is not None and not written:
                problem = _ask(client, address, *canary)
                written = isinstance(problem, float)
                said_now = f"the canary write: {problem}" if not written else "the canary write was accepted"
            else:
                said_now = f"{good} of {times} good answers through {len(asked)} resolvers"
        else:
            good, slowest, said_now = 0, 0.0, wrong
        if said_now != said and tell is not None:
            tell(said_now)
        said = said_now
        if good >= times and written is not False:
            return Seen(len(asked), good, slowest, written)
        if time.monotonic() > deadline:
            message = f"after {seconds_max:g}s the cutover of {client.name} is not confirmed: {said}"
            raise NotReady(message, hint="the same command goes on watching", next_command="understudy failover status")
        time.sleep(pause)


def _round(
    client: Client, resolvers: Sequence[str], address: str, health: str, probe: tuple[str, dict[str, Any]] | None
) -> float | str:
    """Return the seconds of the slowest call, or what was wrong."""
    for resolver in resolvers:
        try:
            found = resolve(client.name, resolver)
        except Unreachable as error:
            return error.message
        if found != [address]:
            where = resolver or "the system's resolver"
            return f"{where} still answers {', '.join(found) or 'nothing'}, not {address}"
    slowest = 0.0
    for path, body in ((health, None), *([probe] if probe else [])):
        took = _ask(client, address, path, body)
        if isinstance(took, str):
            return took
        slowest = max(slowest, took)
    return slowest


def _ask(client: Client, address: str, path: str, body: dict[str, Any] | None) -> float | str:
    try:
        answer = client.call(address, path, body)
    except Unreachable as error:
        return error.message
    return answer.seconds if answer.good else f"{path} answers {answer.status}"
