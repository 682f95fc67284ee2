"""The sandbox's Bigtable for a test session."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from sandbox.process import free_port, launch, listens
from understudy.settings import Access

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.process import Process

HOST = "127.0.0.1"


def launch_bigtable(log: Path, *, host: str = HOST, port: int | None = None) -> tuple[str, Process]:
    """Start a Bigtable server of the sandbox and return its ``host:port`` and process."""
    port = port or free_port(host)
    command = [sys.executable, "-m", "sandbox.bigtable_server", "--host", host, "--port", str(port)]
    return f"{host}:{port}", launch(command, name="Bigtable", log=log, ready=lambda: listens(host, port))


@pytest.fixture(scope="session")
def bigtable_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``127.0.0.1:PORT`` of the sandbox's Bigtable."""
    endpoint, server = launch_bigtable(tmp_path_factory.mktemp("bigtable") / "log")
    yield endpoint
    server.kill()


@pytest.fixture(scope="session")
def bigtable_access(bigtable_endpoint: str) -> Access:
    """How to reach it through ``understudy.clouds.gcp``."""
    return Access(cloud="gcp", project="acme", endpoints={"bigtable": bigtable_endpoint})
