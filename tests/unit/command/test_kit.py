"""The break-glass kit: whole, checked, kept beside the vault, and known when it is out of date."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.faults import FaultyStore
from tests.unit.example import EXAMPLE, example
from understudy import __version__
from understudy.errors import Conflict, Corrupt, InvalidConfig, NotFound, Unsupported
from understudy.kit import extras_of, fetch_kit, keep_kit, read_kit, require_kept, stale, try_kit
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.settings import Settings
from understudy.vault.seal import seal, unseal
from understudy.vault.signing import Signing, private_key_text, public_line
from understudy.vault.store import Vault, open_vault, to_json


def write_kit(path, config=b"service: x\n", *, python="2.7", files=None, sums=None):
    """Write a kit without wheels, as ``build_kit`` lays it out."""
    about = {
        "version": __version__,
        "python": python,
        "platform": "linux-x86_64",
        "extras": [],
        "config_sha256": hashlib.sha256(config).hexdigest(),
    }
    content = {"config.yaml": config, "kit.json": json.dumps(about).encode(), **(files or {})}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items()]
    content["SHA256SUMS"] = "".join(lines).encode() if sums is None else sums
    with tarfile.open(path, "w:") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def test_a_kit_needs_what_the_urls_of_the_config_need():
    assert ["aws", "gcp", "postgres"] == extras_of(Settings.model_validate(EXAMPLE))


def test_a_whole_kit_says_what_it_is(tmp_path):
    path = write_kit(tmp_path / "kit.tar", b"a: b\n")
    kit = read_kit(path)
    assert (__version__, "2.7", hashlib.sha256(path.read_bytes()).hexdigest()) == (kit.version, kit.python, kit.sha256)
    assert path.stat().st_size == kit.size


@pytest.mark.parametrize("change", ["altered", "added", "missing", "no tar", "a link"])
def test_a_damaged_kit_is_one_sentence(tmp_path, change):
    path = tmp_path / "kit.tar"
    other = f"{'0' * 64}  wheels/a.whl\n".encode()
    if change == "altered":
        write_kit(path, files={"wheels/a.whl": b"x"}, sums=other)
    elif change == "added":
        write_kit(path, files={"wheels/a.whl": b"x"}, sums=b"")
    elif change == "missing":
        write_kit(path, sums=other)
    elif change == "no tar":
        path.write_bytes(b"not a tar")
    else:
        write_kit(path)
        with tarfile.open(path, "a:") as archive:
            link = tarfile.TarInfo("wheels/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    with pytest.raises(Corrupt) as raised:
        read_kit(path)
    assert "understudy kit build" == raised.value.next_command


def test_a_kit_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(NotFound, match="is not there"):
        read_kit(tmp_path / "absent.tar")


def test_a_kit_is_kept_beside_the_vault_and_comes_back_the_same(tmp_path):
    path = write_kit(tmp_path / "kit.tar")
    vault = open_vault(MemoryStore())
    with pytest.raises(NotFound, match="no kit is kept"):
        fetch_kit(vault, tmp_path / "none.tar")
    kept = keep_kit(vault, path, read_kit(path))
    assert kept == fetch_kit(vault, tmp_path / "again.tar")
    assert path.read_bytes() == (tmp_path / "again.tar").read_bytes()


def test_a_kit_that_is_there_already_is_read_and_not_sent_again(tmp_path):
    path = write_kit(tmp_path / "kit.tar")
    store = FaultyStore(MemoryStore())
    vault = open_vault(store)
    kept = keep_kit(vault, path, read_kit(path))
    assert kept == keep_kit(vault, path, read_kit(path))
    assert 1 == store.calls["create_stream"]


@pytest.mark.parametrize("rival", ["equal", "other"])
def test_a_kit_that_another_kept_meanwhile_is_success_only_when_it_is_the_same(tmp_path, rival):
    path = write_kit(tmp_path / "kit.tar")
    other = path.read_bytes() if rival == "equal" else path.read_bytes().replace(b"service: x", b"service: y")
    kit = read_kit(path)
    key = f"kits/understudy-{kit.version}-{kit.sha256[:16]}.tar"
    inner = MemoryStore()
    vault = open_vault(FaultyStore(inner).run("create_stream", lambda: inner.put(key, other)))
    if rival == "equal":
        assert key == keep_kit(vault, path, kit).key
        assert kit.sha256 == vault.pointer("pointers/kit.json")["sha256"]
        return
    with pytest.raises(Conflict, match="is not the kit that its name says"):
        keep_kit(vault, path, kit)
    assert other == inner.get(key)
    assert None is vault.pointer("pointers/kit.json")


def test_another_object_in_the_kits_place_is_noticed(tmp_path):
    path = write_kit(tmp_path / "kit.tar")
    vault = open_vault(MemoryStore())
    kept = keep_kit(vault, path, read_kit(path))
    vault.store.put(kept.key, path.read_bytes().replace(b"service: x", b"service: y"))
    with pytest.raises(Corrupt, match="is not the kit that was kept"):
        fetch_kit(vault, tmp_path / "again.tar")


ONE, STRANGER = bytes(range(32)), bytes([9] * 32)


def signing(seed=ONE, *, trust=(ONE,), service="shop"):
    private_key = (lambda: private_key_text(seed)) if seed else None
    return Signing(service, trust=tuple(public_line(each) for each in trust), private_key=private_key)


def test_a_kit_is_signed_and_comes_back_with_the_public_key_alone(tmp_path):
    path, store = write_kit(tmp_path / "kit.tar"), MemoryStore()
    kept = keep_kit(Vault(store, signing()), path, read_kit(path))
    reader = Vault(store, signing(None))
    assert kept == fetch_kit(reader, tmp_path / "again.tar")
    require_kept(reader, path, kept)
    require_kept(Vault(store), write_kit(tmp_path / "other.tar", b"x: y\n"), read_kit(tmp_path / "other.tar"))


@pytest.mark.parametrize("seed", [None, STRANGER])
def test_a_kit_that_its_own_config_would_refuse_is_not_kept(tmp_path, seed):
    path, store = write_kit(tmp_path / "kit.tar"), MemoryStore()
    with pytest.raises(InvalidConfig, match=r"vault\.(trust|sign_with)"):
        keep_kit(Vault(store, signing(seed)), path, read_kit(path))
    assert [] == list(store.list())


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (lambda said: said.pop("signature"), "is not signed"),
        (lambda said: said.update(signature="ed25519:x"), "is not signed"),
        (lambda said: said.update(sha256="0" * 64), "is not what ed25519:"),
        (lambda said: said.update(key="kits/other.tar"), "is not what ed25519:"),
        (lambda said: said.update(size=said["size"] - 1), "is not what ed25519:"),
        (
            lambda said: said.update(
                signature=signing(STRANGER, trust=()).attest(
                    "kit", f"{said['key']}\n{said['sha256']}\n{said['size']}\n"
                )
            ),
            "is signed by ed25519:/R",
        ),
        (
            lambda said: said.update(
                signature=signing(service="other").attest("kit", f"{said['key']}\n{said['sha256']}\n{said['size']}\n")
            ),
            "is not what ed25519:",
        ),
        (lambda said: said.pop("size"), "names no kit"),
    ],
    ids=["unsigned", "no signature", "digest", "key", "size", "stranger", "another service", "no size"],
)
def test_a_kit_that_no_trusted_key_signed_is_refused_before_a_byte_of_it_is_read(tmp_path, forge, words):
    path, store = write_kit(tmp_path / "kit.tar"), FaultyStore(MemoryStore())
    kept = keep_kit(Vault(store, signing()), path, read_kit(path))
    said = json.loads(unseal(store.get("pointers/kit.json")))
    forge(said)
    store.put("pointers/kit.json", seal(to_json(said)))
    store.calls.clear()
    for read in (fetch_kit, lambda vault, _: require_kept(vault, path, kept)):
        with pytest.raises(Corrupt, match=words) as refused:
            read(Vault(store, signing(None)), tmp_path / "again.tar")
        assert 8 == refused.value.exit_code
    assert 0 == store.calls["get_range"]
    assert not (tmp_path / "again.tar").exists()


def test_the_page_alone_proves_a_signed_kit(tmp_path):
    path, vault = write_kit(tmp_path / "kit.tar"), Vault(MemoryStore(), signing())
    keep_kit(vault, path, read_kit(path))
    (tmp_path / "kit.json").write_bytes(vault.store.get("pointers/kit.json"))
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    program = page.split("## Kits")[1].split("```py\n")[1].split("```")[0]

    def run(service):
        begin = f"service = {service!r}; trusted = {[public_line(ONE)]!r}\n"
        command = [sys.executable, "-c", begin + program]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert "ok\n" == run("shop").stdout
    assert run("other").stderr.strip().endswith("InvalidSignature")
    write_kit(path, b"another: one\n")
    assert "AssertionError" in run("shop").stderr


def test_a_file_is_run_only_when_it_is_the_kit_that_the_signed_pointer_names(tmp_path):
    for name in ("vault", "register"):
        (tmp_path / name).mkdir()
    public, config = public_line(ONE), tmp_path / "c.yaml"
    document = example(
        **{"vault.url": f"file://{tmp_path}/vault", "register.url": f"file://{tmp_path}/register", "components": {}}
    )
    document["vault"]["trust"] = [public]
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    kept, other = write_kit(tmp_path / "kept.tar", config.read_bytes()), write_kit(tmp_path / "other.tar")
    writer = open_vault(FileStore(tmp_path / "vault"), service="recommender", signing=signing(service="recommender"))
    keep_kit(writer, kept, read_kit(kept))

    def check(*arguments):
        command = [sys.executable, "-m", "understudy", "-c", str(config), "kit", "check", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    refused = check(other)
    assert 4 == refused.returncode, refused.stderr
    assert f"{other} is not kits/understudy-" in refused.stderr
    assert f"next: understudy kit check {other} --quick" in refused.stderr
    assert 5 == check(other, "--quick").returncode  # another config is in it
    assert "the kit is for Python 2.7" in check(kept).stderr  # it would be installed
    assert 0 == check("--quick").returncode


def test_a_kit_is_out_of_date_when_the_config_has_changed(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_bytes(b"a: b\n")
    kit = read_kit(write_kit(tmp_path / "kit.tar", b"a: b\n"))
    assert [] == stale(kit, config)
    config.write_bytes(b"a: c\n")
    assert [f"{config} has changed since"] == stale(kit, config)


def test_a_kit_of_another_python_is_not_tried_here(tmp_path):
    path = write_kit(tmp_path / "kit.tar")
    with pytest.raises(Unsupported, match=r"the kit is for Python 2\.7 on linux-x86_64, this is"):
        try_kit(path, read_kit(path))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kit_installs_and_runs_without_an_index(tmp_path):
    config = tmp_path / "c.yaml"
    document = example(
        **{"vault.url": f"file://{tmp_path}/vault", "register.url": f"file://{tmp_path}/register", "components": {}}
    )
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    for name in ("vault", "register"):
        (tmp_path / name).mkdir()

    def understudy(*arguments):
        command = [sys.executable, "-m", "understudy", "-c", str(config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)

    built = understudy("kit", "build", "--out", str(tmp_path / "kit.tar"))
    assert 0 == built.returncode, built.stderr
    checked = understudy("kit", "check")
    assert 0 == checked.returncode, checked.stderr
    assert f"installs without an index and runs understudy {__version__}" in checked.stdout
    names = tarfile.open(tmp_path / "kit.tar").getnames()  # noqa: SIM115 - the test ends here
    assert {"README.txt", "SHA256SUMS", "config.yaml", "kit.json", "runbook.md"} == {n for n in names if "/" not in n}
    shutil.copy(tmp_path / "kit.tar", tmp_path / "damaged.tar")
    with (tmp_path / "damaged.tar").open("r+b") as file:
        file.seek(3_000_000)
        byte = file.read(1)
        file.seek(3_000_000)
        file.write(bytes([byte[0] ^ 1]))
    damaged = understudy("kit", "check", str(tmp_path / "damaged.tar"))
    assert 8 == damaged.returncode
    assert "is not what SHA256SUMS says" in damaged.stderr
    config.write_text(config.read_text(encoding="utf-8") + "# later\n", encoding="utf-8")
    late = understudy("kit", "check", "--quick")
    assert 5 == late.returncode
    assert "has changed since" in late.stderr
