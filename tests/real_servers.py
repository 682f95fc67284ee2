"""Real servers as further params of the contracts' fixtures: ``pytest --real-servers``, off by default.

A fixture names a real server among its params with ``real("versitygw")``, and asks ``real_server("versitygw")`` for
what a client needs. Without ``--real-servers`` such a test is not collected. What a server cannot prove is data,
``CANNOT_PROVE`` in its script: such a test is skipped with that reason. A server that is missing is a skip too, or a
failure with ``REQUIRE_SERVERS=1``.

A server is the one whose variables are set (``python -m sandbox.servers run``), else one that this session starts for
itself and ends; ``real_server(name, own=True)`` always starts one, for who changes the whole server. It is not
installed here: that takes minutes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.process import ServerDidNotStart
from sandbox.servers import NAMES, script, servers
from sandbox.servers.server import MissingTool, Running, installed
from tests import adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MARK = "real"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-servers",
        action="store_true",
        help="run the contracts over real servers too (python -m sandbox.servers)",
    )
    adapters.addoption(parser)


def pytest_configure(config: pytest.Config) -> None:
    adapters.configure(config)
    config.addinivalue_line("markers", f"{_MARK}(server): runs with --real-servers alone; made by tests.real_servers")


def real(server: str, *values: Any, id: str | None = None) -> Any:  # noqa: A002 - pytest's own word
    """Return a param of a fixture or a test: the server's name, or these values, collected with ``--real-servers``."""
    if server not in NAMES:
        message = f"{server} is not among {', '.join(NAMES)}"
        raise ValueError(message)
    return pytest.param(*(values or (server,)), id=id or server, marks=pytest.mark.real(server))


def reason_against(item: pytest.Item, names: list[str]) -> str | None:
    """Return why one of these servers cannot prove a test, None when all can."""
    function = item.originalname if isinstance(item, pytest.Function) else item.name
    for name in names:
        known = script(name).CANNOT_PROVE
        reason = known.get(item.name) or known.get(function)
        if reason is not None:
            return f"{name} cannot prove it: {reason}"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--real-servers")
    kept = []
    for item in items:
        names = [str(mark.args[0]) for mark in item.iter_markers(_MARK)]
        if names and not wanted:
            continue
        reason = reason_against(item, names)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
        kept.append(item)
    items[:] = adapters.chosen(config, kept)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, str]]]:
    """Return what starts a real server, unless there is one, and returns the variables that a client needs."""
    folder = tmp_path_factory.mktemp("servers")
    found: dict[tuple[str, bool], dict[str, str] | str] = {}

    def ask(name: str, *, own: bool = False) -> dict[str, str]:
        if (name, own) not in found:
            found[name, own] = _start(name, folder) if own else _given(name) or _start(name, folder)
        answer = found[name, own]
        if isinstance(answer, str):
            if os.environ.get("REQUIRE_SERVERS") == "1":
                pytest.fail(answer, pytrace=False)
            pytest.skip(answer)
        return answer

    yield ask
    for name, _ in found:
        Running(servers()[name], folder).stop()


def _given(name: str) -> dict[str, str]:
    prefix = f"UNDERSTUDY_{name.upper()}"
    return {variable: value for variable, value in os.environ.items() if variable.startswith(prefix)}


def _start(name: str, folder: Path) -> dict[str, str] | str:
    server = servers()[name]
    if not installed(server):
        return f"{name} is not installed: python -m sandbox.servers start {name}"
    try:
        return Running(server, folder).start()
    except (MissingTool, ServerDidNotStart) as error:
        return f"{name}: {error}"
