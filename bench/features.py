"""``python -m bench.features``: what a rebuild, a catch-up and an unchanged replication cost.

The servers are this project's sandbox and moto, each a process of its own on loopback: the rates say what the client
side can do, not what the vendors' services can. Both rebuilds run in one process, one after the other.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sandbox.process import free_port, launch, listens
from understudy.features.interface import Cell, micros
from understudy.features.log import encode_log
from understudy.features.memory import MemoryFeatures
from understudy.features.rebuild import rebuild
from understudy.features.replicate import replicate_offline
from understudy.features.verify import verify
from understudy.objects.memory import MemoryStore
from understudy.opening import open_features
from understudy.settings import Access
from understudy.vault.store import Vault, open_vault

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.process import Process
    from understudy.features.interface import OnlineStore
    from understudy.objects.interface import ObjectStore
    from understudy.report import Report

HOST = "127.0.0.1"
VIEW = "bench"
FEATURES = 4
CHANGED = 20
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def fill_source(source: ObjectStore, entities: int) -> None:
    """Put a history of four features an entity, two rows each, in two files."""
    for day in range(2):
        moment = BEGAN + timedelta(days=day)
        stamps = pa.array([moment] * entities, pa.timestamp("us", tz="UTC"))
        table = pa.table(
            {
                "entity": [f"user:{number:07d}" for number in range(entities)],
                "event_timestamp": stamps,
                "created_timestamp": stamps,
                "clicks": [number * (day + 1) for number in range(entities)],
                "rate": [number / 7 + day for number in range(entities)],
                "city": [f"city {number % 50}" for number in range(entities)],
                "member": [number % 2 == day for number in range(entities)],
            }
        )
        sink = io.BytesIO()
        pq.write_table(table, sink)
        source.put(f"history/day{day}.parquet", sink.getvalue())


def change(source: ObjectStore, number: int) -> None:
    """Put a log object with a few changes."""
    at = micros(BEGAN + timedelta(days=9, seconds=number))
    rows = [Cell(f"user:{each:07d}", "clicks", str(number), at, at) for each in range(CHANGED)]
    source.put(f"log/w/{number:08d}.parquet", encode_log(rows))


def measure(call: Callable[[], Report]) -> tuple[Report, float, float]:
    """Return the report, the wall seconds and this process's CPU-seconds of a call."""
    wall, cpu = time.monotonic(), time.process_time()
    report = call()
    return report, time.monotonic() - wall, time.process_time() - cpu


def start(module: str, host_flag: str, port_flag: str, directory: Path) -> tuple[str, Process]:
    """Start a server and return its host:port."""
    port = free_port(HOST)
    command = [sys.executable, "-m", module, host_flag, HOST, port_flag, str(port)]
    server = launch(command, name=module, log=directory / f"{module}.log", ready=lambda: listens(HOST, port))
    return f"{HOST}:{port}", server


def show(what: str, report: Report, wall: float, cpu: float) -> None:
    """Print one line of the table."""
    cells = report.items_new or report.items_total
    print(f"{what:<34}{cells:>9,}{wall:>9.2f}{cpu:>9.2f}{cells / wall:>12,.0f}{cells / max(cpu, 1e-6):>14,.0f}")


def run(name: str, store: OnlineStore, source: ObjectStore, vault: Vault, number: int) -> None:
    """Measure one online store: whole, unchanged, a few changes, verified."""
    show(f"{name}: full rebuild", *measure(lambda: rebuild(vault, store, view=VIEW)))
    show(f"{name}: again, unchanged", *measure(lambda: rebuild(vault, store, view=VIEW)))
    change(source, number)
    replicate_offline(source, vault, view=VIEW)
    show(f"{name}: catch-up", *measure(lambda: rebuild(vault, store, view=VIEW)))
    show(f"{name}: verify", *measure(lambda: verify(vault, store, view=VIEW)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--only", choices=["memory", "bigtable", "dynamodb"])
    arguments = parser.parse_args()
    source, vault = MemoryStore("lake"), open_vault(MemoryStore("vault"))
    fill_source(source, arguments.entities)
    print(f"{arguments.entities:,} entities x {FEATURES} features; rates per wall second and per client CPU-second")
    print(f"{'':<34}{'cells':>9}{'wall s':>9}{'CPU s':>9}{'cells/s':>12}{'cells/CPU-s':>14}")
    show("replicate: first", *measure(lambda: replicate_offline(source, vault, view=VIEW)))
    show("replicate: unchanged", *measure(lambda: replicate_offline(source, vault, view=VIEW)))
    servers: list[Process] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            if arguments.only in (None, "memory"):
                run("memory", MemoryFeatures(), source, vault, 1)
            if arguments.only in (None, "bigtable"):
                endpoint, server = start("sandbox.bigtable_server", "--host", "--port", Path(directory))
                servers.append(server)
                access = Access(cloud="gcp", project="acme", endpoints={"bigtable": endpoint})
                run("bigtable", open_features("bigtable://acme/online/features", access), source, vault, 2)
            if arguments.only in (None, "dynamodb"):
                endpoint, server = start("moto.server", "-H", "-p", Path(directory))
                servers.append(server)
                access = Access(endpoints={"dynamodb": f"http://{endpoint}"})
                run("dynamodb (moto)", open_features("dynamodb://features", access), source, vault, 3)
        finally:
            for server in servers:
                server.kill()


if __name__ == "__main__":
    main()
