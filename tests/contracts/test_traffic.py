"""Traffic over memory and Route 53 (moto): shares move together, are read back, and never leave the name empty."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.process import free_port, launch
from tests.servers import new_name
from understudy.clouds import aws
from understudy.errors import Conflict, NotFound, NotReady, Refused, Unreachable
from understudy.settings import Access
from understudy.traffic.interface import Routing, Way
from understudy.traffic.memory import MemoryTraffic
from understudy.traffic.route53 import Route53Traffic
from understudy.traffic.watch import Client, resolve, watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from understudy.traffic.interface import Traffic

HOME, AWAY = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def zone(aws_access: Access) -> str:
    name = f"{new_name('zone')}.example."
    return aws.client("route53", aws_access).create_hosted_zone(Name=name, CallerReference=name)["HostedZone"]["Id"]


def open_route53(access: Access, zone: str) -> Route53Traffic:
    client = aws.client("route53", access)
    name = client.get_hosted_zone(Id=zone)["HostedZone"]["Name"]
    return Route53Traffic(zone.rpartition("/")[2], f"recommend.{name}", client=client)


@pytest.fixture(params=["memory", "route53"])
def traffic(request: pytest.FixtureRequest) -> Traffic:
    if request.param == "memory":
        return MemoryTraffic("recommend.example")
    return open_route53(request.getfixturevalue("aws_access"), request.getfixturevalue("zone"))


def test_a_name_without_records_says_so(traffic: Traffic) -> None:
    with pytest.raises(NotReady, match="has no records"):
        traffic.read()


def test_all_traffic_starts_at_the_active_site(traffic: Traffic) -> None:
    routing = traffic.prepare({"home": HOME, "away": AWAY}, active="home", ttl=5)

    assert {"home": Way(HOME, 100), "away": Way(AWAY, 0)} == routing.ways
    assert (5, 100, 0) == (routing.ttl, routing.share("home"), routing.share("away"))
    assert routing == traffic.read()


def test_shares_move_together_and_are_read_back(traffic: Traffic) -> None:
    start = traffic.prepare({"home": HOME, "away": AWAY}, active="home", ttl=5)
    half = traffic.shift({"home": 80, "away": 20}, expected=start)
    whole = traffic.shift({"home": 0, "away": 100}, expected=half)

    assert (20, 100) == (half.share("away"), whole.share("away"))
    assert whole == traffic.shift({"home": 0, "away": 100}, expected=whole) == traffic.read()
    assert "home 0 %, away 100 %" == str(whole)


def test_shares_that_someone_else_moved_are_a_conflict(traffic: Traffic) -> None:
    start = traffic.prepare({"home": HOME, "away": AWAY}, active="home", ttl=5)
    moved = traffic.shift({"home": 50, "away": 50}, expected=start)

    with pytest.raises(Conflict, match=r"someone else|not to"):
        traffic.shift({"home": 0, "away": 100}, expected=start)
    assert moved == traffic.read()


@pytest.mark.parametrize("shares", [{"home": 0, "away": 0}, {"home": -1, "away": 100}, {"away": 100}])
def test_the_name_is_never_left_without_an_answer(traffic: Traffic, shares: Any) -> None:
    start = traffic.prepare({"home": HOME, "away": AWAY}, active="home", ttl=5)

    with pytest.raises(Refused):
        traffic.shift(shares, expected=start)
    assert start == traffic.read()


def test_a_zone_that_is_gone_is_not_found(aws_access: Access) -> None:
    with pytest.raises(NotFound):
        Route53Traffic("Z0000", "recommend.example", client=aws.client("route53", aws_access)).read()


def test_a_route53_that_does_not_answer_is_unreachable() -> None:
    nobody = Access(endpoints={"route53": f"http://127.0.0.1:{free_port()}"})

    with pytest.raises(Unreachable):
        Route53Traffic("Z0000", "recommend.example", client=aws.client("route53", nobody)).read()


# ---------------------------------------------------------------------- from outside, through DNS


@pytest.fixture
def outside(aws_access: Access, zone: str, tmp_path: Path) -> Iterator[tuple[Route53Traffic, str]]:
    traffic, port = open_route53(aws_access, zone), free_port()
    traffic.prepare({"home": HOME, "away": AWAY}, active="home", ttl=7)
    command = [sys.executable, "-m", "sandbox.dns_server", "--port", str(port)]
    process = launch(
        [*command, "--route53-endpoint", aws_access.endpoints["route53"], "--zone-id", traffic.zone],
        name="DNS",
        log=tmp_path / "log",
        ready=lambda: resolve(traffic.name, f"127.0.0.1:{port}", timeout=0.5) == [HOME],
    )
    yield traffic, f"127.0.0.1:{port}"
    process.kill()


class Service(http.server.BaseHTTPRequestHandler):
    """Answers, and takes writes after the first three."""

    protocol_version = "HTTP/1.1"
    refusals = 3
    bad_rounds: frozenset[int] | set[int] = frozenset()
    asked: list[tuple[str, str, Any]] = []  # noqa: RUF012 - a new class a test

    def do_GET(self) -> None:
        self._answer(500 if len(self.asked) + 1 in self.bad_rounds else 200)

    def do_POST(self) -> None:
        if self.path == "/features" and type(self).refusals:
            type(self).refusals -= 1
            return self._answer(503)
        return self._answer(200)

    def log_message(self, *args: object) -> None:
        """Be silent."""

    def _answer(self, status: int) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked.append((self.path, self.headers["Host"], json.loads(body) if body else None))
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def service() -> Iterator[tuple[type[Service], int]]:
    handler = type("Handler", (Service,), {"asked": [], "refusals": 3})
    server = http.server.ThreadingHTTPServer((AWAY, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_resolver_answers_from_the_records_with_their_ttl_and_weights(outside: tuple[Route53Traffic, str]) -> None:
    import dns.message
    import dns.query

    traffic, resolver = outside
    traffic.shift({"home": 50, "away": 50}, expected=traffic.read())
    time.sleep(0.3)

    host, _, port = resolver.partition(":")
    seen = set()
    for _ in range(60):
        answer = dns.query.udp(dns.message.make_query(traffic.name, "A"), host, port=int(port), timeout=2)
        assert 7 == answer.answer[0].ttl
        seen.add(str(answer.answer[0][0]))
    assert {HOME, AWAY} == seen
    assert [] == resolve(f"nobody.{traffic.name}", resolver)


def test_a_cutover_is_confirmed_when_resolvers_service_and_a_write_agree(
    outside: tuple[Route53Traffic, str], service: tuple[type[Service], int]
) -> None:
    traffic, resolver = outside
    handler, port = service
    said: list[str] = []
    threading.Timer(0.4, lambda: traffic.shift({"home": 0, "away": 100}, expected=traffic.read())).start()

    seen = watch(
        Client(traffic.name, port, scheme="http"),
        address=AWAY,
        resolvers=[resolver],
        health="/health",
        probe=("/recommend", {"entity": "canary"}),
        canary=("/features", {"entity": "canary"}),
        times=3,
        seconds_max=10,
        pause=0.02,
        tell=said.append,
    )

    assert (1, True) == (seen.resolvers, seen.canary)
    assert seen.good >= 3
    assert f"{resolver} still answers {HOME}, not {AWAY}" == said[0]
    assert "the canary write: /features answers 503" in said
    assert {traffic.name} == {host for _, host, _ in handler.asked}
    assert ("/recommend", traffic.name, {"entity": "canary"}) in handler.asked


def test_good_answers_count_only_in_a_row(
    outside: tuple[Route53Traffic, str], service: tuple[type[Service], int]
) -> None:
    traffic, resolver = outside
    handler, port = service
    traffic.shift({"home": 0, "away": 100}, expected=traffic.read())
    handler.bad_rounds = {3, 4}
    time.sleep(0.3)

    seen = watch(
        Client(traffic.name, port, scheme="http"),
        address=AWAY,
        resolvers=[resolver],
        health="/health",
        probe=None,
        canary=None,
        times=3,
        seconds_max=10,
        pause=0.01,
    )

    assert (3, None) == (seen.good, seen.canary)
    assert 7 == len(handler.asked)


def test_a_cutover_that_a_resolver_does_not_see_is_not_confirmed(outside: tuple[Route53Traffic, str]) -> None:
    traffic, resolver = outside

    with pytest.raises(NotReady, match=f"still answers {HOME}, not {AWAY}"):
        watch(
            Client(traffic.name, 1, scheme="http"),
            address=AWAY,
            resolvers=[resolver],
            health="/health",
            probe=None,
            canary=None,
            times=1,
            seconds_max=0.3,
            pause=0.05,
        )


def test_a_service_that_does_not_answer_is_not_confirmed(outside: tuple[Route53Traffic, str]) -> None:
    traffic, resolver = outside

    with pytest.raises(NotReady, match="does not answer"):
        watch(
            Client(traffic.name, free_port(HOME), scheme="http"),
            address=HOME,
            resolvers=[resolver],
            health="/health",
            probe=None,
            canary=None,
            times=1,
            seconds_max=0.2,
            pause=0.05,
        )


def test_a_resolver_that_is_gone_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        resolve("recommend.example", f"127.0.0.1:{free_port()}", timeout=0.3)


def test_the_address_of_a_routing_without_shares_is_zero() -> None:
    assert 0 == Routing("x", {"home": Way(HOME, 0)}, 5).share("home")
