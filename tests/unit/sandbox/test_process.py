"""The sandbox's servers never outlive the one who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from sandbox import process

if TYPE_CHECKING:
    from pathlib import Path

SLEEPER = """import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)
print('ready', flush=True)
time.sleep(60)
"""


def says_ready(log: Path) -> bool:
    """Whether the sleeper has started its own child."""
    return "ready" in log.read_text()


def test_kill_reaches_a_grandchild_in_another_session(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = process.launch([sys.executable, "-c", SLEEPER], name="sleeper", log=log, ready=lambda: says_ready(log))
    assert 2 == len(process.marked(server.mark))
    assert 2 == server.kill()
    assert [] == process.marked(server.mark)
    assert not server.running()


def test_stop_asks_first(tmp_path: Path) -> None:
    code = """import signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print('asked'), sys.exit(0)))
print('ready', flush=True)
signal.pause()
"""
    log = tmp_path / "log"
    server = process.launch([sys.executable, "-c", code], name="polite", log=log, ready=lambda: says_ready(log))
    server.stop()
    assert "asked" in log.read_text()


def test_a_server_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(
        process.ServerDidNotStart, match=r"(?s)home: S3 ended while starting \(exit status 3\).*no luck"
    ):
        process.launch(
            [sys.executable, "-c", "print('no luck'); raise SystemExit(3)"],
            name="home: S3",
            log=tmp_path / "log",
            ready=lambda: False,
        )


def test_a_server_that_does_not_answer_is_named_and_killed(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(process.ServerDidNotStart, match=r"away: GCS did not answer within 0.3 s"):
        process.launch(["sleep", "60"], name="away: GCS", log=tmp_path / "log", ready=lambda: False, timeout=0.3)
    assert time.monotonic() - started < 5


def supervise(tmp_path: Path, then: str) -> tuple[subprocess.Popen[bytes], str, Path]:
    """Start a supervisor that launches the sleeper, records it, and does something; returns its mark."""
    state, log = tmp_path / "state.json", tmp_path / "log"
    code = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from sandbox import process
        log = Path({str(log)!r})
        server = process.launch([sys.executable, "-c", {SLEEPER!r}], name="sleeper", log=log,
                                ready=lambda: "ready" in log.read_text())
        process.record(Path({str(state)!r}), [server])
        {then}
    """)
    supervisor = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 20
    while not state.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return supervisor, __import__("json").loads(state.read_text())["mark"], state


def gone(mark: str, seconds: float = 5.0) -> bool:
    """Whether nothing carries the mark, waiting a little."""
    deadline = time.monotonic() + seconds
    while process.marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    supervisor, mark, _ = supervise(tmp_path, "time.sleep(60)")
    assert 2 == len(process.marked(mark))
    os.killpg(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    assert gone(mark)


def test_nothing_is_left_when_the_supervisor_just_ends(tmp_path: Path) -> None:
    supervisor, mark, _ = supervise(tmp_path, "pass")
    supervisor.wait(10)
    assert gone(mark)


def test_what_is_kept_runs_until_down(tmp_path: Path) -> None:
    supervisor, mark, state = supervise(tmp_path, "process.keep_running()")
    supervisor.wait(10)
    time.sleep(0.2)
    assert 2 == len(process.marked(mark))
    assert 2 == process.down(state)
    assert gone(mark)
    assert 0 == process.down(state)


def test_a_port_is_handed_out_once_and_is_free_on_every_address() -> None:
    ports = [process.free_port("127.0.0.11", "127.0.0.12") for _ in range(20)]
    assert 20 == len(set(ports))
