"""Toxiproxy, which slows, cuts and resets connections: ``python -m sandbox.servers.toxiproxy start|stop|status|reset``.

https://github.com/Shopify/toxiproxy. What is printed is its API; a proxy listens where its maker says, on 127.0.0.1.
"""

from __future__ import annotations

import sys

from sandbox.servers.server import HOST, Place, Server, answers, go_install, main

_VERSION = "v2.5.0"

#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {}


def _command(place: Place) -> list[str]:
    return [str(place.home / "server"), "-host", HOST, "-port", str(place.port)]


SERVER = Server(
    name="toxiproxy",
    version=_VERSION,
    tools=("go",),
    install=go_install("github.com/Shopify/toxiproxy/v2/cmd/server", _VERSION),
    program="server",
    command=_command,
    ready=lambda place: answers(place.port, "/version"),
    variables=lambda place: {"UNDERSTUDY_TOXIPROXY": f"http://{HOST}:{place.port}"},
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.toxiproxy"))
