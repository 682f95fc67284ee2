"""A contract over the adapter of another package: ``pytest tests/contracts/test_objects.py --adapter URL``.

The package is installed beside understudy and brings an entry point (``understudy.adapters``). Its tests run alone
then; without the option they are not collected. Each store is opened as ``URL?table=<fresh name>``.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARK = "adapter"
#: The param of a contract's fixture that stands for that adapter.
ADAPTER = pytest.param("adapter", marks=pytest.mark.adapter)
_numbers = itertools.count(1)


def addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--adapter", metavar="URL", help="run a contract over the adapter of another package, and no other"
    )


def configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_MARK}: runs over the adapter of --adapter URL alone")


def chosen(config: pytest.Config, items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests of the adapter when one is named, else all others."""
    wanted = bool(config.getoption("--adapter"))
    return [item for item in items if wanted is bool(list(item.iter_markers(_MARK)))]


def fresh_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of ``--adapter`` with a table of its own, so that each test starts empty."""
    parts = urlsplit(request.config.getoption("--adapter"))
    options = {**dict(parse_qsl(parts.query)), "table": f"t_{os.getpid()}_{next(_numbers)}"}
    return urlunsplit(parts._replace(query=urlencode(options)))
