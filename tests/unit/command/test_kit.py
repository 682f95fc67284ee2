"""The break-glass kit: whole, checked, kept beside the vault, and known when it is out of date."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

from tests.faults import FaultyStore
from tests.unit.example import EXAMPLE, example
from understudy import __version__
from understudy.errors import Conflict, Corrupt, NotFound, Unsupported
from understudy.kit import extras_of, fetch_kit, keep_kit, read_kit, stale, try_kit
from understudy.objects.memory import MemoryStore
from understudy.settings import Settings
from understudy.vault.store import open_vault


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
