"""The vault's whole road over every store: source -> vault -> target, checked, damaged, found, faulty, finished.

Sources and vaults are crossed: memory, files, S3 (moto), GCS (our sandbox); with ``--real-servers`` versitygw and
fake-gcs-server too. The target stands at the vault's own site, on the same kind of store.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from tests.servers import OBJECT_SERVERS
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.pointer import read_pointer
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, Transient
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.service import Service
from understudy.settings import Settings
from understudy.vault.sets import compose
from understudy.vault.store import open_vault
from understudy.vault.verify import verify
from understudy.vault.writing import ChunkWriter

if TYPE_CHECKING:
    from understudy.objects.interface import ObjectStore

pytestmark = pytest.mark.slow

STORES = ("memory", "file", *OBJECT_SERVERS)
SHA256 = {path: hashlib.sha256(data).hexdigest() for path, data in model_files(changed=1).items()}


def make_store(request, name, tmp_path, what) -> ObjectStore:
    if name == "memory":
        return MemoryStore(what)
    if name == "file":
        (tmp_path / what).mkdir()
        return FileStore(tmp_path / what)
    server = request.getfixturevalue("object_server")(name)
    return server.open(server.make_bucket(), what)


@pytest.fixture(params=STORES)
def source(request, tmp_path):
    """A model in two versions."""
    store = make_store(request, request.param, tmp_path, "source")
    for version, changed in (("1", None), ("2", 1)):
        for path, data in model_files(changed=changed).items():
            store.put(f"m/{version}/{path}", data)
    return store


@dataclass(frozen=True)
class Site:
    """The vault and the serving bucket of one site."""

    vault: ObjectStore
    target: ObjectStore


@pytest.fixture(params=STORES)
def site(request, tmp_path):
    stores = [make_store(request, request.param, tmp_path, what) for what in ("vault", "target")]
    return Site(*stores)


def served(store):
    return {path: hashlib.sha256(store.get(f"m/2/{path}")).hexdigest() for path in SHA256}


def test_a_model_crosses_and_comes_back_by_its_sha256(source, site):
    vault = open_vault(site.vault, service="s")
    assert ["changed", "changed"] == [report.verdict for report in push(source, vault)]
    watched = FaultyStore(source)
    assert ["unchanged"] == [report.verdict for report in push(watched, vault)]
    assert {"list"} == set(watched.calls)
    compose(vault, "s")
    for deep in (False, True):
        found = verify(vault, deep=deep)
        assert ((), 3, 0, 0) == (found.problems, found.manifests, found.orphans, found.unsealed)
    hydrate(vault, site.target, model="m", version="1")
    assert model_files() == {path: site.target.get(f"m/1/{path}") for path in model_files()}
    assert "changed" == hydrate(vault, site.target, model="m").verdict
    assert SHA256 == served(site.target)
    assert "unchanged" == hydrate(vault, site.target, model="m").verdict
    assert "sha256 5/5" == verify_hydrated(vault, site.target, "m").proven
    # The same vault, opened anew by whoever comes later, is the same.
    again = open_vault(site.vault, service="s")
    assert ["unchanged"] == [report.verdict for report in push(source, again)]


@pytest.fixture
def filled(site):
    """A site whose vault has both versions, and that serves the first."""
    models = MemoryStore("models")
    for version, changed in (("1", None), ("2", 1)):
        for path, data in model_files(changed=changed).items():
            models.put(f"m/{version}/{path}", data)
    vault = open_vault(site.vault)
    push(models, vault)
    hydrate(vault, site.target, model="m", version="1")
    return site


def test_damage_is_found_named_and_never_served(filled):
    vault = open_vault(filled.vault)
    pack = max(vault.store.list("packs/"), key=lambda info: info.size)
    data = bytearray(vault.store.get(pack.key))
    data[100] ^= 1
    vault.store.put(pack.key, bytes(data))
    [problem, *_] = verify(vault, deep=not vault.store.abilities.lists_crc32c).problems
    assert pack.key[-64:] in problem
    filled.target.delete("m/1/model.safetensors")
    with pytest.raises(Corrupt, match=pack.key[-64:]):
        hydrate(vault, filled.target, model="m", version="1")
    assert "m/1/model.safetensors" not in {info.key for info in filled.target.list()}


#: Method, which call of it, and whether it had its effect. Every write of a push, and every kind of call elsewhere:
#: that a kill at any call is made good is proven on files (tests/drill/test_killed_push.py).
PUSH_FAULTS = [("create", 1, True), ("create", 2, False), ("create", 3, True), ("list", 1, False), ("get", 1, False)]
HYDRATE_FAULTS = [("get", 2, False), ("get_range", 1, False)]
TARGET_FAULTS = [("put_stream", 1, False), ("put_stream", 3, True), ("replace", 1, False), ("replace", 1, True)]


def test_a_push_that_lost_calls_or_answers_is_finished_by_the_next(site, monkeypatch):
    monkeypatch.setitem(ChunkWriter.__init__.__kwdefaults__, "pack_bytes", 150_000)
    models = MemoryStore("models")
    for path, data in model_files(changed=1).items():
        models.put(f"m/2/{path}", data)
    faulty = FaultyStore(site.vault)
    for number, (method, nth, after) in enumerate(PUSH_FAULTS):
        # Each starts from what the one before left, with a new file, so that there always is something to send.
        models.put(f"m/2/extra-{number}.txt", f"{method} {nth} {after}".encode())
        faulty.heal().fail(method, nth=nth, after=after)
        faulty._seen.clear()
        with pytest.raises(Transient, match="the answer was lost"):
            push(models, open_vault(faulty))
        faulty.heal()
        assert () == verify(open_vault(site.vault), deep=True).problems, (method, nth, after)
        push(models, open_vault(site.vault))
    found = verify(open_vault(site.vault), deep=True)
    assert ((), 0) == (found.problems, found.orphans)
    hydrate(open_vault(site.vault), site.target, model="m")
    assert SHA256 == served(site.target)


def test_a_hydrate_that_lost_calls_or_answers_is_finished_by_the_next(filled):
    for where, faults in (("vault", HYDRATE_FAULTS), ("target", TARGET_FAULTS)):
        for method, nth, after in faults:
            hydrate(open_vault(filled.vault), filled.target, model="m", version="1")
            for path in SHA256:
                filled.target.delete(f"m/2/{path}")
            faulty = FaultyStore(getattr(filled, where)).fail(method, nth=nth, after=after)
            stores = {"vault": filled.vault, "target": filled.target, where: faulty}
            moved = (method, after) == ("replace", True)
            with pytest.raises(Transient, match="the answer was lost"):
                hydrate(open_vault(stores["vault"]), stores["target"], model="m")
            pointer, _ = read_pointer(filled.target, "m")
            assert ("2" if moved else "1") == pointer.version
            verify_hydrated(open_vault(filled.vault), filled.target, "m")  # what is served is whole, whichever it is
            for info in filled.target.list("m/2/"):
                path = info.key.removeprefix("m/2/")
                assert SHA256[path] == hashlib.sha256(filled.target.get(info.key)).hexdigest()
            hydrate(open_vault(filled.vault), filled.target, model="m")
            assert SHA256 == served(filled.target)


@pytest.mark.parametrize("method", ["get", "get_range"])
def test_a_body_that_came_short_and_unnoticed_never_becomes_a_file(filled, method):
    """What an adapter that checks nothing would hand over: each body is proven by who asked for it."""
    with pytest.raises(Corrupt):
        hydrate(open_vault(FaultyStore(filled.vault).cut(method, nth=None)), filled.target, model="m")
    pointer, _ = read_pointer(filled.target, "m")
    assert ("1", []) == (pointer.version, [info.key for info in filled.target.list("m/2/") if info.size])
    hydrate(open_vault(filled.vault), filled.target, model="m")
    assert SHA256 == served(filled.target)


def test_a_slow_store_changes_nothing_but_the_time(filled):
    slow = FaultyStore(filled.vault).slow("get_range", 0.02).slow("get", 0.02)
    hydrate(open_vault(slow), filled.target, model="m")
    assert SHA256 == served(filled.target)
    assert slow.calls["get_range"] > 0


CLOUDS = {"s3": "aws", "gcs": "gcp", "versitygw": "aws", "fake_gcs": "gcp"}


@pytest.fixture(params=OBJECT_SERVERS)
def home(request):
    return request.getfixturevalue("object_server")(request.param)


@pytest.fixture(params=OBJECT_SERVERS)
def away(request):
    return request.getfixturevalue("object_server")(request.param)


def test_a_service_of_any_two_clouds_is_backed_up_and_hydrated_from_its_config(home, away, tmp_path):
    """``vault.url`` on S3 as on GCS, either site in either cloud: the config names them and nothing else changes."""
    bucket = home.make_bucket()
    for path, data in model_files(changed=1).items():
        home.open(bucket, "models").put(f"m/2/{path}", data)
    sites = {
        role: {"name": role, **server.access.model_dump(exclude_none=True), "cloud": CLOUDS[server.name]}
        for role, server in (("home", home), ("away", away))
    }
    (tmp_path / "register").mkdir()
    pair = {"name": "models", "home": f"{home.scheme}://{bucket}/models/", "every": "02:00"}
    config = {
        "service": "s",
        "sites": sites,
        "vault": {"url": f"{away.scheme}://{away.make_bucket()}/service"},
        "register": {"url": f"file://{tmp_path}/register"},
        "components": {
            "training": {
                "rto": "4h",
                "rpo": "24h",
                "pairs": [{**pair, "away": f"{away.scheme}://{away.make_bucket()}/serving/"}],
            }
        },
        "traffic": {
            "url": "route53://ZONE/s.example",
            "addresses": {"home": "192.0.2.1", "away": "192.0.2.2"},
            "resolvers": ["192.0.2.3:53"],
        },
        "capacity": {"away": "gce://zone/group", "warm": 1, "full": 1},
    }
    service = Service(Settings.model_validate(json.loads(json.dumps(config))))
    service.register.initialise("test")
    training = service.settings.pair("training")
    assert ["changed"] == [report.verdict for report in service.push_artifacts(training)]
    assert ["changed"] == [report.verdict for report in service.hydrate(training)]
    assert ["sha256 5/5"] == [report.proven for report in service.verify_models(training)]
    assert SHA256 == served(service.models(training, "away"))
    assert ((), 2) == (verify(service.vault, deep=True).problems, verify(service.vault, deep=True).manifests)
    assert ["unchanged"] == [report.verdict for report in service.push_artifacts(training)]
