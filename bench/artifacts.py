"""Model artifacts beside restic and borg: bytes sent, CPU, memory. ``python -m bench.artifacts [--gb 1] [--big 4]``.

Every program keeps the same files in a local repository, in processes of its own that the kernel measures (``wait4``);
CPU is what a run takes beyond the program's own ``--version``. Each row is the median of ``--repeats`` runs, in which
the programs take turns, for machines change their speed; what takes a minute is run once. Every version is kept on a
copy of the repository that has the first one alone. The fine-tunes are synthetic: normal noise on normal weights; real
ones move fewer words by less (``python -m bench.coders`` has one).
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import shutil
import statistics
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measuring import Run, Table, measure, median_cpu
from bench.model import VARIANTS, write_variant
from bench.programs import copy_state, link, programs, start_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.programs import Program

SENT_PERCENT_MAX = 67.5
UNCHANGED_CPU_SECONDS_MAX = 0.3
MEMORY_MB_MAX = 600
_REPEATS = 3
_ONCE_SECONDS = 60.0
_HOST = "127.0.0.1"


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
from understudy import opening
from understudy.settings import Access
from understudy.vault.store import open_vault
what, source, vault, target, home, away, version = sys.argv[1:]
home, away = Access(**json.loads(home)), Access(**json.loads(away))
opened = open_vault(opening.open_store(vault, away))
if what == "push":
    from understudy.artifacts.replicate import push
    reports = push(opening.open_store(source, home), opened)
else:
    from understudy.artifacts.hydrate import hydrate
    reports = [hydrate(opened, opening.open_store(target, away), model="bench", version=version or None)]
print(json.dumps([report.as_json() for report in reports]))
"""
#: What a service has beside its model: a register, an exported index that belongs to the model, features, a set.
_COMPANIONS = """
import sys
from datetime import UTC, datetime
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from understudy.artifacts.catalog import all_manifests
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.service import open_service
from understudy.vectors.interface import Column, Schema
from understudy.vectors.memory import MemoryVectors
from understudy.vectors.export import export
service = open_service(sys.argv[1])
service.register.initialise("bench")
model = all_manifests(service.vault, "bench")[-1]
schema = Schema((Column("id", "text", "text", nullable=False), Column("v", "vector", "vector(8)")), "id", "v", 8)
vectors = pa.FixedSizeListArray.from_arrays(np.zeros(8, np.float32), 8)
index = MemoryVectors()
labels = {"model": "bench", "model_digest": model.digest}
index.replace(schema, pa.table([pa.array(["a"]), vectors], ["id", "v"]), labels)
export(index, service.vault, index="index")
lake = MemoryStore()
moment = pa.array([datetime.now(UTC)], pa.timestamp("us", "UTC"))
history = pa.table([["e"], moment, moment, [1]], ["entity", "event_timestamp", "created_timestamp", "clicks"])
sink = pa.BufferOutputStream()
pq.write_table(history, sink)
lake.put("history/day.parquet", sink.getvalue().to_pybytes())
replicate_offline(lake, service.vault, view="features")
assert service.compose_set() is not None
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where models come from, where vault, register and the standby's models are, and how both clouds are reached."""

    name: str
    source: str
    vault: str
    target: str
    register: str
    home: str
    away: str

    def run(self, what: str, version: str = "") -> Run:
        """Push or hydrate in a process of its own."""
        arguments = [what, self.source, self.vault, self.target, self.home, self.away, version]
        return measure([sys.executable, "-c", _STEP, *arguments])


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
        memory = max(run.memory for _, run in kept)
        table.add(f"{what}, peak memory", f"{memory:.0f} MB", f"< {MEMORY_MB_MAX} MB", holds=memory < MEMORY_MB_MAX)


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
            _memory(table, f"restore {version.name}", max(each, key=lambda run: run.memory))


def bench_big(table: Table, work: Path, cache: Path, gb: int) -> None:
    """Memory of push and hydrate of a bigger model."""
    place = _file_place(work, work / "models")
    _make(cache, work / "models" / "bench" / "1", gb)
    pushed = place.run("push")
    table.add(f"first push {gb} GB, wall / CPU", f"{pushed.wall:.1f} s / {pushed.cpu:.1f} s")
    _memory(table, f"first push {gb} GB", pushed)
    hydrated = place.run("hydrate")
    table.add(f"hydrate {gb} GB, wall / CPU", f"{hydrated.wall:.1f} s / {hydrated.cpu:.1f} s")
    _memory(table, f"hydrate {gb} GB", hydrated)


def bench_clouds(table: Table, work: Path, cache: Path, gb: int) -> None:
    """First and unchanged push, and hydrate, from moto's S3 to the sandbox's GCS, through the vendors' own clients."""
    folder = work / "upload"
    _make(cache, folder, gb)
    version = median_cpu(lambda: measure([sys.executable, "-m", "understudy", "--version"]))
    with _clouds(work) as place:
        _upload(place, folder)
        first = place.run("push")
        share = 100 * first.total("bytes_sent") / first.total("bytes_total")
        table.add(
            f"S3 -> GCS first push {gb} GB, sent",
            f"{share:.2f} %",
            f"<= {SENT_PERCENT_MAX} %",
            holds=share <= SENT_PERCENT_MAX,
        )
        table.add(f"S3 -> GCS first push {gb} GB, wall / CPU", f"{first.wall:.1f} s / {first.cpu:.1f} s")
        _memory(table, f"S3 -> GCS first push {gb} GB", first)
        _unchanged(table, work, place, version)
        hydrated = place.run("hydrate")
        table.add(f"GCS hydrate {gb} GB, wall / CPU", f"{hydrated.wall:.1f} s / {hydrated.cpu:.1f} s")
        _memory(table, f"GCS hydrate {gb} GB", hydrated)


def _unchanged(table: Table, work: Path, place: Place, version: float) -> None:
    """Push what is in the vault already: what is read and sent, and what the command costs."""
    runs = [place.run("push") for _ in range(2)]
    read = max(run.total("bytes_read") for run in runs)
    sent = max(run.total("bytes_sent") for run in runs)
    table.add(f"{place.name} unchanged push, model bytes read", f"{read} B", "0 B", holds=read == 0)
    table.add(f"{place.name} unchanged push, sent", f"{sent} B", "0 B", holds=sent == 0)
    path = _service(work, place)
    command = [sys.executable, "-m", "understudy", "-c", str(path), "artifacts", "push"]
    more = median_cpu(lambda: measure(command)) - version
    said = measure(command).output
    bar = f"<= {UNCHANGED_CPU_SECONDS_MAX} s"
    holds = more <= UNCHANGED_CPU_SECONDS_MAX and "unchanged" in said
    what = f"{place.name} understudy artifacts push, unchanged, CPU over --version ({version:.2f} s)"
    table.add(what, f"{more:.2f} s", bar, holds=holds)


def _memory(table: Table, what: str, run: Run) -> None:
    table.add(f"{what}, peak memory", f"{run.memory:.0f} MB", f"< {MEMORY_MB_MAX} MB", holds=run.memory < MEMORY_MB_MAX)


def _variant(cache: Path, name: str, gb: int) -> Path:
    """Return the folder of a version of a model; it is made once."""
    folder = cache / (name if name.startswith("minilm") else f"{name}-{gb}")
    write_variant(folder, name, gb=gb)
    return folder


def _make(cache: Path, folder: Path, gb: int) -> None:
    """Link the first version's files into ``folder``."""
    link(_variant(cache, "base", gb), folder)


def _file_place(work: Path, models: Path) -> Place:
    for folder in (models, work / "vault", work / "away", work / "register"):
        folder.mkdir(parents=True, exist_ok=True)
    urls = [f"file://{folder}" for folder in (models, work / "vault", work / "away", work / "register")]
    return Place("files", *urls, "{}", "{}")


def _service(work: Path, place: Place) -> Path:
    """Make a whole service around the model: register, index, features, a set that pins them; return its config."""
    home, away = json.loads(place.home), json.loads(place.away)
    config = {
        "service": "bench",
        "sites": {"home": {"name": "one", **home}, "away": {"name": "two", **away}},
        "vault": {"url": place.vault},
        "register": {"url": place.register, **home, "region": "eu-west-1"},
        "components": {
            "feature_store": {
                "rto": "15m",
                "rpo": "5m",
                "pairs": [{"name": "features", "home": "dynamodb://t", "away": "bigtable://p/i/t", "every": "2m"}],
            },
            "vector_index": {
                "rto": "30m",
                "rpo": "1h",
                "pairs": [{"name": "index", "home": "pgvector://h/d", "away": "pgvector://a/d", "every": "30m"}],
            },
            "training": {
                "rto": "4h",
                "rpo": "24h",
                "pairs": [{"name": "models", "home": place.source, "away": place.target, "every": "02:00"}],
            },
        },
        "traffic": {"url": "route53://ZONE/bench.example", "addresses": {"home": _HOST, "away": _HOST}},
        "capacity": {"away": "gce://zone/group", "warm": 1, "full": 1},
        "alerts": {"url": "route53-health-check://none"},
    }
    path = work / "config.yaml"
    path.write_text(json.dumps(config))
    measure([sys.executable, "-c", _COMPANIONS, str(path)])
    return path


@contextlib.contextmanager
def _clouds(work: Path) -> Iterator[Place]:
    """Start moto's S3 and the sandbox's GCS, each with an empty bucket."""
    from sandbox.process import free_port, launch, listens

    servers = []
    urls = []
    for name, command in (
        ("moto", [sys.executable, "-m", "moto.server", "-H", _HOST, "-p"]),
        ("gcs", [sys.executable, "-m", "sandbox.gcs_server", "--host", _HOST, "--data", str(work / "gcs"), "--port"]),
    ):
        port = free_port(_HOST)

        def ready(port: int = port) -> bool:
            return listens(_HOST, port)

        servers.append(launch([*command, str(port)], name=name, log=work / f"{name}.log", ready=ready))
        urls.append(f"http://{_HOST}:{port}")
    try:
        for bucket in ("vault", "away"):
            body = json.dumps({"name": bucket, "versioning": {"enabled": True}}).encode()
            url = f"{urls[1]}/storage/v1/b?project=bench"
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - loopback
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback
        home = json.dumps({"cloud": "aws", "endpoints": {"s3": urls[0]}})
        away = json.dumps({"cloud": "gcp", "project": "bench", "endpoints": {"gcs": urls[1]}})
        yield Place("S3 -> GCS", "s3://models/", "gs://vault/", "gs://away/", "s3://register/", home, away)
    finally:
        for server in servers:
            server.kill()


def _upload(place: Place, folder: Path) -> None:
    """Put the model into a new versioned bucket, as its owner would."""
    from understudy import opening
    from understudy.clouds import aws
    from understudy.settings import Access

    access = Access(**json.loads(place.home))
    client = aws.client("s3", access)
    client.create_bucket(Bucket="register")
    client.create_bucket(Bucket="models")
    client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    store = opening.open_store(place.source, access)
    for path in folder.iterdir():
        with path.open("rb") as file:
            parts = iter(lambda: file.read(16 << 20), b"")
            store.put_stream(f"bench/1/{path.name}", parts, path.stat().st_size)


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
        benches.append(lambda work: bench_clouds(table, work, options.cache, options.gb))
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
