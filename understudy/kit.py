"""The break-glass kit: all that is needed to run ``understudy failover`` on a fresh machine without a package index.

One tar, kept beside the vault, because the site that has burned down may be the one with the wheels, the Git server and
the wiki:

```
README.txt    how to install and what to run
config.yaml   the config as it was; secrets stand in it by reference only
runbook.md    for 3 am
wheels/       this very version and what it needs, at the versions installed here
kit.json      versions, the config's digest, for which Python and platform
SHA256SUMS    of all files above
```
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from understudy import __version__, opening
from understudy.errors import Conflict, Corrupt, NotFound, Refused, Unreachable, Unsupported
from understudy.objects.parts import pieces
from understudy.report import Progress, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.settings import Settings
    from understudy.vault.store import Vault

POINTER = "pointers/kit.json"
_SIGNED_AS = "kit"
_BLOCK_BYTES = 4 << 20
_PIP_SECONDS_MAX = 900
_README = """\
Understudy {version}, for Python {python} on {platform}

    sha256sum -c SHA256SUMS
    python{python} -m venv venv
    venv/bin/pip install --no-index --find-links wheels 'understudy{extras}=={version}'
    export UNDERSTUDY_CONFIG=$PWD/config.yaml     # and the variables that it names
    venv/bin/understudy config check
    venv/bin/understudy status
    venv/bin/understudy failover plan

Then follow runbook.md. The Prefect server is not needed.
"""


@dataclass(frozen=True, slots=True)
class Kit:
    """What is known of a kit without unpacking it.

    Attributes:
        sha256: hex, of the whole tar.
        size: bytes.
        version: of understudy.
        config_sha256: hex, of the config in it.
        python: ``3.11``.
        platform: as pip names it, ``linux-x86_64``.
        key: where it is in the vault; empty for a local file.
    """

    sha256: str
    size: int
    version: str
    config_sha256: str
    python: str
    platform: str
    key: str = ""


def extras_of(settings: Settings) -> list[str]:
    """Return the extras that this config's URLs need, sorted; metrics and Prefect are not needed at 3 am."""
    urls = [settings.vault.url, settings.register_.url, settings.traffic.url, settings.capacity.away]
    urls += [settings.alerts.url] if settings.alerts else []
    urls += [settings.capacity.home] if settings.capacity.home else []
    for component in settings.components.values():
        for pair in component.pairs:
            urls += [pair.home, pair.away, pair.offline or pair.home]
    schemes = {urlsplit(url).scheme for url in urls}
    return sorted({vendor.extra for vendor in opening.VENDORS if vendor.scheme in schemes and vendor.extra})


def build_kit(settings: Settings, config: Path, target: Path, *, progress: Progress = quiet) -> Kit:
    """Write a kit for this machine's Python and platform.

    Args:
        settings: the config as read; it says which extras are needed.
        config: its file.
        target: the tar to write.
        progress: told of each step.

    Raises:
        Unreachable: the package index did not give the wheels.
        Unsupported: this Python can make no virtual environment, or there is no runbook to put in.
        OSError: the target cannot be written.
    """
    extras = extras_of(settings)
    with tempfile.TemporaryDirectory(prefix="understudy-kit-") as folder:
        content = Path(folder) / "kit"
        wheels = content / "wheels"
        wheels.mkdir(parents=True)
        pip = _pip(Path(folder) / "venv")
        progress("kit: this version's wheel", 0, 3, "steps")
        own = _own_wheel(pip, wheels)
        progress("kit: the wheels that it needs", 1, 3, "steps")
        pins = Path(folder) / "constraints.txt"
        pins.write_text(_constraints(), encoding="utf-8")
        asked = f"{own}[{','.join(extras)}]" if extras else str(own)
        _run_pip(pip, ["download", "-q", "--only-binary=:all:", "-c", str(pins), "-d", str(wheels), asked])
        progress("kit: packing", 2, 3, "steps")
        (content / "config.yaml").write_bytes(config.read_bytes())
        (content / "runbook.md").write_bytes(_runbook())
        about = {
            "version": __version__,
            "python": _python_version(),
            "platform": sysconfig.get_platform(),
            "extras": extras,
            "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        }
        (content / "kit.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (content / "README.txt").write_text(
            _README.format(**{**about, "extras": f"[{','.join(extras)}]" if extras else ""}), encoding="utf-8"
        )
        _write_sums(content)
        _pack(content, target)
    return read_kit(target)


def keep_kit(vault: Vault, path: Path, kit: Kit) -> Kit:
    """Put a kit beside the vault and name it, signed, as the newest. Again, it is the same object.

    Raises:
        Conflict: something else stands in its place; a kit is never written over.
        InvalidConfig: the key to sign with cannot be had, or there is none and only what is signed is trusted.
    """
    if vault.signing is not None:
        vault.signing.ready()
    key = f"kits/understudy-{kit.version}-{kit.sha256[:16]}.tar"
    if not _is_kept(vault, key, kit):
        try:
            with path.open("rb") as file:
                vault.store.create_stream(key, iter(lambda: file.read(_BLOCK_BYTES), b""), kit.size)
        except Conflict:  # kept by another at this very moment
            if not _is_kept(vault, key, kit):
                raise
    kept = {"key": key, "sha256": kit.sha256, "size": kit.size, "at": vault.store.now().isoformat()}
    signature = vault.signing.attest(_SIGNED_AS, _statement(key, kit.sha256, kit.size)) if vault.signing else None
    if signature:
        kept["signature"] = signature
    vault.move_pointer(POINTER, lambda _found: kept)
    return Kit(kit.sha256, kit.size, kit.version, kit.config_sha256, kit.python, kit.platform, key)


def _is_kept(vault: Vault, key: str, kit: Kit) -> bool:
    """Whether these very bytes are there already; read, not believed. Raises Conflict when others are."""
    try:
        found = vault.store.head(key)
    except NotFound:
        return False
    digest = hashlib.sha256()
    for piece in pieces(vault.store, key, found.size, version=found.version):
        digest.update(piece)
    if digest.hexdigest() == kit.sha256:
        return True
    message = f"{key} in {vault.url} is not the kit that its name says"
    raise Conflict(message, hint="whoever may delete there removes it; then build the kit again")


def fetch_kit(vault: Vault, target: Path) -> Kit:
    """Download the newest kit that is kept beside the vault.

    Raises:
        NotFound: none is kept there.
        Corrupt: what came is not what was kept; or, where keys are trusted, none of them signed what is said of it:
            then nothing was downloaded.
    """
    key, sha256, size = _kept(vault)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for start in range(0, size, _BLOCK_BYTES):
            data = vault.store.get_range(key, start, min(_BLOCK_BYTES, size - start))
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != sha256:
        raise Corrupt(f"{key} is not the kit that was kept", next_command="understudy kit build")
    kit = read_kit(target)
    return Kit(kit.sha256, kit.size, kit.version, kit.config_sha256, kit.python, kit.platform, key)


def require_kept(vault: Vault, path: Path, kit: Kit) -> None:
    """Prove, where keys are trusted, that a file is the kit that the vault's signed pointer names.

    Raises:
        NotFound: none is kept there.
        Corrupt: what the vault says of its kit is not signed by a trusted key.
        Refused: the file is another kit.
    """
    if vault.signing is None or not vault.signing.trust:
        return
    key, sha256, _ = _kept(vault)
    if kit.sha256 != sha256:
        raise Refused(
            f"{path} is not {key}, the kit that the vault's signature names, so it is not run",
            hint="take the one beside the vault, or look at this one's digests alone",
            next_command=f"understudy kit check {shlex.quote(str(path))} --quick",
        )


def _kept(vault: Vault) -> tuple[str, str, int]:
    """Return key, SHA-256 and size of the newest kit, as signed where keys are trusted. Raises NotFound, Corrupt."""
    found = vault.pointer(POINTER)
    if not found:
        raise NotFound("no kit is kept beside the vault", next_command="understudy kit build")
    try:
        key, sha256, size = str(found["key"]), str(found["sha256"]), int(found["size"])
        signature = found.get("signature")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{POINTER} in {vault.url} names no kit", next_command="understudy kit build") from error
    if vault.signing is not None:
        vault.signing.require_attested(POINTER, _SIGNED_AS, _statement(key, sha256, size), signature)
    return key, sha256, size


def _statement(key: str, sha256: str, size: int) -> str:
    return f"{key}\n{sha256}\n{size}\n"


def read_kit(path: Path) -> Kit:
    """Check every file of a kit by its SHA-256 and return what it is.

    Raises:
        Corrupt: it is no kit, or a file is not what SHA256SUMS says.
        NotFound: there is no such file.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            found = {member.name: hashlib.sha256(data).hexdigest() for member, data in _members(archive)}
            sums = _text(archive, "SHA256SUMS")
            about: dict[str, Any] = json.loads(_text(archive, "kit.json"))
    except FileNotFoundError as error:
        raise NotFound(f"{path} is not there", next_command="understudy kit build") from error
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise Corrupt(f"{path} is not a kit", next_command="understudy kit build") from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    found.pop("SHA256SUMS")
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise Corrupt(f"{path}: {wrong[0]} is not what SHA256SUMS says", next_command="understudy kit build")
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            whole.update(block)
    return Kit(
        sha256=whole.hexdigest(),
        size=path.stat().st_size,
        version=about["version"],
        config_sha256=about["config_sha256"],
        python=about["python"],
        platform=about["platform"],
    )


def stale(kit: Kit, config: Path) -> list[str]:
    """Return why a kit would not do today: another version, another config. Empty when it would."""
    reasons = []
    if kit.version != __version__:
        reasons.append(f"it holds understudy {kit.version}, this is {__version__}")
    if kit.config_sha256 != hashlib.sha256(config.read_bytes()).hexdigest():
        reasons.append(f"{config} has changed since")
    return reasons


def try_kit(path: Path, kit: Kit) -> str:
    """Install a kit in a fresh environment without any index, run it, and return the version that it prints.

    Raises:
        Unsupported: it was made for another Python or platform than this one.
        Corrupt: it does not install, or does not run.
    """
    here = _python_version(), sysconfig.get_platform()
    if (kit.python, kit.platform) != here:
        raise Unsupported(
            f"the kit is for Python {kit.python} on {kit.platform}, this is {here[0]} on {here[1]}",
            hint="check it on a machine like the one that it is for, or build one here",
        )
    with tempfile.TemporaryDirectory(prefix="understudy-kit-") as folder:
        content = Path(folder) / "kit"
        with tarfile.open(path, "r:") as archive:
            archive.extractall(content, filter="data")
        extras = json.loads((content / "kit.json").read_text(encoding="utf-8"))["extras"]
        pip = _pip(Path(folder) / "venv")
        asked = f"understudy[{','.join(extras)}]=={kit.version}" if extras else f"understudy=={kit.version}"
        try:
            _run_pip(pip, ["install", "-q", "--no-index", "--find-links", str(content / "wheels"), asked])
        except Unreachable as error:
            raise Corrupt(f"{path} does not install: {error.hint}", next_command="understudy kit build") from error
        command = [str(pip.with_name("understudy")), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PIP_SECONDS_MAX)
        if done.returncode:
            raise Corrupt(f"{path} installs, but does not run", next_command="understudy kit build")
        return done.stdout.strip()


def _python_version() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _pip(venv: Path) -> Path:
    """Make a fresh environment of this Python and return its pip."""
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise Unsupported(
            "this Python can make no virtual environment with pip",
            hint="install its venv package (Debian: python3-venv), or use another Python",
        )
    return venv / "bin" / "pip"


def _run_pip(pip: Path, arguments: list[str]) -> None:
    command = [str(pip), "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PIP_SECONDS_MAX)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise Unreachable("pip did not bring the wheels", hint=words)


def _own_wheel(pip: Path, wheels: Path) -> Path:
    """Build, or download, the wheel of this very version."""
    source = _checkout()
    if source is not None:
        _run_pip(pip, ["wheel", "-q", "--no-deps", "-w", str(wheels), str(source)])
    else:
        _run_pip(pip, ["download", "-q", "--no-deps", "-d", str(wheels), f"understudy=={__version__}"])
    return next(wheels.glob("understudy-*.whl"))


def _checkout() -> Path | None:
    """Return the folder that this installation was made from; None when it came from an index."""
    try:
        told = distribution("understudy").read_text("direct_url.json")
    except PackageNotFoundError:
        told = None
    url = json.loads(told).get("url", "") if told else ""
    folder = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else Path(__file__).parents[1]
    return folder if (folder / "pyproject.toml").is_file() else None


def _constraints() -> str:
    """Pin what is installed here, so that the kit is what was tried."""
    named = ((found.metadata["Name"], found.version) for found in distributions())
    return "".join(f"{name}=={version}\n" for name, version in sorted(named) if name and name != "understudy")


def _runbook() -> bytes:
    """Return docs/runbook.md: the wheel carries a copy of it."""
    for place in (Path(__file__).with_name("runbook.md"), Path(__file__).parents[1] / "docs" / "runbook.md"):
        if place.is_file():
            return place.read_bytes()
    raise Unsupported("this installation has no runbook.md", hint="install understudy again")


def _write_sums(content: Path) -> None:
    files = sorted(path for path in content.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(content).as_posix()}\n" for path in files
    ]
    (content / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _pack(content: Path, target: Path) -> None:
    """Write all files in one order, without owners and times: the same files give the same kit."""
    waiting = target.with_name(f".{target.name}.part")
    with tarfile.open(waiting, "w:") as archive:
        for path in sorted(path for path in content.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(content).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    waiting.replace(target)


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for member in archive:
        file = archive.extractfile(member) if member.isfile() else None
        if file is None:
            raise Corrupt(f"{member.name} in the kit is not a plain file", next_command="understudy kit build")
        yield member, file.read()


def _text(archive: tarfile.TarFile, name: str) -> str:
    file = archive.extractfile(name)
    return io.TextIOWrapper(file, encoding="utf-8").read() if file else ""
