"""Model artifacts beside their peers: bytes sent, CPU, memory. ``python -m bench.artifacts [--gb 1] [--big 4]``.

Every run is a process of its own, measured by the kernel (``wait4``); ratios compare runs of this one session.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.model import write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SENT_PERCENT_MAX = 79.5
UNCHANGED_CPU_SECONDS_MAX = 0.5
MEMORY_MB_MAX = 600
_SEED = 20
_REPEATS = 7
_WIDTHS = {1: 1536, 2: 2208, 4: 3136, 8: 4480}
_HOST = "127.0.0.1"
_STEP = """
import json, sys
from understudy import opening
from understudy.settings import Access
from understudy.vault.store import open_vault
what, source, vault, target, home, away = sys.argv[1:]
home, away = Access(**json.loads(home)), Access(**json.loads(away))
opened = open_vault(opening.open_store(vault, away))
if what == "push":
    from understudy.artifacts.replicate import push
    reports = push(opening.open_store(source, home), opened)
else:
    from understudy.artifacts.hydrate import hydrate
    reports = [hydrate(opened, opening.open_store(target, away), model="bench")]
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
class Run:
    """One process: seconds of wall and CPU, peak resident memory in MB, and what it printed."""

    wall: float
    cpu: float
    memory: float
    output: str

    def total(self, name: str) -> int:
        """Add up one figure of the reports that it printed."""
        return sum(int(report[name]) for report in json.loads(self.output))


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

    def run(self, what: str) -> Run:
        """Push or hydrate in a process of its own."""
        arguments = [what, self.source, self.vault, self.target, self.home, self.away]
        return measure([sys.executable, "-c", _STEP, *arguments])


def measure(command: Sequence[str], env: dict[str, str] | None = None) -> Run:
    """Run a command to its end and measure it; its failure ends the benchmark with what it said.

    The kernel counts this process's own memory, at the moment of the fork, into the child's peak: so it stays small.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(list(command), stdout=output, stderr=errors, env=env and {**os.environ, **env})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            sys.exit(f"{command[0]} failed ({child.returncode}): {errors.read().decode()[-2000:]}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, output.read().decode())


def median_cpu(run: Callable[[], Run]) -> float:
    """Return the median CPU seconds of several runs, after one that warms the caches."""
    run()
    return statistics.median(run().cpu for _ in range(_REPEATS))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Table:
    """What is printed: one row a measurement, with its bar and verdict."""

    def __init__(self) -> None:
        self.failed = False
        self._rows: list[tuple[str, str, str, str]] = []

    def add(self, what: str, value: str, bar: str = "", *, holds: bool | None = None) -> None:
        """Add a row; ``holds`` None is for what has no bar."""
        self.failed = self.failed or holds is False
        self._rows.append((what, value, bar, "" if holds is None else "ok" if holds else "MISSED"))
        print("  ".join(text for text in self._rows[-1] if text), file=sys.stderr, flush=True)

    def print(self) -> None:
        """Print all rows, aligned."""
        rows = [("measurement", "value", "bar", "verdict"), *self._rows]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def bench_files(table: Table, work: Path, cache: Path, gb: int) -> None:
    """First push, unchanged push, two layers changed, and hydrate, from files to files, beside the peers."""
    models = work / "models"
    place = _file_place(work, models)
    one = models / "bench" / "1"
    size = _make(cache, one, gb)
    version = median_cpu(lambda: measure([sys.executable, "-m", "understudy", "--version"]))
    first = place.run("push")
    share = 100 * first.total("bytes_sent") / first.total("bytes_total")
    table.add(
        f"first push {gb} GB, sent", f"{share:.2f} %", f"<= {SENT_PERCENT_MAX} %", holds=share <= SENT_PERCENT_MAX
    )
    table.add(f"first push {gb} GB, wall / CPU", f"{first.wall:.1f} s / {first.cpu:.1f} s")
    _memory(table, f"first push {gb} GB", first)
    _unchanged(table, work, place, version)
    two = models / "bench" / "2"
    _make(cache, two, gb, changed_layers=(3, 11))
    second = place.run("push")
    sent = second.total("bytes_sent")
    table.add("2 of 16 layers changed, sent", f"{sent / 1e6:.1f} MB ({100 * sent / size:.1f} %)")
    table.add("2 of 16 layers changed, wall / CPU", f"{second.wall:.1f} s / {second.cpu:.1f} s")
    hydrated = place.run("hydrate")
    table.add(f"hydrate {gb} GB, wall / CPU", f"{hydrated.wall:.1f} s / {hydrated.cpu:.1f} s")
    _memory(table, f"hydrate {gb} GB", hydrated)
    # Version 1 is what the set pins: no index belongs to version 2 yet.
    same = filecmp.cmp(work / "away" / "bench" / "1" / "model.safetensors", one / "model.safetensors", shallow=False)
    table.add("hydrated weights equal byte for byte", "yes" if same else "NO", "yes", holds=same)
    again = place.run("hydrate")
    table.add("hydrate again, wall / CPU", f"{again.wall:.2f} s / {again.cpu:.2f} s")
    peers(table, work, one, two)


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


def peers(table: Table, work: Path, one: Path, two: Path) -> None:
    """The same models through restic, borg and rclone, where they are installed."""
    for name, bench in (("restic", _restic), ("borg", _borg), ("rclone", _rclone)):
        if shutil.which(name) is None:
            table.add(f"{name}", "not installed")
            continue
        store = work / f"peer-{name}"
        store.mkdir()
        before = folder_bytes(store)
        for label, folder in (("first", one), ("again", one), ("2 of 16 layers", two)):
            run = bench(store, folder)
            after = folder_bytes(store)
            table.add(
                f"{name}, {label}: sent, wall / CPU",
                f"{(after - before) / 1e6:.1f} MB, {run.wall:.1f} s / {run.cpu:.1f} s",
            )
            before = after
        shutil.rmtree(store)


def _restic(store: Path, folder: Path) -> Run:
    env = {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(store), "RESTIC_CACHE_DIR": str(store.parent / "cache")}
    if not (store / "config").exists():
        measure(["restic", "init", "-q"], env)
    return measure(["restic", "backup", "-q", str(folder)], env)


def _borg(store: Path, folder: Path) -> Run:
    env = {"BORG_BASE_DIR": str(store.parent / "borg-home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    if not (store / "config").exists():
        measure(["borg", "init", "-e", "none", str(store)], env)
    return measure(["borg", "create", "-C", "zstd,3", f"{store}::{{now:%H%M%S%f}}", str(folder)], env)


def _rclone(store: Path, folder: Path) -> Run:
    return measure(["rclone", "copy", str(folder), str(store / folder.name)])


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


def _make(cache: Path, folder: Path, gb: int, changed_layers: tuple[int, ...] = ()) -> int:
    """Write the model once into the cache, and link its files into ``folder``."""
    name = "-".join(["model", str(gb), *map(str, changed_layers)])
    size = write_model(cache / name, width=_WIDTHS[gb], seed=_SEED, changed_layers=changed_layers)
    folder.mkdir(parents=True, exist_ok=True)
    for path in (cache / name).iterdir():
        os.link(path, folder / path.name)
    return size


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
    parser.add_argument("--gb", type=int, default=1, choices=_WIDTHS, help="size of the model")
    parser.add_argument("--big", type=int, default=4, choices=[0, *_WIDTHS], help="for the memory bar; 0: none")
    parser.add_argument("--no-clouds", action="store_true", help="files only, without the servers")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "understudy-bench")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    table = Table()
    benches: list[tuple[Callable[[Table, Path, Path, int], None], int]] = [(bench_files, options.gb)]
    if not options.no_clouds:
        benches.append((bench_clouds, options.gb))
    if options.big:
        benches.append((bench_big, options.big))
    for bench, gb in benches:
        # Beside the cache: the model's files are linked, not copied.
        with tempfile.TemporaryDirectory(dir=options.cache) as work:
            bench(table, Path(work), options.cache, gb)
    table.print()
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
