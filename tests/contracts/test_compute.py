"""Compute over memory and the sandbox's Compute Engine, whose instances are real processes behind a balancer."""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from sandbox.process import free_port, launch, listens
from understudy.clouds import gcp
from understudy.compute.gce import GceCompute
from understudy.compute.memory import MemoryCompute
from understudy.errors import NotFound, NotReady, Refused, Unreachable
from understudy.settings import Access

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from understudy.compute.interface import Compute, Group

HOST = "127.0.0.3"
INSTANCE = """
import http.server, json, sys, time
time.sleep(0.5)  # a machine takes a while to boot
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        data = json.dumps({"name": sys.argv[2], "pid": __import__("os").getpid()}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        head = b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"  # one send: Nagle's pause is not ours
        self.wfile.write(head + b"%x\\r\\n%s\\r\\n0\\r\\n\\r\\n" % (len(data), data))
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.3", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def compute_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder, port = tmp_path_factory.mktemp("compute"), free_port(HOST)
    command = [sys.executable, "-m", "sandbox.compute_server", "--host", HOST, "--port", str(port)]
    instance = [sys.executable, "-c", INSTANCE, "{port}", "{name}"]
    where = ["--project", "acme", "--zone", "us-central1-a", "--group", "recommender-mig", "--size", "1"]
    files = ["--targets", folder / "targets.json", "--logs", folder / "logs"]
    process = launch(
        [*command, *where, *files, "--instance-command", json.dumps(instance)],
        name="Compute Engine",
        log=folder / "log",
        ready=lambda: listens(HOST, port),
    )
    yield f"http://{HOST}:{port}", folder / "targets.json"
    process.kill()


def open_gce(url: str, *, group: str = "recommender-mig") -> GceCompute:
    access = Access(cloud="gcp", project="acme", endpoints={"compute": url})
    return GceCompute(
        "acme",
        "us-central1-a",
        group,
        managers=gcp.instance_group_managers_client(access),
        operations=gcp.zone_operations_client(access),
        poll_seconds=0.05,
    )


@pytest.fixture(params=["memory", "gce"])
def compute(request: pytest.FixtureRequest) -> Compute:
    if request.param == "memory":
        return MemoryCompute("recommender-mig", size=1)
    found = open_gce(request.getfixturevalue("compute_url")[0])
    found.resize(1)
    found.await_running(1, seconds_max=20)
    return found


def test_a_group_grows_until_all_its_instances_run(compute: Compute) -> None:
    seen: list[Group] = []
    asked = compute.resize(3)
    group = compute.await_running(3, seconds_max=20, tell=seen.append)

    assert 3 == asked.size
    assert ("recommender-mig", 3, 3, True) == (group.name, group.size, group.running, group.stable)
    assert group == compute.read() == seen[-1]
    assert group == compute.resize(3)


def test_a_group_shrinks(compute: Compute) -> None:
    compute.resize(2)
    compute.await_running(2, seconds_max=20)
    compute.resize(0)
    group = compute.await_running(0, seconds_max=20)

    assert (0, 0) == (group.size, group.running)


def test_a_size_below_nothing_is_refused(compute: Compute) -> None:
    with pytest.raises(Refused):
        compute.resize(-1)


def test_instances_that_do_not_come_up_are_said() -> None:
    small = MemoryCompute("recommender-mig", size=1, capacity=2)
    small.resize(4)

    with pytest.raises(NotReady, match="2 of 4 instances of recommender-mig run"):
        small.await_running(4, seconds_max=0)


def test_a_group_waits_only_so_long(compute_url: tuple[str, Path]) -> None:
    found = open_gce(compute_url[0])

    with pytest.raises(NotReady, match=r"of 50 instances of recommender-mig run after 0\.2s"):
        found.await_running(50, seconds_max=0.2)


def test_a_group_that_is_not_there_is_not_found(compute_url: tuple[str, Path]) -> None:
    with pytest.raises(NotFound, match="was not found"):
        open_gce(compute_url[0], group="nobody").read()


def test_a_compute_engine_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        open_gce(f"http://{HOST}:{free_port(HOST)}").read()


def test_only_instances_that_answer_are_targets(compute_url: tuple[str, Path]) -> None:
    url, targets = compute_url
    found = open_gce(url)
    found.resize(1)
    found.await_running(1, seconds_max=20)
    before = found.resize(3)

    assert (3, 1, False) == (before.size, before.running, before.stable)
    assert 1 == len(json.loads(targets.read_text()))
    found.await_running(3, seconds_max=20)
    assert 3 == len(json.loads(targets.read_text()))


# ---------------------------------------------------------------------- behind the balancer


def get(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
        return json.loads(answer.read())


def test_the_balancer_serves_from_all_that_run_and_passes_over_the_dead(
    compute_url: tuple[str, Path], tmp_path: Path
) -> None:
    url, targets = compute_url
    found, port = open_gce(url), free_port(HOST)
    found.resize(2)
    found.await_running(2, seconds_max=20)
    balancer = launch(
        [sys.executable, "-m", "sandbox.balancer", "--host", HOST, "--port", str(port), "--targets", targets],
        name="balancer",
        log=tmp_path / "log",
        ready=lambda: listens(HOST, port),
    )
    front = f"http://{HOST}:{port}/"
    try:
        answers = [get(front) for _ in range(8)]
        assert 2 == len({answer["name"] for answer in answers})

        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        times = []
        for number in range(100):
            began = time.perf_counter()
            body = json.dumps({"n": number, "text": "x" * 2000})
            connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
            assert number == json.loads(connection.getresponse().read())["n"]
            times.append(time.perf_counter() - began)
        connection.close()
        assert statistics.quantiles(times, n=20)[-1] < 0.05, statistics.median(times)

        os.kill(int(str(answers[0]["pid"])), signal.SIGKILL)
        assert all("name" in get(front) for _ in range(6))
        group = found.await_running(2, seconds_max=20)
        assert (2, 2) == (group.size, group.running)

        found.resize(0)
        found.await_running(0, seconds_max=20)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(front)
    finally:
        balancer.kill()
