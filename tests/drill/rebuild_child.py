"""A rebuild that kills itself: ``python -m tests.drill.rebuild_child VAULT URL STAGE``.

STAGE is what the progress says (``load``, ``read back``, ``index``, ``swap``), ``swapped`` after the last, or ``hnsw``:
as soon as the server is building the graph.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import psycopg

from understudy.objects.file import FileStore
from understudy.vault.store import open_vault
from understudy.vectors.pgvector import PgvectorStore
from understudy.vectors.rebuild import rebuild


def main(folder: str, url: str, stage: str) -> None:
    store = PgvectorStore(url)

    def kill_when_building() -> None:
        config = store.config
        with psycopg.connect(
            host=config.host, port=config.port, dbname=config.database, user=config.user, autocommit=True
        ) as connection:
            building = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%USING hnsw%__g%' "
            while not connection.execute(f"{building} AND pid <> pg_backend_pid()").fetchone()[0]:
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(what: str, done: int, total: int | None, unit: str) -> None:
        del total, unit
        reached = what.rpartition(": ")[2]
        if reached == "index" and stage == "hnsw":
            threading.Thread(target=kill_when_building, daemon=True).start()
        if stage == ("swapped" if reached == "swap" and done == 1 else reached):
            os.kill(os.getpid(), signal.SIGKILL)

    rebuild(open_vault(FileStore(folder)), store, index="products", progress=progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
