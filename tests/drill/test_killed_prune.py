"""A prune killed by SIGKILL: the vault stays whole, pushes go on, the end is clean.

Each killed run is a process of its own. ``tests/unit/vault/test_pruning.py`` kills at every write, in memory; here are
processes, files, and the lock that a dead one leaves.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import pytest

from tests.pruning import Past, assert_whole, files_of, keys, put, rules, versions
from understudy.artifacts.replicate import push
from understudy.errors import HeldByAnother
from understudy.objects.file import FileStore
from understudy.vault.pruning import prune
from understudy.vault.store import open_vault

PRUNE = """
import sys
from tests.faults import FaultyStore
from tests.pruning import pruned
from understudy.objects.file import FileStore
from understudy.vault.store import open_vault
folder, method, number, after = sys.argv[1:]
store = FaultyStore(FileStore(folder)).kill(method, nth=int(number), after=after == "after")
pruned(open_vault(store))
"""

pytestmark = pytest.mark.slow


def run(folder, method, number, after):
    command = [sys.executable, "-c", PRUNE, str(folder), method, str(number), after]
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return FileStore(tmp_path / "source")


@pytest.fixture
def folder(tmp_path, source):
    """A vault of six versions, the youngest ten days old."""
    folder = tmp_path / "vault"
    folder.mkdir()
    for version in range(1, 7):
        put(source, version)
        store = Past(folder, 70 - 10 * version)
        push(source, open_vault(store))
        store.settle()
    return folder


@pytest.mark.parametrize("waited", [False, True])
def test_what_a_killed_prune_leaves_is_whole_and_the_next_ones_end_it(folder, source, tmp_path, waited):
    if waited:
        prune(open_vault(FileStore(folder)), rules=rules(), write=True)
        Past(folder, 8).settle()
    moments = [("create", 2), ("create", 4), ("delete", 1), ("delete", 3), ("delete", 6)]
    for number, (method, nth) in enumerate(moments if waited else [("create", 1), ("create", 3), ("create", 8)]):
        copy = tmp_path / f"{number}"
        shutil.copytree(folder, copy)
        vault = open_vault(FileStore(copy))
        assert -signal.SIGKILL == run(copy, method, nth, "after" if number % 2 else "before")
        assert_whole(vault, source)
        put(source, 7, files=files_of(1))  # what is condemned, or half deleted, is wanted again
        push(source, vault)
        # Days later the dead one's lock is old, and what was condemned has waited.
        for days in (20, 30, 40):
            Past(copy, days).settle()
            prune(vault, rules=rules(), write=True)
        assert_whole(vault, source)
        assert ["6", "7"] == versions(vault)
        assert [] == keys(vault, "condemned/")


def test_the_lock_of_a_killed_prune_keeps_the_next_one_out_for_an_hour(folder, source):
    vault = open_vault(FileStore(folder))
    assert -signal.SIGKILL == run(folder, "create", 1, "before")
    with pytest.raises(HeldByAnother, match="is under way since"):
        prune(vault, rules=rules(), write=True)
    Past(folder, 1).settle()
    assert prune(vault, rules=rules(), write=True).written
    assert_whole(vault, source)
