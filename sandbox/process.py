"""Servers as child processes that never outlive the one who started them.

Every process started here carries a random mark in its environment, and so does all that it starts in turn. Killing
means: every process that carries the mark, however deep and in whatever session. A guard process holds the read end of
a pipe whose other end only the supervisor has; when the supervisor ends, by whatever signal, the pipe closes and the
guard kills what still carries its mark. (PR_SET_PDEATHSIG would do less: it is bound to the parent's thread, is not
inherited by grandchildren, and cannot be taken back for ``KEEP=1``.) The mark is random, so that no innocent process
that was given a recorded pid can be hit.

Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

#: The usual name of the file that ``record`` writes.
STATE = "processes.json"
#: Marks of all supervisors and launches above a process, separated by commas.
VARIABLE = "UNDERSTUDY_SANDBOX_MARKS"
_POLL_SECONDS = 0.03
_KILL_SECONDS = 10.0
_LOG_LINES = 12

_lock = threading.Lock()
_reserved: set[tuple[str, int]] = set()
_guard: tuple[int, str, subprocess.Popen[bytes]] | None = None


class ServerDidNotStart(RuntimeError):
    """A server of the sandbox ended, or did not answer in time; says which and shows the end of its log."""


class Process:
    """One running server.

    Attributes:
        name: what people call it, such as ``home: PostgreSQL``.
        pid: of the process itself; ``kill`` reaches all below it too.
        log: where its output goes.
        mark: what it and all below it carry in their environment.
    """

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, mark: str) -> None:
        """Hold what ``launch`` started."""
        self.name = name
        self.pid = popen.pid
        self.log = log
        self.mark = mark
        self._popen = popen

    def running(self) -> bool:
        """Whether the process itself still lives."""
        return self._popen.poll() is None

    def stop(self, timeout: float = 5.0) -> None:
        """Ask it to end (SIGTERM), wait, then kill whatever is left of it and below it."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self.kill()

    def kill(self) -> int:
        """SIGKILL to it and all that it started, and wait until none is left. Returns how many were killed."""
        killed = kill_marked(self.mark)
        self._popen.wait(_KILL_SECONDS)
        return killed


def free_port(*addresses: str) -> int:
    """Return a port that is free on every one of these addresses (default 127.0.0.1) and not handed out before."""
    wanted = addresses or ("127.0.0.1",)
    for _ in range(1000):
        with socket.socket() as first:
            first.bind((wanted[0], 0))
            port: int = first.getsockname()[1]
        with _lock:
            if any((address, port) in _reserved for address in wanted) or not all(_is_free(a, port) for a in wanted):
                continue
            _reserved.update((address, port) for address in wanted)
            return port
    message = f"no port is free on {', '.join(wanted)}"
    raise ServerDidNotStart(message)


def _is_free(address: str, port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def listens(address: str, port: int) -> bool:
    """Whether something accepts TCP connections there; for ``ready``."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def launch(
    command: Sequence[str | os.PathLike[str]],
    *,
    name: str,
    log: Path,
    ready: Callable[[], bool],
    timeout: float = 30.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    group: str = "",
) -> Process:
    """Start a server in a session of its own and wait until it is ready. May be called from any thread.

    Ctrl-C in the terminal does not reach it: the supervisor decides. It dies with the supervisor, see the module.

    Args:
        command: program and arguments.
        name: what people call it, for errors.
        log: file that gets its output, appended; its directory is made.
        ready: asked every 30 ms; exceptions count as no.
        timeout: seconds until it is killed and ServerDidNotStart is raised.
        env: variables added to this process's own.
        cwd: its working directory.
        group: a mark that it shares with others, for ``kill_marked``.

    Raises:
        ServerDidNotStart: it ended or did not answer in time; the error shows the end of its log.
    """
    owner = owner_mark()
    mark = secrets.token_hex(8)
    inherited = [part for part in os.environ.get(VARIABLE, "").split(",") if part]
    marks = ",".join(part for part in [*inherited, owner, group, mark] if part)
    variables = {"PYTHONUNBUFFERED": "1", **os.environ, **(env or {}), VARIABLE: marks}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            popen = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            message = f"{name} could not be started: {error}"
            raise ServerDidNotStart(message) from error
    process = Process(name, popen, log, mark)
    try:
        _await(process, ready, timeout)
    except BaseException:
        process.kill()
        raise
    return process


def _await(process: Process, ready: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        if not process.running():
            status = process._popen.returncode  # noqa: SLF001 - the same module
            how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            message = f"{process.name} ended while starting ({how})"
            raise ServerDidNotStart(message + tail(process.log))
        with contextlib.suppress(Exception):
            if ready():
                return
        if time.monotonic() > deadline:
            message = f"{process.name} did not answer within {timeout:g} s"
            raise ServerDidNotStart(message + tail(process.log))
        time.sleep(_POLL_SECONDS)


def tail(log: Path, lines: int = _LOG_LINES) -> str:
    """Return the end of a log as it is shown below an error; empty when there is none."""
    try:
        text = log.read_bytes()[-64_000:].decode(errors="replace")
    except OSError:
        return ""
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return "".join(f"\n    {line}" for line in [f"end of {log}:", *last]) if last else f"; its log {log} is empty"


def owner_mark() -> str:
    """Return this process's own mark, starting its guard at the first call."""
    global _guard  # noqa: PLW0603 - one guard a process
    with _lock:
        if _guard is None or _guard[0] != os.getpid():  # a forked child is not its parent
            mark = secrets.token_hex(8)
            popen = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, "guard", mark],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _guard = (os.getpid(), mark, popen)
        return _guard[1]


def keep_running() -> None:
    """Let all that this process started outlive it (``KEEP=1``); ``record`` first, so that ``down`` can end it."""
    owner_mark()
    guard = _guard
    if guard is not None and guard[2].stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            guard[2].stdin.write(b"keep\n")
            guard[2].stdin.flush()
        guard[2].wait(_KILL_SECONDS)


def record(state: Path, processes: Sequence[Process]) -> None:
    """Write what runs to a state file, whole or not at all, for ``down``."""
    state.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "mark": owner_mark(),
        "supervisor": os.getpid(),
        "processes": [{"name": each.name, "pid": each.pid, "log": str(each.log)} for each in processes],
    }
    temporary = state.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(state)


def down(state: Path) -> int:
    """Kill all that a state file's owner started and that still runs, remove the file, return how many it were.

    Args:
        state: the file, or the directory that it lies in under its usual name.
    """
    if state.is_dir():
        state /= STATE
    try:
        mark = str(json.loads(state.read_text(encoding="utf-8"))["mark"])
    except (FileNotFoundError, ValueError, KeyError):
        return 0
    killed = kill_marked(mark)
    state.unlink(missing_ok=True)
    return killed


def marked(mark: str) -> list[int]:
    """Return the pids of all processes that carry a mark, and of their children; this one and zombies excepted.

    Children are found by their parent too: PostgreSQL runs as another user, whose environment may not be readable.
    """
    wanted = mark.encode()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            state, parent = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()[:2]
            if state in (b"Z", b"X"):
                continue
            children.setdefault(int(parent), []).append(pid)
            for pair in _read(f"/proc/{pid}/environ").split(b"\0"):
                name, _, value = pair.partition(b"=")
                if name == VARIABLE.encode() and wanted in value.split(b","):
                    found.add(pid)
    below = list(found)
    while below:
        for child in children.get(below.pop(), []):
            if child not in found:
                found.add(child)
                below.append(child)
    return sorted(found)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - hundreds of times a call
        return file.read()


def kill_marked(mark: str) -> int:
    """SIGKILL every process that carries a mark, again until none is left. Returns how many it were."""
    killed: set[int] = set()
    deadline = time.monotonic() + _KILL_SECONDS
    while (alive := marked(mark)) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.005)
    return len(killed)


def _stand_guard(mark: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = sys.stdin.buffer.read(4)  # returns at the end of the supervisor, or when told to keep
    if told != b"keep":
        kill_marked(mark)


if __name__ == "__main__" and sys.argv[1:2] == ["guard"]:
    _stand_guard(sys.argv[2])
