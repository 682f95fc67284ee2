"""A pull or a hydration that was stopped within a long file goes on where it stopped, and believes nothing it finds."""

from __future__ import annotations

import fcntl
import hashlib
import os

import numpy as np
import pytest

from tests.models import safetensors
from understudy.artifacts import hydrate as hydration
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.pull import pull
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore, PartialFile
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault

NOISE = np.random.default_rng(5).integers(0, 1 << 32, (10, 1 << 10, 256), np.uint32).view("f4")
DATA = safetensors({f"layer.{number}": rows for number, rows in enumerate(NOISE)})
CHUNK = 1 << 20


class Stopped(BaseException):
    """As Ctrl-C."""


@pytest.fixture
def vault(monkeypatch):
    """A vault with one file of 10 MiB in chunks of 1 MiB, which is long enough to be gone on with."""
    monkeypatch.setattr(hydration, "_RESUMED_BYTES_MIN", 1 << 20)
    source, made = MemoryStore("source"), open_vault(MemoryStore("vault"))
    source.put("m/1/model.safetensors", DATA)
    push(source, made)
    return made


def stop_after(monkeypatch, count):
    """Let the next write stop after so many chunks."""
    real, left = PartialFile.append, [count]

    def append(self, data):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        real(self, data)

    monkeypatch.setattr(PartialFile, "append", append)


def half_written(folder, own=".understudy-pull"):
    return folder / own / f"partial-{hashlib.sha256(DATA).hexdigest()}"


def stopped_pull(vault, folder, monkeypatch, count=6):
    with monkeypatch.context() as patched:
        stop_after(patched, count)
        with pytest.raises(Stopped):
            pull(vault, folder, model="m")
    return half_written(folder)


def test_a_stopped_pull_reads_only_the_rest_the_second_time(vault, tmp_path, monkeypatch):
    whole = pull(vault, tmp_path / "whole", model="m").bytes_read
    stopped_pull(vault, tmp_path / "stopped", monkeypatch)
    rest = pull(vault, tmp_path / "stopped", model="m")
    assert DATA == (tmp_path / "stopped" / "m" / "1" / "model.safetensors").read_bytes()
    assert 0.4 < rest.bytes_read / whole < 0.6
    assert ["m"] == [each.name for each in (tmp_path / "stopped").iterdir()]


@pytest.mark.parametrize("byte", [0, 5_000_000])
def test_what_was_changed_meanwhile_is_read_again_from_there(vault, tmp_path, monkeypatch, byte):
    path = stopped_pull(vault, tmp_path, monkeypatch)
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)
    report = pull(vault, tmp_path, model="m")
    assert DATA == (tmp_path / "m" / "1" / "model.safetensors").read_bytes()
    assert report.bytes_read > len(DATA) - byte - 2 * CHUNK


def test_what_is_longer_than_the_file_does_no_harm(vault, tmp_path, monkeypatch):
    path = stopped_pull(vault, tmp_path, monkeypatch)
    path.write_bytes(DATA + b"more")
    pull(vault, tmp_path, model="m")
    assert DATA == (tmp_path / "m" / "1" / "model.safetensors").read_bytes()


def test_a_serving_folder_shows_nothing_half_written_and_is_hydrated_on_from_there(vault, tmp_path, monkeypatch):
    target = FileStore(tmp_path)
    with monkeypatch.context() as patched:
        stop_after(patched, 8)
        with pytest.raises(Stopped):
            hydrate(vault, target, model="m")
    assert [] == list(target.list())
    assert 8 * CHUNK > half_written(tmp_path, ".understudy").stat().st_size > 6 * CHUNK
    assert hydrate(vault, target, model="m").bytes_read < 4 * CHUNK
    assert DATA == target.get("m/1/model.safetensors")
    assert not half_written(tmp_path, ".understudy").exists()


def test_while_another_process_writes_the_same_file_this_one_writes_its_own(vault, tmp_path):
    path = half_written(tmp_path, ".understudy")
    path.parent.mkdir()
    with path.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        hydrate(vault, FileStore(tmp_path), model="m")
        assert b"" == path.read_bytes()
    assert DATA == FileStore(tmp_path).get("m/1/model.safetensors")


def test_a_link_in_the_place_of_what_is_half_written_is_not_followed(vault, tmp_path):
    path, victim = half_written(tmp_path, ".understudy"), tmp_path / "victim"
    path.parent.mkdir()
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    with pytest.raises(Exception, match=r"does not answer|not allowed|cannot be"):
        hydrate(vault, FileStore(tmp_path), model="m")
    assert b"precious" == victim.read_bytes()


def test_what_was_left_half_written_long_ago_goes_when_the_next_file_comes(vault, tmp_path):
    folder = tmp_path / ".understudy"
    folder.mkdir()
    for name, age in (("old", 30 * 86400), ("held", 30 * 86400), ("young", 3600)):
        (folder / f"partial-{name}").write_bytes(b"half")
        stamp = FileStore(tmp_path).now().timestamp() - age
        os.utime(folder / f"partial-{name}", (stamp, stamp))
    with (folder / "partial-held").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        hydrate(vault, FileStore(tmp_path), model="m")
    assert ["partial-held", "partial-young"] == sorted(each.name for each in folder.glob("partial-*"))
