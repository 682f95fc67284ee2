"""Each identity's code against its own generated policy: nothing is refused, and nothing is granted that is not used.

The vendors' own clients talk to moto, to the sandbox's Cloud Storage, Bigtable and Compute Engine; the gate in between
refuses what the policy does not allow, as the cloud would.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import sys
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.process import free_port, launch, listens
from tests.contracts.test_compute import HOST, INSTANCE
from tests.models import model_files
from tests.permissions import Call, Gate, on_object
from tests.servers import new_name
from tests.unit.command.test_kit import write_kit
from tests.unit.example import example
from tests.unit.features.offline_store import logged, put_history, put_log
from tests.vector_sites import PgvectorSite, make_rows
from understudy import opening
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.clouds import aws
from understudy.errors import Conflict, Denied
from understudy.failover.decide import Acceptances
from understudy.failover.engine import prepare
from understudy.failover.engine import run as run_plan
from understudy.failover.lease import StrictLease
from understudy.failover.observed import Health
from understudy.failover.plans import load_plan, save_plan
from understudy.features.live import begin
from understudy.features.log import LogWriter
from understudy.iam.policies import policies_of
from understudy.kit import fetch_kit, keep_kit, read_kit
from understudy.metrics.gather import gather
from understudy.notices import Marks, Notice
from understudy.service import Service
from understudy.settings import Settings
from understudy.traffic.watch import Seen
from understudy.vault.pruned import Rules
from understudy.vault.pruning import prune
from understudy.vault.retention import Keep
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from understudy.iam.policies import Policies

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """The end of a process, as far as one process can end itself and look at what it left."""


class Place:
    """Two sites on loopback, filled by their owner, whom no policy binds."""

    def __init__(self, document: dict[str, Any], home: PgvectorSite) -> None:
        self.settings = Settings.model_validate(document)
        self.home = home
        self.owner = Service(self.settings)
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in _files("1").items()}
        text = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
        made_by = hashlib.sha256(text.encode()).hexdigest()
        home.create(make_rows(40), labels={"model": "m", "model_version": "1", "model_digest": made_by})
        self.put_model("1")
        self.put_features(1)
        self.owner.register.initialise(self.settings.service)

    def put_model(self, version: str) -> None:
        store = self.owner.models(self.owner.settings.pair("training"), "home")
        for path, data in _files(version).items():
            store.put(f"m/{version}/{path}", data)

    def put_features(self, number: int) -> None:
        store = self.owner.offline(self.settings.pair("feature_store"), "home")
        put_history(store, 20 * number, name=f"day{number}")
        put_log(store, number, [logged(f"user:{number:05d}", "clicks", str(number), 60.0 * number)])

    def change(self, number: int = 2) -> None:
        """Give each component something new."""
        self.put_model(str(number))
        self.put_features(number)
        self.home.upsert(make_rows(40 + number, seed=number))

    def policies(self, identity: str, **options: Any) -> Policies:
        return policies_of(identity, self.settings, **options)


def _files(version: str) -> dict[str, bytes]:
    # More than are asked for one by one: they are pinned by a listing of versions.
    notes = {f"notes/{number:02d}.txt": f"{version} {number}".encode() for number in range(20)}
    return model_files(changed=None if version == "1" else int(version), rows=16) | notes


@pytest.fixture(params=["gs", "s3"])
def vault_scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_place(  # noqa: PLR0917 - one a server
    make_s3_bucket: Callable[..., str],
    make_bucket_gcs: Callable[..., str],
    make_database: Callable[[], str],
    moto_url: str,
    gcs_url: str,
    bigtable_endpoint: str,
) -> Callable[..., Place]:
    """Return what makes the two sites; the vault and the standby's models are in GCS or in S3."""

    def make(scheme: str = "gs", **changes: Any) -> Place:
        home, away = PgvectorSite(make_database()), PgvectorSite(make_database())
        table = new_name("features").replace("-", "_")
        bucket = make_bucket_gcs if scheme == "gs" else make_s3_bucket
        away_endpoints = {"gcs": gcs_url, "bigtable": bigtable_endpoint, "s3": moto_url, "dynamodb": moto_url}
        online = f"bigtable://acme/understudy/{table}" if scheme == "gs" else f"dynamodb://{table}_away"
        document = example(
            **{
                "sites.home.endpoints": {"s3": moto_url, "dynamodb": moto_url},
                "sites.away": {
                    "name": "standby", "cloud": "gcp" if scheme == "gs" else "aws", "region": "us-east-1",
                    "project": "acme", "endpoints": away_endpoints,
                },
                "register": {
                    "url": f"s3://{make_s3_bucket(versioned=False)}/recommender", "endpoints": {"s3": moto_url}
                },
                "vault.url": f"{scheme}://{bucket()}/recommender",
                "components.feature_store.pairs.0.offline": f"s3://{make_s3_bucket()}/features/",
                "components.feature_store.pairs.0.home": f"dynamodb://{table}",
                "components.feature_store.pairs.0.away": online,
                "components.vector_index.pairs.0.home": f"{home.url}?table=products&user=understudy",
                "components.vector_index.pairs.0.away": f"{away.url}?table=products&user=understudy",
                "components.training.pairs.0.home": f"s3://{make_s3_bucket()}/",
                "components.training.pairs.0.away": f"{scheme}://{bucket()}/",
                **changes,
            }
        )  # fmt: skip
        return Place(document, home)

    return make


def open_as(place: Place, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Open the service as an identity whose every request goes through the gate."""
    gate.stand_before_clients(monkeypatch)
    return Service(place.settings)


def replicate(service: Service) -> list[str]:
    """Run what the schedules run as the replicator, and return the verdicts."""
    settings = service.settings
    reports = [
        *service.push_artifacts(settings.pair("training")),
        service.export_vectors(settings.pair("vector_index")),
        service.replicate_offline(settings.pair("feature_store")),
    ]
    return [report.verdict for report in reports]


def fill(service: Service) -> list[str]:
    """Run what the schedules run as the hydrator, and its read-backs."""
    settings = service.settings
    models, index, features = (settings.pair(each) for each in ("training", "vector_index", "feature_store"))
    reports = [*service.hydrate(models), service.rebuild_index(index), service.rebuild_features(features)]
    reports += [*service.verify_models(models), service.verify_index(index), service.verify_features(features)]
    return [report.verdict for report in reports]


def granted(policies: Policies) -> set[str]:
    """Return all that a policy allows, by name."""
    found: set[str] = set()
    for statement in (policies.aws or {"Statement": []})["Statement"]:
        found |= set(statement["Action"]) if statement["Effect"] == "Allow" else set()
    for role in policies.gcp.roles if policies.gcp else ():
        found |= set(role.permissions)
    return found


def without(policies: Policies, action: str) -> Policies:
    """Return the same policies with one permission taken out of every statement and role."""
    document = copy.deepcopy(policies.aws)
    for statement in (document or {"Statement": []})["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != action]
    grant = policies.gcp
    if grant is not None:
        roles = tuple(
            dataclasses.replace(role, permissions=tuple(each for each in role.permissions if each != action))
            for role in grant.roles
        )
        grant = dataclasses.replace(grant, roles=roles)
    return dataclasses.replace(policies, aws=document, gcp=grant)


def is_refused(attempt: Callable[[], object]) -> bool:
    """Whether the cloud's answer is that this is not allowed."""
    try:
        attempt()
    except Denied:
        return True
    return False


def at_the(nth: int, action: str, below: str, do: Callable[[Call], None]) -> Callable[[Call], None]:
    """Return what does something before the nth call of an action on something below a part of a name."""
    seen = iter(range(1, 1_000_000))

    def before(call: Call) -> None:
        if call.action == action and below in call.resource and next(seen) == nth:
            do(call)

    return before


# ---------------------------------------------------------------------- the replicator


def test_the_replicator_is_refused_nothing_and_uses_all_it_is_granted(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    gate = Gate(place.policies("replicator"))
    service = open_as(place, gate, monkeypatch)
    assert ["changed"] * 3 == replicate(service)
    assert ["unchanged"] * 3 == replicate(service)
    with gate.aside():
        place.change()
    assert ["held", "changed", "changed"] == replicate(service)[-3:]
    create = "s3:PutObject" if vault_scheme == "s3" else "storage.objects.create"

    def die(_call: Call) -> None:
        raise Killed

    for nth, below in ((1, "/packs/"), (1, "/artifacts/m/3")):
        with gate.aside():
            place.put_model("3")
        gate.before = at_the(nth, create, below, die)
        with pytest.raises(Killed):
            replicate(Service(place.settings))
        gate.before = lambda _call: None
    assert "held" in replicate(Service(place.settings))
    assert [] == gate.refused
    # The way to give up an upload in parts is there for files of more than 16 MiB.
    assert granted(gate.policies) - {"s3:AbortMultipartUpload"} == gate.actions()


def test_copies_are_refused_nothing_where_the_replicator_alone_or_the_hydrator_alone_would_be(
    make_place, vault_scheme, monkeypatch
):
    place = make_place(vault_scheme)
    models = place.settings.pair("training")
    gate = Gate(place.policies("copies"))
    service = open_as(place, gate, monkeypatch)
    for changed in (True, False):
        assert [changed] * 3 == ["changed" == verdict for verdict in replicate(service)]
        assert [changed] * 3 == ["changed" == verdict for verdict in fill(service)[:3]]
    assert [] == gate.refused
    with gate.aside():
        place.change()

    def refusals(identity: str) -> tuple[bool, bool]:
        gate.policies = place.policies(identity)
        alone = Service(place.settings)
        return is_refused(lambda: alone.push_artifacts(models)), is_refused(lambda: alone.hydrate(models))

    assert (False, True) == refusals("replicator")
    with gate.aside():
        place.put_model("3")
    assert (True, False) == refusals("hydrator")
    gate.policies = place.policies("copies")
    assert is_refused(lambda: Service(place.settings).register.claim(1, who="x", host="y", plan="p", target="away"))


@pytest.mark.parametrize(
    ("vault_scheme", "below"),
    [
        *(("gs", below) for below in ("/packs/", "/artifacts/", "/index/", "/vectors/", "/offline/", "/sets/")),
        *(("s3", below) for below in ("/packs/", "/sets/")),
    ],
)
def test_what_another_wrote_first_is_a_conflict_and_never_a_refusal(make_place, vault_scheme, monkeypatch, below):
    place = make_place(vault_scheme)
    replicate(place.owner)
    place.change()
    gate = Gate(place.policies("replicator"))
    create = "s3:PutObject" if vault_scheme == "s3" else "storage.objects.create"
    rival = Service(place.settings)
    rival.vault.latest("sets/recommender/")
    raced: list[str] = []

    def overtake(call: Call) -> None:
        raced.append(call.resource)
        gate.before = lambda _call: None
        with gate.aside():
            replicate(rival)

    gate.before = at_the(1, create, below, overtake)
    service = open_as(place, gate, monkeypatch)
    reports = service.push_artifacts(place.settings.pair("training"))
    assert reports
    with contextlib.suppress(Conflict):  # another export published its sequence first
        service.export_vectors(place.settings.pair("vector_index"))
    service.replicate_offline(place.settings.pair("feature_store"))
    assert [1] == [len(raced)]
    # On GCS the gate refuses an existing object before its precondition is looked at; S3 answers 412 by itself.
    assert {"storage.objects.delete"} >= {call.action for call in gate.refused}
    assert ["unchanged"] * len(raced) == [replicate(rival)[-1]]


@pytest.mark.parametrize(
    ("scheme", "action"),
    [
        *(("gs", f"storage.objects.{verb}") for verb in ("create", "delete", "get", "list")),
        *(("gs", f"s3:{verb}") for verb in ("GetObject", "GetObjectVersion", "ListBucket")),
        ("s3", "s3:PutObject"),
    ],
)
def test_without_one_permission_the_replicator_stops_and_names_it(make_place, monkeypatch, scheme, action):
    place = make_place(scheme)
    policies = place.policies("replicator")
    assert action in granted(policies)
    gate = Gate(without(policies, action))
    service = open_as(place, gate, monkeypatch)

    def twice() -> None:
        for _ in range(2):
            replicate(service)
            with gate.aside():
                place.change()

    with pytest.raises(Denied) as denied:
        twice()
    assert action in str(denied.value)
    assert 3 == denied.value.exit_code


def test_the_replicator_can_neither_delete_nor_overwrite_nor_claim(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    gate = Gate(place.policies("replicator"))
    service = open_as(place, gate, monkeypatch)
    replicate(service)
    assert [] == gate.refused
    store = service.vault.store
    (pack, *_) = store.list("packs/")
    models = service.models(place.settings.pair("training"), "home")
    large = [bytes(5 << 20)] * 2, 10 << 20
    assert 10 << 20 == store.create_stream("offline/user_features/history/large.parquet", *large).size
    with pytest.raises(Conflict):
        store.create_stream("offline/user_features/history/large.parquet", *large)
    assert {"storage.objects.delete"} >= {call.action for call in gate.refused}
    attempts: dict[str, Callable[[], object]] = {
        "overwrite a feature": lambda: store.put("offline/user_features/history/large.parquet", b"ransom"),
        "overwrite one in parts": lambda: store.put_stream("offline/user_features/history/large.parquet", *large),
        "delete a pack": lambda: store.delete(pack.key),
        "overwrite a pack": lambda: store.put(pack.key, b"ransom"),
        "overwrite a manifest": lambda: store.put("sets/recommender/00000001.json", b"{}"),
        "write the journal": lambda: store.create("journal/00000001/00000001.json", b"{}"),
        "say that something is proven": lambda: store.create("pointers/proven/away/models.json", b"{}"),
        "change a model": lambda: models.put("m/1/config.json", b"{}"),
        "claim the epoch": lambda: service.register.claim(1, who="x", host="y", plan="p", target="away"),
        "see DNS": lambda: opening.open_traffic(place.settings).read(),
    }  # fmt: skip
    assert list(attempts) == [what for what, attempt in attempts.items() if is_refused(attempt)]
    assert store.get(pack.key)[-8:] == b"USPACK01"
    if vault_scheme == "s3":  # which refuses a write without a condition also where nothing is
        assert is_refused(lambda: store.put("offline/user_features/new.parquet", b""))
        assert is_refused(lambda: store.put_stream("offline/user_features/new.parquet", *large))
    assert bytes(10 << 20) == store.get("offline/user_features/history/large.parquet")


# ---------------------------------------------------------------------- the hydrator


def test_the_hydrator_is_refused_nothing_and_uses_all_it_is_granted(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    replicate(place.owner)
    gate = Gate(place.policies("hydrator"))
    service = open_as(place, gate, monkeypatch)
    assert ["changed"] * 3 == fill(service)[:3]
    assert ["unchanged"] * 3 == fill(service)[:3]
    with gate.aside():
        place.change()
        replicate(place.owner)
    assert "changed" in fill(service)
    features = place.settings.pair("feature_store")
    for _ in range(2):  # the table before the live one is kept, the one before that is dropped
        assert "changed" == service.rebuild_features(features, full=True).verdict
    assert [] == gate.refused
    # Asked only when a new revision would write over what is served, in parts above 16 MiB, by the real service's
    # own warm-up and telemetry, or to follow what a service wrote meanwhile.
    rare = {
        "storage.buckets.get", "s3:GetBucketVersioning", "s3:AbortMultipartUpload", "bigtable.instances.ping",
        "monitoring.timeSeries.create", "dynamodb:BatchGetItem",
    }  # fmt: skip
    assert set() == granted(gate.policies) - gate.actions() - rare


def test_the_hydrator_cannot_change_the_vault_nor_the_source(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    replicate(place.owner)
    service = open_as(place, Gate(place.policies("hydrator")), monkeypatch)
    store, models = service.vault.store, service.models(place.settings.pair("training"), "home")
    for attempt in (
        lambda: store.delete("sets/recommender/00000001.json"),
        lambda: store.create("artifacts/m/9/00000001.json", b"{}"),
        lambda: models.put("m/1/config.json", b"{}"),
        lambda: service.register.claim(1, who="x", host="y", plan="p", target="away"),
    ):
        with pytest.raises(Denied):
            attempt()


# ---------------------------------------------------------------------- the pruner and the drill


def test_the_pruner_prunes_and_deletes_nothing_else(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    replicate(place.owner)
    training = place.settings.pair("training")
    for version in ("2", "3"):
        for path, data in _files(version).items():
            place.owner.models(training, "home").put(f"m/{version}/{path}", data)
    place.owner.push_artifacts(training)
    gate = Gate(place.policies("pruner"))
    service = open_as(place, gate, monkeypatch)
    store = service.vault.store
    keys = {info.key.split("/")[0]: info.key for info in store.list()}
    # As if it had waited (a server's clock tells seconds, its listing less): condemned, deleted, packs written anew.
    rules = Rules(keep=Keep(last=1), condemned_for=timedelta(seconds=-5), rewrite_below=2.0)
    done = [prune(service.vault, rules=rules, write=True, still_allowed=service.register.read) for _ in range(2)]
    assert (["2"], ["2"]) == ([*done[0].models[0].condemned], [*done[1].models[0].deleted])
    assert [0, 0] == [each.refused for each in done]
    assert all(each.rewritten.packs and each.keeps_versions is not None for each in done)
    assert done[1].deleted.packs
    assert not service.prune_vault(write=True).refused
    assert [] == gate.refused
    for part in ("vectors", "features", "offline", "pointers", "format.json"):
        with pytest.raises(Denied):
            store.delete(keys[part])
    for part in ("artifacts", "sets", "pointers"):
        with pytest.raises(Denied):
            store.put(keys[part], b"{}")


def test_a_drill_reads_the_vault_and_moves_nothing_of_production(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    replicate(place.owner)
    settings = place.settings
    gate = Gate(place.policies("drill"))
    service = open_as(place, gate, monkeypatch)
    training = settings.pair("training")
    drilled = training.model_copy(update={"away": f"{training.away.rstrip('/')}/drill/"})
    target = service.models(drilled, "away")
    assert "changed" == hydrate(service.vault, target, model="m").verdict
    assert "unchanged" == verify_hydrated(service.vault, target, model="m").verdict
    assert 1 == service.register.read().epoch
    assert [] == gate.refused
    for attempt in (
        lambda: hydrate(service.vault, service.models(training, "away"), model="m"),
        lambda: service.models(training, "away").put("pointers/m.json", b"{}"),
        lambda: service.register.claim(1, who="x", host="y", plan="p", target="away"),
        lambda: service.vault.store.create("sets/recommender/00000009.json", b"{}"),
        lambda: service.vault.move_pointer("pointers/proven/away/models.json", lambda _found: {"by": "a drill"}),
        lambda: begin(service.online(settings.pair("feature_store"), "away")),
    ):
        with pytest.raises(Denied):
            attempt()


# ---------------------------------------------------------------------- the failover


class Answers:
    """The service seen from outside: both front doors answer, and the cutover is confirmed at once."""

    def health(self, address: str) -> Health:
        return Health(3, 3, f"{address} answers")

    def watch(self, address: str, *, times: int, seconds_max: float, tell: Callable[[str], None]) -> Seen:
        tell(f"{address} answers within {seconds_max:g}s")
        return Seen(1, times, 0.001, canary=True)


@pytest.fixture(scope="module")
def compute_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("compute"), free_port(HOST)
    process = launch(
        [
            *(sys.executable, "-m", "sandbox.compute_server", "--host", HOST, "--port", str(port)),
            *("--project", "acme", "--zone", "us-central1-a", "--group", "recommender-mig", "--size", "1"),
            *("--targets", folder / "targets.json", "--logs", folder / "logs", "--instance-command"),
            json.dumps([sys.executable, "-c", INSTANCE, "{port}", "{name}"]),
        ],
        name="Compute Engine",
        log=folder / "log",
        ready=lambda: listens(HOST, port),
    )
    yield f"http://{HOST}:{port}"
    process.kill()


def test_a_whole_failover_is_refused_nothing_and_uses_all_it_is_granted(  # noqa: PLR0917 - one a server
    make_place, make_s3_bucket, monkeypatch, aws_access, moto_url, compute_url, tmp_path: Path
):
    route53 = aws.client("route53", aws_access)
    name = f"recommend.{new_name('zone')}.example"
    zone = route53.create_hosted_zone(Name=name.partition(".")[2], CallerReference=name)["HostedZone"]["Id"]
    config = {"IPAddress": "192.0.2.1", "Port": 443, "Type": "HTTP", "ResourcePath": "/health"}
    check = route53.create_health_check(CallerReference=name, HealthCheckConfig=config)["HealthCheck"]["Id"]
    place = make_place(
        **{
            "register.url": f"s3://{make_s3_bucket()}/recommender",  # with versions, as Terraform makes it
            "traffic.url": f"route53://{zone.rpartition('/')[2]}/{name}",
            "traffic.endpoints": {"route53": moto_url},
            "alerts": {"url": f"route53-health-check://{check}", "endpoints": {"route53": moto_url}},
        }
    )
    away = place.settings.sites.away
    sites = place.settings.sites.model_copy(
        update={"away": away.model_copy(update={"endpoints": {**away.endpoints, "compute": compute_url}})}
    )
    place.settings = place.settings.model_copy(update={"sites": sites})
    replicate(place.owner)
    traffic = opening.open_traffic(place.settings)
    traffic.prepare(place.settings.traffic.addresses, active="home", ttl=5)
    models = place.settings.pair("training")
    place.owner.hydrate(models)  # so that the failover finds a model there, and proves it anew
    proven = place.owner.vault.store.now()
    while place.owner.vault.store.now() == proven:  # a proof of the same second would be the same pointer, and no write
        time.sleep(0.1)
    gate = Gate(place.policies("failover"))
    service = open_as(place, gate, monkeypatch)
    world = dataclasses.replace(service.world("away"), outside=Answers(), journal_directory=tmp_path)
    plan = prepare(world, target="away")
    save_plan(service.register.store, plan)
    unfenced = Acceptances(unfenced="this test has no writer", reason="a test")
    outcome = run_plan(load_plan(service.register.store, plan.id), world, who="ana", acceptances=unfenced)
    marks, told = Marks(Vault(service.register.store)), Notice("recommender", 2, "finished", "done")
    assert [True, False] == [marks.once(told, "slack", lambda: None) for _ in range(2)]
    assert [] == marks.open_before("recommender", 3, "slack")
    assert marks.over(told, "slack", lambda: None)
    assert (2, "standby", True) == (outcome.epoch, outcome.target, outcome.journal_complete)
    assert {"home": 0, "away": 100} == {role: way.share for role, way in traffic.read().ways.items()}
    assert "away" == service.register.read().active
    assert [] == gate.refused
    rare = {
        "storage.buckets.get", "s3:AbortMultipartUpload", "bigtable.instances.ping", "monitoring.timeSeries.create",
        "bigtable.tables.delete", "route53:GetChange", "compute.zoneOperations.get",
    }  # fmt: skip
    assert set() == granted(gate.policies) - gate.actions() - rare
    # Of the zone, that name alone may be moved.
    other = opening.open_traffic(
        place.settings.model_copy(
            update={
                "traffic": place.settings.traffic.model_copy(
                    update={"url": f"route53://{zone.rpartition('/')[2]}/x.{name}"}
                )
            }
        )
    )
    with pytest.raises(Denied, match="ChangeResourceRecordSets"):
        other.prepare(place.settings.traffic.addresses, active="home", ttl=5)
    assert is_refused(lambda: service.vault.store.create("artifacts/m/9/00000001.json", b"{}"))
    assert is_refused(lambda: service.vault.store.delete("sets/recommender/00000001.json"))


# ---------------------------------------------------------------------- the service, its metrics, its operator


def test_a_writer_keeps_its_lease_and_its_log_at_both_sites_and_touches_nothing_else(
    make_place, vault_scheme, monkeypatch
):
    place = make_place(vault_scheme)
    replicate(place.owner)
    gate = Gate(place.policies("writer"))
    service = open_as(place, gate, monkeypatch)
    lease = StrictLease(service.register, name="w", site="home", seconds=30)
    assert [True, True] == [lease.renew_once() for _ in range(2)]
    lease.stop()
    features = place.settings.pair("feature_store")
    for role in ("home", "away"):
        for name in ("w", "w"):  # the second one finds what the first left, and goes on
            with LogWriter(service.offline(features, role), name, flush_seconds_max=0.01) as log:
                log.append([logged("user:00001", "clicks", "1", 60.0)])
    assert [] == gate.refused
    assert granted(gate.policies) - {"storage.objects.delete"} <= gate.actions()
    vault, home = service.offline(features, "away"), service.offline(features, "home")
    for attempt in (
        lambda: vault.put("history/day1.parquet", b""),
        lambda: vault.delete("log/w/00000001.parquet"),
        lambda: home.put("log/w/00000001.parquet", b""),
        lambda: home.delete("writers/w.json"),
        lambda: service.register.store.delete("register.json"),
        lambda: save_plan(service.register.store, SimpleNamespace(id="abcdef", model_dump_json=lambda **_: "{}")),
    ):
        assert is_refused(attempt)


def test_the_exporter_reads_every_gauge_and_no_backup(make_place, vault_scheme, monkeypatch):
    place = make_place(vault_scheme)
    replicate(place.owner)
    fill(place.owner)
    place.owner.register.store.put("plans/abcdef.json", b"{}")
    gate = Gate(place.policies("exporter"))
    service = open_as(place, gate, monkeypatch)
    found = gather(service)
    assert {} == found.problems
    assert {"ok"} == {row.verdict for row in found.rows if row.component != "inference"}
    assert [] == gate.refused
    assert granted(gate.policies) == gate.actions()
    store = Vault(opening.open_store(place.settings.vault.url, place.settings.sites.away)).store
    for attempt in (
        lambda: store.get("sets/recommender/00000001.json"),
        lambda: store.create("pointers/proven/away/another.json", b"{}"),
        lambda: service.register.renew("w", "home", 1, 30),
    ):
        assert is_refused(attempt)


def test_the_operator_begins_a_register_and_keeps_a_kit(make_place, vault_scheme, monkeypatch, tmp_path):
    place = make_place(vault_scheme)
    replicate(place.owner)
    place.owner.register.store.delete("register.json")
    gate = Gate(place.policies("operator"))
    service = open_as(place, gate, monkeypatch)
    assert 1 == service.register.initialise("recommender").epoch
    with pytest.raises(Conflict):
        service.register.initialise("recommender")
    assert 1 == service.register.read().epoch
    for config in (b"a: b", b"a: c", b"a: c"):
        path = write_kit(tmp_path / "kit.tar", config, files={"wheels/a.whl": bytes(9 << 20)})
        kept = keep_kit(service.vault, path, read_kit(path))
    assert kept == fetch_kit(service.vault, tmp_path / "again.tar")
    models = [service.models(place.settings.pair("training"), role) for role in ("home", "away")]
    assert ["on"] * 3 == [store.safeguards().versions for store in (service.vault.bare, *models)]
    assert {"storage.objects.delete"} >= {call.action for call in gate.refused}
    assert granted(gate.policies) - {"s3:AbortMultipartUpload"} <= gate.actions()
    store = service.vault.store
    for attempt in (
        lambda: store.put(kept.key, b"another"),
        lambda: store.put_stream(kept.key, [bytes(9 << 20)] * 2, 18 << 20),
        lambda: store.create("sets/recommender/00000009.json", b"{}"),
        lambda: service.register.claim(1, who="x", host="y", plan="p", target="away"),
    ):
        assert is_refused(attempt)


# ---------------------------------------------------------------------- the gate itself


def test_the_gate_sees_every_kind_of_request_that_it_does_not_know(make_place, monkeypatch):
    place = make_place()
    gate = Gate(place.policies("replicator"))
    service = open_as(place, gate, monkeypatch)
    replicate(service)
    client = service.vault.bare._client
    blob = client.bucket("anything").blob("a")
    with pytest.raises(Exception, match="403"):
        blob.rewrite(client.bucket("other").blob("b"), retry=None)
    assert gate.refused[-1].action.startswith("unknown POST /storage/v1/b/")
    assert not gate.allows(on_object("storage.objects.setIamPolicy", "acme", "x"))
