"""The page for 3 am names what exists: exit codes, gates and options, read from the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy import errors
from understudy.command.failover import failover
from understudy.command.report import report

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def rows(head: str) -> dict[str, str]:
    """Return the table below a head: the rest of each row by its first cell."""
    table = RUNBOOK.split(f"| {head} |", 1)[1].split("\n\n", 1)[0]
    found = re.findall(r"^\| ([^|]+) \|(.*)\|$", table, re.MULTILINE)
    return {first.strip(" `"): rest for first, rest in found}


def gates() -> set[str]:
    """Return the name of every gate that the code makes; of ``rpo COMPONENT`` its fixed part."""
    tree = ast.parse((ROOT / "understudy" / "failover" / "decide.py").read_text(encoding="utf-8"))
    names = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Gate":
            (name,) = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
            constants = [node.value for node in ast.walk(name) if isinstance(node, ast.Constant)]
            names.add(str(constants[0]).strip())
    return names


def test_every_gate_has_a_line():
    assert {"register", "fence", "rpo", "hold", "old site", "vault"} <= gates()
    assert gates() == {name.removesuffix(" COMPONENT") for name in rows("gate")}


def test_the_exit_codes_are_those_of_the_errors():
    known = {
        each.exit_code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.UnderstudyError)
    }
    assert known | {0, 130} == {int(code) for code in rows("exit code")}


@pytest.mark.parametrize("name", ["run", "plan", "hold", "release", "abort"])
def test_every_option_it_shows_exists(name):
    command = failover.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    for shown in re.findall(rf"^understudy failover {name}(.*)$", RUNBOOK, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", shown)) <= options, shown


def test_every_option_that_it_names_is_one_of_a_command_it_names():
    commands: list[click.Command] = [*failover.commands.values(), report]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert set() == set(re.findall(r"--[a-z][a-z-]+", RUNBOOK)) - known - {"--deep"}


def test_every_acceptance_that_a_gate_offers_is_shown():
    source = (ROOT / "understudy" / "failover" / "decide.py").read_text(encoding="utf-8")
    offered = set(re.findall(r'"(accept-[a-z-]+)"', source))
    assert {"accept-loss", "accept-unfenced", "accept-dead-home"} == offered
    assert set() == {name for name in offered if f"--{name} " not in RUNBOOK}
    options = {option for name in ("run", "abort") for each in failover.commands[name].params for option in each.opts}
    assert {f"--{name}" for name in offered} <= options


@pytest.mark.parametrize("what", ["Prefect", "The register", "The vault", "DNS does not move", "Warm capacity is gone"])
def test_what_else_may_be_down_is_covered(what):
    assert re.search(rf"^\*\*{what}", RUNBOOK, re.MULTILINE)


def test_it_says_plainly_what_is_not_built():
    assert "**Failback is not built yet.**" in RUNBOOK
    assert "UNPROTECTED" in RUNBOOK
