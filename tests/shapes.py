"""Whatever a test makes a command print under ``--json`` is held to the documented schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from understudy.command.screen import Screen


@cache
def validator(command: str) -> Draft202012Validator:
    """Return what checks a command's output; a field that the schema does not name is refused too."""
    from understudy.command.shapes import of

    return Draft202012Validator(of(command, closed=True))


def wrong(command: str, value: Any) -> list[str]:
    """Return what about a value is not as the schema says."""
    problems = validator(command).iter_errors(json.loads(json.dumps(value)))  # as it is printed: tuples become lists
    return [f"{command} {error.json_path}: {best_match([error]).message}" for error in problems]


def running() -> str | None:
    """Return the words of the command that runs, such as ``artifacts push``; None outside of the command line."""
    from understudy.command.root import root

    context = click.get_current_context(silent=True)
    if context is None or context.find_root().command is not root:
        return None
    return context.command_path.partition(" ")[2]


@pytest.fixture(autouse=True)
def json_as_documented(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fail a test in which a command printed JSON that is not as documented."""
    problems: list[str] = []
    write = Screen.write_json

    def checked(screen: Screen, value: Any) -> None:
        is_error = isinstance(value, dict) and value.keys() == {"error"}
        command = "error" if is_error else running()
        if command is not None:
            problems.extend(wrong(command, value))
        write(screen, value)

    monkeypatch.setattr(Screen, "write_json", checked)
    yield problems
    assert [] == problems, "not as docs/output.schema.json says; see understudy/command/shapes.py"
