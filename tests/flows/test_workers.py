"""A push spread over the workers of a cluster gives what one process gives, and says so where it cannot."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.replicate_artifacts import replicate_artifacts
from tests.models import layers, safetensors
from tests.unit.example import example_in_folders
from understudy.artifacts import spread
from understudy.artifacts.catalog import all_manifests
from understudy.objects.file import FileStore
from understudy.service import open_service
from understudy.vault.verify import verify

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(480)]  # Dask and Ray start processes of their own


def service_in(folder, runner):
    """Make a service with one large model of two versions, in shards, and two small ones; return its config."""
    (folder / "lake").mkdir(parents=True)
    changes = {"components.feature_store.pairs.0.offline": f"file://{folder}/lake", "runner": runner}
    path = folder / "understudy.yaml"
    path.write_text(yaml.safe_dump(example_in_folders(folder, **changes)), encoding="utf-8")
    home = FileStore(str(folder / "home"))
    for version, seed in (("1", 1), ("2", 2)):
        names = [f"layer.{number}" for number in range(4)]
        shards = {name: f"model-{number}.safetensors" for number, name in enumerate(names)}
        home.put(f"large/{version}/model.safetensors.index.json", json.dumps({"weight_map": shards}).encode())
        for number, name in enumerate(names):
            tensor = layers(1, seed=number + (10 * seed if number == 0 else 0))["layer.0"]
            home.put(f"large/{version}/{shards[name]}", safetensors({name: tensor}))
    for name in ("small-a", "small-b"):
        home.put(f"{name}/1/model.safetensors", safetensors({"w": layers(1, seed=len(name))["layer.0"]}))
    open_service(path).register.initialise("recommender")
    return path


def kept(config):
    vault = open_service(config).vault
    assert verify(vault, deep=True).ok
    return {
        (manifest.model, manifest.version): (manifest.digest, [file.chunks for file in manifest.files])
        for manifest in all_manifests(vault)
    }


@pytest.fixture
def small_parts(monkeypatch):
    """A part of one shard: the large model is cut into four of them, the small ones go together."""
    monkeypatch.setattr(spread, "PART_BYTES", 100_000)
    monkeypatch.setattr(spread.parts_of, "__kwdefaults__", {"bytes_max": 100_000})
    monkeypatch.setattr(spread.groups_of, "__defaults__", (100_000,))


@pytest.fixture
def two_workers(monkeypatch):
    from tasks import workers

    plain = workers._options  # the tests' machine has few cores: the default would be a process for each
    two = {"dask": ("cluster_kwargs", {"n_workers": 2}), "ray": ("init_kwargs", {"num_cpus": 2})}

    def options(chosen, address):
        name, more = two[chosen]
        return {name: {**plain(chosen, address)[name], **more}}

    monkeypatch.setattr(workers, "_options", options)


@pytest.mark.usefixtures("small_parts", "two_workers")
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_two_workers_record_what_one_process_records(tmp_path, monkeypatch, runner):
    parts = []
    sent = spread.Part.size.fget
    monkeypatch.setattr(spread.Part, "size", property(lambda part: parts.append(part) or sent(part)))
    alone = service_in(tmp_path / "alone", "threads")
    spread_out = service_in(tmp_path / "spread", runner)
    for config in (alone, spread_out):
        state = replicate_artifacts(config=str(config), return_state=True)
        assert state.is_completed(), state.message
    expected = kept(alone)
    assert {("large", "1"), ("large", "2"), ("small-a", "1"), ("small-b", "1")} == expected.keys()
    assert expected == kept(spread_out)
    assert {("large", "1"), ("large", "2")} == {(part.model, part.version) for part in parts}
    again = replicate_artifacts(config=str(spread_out), return_state=True)
    assert "Unchanged" == again.name


def test_a_runner_that_is_not_installed_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    config = service_in(tmp_path, "threads")
    state = replicate_artifacts(config=str(config), runner="ray", return_state=True)
    assert "Bad config" == state.name
    assert "runner: ray needs prefect_ray, which is not installed" in state.message
    assert "pip install 'understudy[ray]'" in state.message


def test_what_installs_a_runner_is_an_extra_of_this_project():
    from tasks.workers import _RUNNERS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, (module, _, command) in _RUNNERS.items():
        assert f"pip install 'understudy[{name}]'" == command
        assert project["optional-dependencies"][name][0].startswith(module.replace("_", "-"))
