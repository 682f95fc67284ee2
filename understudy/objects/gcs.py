"""Google Cloud Storage as an object store: ``gs://bucket/prefix``, by the JSON API.

https://cloud.google.com/storage/docs/json_api/v1. Generations are tokens and versions at once; every write is one
request with ``ifGenerationMatch`` and the CRC32C of its bytes. (The XML API's multipart honours no precondition.)
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import google_crc32c
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError, SSLError

from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    NotFound,
    Permanent,
    Throttled,
    Transient,
    UnderstudyError,
    Unreachable,
)
from understudy.objects.attempts import CutShort, NeverSent, persist, persist_write
from understudy.objects.interface import Abilities, ObjectInfo
from understudy.objects.parts import exactly, regroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from understudy.clouds.gcp import Answer, StorageClient

_FIELDS = "name,size,generation,timeCreated,crc32c"
_PAGE_MAX = 1000
_CHUNK_BYTES = 8 << 20  # a multiple of 256 KiB, as the API wants
_RESUME_TRIES = 4
_RESUME_WAIT_SECONDS = 0.25
_OK = (200, 201, 204, 206)
_INCOMPLETE = 308


class GcsStore:
    """A bucket, or a prefix of one.

    Args:
        bucket: the bucket's name.
        prefix: what every key is below, such as ``models/``; empty is the whole bucket.
        client: see ``understudy.clouds.gcp.storage_client``.
        page_max: rows asked for in one page of a listing.
    """

    def __init__(self, bucket: str, prefix: str = "", *, client: StorageClient, page_max: int = _PAGE_MAX) -> None:
        """Name the place; nothing is asked yet."""
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.url = f"gs://{bucket}/{self._prefix}".rstrip("/")
        self._bucket = bucket
        self._client = client
        self._page_max = page_max
        self._objects = f"/storage/v1/b/{quote(bucket, safe='')}/o"
        self._abilities: Abilities | None = None

    @property
    def abilities(self) -> Abilities:
        """What this bucket can do; asks it once whether it keeps versions."""
        if self._abilities is None:
            path = f"/storage/v1/b/{quote(self._bucket, safe='')}?fields=versioning"
            answer = persist(lambda: self._ask("GET", path, what="the bucket"))
            versioned = bool(json.loads(answer.body).get("versioning", {}).get("enabled"))
            self._abilities = Abilities(versions=versioned, lists_crc32c=True)
        return self._abilities

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with prefix, sorted, each with its generation and CRC32C."""
        token: str | None = None
        while True:
            query = {"prefix": self._prefix + prefix, "maxResults": self._page_max}
            path = f"{self._objects}?{urlencode(query)}&fields=nextPageToken,items({_FIELDS})"
            page = self._page(path + (f"&pageToken={quote(token, safe='')}" if token else ""))
            for row in page.get("items", ()):
                if row["name"] != self._prefix:
                    yield self._info(row)
            token = page.get("nextPageToken")
            if not token:
                return

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Do the same as ``list``, whose rows carry their generation here."""
        return self.list(prefix)

    def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound."""
        return self._info(self._page(f"{self._path(key)}?fields={_FIELDS}", key))

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """Return all bytes, of that generation if given. Raises NotFound, Corrupt."""
        path = self._media(key, version)
        return persist(lambda: self._ask("GET", path, what=key)).body

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound, Corrupt."""
        if not length:
            if start > self.head(key).size and version is None:
                raise self._too_short(key, start)
            return b""
        path = self._media(key, version)
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        answer = persist(lambda: self._ask("GET", path, headers, what=key))
        whole = answer.status != 206
        body = answer.body[start : start + length] if whole else answer.body
        if len(body) != length:
            raise self._too_short(key, start + length)
        return body

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write only if nothing is there. Raises Conflict."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Write only if the key's generation is ``expected``. Raises Conflict."""
        if expected == "0" or (expected is not None and not expected.isdecimal()):
            message = f"{key} in {self.url} was changed"
            raise Conflict(message)
        return persist_write(
            lambda: self._insert(key, data, expected or "0"), lambda: self._look(key, data, expected=expected)
        )

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write without a condition."""
        return persist(lambda: self._insert(key, data, None))

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts by a resumable upload, 16 MiB in memory. Raises Corrupt when they do not add up."""
        upload: _Upload | None = None
        chunks = regroup(exactly(parts, size, key), _CHUNK_BYTES)
        try:
            chunk = next(chunks)
            for following in chunks:
                upload = upload or self._start_upload(key, size)
                upload.send(chunk)
                chunk = following
            return self.put(key, chunk) if upload is None else self._info(upload.finish(chunk))
        except BaseException:
            if upload is not None:
                upload.cancel()
            raise

    def delete(self, key: str) -> None:
        """Remove the object; not an error when it is not there. Where the bucket keeps versions it becomes one."""
        try:
            persist(lambda: self._ask("DELETE", self._path(key), what=key))
        except _NoSuchObject:
            return

    def now(self) -> datetime:
        """Return the clock of Google's front end, to a second."""
        answer = persist(lambda: self._ask("GET", f"{self._objects}?maxResults=1&fields=kind", what="the bucket"))
        return _date(answer)

    # -- private -------------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return f"{self._objects}/{quote(self._prefix + key, safe='')}"

    def _media(self, key: str, version: str | None) -> str:
        if version is not None and not version.isdecimal():
            message = f"version {version} of {key} is not in {self.url}"
            raise NotFound(message)
        return f"{self._path(key)}?alt=media" + (f"&generation={version}" if version else "")

    def _info(self, row: dict[str, Any]) -> ObjectInfo:
        modified = datetime.fromisoformat(row["timeCreated"])
        generation = str(row["generation"])
        key = row["name"][len(self._prefix) :]
        return ObjectInfo(key, int(row["size"]), generation, generation, modified, row.get("crc32c"))

    def _page(self, path: str, what: str = "the listing") -> dict[str, Any]:
        value: dict[str, Any] = json.loads(persist(lambda: self._ask("GET", path, what=what)).body)
        return value

    def _insert(self, key: str, data: bytes, generation: str | None) -> ObjectInfo:
        boundary = secrets.token_hex(16)
        meta = {"name": self._prefix + key, "crc32c": _crc32c(google_crc32c.value(data))}
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(meta)}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/related; boundary={boundary}",
            "Content-Length": str(len(head) + len(data) + len(tail)),
        }
        condition = f"&ifGenerationMatch={generation}" if generation is not None else ""
        path = f"/upload{self._objects}?uploadType=multipart&fields={_FIELDS}{condition}"
        answer = self._ask("POST", path, headers, (head, data, tail), what=key)
        return self._info(json.loads(answer.body))

    def _look(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Describe the object if it holds these bytes and was written meanwhile; see ``persist_write``."""
        found = self.head(key)
        if found.token == expected:
            message = f"{key} in {self.url} is as it was"
            raise NotFound(message)
        if found.size == len(data) and self.get(key, version=found.version) == data:
            return found
        message = f"{key} in {self.url} holds what another wrote"
        raise Conflict(message)

    def _start_upload(self, key: str, size: int) -> _Upload:
        body = json.dumps({"name": self._prefix + key}).encode()
        headers = {"Content-Type": "application/json; charset=UTF-8", "X-Upload-Content-Length": str(size)}
        path = f"/upload{self._objects}?uploadType=resumable&fields={_FIELDS}"
        answer = persist(lambda: self._ask("POST", path, headers, body, what=key))
        return _Upload(self, key, answer.headers["Location"], size)

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | Sequence[bytes] | None = None,
        *,
        what: str,
    ) -> Answer:
        """Send one request. Raises what ``_translate`` says for anything but success (308 included)."""
        try:
            answer = self._client.send(method, path, headers or {}, body)
        except HTTPError as error:
            raise _translate(self.url, what, error) from error
        if answer.status in _OK or (answer.status == _INCOMPLETE and method == "PUT"):
            return answer
        raise _translate(self.url, what, answer)

    def _too_short(self, key: str, end: int) -> Corrupt:
        message = f"{key} in {self.url} ends before byte {end}"
        return Corrupt(message, hint="it is shorter than what refers to it says")


class _Upload:
    """One resumable upload: https://cloud.google.com/storage/docs/performing-resumable-uploads."""

    def __init__(self, store: GcsStore, key: str, session: str, size: int) -> None:
        self._store = store
        self._key = key
        self._session = session
        self._size = size
        self._sent = 0
        self._crc = 0

    def send(self, chunk: bytes) -> None:
        """Send a chunk that is not the last one."""
        self._crc = google_crc32c.extend(self._crc, chunk)
        self._deliver(chunk, {})

    def finish(self, chunk: bytes) -> dict[str, Any]:
        """Send the last chunk with the checksum of all, which makes the object visible; return its description."""
        self._crc = google_crc32c.extend(self._crc, chunk)
        answer = self._deliver(chunk, {"X-Goog-Hash": f"crc32c={_crc32c(self._crc)}"})
        if answer is None:
            message = f"the upload of {self._key} to {self._store.url} did not finish"
            raise Unreachable(message, hint="run again")
        row: dict[str, Any] = json.loads(answer.body)
        if row.get("crc32c") not in (None, _crc32c(self._crc)):
            message = f"{self._key} reached {self._store.url} with other bytes than were sent"
            raise Corrupt(message, hint="push it again")
        return row

    def cancel(self) -> None:
        """Give the session up; when that cannot be said now, Google forgets it after a week."""
        try:
            self._store._client.send("DELETE", self._session, {"Content-Length": "0"})  # noqa: SLF001 - one module
        except (HTTPError, UnderstudyError):
            return

    def _deliver(self, chunk: bytes, headers: dict[str, str]) -> Answer | None:
        """Send until the server has the whole chunk; None when it waits for more, its answer when it has all."""
        end = self._sent + len(chunk)
        start = self._sent
        failures = 0
        while True:
            try:
                answer = self._put(chunk[start - self._sent :], start, headers)
            except Transient:
                failures += 1
                if failures >= _RESUME_TRIES:
                    raise
                time.sleep(_RESUME_WAIT_SECONDS * failures)
                answer = persist(self._ask_status)
            if answer.status != _INCOMPLETE:
                return answer
            received = _received(answer)
            failures = 0 if received > start else failures + 1
            if received >= end and end < self._size:
                self._sent = end
                return None
            if failures >= _RESUME_TRIES or received < self._sent:
                message = f"{self._store.url} lost part of the upload of {self._key}"
                raise Unreachable(message, hint="run again")
            start = received

    def _ask_status(self) -> Answer:
        return self._put(b"", 0, {})

    def _put(self, body: bytes, start: int, headers: dict[str, str]) -> Answer:
        span = f"{start}-{start + len(body) - 1}" if body else "*"
        full = {"Content-Range": f"bytes {span}/{self._size}", "Content-Length": str(len(body)), **headers}
        try:
            return self._store._ask("PUT", self._session, full, body, what=self._key)  # noqa: SLF001 - one module
        except NotFound as error:
            message = f"{self._store.url} has forgotten the upload of {self._key}"
            raise Unreachable(message, hint="run again") from error


class _NoSuchObject(NotFound):
    """The bucket is there, the object is not."""


def _translate(url: str, what: str, problem: HTTPError | Answer) -> UnderstudyError:  # noqa: C901, PLR0911 - one list
    """Say in our words what Google or the network answered."""
    if isinstance(problem, (NewConnectionError, ConnectTimeoutError)):
        return NeverSent(f"{url} cannot be reached", hint="look whether the site is up and the endpoint is right")
    if isinstance(problem, SSLError):
        return NeverSent(f"{url} offers no certificate that is trusted here", hint="look at the endpoint and the clock")
    if isinstance(problem, ProtocolError) and any(isinstance(each, IncompleteRead) for each in problem.args):
        return CutShort(f"{what} from {url} ended before its length")
    if isinstance(problem, HTTPError):
        return Unreachable(f"{url} gave no answer about {what}", hint="look whether the site is up")
    said = _said(problem)
    match problem.status:
        case 404 if said.startswith("No such object"):
            return _NoSuchObject(f"{what} is not in {url}")
        case 404 | 410:
            return NotFound(f"{what} is not in {url}: {said}", hint="look at the bucket's name")
        case 412 | 409:
            return Conflict(f"{what} in {url} was there already or was changed")
        case 416:
            return Corrupt(f"{what} in {url} ends before the bytes that were asked for")
        case 401 | 403:
            return Denied(f"{url} does not allow it: {said}", hint="look at the credentials and their roles")
        case 429:
            return Throttled(f"{url} asks for fewer calls", hint="wait, or lower the number of workers")
        case 400 if "doesn't match" in said:
            return Corrupt(f"{what} reached {url} with other bytes than were sent: {said}", hint="run again")
        case status if status >= 500 or status == 408:
            return Unreachable(f"{url} answered {status} about {what}", hint="run again, or look at the status page")
    return Permanent(f"{url} refused {what} ({problem.status}): {said}")


def _said(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.body[:200].decode(errors="replace")


def _received(answer: Answer) -> int:
    """Return how many bytes an unfinished upload has, from ``Range: bytes=0-N``."""
    span = answer.headers.get("Range", "")
    return int(span.rpartition("-")[2]) + 1 if span else 0


def _crc32c(value: int) -> str:
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def _date(answer: Answer) -> datetime:
    return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
