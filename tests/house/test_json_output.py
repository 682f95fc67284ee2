"""The schema of ``--json`` is fresh, every command has its place in it, and docs/json.md tells the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.house.test_documents import KNOWN
from tests.shapes import wrong
from understudy import errors
from understudy.command.root import root
from understudy.command.shapes import FORMAT, NO_SHAPE, SHAPES, of, text

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "json.md").read_text(encoding="utf-8")
COMMANDS = {" ".join(path) for path in KNOWN if not any(path == other[: len(path)] != other for other in KNOWN)}


def test_the_schema_is_fresh_and_is_one():
    made = subprocess.run(
        [sys.executable, "-m", "understudy.command.shapes"], capture_output=True, text=True, check=True
    )
    assert (DOCS / "output.schema.json").read_text(encoding="utf-8") == made.stdout == text()
    schema = json.loads(made.stdout)
    Draft202012Validator.check_schema(schema)
    assert f"urn:understudy:output:{FORMAT}" == schema["$id"]


def test_every_command_has_a_shape_or_a_reason_to_have_none():
    assert COMMANDS == {*SHAPES, *NO_SHAPE}
    assert all(NO_SHAPE.values())


def test_every_definition_is_found_by_its_anchor_and_by_the_whole():
    schema = json.loads((DOCS / "output.schema.json").read_text(encoding="utf-8"))
    for command in ("error", *SHAPES):
        anchor = command.replace(" ", "-")
        assert {"$ref": f"#{anchor}"} in schema["anyOf"]
        assert anchor == schema["$defs"][command]["$anchor"]
    value = {"error": {"code": 3, "kind": "config", "message": "m", "hint": "", "next": ""}}
    assert Draft202012Validator(schema).is_valid(value)
    assert not Draft202012Validator(schema).is_valid("a sentence")


def test_the_published_schema_lets_fields_be_added_and_the_one_of_the_tests_does_not():
    value = {"service": "s", "epoch": 1, "active": "home", "url": "file:///r", "new": 1}
    assert Draft202012Validator(of("register init")).is_valid(value)
    assert wrong("register init", value)


def test_the_page_names_every_command():
    told = set(re.findall(r"`([a-z]+(?: [a-z]+)?)`", PAGE.partition("## Results")[2]))
    assert set() == COMMANDS - told


def test_the_page_names_every_kind_of_error_beside_its_exit_code():
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (.*) \|$", PAGE, re.MULTILINE)
    told = {(int(code), kind) for code, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert {(each.exit_code, each.kind) for each in classes} | {(2, "usage"), (130, "interrupted")} == told
    for code in re.findall(r"(\d+) [a-z]", str(root.help).partition("Exit codes:")[2]):
        assert code in {row[0] for row in rows}


def test_the_pages_error_is_what_is_printed():
    shown = json.loads(PAGE.partition("```json\n")[2].partition("```")[0])
    command = [sys.executable, "-m", "understudy", "-c", "/absent.yaml", "--json", "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (shown, 3, "") == (json.loads(done.stdout), done.returncode, done.stderr)


VALUES = {
    "status": ({"rows": [{"component": "training", "verdict": "MISSED"}, {"verdict": "ok"}]}, "training: MISSED\n"),
    "failover plan": (
        {"gates": [{"name": "fence", "verdict": "refused", "sentence": "no"}, {"verdict": "ok"}]},
        "fence: no\n",
    ),
    "artifacts push": ([{"bytes_sent": 3}, {"bytes_sent": 4}], '{\n  "versions": 2,\n  "sent": 7\n}\n'),
}


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not on this machine")
@pytest.mark.parametrize("command", VALUES)
def test_the_pages_lines_of_jq_read_what_is_printed(command):
    value, expected = VALUES[command]
    (script,) = re.findall(rf"^understudy --json {command} \| jq (-r )?'(.*)'$", PAGE, re.MULTILINE)
    done = subprocess.run(
        ["jq", *script[0].split(), script[1]], input=json.dumps(value), capture_output=True, text=True, check=True
    )
    assert expected == done.stdout
    definitions = json.dumps(of(command))
    for field in re.findall(r"\.([a-z_]+)", script[1]):
        assert f'"{field}"' in definitions
