"""Model artifacts beside restic and borg: bytes sent, CPU, memory. ``python -m bench.artifacts [--gb 1] [--big 4]``.

Every program keeps the same files in a local repository, in processes of its own that the kernel measures (``wait4``);
CPU is what a run takes beyond the program's own ``--version``. Each row is the median of ``--repeats`` runs, in which
the programs take turns, for machines change their speed; what takes a minute is run once. Every version is kept on a
copy of the repository that has the first one alone. The fine-tunes are synthetic: normal noise on normal weights; real
ones move fewer words by less (``python -m bench.coders`` has one).
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.clouds import bench_clouds
from bench.measuring import SENT_PERCENT_MAX, UNCHANGED_CPU_SECONDS_MAX, Run, Table, measure
from bench.model import VARIANTS, write_variant
from bench.programs import copy_state, link, programs, start_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.programs import Program

_REPEATS = 3
_ONCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What a row is held to: percent of the model sent, and CPU seconds as a multiple of borg's in the same run."""

    sent: float | None = None
    borg: float | None = None


#: By variant; see ``bench.model``. The shares are of the whole model.
_BARS = {
    "two-layers": Bar(3.8, 1.0),
    "lora": Bar(3.0, 1.0),
    "nudge-1.5": Bar(30.5, 1.5),
    "nudge-0.6": Bar(),
    "nudge-0.3": Bar(),
    "minilm-nudge-0.5": Bar(),
}
_STEP = """
import json, sys
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.vault.store import open_vault
what, source, vault, target = sys.argv[1:]
opened = open_vault(FileStore(vault))
reports = push(FileStore(source), opened) if what == "push" else [hydrate(opened, FileStore(target), model="bench")]
print(json.dumps([report.as_json() for report in reports]))
"""


def bench_files(table: Table, work: Path, cache: Path, options: argparse.Namespace) -> None:
    """All versions of both models, from files to files, by every program."""
    there, missing = programs()
    for name in missing:
        table.add(name, "not installed")
    idle = {program.name: start_up(program) for program in there}
    for first in ("base", "minilm"):
        one = _variant(cache, first, options.gb)
        nexts = [name for name, before in VARIANTS.items() if before == first]
        places = {program.name: work / f"{program.name}-{first}" for program in there}
        runs = _in_turns(there, options.repeats, lambda program: _first(program, places[program.name], one))  # noqa: B023 - in this turn
        _rows(
            table,
            f"{first}: first push",
            runs,
            idle,
            Bar(SENT_PERCENT_MAX, 1.0) if first == "base" else Bar(),
            version=one,
        )
        again = _in_turns(there, options.repeats, lambda program: _kept(program, places[program.name], one))  # noqa: B023 - in this turn
        _rows(table, f"{first}: unchanged", again, idle, Bar(0.0), version=one, cpu_max=UNCHANGED_CPU_SECONDS_MAX)
        for name in nexts:
            next_one = _variant(cache, name, options.gb)
            runs = _in_turns(
                there,
                options.repeats,
                lambda program: _next(program, places[program.name], work / "copy", next_one),  # noqa: B023 - in this turn
            )
            _rows(table, name, runs, idle, _BARS[name], version=next_one)
            if name == "nudge-1.5":
                _restored(table, there, places, work / "copies", next_one, repeats=options.repeats)
        for place in places.values():
            shutil.rmtree(place)


#: Bytes that the repository grew by, and the run.
Kept = tuple[int, Run]


def _in_turns(there: list[Program], repeats: int, run: Callable[[Program], Kept]) -> dict[str, list[Kept]]:
    """Run every program once a round, but no second time what takes a minute."""
    runs: dict[str, list[Kept]] = {program.name: [] for program in there}
    for _ in range(repeats):
        for program in there:
            if all(each.wall < _ONCE_SECONDS for _, each in runs[program.name]):
                runs[program.name].append(run(program))
    return runs


def _first(program: Program, place: Path, version: Path) -> Kept:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return _kept(program, place, version)


def _next(program: Program, place: Path, copy: Path, version: Path) -> Kept:
    copy_state(place, copy)
    kept = _kept(program, copy, version)
    shutil.rmtree(copy)
    return kept


def _kept(program: Program, place: Path, version: Path) -> Kept:
    before = program.stored(place)
    run = program.keep(place, version)
    return program.stored(place) - before, run


def _rows(
    table: Table,
    what: str,
    runs: dict[str, list[Kept]],
    idle: dict[str, float],
    bar: Bar,
    *,
    version: Path,
    cpu_max: float | None = None,
) -> None:
    """Add a row a program; ours are held to the bars."""
    size = sum(path.stat().st_size for path in version.iterdir())
    cpu = {name: statistics.median(run.cpu for _, run in kept) - idle[name] for name, kept in runs.items()}
    for name, kept in runs.items():
        sent = statistics.median(count for count, _ in kept)
        wall = statistics.median(run.wall for _, run in kept)
        share = 100 * sent / size
        value = f"{sent / 1e6:7.1f} MB {share:5.2f} %  {cpu[name]:5.2f} CPU-s  {wall:5.2f} s"
        if name != "understudy":
            table.add(f"{what}, {name}", value)
            continue
        limit = cpu_max if cpu_max is not None else bar.borg * cpu["borg"] if bar.borg and "borg" in cpu else None
        bars, holds = [], []
        if bar.sent is not None:
            bars.append(f"{bar.sent} %")
            holds.append(round(share, 2) <= bar.sent)
        if limit is not None:
            bars.append(f"{limit:.2f} CPU-s")
            holds.append(cpu[name] <= limit)
        table.add(f"{what}, {name}", value, ", ".join(bars), holds=all(holds) if holds else None)
        table.memory(what, max((run for _, run in kept), key=lambda run: run.memory))


def _restored(
    table: Table, there: list[Program], places: dict[str, Path], copies: Path, version: Path, *, repeats: int
) -> None:
    """Keep a fine-tune, then restore it by every program, and compare every byte; ours is held to restic's time."""
    runs: dict[str, list[Run]] = {program.name: [] for program in there}
    for program in there:
        copy_state(places[program.name], copies / program.name)
        program.keep(copies / program.name, version)
    for _ in range(repeats):
        for program in there:
            target = copies / "restored"
            target.mkdir()
            run, found = program.restore(copies / program.name, version, target)
            if not all(filecmp.cmp(path, found / path.name, shallow=False) for path in version.iterdir()):
                sys.exit(f"{program.name} restored other files")
            runs[program.name].append(run)
            shutil.rmtree(target)
    shutil.rmtree(copies)
    wall = {name: statistics.median(run.wall for run in each) for name, each in runs.items()}
    for name, each in runs.items():
        value = f"{wall[name]:5.2f} s  {statistics.median(run.cpu for run in each):5.2f} CPU-s"
        ours = name == "understudy" and "restic" in wall
        table.add(
            f"restore {version.name}, equal byte for byte, {name}",
            value,
            f"{wall['restic']:.2f} s" if ours else "",
            holds=wall[name] <= wall["restic"] if ours else None,
        )
        if name == "understudy":
            table.memory(f"restore {version.name}", max(each, key=lambda run: run.memory))


def bench_big(table: Table, work: Path, cache: Path, gb: int) -> None:
    """Memory of push and hydrate of a bigger model."""
    folders = [work / name for name in ("models", "vault", "away")]
    for folder in folders:
        folder.mkdir()
    link(_variant(cache, "base", gb), work / "models" / "bench" / "1")
    for what in ("push", "hydrate"):
        run = measure([sys.executable, "-c", _STEP, what, *map(str, folders)])
        table.add(f"{what} {gb} GB, wall / CPU", f"{run.wall:.1f} s / {run.cpu:.1f} s")
        table.memory(f"{what} {gb} GB", run)


def _variant(cache: Path, name: str, gb: int) -> Path:
    """Return the folder of a version of a model; it is made once."""
    folder = cache / (name if name.startswith("minilm") else f"{name}-{gb}")
    write_variant(folder, name, gb=gb)
    return folder


def main() -> int:
    """Run all and print one table; 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.artifacts", description=__doc__)
    parser.add_argument("--gb", type=int, default=1, choices=(1, 2, 4, 8), help="size of the model")
    parser.add_argument("--big", type=int, default=4, choices=(0, 2, 4, 8), help="for the memory bar; 0: none")
    parser.add_argument("--repeats", type=int, default=_REPEATS)
    parser.add_argument("--no-clouds", action="store_true", help="files only, without the servers")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "understudy-bench")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    table = Table()
    benches: list[Callable[[Path], None]] = [lambda work: bench_files(table, work, options.cache, options)]
    if not options.no_clouds:
        base = _variant(options.cache, "base", options.gb)
        benches.append(lambda work: bench_clouds(table, work, base, options.repeats))
    if options.big:
        benches.append(lambda work: bench_big(table, work, options.cache, options.big))
    for bench in benches:
        # Beside the cache: the model's files are linked, not copied.
        with tempfile.TemporaryDirectory(dir=options.cache) as work:
            bench(Path(work))
    table.print()
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
