"""Twenty SIGKILLs at random moments of push and hydrate, one after another over the same vault and target.

The killed run is a process of its own. After each kill all that is visible is whole; in the end deep verify is clean,
and next to nothing was sent again. ``pytest -s`` prints what was.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.models import model_files
from understudy.artifacts.catalog import all_manifests
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.pointer import read_pointer
from understudy.objects.file import FileStore
from understudy.vault.packs import pack_name, read_trailer
from understudy.vault.store import open_vault
from understudy.vault.verify import verify

KILLS = 20
SEED = 20
AGAIN_SHARE_MAX = 0.05
PACK_BYTES = 150_000
WEIGHTS_BYTES = 2_000_000
#: A write of the child takes this long, so that a run lasts about as long as moments are drawn from.
WRITE_SECONDS = 0.03
MOMENT_SECONDS_MAX = 0.4

CHILD = """
import os, sys, time
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.vault import writing
from understudy.vault.store import open_vault
what, source, vault, target, log, pack_bytes, seconds = sys.argv[1:]
writing.ChunkWriter.__init__.__kwdefaults__["pack_bytes"] = int(pack_bytes)
handed = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

class Slow(FileStore):
    def create(self, key, data):
        there = any(info.key == key for info in self.list(key))
        os.write(handed, f"{key} {len(data)} {int(there)}\\n".encode())
        time.sleep(float(seconds))
        return super().create(key, data)

    def put_stream(self, key, parts, size):
        def slowly():
            for part in parts:
                time.sleep(float(seconds))
                yield part
        return super().put_stream(key, slowly(), size)

print("ready", flush=True)
if what == "push":
    push(FileStore(source), open_vault(Slow(vault)))
else:
    hydrate(open_vault(FileStore(vault)), Slow(target), model="m")
"""

pytestmark = pytest.mark.slow


def version_of(number):
    return model_files(changed=number) | {"weights.bin": np.random.default_rng(number).bytes(WEIGHTS_BYTES)}


def killed(what, folder, moment):
    """Run and kill at that moment (None: let it end); whether it was still running then."""
    places = [str(folder / name) for name in ("source", "vault", "target", "handed")]
    command = [sys.executable, "-c", CHILD, what, *places, str(PACK_BYTES), str(WRITE_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert b"ready\n" == child.stdout.readline()
        if moment is not None:
            time.sleep(moment)
            child.kill()
        return -signal.SIGKILL == child.wait(30)


def check_vault(store):
    found = verify(open_vault(store), deep=True)
    assert () == found.problems
    return found


def check_target(vault, target, versions):
    """What is served is whole, and so is every file that is there."""
    if read_pointer(target, "m")[0] is not None:
        verify_hydrated(vault, target, "m")
    for info in target.list("m/"):
        _, version, path = info.key.split("/", 2)
        expected = version_of(versions[version])[path]
        assert hashlib.sha256(expected).digest() == hashlib.sha256(target.get(info.key)).digest(), info.key


def sent_twice(store):
    """Return (bytes of frames in all packs, of those how many are of a chunk that an earlier pack had)."""
    total = again = 0
    seen = set()
    packs = sorted((info for info in store.list("packs/") if pack_name(info.key)), key=lambda info: info.modified)
    for info in packs:
        for place in read_trailer(store, info):
            total += place.length
            again += place.length if place.id in seen else 0
            seen.add(place.id)
    return total, again


@pytest.mark.timeout(900)  # some twenty processes of their own, and a deep verify after each
def test_twenty_kills_at_random_moments_lose_nothing_and_send_next_to_nothing_again(tmp_path):
    for name in ("source", "vault", "target"):
        (tmp_path / name).mkdir()
    source, store, target = (FileStore(tmp_path / name) for name in ("source", "vault", "target"))
    chosen = random.Random(SEED)
    versions: dict[str, int] = {}
    kills = {"push": 0, "hydrate": 0}
    runs = 0
    while sum(kills.values()) < KILLS:
        runs += 1
        assert 5 * KILLS > runs, kills
        # By turns: a hydrate that was not killed is done, and only a new version gives the next one work.
        what = "push" if runs % 2 else "hydrate"
        pushed = {manifest.version for manifest in all_manifests(open_vault(store))} if versions else set()
        if what == "push" and pushed == set(versions):
            versions[str(len(versions) + 1)] = len(versions) + 1
            for path, data in version_of(len(versions)).items():
                source.put(f"m/{len(versions)}/{path}", data)
        if what == "hydrate":
            assert not killed("push", tmp_path, None)
        kills[what] += killed(what, tmp_path, chosen.uniform(0, MOMENT_SECONDS_MAX))
        check_vault(store)
        check_target(open_vault(store), target, versions)
    assert not killed("push", tmp_path, None)
    vault = open_vault(store)
    assert set(versions) == {manifest.version for manifest in all_manifests(vault)}
    found = check_vault(store)
    assert (len(versions), 0) == (found.manifests, found.orphans)
    hydrate(vault, target, model="m")
    assert max(versions, key=int) == verify_hydrated(vault, target, "m").version
    total, twice = sent_twice(store)
    handed = [line.split() for line in (tmp_path / "handed").read_text().splitlines() if line.startswith("packs/")]
    # What was in a whole pack, and went out again: in another pack, or as the very pack that was there.
    again = twice + sum(int(size) for _, size, there in handed if int(there))
    lost = sum(int(size) for _, size, _ in handed) - sum(info.size for info in store.list("packs/")) - again + twice
    sys.stdout.write(
        f"{kills['push']} kills of push, {kills['hydrate']} of hydrate in {runs} runs over {len(versions)} versions: "
        f"{total / 1e6:.1f} MB of chunks in packs, {again / 1e3:.1f} kB of them sent again ({again / total:.2%}); "
        f"{lost / 1e6:.1f} MB were handed over in packs whose upload a kill cut off\n"
    )
    assert again <= AGAIN_SHARE_MAX * total
