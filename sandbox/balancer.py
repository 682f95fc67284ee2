"""A load balancer for the sandbox: an HTTP/1.1 reverse proxy, round robin over the backends of a JSON file.

The file holds ``["127.0.0.3:8001", ...]`` and is read again when it changes. A backend that refuses the connection is
passed over for the next one; when none answers, the client gets 503. Connections are kept alive on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from pathlib import Path

_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 60.0
_HEAD_BYTES_MAX = 65_536
_BODY_BYTES_MAX = 16_000_000
_IDLE_MAX = 64
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})


class Balancer:
    """The backends and the idle connections to them."""

    def __init__(self, targets: Path) -> None:
        self._targets = targets
        self._stamp: tuple[int, int, int] | None = None
        self._backends: list[str] = []
        self._turn = 0
        self._idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    def backends(self) -> list[str]:
        """Return all backends, the one whose turn it is first."""
        with contextlib.suppress(OSError, ValueError):
            stat = self._targets.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._backends = [str(each) for each in json.loads(self._targets.read_text(encoding="utf-8"))]
                self._stamp = stamp
                for gone in set(self._idle) - set(self._backends):
                    for _, writer in self._idle.pop(gone):
                        writer.close()
        if not self._backends:
            return []
        self._turn = (self._turn + 1) % len(self._backends)
        return self._backends[self._turn :] + self._backends[: self._turn]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client's connection, request after request."""
        try:
            while (request := await _read_message(reader, answer_to=None)) is not None:
                head, body = request
                keep = await self._forward(head, body, writer)
                await writer.drain()
                if not keep or _wants_close(head):
                    break
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _forward(self, head: bytes, body: bytes, client: asyncio.StreamWriter) -> bool:
        """Send a request to the first backend that answers; returns whether the client may go on."""
        method = head.split(b" ", 1)[0]
        message = _without_hops(head) + body
        for backend in self.backends():
            # An idle connection may have been closed meanwhile: then one new one to the same backend.
            for fresh in (False, True):
                connection = await self._connection(backend, fresh=fresh)
                if connection is None:
                    continue
                reader, writer = connection
                sent = False
                try:
                    writer.write(message)
                    await writer.drain()
                    sent = fresh
                    answer = await asyncio.wait_for(_read_message(reader, answer_to=method), _ANSWER_SECONDS)
                except (OSError, EOFError, ValueError, TimeoutError):
                    answer = None
                if answer is None:
                    writer.close()
                    if sent and method not in (b"GET", b"HEAD"):
                        client.write(_plain(502, "the backend broke off"))  # it may have done it: never twice
                        return True
                    continue
                reply, content = answer
                if _wants_close(reply):
                    writer.close()
                else:
                    self._keep(backend, connection)
                client.write(reply + content)
                return not _wants_close(reply)
        client.write(_plain(503, "no backend answers"))
        return True

    async def _connection(
        self, backend: str, *, fresh: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if not fresh:
            idle = self._idle.get(backend)
            return idle.pop() if idle else None
        host, _, port = backend.rpartition(":")
        try:
            return await asyncio.wait_for(
                asyncio.open_connection(host, int(port), limit=_HEAD_BYTES_MAX), _CONNECT_SECONDS
            )
        except (OSError, TimeoutError):
            return None

    def _keep(self, backend: str, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        idle = self._idle.setdefault(backend, [])
        if len(idle) < _IDLE_MAX:
            idle.append(connection)
        else:
            connection[1].close()


async def _read_message(reader: asyncio.StreamReader, *, answer_to: bytes | None) -> tuple[bytes, bytes] | None:
    """Return a request's or answer's head and body as they came; None at a clean end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    fields = _fields(head)
    if answer_to is not None:
        status = int(head.split(b" ", 2)[1])
        if answer_to == b"HEAD" or status in (204, 304) or status < 200:
            return head, b""
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        return head, await _read_chunks(reader)
    if b"content-length" in fields:
        length = int(fields[b"content-length"])
        if length > _BODY_BYTES_MAX:
            message = f"a body of {length} bytes is more than the sandbox's balancer takes"
            raise ValueError(message)
        return head, await reader.readexactly(length)
    if answer_to is not None:
        return head, await reader.read(_BODY_BYTES_MAX)
    return head, b""


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";", 1)[0], 16)
        parts.append(line)
        if size == 0:
            while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
                parts.append(trailer)
            parts.append(b"\r\n")
            return b"".join(parts)
        parts.append(await reader.readexactly(size + 2))


def _fields(head: bytes) -> dict[bytes, bytes]:
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return fields


def _wants_close(head: bytes) -> bool:
    fields = _fields(head)
    said = fields.get(b"connection", b"").lower()
    if b"close" in said:
        return True
    first = head.split(b"\r\n", 1)[0]
    endless = first.startswith(b"HTTP/") and not {b"content-length", b"transfer-encoding"} & set(fields)
    bodyless = endless and first.split(b" ", 2)[1] in (b"204", b"304")
    return (b"HTTP/1.0" in first and b"keep-alive" not in said) or (endless and not bodyless)


def _without_hops(head: bytes) -> bytes:
    first, *lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in _HOP_BY_HOP]
    return b"\r\n".join([first, *kept]) + b"\r\n\r\n"


def _plain(status: int, text: str) -> bytes:
    reason = {502: "Bad Gateway", 503: "Service Unavailable"}[status]
    body = json.dumps({"error": text}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _serve(host: str, port: int, targets: Path) -> None:
    balancer = Balancer(targets)
    server = await asyncio.start_server(balancer.serve, host, port, limit=_HEAD_BYTES_MAX)
    async with server:
        await server.serve_forever()


def main(arguments: list[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.balancer", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--targets", type=Path, required=True, help="JSON list of host:port")
    given = parser.parse_args(arguments)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(given.host, given.port, given.targets))


if __name__ == "__main__":
    main(sys.argv[1:])
