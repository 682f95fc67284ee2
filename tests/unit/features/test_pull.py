from __future__ import annotations

import pytest

from tests.unit.features.offline_store import put_history
from understudy.errors import Corrupt, NotFound
from understudy.features.pull import diff, pull, render_diff, wanted
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault


@pytest.fixture
def stores():
    offline, vault = MemoryStore("offline"), open_vault(MemoryStore("vault"))
    put_history(offline, 10)
    replicate_offline(offline, vault, view="v")
    put_history(offline, 5, name="day2", offset=100)
    replicate_offline(offline, vault, view="v")
    return offline, vault


def test_the_files_come_back_under_their_own_keys(stores, tmp_path):
    offline, vault = stores
    report = pull(vault, tmp_path, view="v")
    for info in offline.list("history/"):
        assert offline.get(info.key) == (tmp_path / "v" / info.key).read_bytes()
    assert ("changed", "blake3 2/2") == (report.verdict, report.proven)
    assert ("unchanged", 0) == (pull(vault, tmp_path, view="v").verdict, pull(vault, tmp_path, view="v").bytes_read)


def test_an_earlier_sequence_has_its_own_files_alone(stores, tmp_path):
    pull(stores[1], tmp_path, view="v", sequence=1)
    assert ["day1.parquet"] == [path.name for path in (tmp_path / "v" / "history").iterdir()]


def test_a_damaged_file_is_named_and_not_written(stores, tmp_path):
    vault = stores[1]
    key = next(info.key for info in vault.store.list("offline/v/history/day2"))
    vault.store.put(key, b"something else")
    with pytest.raises(Corrupt, match="day2"):
        pull(vault, tmp_path, view="v")
    assert not (tmp_path / "v" / "history" / "day2.parquet").exists()


def test_the_difference_counts_files_and_rows(stores):
    old, new = (wanted(stores[1], "v", sequence) for sequence in (1, 2))
    changes = diff(old, new)
    assert (["history/day2.parquet"], [], [], 5) == (
        changes.files_added, changes.files_changed, changes.files_removed, changes.rows_added,
    )  # fmt: skip
    assert "v 1 -> 2: 1 files added, 0 changed, 0 removed; +5 rows" in render_diff(old, new, changes)[0]


def test_a_view_that_is_not_there_is_one_sentence(stores):
    with pytest.raises(NotFound, match="holds no features of other"):
        wanted(stores[1], "other", None)
