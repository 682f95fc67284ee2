"""Work that is spread: parts and groups of a size, the same manifest, and nothing visible before all of it is in."""

from __future__ import annotations

import pickle

import pytest

from tests.models import layers, model_files, safetensors
from understudy.artifacts import spread
from understudy.artifacts.catalog import Shelf, all_manifests, find_manifest, revisions
from understudy.artifacts.plan import plan, versions_in
from understudy.artifacts.replicate import push
from understudy.artifacts.spread import Part, groups_of, parts_of, send_part
from understudy.errors import Unreachable
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault
from understudy.vault.verify import verify


def passed(value):
    """Return what arrives at another process."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made in this very line


class Here:
    """Workers that work here, one after another, on stores of their own; what passes is pickled as it would be."""

    def __init__(self, source, vault):
        self.source, self.vault = source, vault
        self.parts, self.groups = [], []
        self.before = lambda _part: None

    def push_models(self, groups):
        self.groups += groups
        return [passed(push(self.source, self.opened(), models=names)) for names in groups]

    def send_parts(self, parts):
        self.parts += parts
        return [self.sent(passed(part)) for part in parts]

    def sent(self, part):
        self.before(part)
        vault = self.opened()
        return passed(send_part(self.source, vault, Shelf(vault, part.model), part))

    def opened(self):
        return open_vault(self.vault.store)


@pytest.fixture
def source():
    store = MemoryStore("source")
    for number in range(4):
        store.put(f"large/1/{number}.safetensors", safetensors({f"w{number}": layers(1, seed=number)["layer.0"]}))
    for name in ("a", "b"):
        for path, data in model_files(count=1).items():
            store.put(f"{name}/1/{path}", data)
    return store


@pytest.fixture
def vault():
    return open_vault(MemoryStore("vault"))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(spread, "PART_BYTES", 150_000)
    monkeypatch.setattr(parts_of, "__kwdefaults__", {"bytes_max": 150_000})
    monkeypatch.setattr(groups_of, "__defaults__", (150_000,))


def test_a_version_is_cut_into_parts_of_a_size_a_long_file_alone(source):
    [version] = versions_in(source.list("large/"))
    size = version.files[0].info.size
    planned = plan(version, None)
    assert [2, 2] == [len(part.files) for part in parts_of(planned, accept=False, bytes_max=2 * size)]
    assert [1, 1, 1, 1] == [len(part.files) for part in parts_of(planned, accept=False, bytes_max=1)]
    assert [4 * size] == [part.size for part in parts_of(planned, accept=False)]


def test_small_models_go_together_and_many_small_files_weigh_too():
    assert [("a", "b"), ("c",)] == groups_of([("a", 40, 0), ("b", 60, 0), ("c", 1, 0)], bytes_max=100)
    assert 2 == len(groups_of([("a", 1, 4000), ("b", 1, 4000)]))
    assert [] == groups_of([])


@pytest.mark.usefixtures("small_parts")
def test_what_workers_send_is_recorded_as_if_one_had_sent_it(source, vault):
    alone = open_vault(MemoryStore("alone"))
    push(source, alone)
    workers = Here(source, vault)
    reports = push(source, vault, workers=workers)
    assert [("a", "changed"), ("b", "changed"), ("large", "changed")] == [(each.name, each.verdict) for each in reports]
    assert [(each.model, each.files) for each in all_manifests(alone)] == [
        (each.model, each.files) for each in all_manifests(vault)
    ]
    assert {"a", "b"} == {name for group in workers.groups for name in group}
    assert {"large"} == {part.model for part in workers.parts}
    assert len(workers.parts) > 1
    assert verify(vault, deep=True).ok
    assert ["unchanged"] * 3 == [report.verdict for report in push(source, vault, workers=workers)]


@pytest.mark.usefixtures("small_parts")
def test_a_version_is_not_visible_while_a_part_is_missing(source, vault):
    workers = Here(source, vault)

    def fail(part):
        if part is not None and len(workers.seen) == 1:
            raise Unreachable("the worker is gone")
        workers.seen.append(part)

    workers.seen, workers.before = [], fail
    with pytest.raises(Unreachable):
        push(source, vault, workers=workers)
    assert ("large", "1") not in revisions(vault)
    workers.before = lambda _part: None
    before = {info.key for info in vault.store.list("packs/")}
    push(source, vault, workers=workers)
    assert before < {info.key for info in vault.store.list("packs/")}
    assert 4 == len(find_manifest(vault, "large").files)
    assert verify(vault, deep=True).ok


@pytest.mark.usefixtures("small_parts")
def test_a_file_that_changes_before_a_worker_reads_it_is_listed_and_sent_again(source, vault):
    workers = Here(source, vault)
    other = safetensors({"w3": layers(1, seed=30)["layer.0"]})
    turns = iter([lambda: source.put("large/1/3.safetensors", other)])
    workers.before = lambda _part: next(turns, lambda: None)()
    [report] = [each for each in push(source, vault, workers=workers) if each.name == "large"]
    assert "changed" == report.verdict
    alone = open_vault(MemoryStore("alone"))
    push(source, alone, model="large")
    assert find_manifest(alone, "large").digest == find_manifest(vault, "large").digest


def test_a_part_of_a_version_that_is_gone_names_its_file(source, vault):
    part = Part("gone", "1", (("a.bin", "t", 1),))
    assert "a.bin" == send_part(source, vault, Shelf(vault, "gone"), part).changed


@pytest.mark.usefixtures("small_parts")
def test_a_version_that_is_held_is_not_sent_by_anybody(source, vault):
    source.put("large/1/4.safetensors", b"not a header")
    workers = Here(source, vault)
    [report] = [each for each in push(source, vault, workers=workers) if each.name == "large"]
    assert "held" == report.verdict
    assert [] == workers.parts
