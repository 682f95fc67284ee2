"""Cut, slowed, reset, stalled and dead connections during push and hydrate, by Toxiproxy before real servers.

Each run is either finished, and equal by SHA-256, or ends with a sentence that says what to do; then the next one
finishes. There is never a wrong file, nor a pointer to something that is not whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from tests.real_servers import real
from tests.toxiproxy import proxied
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.pointer import read_pointer
from understudy.artifacts.replicate import push
from understudy.clouds import aws, gcp
from understudy.errors import Transient
from understudy.objects import gcs
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault
from understudy.vault.verify import verify
from understudy.vault.writing import ChunkWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import ObjectServer
    from tests.toxiproxy import Proxy
    from understudy.objects.interface import ObjectStore

pytestmark = [pytest.mark.slow, pytest.mark.real("toxiproxy")]

#: In place of the clients' own 20 s without a byte, after which a connection counts as dead.
_READ_SECONDS = 3


def files(version):
    noise = np.random.default_rng(int(version)).bytes(1_500_000)
    return model_files(changed=int(version)) | {"weights.bin": noise}


SHA256 = {path: hashlib.sha256(data).hexdigest() for path, data in files("2").items()}


@dataclass(frozen=True)
class Road:
    """A vault as it is reached through the proxy, and directly."""

    proxy: Proxy
    around: FaultyStore
    direct: ObjectStore
    source: MemoryStore
    server: ObjectServer


@pytest.fixture(params=[real("versitygw"), real("fake_gcs")])
def road(request, real_server, object_server, monkeypatch) -> Iterator[Road]:
    monkeypatch.setitem(ChunkWriter.__init__.__kwdefaults__, "pack_bytes", 300_000)
    monkeypatch.setattr(aws, "READ_SECONDS", _READ_SECONDS)
    monkeypatch.setattr(gcp, "READ_SECONDS", _READ_SECONDS)
    monkeypatch.setattr(gcs, "_TIMEOUT_SECONDS", (1, _READ_SECONDS))
    source = MemoryStore("source")
    for version in ("1", "2"):
        for path, data in files(version).items():
            source.put(f"m/{version}/{path}", data)
    server = object_server(request.param)
    bucket = server.make_bucket()
    api = real_server("toxiproxy")["UNDERSTUDY_TOXIPROXY"]
    with proxied(api, server.url) as proxy, server.leading_to(proxy.url) as around:
        yield Road(proxy, FaultyStore(around.open(bucket)), server.open(bucket), source, server)


def cut(proxy):
    for stream in ("upstream", "downstream"):
        proxy.poison("limit_data", stream=stream, bytes=100_000)


def slow(proxy):
    for stream in ("upstream", "downstream"):
        proxy.poison("bandwidth", stream=stream, rate=1_500)
        proxy.poison("latency", stream=stream, latency=20, jitter=10)


def reset(proxy):
    proxy.poison("reset_peer", timeout=20)


def stall(proxy):
    for stream in ("upstream", "downstream"):
        proxy.poison("timeout", stream=stream, timeout=0)


def down(proxy):
    proxy.down()


def restart(proxy):
    proxy.down()
    proxy.heal()


ENDS = [cut, reset, stall, down]
FINISHES = [slow, restart]


def told(error):
    """A person can read it: what is wrong, what to do, and that trying again may help."""
    assert error.hint, error.message
    assert (9, True) == (error.exit_code, "\n" not in str(error))


def check(road, *, whole):
    """What is visible in the vault is whole, as whoever reaches it directly sees it."""
    found = verify(open_vault(road.direct), deep=True)
    assert () == found.problems
    if whole:
        assert (2, 0) == (found.manifests, found.orphans)


@pytest.mark.parametrize("fault", ENDS + FINISHES, ids=lambda fault: fault.__name__)
def test_a_push_is_finished_or_says_so_and_the_next_one_finishes(road, fault):
    vault = open_vault(road.around)
    road.around.run("create", partial(fault, road.proxy), nth=3)
    try:
        push(road.source, vault)
        finished = True
    except Transient as error:
        told(error)
        finished = False
    assert finished or fault in ENDS
    assert not finished or fault in FINISHES
    road.proxy.heal()
    check(road, whole=finished)
    sent = {info.key for info in road.direct.list("packs/")}
    push(road.source, open_vault(road.around.heal()))
    check(road, whole=True)
    assert sent <= {info.key for info in road.direct.list("packs/")}
    target = MemoryStore("target")
    hydrate(open_vault(road.direct), target, model="m")
    assert SHA256 == {path: hashlib.sha256(target.get(f"m/2/{path}")).hexdigest() for path in SHA256}


def serve_first(road, target):
    vault = open_vault(road.direct)
    push(road.source, vault)
    hydrate(vault, target, model="m", version="1")


def hydrated(road, target, run: Callable[[], object], *, fault) -> None:
    """Run a hydrate of version 2 in which something breaks, and judge what the target shows then and after the next."""
    try:
        run()
        finished = True
    except Transient as error:
        told(error)
        finished = False
    assert finished or fault in ENDS
    assert not finished or fault in FINISHES
    road.proxy.heal()
    pointer, _ = read_pointer(target, "m")
    assert ("2" if finished else "1") == pointer.version
    verify_hydrated(open_vault(road.direct), target, "m")
    for info in target.list("m/2/"):
        assert SHA256[info.key.removeprefix("m/2/")] == hashlib.sha256(target.get(info.key)).hexdigest()
    hydrate(open_vault(road.around.heal()), target, model="m")
    assert SHA256 == {path: hashlib.sha256(target.get(f"m/2/{path}")).hexdigest() for path in SHA256}
    assert "2" == verify_hydrated(open_vault(road.direct), target, "m").version


@pytest.mark.parametrize("fault", ENDS + FINISHES, ids=lambda fault: fault.__name__)
def test_a_hydrate_from_a_broken_road_is_finished_or_says_so(road, fault):
    target = MemoryStore("target")
    serve_first(road, target)
    road.around.run("get_range", partial(fault, road.proxy), nth=1)
    hydrated(road, target, lambda: hydrate(open_vault(road.around), target, model="m"), fault=fault)


@pytest.mark.parametrize("fault", ENDS + FINISHES, ids=lambda fault: fault.__name__)
def test_a_hydrate_to_a_broken_target_is_finished_or_says_so(road, fault):
    bucket = road.server.make_bucket()
    with road.server.leading_to(road.proxy.url) as around:
        target, direct = FaultyStore(around.open(bucket)), road.server.open(bucket)
        serve_first(road, direct)
        target.run("put_stream", partial(fault, road.proxy), nth=2)
        vault = open_vault(road.direct)
        hydrated(road, direct, lambda: hydrate(vault, target, model="m"), fault=fault)


def test_a_body_that_stalls_ends_in_bounded_time(road):
    """Nothing waits for ever: what has sent no byte for READ_SECONDS (20 s outside of this test) is given up."""
    road.direct.put("body", bytes(1_000_000))
    for call in (
        lambda: road.around.get("body"),
        lambda: road.around.get_range("body", 0, 900_000),
        lambda: road.around.create("new", bytes(1_000_000)),
        lambda: road.around.put_stream("stream", [bytes(1_000_000)] * 20, 20_000_000),
        lambda: list(road.around.list()),
    ):
        stall(road.proxy)
        with pytest.raises(Transient) as caught:
            call()
        told(caught.value)
        road.proxy.heal()
    assert ["body"] == [info.key for info in road.direct.list()]
