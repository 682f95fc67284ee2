"""Vector indexes beside pg_dump: ``python -m bench.vectors [--rows 200000]``; prints a table.

CPU-seconds are this process's own, all threads together (the server's come on top, as they do for pg_dump). Vectors are
float32 of 384 dimensions with a structure such as embeddings have: points around a plane of 24 dimensions.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import pyarrow as pa

from sandbox.postgres import DATABASE, ROLE, accepts_connections, binary
from sandbox.process import free_port, launch
from understudy.objects.file import FileStore
from understudy.report import human_bytes
from understudy.vault.store import open_vault
from understudy.vectors import copy_binary
from understudy.vectors.export import export
from understudy.vectors.interface import Column, Schema
from understudy.vectors.pgvector import PgvectorStore
from understudy.vectors.rebuild import rebuild
from understudy.vectors.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIMENSION = 384
_BATCH_ROWS = 10_000
_SCHEMA = Schema(
    columns=(
        Column("id", "text", "text", nullable=False),
        Column("embedding", "vector", f"vector({DIMENSION})"),
        Column("title", "text", "text"),
        Column("price", "float8", "double precision"),
    ),
    id="id",
    vector="embedding",
    dimension=DIMENSION,
)


class Table:
    """Collects lines, and prints them as they come."""

    def __init__(self) -> None:
        """Print the heading."""
        print(f"{'':44}{'rows/s':>10}{'rows/CPU-s':>12}{'wall s':>9}{'CPU s':>8}{'bytes':>10}")

    def line(self, what: str, rows: int, wall: float, cpu: float | None = None, size: int | None = None) -> None:
        """Print one measurement."""
        per_cpu = f"{rows / cpu:,.0f}" if cpu else ""
        bytes_ = human_bytes(size) if size is not None else ""
        spent = f"{cpu:.2f}" if cpu is not None else ""
        print(f"{what:44}{rows / wall:>10,.0f}{per_cpu:>12}{wall:>9.2f}{spent:>8}{bytes_:>10}", flush=True)


def measure(work: Callable[[], int]) -> tuple[float, float, int]:
    """Return wall seconds, CPU seconds of this process, and what the work returned."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    return time.monotonic() - wall, time.process_time() - cpu, result


def main() -> None:
    """Start a server, fill it, measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.vectors", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="bench-vectors-") as name:
        folder = Path(name)
        port = free_port()
        server = launch(
            [sys.executable, "-m", "sandbox.postgres", "--port", str(port), "--data", folder / "data"],
            name="PostgreSQL",
            log=folder / "log",
            ready=lambda: accepts_connections("127.0.0.1", port),
        )
        try:
            _run(rows, port, folder)
        finally:
            server.kill()


def _run(rows: int, port: int, folder: Path) -> None:
    address = f"host=127.0.0.1 port={port} user={ROLE}"
    (folder / "vault").mkdir()
    vault = open_vault(FileStore(folder / "vault"))
    with psycopg.connect(f"{address} dbname={DATABASE}", autocommit=True) as connection:
        connection.execute("CREATE DATABASE away")
        connection.execute(
            f"CREATE TABLE products (id text PRIMARY KEY, embedding vector({DIMENSION}), title text, price float8)"
        )
        with connection.cursor() as cursor, cursor.copy("COPY products FROM STDIN (FORMAT BINARY)") as copy:
            for block in copy_binary.write(_SCHEMA, _batches(rows)):
                copy.write(block)
        connection.execute("VACUUM ANALYZE products")
        url = f"pgvector://127.0.0.1:{port}/{{}}?table=products&user={ROLE}"
        source, target = PgvectorStore(url.format(DATABASE)), PgvectorStore(url.format("away"))
        raw = rows * DIMENSION * 4
        print(f"{rows:,} rows, {DIMENSION} float32 each: {human_bytes(raw)} of vectors, {os.cpu_count()} cores\n")
        table = Table()

        wall, cpu, sent = measure(lambda: export(source, vault, index="products").bytes_sent)
        table.line("export: COPY BINARY -> Parquet in the vault", rows, wall, cpu, sent)
        wall, cpu, sent = measure(lambda: export(source, vault, index="products").bytes_sent)
        table.line("export again: nothing changed", rows, wall, cpu, sent)
        connection.execute("UPDATE products SET price = price + 1 WHERE id < 'item-0000020'")
        wall, cpu, sent = measure(lambda: export(source, vault, index="products").bytes_sent)
        table.line("export after 20 rows changed", rows, wall, cpu, sent)
        _pg_dump(table, address, rows)

        wall, cpu, read = measure(lambda: rebuild(vault, target, index="products").bytes_read)
        table.line("rebuild without a graph, digest proven", rows, wall, cpu, read)
        wall, cpu, _ = measure(lambda: verify(vault, target, index="products").items_total)
        table.line("verify by digest", rows, wall, cpu)

        graph = "CREATE INDEX {} ON products USING hnsw (embedding vector_cosine_ops)"
        memory = f"SET maintenance_work_mem = '{max(64, rows * 3 // 1000)}MB'"
        connection.execute(memory)
        connection.execute("SET max_parallel_maintenance_workers = 0")
        wall, _, _ = measure(lambda: connection.execute(graph.format("products_graph")).rowcount)
        table.line("HNSW alone, 1 process", rows, wall)
        export(source, vault, index="products")
        report = rebuild(vault, target, index="products")
        table.line("HNSW within a rebuild, 2 processes", rows, float(report.details["hnsw_seconds"]))
        table.line("rebuild with HNSW, digest and recall proven", rows, report.seconds)
        print(f"\n{report.sentence}, at ef_search {report.details['ef_search']}")
        print(f"export sends {sent / raw:.4f} of the vectors' bytes after 20 changed rows")


def _batches(rows: int) -> Iterator[pa.RecordBatch]:
    random = np.random.default_rng(7)
    plane = random.standard_normal((24, DIMENSION)).astype(np.float32)
    for start in range(0, rows, _BATCH_ROWS):
        count = min(_BATCH_ROWS, rows - start)
        points = random.standard_normal((count, 24)).astype(np.float32) @ plane
        points += random.standard_normal((count, DIMENSION)).astype(np.float32) * 0.2
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), DIMENSION)
        ids = [f"item-{i:07d}" for i in range(start, start + count)]
        arrays = [
            pa.array(ids),
            vectors.cast(_SCHEMA.arrow().field("embedding").type),
            pa.array([f"product number {i}" for i in ids]),
            pa.array(random.random(count)),
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA.arrow())


def _pg_dump(table: Table, address: str, rows: int) -> None:
    program = binary("pg_dump")
    if not program.exists():
        print("pg_dump is not there")
        return
    command = f"'{program}' -d '{address} dbname={DATABASE}' -t products | gzip -6 | wc -c"
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    table.line("pg_dump | gzip -6", rows, time.monotonic() - started, cpu, int(done.stdout))


if __name__ == "__main__":
    main()
