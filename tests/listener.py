"""A loopback server that keeps what it is sent: a collector, a dead man's switch or a chat, as the test needs it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Heard:
    """What was sent: (method, path, headers, body) in order; ``status`` and ``delay_seconds`` are how it answers."""

    url: str = ""
    calls: list = field(default_factory=list)
    status: int = 200
    delay_seconds: float = 0.0

    def bodies(self):
        return [body for _, _, _, body in self.calls]


@contextmanager
def listening():
    """Listen on a free port of 127.0.0.1."""
    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def _hear(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            heard.calls.append((self.command, self.path, dict(self.headers), body))
            time.sleep(heard.delay_seconds)
            self.send_response(heard.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = _hear  # noqa: N815 - the library's names

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    heard.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        server.server_close()
