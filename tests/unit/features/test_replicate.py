from __future__ import annotations

from datetime import timedelta

import pytest

from tests.faults import FaultyStore
from tests.unit.features.offline_store import at, logged, put_history, put_log
from understudy.errors import Corrupt, NotReady, Unreachable
from understudy.features import replicate as replicating
from understudy.features.log import LogWriter, retire
from understudy.features.manifest import advance_pointer, manifest_for, newest_manifest, watermark_now
from understudy.features.replicate import replicate_offline
from understudy.features.truth import read_offline
from understudy.objects.memory import MemoryStore
from understudy.vault.seal import unseal
from understudy.vault.store import Vault, open_vault

VIEW = "user_features"


@pytest.fixture
def source() -> MemoryStore:
    store = MemoryStore("lake")
    put_history(store, 20)
    put_log(store, 1, [logged("user:00001", "clicks", "100", 50)])
    return store


@pytest.fixture
def vault() -> Vault:
    return open_vault(MemoryStore("vault"))


def values(vault: Vault, feature: str = "clicks") -> list[str | None]:
    return [cell.value for cell in read_offline(vault, view=VIEW) if cell.feature == feature]


def test_the_offline_store_arrives_byte_for_byte(source: MemoryStore, vault: Vault) -> None:
    report = replicate_offline(source, vault, view=VIEW)
    assert ("changed", 2, 2, "1") == (report.verdict, report.items_total, report.items_new, report.version)
    for info in source.list():
        assert source.get(info.key) == vault.store.get(f"offline/{VIEW}/{info.key}")
    assert report.bytes_sent == report.bytes_read == report.bytes_total == sum(info.size for info in source.list())


def test_a_second_run_reads_and_sends_nothing_but_the_watermark_moves(source: MemoryStore, vault: Vault) -> None:
    moments = iter([at(1), at(2), at(3)])
    source._clock = lambda: next(moments)
    put_history(source, 20)
    assert at(2) == replicate_offline(source, vault, view=VIEW).watermark
    faulty = FaultyStore(source)
    report = replicate_offline(faulty, vault, view=VIEW)
    assert ("unchanged", 0, 0) == (report.verdict, report.items_new, report.bytes_sent)
    assert 0 == faulty.calls["get"] + faulty.calls["get_range"]
    assert at(3) == report.watermark
    assert [1] == vault.sequences(f"features/{VIEW}/")
    newest = newest_manifest(vault, VIEW)
    assert newest is not None
    assert at(3) == watermark_now(vault, newest)


def test_only_what_is_new_is_sent(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    put_log(source, 2, [logged("user:00002", "clicks", "200", 60)])
    report = replicate_offline(source, vault, view=VIEW)
    assert (1, 3, "2") == (report.items_new, report.items_total, report.version)
    assert "user_features: 1 of 3 files sent" in report.sentence


def test_a_file_that_changed_in_place_is_kept_beside_the_old_one(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    old = source.get("history/day1.parquet")
    put_history(source, 21)
    report = replicate_offline(source, vault, view=VIEW)
    assert 1 == report.items_new
    assert old == vault.store.get(f"offline/{VIEW}/history/day1.parquet")
    assert 21 == len(values(vault))
    assert "unchanged" == replicate_offline(source, vault, view=VIEW).verdict


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_what_the_vault_lost_is_sent_again(source: MemoryStore, vault: Vault, damage: str) -> None:
    replicate_offline(source, vault, view=VIEW)
    key = f"offline/{VIEW}/history/day1.parquet"
    whole = vault.store.get(key)
    vault.store.delete(key)
    if damage == "cut":
        vault.store.put(key, whole[:-1])
    report = replicate_offline(source, vault, view=VIEW)
    assert 1 == report.items_new
    assert 20 == len(values(vault))


def test_a_vanished_file_is_reported_and_still_counts(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    source.delete("history/day1.parquet")
    report = replicate_offline(source, vault, view=VIEW)
    assert ["history/day1.parquet"] == report.details["vanished"]
    assert "vanished at the source: history/day1.parquet (still counted)" in report.sentence
    assert 20 == len(values(vault))
    assert "unchanged" == replicate_offline(source, vault, view=VIEW).verdict


def test_a_vanished_file_within_the_limit_no_longer_counts_but_stays_in_the_vault(
    source: MemoryStore, vault: Vault
) -> None:
    replicate_offline(source, vault, view=VIEW)
    source.delete("history/day1.parquet")
    replicate_offline(source, vault, view=VIEW, deletes_max=1)
    assert ["100"] == values(vault)
    assert vault.store.head(f"offline/{VIEW}/history/day1.parquet")


def test_a_torn_file_is_refused_by_name_and_nothing_of_the_run_counts(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    data = source.get("history/day1.parquet")
    source.put("history/day2.parquet", data[:-7])
    put_log(source, 2, [logged("user:00002", "clicks", "200", 60)])
    with pytest.raises(Corrupt, match=r"history/day2\.parquet"):
        replicate_offline(source, vault, view=VIEW)
    assert [1] == vault.sequences(f"features/{VIEW}/")


def test_a_body_that_was_cut_on_its_way_is_noticed(source: MemoryStore, vault: Vault) -> None:
    with pytest.raises(Corrupt):
        replicate_offline(FaultyStore(source).cut("get", key="history/"), vault, view=VIEW)


def test_what_the_vault_gives_back_is_compared_with_what_was_sent(source: MemoryStore, vault: Vault) -> None:
    lossy = Vault(FaultyStore(vault.store).cut("get", key=f"offline/{VIEW}/history/"))
    with pytest.raises(Corrupt, match="does not hold what was sent"):
        replicate_offline(source, lossy, view=VIEW)
    assert [] == vault.sequences(f"features/{VIEW}/")


def test_the_pointer_never_takes_the_watermark_back(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    manifest, _ = manifest_for(vault, VIEW, None)
    late = manifest.watermark + timedelta(seconds=9)
    assert late == advance_pointer(vault, manifest, late)
    assert late == advance_pointer(vault, manifest, manifest.watermark)
    assert late == watermark_now(vault, manifest)


def test_a_large_file_goes_through_the_disk(source: MemoryStore, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicating, "WHOLE_BYTES_MAX", 100)
    monkeypatch.setattr("understudy.objects.parts.PIECE_BYTES", 333)
    faulty = FaultyStore(source)
    report = replicate_offline(faulty, vault, view=VIEW)
    assert 0 == faulty.calls["get"]
    assert source.get("history/day1.parquet") == vault.store.get(f"offline/{VIEW}/history/day1.parquet")
    assert report.bytes_sent == report.bytes_total
    put_history(source, 21)
    replicate_offline(source, vault, view=VIEW)
    assert 21 == len(values(vault))


@pytest.mark.parametrize("rival", ["equal", "longer"])
def test_a_large_file_that_another_run_wrote_meanwhile_is_kept_as_it_is(
    source: MemoryStore, vault: Vault, monkeypatch: pytest.MonkeyPatch, rival: str
) -> None:
    monkeypatch.setattr(replicating, "WHOLE_BYTES_MAX", 100)
    key, data = f"offline/{VIEW}/history/day1.parquet", source.get("history/day1.parquet")
    theirs = data + (b"" if rival == "equal" else b"more")
    faulty = FaultyStore(vault.store).run("create_stream", lambda: vault.store.put(key, theirs), key=key)
    report = replicate_offline(source, Vault(faulty), view=VIEW)
    assert "changed" == report.verdict
    assert theirs == vault.store.get(key)
    assert 20 == len(values(vault))
    assert "unchanged" == replicate_offline(source, vault, view=VIEW).verdict


def test_a_run_that_broke_off_is_completed_by_the_next(source: MemoryStore, vault: Vault) -> None:
    broken = Vault(FaultyStore(vault.store).fail("create", key="features/", nth=None))
    with pytest.raises(Unreachable):
        replicate_offline(source, broken, view=VIEW)
    with pytest.raises(NotReady):
        manifest_for(vault, VIEW, None)
    report = replicate_offline(source, vault, view=VIEW)
    assert ("changed", 0) == (report.verdict, report.bytes_sent)


def test_the_watermark_is_what_the_open_writer_promised(source: MemoryStore, vault: Vault) -> None:
    log = LogWriter(source, "w2", flush_seconds_max=0.01, heartbeat_seconds=60)
    log.append([logged("user:00003", "clicks", "300", 70)])
    report = replicate_offline(source, vault, view=VIEW)
    assert report.watermark is not None
    assert report.watermark <= log.flushed_through
    assert "300" in values(vault)
    log.close()
    later = replicate_offline(source, vault, view=VIEW)
    assert later.watermark is not None
    assert later.watermark > report.watermark


def test_a_writer_that_died_freezes_the_watermark(source: MemoryStore, vault: Vault) -> None:
    promised = b'{"writer": "dead", "flushed_through": "2026-11-21T12:00:05+00:00", "closed": false}'
    source.put("writers/dead.json", promised)
    assert at(5) == replicate_offline(source, vault, view=VIEW).watermark
    put_log(source, 2, [logged("user:00002", "clicks", "200", 60)])
    assert at(5) == replicate_offline(source, vault, view=VIEW).watermark


def test_a_silent_writer_is_named_with_what_to_do_and_stops_counting_once_it_is_retired(
    source: MemoryStore, vault: Vault
) -> None:
    promised = b'{"writer": "pod-a", "flushed_through": "2026-11-21T12:01:30+00:00", "closed": false}'
    source._clock = lambda: at(90)
    source.put("writers/pod-a.json", promised)
    source._clock = lambda: at(150)
    report = replicate_offline(source, vault, view=VIEW)
    assert report.sentence.endswith("; watermark 12:01:30Z")
    assert {} == report.details["silent"]
    source._clock = lambda: at(90 + 26 * 3600)
    report = replicate_offline(source, vault, view=VIEW)
    words = "; watermark 12:01:30Z, held back by writer pod-a, silent for 1d02h; once it is gone for good: "
    assert report.sentence.endswith(f"{words}understudy features retire {VIEW} pod-a")
    assert {"pod-a": 26 * 3600} == report.details["silent"]
    assert "changed" == retire(source, "pod-a").verdict
    later = replicate_offline(source, vault, view=VIEW)
    assert (at(90 + 26 * 3600), {}) == (later.watermark, later.details["silent"])


def test_progress_tells_the_bytes_so_far(source: MemoryStore, vault: Vault) -> None:
    put_history(source, 7, name="day2")
    told: list[tuple[int, int | None]] = []
    report = replicate_offline(
        source, vault, view=VIEW, progress=lambda _what, done, total, _unit: told.append((done, total))
    )
    assert [report.bytes_total] * 3 == [total for _, total in told]
    assert sorted(told) == told
    assert report.bytes_total == told[-1][0]


def test_every_row_acknowledged_before_the_watermark_is_in_the_vault(source: MemoryStore, vault: Vault) -> None:
    with LogWriter(source, "w2", flush_seconds_max=0.005, heartbeat_seconds=0.05) as log:
        acknowledged = []
        for number in range(30):
            log.append([logged("late", str(number), "1", number)])
            acknowledged.append((log._clock(), str(number)))
            if number % 6 == 0:
                report = replicate_offline(source, vault, view=VIEW)
                assert report.watermark is not None
                held = {cell.feature for cell in read_offline(vault, view=VIEW) if cell.entity == "late"}
                assert {name for moment, name in acknowledged if moment < report.watermark} <= held


def test_the_schema_and_its_digest_stay_while_only_rows_are_added(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    one, _ = manifest_for(vault, VIEW, None)
    put_log(source, 2, [logged("user:00002", "clicks", "200", 60)])
    replicate_offline(source, vault, view=VIEW)
    two, _ = manifest_for(vault, VIEW, None)
    assert {"city": "string", "clicks": "int64", "member": "bool", "rate": "double"} == two.schema
    assert one.schema_digest == two.schema_digest
    put_log(source, 3, [logged("user:00002", "new one", "200", 60)])
    replicate_offline(source, vault, view=VIEW)
    three, _ = manifest_for(vault, VIEW, None)
    assert "json" == three.schema["new one"]
    assert one.schema_digest != three.schema_digest


def test_a_manifest_that_was_tampered_with_is_corrupt(source: MemoryStore, vault: Vault) -> None:
    replicate_offline(source, vault, view=VIEW)
    key = f"features/{VIEW}/00000001.json"
    data = unseal(vault.store.get(key)).replace(b"history/day1", b"history/day9")
    vault.store.put(key, data)
    with pytest.raises(Corrupt, match="own digest"):
        manifest_for(vault, VIEW, None)


def test_an_earlier_time_takes_the_first_state_that_is_complete_through_it(source: MemoryStore, vault: Vault) -> None:
    for number in range(1, 6):
        source._clock = lambda number=number: at(10 * number)
        put_log(source, number + 1, [logged("u", "n", str(number), number)])
        replicate_offline(source, vault, view=VIEW)
    for seconds, sequence in ((0, 1), (10, 1), (11, 2), (40, 4), (50, 5)):
        assert sequence == manifest_for(vault, VIEW, at(seconds))[0].sequence
    with pytest.raises(NotReady, match="known through"):
        manifest_for(vault, VIEW, at(51))
