from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from tests.unit.example import EXAMPLE, example, example_in_folders
from understudy import trials
from understudy.check import check_schedules, check_secrets, check_service, check_values, exit_code
from understudy.command.config import config as config_command
from understudy.command.screen import Screen
from understudy.errors import Conflict, Denied, NotFound, Permanent, Unreachable
from understudy.failover.register import Register
from understudy.finding import Finding
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.service import Service
from understudy.settings import Settings, load_settings
from understudy.trials import Trial, attempt, try_register, try_serving, try_source, try_vault
from understudy.vault.store import Vault


def settings_of(**changes):
    return Settings.model_validate(example(**changes))


def failed(findings):
    return [finding.what for finding in findings if not finding.ok]


# ---------------------------------------------------------------------- schedules


def test_a_schedule_that_cannot_meet_the_recovery_point_is_found():
    findings = check_schedules(settings_of(**{"components.feature_store.pairs.0.every": "6m"}))
    assert ["schedule user_features"] == failed(findings)
    assert "reaches the RPO of feature_store, 5m00s" in next(one.words for one in findings if not one.ok)


def test_one_copy_a_day_cannot_meet_a_day():
    assert ["schedule models"] == failed(check_schedules(settings_of(**{"components.training.pairs.0.every": "02:00"})))


def test_the_usual_duration_counts_too_and_what_was_not_measured_is_said():
    settings = Settings.model_validate(EXAMPLE)
    assert [] == failed(check_schedules(settings))
    assert ["schedule products"] == failed(check_schedules(settings, {"products": 1801.0}))
    words = {one.what: one.words for one in check_schedules(settings, {"products": 42.0})}
    assert "every 30m00s; the last copy took 42s" == words["schedule products"]
    assert "every 12h00m; no run was measured yet" == words["schedule models"]


# ---------------------------------------------------------------------- what the settings say against each other


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"traffic.ttl_max": "5m"}, "traffic.ttl_max", "together they reach the RTO of inference, 5m00s"),
        ({"register.lease": "6m"}, "register.lease", "write a shorter lease"),
        ({"register.region": "us-east-1"}, "register.region", "us-east-1 is the region of aws-use1"),
        ({"sites.away.region": "us-east-1"}, "sites.away.region", "is no region of gcp; write one such as us-central1"),
        ({"sites.away.cloud": "aws"}, "vault.url", "gs:// is of gcp, and sites.away.cloud is aws"),
        (
            {"vault.url": "gs://acme-models-serving/vault"},
            "components.training.pairs.0.away",
            "same place as vault.url",
        ),
        (
            {"components.vector_index.pairs.0.away": EXAMPLE["components"]["vector_index"]["pairs"][0]["home"]},
            "components.vector_index.pairs.0.away",
            "the same place as components.vector_index.pairs.0.home",
        ),
        ({"vault.url": "gs://FILL-IN/x"}, "vault.url", "still says FILL-IN"),
    ],
)
def test_settings_that_cannot_go_together_are_found(changes, what, words):
    found = {finding.what: finding.words for finding in check_values(settings_of(**changes))}
    assert words in found[what]


def test_a_config_that_goes_together_has_no_findings():
    assert [] == check_values(settings_of())
    apart = {"vault.url": "gs://acme-models-serving-2", "components.training.pairs.0.away": "gs://acme-models-serving"}
    assert [] == check_values(settings_of(**apart))


# ---------------------------------------------------------------------- secrets


def test_each_secret_is_tried_and_named_with_its_line_but_not_shown(tmp_path, monkeypatch):
    document = example(
        **{
            "sites.home.credentials": "env:AWS_TEXT",
            "sites.away.credentials": f"file:{tmp_path}/gcp.json",
            "vault.sign_with": "env:SIGNING",
            "components.vector_index.pairs.0.password": "env:ABSENT",
            "metrics": {"ping": "env:PING"},
            "notify": ["block:slack-webhook/incidents"],
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    (tmp_path / "gcp.json").write_text(
        '{"type": "service_account", "private_key": "hunter2-hunter2"}', encoding="utf-8"
    )
    monkeypatch.setenv("AWS_TEXT", "hunter2-is-no-key")
    monkeypatch.setenv("SIGNING", "hunter2-is-no-signing-key")
    monkeypatch.setenv("PING", "hunter2.example/ping")
    findings = check_secrets(load_settings(path))
    said = {finding.what: finding.words for finding in findings if not finding.ok}
    assert "env:AWS_TEXT holds no AWS credentials" in said["secret env:AWS_TEXT"]
    assert "gives no Google Cloud credentials" in said[f"secret file:{tmp_path}/gcp.json"]
    assert "does not hold an Ed25519 private key" in said["secret env:SIGNING"]
    assert "the environment variable ABSENT is not set" in said["secret env:ABSENT"]
    assert "what metrics.ping refers to is no URL" in said["secret env:PING"]
    assert ["block slack-webhook/incidents"] == [finding.what for finding in findings if finding.ok]
    assert "hunter2" not in str(findings)
    lines = path.read_text(encoding="utf-8").splitlines()
    for finding in findings:
        assert finding.what.partition(" ")[2] in lines[finding.line - 1]


def test_what_needs_a_secret_that_is_missing_is_not_tried():
    asked = []
    trial = Trial("vault", ("vault", "url"), lambda: asked.append("opened"), lambda _: "", ("env:ABSENT",))
    found = attempt(settings_of(), [trial], missing=frozenset({"env:ABSENT"}))
    assert ["was not tried: env:ABSENT cannot be used"] == [finding.words for finding in found]
    assert [] == asked


# ---------------------------------------------------------------------- trials, side by side


def fails(error):
    def ask(_adapter):
        raise error

    return ask


def test_all_that_is_wrong_is_said_at_once_each_in_one_line():
    page = "said\n" + "a whole page " * 200
    outcomes = [Denied(page, hint="grant it"), NotFound("gone"), ValueError("hunter2"), Unreachable("dead")]
    tries = [Trial(f"one {n}", ("vault", "url"), lambda: None, fails(error)) for n, error in enumerate(outcomes)]
    found = attempt(settings_of(), [*tries, Trial("good", ("vault", "url"), lambda: 7, lambda given: f"{given}")])
    assert [False, False, False, False, True] == [finding.ok for finding in found]
    assert [3, 5, 3, 9, 3] == [finding.exit_code for finding in found]
    assert {1} == {len(finding.words.splitlines()) for finding in found}
    assert 600 == len(found[0].words)
    assert "hunter2" not in found[2].words
    assert "7" == found[4].words


def test_a_trial_that_hangs_is_given_up_and_the_others_are_not_kept_waiting():
    never = threading.Event()
    trials_ = [Trial(f"hung {n}", ("vault", "url"), lambda: None, lambda _: str(never.wait(60))) for n in range(4)]
    began = time.monotonic()
    found = attempt(settings_of(), [*trials_, Trial("good", ("vault", "url"), lambda: None, lambda _: "")], seconds=0.3)
    assert time.monotonic() - began < 3
    never.set()
    assert [False] * 4 + [True] == [finding.ok for finding in found]
    assert "gave no answer within 0.3s" in found[0].words
    assert 9 == exit_code(found)


def test_a_black_hole_and_a_dead_port_are_unreachable_within_their_time(tmp_path):
    hole = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    address = f"127.0.0.1:{hole.getsockname()[1]}"
    (tmp_path / "lake").mkdir()
    document = example_in_folders(
        tmp_path,
        **{
            "components.feature_store.pairs.0.offline": f"file://{tmp_path}/lake",
            "components.feature_store.pairs.0.home": f"redis://{address}/0?prefix=a",
            "components.feature_store.pairs.0.away": "redis://127.0.0.1:9/0?prefix=a",
            "components.vector_index.pairs.0.home": f"pgvector://u@{address}/d?table=t",
            "components.vector_index.pairs.0.away": "pgvector://u@127.0.0.1:9/d?table=t",
            "traffic.endpoints": {"route53": f"http://{address}"},
            "capacity.away": "fixed://2",
            "metrics": {"otlp": "http://127.0.0.1:9"},
        },
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    service = Service(load_settings(path))
    service.register.initialise("recommender")
    began = time.monotonic()
    found = check_service(service, seconds=1.5)
    assert time.monotonic() - began < 25
    hole.close()
    wrong = {finding.what.split("://")[0] for finding in found if not finding.ok}
    assert {"online redis", "index pgvector", "traffic route53", "metrics http"} == wrong
    assert 6 == len(failed(found))
    assert 9 == exit_code(found)
    lines = path.read_text(encoding="utf-8").splitlines()
    for finding in found:
        if "://" in finding.what:
            assert finding.what.split("://")[1].split("/")[0] in lines[finding.line - 1]


def test_the_exit_code_says_whether_all_that_failed_did_not_answer():
    good, dead, wrong = Finding("a", ok=True), Finding("b", ok=False, exit_code=9), Finding("c", ok=False)
    assert (0, 9, 3, 3) == tuple(map(exit_code, ([good], [good, dead], [good, dead, wrong], [wrong])))


# ---------------------------------------------------------------------- what each is asked


class NoOverwrites(MemoryStore):
    """May create and read, nothing else: what a replicator is granted."""

    def delete(self, key):
        raise Denied(f"{key} may not be removed")

    def put(self, key, _data):
        raise Denied(f"{key} may not be overwritten")


class Careless(MemoryStore):
    """Ignores the conditions of a write, as some that speak S3 do."""

    def create(self, key, data):
        return self.put(key, data)

    def replace(self, key, data, *, expected):
        del expected
        return self.put(key, data)


class ReadOnly(MemoryStore):
    def create(self, key, _data):
        raise Denied(f"{key} may not be created")

    def replace(self, key, _data, *, expected):
        raise Denied(f"{key} may not be replaced, {expected}")


def test_a_vault_is_tried_twice_without_any_right_to_delete_and_leaves_one_probe():
    store = NoOverwrites()
    for _ in range(2):
        assert "created and read" in try_vault(Vault(store))
    assert [trials.POINTER_PROBE_KEY, trials.PROBE_KEY] == [info.key for info in store.list()]


def test_a_check_with_a_wrong_name_leaves_the_vault_to_the_right_service(tmp_path):
    for folder in ("vault", "register"):
        (tmp_path / folder).mkdir()
    places = {"vault.url": f"file://{tmp_path}/vault", "register.url": f"file://{tmp_path}/register", "components": {}}
    found = check_service(Service(settings_of(service="typo", **places)), seconds=5)
    assert [True] == [finding.ok for finding in found if finding.what.startswith("vault ")]
    probes = {trials.POINTER_PROBE_KEY, trials.PROBE_KEY}
    assert probes == {info.key for info in FileStore(tmp_path / "vault").list()}
    Service(settings_of(**places)).vault.put_once("packs/x", b"x")
    assert b"recommender" in FileStore(tmp_path / "vault").get("format.json")


def test_a_store_that_ignores_conditions_is_no_vault_and_no_register():
    with pytest.raises(Permanent, match="overwrites what a conditional write must leave alone"):
        try_vault(Vault(Careless()))
    register = Register(Careless())
    register.initialise("recommender")
    with pytest.raises(Permanent, match="does not honour compare-and-set"):
        try_register(register, service="recommender")


def test_a_vault_that_may_not_be_written_is_denied():
    with pytest.raises(Denied, match="may not be created"):
        try_vault(Vault(ReadOnly()))


def test_a_register_of_another_service_or_none_at_all_is_said():
    register = Register(MemoryStore())
    with pytest.raises(NotFound, match="there is no register") as caught:
        try_register(register, service="shop")
    assert "understudy register init" == caught.value.next_command
    register.initialise("recommender")
    with pytest.raises(Permanent, match="this is the register of 'recommender'"):
        try_register(register, service="shop")
    assert "epoch 1; read, and written by compare-and-set" == try_register(register, service="recommender")
    assert 1 == register.read().epoch


def test_who_may_only_read_the_register_is_told_so_and_not_refused():
    store = ReadOnly()
    filled = Register(MemoryStore())
    filled.initialise("recommender")
    MemoryStore.put(store, "register.json", filled.store.get("register.json"))
    assert "epoch 1; read; writing is not allowed" in try_register(Register(store), service="recommender")


def test_a_source_is_listed_and_read_and_never_written():
    store = ReadOnly()
    assert "listed; it is empty, so reading was not tried" == try_source(store)
    MemoryStore.put(store, "a", b"data")
    assert try_source(store).startswith("listed and read")


def test_a_serving_bucket_is_written_and_cleaned_up_or_it_says_what_stays():
    store = MemoryStore()
    assert "listed and written" == try_serving(store)
    assert [] == list(store.list())
    kept = NoOverwrites()
    assert "stays there" in try_serving(kept)
    assert "stays there" in try_serving(kept)
    with pytest.raises(Denied):
        try_serving(ReadOnly())


def test_two_checks_at_once_do_not_disturb_each_other():
    class Racing(MemoryStore):
        def replace(self, key, _data, *, expected):
            raise Conflict(f"another was quicker than {expected} of {key}")

    register = Register(MemoryStore())
    register.initialise("recommender")
    racing = Racing()
    racing.put("register.json", register.store.get("register.json"))
    assert "epoch 1" in try_register(Register(racing), service="recommender")


def test_the_time_that_a_copy_took_is_measured_from_its_watermark(tmp_path):
    (tmp_path / "vault").mkdir()
    service = Service(settings_of(**{"vault.url": f"file://{tmp_path}/vault"}))
    store = FileStore(tmp_path / "vault")
    begun = store.now()
    watermark = begun.replace(year=begun.year - 1)
    service.vault.store.put("pointers/vectors/products.json", json.dumps({"watermark": watermark.isoformat()}).encode())
    found = trials.measured(service)
    assert ["products"] == list(found)
    assert (store.now() - watermark).total_seconds() == pytest.approx(found["products"], abs=60)


# ---------------------------------------------------------------------- the command


def run_check(path, *arguments, as_json=False):
    context = SimpleNamespace(screen=Screen(as_json=as_json, quiet=False), config=str(path))
    return config_command.main(["check", *arguments], standalone_mode=False, obj=context)


def test_a_config_that_does_not_load_is_findings_too(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    document = example(**{"components.feature_store.rpo": "5", "vault.url": "ftp://x", "trafic": {}})
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert 3 == run_check(path, as_json=True)
    findings = json.loads(capsys.readouterr().out)
    assert {"components.feature_store.rpo", "vault.url", "trafic"} == {finding["what"] for finding in findings}
    assert {("file", "line", "ok", "what", "words")} == {tuple(sorted(finding)) for finding in findings}
    lines = path.read_text(encoding="utf-8").splitlines()
    for finding in findings:
        assert finding["what"].rpartition(".")[2] in lines[finding["line"] - 1]
        assert (str(path), False) == (finding["file"], finding["ok"])


def test_the_offline_check_leaves_the_network_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", fails(AssertionError("the network was asked")))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(EXAMPLE), encoding="utf-8")
    assert 0 == run_check(path, "--offline")
    assert "nothing was asked for over the network.  next: understudy register init" in capsys.readouterr().out
    path.write_text(yaml.safe_dump(example(**{"traffic.ttl_max": "9m"})), encoding="utf-8")
    assert 3 == run_check(path, "--offline")
    out = capsys.readouterr().out
    line = 1 + path.read_text(encoding="utf-8").splitlines().index("  ttl_max: 9m")
    assert f"{path}:{line} traffic.ttl_max: the fence waits 15s" in out
    assert "1 of 4 wrong" in out


def test_a_finding_is_frozen_and_says_where():
    finding = Finding("vault", ok=False, words="w", file="c.yaml", line=3)
    assert "c.yaml:3" == finding.where
    assert "c.yaml" == replace(finding, line=0).where
