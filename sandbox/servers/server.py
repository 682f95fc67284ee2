"""Servers that nobody here wrote, for the contracts: installed once, started on loopback, the same verbs for each.

``python -m sandbox.servers.NAME start|stop|status|reset`` for one, ``python -m sandbox.servers VERB [NAME ...]`` for
several:

- ``start`` installs the pinned version if it is not there, starts it, waits until it answers and prints the
  ``NAME=value`` lines that a client needs (kept in ``.servers/NAME/env`` too). A second start prints the same lines.
- ``stop`` ends it, by its pid, and whatever it started. Stopping what does not run is no error.
- ``status`` prints whether it runs; exit code 0 when it does, 1 when not.
- ``reset`` empties its data; a server that ran runs again afterwards, on the same port.

What is installed lies in ``${UNDERSTUDY_SERVERS:-~/.cache/understudy/servers}/NAME-VERSION/``, and what runs in
``${UNDERSTUDY_SERVERS_STATE:-.servers}/NAME/``. An installation is made in a folder beside and renamed when it is
whole, under a lock, so a killed one is never taken for whole and two at once make one.

Exit codes: 0 done, 1 not running or not startable, 2 usage, 9 something that it is built or run with is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.process import ServerDidNotStart, down, free_port, keep_running, launch, marked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HOST = "127.0.0.1"
MISSING = 9
VERBS = ("start", "stop", "status", "reset")
INSTALL_SECONDS_MAX = 1800
_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 10.0

_HOW_TO_GET = {
    "go": "Go is missing: install it from https://go.dev/dl/ (or apt-get install golang) and put it on the PATH",
    "java": "Java is missing: install a JRE of version 17 or later (apt-get install openjdk-17-jre-headless)",
    "mvn": "Maven is missing: install it (apt-get install maven)",
}


class MissingTool(RuntimeError):
    """What a server is built or run with is not on this machine; the message says what, and how to get it."""


class NotInstallable(RuntimeError):
    """An installation failed; the message shows the end of what it said."""


@dataclass(frozen=True)
class Place:
    """Where one server is and runs.

    Attributes:
        home: its installation, ``NAME-VERSION``; missing for a server that comes in a Python package.
        data: its data; made before it starts, emptied by ``reset``.
        port: on 127.0.0.1.
    """

    home: Path
    data: Path
    port: int


@dataclass(frozen=True)
class Server:
    """One server: how to install, start and ask it.

    Attributes:
        name: as in ``python -m sandbox.servers.NAME``.
        version: pinned; part of the installation's folder.
        tools: programs that the installation needs, in the order in which they are asked for.
        runs_with: programs that it needs while it runs.
        install: fills an empty folder; None when the server comes in a Python package of the lock file.
        program: the file below the installation that is there when it is whole.
        folder: what the installation's folder is called before its version; empty: the name.
        command: the program and its arguments.
        ready: asked until it says yes.
        variables: what a client needs.
        environment: added to the server's own environment.
        provided: raises MissingTool when the Python package is missing.
    """

    name: str
    version: str
    command: Callable[[Place], Sequence[str | os.PathLike[str]]]
    ready: Callable[[Place], bool]
    variables: Callable[[Place], Mapping[str, str]]
    tools: tuple[str, ...] = ()
    runs_with: tuple[str, ...] = ()
    install: Callable[[Path], None] | None = None
    program: str = ""
    folder: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    provided: Callable[[], None] = lambda: None

    @property
    def home(self) -> Path:
        """The folder of the installation."""
        return cache() / f"{self.folder or self.name}-{self.version}"


def cache() -> Path:
    """Return the folder of all installations."""
    return Path(os.environ.get("UNDERSTUDY_SERVERS") or Path.home() / ".cache" / "understudy" / "servers").absolute()


def state() -> Path:
    """Return the folder of what runs."""
    default = Path(__file__).parents[2] / ".servers"
    return Path(os.environ.get("UNDERSTUDY_SERVERS_STATE") or default).absolute()


# -- installing --------------------------------------------------------------------------------------------------------


def need(*tools: str) -> None:
    """Raise MissingTool for the first of these programs that is not on the PATH."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise MissingTool(_HOW_TO_GET[tool])


def installed(server: Server) -> bool:
    """Whether it could start without being installed first."""
    return server.install is None or (server.home / server.program).is_file()


def ensure(server: Server, say: Callable[[str], None] = lambda _: None) -> Path:
    """Install the server unless it is there, and return its folder.

    Raises:
        MissingTool: a program or a package that it needs is missing.
        NotInstallable: the installation failed.
    """
    server.provided()
    need(*server.runs_with)
    if server.install is None or installed(server):
        return server.home
    need(*server.tools)
    cache().mkdir(parents=True, exist_ok=True)
    with _locked(cache() / f".{server.home.name}.lock"):
        if installed(server):  # another process made it meanwhile
            return server.home
        for left in cache().glob(f".{server.home.name}.new-*"):
            shutil.rmtree(left, ignore_errors=True)  # of an installation that was killed; we hold the lock
        fresh = Path(tempfile.mkdtemp(prefix=f".{server.home.name}.new-", dir=cache()))
        say(f"{server.name}: installing {server.version}, which may take minutes the first time")
        started = time.monotonic()
        try:
            server.install(fresh)
            if not (fresh / server.program).is_file():
                message = f"{server.name} {server.version} was installed without its {server.program}"
                raise NotInstallable(message)
            fresh.chmod(0o755)
            shutil.rmtree(server.home, ignore_errors=True)  # without its program it is not whole
            fresh.rename(server.home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        say(f"{server.name}: installed in {time.monotonic() - started:.0f} s")
    return server.home


def go_install(module: str, version: str) -> Callable[[Path], None]:
    """Return what builds a Go program into a folder: ``go install MODULE@VERSION``."""

    def install(folder: Path) -> None:
        # Built for this machine: GOBIN refuses a cross-compiled one.
        run(["go", "install", f"{module}@{version}"], folder, {"GOBIN": str(folder), "GOFLAGS": "-trimpath"})

    return install


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run one step of an installation in a folder. Raises NotInstallable with the end of what it said."""
    said = folder / "install.log"
    with said.open("ab") as log:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                timeout=INSTALL_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"{' '.join(command[:3])} took longer than {INSTALL_SECONDS_MAX} s"
            raise NotInstallable(message) from error
    if done.returncode:
        end = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        message = f"{' '.join(command[:3])} failed:\n    " + "\n    ".join(end)
        raise NotInstallable(message)


# -- running -----------------------------------------------------------------------------------------------------------


class Running:
    """One server's folder of state: ``env``, ``process.json``, ``log`` and ``data``."""

    def __init__(self, server: Server, below: Path | None = None) -> None:
        """Name the folder; nothing is made yet."""
        self.server = server
        self.folder = (below or state()) / server.name
        self._process = self.folder / "process.json"

    def variables(self) -> dict[str, str] | None:
        """Return what a client needs, None when the server does not run."""
        found = self._state()
        return found["variables"] if found else None

    def start(self, say: Callable[[str], None] = lambda _: None) -> dict[str, str]:
        """Start it unless it runs, and return what a client needs. It dies with this process, see sandbox.process.

        Raises:
            MissingTool, NotInstallable: it could not be installed.
            ServerDidNotStart: it ended, or did not answer in time.
        """
        home = ensure(self.server, say)
        with self._held():
            found = self._state()
            return found["variables"] if found else self._launch(home, None)

    def stop(self) -> bool:
        """End it and return whether it ran."""
        if not self.folder.exists():
            return False
        with self._held():
            return self._end()

    def reset(self) -> dict[str, str] | None:
        """Empty its data; start it again on the same port, and return what a client needs, if it ran."""
        if not self.folder.exists():
            return None
        with self._held():
            found = self._state()
            self._end()
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            return self._launch(ensure(self.server), found["port"]) if found else None

    def _launch(self, home: Path, port: int | None) -> dict[str, str]:
        place = Place(home, self.folder / "data", port or free_port(HOST))
        place.data.mkdir(parents=True, exist_ok=True)
        process = launch(
            self.server.command(place),
            name=self.server.name,
            log=self.folder / "log",
            ready=lambda: self.server.ready(place),
            timeout=_START_SECONDS_MAX,
            env=self.server.environment,
            cwd=self.folder,
        )
        variables = dict(self.server.variables(place))
        found = {"mark": process.mark, "pid": process.pid, "port": place.port, "variables": variables}
        _write(self.folder / "env", "".join(f"{name}={value}\n" for name, value in variables.items()))
        _write(self._process, json.dumps(found) + "\n")
        return variables

    def _end(self) -> bool:
        found = self._state()
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found["pid"], signal.SIGTERM)  # its mark is still there, so the pid is still its own
            deadline = time.monotonic() + _STOP_SECONDS_MAX
            while found["pid"] in marked(found["mark"]) and time.monotonic() < deadline:
                time.sleep(0.05)
        down(self._process)
        (self.folder / "env").unlink(missing_ok=True)
        return found is not None

    def _state(self) -> dict | None:  # type: ignore[type-arg]
        try:
            found: dict = json.loads(self._process.read_text(encoding="utf-8"))  # type: ignore[type-arg]
        except (FileNotFoundError, ValueError):
            return None
        return found if found["pid"] in marked(found["mark"]) else None

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / "lock"):
            yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # goes with the process that holds it, however it ends
        yield


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.touch(mode=0o600)  # keys of a loopback server, and still nobody else's
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def answers(port: int, path: str = "/") -> bool:
    """Whether an HTTP server answers there, whatever it says; for ``ready``."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


# -- the command -------------------------------------------------------------------------------------------------------


def main(servers: Mapping[str, Server], arguments: Sequence[str] | None = None, *, program: str) -> int:
    """Read the command line, do the verb to one server or several, and return the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description="A server for the contracts.")
    parser.add_argument("verb", choices=VERBS)
    if len(servers) > 1:
        parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(servers)}; default all")
    chosen = parser.parse_args(arguments)
    names = getattr(chosen, "names", None) or list(servers)
    if unknown := [name for name in names if name not in servers]:
        parser.error(f"{', '.join(unknown)} is not among {', '.join(servers)}")
    codes = [_do(chosen.verb, Running(servers[name])) for name in names]
    if chosen.verb in ("start", "reset"):
        keep_running()
    return max(codes)


def _do(verb: str, running: Running) -> int:
    name = running.server.name
    try:
        match verb:
            case "start":
                show(running.start(_say))
            case "reset":
                variables = running.reset()
                show(variables or {})
                _say(f"{name}: emptied" + ("" if variables else ", not running"))
            case "stop":
                _say(f"{name}: {'stopped' if running.stop() else 'was not running'}")
            case "status":
                variables = running.variables()
                show(variables or {})
                _say(f"{name}: {'running' if variables else 'not running'}")
                return 0 if variables else 1
    except MissingTool as error:
        _say(f"{name}: {error}")
        return MISSING
    except (NotInstallable, ServerDidNotStart) as error:
        _say(str(error))
        return 1
    return 0


def show(variables: Mapping[str, str]) -> None:
    """Print ``NAME=value`` lines, for ``eval`` or a file of variables."""
    for name, value in variables.items():
        print(f"{name}={value}", flush=True)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
