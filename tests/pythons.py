"""The quick tests on every Python that is supported, and both ways to install. Run by ``make pythons``.

``uv sync --locked`` and a plain ``pip install .[all]`` must both give a product that works, and without extras it
must say in one sentence which extra is missing. An interpreter that this machine lacks is named; under
REQUIRE_PYTHONS=1 that is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".pythons"
VERSIONS = ("3.11", "3.12", "3.13")
#: Imports every module of the installed product; what needs an extra is there when all extras are.
ALL_MODULES = (
    "import pkgutil, importlib, understudy; "
    "names = [m.name for m in pkgutil.walk_packages(understudy.__path__, 'understudy.') if m.name[-8:] != '__main__']; "
    "[importlib.import_module(name) for name in names]; assert len(names) > 80, names; print(len(names), 'modules')"
)
BARE_CONFIG = """\
service: bare
sites:
  home: {name: one, cloud: aws}
  away: {name: two, cloud: gcp, project: p}
vault: {url: "s3://bucket/vault"}
register: {url: "file:///tmp/register"}
components: {}
traffic: {url: "route53://Z/name", addresses: {home: 127.0.0.1, away: 127.0.0.2}}
capacity: {away: "gce://zone/group", warm: 1, full: 1}
"""


def find_python(version: str) -> str | None:
    """Return an interpreter of that version: by name on the PATH, else as pyenv keeps them."""
    named = shutil.which(f"python{version}")
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [named] if named else []
    candidates += [str(path / "bin" / "python") for path in sorted(kept.glob(f"{version}.*"), reverse=True)]
    for candidate in candidates:
        ask = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return candidate
    return None


def run(what: str, command: list[str], **environment: str) -> bool:
    """Run one step, print one line for it, and its output when it failed."""
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    ok = done.returncode == 0
    last = (done.stdout.strip().splitlines() or [""])[-1].strip()
    sys.stdout.write(f"{'ok    ' if ok else 'FAILED'} {what}: {last}  {time.monotonic() - began:.0f}s\n")
    if not ok:
        sys.stdout.write(done.stdout + done.stderr)
    sys.stdout.flush()
    return ok


def locked(version: str, python: str, uv: str) -> bool:
    """Install what uv.lock says for a version, and run the quick tests on it."""
    home = HOME / version
    return (
        run(
            f"{version} uv sync --locked",
            [uv, "sync", "--locked", "--quiet", "--all-extras", "--python", python],
            UV_PROJECT_ENVIRONMENT=str(home),
        )
        and native(version, home, uv)
        and run(
            f"{version} quick tests",
            [str(home / "bin" / "pytest"), "-n", "2", "--dist", "loadfile", "-m", "not slow and not prefect",
             "tests/unit", "tests/house"],
        )
    )  # fmt: skip


def native(version: str, home: Path, uv: str) -> bool:
    """Install the coders in Rust, which one build serves on every Python; without cargo they are left out."""
    if shutil.which("cargo") is None:
        sys.stdout.write(f"absent {version} the coders in Rust: no cargo here, so their tests are skipped\n")
        return True
    return run(
        f"{version} the coders in Rust",
        [uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), "--no-deps",
         "--no-build-isolation", "--reinstall", "./native"],
        PATH=f"{home / 'bin'}:{os.environ['PATH']}",
        CARGO_TARGET_DIR=str(ROOT / ".venv" / "native-target"),
        CARGO_NET_RETRY="1",
    )  # fmt: skip


def plain(version: str, python: str) -> bool:
    """Install by pip alone, with all extras and with none; the product works, or says what is missing."""
    whole, bare = HOME / f"pip-{version}", HOME / f"bare-{version}"
    for home in (whole, bare):
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(home)], check=True)
    quiet = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
    config = HOME / "bare.yaml"
    config.write_text(BARE_CONFIG, encoding="utf-8")
    sentence = [str(bare / "bin" / "understudy"), "-c", str(config), "vault", "stat"]
    return (
        run(f"{version} pip install .[all]", [str(whole / "bin" / "python"), *quiet, f"{ROOT}[all]"])
        and run(f"{version} every module imports", [str(whole / "bin" / "python"), "-c", ALL_MODULES])
        and run(f"{version} understudy --version", [str(whole / "bin" / "understudy"), "--version"])
        and run(f"{version} pip install . (no extras)", [str(bare / "bin" / "python"), *quiet, str(ROOT)])
        and run(f"{version} understudy --version, no extras", [str(bare / "bin" / "understudy"), "--version"])
        and says(f"{version} a missing extra is one sentence", sentence, "pip install 'understudy[aws]'")
    )


def says(what: str, command: list[str], expected: str) -> bool:
    """Run a command that must fail with that sentence and without a traceback."""
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    ok = done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    sys.stdout.write(f"{'ok    ' if ok else 'FAILED'} {what}: {done.stderr.strip()}\n")
    return ok


def main(versions: list[str]) -> int:
    """Try every version; return the exit code."""
    HOME.mkdir(exist_ok=True)
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    found = {version: find_python(version) for version in versions or VERSIONS}
    missing = [version for version, python in found.items() if python is None]
    for version in missing:
        sys.stdout.write(f"absent {version}: no such Python here; install it (pyenv install {version}) and run again\n")
    good = [locked(version, python, uv) and plain(version, python) for version, python in found.items() if python]
    return 0 if good and all(good) and not (missing and os.environ.get("REQUIRE_PYTHONS")) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
