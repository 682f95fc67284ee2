"""A vault that is encrypted before it leaves: nobody without the key reads it, changes it unseen, or mixes it up."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from tests.unit.vault.test_signing import fill, signing
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.pull import pull
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, InvalidConfig, NotFound, Refused, Unsupported
from understudy.kit import fetch_kit, keep_kit, read_kit
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.report import quiet
from understudy.vault.encryption import (
    SEGMENT_BYTES,
    EncryptedStore,
    Encryption,
    is_plain,
    new_key_line,
    plain_size,
    read_keys,
    stored_size,
)
from understudy.vault.packs import PACKS_PREFIX
from understudy.vault.rekey import rekey
from understudy.vault.seal import seal
from understudy.vault.store import Vault, open_vault, to_json
from understudy.vault.verify import verify

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
ONE, TWO, OTHER = (
    f"{name}:{base64.b64encode(bytes([at]) * 32).decode()}" for at, name in enumerate(("k1", "k2", "k3"))
)
#: Written by Tink 1.16 (AES256_GCM_HKDF, SHA-256, segments of 64 KiB) with the key of bytes 0 to 31.
TINKS = bytes.fromhex(
    "28b5f5888e25b2d9ece6fe3de0c8c7437a8b966ebcf2eb1bc9f858270592cc17c9a4fc6ab36ec8736139bbd2b3d71e60a3e5a404a6b6d121853a"
    "0133996e735f"
)
ROOM = SEGMENT_BYTES - 16
SIZES = (0, 1, ROOM - 41, ROOM - 40, ROOM - 39, 2 * ROOM - 41, 2 * ROOM - 40, 2 * ROOM - 39, 5 * ROOM)


def keys(*lines):
    return Encryption("shop", lambda: "\n".join(lines))


def encrypted(stored, *lines):
    return EncryptedStore(stored, keys(*(lines or (ONE,))))


def opened(stored, *lines, **options):
    return open_vault(stored, service="shop", encryption=keys(*lines) if lines else None, **options)


def some_bytes(count):
    return (bytes(range(251)) * (count // 251 + 1))[:count]


class Watched(MemoryStore):
    """A store that remembers how much was read and written at once."""

    def __init__(self):
        super().__init__("vault")
        self.read, self.parts = [], []

    def get_range(self, key, start, length, *, version=None):
        self.read.append((start, length))
        return super().get_range(key, start, length, version=version)

    def put_stream(self, key, parts, size):
        def noted():
            for part in parts:
                self.parts.append(len(part))
                yield part

        return super().put_stream(key, noted(), size)


@pytest.fixture
def stored():
    return MemoryStore("vault")


# -- one object -------------------------------------------------------------------------------------------------------


def test_what_tink_wrote_is_read():
    stored = MemoryStore()
    stored.put("sets/shop/00000001.json", TINKS)
    line = base64.b64encode(bytes(range(32))).decode()
    assert b'{"a": 1}' == encrypted(stored, line).get("sets/shop/00000001.json")


@pytest.mark.parametrize("size", SIZES)
def test_lengths_are_computed_and_not_stored(stored, size):
    store = encrypted(stored)
    store.put("packs/x", some_bytes(size))
    assert (stored_size(size), size) == (len(stored.get("packs/x")), plain_size(stored_size(size)))
    assert [size, size] == [store.head("packs/x").size, next(store.list()).size]
    assert some_bytes(size) == store.get("packs/x")


def test_no_object_has_the_length_of_an_empty_last_segment():
    sizes = {stored_size(plain) for plain in range(3 * ROOM)}
    assert sizes == {stored for stored in range(max(sizes) + 1) if plain_size(stored) is not None}


def test_a_ranged_read_fetches_the_segments_that_it_touches():
    stored = Watched()
    store, data = encrypted(stored), some_bytes(20 * ROOM)
    store.put("packs/x", data)
    assert data[10 * ROOM : 10 * ROOM + 5] == store.get_range("packs/x", 10 * ROOM, 5)
    assert [(0, 40), (10 * SEGMENT_BYTES, SEGMENT_BYTES)] == stored.read
    assert data[3:9] == store.get_range("packs/x", 3, 6)
    assert data[-1:] == store.get_range("packs/x", len(data) - 1, 1)
    assert [(0, SEGMENT_BYTES), (20 * SEGMENT_BYTES, 56)] == stored.read[2:], "the header is known by now"


@pytest.mark.parametrize("lines", [(ONE,), (TWO, ONE)], ids=["one key", "an older key"])
@pytest.mark.parametrize("size", SIZES)
def test_every_range_is_exact(stored, size, lines):
    data = some_bytes(size)
    encrypted(stored).put("packs/x", data)
    edges = {0, 1, size // 2, ROOM - 41, ROOM - 40, ROOM - 39, 2 * ROOM - 40, size - 1, size}
    places = sorted(edge for edge in edges if 0 <= edge <= size)
    known = encrypted(stored, *lines)
    for start in places:
        for end in (end for end in places if end >= start):
            for store in (known, encrypted(stored, *lines)):
                assert data[start:end] == store.get_range("packs/x", start, end - start)
    with pytest.raises(Corrupt, match="packs/x in memory://vault ends before byte"):
        known.get_range("packs/x", size, 1)


def test_a_stream_is_encrypted_in_bounded_memory():
    stored, size = Watched(), 7 * ROOM + 5
    parts = (some_bytes(size)[at : at + 100_000] for at in range(0, size, 100_000))
    encrypted(stored).put_stream("offline/v/x", parts, size)
    assert SEGMENT_BYTES >= max(stored.parts)
    assert 9 == len(stored.parts), "the header, and eight segments"
    assert some_bytes(size) == encrypted(stored).get("offline/v/x")


def test_what_is_written_twice_lies_there_differently_and_reads_alike(stored):
    store = encrypted(stored)
    store.put("a", b"the same")
    first = stored.get("a")
    store.put("a", b"the same")
    assert first[1:40] != stored.get("a")[1:40]
    assert first[40:] != stored.get("a")[40:]
    assert b"the same" == store.get("a")


def test_an_object_that_is_replaced_is_not_read_with_the_header_of_the_old_one(stored):
    store, other = encrypted(stored), encrypted(stored)
    for size in (3 * ROOM, 5 * ROOM, 9, 3 * ROOM):
        other.put("offline/v/x", some_bytes(size))
        assert some_bytes(size)[-9:] == store.get_range("offline/v/x", size - 9, 9)


def test_an_older_version_is_read_by_its_name_and_length(stored):
    store = encrypted(stored)
    first = store.put("a", some_bytes(2 * ROOM))
    store.put("a", b"new")
    assert some_bytes(2 * ROOM)[ROOM : ROOM + 9] == store.get_range("a", ROOM, 9, version=first.version)
    assert b"ew" == store.get_range("a", 1, 2, version=store.head("a").version)


# -- hostile bytes ----------------------------------------------------------------------------------------------------


def segments(data):
    return [data[at : at + SEGMENT_BYTES] for at in range(0, len(data), SEGMENT_BYTES)]


CHANGES = {
    "cut after a segment": lambda data: b"".join(segments(data)[:2]),
    "cut in a segment": lambda data: data[:-1],
    "cut in the header": lambda data: data[:39],
    "empty": lambda _data: b"",
    "a segment left out": lambda data: b"".join(segments(data)[:1] + segments(data)[2:]),
    "segments in another order": lambda data: b"".join(segments(data)[at] for at in (0, 2, 1, 3)),
    "a segment twice": lambda data: b"".join(segments(data)[at] for at in (0, 1, 1, 2, 3)),
    "bytes behind it": lambda data: data + bytes(40),
    "in plain": lambda _data: b'{"a": 1}' * 20,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_as_it_was_written_is_corrupt_by_name(stored, change):
    store, size = encrypted(stored), 3 * ROOM + 100
    store.put("packs/x", some_bytes(size))
    stored.put("packs/x", CHANGES[change](stored.get("packs/x")))
    with pytest.raises(Corrupt, match=r"^packs/x in memory://vault "):
        store.get("packs/x")
    with pytest.raises(Corrupt, match=r"^packs/x in memory://vault "):
        [store.get_range("packs/x", start, min(1000, size - start)) for start in range(0, size, 1000)]


def test_every_flipped_byte_is_found(stored):
    store = encrypted(stored)
    store.put("a", b"some bytes")
    whole = stored.get("a")
    for at in range(len(whole)):
        stored.put("a", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Corrupt, match=r"^a in memory://vault "):
            store.get("a")
        with pytest.raises(Corrupt, match=r"^a in memory://vault "):
            encrypted(stored).get_range("a", 0, 1)


def test_a_segment_of_another_write_of_the_same_object_is_refused(stored):
    store = encrypted(stored)
    store.put("a", some_bytes(3 * ROOM))
    old = segments(stored.get("a"))
    store.put("a", some_bytes(3 * ROOM))
    new = segments(stored.get("a"))
    for mixed in ([*new[:2], *old[2:]], [new[0][:40] + old[0][40:], *new[1:]], [old[0][:40] + new[0][40:], *new[1:]]):
        stored.put("a", b"".join(mixed))
        with pytest.raises(Corrupt, match="a in memory://vault is not what this vault's keys encrypted"):
            store.get("a")


def test_an_object_under_another_name_or_of_another_service_or_folder_is_refused(stored):
    encrypted(stored).put("sets/shop/00000001.json", b"{}")
    stored.put("sets/shop/00000002.json", stored.get("sets/shop/00000001.json"))
    elsewhere = EncryptedStore(stored, Encryption("other", lambda: ONE))
    below = EncryptedStore(stored, keys(ONE), below="offline/v/")
    for store, key in (
        (encrypted(stored), "sets/shop/00000002.json"),
        (elsewhere, "sets/shop/00000001.json"),
        (below, "sets/shop/00000001.json"),
    ):
        with pytest.raises(Corrupt, match="is not what this vault's keys encrypted under this name"):
            store.get(key)


def test_what_lies_there_in_plain_is_said_to_be_so(stored):
    stored.put("offline/v/writers/w.json", b'{"writer": "w"}' + bytes(60))
    with pytest.raises(
        Corrupt, match=r"offline/v/writers/w\.json in memory://vault is not encrypted, though the vault"
    ):
        encrypted(stored).get("offline/v/writers/w.json")
    assert ["offline/v/writers/w.json"] == [info.key for info in encrypted(stored).list()]


def test_a_folder_of_the_vault_opened_by_itself_is_the_same_folder(tmp_path):
    (tmp_path / "offline" / "v").mkdir(parents=True)
    below = EncryptedStore(FileStore(tmp_path / "offline" / "v"), keys(ONE), below="offline/v/")
    below.create("log/w/00000001.parquet", b"rows")
    assert b"rows" == encrypted(FileStore(tmp_path)).get("offline/v/log/w/00000001.parquet")


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_read_from_lines_spaces_and_escaped_line_ends():
    bare = TWO.partition(":")[2]
    for text in (f"# of 2026\n{ONE}\n{bare}\n", f"{ONE} {bare}", f"{ONE}\\n{bare}", f"{ONE}, {bare}"):
        first, second = read_keys(text)
        assert "k1" == first.id
        assert re.fullmatch("k-[0-9a-f]{8}", second.id), second.id
    made = new_key_line()
    assert made.partition(":")[0] == read_keys(made.partition(":")[2])[0].id, "its name follows from its bytes"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("# nothing", "holds no key"),
        ("k1:" + "A" * 43, "key 1 of vault.encrypt_with is not 32 bytes"),
        (f"{ONE} c2hvcnQ=", "key 2 of vault.encrypt_with is not 32 bytes"),
        (f"k\x001:{ONE[3:]}", "key 1 of vault.encrypt_with is not 32 bytes"),
        (f"{ONE} {ONE}", "two keys of one name"),
    ],
)
def test_what_is_no_key_is_said_without_a_letter_of_it(text, words):
    with pytest.raises(InvalidConfig, match=words) as raised:
        read_keys(text)
    assert ONE[3:] not in str(raised.value)
    assert "c2hvcnQ" not in str(raised.value)
    assert 3 == raised.value.exit_code


def test_a_key_is_in_no_repr(stored):
    key = keys(ONE).keys[0]
    assert "MasterKey(id='k1')" == repr(key)
    assert "AAAA" not in repr(encrypted(stored)) + repr(keys(ONE))


@pytest.fixture
def vault(stored):
    made = opened(stored, ONE)
    fill(made)
    return made


def test_a_store_becomes_an_encrypted_vault_by_its_first_write_and_says_so(stored):
    vault = opened(stored, ONE)
    assert [] == list(stored.list())
    vault.put_once("a/1", b"{}")
    said = json.loads(stored.get("format.json"))
    assert (2, "shop", ["k1"]) == (said["format"], said["service"], [key["id"] for key in said["encryption"]["keys"]])
    assert ONE[3:20] not in stored.get("format.json").decode()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "is encrypted with k1, and vault.encrypt_with names no key"),
        ((TWO,), "is encrypted with k1, which is not a key of this config. Vault.encrypt_with holds k2"),
        ((f"k1:{TWO[3:]}",), "is encrypted with k1, which is not a key of this config"),
        ((TWO, ONE), "the first key of vault.encrypt_with, k2, is not yet a key of memory://vault"),
    ],
    ids=["none", "another", "another of its name", "a new one first"],
)
@pytest.mark.usefixtures("vault")
def test_a_missing_or_wrong_key_is_one_clear_sentence(stored, lines, words):
    with pytest.raises(InvalidConfig) as raised:
        opened(stored, *lines)
    assert words in str(raised.value)
    assert 3 == raised.value.exit_code


@pytest.mark.usefixtures("vault")
def test_a_key_of_another_service_is_not_the_vaults(stored):
    with pytest.raises(Refused, match="belongs to the service 'shop'"):
        open_vault(stored, service="other", encryption=Encryption("other", lambda: ONE))


def test_a_plain_vault_is_refused_with_a_key(stored):
    opened(stored).put_once("a/1", b"{}")
    with pytest.raises(Refused, match=r"is not encrypted, and vault\.encrypt_with names a key"):
        opened(stored, ONE)


@pytest.mark.usefixtures("vault")
def test_a_vault_whose_format_was_removed_is_not_begun_anew(stored):
    stored.delete("format.json")
    with pytest.raises(Refused, match=r"holds artifacts/m/1/00000001\.json and no format\.json"):
        opened(stored, ONE).put_once("a/1", b"{}")
    assert "format.json" not in {info.key for info in stored.list()}


@pytest.mark.usefixtures("vault")
def test_an_earlier_version_refuses_an_encrypted_vault_by_its_format(stored):
    said = json.loads(stored.get("format.json"))
    for changed in (said | {"format": 1}, {name: said[name] for name in said if name != "encryption"}):
        stored.put("format.json", to_json({name: changed[name] for name in changed if name != "seal"}))
        with pytest.raises(Unsupported, match="has format"):
            opened(stored, ONE)


@pytest.mark.parametrize("told", [{}, [], {"scheme": "x"}, {"scheme": "ROT13", "segment": 65536, "keys": []}])
@pytest.mark.usefixtures("vault")
def test_a_format_that_says_nothing_of_keys_is_refused(stored, told):
    said = json.loads(stored.get("format.json")) | {"encryption": told}
    said.pop("seal")
    stored.put("format.json", seal(to_json(said)))
    with pytest.raises((Corrupt, Unsupported), match=r"format\.json in memory://vault does not say|ROT13"):
        opened(stored, ONE)


# -- the whole vault --------------------------------------------------------------------------------------------------


def test_nothing_but_format_kits_and_probes_can_be_read_without_the_key(vault, stored):
    plain = {info.key: vault.store.get(info.key) for info in vault.store.list()}
    assert {"artifacts", "features", "format.json", "index", "offline", "packs", "pointers", "sets", "vectors"} == {
        key.partition("/")[0] for key in plain
    }
    for key, data in plain.items():
        assert is_plain(key) is (stored.get(key) == data), key
        if not is_plain(key):
            assert stored_size(len(data)) == len(stored.get(key)), key
            assert all(data[at : at + 16] not in stored.get(key) for at in range(0, len(data) - 16, 16)), key


def test_the_whole_road_runs_over_an_encrypted_vault_signed_too(stored, tmp_path):
    vault = opened(stored, ONE, signing=signing())
    fill(vault)
    found = verify(vault, deep=True)
    assert ((), 4, 4) == (found.problems, found.manifests, found.signed)
    target = MemoryStore("serving")
    hydrate(vault, target, model="m")
    reader = opened(stored, ONE, signing=signing(None))
    pull(reader, tmp_path, model="m")
    for path, data in model_files().items():
        assert data == target.get(f"m/1/{path}") == (tmp_path / "m" / "1" / path).read_bytes()
    before = len(list(stored.list()))
    fill(opened(stored, ONE, signing=signing()))
    assert before == len(list(stored.list())), "again, nothing is sent"


@pytest.mark.usefixtures("vault")
def test_a_signature_is_asked_for_inside_of_an_encrypted_vault(stored):
    with pytest.raises(Corrupt, match="is not signed"):
        find_manifest(opened(stored, ONE, signing=signing(None)), "m")


def test_verify_names_what_was_changed_in_an_encrypted_vault(vault, stored):
    pack = next(info.key for info in stored.list(PACKS_PREFIX))
    data = stored.get(pack)
    stored.put(pack, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert not verify(vault, deep=False).problems
    problems = verify(vault, deep=True).problems
    assert any(pack.rpartition("/")[2] in problem for problem in problems)
    stored.put(pack, data[:-1])
    assert any("bytes" in problem for problem in verify(vault, deep=False).problems)


def test_names_of_packs_confirm_no_files_that_somebody_has(stored):
    source = MemoryStore("source")
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    known = MemoryStore("known")
    push(source, opened(known))
    again = MemoryStore("again")
    push(source, opened(again))
    push(source, opened(stored, ONE))
    names = [{info.key for info in store.list(PACKS_PREFIX)} for store in (known, again, stored)]
    assert names[0] == names[1], "in a plain vault the name is the content's"
    assert not names[0] & names[2]


def test_a_push_that_was_killed_is_adopted_in_an_encrypted_vault(stored):
    source = MemoryStore("source")
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    broken = FaultyStore(stored).fail("create", key="index/")
    with pytest.raises(Exception, match="lost"):
        push(source, opened(broken, ONE))
    packs = {info.key for info in stored.list(PACKS_PREFIX)}
    assert packs
    push(source, opened(stored, ONE))
    assert packs == {info.key for info in stored.list(PACKS_PREFIX)}
    assert not verify(opened(stored, ONE), deep=True).problems


def test_a_damaged_object_where_a_pack_should_go_does_not_stop_a_push():
    source = MemoryStore("source")
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)

    class Taken(MemoryStore):
        """A store in which somebody is always quicker, once."""

        taken = False

        def create(self, key, data):
            if key.startswith(PACKS_PREFIX) and not self.taken:
                self.taken = True
                super().create(key, bytes(100))
            return super().create(key, data)

    taken = Taken("vault")
    push(source, opened(taken, ONE))
    assert taken.taken
    hydrate(opened(taken, ONE), MemoryStore(), model="m")


def test_a_kit_is_kept_beside_an_encrypted_vault_in_plain_for_it_brings_what_decrypts(stored, tmp_path):
    from tests.unit.command.test_kit import write_kit

    path = write_kit(tmp_path / "kit.tar")
    kept = keep_kit(opened(stored, ONE), path, read_kit(path))
    assert path.read_bytes() == stored.get(kept.key)
    assert json.loads(stored.get("pointers/kit.json"))["key"] == kept.key
    assert kept.sha256 == fetch_kit(opened(stored, ONE), tmp_path / "fetched.tar").sha256


def test_an_object_is_decrypted_by_the_lines_of_the_page(vault, stored, tmp_path):
    script = next(
        block
        for block in re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if "AESGCM" in block
    )
    copied, target = FileStore(_made(tmp_path / "copy")), tmp_path / "plain"
    big = some_bytes(3 * ROOM)
    vault.store.put("offline/v/big", big)
    for info in stored.list():
        copied.put(info.key, stored.get(info.key))
    (tmp_path / "decrypt.py").write_text(script, encoding="utf-8")
    (tmp_path / "key").write_text(f"{TWO}\n{ONE}\n", encoding="utf-8")
    command = [sys.executable, str(tmp_path / "decrypt.py"), str(tmp_path / "copy"), str(tmp_path / "key"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert {info.key: vault.store.get(info.key) for info in vault.store.list()} == {
        str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()
    }
    whole = copied.get("offline/v/big")
    copied.put("offline/v/big", whole[: 2 * SEGMENT_BYTES])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert "offline/v/big" in done.stderr


def _made(folder):
    folder.mkdir()
    return folder


# -- another key ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("vault")
def test_a_new_key_is_made_known_then_encrypts_while_the_old_one_reads(stored):
    told = rekey(stored, keys(TWO, ONE), write=False, every=False, progress=quiet)
    assert (False, False) == (told.known, told.written)
    with pytest.raises(InvalidConfig, match="not yet a key"):
        opened(stored, TWO, ONE)
    rekey(stored, keys(TWO, ONE), write=True, every=False, progress=quiet)
    both = opened(stored, TWO, ONE)
    both.store.put("pointers/x.json", b"{}")
    with pytest.raises(Corrupt, match="not what this vault's keys encrypted"):
        encrypted(stored, ONE).get("pointers/x.json")
    assert not verify(both, deep=False).problems
    assert "m" == find_manifest(both, "m").model
    with pytest.raises(InvalidConfig, match="is encrypted with k1, which is not a key of this config"):
        opened(stored, TWO)
    opened(stored, ONE, TWO)


@pytest.mark.usefixtures("vault")
def test_a_vault_is_encrypted_anew_under_the_new_key_alone(stored):
    told = rekey(stored, keys(TWO, ONE), write=False, every=True, progress=quiet)
    objects = len([info for info in stored.list() if not is_plain(info.key)])
    assert ({"k2": 0, "k1": objects}, 0) == (told.counted, told.rewritten)
    done = rekey(stored, keys(TWO, ONE), write=True, every=True, progress=quiet)
    assert (objects, ("k1",)) == (done.rewritten, done.retired)
    alone = opened(stored, TWO)
    assert not verify(alone, deep=True).problems
    again = rekey(stored, keys(TWO), write=True, every=True, progress=quiet)
    assert (True, {"k2": objects}, 0, ()) == (again.known, again.counted, again.rewritten, again.retired)


@pytest.mark.usefixtures("vault")
def test_a_rekey_that_was_stopped_goes_on_where_it_was(stored):
    broken = FaultyStore(stored).fail("replace", nth=5)
    with pytest.raises(Exception, match="lost"):
        rekey(broken, keys(TWO, ONE), write=True, every=True, progress=quiet)
    assert not verify(opened(stored, TWO, ONE), deep=True).problems
    rekey(stored, keys(TWO, ONE), write=True, every=True, progress=quiet)
    assert not verify(opened(stored, TWO), deep=True).problems


@pytest.mark.usefixtures("vault")
def test_an_old_key_stays_named_while_anything_is_under_it(stored):
    def meanwhile():
        encrypted(stored, ONE).put("pointers/artifacts/p.json", b"{}")

    watched = FaultyStore(stored)
    watched.run("replace", meanwhile, key="vectors/")
    done = rekey(watched, keys(TWO, ONE), write=True, every=True, progress=quiet)
    assert () == done.retired
    assert ["k2", "k1"] == [one["id"] for one in json.loads(stored.get("format.json"))["encryption"]["keys"]]


@pytest.mark.usefixtures("vault")
def test_a_rekey_says_what_it_lacks(stored):
    for encryption, words in ((None, "names no key"), (keys(OTHER, TWO), "is encrypted with k1")):
        with pytest.raises(InvalidConfig, match=words):
            rekey(stored, encryption, write=True, every=False, progress=quiet)
    with pytest.raises(NotFound, match="is no vault yet"):
        rekey(MemoryStore("empty"), keys(ONE), write=True, every=False, progress=quiet)
    plain = MemoryStore("plain")
    Vault(opened(plain).store).put_once("a/1", b"{}")
    with pytest.raises(Refused, match="is not encrypted"):
        rekey(plain, keys(ONE), write=True, every=False, progress=quiet)
