"""What a verification found lost is sent again by the next push, although nothing changed at the source."""

from __future__ import annotations

import logging
import pickle
from datetime import timedelta
from functools import partial

import pytest

from tests.models import layers, model_files, safetensors
from tests.pruning import Clock, pruned
from tests.unit.artifacts.test_spread import Here
from tests.unit.vault.test_encryption import ONE, keys
from understudy.artifacts import replicate
from understudy.artifacts.catalog import all_manifests, find_manifest
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, Unsupported
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import Chunk
from understudy.vault.index import load_index
from understudy.vault.packs import pack_key, pack_name
from understudy.vault.reading import ChunkReader, DamagedPack
from understudy.vault.rounds import Sample, place
from understudy.vault.store import open_vault
from understudy.vault.verified import VERIFIED_KEY, keep, read_verified
from understudy.vault.verify import verify


@pytest.fixture
def source():
    return MemoryStore("source")


@pytest.fixture
def vault(source):
    """A vault of two versions, each with a pack of its own."""
    vault = open_vault(MemoryStore("vault"))
    for version, changed in (("1", None), ("2", 1)):
        for path, data in model_files(changed=changed).items():
            source.put(f"m/{version}/{path}", data)
        push(source, vault)
    return vault


def pack_of(vault, version):
    """Return the key of the pack that was sent for a version: the first one's is the largest."""
    first, second = sorted(vault.store.list("packs/"), key=lambda info: -info.size)
    return (first if version == "1" else second).key


def gone(vault, key):
    vault.store.delete(key)


def cut(vault, key):
    vault.store.put(key, vault.store.get(key)[:1000])


def flipped(vault, key):
    flip(vault.store, key)


def flip(store, key):
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 4
    store.put(key, bytes(data))


def rot(source, key):
    """Change a byte behind the listing's back."""
    data = bytearray(source.get(key))
    data[-1] ^= 1
    object.__setattr__(source._live[key], "data", bytes(data))


def killed_at_the_index(monkeypatch, source, vault):
    """Push, and be killed when the packs are in the vault and their index is not."""

    def killed(*_args, **_named):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("understudy.vault.writing.appended", killed)
        with pytest.raises(SystemExit):
            push(source, vault)


def with_differences(vault, *, last=push):
    """Return a source of two versions, and the keys of the pack of the first, and of the differences to it.

    ``last`` pushes the second one.
    """
    source = MemoryStore("deltas")
    weights = layers(2, rows=256, seed=3)
    source.put("m/1/model.safetensors", safetensors(weights))
    push(source, vault)
    source.put("m/2/model.safetensors", safetensors({name: each + each * 1e-6 for name, each in weights.items()}))
    last(source, vault)
    return source, pack_of(vault, "1"), pack_of(vault, "2")


def verified(vault, *, deep=False):
    result = verify(vault, deep=deep)
    keep(vault, result)
    return result


def restored(vault, version):
    found = {}
    with ChunkReader(vault) as reader:
        for file in find_manifest(vault, "m", version).files:
            chunks = [Chunk(bytes.fromhex(name), length) for name, length in file.chunks]
            found[f"m/{version}/{file.path}"] = b"".join(reader.stream(chunks, file.path))
    return found


def files(source, version):
    return {info.key: source.get(info.key) for info in source.list(f"m/{version}/")}


@pytest.mark.parametrize(("hurt", "deep"), [(gone, False), (cut, False), (flipped, True)])
def test_a_push_sends_again_what_a_verification_found_lost(source, vault, hurt, deep):
    before = all_manifests(vault)
    hurt(vault, pack_of(vault, "1"))
    with pytest.raises(Corrupt, match=r"pack .* (is missing|is cut short|cannot be|holds other bytes)"):
        restored(vault, "1")
    assert not verified(vault, deep=deep).ok

    [one] = push(source, vault)

    assert ("changed", "mended", "1", 1) == (one.verdict, one.details["action"], one.version, one.details["revision"])
    assert one.sentence.startswith("m 1: mended, 4 of 5 files had chunks that the vault lost, ")
    assert 0 < one.bytes_sent < sum(map(len, files(source, "1").values())) + 20_000
    # Version 2 needed that pack too, and is whole again: there is nothing to tell of it.
    assert before == all_manifests(vault)
    for version in ("1", "2"):
        assert files(source, version) == restored(vault, version)
    result = verified(vault, deep=True)
    assert (True, ()) == (result.ok, result.problems)
    assert (hurt is flipped) == bool(result.mended)
    assert [("unchanged", "2")] == [(report.verdict, report.version) for report in push(source, vault)]


def test_without_a_verification_a_push_looks_at_no_pack(source, vault):
    gone(vault, pack_of(vault, "1"))
    assert ["unchanged"] == [report.verdict for report in push(source, vault)]


def test_a_sound_version_is_not_read_while_another_is_mended(source, vault):
    gone(vault, pack_of(vault, "2"))
    verified(vault)
    [report] = push(source, vault)
    assert ("mended", "2") == (report.details["action"], report.version)
    assert len(source.get("m/2/model.safetensors")) == report.bytes_read
    assert report.sentence.startswith("m 2: mended, 1 of 5 files had chunks that the vault lost, ")
    assert files(source, "2") == restored(vault, "2")


def test_what_the_source_no_longer_has_stays_lost_and_is_told_again(source, vault):
    gone(vault, pack_of(vault, "2"))
    verified(vault)
    for key in files(source, "2"):
        source.delete(key)
    assert ["unchanged"] == [report.verdict for report in push(source, vault)]
    assert not verified(vault).ok


def test_a_source_that_rotted_too_mends_nothing(source, vault):
    gone(vault, pack_of(vault, "2"))
    verified(vault)
    rot(source, "m/2/model.safetensors")
    manifests = all_manifests(vault)
    [report] = push(source, vault)
    assert ("held", "damaged", "corrupt") == (report.verdict, report.details["action"], report.details["kind"])
    assert "the vault lost chunks of model.safetensors, and the source, which lists it as unchanged" in report.sentence
    assert report.details["hint"].startswith("restore the file at the source")
    assert manifests == all_manifests(vault)


def test_rot_at_the_source_is_not_taken_for_a_change_because_another_file_changed(source, vault):
    gone(vault, pack_of(vault, "2"))
    rot(source, "m/2/model.safetensors")
    source.put("m/2/config.json", b'{"model_type": "bert", "architectures": ["BertModel"]}')
    manifests = all_manifests(vault)
    [report] = push(source, vault)
    assert ("held", "damaged") == (report.verdict, report.details["action"])
    assert "the vault lost chunks of model.safetensors" in report.sentence
    assert manifests == all_manifests(vault)


def test_what_a_person_accepted_is_mended_without_being_asked_again(vault):
    source = MemoryStore("other")
    source.put("x/1/model.safetensors", safetensors(layers(2, seed=5)))
    source.put("x/1/model.safetensors.index.json", b'{"weight_map": {"a": "gone.safetensors"}}')
    assert ["held"] == [report.verdict for report in push(source, vault)]
    push(source, vault, accept_change="as it came")
    before = find_manifest(vault, "x")
    gone(vault, pack_key(load_index(vault).find(bytes.fromhex(before.files[0].chunks[-1][0])).pack))
    verified(vault)
    [report] = push(source, vault)
    assert "mended" == report.details["action"]
    assert before == find_manifest(vault, "x")
    assert verified(vault).ok


def test_a_worker_tells_that_the_source_rotted_too(source, vault):
    gone(vault, pack_of(vault, "2"))
    verified(vault)
    rot(source, "m/2/model.safetensors")
    workers = Here(source, vault)
    reports = push(source, vault, workers=workers)
    assert [("m",)] == workers.groups
    assert [("2", "damaged")] == [(report.version, report.details["action"]) for report in reports]


def test_workers_mend_in_parts_and_whole_models(source, vault, monkeypatch):
    gone(vault, pack_of(vault, "1"))
    verified(vault)
    workers = Here(source, vault)
    reports = push(source, vault, workers=workers)
    assert [("m",)] == workers.groups
    assert ["mended"] == [report.details["action"] for report in reports]
    assert verified(vault).ok

    for info in vault.store.list("packs/"):
        gone(vault, info.key)
    verified(vault)
    monkeypatch.setattr("understudy.artifacts.spread.PART_BYTES", 1)
    monkeypatch.setattr("understudy.artifacts.spread.parts_of.__kwdefaults__", {"bytes_max": 1})
    reports = push(source, vault, workers=workers)
    assert workers.parts
    assert {"mended"} == {report.details["action"] for report in reports}
    assert verified(vault).ok


def test_a_damaged_pack_that_no_index_names_is_not_adopted(source, vault, monkeypatch):
    for path, data in model_files(changed=2).items():
        source.put(f"m/3/{path}", data)
    known = {info.key for info in vault.store.list("packs/")}
    killed_at_the_index(monkeypatch, source, vault)
    [orphan] = {info.key for info in vault.store.list("packs/")} - known
    flipped(vault, orphan)
    result = verified(vault, deep=True)
    assert [orphan] == list(result.damaged)
    [report] = push(source, vault)
    assert ("changed", "3") == (report.verdict, report.version)
    assert files(source, "3") == restored(vault, "3")


def test_a_prune_takes_away_what_was_damaged_and_mended():
    clock = Clock()
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault", clock=clock))
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    push(source, vault)
    [damaged] = [info.key for info in vault.store.list("packs/")]
    flipped(vault, damaged)
    verified(vault, deep=True)
    push(source, vault)
    assert (damaged,) == tuple(read_verified(vault).again)
    clock.turn(30)
    pruned(vault)
    clock.turn(30)
    pruned(vault)
    assert damaged not in {info.key for info in vault.store.list("packs/")}
    result = verified(vault, deep=True)
    assert (True, 0, ()) == (result.ok, result.mended, read_verified(vault).again)
    assert files(source, "1") == restored(vault, "1")


def test_the_night_after_a_pack_is_mended_reads_it_again_and_finds_nothing_lost(source, vault):
    flipped(vault, pack_of(vault, "2"))
    verified(vault, deep=True)
    push(source, vault)
    before = read_verified(vault)
    keep(vault, result := verify(vault, sample=Sample(1e-9, 1, before.cursor, frozenset(before.again))))
    assert (True, 1, before.again) == (result.ok, result.mended, read_verified(vault).again)
    assert "1 damaged pack of which other packs have all that is needed, until a prune" in result.sentence


def test_a_pack_whose_differences_lost_their_base_is_not_damaged_itself(vault):
    # Its own bytes are those that were sent: only the pack of the base is sent again.
    source = MemoryStore("deltas")
    weights = layers(2, rows=256, seed=3)
    source.put("d/1/model.safetensors", safetensors(weights))
    push(source, vault)
    base = {info.key for info in vault.store.list("packs/")}
    source.put("d/2/model.safetensors", safetensors({name: each + each * 1e-6 for name, each in weights.items()}))
    push(source, vault)
    [differences] = {info.key for info in vault.store.list("packs/")} - base
    [hurt] = {
        pack_key(row.pack)
        for _, rows in load_index(vault).by_pack([differences.rpartition("/")[2]])
        for row in [load_index(vault).find(each.base) for each in rows if each.base]
    }
    flipped(vault, hurt)
    result = verified(vault, deep=True)
    assert (hurt,) == result.damaged
    assert any(differences.rpartition("/")[2] in words for words in result.problems)
    reports = push(source, vault)
    # With the base there again, the differences to it are worth what they were.
    assert [("1", "mended")] == [(report.version, report.details["action"]) for report in reports]
    assert (True, 1) == ((mended := verified(vault, deep=True)).ok, mended.mended)


def test_a_sample_that_reads_only_the_differences_has_their_base_sent_again():
    vault = open_vault(MemoryStore("vault"))
    source, base, differences = with_differences(vault)
    flipped(vault, base)
    before = f"{int(place(differences), 16) - 1:016x}"
    keep(vault, result := verify(vault, sample=Sample(1e-9, 1, before)))
    assert (1, (base,)) == (result.objects, result.damaged)
    assert ["mended"] == [report.details["action"] for report in push(source, vault)]
    assert verified(vault, deep=True).ok
    assert [files(source, version) for version in "12"] == [restored(vault, version) for version in "12"]


def test_what_cannot_be_read_of_the_verifications_stops_no_push(source, vault, caplog):
    vault.store.put(VERIFIED_KEY, b'{"damage": 1}')
    source.put("n/1/a.bin", b"new")
    with caplog.at_level(logging.WARNING, logger="understudy.vault"):
        reports = push(source, vault)
    assert [("m", "unchanged"), ("n", "changed")] == [(report.name, report.verdict) for report in reports]
    assert "what verifications found is not heeded" in caplog.text


def test_an_unchanged_push_of_a_sound_vault_does_not_open_the_index(source, vault, monkeypatch):
    verified(vault, deep=True)
    monkeypatch.setattr(replicate._Run, "_opened", None)
    assert ["unchanged"] == [report.verdict for report in push(source, vault)]


def test_a_restore_tells_of_a_damaged_pack_once(vault, caplog, monkeypatch):
    monkeypatch.setattr("understudy.vault.reading._RANGE_BYTES_MIN", 1)
    cut(vault, pack_of(vault, "1"))
    with (
        caplog.at_level(logging.WARNING, logger="understudy.vault"),
        pytest.raises(Corrupt, match="understudy vault v"),
    ):
        restored(vault, "1")
    assert 1 == len([line for line in caplog.messages if "is cut short" in line])


def test_a_mend_that_was_killed_before_the_index_is_finished_by_the_next_push(source, vault, monkeypatch):
    flipped(vault, pack_of(vault, "1"))
    verified(vault, deep=True)
    killed_at_the_index(monkeypatch, source, vault)
    assert not verified(vault, deep=True).ok
    [report] = push(source, vault)
    assert ("unchanged", 0) == (report.verdict, report.bytes_sent)  # all of it was there already
    assert verified(vault, deep=True).ok
    assert [files(source, version) for version in "12"] == [restored(vault, version) for version in "12"]


def test_adopted_differences_without_their_base_are_not_counted_on(monkeypatch):
    vault = open_vault(MemoryStore("vault"))
    source, base, _ = with_differences(vault, last=partial(killed_at_the_index, monkeypatch))
    gone(vault, base)
    source.delete("m/1/model.safetensors")
    [report] = push(source, vault)
    assert ("changed", "2") == (report.verdict, report.version)
    assert files(source, "2") == restored(vault, "2")


def test_a_coder_of_a_later_version_is_no_damage_of_its_pack(vault, monkeypatch):
    def unknown(name, *_args):
        raise Unsupported(f"coder {name} is not known here")

    monkeypatch.setattr("understudy.vault.reading.decode", unknown)
    result = verified(vault, deep=True)
    assert (False, (), 0) == (result.ok, result.damaged, result.mended)
    assert any("is not known here" in words for words in result.problems)


def test_a_mended_pack_that_an_index_merge_left_out_is_told_as_mended(source, vault, monkeypatch):
    damaged = pack_of(vault, "2")
    flipped(vault, damaged)
    verified(vault, deep=True)
    monkeypatch.setattr("understudy.vault.index.LIVE_SEQUENCES_MAX", 2)
    push(source, vault)
    index = load_index(vault)
    assert pack_name(damaged) in index.packs
    assert not any(pack_name(damaged) in segment.packs for segment in index.segments)
    result = verified(vault, deep=True)
    assert (True, 1, (damaged,)) == (result.ok, result.mended, result.damaged)


def test_a_sample_keeps_the_names_of_damaged_packs_that_it_did_not_read_again(vault):
    before = read_verified(vault)
    first, second = pack_of(vault, "1"), pack_of(vault, "2")
    flipped(vault, first)
    flipped(vault, second)
    late = verify(vault, sample=Sample(1e-9, 1, before.cursor, frozenset({second})))  # began before the deep one ended
    verified(vault, deep=True)
    keep(vault, late)
    assert {first, second} == set(read_verified(vault).again)


def test_a_flipped_byte_of_an_encrypted_pack_is_told_for_what_it_is(source):
    vault = open_vault(stored := MemoryStore("vault"), service="shop", encryption=keys(ONE))
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    push(source, vault)
    [pack] = vault.store.list("packs/")
    flip(stored, pack.key)
    with pytest.raises(Corrupt) as raised:
        restored(vault, "1")
    assert "cut short" not in raised.value.message
    assert "vault verify --deep" in raised.value.hint


def test_what_was_read_elsewhere_later_does_not_make_a_mended_file_another_one(source, vault):
    # The same bytes at the source, as a listing shows, in another version of the object.
    gone(vault, pack_of(vault, "2"))
    verified(vault)
    info = source._live["m/2/model.safetensors"].info
    object.__setattr__(info, "modified", info.modified + timedelta(days=1))
    manifests = all_manifests(vault)
    assert ["mended"] == [report.details["action"] for report in push(source, vault)]
    assert manifests == all_manifests(vault)


def test_a_damaged_pack_passes_between_processes():
    error = pickle.loads(pickle.dumps(DamagedPack("pack x is missing", hint="look", pack="x")))  # noqa: S301
    assert ("pack x is missing", "look", "x") == (error.message, error.hint, error.pack)
