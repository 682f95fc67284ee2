"""``--json``: every command's real output is one JSON value on stdout, of the documented shape; errors too.

What holds each value to docs/output.schema.json is tests/shapes.py, around every test.
"""

from __future__ import annotations

import json
import logging

import click
import pytest
import yaml

from tests.shapes import wrong
from tests.unit.command.test_contents import world
from tests.unit.command.test_failover_command import folder
from tests.unit.command.test_kit import write_kit
from tests.unit.failover.test_abort import stop_at
from tests.vector_sites import make_rows, make_site
from understudy import errors
from understudy.command.root import Context, root, run
from understudy.command.screen import Screen
from understudy.command.shapes import SHAPES
from understudy.features.memory import MemoryFeatures
from understudy.service import Service
from understudy.vault.keys import write_private_key

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

__all__ = ["folder", "world"]

#: A command line each, over the world of folders, in an order in which each has something to show. ``{}`` is the world.
LINES = {
    "vault sign": "vault sign --yes",
    "config check": "config check --offline",
    "config schema": "config schema",
    "register init": "-c {}/other.yaml register init",
    "init": "-c {}/fresh/production.yaml init --from aws --to gcp",
    "iam": "iam",
    "vault keygen": "vault keygen --out {}/key.pem",
    "artifacts push": "artifacts push",
    "artifacts list": "artifacts list",
    "artifacts show": "artifacts show m 2",
    "artifacts tag": "artifacts tag m 1 audit",
    "artifacts diff": "artifacts diff m 1 2",
    "artifacts pull": "artifacts pull m 1 --to {}/pulled",
    "artifacts hydrate": "artifacts hydrate",
    "artifacts verify": "artifacts verify",
    "vectors export": "-c {}/index.yaml vectors export",
    "vectors list": "vectors list",
    "vectors show": "vectors show",
    "vectors diff": "vectors diff products 1 1",
    "vectors pull": "vectors pull --to {}/pulled",
    "vectors rebuild": "-c {}/index.yaml vectors rebuild",
    "vectors verify": "-c {}/index.yaml vectors verify",
    "features push": "features push",
    "features list": "features list",
    "features show": "features show",
    "features diff": "features diff user_features 1 1",
    "features pull": "features pull --to {}/pulled",
    "features rebuild": "features rebuild",
    "features verify": "features verify",
    "vault stat": "vault stat",
    "vault prune": "vault prune",
    "vault verify": "vault verify --deep",
    "vault compare": "vault compare away away",
    "metrics": "metrics",
    "status": "status",
    "debug bundle": "debug bundle --out {}/bundle.tar.gz",
    "kit check": "kit check {}/kit.tar --quick",
}
#: Of these the values come from the world in which a failover can run, below.
FAILOVERS = {
    "failover plan",
    "failover run",
    "failover status",
    "failover hold",
    "failover release",
    "failover abort",
    "report",
}
#: What is not run here, and why. Its reports are written by the same line as those of the others.
NOT_RUN = {
    "vault rekey": "asks for a vault that is encrypted: tests/unit/command/test_encrypted_vault.py",
    "kit build": "gathers wheels from the package index; its value is that of kit check without what ran",
    "features retire": "wants a log whose writer is long silent; the drill of a lost writer runs it",
}


@pytest.fixture
def lines(request, monkeypatch):
    """The world of folders, with an index and an online store in memory; call it to run a command line."""
    place = request.getfixturevalue("world")
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    document = yaml.safe_load((place / "c.yaml").read_text(encoding="utf-8"))
    document["components"]["feature_store"]["pairs"][0]["offline"] = f"file://{place}/lake"
    signing = {"sign_with": f"file:{place}/signing.pem", "trust": [write_private_key(f"{place}/signing.pem")]}
    document["vault"] |= signing
    (place / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (place / "other").mkdir()
    (place / "other.yaml").write_text(
        yaml.safe_dump(document | {"register": {"url": f"file://{place}/other"}}), encoding="utf-8"
    )
    del document["components"]["training"]
    (place / "index.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    sites = {role: make_site("memory", lambda: "") for role in ("home", "away")}
    sites["home"].create(make_rows(20))
    online = {role: MemoryFeatures() for role in ("home", "away")}
    monkeypatch.setattr(Service, "index", lambda _self, _pair, role: sites[role].store)
    monkeypatch.setattr(Service, "online", lambda _self, _pair, role: online[role])
    monkeypatch.chdir(place)
    write_kit(place / "kit.tar", (place / "c.yaml").read_bytes())

    def call(words):
        chosen = words.format(place).split()
        config = [] if chosen[0] == "-c" else ["-c", str(place / "c.yaml")]
        return run([*config, "--json", *chosen])

    return call


@pytest.fixture
def printed(capsys, monkeypatch):
    """Return the exit code and the one JSON value of a command line; nothing may stand on stderr."""
    # A failover that another test of this process left part way may still warn from its thread.
    monkeypatch.setattr(logging.getLogger("understudy.failover"), "disabled", True)

    def call(*arguments):
        code = run(["--json", *arguments])
        shown = capsys.readouterr()
        assert "" == shown.err
        return code, json.loads(shown.out)

    return call


def test_every_command_has_a_line_here_or_a_reason():
    assert set(SHAPES) == {*LINES, *FAILOVERS, *NOT_RUN}


def test_every_command_prints_one_value_of_its_documented_shape(lines, capsys):
    failed = {}
    for command, words in LINES.items():
        code = lines(words)
        shown = capsys.readouterr()
        value = json.loads(shown.out) if shown.out else None
        if code not in {0, 5 if command == "status" else 0} or not value or shown.err or "error" in value:
            failed[command] = (code, value, shown.err)
    assert {} == failed


def test_the_status_shows_a_hold_and_how_to_lift_it(lines, capsys):
    assert 0 == lines("failover hold --reason INC-4711")
    capsys.readouterr()
    assert 5 == lines("status")
    shown = json.loads(capsys.readouterr().out)
    assert ("INC-4711", "understudy failover release") == (shown["hold"]["reason"], shown["next"])


def test_a_failover_prints_its_plan_its_outcome_its_orders_and_its_report(request, printed, tmp_path):
    request.getfixturevalue("folder")
    assert "nothing" == printed("failover", "abort", "--yes", "--reason", "x")[1]["verdict"]
    assert "held" == printed("failover", "hold", "--reason", "x")[1]["verdict"]
    code, refused = printed("failover", "plan")  # a refused plan is a plan, with exit code 4
    assert (4, "refused") == (code, next(gate["verdict"] for gate in refused["gates"] if gate["name"] == "hold"))
    assert "x" == printed("failover", "release")[1]["hold"]["reason"]
    assert None is printed("failover", "release")[1]["hold"]
    code, plan = printed("failover", "plan")
    assert (0, 6) == (code, len(plan["id"]))
    code, outcome = printed("failover", "run", plan["id"], "--yes")
    assert (0, "done", "understudy report 7") == (code, outcome["verdict"], outcome["next"])
    assert 7 == printed("failover", "status")[1]["epoch"]
    assert {"format": 1, "verdict": "done"}.items() <= printed("report")[1].items()
    assert "html" == printed("report", "--format", "html")[1]["format"]
    assert "done" == printed("report", "7", "--out", str(tmp_path / "page.md"))[1]["verdict"]
    code, refused = printed("failover", "abort", "--yes", "--reason", "x")
    assert (4, "refused") == (code, refused["error"]["kind"])


def test_an_abort_prints_what_it_undid(request, printed):
    stop_at(request.getfixturevalue("folder"), "resize-4")
    assert printed("failover", "status")[1]["held_by"]
    code, outcome = printed("failover", "abort", "--yes", "--reason", "false alarm")
    assert (0, "aborted", "understudy failover plan") == (code, outcome["verdict"], outcome["next"])


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("-c", "/absent.yaml", "status"), 3, "config"),
        (("fly",), 2, "usage"),
        (("artifacts",), 2, "usage"),
        (("artifacts", "push", "--fast"), 2, "usage"),
    ],
    ids=str,
)
def test_an_error_is_an_object_on_stdout_and_its_code_is_the_exit_code(printed, arguments, code, kind):
    exit_code, value = printed(*arguments)
    assert (code, code, kind) == (exit_code, value["error"]["code"], value["error"]["kind"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort, ZeroDivisionError])
def test_an_interrupt_and_a_defect_are_objects_too(printed, monkeypatch, stop):
    def stopped(**_):
        raise stop

    monkeypatch.setattr(root, "main", stopped)
    code, value = printed("status")
    expected = (1, "error") if stop is ZeroDivisionError else (130, "interrupted")
    assert (*expected, expected[0]) == (value["error"]["code"], value["error"]["kind"], code)


def test_every_error_of_the_product_is_an_object_of_the_documented_shape(capsys):
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(classes) > 10
    for each in classes:
        Screen(as_json=True, quiet=False).error(each("no", hint="yes", next_command="understudy status"))
        value = json.loads(capsys.readouterr().out)
        assert (each.kind, [], "understudy status") == (
            value["error"]["kind"], wrong("error", value), value["error"]["next"],
        )  # fmt: skip


def test_what_is_not_as_documented_is_seen(json_as_documented, capsys):
    """The check around every test can fail: on a field that is missing, one that is new, and one of another kind."""
    good = {"service": "s", "epoch": 1, "active": "home", "url": "file:///r"}
    screen = Screen(as_json=True, quiet=False)
    register = root.get_command(click.Context(root), "register")
    top = click.Context(root, info_name="understudy", obj=Context(screen, None))
    group = click.Context(register, info_name="register", parent=top)
    with click.Context(register.commands["init"], info_name="init", parent=group):
        screen.result(good, [])
        assert [] == json_as_documented
        for bad in (good | {"new": 1}, good | {"epoch": "1"}, {"service": "s"}, [good]):
            screen.result(bad, [])
    assert ["register init $: Additional properties are not allowed ('new' was unexpected)"] == json_as_documented[:1]
    assert "register init $.epoch: '1' is not of type 'integer'" in json_as_documented
    assert len(json_as_documented) > 4
    json_as_documented.clear()
    capsys.readouterr()
