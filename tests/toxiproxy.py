"""Toxiproxy, as a test uses it: a proxy before a server, and what goes wrong in it.

https://github.com/Shopify/toxiproxy#toxics. A toxic holds for each connection, also for those that are open already.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from sandbox.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
_SECONDS = 10


class Proxy:
    """One proxy. ``url`` is where clients go.

    Args:
        api: of the Toxiproxy server.
        upstream: the URL that is behind it.
    """

    def __init__(self, api: str, upstream: str) -> None:
        port = free_port(HOST)
        self.url = f"http://{HOST}:{port}"
        self._api = api
        self._name = f"proxy-{port}"
        proxy = {"name": self._name, "listen": f"{HOST}:{port}", "upstream": urlsplit(upstream).netloc, "enabled": True}
        self._ask("POST", "/proxies", proxy)

    def poison(
        self,
        kind: str,
        *,
        stream: Literal["upstream", "downstream"] = "downstream",
        share: float = 1.0,
        **attributes: int,
    ) -> None:
        """Add a toxic, by Toxiproxy's own names, to a share of connections; ``upstream`` is what the client sends."""
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "toxicity": share}
        self._ask("POST", f"/proxies/{self._name}/toxics", {**toxic, "attributes": attributes})

    def down(self) -> None:
        """Close all connections and refuse new ones."""
        self._ask("POST", f"/proxies/{self._name}", {"enabled": False})

    def heal(self) -> None:
        """Take all toxics away, and listen again."""
        for toxic in json.loads(self._ask("GET", f"/proxies/{self._name}/toxics")):
            self._ask("DELETE", f"/proxies/{self._name}/toxics/{toxic['name']}")
        self._ask("POST", f"/proxies/{self._name}", {"enabled": True})

    def close(self) -> None:
        """Take the proxy away."""
        self._ask("DELETE", f"/proxies/{self._name}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        # A browser's name is refused there, and so is none; any other will do.
        headers = {"Content-Type": "application/json", "User-Agent": "understudy-tests"}
        request = urllib.request.Request(f"{self._api}{path}", data, headers, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - loopback
            body: bytes = answer.read()
            return body


@contextlib.contextmanager
def proxied(api: str, upstream: str) -> Iterator[Proxy]:
    """Give a proxy before a server, and take it away."""
    proxy = Proxy(api, upstream)
    try:
        yield proxy
    finally:
        proxy.close()
