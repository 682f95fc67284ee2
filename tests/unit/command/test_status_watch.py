from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from tests.unit.example import example
from understudy.command.completion import SHELLS, script
from understudy.command.screen import Screen
from understudy.command.status import watch_status
from understudy.errors import Unreachable
from understudy.status import Status

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)


def status(epoch):
    return Status(
        service="recommender", active="a", active_role="home", standby="b", epoch=epoch, writes=True, holder="",
        set_sentence="set 1", held=(), protected=True, at=NOW, rows=(),
    )  # fmt: skip


def test_a_watch_shows_each_look_and_outlives_an_outage(capsys):
    looks = iter([status(6), Unreachable("the register does not answer"), status(7)])

    def look():
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    watch_status(look, Screen(as_json=False, quiet=False), iter([None] * 3))
    shown = capsys.readouterr()
    assert ["epoch 6", "epoch 7"] == [line.split("  ")[3] for line in shown.out.splitlines() if "ACTIVE" in line]
    assert "the register does not answer\n" == shown.err


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_that_asks_this_command(shell):
    text = script(shell)
    assert f"_UNDERSTUDY_COMPLETE={shell}_complete" in text
    assert text.startswith(f"# understudy completion {shell} > ")


def test_bash_reads_the_completion_script():
    done = subprocess.run(["bash", "-n"], input=script("bash"), capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("words", "count", "expected"),
    [
        ("understudy failo", 1, ["plain,failover"]),
        ("understudy -c {config} vectors export p", 5, ["plain,products"]),
        ("understudy -c /absent.yaml vectors export p", 5, []),
    ],
)
def test_what_is_completed(tmp_path, words, count, expected):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(example()), encoding="utf-8")
    words = words.format(config=config)
    environment = {"_UNDERSTUDY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    code = "from understudy.command.root import root; root.main(args=[], prog_name='understudy')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert expected == done.stdout.split()
