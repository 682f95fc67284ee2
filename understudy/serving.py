"""What comes after a site's pointer has moved: its CDN fetches the new files, and its instances load them.

Both are best effort. What is served was proven before; here it is only made quick, and timed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from understudy import __version__
from understudy.errors import Unreachable
from understudy.report import human_bytes, human_seconds
from understudy.threads import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from understudy.artifacts.pointer import Pointer, ServedFile
    from understudy.settings import Serving, SiteRole, Traffic

logger = logging.getLogger("understudy.serving")

_READ_BYTES = 1 << 20
_SILENT_SECONDS_MAX = 30.0
_ASK_AGAIN_SECONDS = 0.25
#: Of URLs that failed, so many are named.
_NAMED_MAX = 3
#: What CDNs say of an answer, by their header: CloudFront, Fastly, Akamai; Cloudflare; nginx and Google's usual one.
_CACHE_HEADERS = ("X-Cache", "CF-Cache-Status", "X-Cache-Status", "Cdn-Cache-Status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """What asking a CDN for the new files gave.

    Attributes:
        urls: asked for to the end, with the right length and, where the file was asked for whole or piece by piece in
            its order, the right SHA-256.
        wanted: there were so many.
        bytes_read: through the CDN.
        hits: of the requests, so many were answered from a cache; the header says so.
        misses: so many were not.
        failed: sentences, the first few.
        seconds: wall time.
    """

    urls: int
    wanted: int
    bytes_read: int
    hits: int
    misses: int
    failed: tuple[str, ...]
    seconds: float

    @property
    def sentence(self) -> str:
        """As a person reads it."""
        told = f"{self.hits} hit, {self.misses} miss" if self.hits or self.misses else "hits not said"
        wrong = f"; {self.failed[0]}" if self.failed else ""
        return (
            f"warmed {self.urls} of {self.wanted} URLs, {human_bytes(self.bytes_read)} in "
            f"{human_seconds(self.seconds)} ({told}){wrong}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"failed": list(self.failed)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """How long a site's instances took to answer with a new version, from the moment its pointer moved.

    Attributes:
        version: that was waited for.
        seconds: until they did; how long it was waited for where they did not.
        done: whether they did.
        own_seconds: what the service itself says that loading took; None where it does not.
    """

    version: str
    seconds: float
    done: bool
    own_seconds: float | None = None

    @property
    def sentence(self) -> str:
        """As a person reads it."""
        if not self.done:
            return f"{self.version} not loaded after {human_seconds(self.seconds)}"
        own = f" ({human_seconds(self.own_seconds)} by its own clock)" if self.own_seconds is not None else ""
        return f"loaded in {human_seconds(self.seconds)}{own}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


# ---------------------------------------------------------------------- the CDN


def warm_urls(patterns: Sequence[str], pointer: Pointer) -> list[tuple[str, ServedFile]]:
    """Return the URL of every served file under every pattern. Pure."""
    return [
        (
            pattern.replace("{path}", quote(file.key))
            .replace("{file}", quote(file.path))
            .replace("{model}", quote(pointer.model))
            .replace("{version}", quote(pointer.version)),
            file,
        )
        for pattern in patterns
        for file in pointer.files
    ]


def warm(settings: Serving, pointer: Pointer) -> Warmed:
    """Ask for every served file through the CDN, within the limits of the config. Never raises for what it answers.

    Args:
        settings: which URLs, in what pieces, and how much of it all.
        pointer: what is served now.
    """
    started = time.monotonic()
    wanted = warm_urls(settings.warm, pointer)
    run = _Warming(settings, deadline=started + settings.warm_for.total_seconds())
    with ThreadPool(settings.at_once, thread_name_prefix="warm") as pool:
        done = sum(pool.map(run.fetch, wanted))
    found = Warmed(
        urls=done,
        wanted=len(wanted),
        bytes_read=run.bytes_read,
        hits=run.hits,
        misses=run.misses,
        failed=tuple(run.failed),
        seconds=time.monotonic() - started,
    )
    logger.info("%s %s: %s", pointer.model, pointer.version, found.sentence)
    return found


class _Spent(Exception):
    """The time or the bytes that warming may take are used up."""


@dataclass(slots=True)
class _Warming:
    settings: Serving
    deadline: float
    bytes_read: int = 0
    hits: int = 0
    misses: int = 0
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self, wanted: tuple[str, ServedFile]) -> bool:
        """Read one URL to its end; return whether it gave the file."""
        url, file = wanted
        digest, length = hashlib.sha256(), 0
        try:
            for part in self._parts(url, file.size):
                digest.update(part)
                length += len(part)
        except _Spent as reason:
            self._fail(f"{url} was left out: {reason}")
            return False
        except urllib.error.HTTPError as error:
            self._fail(f"{url} answers {error.code}")
            return False
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._fail(f"{url} was not read to its end: {type(error).__name__}")
            return False
        if (length, digest.hexdigest()) != (file.size, file.sha256):
            self._fail(f"{url} gives other bytes than {file.key}: purge it from the cache")
            return False
        return True

    def _parts(self, url: str, size: int) -> Iterator[bytes]:
        piece = self.settings.piece
        if piece is None or size <= piece:
            yield from self._read(url, None)
            return
        for start in range(0, size, piece):
            yield from self._read(url, (start, min(start + piece, size) - 1))

    def _read(self, url: str, span: tuple[int, int] | None) -> Iterator[bytes]:
        headers = {"User-Agent": f"understudy/{__version__}", "Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1]}"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the config takes http and https alone
        with urllib.request.urlopen(request, timeout=self._left()) as answer:  # noqa: S310 - as above
            if span is not None and answer.status != http.client.PARTIAL_CONTENT:
                raise http.client.HTTPException
            self._count(answer.headers.get_all)
            while part := answer.read(_READ_BYTES):
                with self._lock:
                    self.bytes_read += len(part)
                self._left()
                yield part

    def _left(self) -> float:
        """Return how long the next answer may take. Raises _Spent."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _Spent(f"more than {human_seconds(self.settings.warm_for.total_seconds())}")
        if self.bytes_read >= self.settings.warm_bytes:
            raise _Spent(f"more than {human_bytes(self.settings.warm_bytes)}")
        return min(left, _SILENT_SECONDS_MAX)

    def _count(self, header: Callable[[str], list[str] | None]) -> None:
        hit = was_hit(header)
        with self._lock:
            self.hits += hit is True
            self.misses += hit is False

    def _fail(self, words: str) -> None:
        logger.warning("%s", words)
        with self._lock:
            if len(self.failed) < _NAMED_MAX:
                self.failed.append(words)


def was_hit(header: Callable[[str], list[str] | None]) -> bool | None:
    """Return whether an answer came from a cache, by what its headers say; None when they do not.

    Args:
        header: from a header's name to its values, None where it is absent.
    """
    for name in _CACHE_HEADERS:
        # Of several caches in a row the last one speaks for what is nearest to the client.
        for said in reversed(header(name) or []):
            words = said.upper().rpartition(",")[2]
            if "HIT" in words:
                return True
            if "MISS" in words or "EXPIRED" in words or "BYPASS" in words or "DYNAMIC" in words:
                return False
    ages = [age.strip() for age in header("Age") or []]
    return int(ages[-1]) > 0 if ages and ages[-1].isascii() and ages[-1].isdecimal() else None


# ---------------------------------------------------------------------- the instances


def await_loaded(
    settings: Serving, *, version: str, digest: str, moved: float, ask: Callable[[], str]
) -> Loaded | None:
    """Ask a site's instances until they answer with the version that is served there now.

    Args:
        settings: which field of the answer names the version, and how long to wait.
        version: of the model; its digest is taken too.
        digest: of the model's files.
        moved: when the pointer moved, by ``time.monotonic``.
        ask: returns the text that the health check answers, whatever its status. Raises Unreachable.

    Returns:
        How long it took; None where the config names no field.
    """
    if settings.loaded is None:
        return None
    until = moved + settings.loaded_for.total_seconds()
    while True:
        try:
            said = _json(ask())
        except Unreachable:
            said = None
        waited = time.monotonic() - moved
        if _field(said, settings.loaded) in (version, digest):
            own = _field(said, settings.load_seconds) if settings.load_seconds else None
            seconds = float(own) if isinstance(own, (int, float)) and not isinstance(own, bool) else None
            return Loaded(version=version, seconds=round(waited, 3), done=True, own_seconds=seconds)
        if time.monotonic() >= until:
            return Loaded(version=version, seconds=round(waited, 3), done=False)
        time.sleep(_ASK_AGAIN_SECONDS)


def health_of(traffic: Traffic, role: SiteRole, path: str) -> Callable[[], str]:
    """Return what asks the health check of a site's load balancer. It raises Unreachable."""
    from understudy.settings import split_url
    from understudy.traffic.watch import Client

    client = Client(split_url(traffic.url)[2], traffic.port, scheme=traffic.scheme)
    return lambda: client.call(traffic.addresses[role], path).body


def _json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text)
    except ValueError:
        return None


def _field(value: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def sentences(parts: Iterable[Warmed | Loaded | None]) -> str:
    """Return what is added to a report's sentence: each part after a semicolon."""
    return "".join(f"; {part.sentence}" for part in parts if part is not None)
