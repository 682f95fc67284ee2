"""A Google Cloud Storage sandbox: the JSON API over plain files, with generations and preconditions that are enforced.

``python -m sandbox.gcs_server --host 127.0.0.3 --port 4443 --data DIR``

What it speaks: buckets (insert, get, list, patch, delete), objects (insert by media, multipart and resumable upload,
get, ranged and conditional reads, list with prefix, delimiter, pages and versions, patch, delete, rewrite, copy),
``ifGenerationMatch``, ``ifGenerationNotMatch``, ``ifMetagenerationMatch``, old generations where the bucket keeps
versions, CRC32C and MD5 computed here and a client's wrong one refused. ``fields`` is ignored, any token is accepted.
What it cannot prove: permissions, quotas, throttling, encryption, compose, retention, the XML and gRPC APIs.

Layout below the data directory, for whoever wants to break something from outside::

    <bucket>/bucket.json
    <bucket>/objects/<name>/<generation>.data      the object's bytes, plain
    <bucket>/objects/<name>/<generation>.json      what a metadata answer says about them
    <bucket>/uploads/                              unfinished uploads

``<name>`` is the object's name percent-encoded whole (``/`` is ``%2F``); one longer than a file name may be is ``@``
and the SHA-256 of the name. ``data_file`` finds the live one. Files are read at each request: a flipped byte is served
as it is, under the checksum of what was uploaded; a missing or shortened file is missing (404) or short.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger("sandbox.gcs")

_PIECE = 1 << 20
_CHUNK_UNIT = 256 * 1024
_LINE_BYTES = 1 << 16
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
#: Of a body that comes in chunks: what is longer lies in a file meanwhile.
_SPOOLED_BYTES = 32 << 20
_PAGE_MAX = 1000
_FILE_NAME_MAX = 200
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Query = dict[str, str]
Meta = dict[str, Any]


class Refusal(Exception):
    """An answer that is an error, in Google's form."""

    def __init__(self, status: int, reason: str, message: str, location: str = "") -> None:
        """Keep what the JSON error body says."""
        super().__init__(message)
        self.status = status
        entry = {"message": message, "domain": "global", "reason": reason}
        if location:
            entry |= {"locationType": "header" if location == "If-Match" else "parameter", "location": location}
        self.body = {"error": {"code": status, "message": message, "errors": [entry]}}


def _not_found(what: str) -> Refusal:
    return Refusal(
        404, "notFound", f"No such object: {what}" if "/" in what else "The specified bucket does not exist."
    )


def _condition_failed() -> Refusal:
    message = "At least one of the pre-conditions you specified did not hold."
    return Refusal(412, "conditionNotMet", message, "If-Match")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _file_name(name: str) -> str:
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= _FILE_NAME_MAX else "@" + hashlib.sha256(name.encode()).hexdigest()


def data_file(data: Path, bucket: str, name: str) -> Path:
    """Return the file that holds an object's live bytes. Raises FileNotFoundError when there is none."""
    folder = data / bucket / "objects" / _file_name(name)
    for path in sorted(folder.glob("*.data"), key=lambda found: int(found.stem), reverse=True):
        meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if "timeDeleted" not in meta:
            return path
    message = f"no live object {name} in {bucket}"
    raise FileNotFoundError(message)


class _Digests:
    """CRC32C and MD5 of what passed by, in the forms in which Google writes them."""

    def __init__(self) -> None:
        self.size = 0
        self._crc = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._crc = google_crc32c.extend(self._crc, data)
        self._md5.update(data)

    @property
    def crc32c(self) -> str:
        return base64.b64encode(self._crc.to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str:
        return base64.b64encode(self._md5.digest()).decode()

    def check(self, claimed: Meta) -> None:
        for key, label, mine in (("crc32c", "CRC32C", self.crc32c), ("md5Hash", "MD5", self.md5)):
            theirs = claimed.get(key)
            if theirs and theirs != mine:
                message = f'Provided {label} hash "{theirs}" doesn\'t match calculated {label} hash "{mine}".'
                raise Refusal(400, "invalid", message)


@dataclass
class _Bucket:
    meta: Meta
    folder: Path
    names: list[str] = field(default_factory=list)
    objects: dict[str, list[Meta]] = field(default_factory=dict)  # oldest first; at most one is not deleted

    @property
    def versioned(self) -> bool:
        return bool(self.meta.get("versioning", {}).get("enabled"))

    def path(self, meta: Meta, suffix: str = ".data") -> Path:
        return self.folder / "objects" / _file_name(meta["name"]) / f"{meta['generation']}{suffix}"

    def live(self, name: str) -> Meta | None:
        for meta in reversed(self.objects.get(name, ())):
            if "timeDeleted" not in meta:
                return meta if self.path(meta).exists() else None
        return None

    def find(self, name: str, generation: str | None) -> Meta | None:
        if generation is None:
            return self.live(name)
        for meta in self.objects.get(name, ()):
            if meta["generation"] == generation:
                return meta if self.path(meta).exists() else None
        return None

    def below(self, prefix: str, after: str) -> Iterator[str]:
        start = bisect.bisect_left(self.names, prefix)
        if after:
            start = max(start, bisect.bisect_right(self.names, after))
        for position in range(start, len(self.names)):
            if not self.names[position].startswith(prefix):
                return
            yield self.names[position]


@dataclass
class _Upload:
    """A resumable upload under way, or finished (``done`` is then its answer)."""

    bucket: str
    meta: Meta
    query: Query
    path: Path
    total: int | None
    digests: _Digests = field(default_factory=_Digests)
    done: Meta | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Storage:
    """Buckets on disk, with their listing in memory. Safe to use from many threads."""

    def __init__(self, data: Path) -> None:
        """Open a data directory, reading back what an earlier server left there."""
        self.data = data
        self.lock = threading.RLock()
        self.buckets: dict[str, _Bucket] = {}
        self.uploads: dict[str, _Upload] = {}
        self._last_generation = 0
        data.mkdir(parents=True, exist_ok=True)
        for file in sorted(data.glob("*/bucket.json")):
            self._load(file)

    def _load(self, file: Path) -> None:
        bucket = _Bucket(json.loads(file.read_text(encoding="utf-8")), file.parent)
        shutil.rmtree(file.parent / "uploads", ignore_errors=True)
        for path in (file.parent / "objects").glob("*/*.json"):
            meta = json.loads(path.read_text(encoding="utf-8"))
            bucket.objects.setdefault(meta["name"], []).append(meta)
        for versions in bucket.objects.values():
            versions.sort(key=lambda meta: int(meta["generation"]))
            self._last_generation = max(self._last_generation, int(versions[-1]["generation"]))
        bucket.names = sorted(bucket.objects)
        self.buckets[bucket.meta["name"]] = bucket

    def make_bucket(self, wanted: Meta) -> Meta:
        """Add an empty bucket."""
        name = str(wanted.get("name", ""))
        if not _BUCKET.fullmatch(name):
            raise Refusal(400, "invalid", f"Invalid bucket name: '{name}'")
        with self.lock:
            if name in self.buckets:
                message = "Your previous request to create the named bucket succeeded and you already own it."
                raise Refusal(409, "conflict", message)
            stamp = _now()
            known = {
                "kind": "storage#bucket", "id": name, "projectNumber": "0", "metageneration": "1", "etag": "CAE=",
                "location": "US", "storageClass": "STANDARD", "timeCreated": stamp, "updated": stamp,
            }  # fmt: skip
            bucket = _Bucket({**known, **wanted}, self.data / name)
            self.buckets[name] = bucket
            self._save_bucket(bucket)
            return bucket.meta

    def patch_bucket(self, name: str, changes: Meta) -> Meta:
        """Change a bucket's settings, such as its versioning."""
        with self.lock:
            bucket = self.bucket(name)
            generation = int(bucket.meta["metageneration"]) + 1
            bucket.meta |= {**changes, "name": name, "metageneration": str(generation), "updated": _now()}
            self._save_bucket(bucket)
            return bucket.meta

    def drop_bucket(self, name: str) -> None:
        """Remove an empty bucket."""
        with self.lock:
            bucket = self.bucket(name)
            if bucket.objects:
                raise Refusal(409, "conflict", "The bucket you tried to delete is not empty.")
            del self.buckets[name]
            shutil.rmtree(bucket.folder, ignore_errors=True)

    def _save_bucket(self, bucket: _Bucket) -> None:
        (bucket.folder / "objects").mkdir(parents=True, exist_ok=True)
        (bucket.folder / "bucket.json").write_text(json.dumps(bucket.meta), encoding="utf-8")

    def bucket(self, name: str) -> _Bucket:
        """Return a bucket, or raise the 404."""
        try:
            return self.buckets[name]
        except KeyError:
            raise _not_found(name) from None

    def new_file(self, bucket: _Bucket) -> Path:
        """Return a path for bytes that are still coming in."""
        folder = bucket.folder / "uploads"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / secrets.token_hex(12)

    def check(self, bucket: _Bucket, name: str, query: Query) -> None:
        """Raise the 412 (404 for a missing source) that the query's preconditions ask for."""
        live = bucket.live(name)
        generation = live["generation"] if live else "0"
        if "ifGenerationMatch" in query and query["ifGenerationMatch"] != generation:
            raise _condition_failed()
        if query.get("ifGenerationNotMatch") == generation:
            raise _condition_failed()
        if "ifMetagenerationMatch" in query and (not live or query["ifMetagenerationMatch"] != live["metageneration"]):
            raise _condition_failed()

    def publish(self, name: str, meta: Meta, query: Query, path: Path, digests: _Digests) -> Meta:
        """Make a finished file the live generation of its object, if the preconditions hold at this moment."""
        digests.check(meta)
        with self.lock:
            bucket = self.bucket(name)
            key = meta["name"]
            self.check(bucket, key, query)
            self._last_generation = max(self._last_generation + 1, time.time_ns() // 1000)
            generation, stamp = str(self._last_generation), _now()
            known = {
                "kind": "storage#object", "id": f"{name}/{key}/{generation}", "bucket": name, "generation": generation,
                "metageneration": "1", "contentType": "application/octet-stream", "storageClass": "STANDARD",
                "timeCreated": stamp, "updated": stamp, "timeStorageClassUpdated": stamp, "timeFinalized": stamp,
                "etag": base64.b64encode(generation.encode()).decode(),
            }  # fmt: skip
            own = {"size": str(digests.size), "crc32c": digests.crc32c, "md5Hash": digests.md5}
            full: Meta = {**known, **{k: v for k, v in meta.items() if v is not None}, **own}
            target = bucket.path(full)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            bucket.path(full, ".json").write_text(json.dumps(full), encoding="utf-8")
            self._retire(bucket, key)
            if key not in bucket.objects:
                bisect.insort(bucket.names, key)
            bucket.objects.setdefault(key, []).append(full)
            return full

    def remove(self, name: str, key: str, query: Query) -> None:
        """Delete the live object (kept as noncurrent where the bucket keeps versions), or one generation for good."""
        with self.lock:
            bucket = self.bucket(name)
            self.check(bucket, key, query)
            generation = query.get("generation")
            meta = bucket.find(key, generation)
            if meta is None:
                raise _not_found(f"{name}/{key}")
            if generation is None:
                self._retire(bucket, key)
            else:
                self._forget(bucket, meta)

    def _retire(self, bucket: _Bucket, key: str) -> None:
        for meta in list(bucket.objects.get(key, ())):
            if "timeDeleted" not in meta:
                if bucket.versioned:
                    meta["timeDeleted"] = _now()
                    bucket.path(meta, ".json").write_text(json.dumps(meta), encoding="utf-8")
                else:
                    self._forget(bucket, meta)

    def _forget(self, bucket: _Bucket, meta: Meta) -> None:
        versions = bucket.objects[meta["name"]]
        versions.remove(meta)
        for suffix in (".json", ".data"):
            bucket.path(meta, suffix).unlink(missing_ok=True)
        if not versions:
            del bucket.objects[meta["name"]]
            del bucket.names[bisect.bisect_left(bucket.names, meta["name"])]
            with contextlib.suppress(OSError):
                bucket.path(meta).parent.rmdir()

    def listing(self, name: str, query: Query) -> Meta:
        """Answer objects.list: one page, by name and then by generation."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = base64.urlsafe_b64decode(query["pageToken"]).decode() if query.get("pageToken") else ""
        page = min(int(query.get("maxResults", _PAGE_MAX)) or _PAGE_MAX, _PAGE_MAX)
        first, end = query.get("startOffset", ""), query.get("endOffset")
        folded = after if delimiter and after.endswith(delimiter) else ""
        items: list[Meta] = []
        prefixes: list[str] = []
        token = ""
        with self.lock:
            bucket = self.bucket(name)
            for key in bucket.below(prefix, after):
                if key < first or (folded and key.startswith(folded)):
                    continue
                if end is not None and key >= end:
                    break
                found = self._rows(bucket, key, versions=query.get("versions", "").lower() == "true")
                if not found:
                    continue
                if len(items) + len(prefixes) >= page:
                    answer: Meta = {"nextPageToken": base64.urlsafe_b64encode(token.encode()).decode()}
                    break
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    token = folded = prefix + rest[: rest.index(delimiter) + len(delimiter)]
                    prefixes.append(token)
                else:
                    token = key
                    items += found
            else:
                answer = {}
        answer |= {"kind": "storage#objects"}
        if items:
            answer["items"] = items
        if prefixes:
            answer["prefixes"] = prefixes
        return answer

    def _rows(self, bucket: _Bucket, key: str, *, versions: bool) -> list[Meta]:
        rows = []
        for meta in bucket.objects[key]:
            if not versions and "timeDeleted" in meta:
                continue
            with contextlib.suppress(FileNotFoundError):
                rows.append({**meta, "size": str(bucket.path(meta).stat().st_size)})
        return rows


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    storage: Storage

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "UploadServer"
    sys_version = ""
    disable_nagle_algorithm = True
    rbufsize = 1 << 16
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        _log.debug(format, *args)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self._query: Query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self._left = int(self.headers.get("Content-Length") or 0)
        self._source: IO[bytes] = self.rfile
        with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as whole:
            try:
                if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                    self._left = self._unchunk(whole)
                    self._source = whole
                self._route(parts.path)
            except Refusal as refusal:
                self._drain()
                self._json(refusal.body, refusal.status)

    def _unchunk(self, whole: IO[bytes]) -> int:
        """Read a body that comes in chunks, as Go's client sends those whose length it does not know; return it."""
        while True:
            size = self.rfile.readline(_LINE_BYTES).split(b";")[0].strip()
            if not _CHUNK_SIZE.fullmatch(size):
                self.close_connection = True
                raise Refusal(400, "badContent", "The chunks of the body do not say how long they are.")
            left = int(size, 16)
            if not left:
                while self.rfile.readline(_LINE_BYTES).strip():
                    pass  # headers that follow the body
                length = whole.tell()
                whole.seek(0)
                return length
            while left:
                piece = self.rfile.read(min(_PIECE, left))
                if not piece:
                    self.close_connection = True
                    message = "the client went away in the middle of a body"
                    raise ConnectionResetError(message)
                whole.write(piece)
                left -= len(piece)
            self.rfile.readline(_LINE_BYTES)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815 - the base class's names

    def _route(self, path: str) -> None:
        for pattern, methods in self._ROUTES:
            match = pattern.fullmatch(path)
            if match:
                method = "GET" if self.command == "HEAD" else self.command
                if method not in methods:
                    raise Refusal(405, "methodNotAllowed", "The specified method is not allowed against this resource.")
                methods[method](self, *(unquote(part) for part in match.groups()))
                return
        raise Refusal(404, "notFound", "Not Found")

    # -- reading and answering -------------------------------------------------------------------------------------

    def _pieces(self, count: int) -> Iterator[bytes]:
        while count:
            piece = self._source.read(min(_PIECE, count))
            if not piece:
                self.close_connection = True
                message = "the client went away in the middle of a body"
                raise ConnectionResetError(message)
            self._left -= len(piece)
            count -= len(piece)
            yield piece

    def _body(self) -> bytes:
        return b"".join(self._pieces(self._left))

    def _json_body(self) -> Meta:
        body = self._body()
        if not body:
            return {}
        try:
            value = json.loads(body)
        except ValueError:
            raise Refusal(400, "parseError", "Parse Error") from None
        if not isinstance(value, dict):
            raise Refusal(400, "parseError", "Parse Error")
        return value

    def _drain(self) -> None:
        for _ in self._pieces(self._left):
            pass

    def _head(self, status: int, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(size))

    def _json(self, value: Meta, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value, separators=(",", ":")).encode()
        self._answer(status, body, {"Content-Type": "application/json; charset=UTF-8", **(headers or {})})

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        head_only = self.command == "HEAD" or status == HTTPStatus.NOT_MODIFIED
        buffer: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
        buffer.append(b"\r\n" if head_only else b"\r\n" + body)  # one send for head and body
        self.flush_headers()

    # -- buckets ---------------------------------------------------------------------------------------------------

    def _list_buckets(self) -> None:
        prefix = self._query.get("prefix", "")
        found = [bucket.meta for name, bucket in sorted(self.server.storage.buckets.items()) if name.startswith(prefix)]
        self._json({"kind": "storage#buckets", "items": found})

    def _make_bucket(self) -> None:
        self._json(self.server.storage.make_bucket(self._json_body()))

    def _get_bucket(self, name: str) -> None:
        self._json(self.server.storage.bucket(name).meta)

    def _patch_bucket(self, name: str) -> None:
        self._json(self.server.storage.patch_bucket(name, self._json_body()))

    def _drop_bucket(self, name: str) -> None:
        self.server.storage.drop_bucket(name)
        self._answer(204)

    # -- reading objects -------------------------------------------------------------------------------------------

    def _list_objects(self, bucket: str) -> None:
        self._json(self.server.storage.listing(bucket, self._query))

    def _get_object(self, bucket: str, name: str) -> None:
        storage = self.server.storage
        with storage.lock:
            place = storage.bucket(bucket)
            meta = place.find(name, self._query.get("generation"))
            if meta is None:
                raise _not_found(f"{bucket}/{name}")
            if self._query.get("ifGenerationNotMatch") == meta["generation"]:
                self._answer(304)
                return
            if self._query.get("ifGenerationMatch", meta["generation"]) != meta["generation"]:
                raise _condition_failed()
            path = place.path(meta)
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise _not_found(f"{bucket}/{name}") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            if self._query.get("alt") == "media":
                self._send_file(file.fileno(), size, meta)
            else:
                self._json({**meta, "size": str(size)})

    def _send_file(self, descriptor: int, size: int, meta: Meta) -> None:
        headers = {
            "Content-Type": meta["contentType"], "ETag": meta["etag"], "Accept-Ranges": "bytes",
            "X-Goog-Generation": meta["generation"], "X-Goog-Metageneration": meta["metageneration"],
            "X-Goog-Hash": f"crc32c={meta['crc32c']},md5={meta['md5Hash']}",
            "X-Goog-Stored-Content-Length": str(size), "X-Goog-Stored-Content-Encoding": "identity",
        }  # fmt: skip
        start, end = self._wanted(size)
        if self.headers.get("Range") and (start, end) != (0, size):
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._head(206, end - start, headers)
        else:
            self._head(200, size, headers)
        self.end_headers()
        if self.command == "HEAD":
            return
        while start < end:
            sent = os.sendfile(self.connection.fileno(), descriptor, start, end - start)
            if not sent:  # the file was cut while it was sent
                self.close_connection = True
                return
            start += sent

    def _wanted(self, size: int) -> tuple[int, int]:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not match or match.groups() == ("", ""):
            return 0, size
        start, end = 0, size
        if match[1]:
            start = int(match[1])
            end = min(int(match[2]) + 1, size) if match[2] else size
        else:
            start = max(size - int(match[2]), 0)
        if start >= size:
            raise Refusal(416, "requestedRangeNotSatisfiable", "Request range not satisfiable", "Range")
        return start, end

    def _patch_object(self, bucket: str, name: str) -> None:
        storage, changes = self.server.storage, self._json_body()
        with storage.lock:
            place = storage.bucket(bucket)
            storage.check(place, name, self._query)
            meta = place.find(name, self._query.get("generation"))
            if meta is None:
                raise _not_found(f"{bucket}/{name}")
            allowed = ("metadata", "contentType", "cacheControl", "contentEncoding", "storageClass")
            meta |= {key: changes[key] for key in allowed if key in changes}
            meta |= {"metageneration": str(int(meta["metageneration"]) + 1), "updated": _now()}
            place.path(meta, ".json").write_text(json.dumps(meta), encoding="utf-8")
        self._json(meta)

    def _drop_object(self, bucket: str, name: str) -> None:
        self.server.storage.remove(bucket, name, self._query)
        self._answer(204)

    # -- writing objects -------------------------------------------------------------------------------------------

    def _insert(self, bucket: str) -> None:
        kind = self._query.get("uploadType", "")
        self.server.storage.bucket(bucket)
        if kind == "media":
            meta = {"name": self._query.get("name"), "contentType": self.headers.get("Content-Type")}
            self._insert_body(bucket, meta, lambda: self._pieces(self._left))
        elif kind == "multipart":
            self._insert_multipart(bucket)
        elif kind == "resumable":
            self._start_upload(bucket)
        else:
            raise Refusal(400, "invalid", f"Invalid upload type: '{kind}'", "uploadType")

    def _claimed(self, meta: Meta) -> Meta:
        """Add the checksums that came in headers to what the metadata says."""
        for part in self.headers.get("X-Goog-Hash", "").split(","):
            key, _, value = part.strip().partition("=")
            if key in ("crc32c", "md5"):
                meta["crc32c" if key == "crc32c" else "md5Hash"] = value
        if self.headers.get("Content-MD5"):
            meta["md5Hash"] = self.headers["Content-MD5"]
        if not meta.get("name"):
            meta["name"] = self._query.get("name")
        if not meta["name"]:
            raise Refusal(400, "required", "Required object name", "name")
        return meta

    def _insert_body(self, bucket: str, meta: Meta, pieces: Callable[[], Iterator[bytes]]) -> None:
        storage = self.server.storage
        meta = self._claimed(meta)
        path = storage.new_file(storage.bucket(bucket))
        digests = _Digests()
        try:
            with path.open("wb") as file:
                for piece in pieces():
                    file.write(piece)
                    digests.add(piece)
            answer = storage.publish(bucket, meta, self._query, path, digests)
        finally:
            path.unlink(missing_ok=True)
        self._json(answer)

    def _insert_multipart(self, bucket: str) -> None:
        match = re.search(r'boundary="?([^";]+)', self.headers.get("Content-Type", ""))
        if not match:
            raise Refusal(400, "badContent", "Missing multipart boundary")
        boundary = b"--" + match[1].encode()
        meta, content_type = self._multipart_head(boundary)
        meta.setdefault("contentType", content_type or None)

        def media() -> Iterator[bytes]:
            end = b"\r\n" + boundary + b"--"
            held = b""
            for piece in self._pieces(self._left):
                held += piece
                keep = len(end) + 4
                if len(held) > keep:
                    yield held[:-keep]
                    held = held[-keep:]
            position = held.rfind(end)
            if position < 0:
                raise Refusal(400, "badContent", "Missing end boundary in multipart body.")
            yield held[:position]

        self._insert_body(bucket, meta, media)

    def _multipart_head(self, boundary: bytes) -> tuple[Meta, str]:
        """Read up to the media part; return the metadata part and the media's content type."""
        text, content_type = b"", ""
        for part in range(2):
            line = self._line()
            while line.rstrip() != boundary:
                if part:
                    text += line
                line = self._line()
            while (line := self._line()).rstrip():
                if line.lower().startswith(b"content-type:"):
                    content_type = line.split(b":", 1)[1].strip().decode("latin-1")
        try:
            return json.loads(text), content_type
        except ValueError:
            raise Refusal(400, "parseError", "Parse Error") from None

    def _line(self) -> bytes:
        line = self._source.readline(min(self._left, _LINE_BYTES))
        if not line:
            raise Refusal(400, "badContent", "Missing end boundary in multipart body.")
        self._left -= len(line)
        return line

    def _start_upload(self, bucket: str) -> None:
        storage = self.server.storage
        if self._query.get("upload_id"):  # Go's client sends every part by POST, others only ask by it
            self._continue_upload(bucket)
            return
        meta = self._json_body()
        if self.headers.get("X-Upload-Content-Type"):
            meta.setdefault("contentType", self.headers["X-Upload-Content-Type"])
        meta = self._claimed(meta)
        place = storage.bucket(bucket)
        storage.check(place, meta["name"], self._query)
        declared = self.headers.get("X-Upload-Content-Length")
        path = storage.new_file(place)
        path.touch()
        token = secrets.token_urlsafe(24)
        storage.uploads[token] = _Upload(bucket, meta, self._query, path, int(declared) if declared else None)
        host = self.headers.get("Host") or "{}:{}".format(*self.server.server_address[:2])
        place_url = f"http://{host}/upload/storage/v1/b/{quote(bucket)}/o?uploadType=resumable&upload_id={token}"
        self._answer(200, headers={"Location": place_url, "X-GUploader-UploadID": token})

    def _continue_upload(self, bucket: str) -> None:
        storage = self.server.storage
        upload = storage.uploads.get(self._query.get("upload_id", ""))
        if upload is None or upload.bucket != bucket:
            raise Refusal(404, "notFound", "Not Found")
        with upload.lock:
            if upload.done is not None:
                self._drain()
                self._json(upload.done)
                return
            start, total = self._offsets(upload)
            received = upload.digests.size
            if start > received:
                message = f"Upload offset {start} exceeds already uploaded size of {received} byte(s)."
                raise Refusal(400, "invalid", message)
            if total is None and self._left % _CHUNK_UNIT:
                raise Refusal(400, "invalid", "The size of a chunk must be a multiple of 262144 bytes.")
            self._receive(upload, skip=received - start)
            size = upload.digests.size
            if total is None or size < total:
                headers = {"Range": f"bytes=0-{size - 1}"} if size else {}
                if self.headers.get("X-GUploader-No-308") == "yes":  # Go takes a 308 for a redirection
                    self._answer(200, headers={**headers, "X-HTTP-Status-Code-Override": "308"})
                else:
                    self._answer(308, headers=headers)
                return
            try:
                self._claimed(upload.meta)
                upload.done = storage.publish(bucket, upload.meta, upload.query, upload.path, upload.digests)
            except Refusal:
                self._forget_upload()
                raise
        self._json(upload.done)

    def _offsets(self, upload: _Upload) -> tuple[int, int | None]:
        """Return where this body starts and, when it is known, the size of the whole object."""
        text = self.headers.get("Content-Range")
        if text is None:
            return 0, self._left
        match = _CONTENT_RANGE.fullmatch(text)
        if not match:
            raise Refusal(400, "invalid", f"Failed to parse Content-Range header: {text}")
        total = None if match[3] == "*" else int(match[3])
        if total is not None and upload.total not in (None, total):
            raise Refusal(400, "invalid", f"The upload was declared with {upload.total} bytes, not {total}.")
        if match[1] is None:
            return upload.digests.size, total
        if int(match[2]) - int(match[1]) + 1 != self._left or (total is not None and int(match[2]) >= total):
            raise Refusal(400, "invalid", "Content-Range and Content-Length do not fit.")
        return int(match[1]), total

    def _receive(self, upload: _Upload, *, skip: int) -> None:
        with upload.path.open("ab") as file:
            for piece in self._pieces(self._left):
                fresh = piece[skip:]
                skip = max(skip - len(piece), 0)
                file.write(fresh)
                upload.digests.add(fresh)

    def _forget_upload(self) -> None:
        upload = self.server.storage.uploads.pop(self._query.get("upload_id", ""), None)
        if upload is not None:
            upload.path.unlink(missing_ok=True)

    def _cancel_upload(self, _bucket: str) -> None:
        self._forget_upload()
        self._answer(499)

    def _rewrite(self, bucket: str, name: str, target_bucket: str, target_name: str) -> None:
        self._copy_file(bucket, name, target_bucket, target_name, rewrite=True)

    def _copy(self, bucket: str, name: str, target_bucket: str, target_name: str) -> None:
        self._copy_file(bucket, name, target_bucket, target_name, rewrite=False)

    def _copy_file(self, bucket: str, name: str, target_bucket: str, target_name: str, *, rewrite: bool) -> None:
        storage, changes = self.server.storage, self._json_body()
        place = storage.bucket(bucket)
        meta = place.find(name, self._query.get("sourceGeneration"))
        if meta is None:
            raise _not_found(f"{bucket}/{name}")
        path = storage.new_file(storage.bucket(target_bucket))
        digests = _Digests()
        inherited = ("contentType", "metadata", "contentEncoding", "cacheControl")
        kept: Meta = {key: meta[key] for key in inherited if key in meta}
        changes = {key: changes[key] for key in (*inherited, "storageClass") if key in changes}  # the rest is its own
        try:
            with place.path(meta).open("rb") as file, path.open("wb") as target:
                while piece := file.read(_PIECE):
                    target.write(piece)
                    digests.add(piece)
            answer = storage.publish(
                target_bucket, {**kept, **changes, "name": target_name}, self._query, path, digests
            )
        except FileNotFoundError:
            raise _not_found(f"{bucket}/{name}") from None
        finally:
            path.unlink(missing_ok=True)
        size = answer["size"]
        done = {"kind": "storage#rewriteResponse", "totalBytesRewritten": size, "objectSize": size, "done": True}
        self._json({**done, "resource": answer} if rewrite else answer)

    _ROUTES: ClassVar[tuple[tuple[re.Pattern[str], dict[str, Callable[..., None]]], ...]] = (
        (re.compile(r"/storage/v1/b/?"), {"GET": _list_buckets, "POST": _make_bucket}),
        (re.compile(r"/storage/v1/b/([^/]+)"), {"GET": _get_bucket, "PATCH": _patch_bucket, "DELETE": _drop_bucket}),
        (re.compile(r"/storage/v1/b/([^/]+)/o/?"), {"GET": _list_objects}),
        (
            re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)"),
            {"GET": _get_object, "PATCH": _patch_object, "DELETE": _drop_object},
        ),
        (re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)"), {"POST": _rewrite}),
        (re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/copyTo/b/([^/]+)/o/([^/]+)"), {"POST": _copy}),
        (
            re.compile(r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o"),
            {"POST": _insert, "PUT": _continue_upload, "DELETE": _cancel_upload},
        ),
    )


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(2)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Google Cloud Storage sandbox (JSON API)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="directory that holds all objects as plain files")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        server = _Server((options.host, options.port), _Handler)
    except OSError as error:
        _refuse(f"cannot listen on {options.host}:{options.port}: {error.strerror}")
    server.storage = Storage(options.data)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.5)


if __name__ == "__main__":
    main()
