"""Google's Bigtable emulator, in memory: ``python -m sandbox.servers.bigtable start|stop|status|reset``.

https://pkg.go.dev/cloud.google.com/go/bigtable/cmd/emulator. Tables, column families, reads, mutations and conditions;
no instances, clusters or backups.
"""

from __future__ import annotations

import sys

from sandbox.process import listens
from sandbox.servers.server import HOST, Place, Server, go_install, main

_VERSION = "v1.58.0"

#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {
    "test_a_row_changes_wholly_or_not_at_all": (
        "it applies the mutations before the one that it refuses; Bigtable's rows are atomic"
    ),
    "test_a_filter_that_is_not_served_says_so": "it serves that filter; only the sandbox does not",
}


def _command(place: Place) -> list[str]:
    return [str(place.home / "emulator"), "-host", HOST, "-port", str(place.port)]


SERVER = Server(
    name="bigtable",
    version=_VERSION,
    tools=("go",),
    install=go_install("cloud.google.com/go/bigtable/cmd/emulator", _VERSION),
    program="emulator",
    folder="bigtable-emulator",
    command=_command,
    ready=lambda place: listens(HOST, place.port),
    variables=lambda place: {"UNDERSTUDY_BIGTABLE_EMULATOR": f"{HOST}:{place.port}"},
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.bigtable"))
