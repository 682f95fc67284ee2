"""Google Cloud Storage as an object store: ``gs://bucket/prefix``, through google-cloud-storage.

https://cloud.google.com/python/docs/reference/storage/latest. Generations are tokens and versions at once; a write
carries its condition (``if_generation_match``) and the CRC32C of its bytes. Up to 8 MiB the library sends it as one
request, above as one upload session whose last request makes it visible. It is told not to try again where
``understudy.objects.attempts`` does, which has to know that an answer was lost.
"""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import IncompleteRead
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar
from urllib.parse import quote

from google.api_core.exceptions import GoogleAPIError, RetryError
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.exceptions import RequestException
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from understudy.clouds.gcp import CONNECT_SECONDS, READ_SECONDS
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
from understudy.objects.interface import Abilities, ObjectInfo, Safeguards
from understudy.objects.options import PLAIN
from understudy.objects.parts import Passing, exactly, regroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from google.cloud.storage import Blob, Client
    from requests import Response

    from understudy.objects.interface import Tier
    from understudy.objects.options import StoreOptions

Result = TypeVar("Result")

_FIELDS = "nextPageToken,items(name,size,generation,timeCreated,crc32c,storageClass)"
#: Storage classes by what they cost; all are read at once. Autoclass, which moves objects itself, says one of them.
_TIERS: dict[str, Tier] = {
    "STANDARD": "standard", "MULTI_REGIONAL": "standard", "REGIONAL": "standard",
    "DURABLE_REDUCED_AVAILABILITY": "standard", "NEARLINE": "cold", "COLDLINE": "cold", "ARCHIVE": "cold",
}  # fmt: skip
_CLASSES = {"standard": "STANDARD", "cold": "COLDLINE"}
_PAGE_MAX = 1000
_CHUNK_BYTES = 8 << 20  # a multiple of 256 KiB, as the API wants
_TIMEOUT_SECONDS = (CONNECT_SECONDS, READ_SECONDS)
#: For streams alone: their parts come only once, so the library sends the chunk again that had no answer.
_CHUNK_RETRY = DEFAULT_RETRY.with_delay(initial=0.25, maximum=2.0, multiplier=2.0).with_timeout(15.0)
_FAULTS = (GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption, RequestException, HTTPError)


class GcsStore:
    """A bucket, or a prefix of one.

    Args:
        bucket: the bucket's name.
        prefix: what every key is below, such as ``models/``; empty is the whole bucket.
        client: see ``understudy.clouds.gcp.storage_client``.
        page_max: rows asked for in one page of a listing.
        options: who pays, which key encrypts, which storage class.
        project: the one that pays, where ``options`` say that the requester does.
    """

    ABILITIES: ClassVar[dict[str, str]] = {
        "create once": "ifGenerationMatch=0",
        "compare-and-set": "ifGenerationMatch",
        "versions": "where the bucket keeps them",
        "checksums in listings": "CRC32C",
        "colder storage": "COLDLINE",
    }

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        client: Client,
        page_max: int = _PAGE_MAX,
        options: StoreOptions = PLAIN,
        project: str | None = None,
    ) -> None:
        """Name the place; nothing is asked yet."""
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.url = f"gs://{bucket}/{self._prefix}".rstrip("/")
        self._client = client
        self._payer = project if options.requester_pays else None
        self._bucket = client.bucket(bucket, user_project=self._payer)
        self._options = options
        self._page_max = page_max
        self._abilities: Abilities | None = None

    @property
    def abilities(self) -> Abilities:
        """What this bucket can do; asks it once whether it keeps versions."""
        if self._abilities is None:
            bucket = self._read(
                "the bucket",
                lambda: self._client.get_bucket(self._bucket, timeout=_TIMEOUT_SECONDS, retry=None),
            )
            self._abilities = Abilities(versions=bool(bucket.versioning_enabled), lists_crc32c=True, tiers=True)
        return self._abilities

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with prefix, sorted, each with its generation and CRC32C."""
        token: str | None = None
        while True:
            blobs, token = self._read("the listing", partial(self._page, prefix, token))
            for blob in blobs:
                if blob.name != self._prefix:
                    yield self._info(blob)
            if not token:
                return

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Do the same as ``list``, whose rows carry their generation here."""
        return self.list(prefix)

    def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound."""
        blob = self._blob(key)
        self._read(key, lambda: blob.reload(timeout=_TIMEOUT_SECONDS, retry=None))
        return self._info(blob)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """Return all bytes, of that generation if given. Raises NotFound, Corrupt."""
        blob = self._blob(key, version)
        return self._read(key, lambda: self._download(blob))

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound, Corrupt."""
        if not length:
            if start > self.head(key).size and version is None:
                raise self._too_short(key, start)
            return b""
        blob = self._blob(key, version)
        body = self._read(key, lambda: self._download(blob, f"bytes={start}-{start + length - 1}"))
        if len(body) != length:
            raise self._too_short(key, start + length)
        return body

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write only if nothing is there. Raises Conflict."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Write only if the key's generation is ``expected``. Raises Conflict."""
        if expected == "0" or (expected is not None and not expected.isdecimal()):
            raise Conflict(f"{key} in {self.url} was changed")
        generation = int(expected or 0)

        def write() -> ObjectInfo:
            try:
                return self._upload(key, data, generation)
            except Denied as error:
                # An overwrite needs the right to delete, which a replicator lacks: what stands there is a conflict.
                if expected is None and self._stands(key):
                    raise Conflict(f"{key} in {self.url} was there already") from error
                raise

        return persist_write(write, lambda: self._look(key, data, expected=expected))

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write without a condition."""
        return persist(lambda: self._upload(key, data, None))

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts by a resumable upload, 24 MiB in memory. Raises Corrupt when they do not add up.

        A session that is given up shows nothing and costs nothing; Google forgets it after a week.
        """
        checked = exactly(parts, size, key)
        if size <= _CHUNK_BYTES:
            return self.put(key, b"".join(checked))
        return self._send(key, checked, size)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Do the same only if nothing is there, which the upload session carries to its end. Raises Conflict."""
        passing = Passing(parts, size, key)
        if size <= _CHUNK_BYTES:
            return self.create(key, b"".join(passing))
        failures: list[Exception] = []
        try:
            return self._send(key, passing, size, generation=0, failed=failures.append)
        except Denied as error:
            if self._stands(key):  # see ``replace``
                raise Conflict(f"{key} in {self.url} was there already") from error
            raise
        except (Conflict, Transient) as error:
            # Without a failure before it a Conflict is another's doing; before all parts passed nothing can be ours.
            if not passing.whole or (isinstance(error, Conflict) and not failures):
                raise
            with contextlib.suppress(NotFound, Transient):
                return passing.found_in(self, key)
            raise

    def delete(self, key: str) -> None:
        """Remove the object; not an error when it is not there. Where the bucket keeps versions it becomes one."""
        blob = self._blob(key)
        try:
            self._read(key, lambda: blob.delete(timeout=_TIMEOUT_SECONDS, retry=None))
        except _NoSuchObject:
            return
        except NotFound:  # not every server says whether it is the object or the bucket
            self.now()

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """Write it anew with another storage class, if it is the generation that was looked at. Raises Conflict.

        Where the bucket keeps versions or deleted objects, the one before stays, in its class, until that ends.
        """
        blob = self._blob(key)
        self._read(key, lambda: blob.reload(timeout=_TIMEOUT_SECONDS, retry=None))
        found = self._info(blob)
        if found.tier == tier:
            return found
        self._ask(
            key,
            lambda: blob.update_storage_class(
                _CLASSES[tier],
                if_generation_match=blob.generation,
                if_source_generation_match=blob.generation,
                timeout=_TIMEOUT_SECONDS,
                retry=None,
            ),
        )
        return self.head(key)

    def now(self) -> datetime:
        """Return the clock of Google's front end, to a second."""
        answer = self._read("the bucket", self._shortest_listing)
        return parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)

    def safeguards(self) -> Safeguards:
        """Return what this bucket does for its objects by itself: versions, soft delete, several regions."""
        try:
            bucket = self._read(
                "the bucket", lambda: self._client.get_bucket(self._bucket, timeout=_TIMEOUT_SECONDS, retry=None)
            )
        except Denied:
            return Safeguards(versions=None, unasked=("versioning", "soft delete", "regions"))
        kind = str(bucket.location_type or "")
        regions = ""
        if kind in ("dual-region", "multi-region"):
            turbo = "turbo" if bucket.rpo == "ASYNC_TURBO" else "default"
            regions = f"{kind} {bucket.location}, {turbo} replication"
        kept = int(bucket.soft_delete_policy.retention_duration_seconds or 0)
        return Safeguards(
            versions="on" if bucket.versioning_enabled else "off", soft_delete_seconds=kept or None, regions=regions
        )

    # -- private -------------------------------------------------------------------------------------------------------

    def _download(self, blob: Blob, span: str = "") -> bytes:
        """Return the stored bytes, also of what was uploaded with a gzip encoding; ``span`` is a Range header.

        The library's own way copies all bytes again, for 1.6 times the CPU, so its session is used as it is.
        The checksum is not computed: all that is read is proven by our own digests.
        """
        name = quote(blob.name, safe="")
        url = f"{self._client.api_endpoint}/download/storage/v1{self._bucket.path}/o/{name}?alt=media"
        for argument, value in (("generation", blob.generation), ("userProject", self._payer)):
            url += f"&{argument}={value}" if value else ""
        headers = {"Accept-Encoding": "gzip"} | ({"Range": span} if span else {})
        session = self._client._http  # noqa: SLF001 - see above
        with session.get(url, headers=headers, timeout=_TIMEOUT_SECONDS, stream=True) as answer:
            if not answer.ok:
                _ = answer.content  # what it says is read while the connection is open
            answer.raise_for_status()
            body: bytes = answer.raw.read()  # raises when it is shorter than Content-Length
        return body

    def _blob(self, key: str, version: str | None = None) -> Blob:
        if version is not None and not version.isdecimal():
            raise NotFound(f"version {version} of {key} is not in {self.url}")
        return self._bucket.blob(self._prefix + key, generation=int(version) if version else None)

    def _new_blob(self, key: str) -> Blob:
        """Return a blob to write, that says how it is to be kept."""
        blob = self._bucket.blob(self._prefix + key, kms_key_name=self._options.kms_key)
        if chosen := self._options.class_of(key):
            blob.storage_class = chosen
        return blob

    def _info(self, blob: Blob) -> ObjectInfo:
        generation = str(blob.generation)
        chosen = str(blob.storage_class or "")
        return ObjectInfo(
            blob.name[len(self._prefix) :],
            blob.size,
            generation,
            generation,
            blob.time_created,
            blob.crc32c,
            chosen,
            _TIERS.get(chosen),
        )

    def _page(self, prefix: str, token: str | None) -> tuple[Sequence[Blob], str | None]:
        """Return one page of the listing, and the token of the next one.

        The library's own iterator ends at the first error, so a page that fails could not be asked for again.
        """
        listing = self._client.list_blobs(
            self._bucket,
            prefix=self._prefix + prefix,
            page_size=self._page_max,
            page_token=token,
            fields=_FIELDS,
            timeout=_TIMEOUT_SECONDS,
            retry=None,
        )
        return tuple(next(listing.pages, ())), listing.next_page_token

    def _upload(self, key: str, data: bytes, generation: int | None) -> ObjectInfo:
        blob = self._new_blob(key)

        def upload() -> None:
            blob.upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=generation,
                timeout=_TIMEOUT_SECONDS,
                checksum="crc32c",
                retry=None,
            )

        self._ask(key, upload)
        return self._info(blob)

    def _send(
        self,
        key: str,
        parts: Iterable[bytes],
        size: int,
        *,
        generation: int | None = None,
        failed: Callable[[Exception], object] | None = None,
    ) -> ObjectInfo:
        """Write by one upload session; ``failed`` is told of each request that had no good answer and is sent again."""
        blob = self._new_blob(key)
        blob.chunk_size = _CHUNK_BYTES
        chunks = _Chunks(regroup(parts, _CHUNK_BYTES))

        def upload() -> None:
            blob.upload_from_file(
                chunks,
                size=size,
                if_generation_match=generation,
                timeout=_TIMEOUT_SECONDS,
                checksum="crc32c",
                retry=lambda call: _CHUNK_RETRY(call, on_error=failed),
            )

        try:
            self._ask(key, upload)
        except ValueError as error:  # the library's word for a server that kept less of a chunk than was sent
            raise Unreachable(f"{self.url} lost part of the upload of {key}", hint="run again") from error
        return self._info(blob)

    def _stands(self, key: str) -> bool:
        try:
            self.head(key)
        except (NotFound, Denied):
            return False
        return True

    def _look(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Describe the object if it holds these bytes and was written meanwhile; see ``persist_write``."""
        found = self.head(key)
        if found.token == expected:
            raise NotFound(f"{key} in {self.url} is as it was")
        if found.size == len(data) and self.get(key, version=found.version) == data:
            return found
        raise Conflict(f"{key} in {self.url} holds what another wrote")

    def _shortest_listing(self) -> Response:
        # Of the library's calls none returns an answer's headers, so its session is used as it is.
        session = self._client._http  # noqa: SLF001 - see above
        url = f"{self._client.api_endpoint}/storage/v1{self._bucket.path}/o?maxResults=1&fields=kind"
        url += f"&userProject={self._payer}" if self._payer else ""
        answer: Response = session.get(url, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer

    def _ask(self, what: str, call: Callable[[], Result]) -> Result:
        """Make one request. Raises what ``_translate`` says."""
        try:
            return call()
        except _FAULTS as error:
            raise _translate(self.url, what, error) from error

    def _read(self, what: str, call: Callable[[], Result]) -> Result:
        return persist(lambda: self._ask(what, call))

    def _too_short(self, key: str, end: int) -> Corrupt:
        return Corrupt(f"{key} in {self.url} ends before byte {end}", hint="it is shorter than what refers to it says")


class _Chunks:
    """A file to upload from; it can be read once, in the chunks that the library asks for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._position = 0

    def read(self, _count: int) -> bytes:
        chunk = next(self._chunks, b"")
        self._position += len(chunk)
        return chunk

    def tell(self) -> int:
        return self._position


class _NoSuchObject(NotFound):
    """The bucket is there, the object is not."""


def _translate(url: str, what: str, problem: Exception) -> UnderstudyError:  # noqa: C901, PLR0911, PLR0912 - one list
    """Say in our words what Google or the network answered."""
    error = problem.cause if isinstance(problem, RetryError) and problem.cause else problem
    if isinstance(error, DataCorruption):
        return Corrupt(f"{what} in {url} has other bytes than were sent", hint="run again")
    if isinstance(error, TransportError):
        return NeverSent("Google's token server does not answer", hint="look at the network of this machine")
    if isinstance(error, GoogleAuthError):
        hint = "renew the key, or look at the service account"
        return Denied("Google refuses a token for these credentials", hint=hint)
    answer: Response | None = getattr(error, "response", None)
    if answer is None:
        causes = tuple(_causes(error))
        if any(isinstance(cause, (NewConnectionError, ConnectTimeoutError)) for cause in causes):
            return NeverSent(f"{url} cannot be reached", hint="look whether the site is up and the endpoint is right")
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            hint = "look at the endpoint and the clock"
            return NeverSent(f"{url} offers no certificate that is trusted here", hint=hint)
        if any(isinstance(cause, IncompleteRead) for cause in causes):
            return CutShort(f"{what} from {url} ended before its length")
        return Unreachable(f"{url} gave no answer about {what}", hint="look whether the site is up")
    said = _said(answer)
    match answer.status_code:
        case 308 | 404 | 410 if answer.request.method == "PUT":  # only an upload session is put to
            return Unreachable(f"{url} lost the upload of {what}", hint="run again")
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
    return Permanent(f"{url} refused {what} ({answer.status_code}): {said}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps: requests and urllib3 keep the cause among the arguments or as a reason."""
    yield error
    for inner in (*error.args, getattr(error, "reason", None)):
        if isinstance(inner, BaseException):
            yield from _causes(inner)


def _said(answer: Response) -> str:
    try:
        return str(answer.json()["error"]["message"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        if answer.text.lstrip().startswith("<"):
            return "what answers there does not speak the JSON of Cloud Storage"
        return answer.text[:200].strip()
