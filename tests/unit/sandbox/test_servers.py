"""The verbs of the real servers' scripts, over Redis, which starts at once, and over installations that go wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sandbox.servers import redis, versitygw
from sandbox.servers.server import MISSING, MissingTool, NotInstallable, Running, ensure, installed, run

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

ROOT = Path(__file__).parents[3]


@pytest.fixture
def call(tmp_path):
    """Return what runs a verb as a user types it, with a folder of its own for what runs; all is stopped in the end."""
    environment = {**os.environ, "UNDERSTUDY_SERVERS_STATE": str(tmp_path / "state")}

    def do(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environment | more, capture_output=True, text=True, check=False, timeout=60
        )

    yield do
    Running(redis.SERVER, tmp_path / "state").stop()


def ask(url: str, command: bytes) -> bytes:
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5) as line:
        line.sendall(command + b"\r\n")
        return line.recv(100)


def url_in(text: str) -> str:
    found = re.search(r"^UNDERSTUDY_REDIS=(redis://127\.0\.0\.1:\d+/0)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_a_server_is_started_once_asked_emptied_and_stopped(call, tmp_path):
    script = "sandbox.servers.redis"
    assert 1 == call(script, "status").returncode
    first = call(script, "start")
    url = url_in(first.stdout)
    assert (0, first.stdout) == (first.returncode, (tmp_path / "state" / "redis" / "env").read_text())
    assert b"+OK\r\n" == ask(url, b"SET k v")  # it outlives the command that started it
    second = call(script, "start")
    assert (0, first.stdout) == (second.returncode, second.stdout)
    assert b"$1\r\nv\r\n" == ask(url, b"GET k")
    asked = call(script, "status")
    assert (0, first.stdout) == (asked.returncode, asked.stdout)
    reset = call(script, "reset")
    assert (0, first.stdout) == (reset.returncode, reset.stdout)
    assert b"$-1\r\n" == ask(url, b"GET k")
    assert (0, "redis: stopped\n") == ((stopped := call(script, "stop")).returncode, stopped.stderr)
    with pytest.raises(ConnectionRefusedError):
        ask(url, b"PING")
    assert (1, "") == ((asked := call(script, "status")).returncode, asked.stdout)
    assert (0, "redis: was not running\n") == ((again := call(script, "stop")).returncode, again.stderr)


def test_a_server_that_was_killed_does_not_run_and_starts_again(call, tmp_path):
    call("sandbox.servers", "start", "redis")
    pid = int(re.search(r'"pid": (\d+)', (tmp_path / "state" / "redis" / "process.json").read_text())[1])
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while call("sandbox.servers", "status", "redis").returncode == 0 and time.monotonic() < deadline:
        pass
    assert 1 == call("sandbox.servers", "status", "redis").returncode
    assert b"+PONG\r\n" == ask(url_in(call("sandbox.servers", "start", "redis").stdout), b"PING")


def test_two_starts_at_once_are_one(call):
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: call("sandbox.servers.redis", "start").stdout, range(3)))
    assert 1 == len({url_in(answer) for answer in answers})


def test_a_command_runs_among_servers_of_its_own_that_end_with_it(call, tmp_path):
    (tmp_path / "empty").mkdir()
    show = (
        "import os; print(os.environ['UNDERSTUDY_REDIS'], os.environ.get('UNDERSTUDY_VERSITYGW')); raise SystemExit(3)"
    )
    done = call(
        *("sandbox.servers", "run", "--", sys.executable, "-c", show),
        UNDERSTUDY_SERVERS=str(tmp_path / "none"),
        PATH=str(tmp_path / "empty"),
    )
    assert 3 == done.returncode, done.stderr
    url, other = done.stdout.split()
    assert "None" == other
    assert "versitygw: Go is missing: install it from https://go.dev/dl/" in done.stderr
    with pytest.raises(ConnectionRefusedError):
        ask(url, b"PING")
    assert [] == list((tmp_path / "state").iterdir())


@pytest.mark.parametrize(
    ("name", "present", "sentence"),
    [
        ("versitygw", (), "versitygw: Go is missing: install it from https://go.dev/dl/"),
        ("dynamodb", (), "dynamodb: Java is missing: install a JRE of version 17 or later"),
        ("dynamodb", ("java",), "dynamodb: Maven is missing: install it (apt-get install maven)"),
    ],
)
def test_a_missing_tool_is_one_sentence_and_an_exit_code_of_its_own(call, tmp_path, name, present, sentence):
    (tmp_path / "bin").mkdir()
    for tool in present:
        (tmp_path / "bin" / tool).symlink_to("/bin/true")
    alone = {"UNDERSTUDY_SERVERS": str(tmp_path / "none"), "PATH": str(tmp_path / "bin")}
    done = call(f"sandbox.servers.{name}", "start", **alone)
    assert (MISSING, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(sentence)
    assert 1 == done.stderr.count("\n")
    required = call("sandbox.servers", "run", "--", "/bin/true", **alone, REQUIRE_SERVERS="1")
    assert MISSING == required.returncode
    assert "Go is missing" in required.stderr


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for installations."""
    monkeypatch.setenv("UNDERSTUDY_SERVERS", str(tmp_path))
    return tmp_path


def fill(folder: Path) -> None:
    (folder / "versitygw").write_text("whole")


def test_an_installation_that_failed_or_was_killed_is_never_taken_for_whole(place):
    def half(folder: Path) -> None:
        (folder / "versitygw").write_text("half")
        run(["false"], folder)

    server = replace(versitygw.SERVER, install=half, tools=())
    with pytest.raises(NotInstallable, match="false failed"):
        ensure(server)
    assert not installed(server)
    killed = place / f".{server.home.name}.new-killed"  # what SIGKILL leaves
    killed.mkdir()
    fill(killed)
    assert not installed(server)
    assert "whole" == (ensure(replace(server, install=fill)) / "versitygw").read_text()
    assert {f".{server.home.name}.lock", server.home.name} == {path.name for path in place.iterdir()}


@pytest.mark.usefixtures("place")
def test_two_installations_at_once_are_one():
    made = []

    def slow(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)
        fill(folder)

    server = replace(versitygw.SERVER, install=slow, tools=())
    start = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: (start.wait(), ensure(server)), range(3)))
    assert 1 == len(made)


@pytest.mark.usefixtures("place")
def test_an_installation_without_its_program_is_refused():
    with pytest.raises(NotInstallable, match="without its versitygw"):
        ensure(replace(versitygw.SERVER, install=lambda _: None, tools=()))


def test_what_is_installed_needs_no_tool_that_only_builds_it(place, monkeypatch):
    versitygw.SERVER.home.mkdir()
    fill(versitygw.SERVER.home)
    monkeypatch.setenv("PATH", str(place))
    assert versitygw.SERVER.home == ensure(versitygw.SERVER)
    (versitygw.SERVER.home / "versitygw").unlink()
    with pytest.raises(MissingTool, match="Go is missing"):
        ensure(versitygw.SERVER)
