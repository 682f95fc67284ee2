"""One PostgreSQL with pgvector a test session, and fresh databases in it: each is a site's server to the product."""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from sandbox.postgres import DATABASE, ROLE, accepts_connections
from sandbox.process import free_port, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the sandbox's server; the string is what psycopg connects to."""
    directory = tmp_path_factory.mktemp("postgres")
    port = free_port(HOST)
    server = launch(
        [sys.executable, "-m", "sandbox.postgres", "--host", HOST, "--port", str(port), "--data", directory / "data"],
        name="PostgreSQL",
        log=directory / "log",
        ready=lambda: accepts_connections(HOST, port),
    )
    yield f"host={HOST} port={port} user={ROLE} dbname={DATABASE}"
    server.kill()


def databases_on(dsn: str) -> Callable[[], str]:
    """Return what makes an empty database with the extension, and returns ``pgvector://host:port/name``."""

    def make() -> str:
        name = f"site_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload] # the name is ours
            return f"pgvector://{connection.info.host}:{connection.info.port}/{name}"

    return make


@pytest.fixture
def make_database(postgres_dsn: str) -> Callable[[], str]:
    """Return what makes an empty database on the sandbox's server; see ``databases_on``."""
    return databases_on(postgres_dsn)
