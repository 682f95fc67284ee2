"""Signed manifests: what anybody but a trusted key wrote, changed or moved is refused, with public keys alone."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.faults import FaultyStore
from tests.models import model_files
from tests.unit.features.offline_store import put_history
from tests.unit.vectors.rows import batch_of, schema_of, vectors_of
from understudy.artifacts.catalog import find_manifest, read_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.errors import Conflict, Corrupt, InvalidConfig, NotFound, Refused
from understudy.features.manifest import newest_manifest
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.vault.countersign import countersign
from understudy.vault.keys import write_private_key
from understudy.vault.seal import seal, unseal
from understudy.vault.sets import compose, newest_set
from understudy.vault.signing import Signing, is_manifest, private_key_text, public_line, split
from understudy.vault.store import Vault, open_vault
from understudy.vault.verify import verify
from understudy.vectors import manifest as vector_manifests
from understudy.vectors.export import export
from understudy.vectors.memory import MemoryVectors

ONE, TWO, STRANGER = bytes(range(32)), bytes([7] * 32), bytes([9] * 32)


def signing(seed=ONE, *, trust=(ONE,), service="shop"):
    private_key = (lambda: private_key_text(seed)) if seed else None
    return Signing(service, trust=tuple(public_line(each) for each in trust), private_key=private_key)


def fill(vault):
    import pyarrow as pa

    source, lake = MemoryStore("source"), MemoryStore("lake")
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    push(source, vault)
    schema = schema_of()
    index = MemoryVectors("i")
    rows = pa.Table.from_batches([batch_of(schema, [1, 2], vectors_of([[1, 2, 3], [4, 5, 6]]))])
    index.replace(schema, rows, labels={"model": "m", "model_digest": find_manifest(vault, "m").digest})
    export(index, vault, index="i")
    put_history(lake, 3)
    replicate_offline(lake, vault, view="v")
    compose(vault, "shop", index="i", view="v")


@pytest.fixture
def store():
    return FaultyStore(MemoryStore("vault"))


@pytest.fixture
def vault(store):
    opened = open_vault(store, service="shop", signing=signing())
    fill(opened)
    return opened


def reader(store, *, trust=(ONE,), service="shop"):
    return Vault(store, signing(None, trust=trust, service=service))


MANIFESTS = {
    "artifacts/m/1/00000001.json": lambda vault: read_manifest(vault, "m", "1", 1),
    "vectors/i/00000001/manifest.json": lambda vault: vector_manifests.read(vault, "i", 1),
    "features/v/00000001.json": lambda vault: newest_manifest(vault, "v"),
    "sets/shop/00000001.json": lambda vault: newest_set(vault, "shop"),
}


def resealed(store, key, change):
    """Change a manifest as someone would who may write into the bucket, seal and all."""
    store.put(key, seal(change(unseal(store.get(key)))))


def test_every_kind_of_manifest_is_signed_and_read_with_the_public_key_alone(vault, store):
    assert set(MANIFESTS) == {info.key for info in store.list() if is_manifest(info.key)}
    for key, read in MANIFESTS.items():
        assert store.get(key).startswith(b'{"signature":"ed25519:')
        assert read(reader(store)) == read(vault)
    target = MemoryStore("target")
    hydrate(reader(store), target, model="m")
    assert model_files()["model.safetensors"] == target.get("m/1/model.safetensors")


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("key", MANIFESTS)
def test_an_unsigned_manifest_is_refused_where_keys_are_trusted(store, key):
    resealed(store, key, lambda data: split(data)[0])
    with pytest.raises(Corrupt, match=f"{key} is not signed") as refused:
        MANIFESTS[key](reader(store))
    assert 8 == refused.value.exit_code
    assert "vault sign" not in str(refused.value)


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("key", MANIFESTS)
def test_a_changed_manifest_is_refused(store, key):
    resealed(store, key, lambda data: data[:-3] + data[-3:].replace(b"}", b' , "more": 1}'))
    with pytest.raises(Corrupt, match=f"{key} is not what ed25519:A6EHv/POEL4d signed"):
        MANIFESTS[key](reader(store))


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("key", MANIFESTS)
def test_a_manifest_that_another_key_signed_again_is_refused(store, key):
    resealed(store, key, lambda data: signing(STRANGER, trust=()).sign(key, split(data)[0]))
    with pytest.raises(Corrupt, match=f"{key} is signed by ed25519:/R") as refused:
        MANIFESTS[key](reader(store))
    assert "vault.trust does not name" in refused.value.message


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize(
    ("key", "moved", "read"),
    [
        ("artifacts/m/1/00000001.json", "artifacts/m/1/00000002.json", lambda vault: read_manifest(vault, "m", "1", 2)),
        ("artifacts/m/1/00000001.json", "artifacts/m/2/00000001.json", lambda vault: read_manifest(vault, "m", "2", 1)),
        ("artifacts/m/1/00000001.json", "artifacts/x/1/00000001.json", lambda vault: read_manifest(vault, "x", "1", 1)),
        (
            "vectors/i/00000001/manifest.json",
            "vectors/i/00000002/manifest.json",
            lambda vault: vector_manifests.read(vault, "i", 2),
        ),
        ("features/v/00000001.json", "features/v/00000002.json", lambda vault: newest_manifest(vault, "v")),
        ("sets/shop/00000001.json", "sets/shop/00000002.json", lambda vault: newest_set(vault, "shop")),
    ],
)
def test_a_valid_manifest_under_another_name_is_refused(store, key, moved, read):
    store.put(moved, store.get(key))
    with pytest.raises(Corrupt, match=f"{moved} is not what .* signed: it was changed, or belongs under another name"):
        read(reader(store))


@pytest.mark.usefixtures("vault")
def test_a_manifest_of_another_service_is_refused_though_the_key_is_the_same(store):
    with pytest.raises(Corrupt, match="belongs under another name"):
        read_manifest(reader(store, service="other"), "m", "1", 1)


def test_without_trusted_keys_signed_and_unsigned_vaults_are_read(vault, store):
    for key, read in MANIFESTS.items():
        assert read(Vault(store)) == read(vault) == read(reader(store, trust=()))
        resealed(store, key, lambda data: split(data)[0])
        assert read(Vault(store)) == read(reader(store, trust=()))


@pytest.mark.usefixtures("vault")
def test_keys_are_rotated_by_trusting_both_and_signing_anew(store):
    fresh = open_vault(store, service="shop", signing=signing(TWO, trust=(ONE, TWO)))
    assert "m" == read_manifest(fresh, "m", "1", 1).model
    looked = countersign(fresh, write=False)
    assert (4, 4, 0, False) == (looked.total, len(looked.others), len(looked.unsigned), looked.written)
    with pytest.raises(Corrupt, match="is signed by"):
        read_manifest(reader(store, trust=(TWO,)), "m", "1", 1)
    assert countersign(fresh, write=True).sentence.startswith("4 of 4 manifests signed by ed25519:")
    for read in MANIFESTS.values():
        assert read(reader(store, trust=(TWO,))) == read(fresh)
    assert countersign(fresh, write=True).sentence.startswith("all 4 manifests are signed by ed25519:")


def test_a_vault_from_before_signing_is_signed_once(store):
    fill(open_vault(store))
    fresh = open_vault(store, service="shop", signing=signing())
    with pytest.raises(Corrupt, match="not signed"):
        read_manifest(fresh, "m", "1", 1)
    assert set(MANIFESTS) == set(countersign(fresh, write=True).unsigned)
    for read in MANIFESTS.values():
        assert read(reader(store)) == read(fresh)
    assert verify(fresh, deep=True).ok


@pytest.mark.usefixtures("vault")
def test_a_strangers_manifest_is_never_signed_over(store):
    key = "artifacts/m/1/00000001.json"
    resealed(store, key, lambda data: signing(STRANGER, trust=()).sign(key, split(data)[0]))
    store.put("sets/shop/00000002.json", b'{"unsigned": 1}')
    before = {info.key: store.get(info.key) for info in store.list()}
    for trust in ((ONE,), ()):
        with pytest.raises(Corrupt, match=f"{key} is signed by"):
            countersign(Vault(store, signing(trust=trust)), write=True)
    assert before == {info.key: store.get(info.key) for info in store.list()}


@pytest.mark.usefixtures("vault")
def test_a_manifest_whose_signature_was_taken_off_is_signed_only_when_a_person_names_it(store):
    writer, forged = Vault(store, signing()), "artifacts/m/1/00000001.json"
    resealed(store, forged, lambda data: split(data)[0].replace(b'"tags"', b'"tags" '))
    before = {info.key: store.get(info.key) for info in store.list()}
    looked = countersign(writer, write=False)
    assert ((forged,), (forged,)) == (looked.unsigned, looked.unnamed)
    for keys in ((), ("artifacts/m/2/",)):
        with pytest.raises(Refused if not keys else NotFound, match=forged if not keys else "names no unsigned"):
            countersign(writer, write=True, keys=keys)
    assert before == {info.key: store.get(info.key) for info in store.list()}
    for name in (forged, "artifacts/"):
        store.put(forged, before[forged])
        assert (forged,) == countersign(writer, write=True, keys=(name,)).unsigned
        assert "m" == read_manifest(reader(store), "m", "1", 1).model


@pytest.mark.usefixtures("vault")
def test_verify_says_how_many_manifests_are_signed(store):
    assert "; 4 of 4 manifests signed by trusted keys" in verify(reader(store), deep=False).sentence
    resealed(store, "sets/shop/00000001.json", lambda data: split(data)[0])
    found = verify(reader(store), deep=False)
    assert (3, 4) == (found.signed, found.manifests)
    assert ["sets/shop/00000001.json is not signed, and vault.trust asks for a signature"] == list(found.problems)
    assert None is verify(Vault(store), deep=False).signed
    assert "signed" not in verify(Vault(store), deep=False).sentence


def test_equal_manifests_have_equal_signatures_so_that_a_repeated_write_is_no_conflict(store):
    vault = Vault(store, signing())
    assert vault.put_once("sets/shop/00000001.json", b'{"a": 1}')
    assert not vault.put_once("sets/shop/00000001.json", b'{"a": 1}')
    with pytest.raises(Conflict):
        vault.put_once("sets/shop/00000001.json", b'{"a": 2}')
    store.put("sets/shop/00000002.json", b'{"a": 1}')
    with pytest.raises(Conflict):
        vault.put_once("sets/shop/00000002.json", b'{"a": 1}')


@pytest.mark.usefixtures("vault")
def test_a_reader_never_asks_for_the_private_key(store):
    def asked():
        raise AssertionError

    reading = Vault(store, Signing("shop", trust=(public_line(ONE),), private_key=asked))
    for read in MANIFESTS.values():
        read(reading)


@pytest.mark.parametrize(
    "text",
    [
        private_key_text(ONE),
        private_key_text(ONE).replace("\n", "\\n"),
        base64.b64encode(ONE).decode(),
        f" {base64.b64encode(ONE).decode()}\n",
    ],
    ids=["pem", "pem on one line", "seed", "seed with spaces"],
)
def test_the_private_key_may_be_pem_or_a_seed(text):
    made = Signing("shop", private_key=lambda: text)
    assert signing().sign("sets/shop/00000001.json", b'{"a":1}') == made.sign("sets/shop/00000001.json", b'{"a":1}')


def other_kind():
    return (
        generate_private_key(SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def locked():
    return (
        Ed25519PrivateKey.from_private_bytes(ONE)
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
        .decode()
    )


@pytest.mark.parametrize(
    "text",
    ["planted-secret", base64.b64encode(ONE[:31]).decode(), private_key_text(ONE)[:60], other_kind(), locked(), "é"],
    ids=["words", "short seed", "cut pem", "another kind", "with a password", "not ascii"],
)
def test_what_is_no_private_key_is_said_without_a_letter_of_it(text):
    with pytest.raises(InvalidConfig, match=r"vault\.sign_with .*keygen") as refused:
        Signing("shop", private_key=lambda: text).ready()
    told = repr(refused.value) + str(refused.value) + repr(refused.value.__cause__)
    assert text not in told
    assert text.strip().splitlines()[-1] not in told


@pytest.mark.parametrize("line", ["", "ed25519:", "ed25519:AAAA", "rsa:" + "A" * 44, "ed25519:" + "é" * 44])
def test_what_is_no_public_key_is_refused_in_a_sentence(line):
    with pytest.raises(InvalidConfig, match=r"vault\.trust has .* which is no public key"):
        Signing("shop", trust=(line,))


def test_a_writer_whose_own_key_is_not_trusted_is_refused_before_it_writes(store):
    with pytest.raises(InvalidConfig, match=r"vault\.sign_with holds the key .* which vault\.trust does not name"):
        Vault(store, signing(STRANGER)).put_once("sets/shop/00000001.json", b'{"a": 1}')
    assert [] == list(store.list())


@pytest.mark.parametrize("key", MANIFESTS)
def test_who_trusts_keys_and_has_none_writes_no_manifest_that_he_would_refuse_to_read(store, key):
    reading = reader(store)
    with pytest.raises(InvalidConfig, match=r"vault\.sign_with names no key"):
        reading.put_once(key, b'{"a": 1}')
    assert [] == list(store.list())
    assert reading.put_once("journal/00000001/00000001.json", b'{"a": 1}')


def test_a_vault_says_whose_it_is_and_refuses_another_service(store):
    open_vault(store, service="shop").put_once("probe/x", b"{}")
    open_vault(store, service="shop")
    open_vault(store)
    with pytest.raises(Refused, match="belongs to the service 'shop', this config is for other") as refused:
        open_vault(store, service="other")
    assert 4 == refused.value.exit_code


def test_a_vault_from_before_services_were_written_down_is_accepted():
    store = MemoryStore()
    store.put("format.json", b'{"format": 1, "what": "understudy vault"}')
    assert store.get("format.json") == open_vault(store, service="shop").store.get("format.json")


def test_a_key_file_is_for_its_owner_alone_and_never_written_over(tmp_path):
    os.umask(os.umask(0))
    path = tmp_path / "signing.pem"
    line = write_private_key(path)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    made = Signing("shop", trust=(line,), private_key=path.read_text)
    assert b'{"a":1}' == made.check("sets/shop/00000001.json", made.sign("sets/shop/00000001.json", b'{"a":1}'))
    before = path.read_text()
    with pytest.raises(InvalidConfig, match="never written over"):
        write_private_key(path)
    assert before == path.read_text()
    with pytest.raises(InvalidConfig, match="cannot be written"):
        write_private_key(tmp_path / "missing" / "key")


def test_keygen_prints_the_public_line_and_no_private_one(tmp_path):
    path = tmp_path / "signing.pem"
    command = [sys.executable, "-m", "understudy", "vault", "keygen", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    secret = path.read_text().splitlines()[1]
    assert secret not in done.stdout + done.stderr
    assert done.stdout.startswith("ed25519:")
    assert Signing("shop", trust=(done.stdout.splitlines()[0],), private_key=path.read_text).signer


def test_without_signing_nothing_of_cryptography_is_imported():
    program = (
        "import sys\n"
        "from understudy.artifacts.replicate import push\n"
        "from understudy.objects.memory import MemoryStore\n"
        "from understudy.vault.store import open_vault\n"
        "source = MemoryStore(); source.put('m/1/a.bin', b'x')\n"
        "vault = open_vault(MemoryStore(), service='shop'); push(source, vault); push(source, vault)\n"
        "print([name for name in sys.modules if name.startswith('cryptography')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
