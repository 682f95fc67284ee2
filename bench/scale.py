"""A vault at scale: 100,000 files over 50 versions, versions of 100,000 files, and what a registry of 10 TB costs.

``python -m bench.scale [--files 100000] [--versions 50]`` builds small synthetic models (a seed, files of some hundred
bytes, most of them as in the version before) and prints wall, CPU and peak memory of every command at a quarter, half
and all of that size. ``--units`` measures what one gigabyte, chunk, file, version and push costs and writes
docs/scale.json; ``--page`` prints docs/scale.md from it. Every command is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measuring import Run, Table, measure, median_cpu

MEMORY_MB_MAX = 1000
#: Seconds of CPU per file at all of the size, beside those at a quarter of it: what is linear stays near 1.
GROWTH_MAX = 1.4
_SEED = 20
_SHARE_CHANGED = 0.05
_ROOT = Path(__file__).parents[1]
UNITS = _ROOT / "docs" / "scale.json"
PAGE = _ROOT / "docs" / "scale.md"
_COMMANDS = {
    "push": ("artifacts", "push"),
    "push, nothing new": ("artifacts", "push"),
    "artifacts list": ("artifacts", "list"),
    "artifacts show": ("artifacts", "show", "many"),
    "vault stat": ("vault", "stat"),
    "vault verify": ("vault", "verify"),
    "vault verify --deep": ("vault", "verify", "--deep"),
    "vault prune": ("vault", "prune"),
}


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="of all versions together, and of one large version")
    parser.add_argument("--versions", type=int, default=50)
    parser.add_argument("--record", action="store_true", help="keep what is measured in docs/scale.json")
    parser.add_argument("--units", action="store_true", help="measure the unit costs and write docs/scale.json")
    parser.add_argument("--page", action="store_true", help="print docs/scale.md from docs/scale.json")
    options = parser.parse_args()
    if options.page:
        from bench.scale_page import page

        sys.stdout.write(page(json.loads(UNITS.read_text(encoding="utf-8"))))
        return
    if options.units:
        from bench.scale_units import units

        _record("units", units())
        return
    table = Table()
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        work = Path(folder)
        _many_versions(table, work / "versions", versions=options.versions, files=options.files)
        shutil.rmtree(work / "versions")
        for quarters in (1, 2, 4):
            _large_versions(table, work / f"large-{quarters}", files=options.files * quarters // 4, whole=options.files)
            shutil.rmtree(work / f"large-{quarters}")
    table.print()
    if options.record:
        _record("runs", {"files": options.files, "versions": options.versions, "rows": _rows})
    sys.exit(table.failed)


def _record(name: str, value: Any) -> None:  # noqa: ANN401 - any JSON value
    kept = json.loads(UNITS.read_text(encoding="utf-8")) if UNITS.exists() else {}
    UNITS.write_text(json.dumps({**kept, name: value}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"kept in {UNITS.relative_to(_ROOT)}; next: python -m bench.scale --page > docs/scale.md")


def _many_versions(table: Table, work: Path, *, versions: int, files: int) -> None:
    """One model whose versions come to be: at a quarter, half and all of them, every command."""
    config = service_in(work)
    idle = _start_up(config)
    each = files // versions
    first: dict[str, float] = {}
    made = 0
    for count in (versions // 4, versions // 2, versions):
        growth = count - made
        for version in range(made + 1, count + 1):
            write_version(work / "models", version, each)
        made = count
        for what in _COMMANDS:
            run = understudy(config, what)
            # A push of what is new does so many versions; all others look at all that there are.
            units = each * (growth if what == "push" else count)
            label = f"{count} versions of {each:,} files"
            _row(table, label, what, run, cpu=run.cpu - idle, files=units, first=first)


def _large_versions(table: Table, work: Path, *, files: int, whole: int) -> None:
    """One model with three versions of very many files."""
    config = service_in(work)
    idle = _start_up(config)
    first = _first_of.setdefault(whole, {})
    for version in (1, 2, 3):
        write_version(work / "models", version, files)
        label = f"{version} versions of {files:,} files" if version > 1 else f"1 version of {files:,} files"
        run = understudy(config, "push")
        _row(table, label, f"push of version {version}", run, cpu=run.cpu - idle, files=files, first=first)
    for what in list(_COMMANDS)[1:]:
        run = understudy(config, what)
        _row(table, label, what, run, cpu=run.cpu - idle, files=3 * files, first=first)


_first_of: dict[int, dict[str, float]] = {}
#: What was measured, for docs/scale.json.
_rows: list[dict[str, Any]] = []


def _row(table: Table, label: str, what: str, run: Run, *, cpu: float, files: int, first: dict[str, float]) -> None:
    each = max(0.0, cpu) / files
    grown = each / first.setdefault(what, each or 1e-9)
    figures = {
        "wall": round(run.wall, 1),
        "cpu": round(cpu, 2),
        "memory_mb": round(run.memory),
        "grown": round(grown, 2),
    }
    _rows.append({"at": label, "what": what} | figures)
    table.add(
        f"{label}: {what}",
        f"{run.wall:.1f} s, {cpu:.2f} CPU-s ({1e6 * each:.0f} us a file, {grown:.2f}x the first), {run.memory:.0f} MB",
        f"{MEMORY_MB_MAX} MB, {GROWTH_MAX}x",
        # What takes next to nothing is not judged by its ratio.
        holds=run.memory <= MEMORY_MB_MAX and (grown <= GROWTH_MAX or cpu < 0.5),
    )


def understudy(config: Path, what: str) -> Run:
    """Run one of the commands, over a service in folders."""
    return measure([sys.executable, "-m", "understudy", "-c", str(config), "-q", *_COMMANDS[what]])


def _start_up(config: Path) -> float:
    return median_cpu(lambda: measure([sys.executable, "-m", "understudy", "-c", str(config), "--version"]))


def write_version(models: Path, version: int, files: int, *, model: str = "many") -> None:
    """Write one version: files of some hundred bytes, of which a few differ from the version before."""
    folder = models / model / str(version)
    for number in range(files):
        if number % 1000 == 0:
            (folder / f"part-{number // 1000:03d}").mkdir(parents=True)
        (folder / f"part-{number // 1000:03d}" / f"{number:06d}.bin").write_bytes(content_of(version, number))


def content_of(version: int, number: int) -> bytes:
    """Return the bytes of a file as of a version: those of the last version that changed it."""
    changed = 1
    for past in range(version, 1, -1):
        if random.Random(f"{_SEED} {past} {number}").random() < _SHARE_CHANGED:
            changed = past
            break
    source = random.Random(f"{_SEED} {changed} {number} bytes")
    return source.randbytes(source.randrange(100, 500))


def service_in(work: Path) -> Path:
    """Make a service whose stores are folders, with its register, and return its config."""
    folders = {name: work / name for name in ("models", "vault", "away", "register")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    urls = {name: f"file://{folder}" for name, folder in folders.items()}
    config: dict[str, Any] = {
        "service": "bench",
        "sites": {"home": {"name": "one"}, "away": {"name": "two", "cloud": "gcp", "region": "us-central1"}},
        "vault": {"url": urls["vault"], "keep": {"last": 10}},
        "register": {"url": urls["register"]},
        "components": {
            "training": {
                "rto": "4h",
                "rpo": "24h",
                "pairs": [{"name": "models", "home": urls["models"], "away": urls["away"], "every": "02:00"}],
            }
        },
        "traffic": {"url": "route53://ZONE/bench.example", "addresses": {"home": "127.0.0.1", "away": "127.0.0.1"}},
        "capacity": {"away": "gce://zone/group", "warm": 1, "full": 1},
    }
    path = work / "config.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    measure([sys.executable, "-c", _REGISTER, str(path)])
    return path


_REGISTER = """
import sys
from understudy.service import open_service
open_service(sys.argv[1]).register.initialise("bench")
"""


if __name__ == "__main__":
    main()
