"""Before a DynamoDB server: what DynamoDB does under load, and no test server does by itself.

It speaks the wire, so the vendor's SDK runs above it: calls that are throttled, and batches of which a part comes back
undone. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
"""

from __future__ import annotations

import http.client
import json
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
_UNDONE = {"BatchWriteItem": "UnprocessedItems", "BatchGetItem": "UnprocessedKeys"}


class BusyDynamodb:
    """A proxy before a server, over HTTP.

    Attributes:
        url: where clients connect.
        throttled: names of the calls that are refused now, such as ``PutItem``.
        done_max: calls -> items of a batch that are done; the rest comes back as unprocessed.
        cut: calls -> how many of their next answers come without the last half, and no word of their length.
        crc: whether answers carry the CRC32 of their whole body, as DynamoDB's do.
        refused: how often each call was throttled.
        left: how many items of each call came back undone.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or HOST, parts.port or 80)
        self.throttled: set[str] = set()
        self.done_max: dict[str, int] = {}
        self.cut: Counter[str] = Counter()
        self.crc = True
        self.refused: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Return the status and body of an answer."""
        if call in self.throttled:
            self.refused[call] += 1
            kind = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
            return 400, json.dumps({"__type": kind, "message": "The level of throughput was exceeded"}).encode()
        if call not in self.done_max:
            return self._pass(headers, body)
        request = json.loads(body)
        ((table, wanted),) = request["RequestItems"].items()
        items = wanted if call == "BatchWriteItem" else wanted["Keys"]
        now, later = items[: self.done_max[call]], items[self.done_max[call] :]
        self.left[call] += len(later)
        answer: dict[str, Any] = {"Responses": {table: []}} if call == "BatchGetItem" else {}
        if now:
            request["RequestItems"][table] = now if call == "BatchWriteItem" else {**wanted, "Keys": now}
            status, passed = self._pass(headers, json.dumps(request).encode())
            if status != 200:
                return status, passed
            answer = json.loads(passed)
        undone = later if call == "BatchWriteItem" else {**wanted, "Keys": later}
        answer[_UNDONE[call]] = {table: undone} if later else {}
        return 200, json.dumps(answer).encode()

    def _pass(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=30)
        try:
            kept = {name: value for name, value in headers.items() if name.lower() not in ("content-length", "host")}
            connection.request("POST", "/", body, kept)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        busy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                call = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                status, answer = busy.answer(call, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                if busy.crc:
                    self.send_header("x-amz-crc32", str(zlib.crc32(answer)))
                if busy.cut[call] > 0:
                    busy.cut[call] -= 1
                    answer = answer[: len(answer) // 2]
                    self.close_connection = True  # which ends an answer whose length is not told
                    self.send_header("Connection", "close")
                else:
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler
