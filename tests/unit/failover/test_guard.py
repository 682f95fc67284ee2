"""Copies and failovers keep apart: a copy waits for a commander, and shows nothing after a claim."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.models import layers, safetensors
from tests.unit.example import example_in_folders
from understudy.artifacts.manifest import manifest_key
from understudy.errors import Conflict, Corrupt, Refused, Unsupported
from understudy.failover.guard import GuardedStore
from understudy.failover.register import Register
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.report import Report
from understudy.service import Service, open_service
from understudy.vault.pointers import watermark_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def add_model(folder: Path, version: str, name: str = "minilm") -> None:
    home = FileStore(folder / "home")
    home.put(f"{name}/{version}/model.safetensors", safetensors(layers(1, rows=4, seed=int(version))))
    home.put(f"{name}/{version}/config.json", b"{}")


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service of one model in folders, without index and features."""
    document = example_in_folders(tmp_path)
    del document["components"]["vector_index"], document["components"]["feature_store"]
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    add_model(tmp_path, "1")
    found = open_service(path)
    found.register.initialise("recommender")
    return found


def claim(register: Register) -> Any:
    return register.claim(1, who="ana", host="bastion", plan="k7qf2m", target="away", seconds=60)


def pair(service: Service) -> Any:
    return service.settings.pair("training")


HELD = r"ana@bastion holds epoch 2 since \d\d:\d\d:\d\dZ; copies wait"


def test_copies_wait_while_a_commander_holds_the_epoch(service: Service, tmp_path: Path) -> None:
    service.push_artifacts(pair(service))
    held = claim(service.register)
    add_model(tmp_path, "2")
    example_pair = pair(service)

    works: list[Callable[[], Any]] = [
        lambda: service.push_artifacts(example_pair),
        lambda: service.export_vectors(example_pair),
        lambda: service.replicate_offline(example_pair),
        service.compose_set,
        lambda: service.hydrate(example_pair),
        lambda: service.rebuild_index(example_pair),
        lambda: service.rebuild_features(example_pair),
    ]
    for work in works:
        with pytest.raises(Refused, match=HELD):
            work()
    assert ["1"] == [report.version for report in service.hydrate(example_pair, role="away")]
    service.register.release(held, "false alarm")
    assert ["2"] == [report.version for report in service.push_artifacts(example_pair)]


@pytest.mark.parametrize("ended", [False, True])
def test_a_copy_that_began_before_a_claim_shows_nothing_after_it(
    service: Service, tmp_path: Path, *, ended: bool
) -> None:
    service.push_artifacts(pair(service))
    add_model(tmp_path, "2")
    before = sorted(info.key for info in service.vault.store.list())

    def pressed(*_: object) -> None:  # told while the copy sends its bytes
        if service.register.read().epoch == 1:
            held = claim(service.register)
            if ended:
                service.register.release(held, "false alarm")

    said = r"moved from epoch 1 \(home active\) to epoch 2 \(home active\)" if ended else HELD
    with pytest.raises(Refused, match=said):
        service.push_artifacts(pair(service), progress=pressed)
    new = {info.key for info in service.vault.store.list()} - set(before)
    assert {"packs", "index"} == {key.split("/")[0] for key in new}
    assert not (tmp_path / "vault" / manifest_key("minilm", "2", 1)).exists()


@pytest.mark.parametrize(
    ("key", "shows"),
    [
        ("artifacts/minilm/1/00000001.json", True),
        ("vectors/products/00000001/manifest.json", True),
        ("features/user_features/00000001.json", True),
        ("sets/recommender/00000001.json", True),
        ("pointers/artifacts/models.json", True),
        ("packs/ab/abcd", False),
        ("index/00000001/0.parquet", False),
        ("vectors/products/data/abcd.parquet", False),
        ("offline/user_features/log/a/1.parquet", False),
    ],
)
def test_only_what_shows_something_asks_the_register(key: str, shows: bool) -> None:  # noqa: FBT001
    register = Register(MemoryStore())
    begun = register.initialise("recommender")
    inside = MemoryStore()
    guarded = GuardedStore(inside, register, begun)
    guarded.put(key, b"before")
    claim(register)

    writes: list[Callable[[], Any]] = [
        lambda: guarded.put(key, b"p"),
        lambda: guarded.replace(key, b"r", expected=inside.head(key).token),
        lambda: guarded.put_stream(key, [b"s"], 1),
        lambda: guarded.delete(key),
        lambda: guarded.create_stream(key, [b"c"], 1),
        lambda: guarded.delete(key),
        lambda: guarded.create(key, b"c"),
    ]
    for write in writes:
        if shows:
            with pytest.raises(Refused, match="copies wait"):
                write()
        else:
            write()
    assert (b"before" if shows else b"c") == guarded.get(key) == guarded.get_range(key, 0, 6 if shows else 1)
    assert [key] == [info.key for info in guarded.list()] == [info.key for info in guarded.list_versions()]
    assert inside.head(key) == guarded.head(key)


def test_an_unchanged_push_asks_the_register_once_more_and_no_oftener(service: Service) -> None:
    service.push_artifacts(pair(service))
    asked: list[int] = []
    read = service.register.store.get

    def counting(key: str, *, version: str | None = None) -> bytes:
        asked.append(1)
        return read(key, version=version)

    service.register.store.get = counting  # type: ignore[method-assign]
    assert ["unchanged"] == [report.verdict for report in service.push_artifacts(pair(service))]
    assert 2 == len(asked)


def test_a_service_without_index_and_features_pins_its_newest_model(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.push_artifacts(pair(service))
    add_model(tmp_path, "2")
    service.push_artifacts(pair(service))
    pinned = service.newest_set()
    assert pinned is not None
    assert ("2", None, None) == (pinned.model.version, pinned.index, pinned.features)

    add_model(tmp_path, "3", name="another")
    with caplog.at_level("INFO", logger="understudy.service"):
        service.push_artifacts(pair(service))
    assert pinned == service.newest_set()
    assert "without an index nothing says which of ['another', 'minilm'] it serves" in caplog.text


def test_a_failover_hydrates_its_own_set_and_reads_it_back(service: Service, tmp_path: Path) -> None:
    service.push_artifacts(pair(service))
    add_model(tmp_path, "2")
    service.push_artifacts(pair(service))

    reports = service.catch_up_models(pair(service), role="away", set_sequence=1)
    assert [("1", "changed"), ("1", "unchanged")] == [(report.version, report.verdict) for report in reports]
    assert "read back" in reports[1].sentence
    assert "2" == service.catch_up_models(pair(service), role="away", set_sequence=2)[0].version


def test_what_was_hydrated_earlier_and_damaged_since_stops_a_failover(service: Service, tmp_path: Path) -> None:
    service.push_artifacts(pair(service))
    service.hydrate(pair(service))

    class Damaging(Service):
        def hydrate(self, *arguments: Any, **more: Any) -> list[Report]:
            reports = super().hydrate(*arguments, **more)
            FileStore(tmp_path / "away").put("minilm/1/config.json", b"[]")
            return reports

    with pytest.raises(Corrupt, match=r"minilm/1/config.json .* has another SHA-256"):
        Damaging(service.settings).catch_up_models(pair(service), role="away", set_sequence=1)


def test_a_failover_is_not_stopped_by_a_model_that_its_set_does_not_pin(service: Service) -> None:
    service.push_artifacts(pair(service))
    service.vault.store.put("artifacts/zzz/1/00000001.json", b"{}")

    reports = service.catch_up_models(pair(service), role="away", set_sequence=1)
    assert [("minilm", "changed"), ("minilm", "unchanged")] == [(report.name, report.verdict) for report in reports]


def test_a_scheduled_hydrate_leaves_a_damaged_model_and_brings_the_others(service: Service) -> None:
    service.push_artifacts(pair(service))
    service.vault.store.put("artifacts/aaa/1/00000001.json", b"{}")

    found = [(report.name, report.verdict, report.details.get("action")) for report in service.hydrate(pair(service))]
    assert [("aaa", "held", "damaged"), ("minilm", "changed", None)] == [(*each[:2], each[2]) for each in found]
    with pytest.raises(Unsupported, match=r"artifacts/aaa/1/00000001\.json"):
        service.hydrate(pair(service), model="aaa")


def test_a_push_leaves_a_damaged_model_and_brings_the_others(service: Service, tmp_path: Path) -> None:
    service.push_artifacts(pair(service))
    watermark = service.vault.pointer(watermark_key("training", "models"))
    service.vault.store.put("artifacts/aaa/1/00000001.json", b"{}")
    add_model(tmp_path, "2")
    assert [("minilm", "changed")] == [(r.name, r.verdict) for r in service.push_artifacts(pair(service))]

    add_model(tmp_path, "1", name="aaa")
    add_model(tmp_path, "3")
    moved = service.vault.pointer(watermark_key("training", "models"))
    reports = service.push_artifacts(pair(service))
    assert [("aaa", "held", "damaged"), ("minilm", "changed", "new version")] == [
        (report.name, report.verdict, report.details["action"]) for report in reports
    ]
    assert moved == service.vault.pointer(watermark_key("training", "models")) != watermark
    with pytest.raises(Unsupported, match=r"artifacts/aaa/1/00000001\.json"):
        service.push_artifacts(pair(service), model="aaa")


def test_the_command_line_names_a_damaged_model_after_the_others_were_done(service: Service, tmp_path: Path) -> None:
    service.push_artifacts(pair(service))
    service.vault.store.put("artifacts/minilm/1/00000001.json", b"{")
    add_model(tmp_path, "1", name="second")

    def understudy(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "understudy", "-c", str(tmp_path / "understudy.yaml"), "artifacts", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    pushed = understudy("push")
    assert 8 == pushed.returncode, pushed.stderr
    assert "second 1: 2 files" in pushed.stdout
    assert "minilm 1 was left as it is: artifacts/minilm/1/00000001.json" in pushed.stderr
    hydrated = understudy("hydrate")
    assert 8 == hydrated.returncode, hydrated.stderr
    assert FileStore(tmp_path / "away").head("second/1/config.json").size
    assert "left as it is: artifacts/minilm/1/00000001.json" in hydrated.stderr
    assert "push" not in pushed.stderr
    assert "hydrate" not in hydrated.stderr

    tensors = safetensors(layers(1, rows=8, seed=2))
    FileStore(tmp_path / "home").put("second/2/model.safetensors", tensors)
    both = understudy("push")
    assert 8 == both.returncode, both.stderr
    assert "minilm 1 was left as it is" in both.stderr
    assert "refused: second 2 was not taken" in both.stderr


def test_a_damaged_model_that_alone_could_be_pinned_is_reported_too(service: Service) -> None:
    service.push_artifacts(pair(service))
    service.vault.store.put("artifacts/minilm/1/00000001.json", b"{")
    [report] = service.push_artifacts(pair(service))
    assert ("held", "damaged") == (report.verdict, report.details["action"])
    assert "artifacts/minilm/1/00000001.json" in report.sentence
    service.vault.store.delete("artifacts/minilm/1/00000001.json")
    service.vault.store.put("artifacts/minilm/2/00000001.json", b"{")
    with pytest.raises(Corrupt, match=r"artifacts/minilm/2/00000001\.json"):
        service.compose_set()


def rebuilt(verdict: Any, proven: str, version: str = "7") -> Report:
    return Report(noun="x", name="x", verdict=verdict, sentence="x", version=version, proven=proven)


class Answering(Service):
    """A service whose index and features answer what a test says."""

    rebuild: Report
    read_back: Report

    def rebuild_index(self, *_: Any, **__: Any) -> Report:
        return self.rebuild

    def verify_index(self, *_: Any, **__: Any) -> Report:
        return self.read_back

    def rebuild_features(self, *_: Any, **__: Any) -> Report:
        return self.rebuild

    def verify_features(self, *_: Any, **__: Any) -> Report:
        return self.read_back


@pytest.mark.parametrize(
    ("rebuild", "reads_back"),
    [
        (rebuilt("changed", "digest, recall@10 1.000"), False),
        (rebuilt("unchanged", "sequence, rows"), True),
        (rebuilt("unchanged", "digest"), True),
        (rebuilt("changed", "keys 3/3"), True),
        (rebuilt("changed", ""), True),
    ],
)
def test_a_rebuild_that_did_not_prove_the_whole_is_read_back(
    service: Service,
    rebuild: Report,
    reads_back: bool,  # noqa: FBT001
) -> None:
    answering = Answering(service.settings)
    answering.rebuild, answering.read_back = rebuild, rebuilt("unchanged", "digest")
    expected = [rebuild, answering.read_back] if reads_back else [rebuild]

    assert expected == answering.catch_up_index(pair(service), role="away", set_sequence=1)
    assert expected == answering.catch_up_features(pair(service), role="away")


def test_an_index_that_serves_another_sequence_when_read_back_is_a_conflict(service: Service) -> None:
    answering = Answering(service.settings)
    answering.rebuild, answering.read_back = rebuilt("unchanged", ""), rebuilt("unchanged", "digest", version="8")

    with pytest.raises(Conflict, match="serves 8 when read back, set 1 pins 7"):
        answering.catch_up_index(pair(service), role="away", set_sequence=1)
