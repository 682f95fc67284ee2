"""A push or a hydrate killed at any write: nothing half visible, the next run sends what is missing, the end is equal.

The killed run is a process of its own that SIGKILLs itself at the n-th write of the store, before its effect or right
after it, for every n that a whole run reaches.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.models import layers, model_files, safetensors
from understudy.artifacts.catalog import all_manifests
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.pointer import read_pointer
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.vault.store import open_vault
from understudy.vault.verify import verify

PUSH = """
import sys
from tests.faults import FaultyStore
from understudy.objects.file import FileStore
from understudy.vault import writing
from understudy.vault.store import open_vault
from understudy.artifacts.replicate import push
writing.ChunkWriter.__init__.__kwdefaults__["pack_bytes"] = 200_000
source, vault, number, after = sys.argv[1:]
store = FaultyStore(FileStore(vault)).kill("create", nth=int(number), after=after == "after")
push(FileStore(source), open_vault(store))
"""
HYDRATE = """
import sys
from tests.faults import FaultyStore
from understudy.objects.file import FileStore
from understudy.vault.store import open_vault
from understudy.artifacts.hydrate import hydrate
vault, target, method, number, after = sys.argv[1:]
store = FaultyStore(FileStore(target)).kill(method, nth=int(number), after=after == "after")
hydrate(open_vault(FileStore(vault)), store, model="m")
"""
VERSIONS = ("1", "2")

pytestmark = pytest.mark.slow


def files_of(version):
    big = layers(12, rows=100, changed=None if version == "1" else 5)
    return model_files() | {
        "model.safetensors": safetensors(big),
        "vocab.bin": np.random.default_rng(int(version)).bytes(300_000),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    store = FileStore(folder)
    for version in VERSIONS:
        for path, data in files_of(version).items():
            store.put(f"m/{version}/{path}", data)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A vault filled by a run that nothing killed, and how many objects that run created."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(PUSH, source, folder, "1000000", "before")
    assert 0 == done
    return folder


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60).returncode


def stored(folder, prefix=""):
    return {info.key: info.size for info in FileStore(folder).list(prefix)}


def test_a_push_killed_at_any_write_is_finished_by_the_next(source, whole, tmp_path):
    objects = len(stored(whole))
    assert objects > 12
    expected = {(manifest.version, manifest.digest) for manifest in all_manifests(open_vault(FileStore(whole)))}
    expected_bytes = sum(stored(whole, "packs/").values())
    for number in range(1, objects + 1):
        after = "after" if number % 2 else "before"
        folder = tmp_path / str(number)
        folder.mkdir()
        assert -signal.SIGKILL == run(PUSH, source, folder, number, after)
        vault = open_vault(FileStore(folder))
        # What is visible is whole: every manifest that is there can be restored to its last byte.
        found = verify(vault, deep=True)
        assert () == found.problems, (number, after)
        there = stored(folder, "packs/")
        push(FileStore(source), vault)
        sent = sum(size for key, size in stored(folder, "packs/").items() if key not in there)
        # At most the pack that was in flight when the process died is sent again, beside what was missing.
        assert sent <= expected_bytes - sum(there.values()) + 2_000 * (len(there) + 1), (number, after)
        assert there.keys() <= stored(folder, "packs/").keys()
        assert expected == {(manifest.version, manifest.digest) for manifest in all_manifests(vault)}
        final = verify(vault, deep=True)
        assert (True, 0) == (final.ok, final.orphans), (number, after)
        assert ["unchanged"] == [report.verdict for report in push(FileStore(source), vault)]
        shutil.rmtree(folder)


@pytest.mark.parametrize("method", ["put_stream", "replace"])
def test_a_hydrate_killed_at_any_write_is_finished_by_the_next(whole, tmp_path, method):
    vault = open_vault(FileStore(whole))
    expected = {path: hashlib.sha256(data).hexdigest() for path, data in files_of("2").items()}
    for number in range(1, 1 + (len(expected) if method == "put_stream" else 1)):
        for after in ("before", "after"):
            folder = tmp_path / f"{number}{after}"
            folder.mkdir()
            store = FileStore(folder)
            hydrate(vault, store, model="m", version="1")
            assert -signal.SIGKILL == run(HYDRATE, whole, folder, method, number, after)
            pointer, _ = read_pointer(store, "m")
            moved = method == "replace" and after == "after"
            assert ("2" if moved else "1") == pointer.version
            # What is served is whole, and so is every file that is there.
            verify_hydrated(vault, store, "m")
            there = {info.key.removeprefix("m/2/") for info in store.list("m/2/")}
            for path in there:
                assert expected[path] == hashlib.sha256(store.get(f"m/2/{path}")).hexdigest()
            report = hydrate(vault, store, model="m")
            assert len(expected) - len(there) == report.items_new
            assert expected == {path: hashlib.sha256(store.get(f"m/2/{path}")).hexdigest() for path in expected}
            assert "2" == verify_hydrated(vault, store, "m").version
            shutil.rmtree(folder)
