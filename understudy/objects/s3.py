"""Amazon S3, or what speaks it, as an object store: ``s3://bucket/prefix``.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html. The ETag is the token: it changes when
the bytes do, so writing the same bytes again is no change to a compare-and-set.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shlex
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidConfig,
    NotFound,
    NotReady,
    Permanent,
    Throttled,
    UnderstudyError,
    Unreachable,
    Unsupported,
)
from understudy.objects.attempts import CutShort, NeverSent, persist, persist_write
from understudy.objects.interface import Abilities, ObjectInfo, Replica, Safeguards
from understudy.objects.options import PLAIN
from understudy.objects.parts import Passing, exactly, regroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mypy_boto3_s3 import S3Client

    from understudy.objects.interface import Tier
    from understudy.objects.options import StoreOptions

_crc32c: Callable[[bytes], int] | None
try:  # computes what is sent with a body in a third of the time that botocore's own CRC32 takes
    from google_crc32c import value as _crc32c
except ImportError:
    _crc32c = None

Result = TypeVar("Result")

_ALGORITHM = "CRC32C" if _crc32c else "CRC32"
_CHECKSUM = f"Checksum{_ALGORITHM}"
_PAGE_MAX = 1000
_PART_BYTES_MIN = 8 << 20
_PARTS_MAX = 10_000
_MEBIBYTE = 1 << 20
_DENIED = (
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",  # versitygw's word for InvalidAccessKeyId, with the status 404
)
_THROTTLED = ("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded")
#: Storage classes by what they cost; https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html.
#: INTELLIGENT_TIERING is not among them: S3 moves those objects itself.
_TIERS: dict[str, Tier] = {
    "STANDARD": "standard", "REDUCED_REDUNDANCY": "standard", "EXPRESS_ONEZONE": "standard", "STANDARD_IA": "cold",
    "ONEZONE_IA": "cold", "GLACIER_IR": "cold", "GLACIER": "frozen", "DEEP_ARCHIVE": "frozen",
}  # fmt: skip
_CLASSES = {"standard": "STANDARD", "cold": "GLACIER_IR"}
_BUSY = ("ConditionalRequestConflict", "OperationAborted")
_MISSING = ("NoSuchKey", "NoSuchVersion")
#: Of servers that keep objects as files: versitygw's words, then MinIO's.
_FOLDERS = (
    "ExistingObjectIsDirectory",
    "ObjectParentIsFile",
    "XMinioObjectExistsAsDirectory",
    "XMinioParentIsObject",
)


class S3Store:
    """A bucket, or a prefix of one.

    Args:
        bucket: the bucket's name.
        prefix: what every key is below, such as ``models/``; empty is the whole bucket.
        client: see ``understudy.clouds.aws.client``; it must not try again by itself.
        page_max: rows asked for in one page of a listing.
        options: who pays, which key encrypts, which storage class.
    """

    ABILITIES: ClassVar[dict[str, str]] = {
        "create once": "If-None-Match: *, also when a multipart upload is completed",
        "compare-and-set": "If-Match on the ETag",
        "versions": "where the bucket keeps them",
        "checksums in listings": "no, a listing has ETags alone",
        "colder storage": "GLACIER_IR, read at once",
    }

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        client: S3Client,
        page_max: int = _PAGE_MAX,
        options: StoreOptions = PLAIN,
    ) -> None:
        """Name the place; nothing is asked yet."""
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._bucket = bucket
        self._client = client
        self._page_max = page_max
        self._options = options
        self._payer: dict[str, Any] = {"RequestPayer": "requester"} if options.requester_pays else {}
        self._abilities: Abilities | None = None

    @property
    def abilities(self) -> Abilities:
        """What this bucket can do; asks it once whether it keeps versions."""
        if self._abilities is None:
            answer = self._read("the bucket", lambda: self._client.get_bucket_versioning(Bucket=self._bucket))
            self._abilities = Abilities(versions=answer.get("Status") == "Enabled", lists_crc32c=False, tiers=True)
        return self._abilities

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with prefix, sorted; without versions, which S3 does not list so."""
        query = self._listing_query(prefix)
        while True:
            page = self._read("the listing", lambda: self._client.list_objects_v2(**query))
            for row in page.get("Contents", ()):
                if row["Key"] != self._prefix:
                    yield self._info(
                        row["Key"], row["Size"], row["ETag"], None, row["LastModified"], row.get("StorageClass")
                    )
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Like ``list``, with each object's version; reads past the old versions, so it may cost more calls."""
        query = self._listing_query(prefix)
        last = self._prefix
        while True:
            page = self._read("the listing", lambda: self._client.list_object_versions(**query))
            for row in page.get("Versions", ()):
                # versitygw begins a page with the row that the markers name, S3 with the one behind it.
                if row["IsLatest"] and row["Key"] != last:
                    last = row["Key"]
                    version, kept = row.get("VersionId"), row.get("StorageClass")
                    yield self._info(row["Key"], row["Size"], row["ETag"], version, row["LastModified"], kept)
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}
            if markers.items() <= query.items():
                raise Permanent(f"the listing of {self.url} does not go on", hint="ask for more rows in one page")
            query.update(markers)

    def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound."""
        full = self._prefix + key
        row = self._read(key, lambda: self._client.head_object(**self._place(full)))
        version, kept = row.get("VersionId"), row.get("StorageClass")
        return self._info(full, row["ContentLength"], row["ETag"], version, row["LastModified"], kept)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """Return all bytes, of that version if given. Raises NotFound, Corrupt."""
        return self._get(key, version, {})

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound, Corrupt."""
        if not length:
            if start > self.head(key).size and version is None:
                raise self._too_short(key, start)
            return b""
        body = self._get(key, version, {"Range": f"bytes={start}-{start + length - 1}"})
        if len(body) != length:
            raise self._too_short(key, start + length)
        return body

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write only if nothing is there. Raises Conflict."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Write only if the key's ETag is ``expected``. Raises Conflict."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}

        def write() -> ObjectInfo:
            try:
                return self._put_object(key, data, condition)
            except _NoSuchObject as error:  # If-Match on what is not there
                message = f"{key} in {self.url} was deleted"
                raise Conflict(message) from error

        return persist_write(write, lambda: self._look(key, data, expected=expected))

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write without a condition."""
        return persist(lambda: self._put_object(key, data, {}))

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts by a multipart upload, 16 MiB or more in memory. Raises Corrupt when they do not add up."""
        return self._send(key, exactly(parts, size, key), size, None)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Do the same only if nothing is there, which S3 looks at when the upload is completed. Raises Conflict."""
        passing = Passing(parts, size, key)
        return self._send(key, passing, size, passing)

    def delete(self, key: str) -> None:
        """Remove the object; not an error when it is not there. Where the bucket keeps versions a marker hides it."""
        full = self._prefix + key
        with contextlib.suppress(_NoSuchObject):
            self._read(key, lambda: self._client.delete_object(**self._place(full)))

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """Copy an object of up to 5 GB onto itself with another storage class, if it is what was looked at.

        Where the bucket keeps versions, the one before stays, in its class, until the bucket's own rules end it.
        """
        found = self.head(key)
        if found.tier == tier:
            return found
        place = self._place(self._prefix + key)
        asked: dict[str, Any] = {
            **place,
            **{name: value for name, value in self._kept(key).items() if name != "StorageClass"},
            "CopySource": {"Bucket": place["Bucket"], "Key": place["Key"]},
            "CopySourceIfMatch": found.token,
            "StorageClass": _CLASSES[tier],
        }
        self._read(key, lambda: self._client.copy_object(**asked))
        return self.head(key)

    def now(self) -> datetime:
        """Return the clock of S3's front end, to a second."""
        answer = self._read("the bucket", lambda: self._client.head_bucket(Bucket=self._bucket))
        return _date(answer)

    def safeguards(self) -> Safeguards:
        """Return what this bucket does for its objects by itself: versions, and replication to other buckets."""
        unasked = []
        versions: str | None = None
        replicas: tuple[Replica, ...] = ()
        try:
            answer = self._read("the bucket", lambda: self._client.get_bucket_versioning(Bucket=self._bucket))
            versions = {"Enabled": "on", "Suspended": "suspended"}.get(answer.get("Status", ""), "off")
        except Denied:
            unasked.append("versioning")
        try:
            found = self._read("the bucket", lambda: self._client.get_bucket_replication(Bucket=self._bucket))
            replicas = tuple(
                _replica(rule) for rule in found["ReplicationConfiguration"]["Rules"] if self._is_covered(rule)
            )
        except Denied:
            unasked.append("replication")
        except (Permanent, Unreachable) as error:
            # No rules is an error here, of a code of its own; what only resembles S3 knows no such question at all.
            if not isinstance(error, _NoReplication):
                unasked.append("replication")
        return Safeguards(versions=versions, replicas=replicas, unasked=tuple(unasked))

    # -- private -------------------------------------------------------------------------------------------------------

    def _is_covered(self, rule: Any) -> bool:  # noqa: ANN401 - one of boto3's typed dictionaries
        """Whether a rule replicates what is below this prefix, or a part of it."""
        chosen = rule.get("Filter", {})
        prefix = str(chosen.get("Prefix", chosen.get("And", {}).get("Prefix", rule.get("Prefix", ""))))
        return prefix.startswith(self._prefix) or self._prefix.startswith(prefix)

    def _place(self, full: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": full, **self._payer}

    def _listing_query(self, prefix: str) -> dict[str, Any]:
        return {
            "Bucket": self._bucket,
            "Prefix": self._prefix + prefix,
            "MaxKeys": self._page_max,
            **self._payer,
        }

    def _kept(self, key: str) -> dict[str, Any]:
        """Return how a new object is to be kept."""
        kept: dict[str, Any] = {}
        if self._options.kms_key:
            kept |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._options.kms_key}
        if chosen := self._options.class_of(key):
            kept["StorageClass"] = chosen
        return kept

    def _send(self, key: str, parts: Iterable[bytes], size: int, once: Passing | None) -> ObjectInfo:
        """Write from parts; with ``once``, which are the parts, only if nothing is there."""
        share = -(-size // _PARTS_MAX)
        part_bytes = max(_PART_BYTES_MIN, -(-share // _MEBIBYTE) * _MEBIBYTE)
        upload: _Upload | None = None
        chunks = regroup(parts, part_bytes)
        try:
            chunk = next(chunks)
            for following in chunks:
                upload = upload or _Upload(self, key)
                upload.send(chunk)
                chunk = following
            if upload is None:
                return self.create(key, chunk) if once else self.put(key, chunk)
            upload.send(chunk)
            return upload.finish(size, once)
        except BaseException:
            if upload is not None:
                upload.abort()
            raise

    def _info(  # noqa: PLR0917 - a row of an answer
        self, full: str, size: int, etag: str, version: str | None, modified: datetime, kept: str | None = None
    ) -> ObjectInfo:
        # "null" names whatever was written last while the bucket kept no versions: no name for these very bytes.
        named = None if version in (None, "", "null") else version
        chosen = kept or "STANDARD"  # which an answer leaves out
        return ObjectInfo(
            full[len(self._prefix) :],
            size,
            etag,
            named,
            modified.astimezone(UTC),
            storage_class=chosen,
            tier=_TIERS.get(chosen),
        )

    def _ask(self, what: str, call: Callable[[], Result]) -> Result:
        """Make one request. Raises what ``_translate`` says."""
        try:
            return call()
        except (ClientError, BotoCoreError) as error:
            raise _translate(self.url, what, error) from error

    def _read(self, what: str, call: Callable[[], Result]) -> Result:
        return persist(lambda: self._ask(what, call))

    def _get(self, key: str, version: str | None, query: dict[str, Any]) -> bytes:
        if version is not None:
            query["VersionId"] = version

        def fetch() -> bytes:
            answer = self._client.get_object(**self._place(self._prefix + key), **query)
            body = answer["Body"]
            try:
                return body.read()  # raises when it is shorter than Content-Length
            finally:
                body.close()

        try:
            return self._read(key, fetch)
        except _NoSuchObject as error:
            if version is not None and not self.abilities.versions:
                message = f"{self.url} keeps no versions, so {key} cannot be read as it was"
                raise Unsupported(message, hint="turn the bucket's versioning on") from error
            raise

    def _put_object(self, key: str, data: bytes, condition: dict[str, Any]) -> ObjectInfo:
        full = self._prefix + key
        query = {**self._place(full), **self._kept(key), **_checksum(data), **condition}
        row = self._ask(key, lambda: self._client.put_object(**query, Body=data))
        return self._info(full, len(data), row["ETag"], row.get("VersionId"), _date(row), query.get("StorageClass"))

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

    def _too_short(self, key: str, end: int) -> Corrupt:
        message = f"{key} in {self.url} ends before byte {end}"
        return Corrupt(message, hint="it is shorter than what refers to it says")


class _Upload:
    """One multipart upload; nothing of it is visible before ``finish``."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._client: S3Client = store._client  # noqa: SLF001 - one module
        self._place = store._place(store._prefix + key)  # noqa: SLF001 - one module
        begun = {**self._place, **store._kept(key), "ChecksumAlgorithm": _ALGORITHM}  # noqa: SLF001 - one module
        answer = store._read(key, lambda: self._client.create_multipart_upload(**begun))  # noqa: SLF001 - one module
        self._id: dict[str, Any] = {**self._place, "UploadId": answer["UploadId"]}
        self._parts: list[dict[str, Any]] = []

    def send(self, data: bytes) -> None:
        number = len(self._parts) + 1
        query = {**self._id, "PartNumber": number, **_checksum(data)}
        answer: Any = self._store._read(  # noqa: SLF001 - one module
            self._key, lambda: self._client.upload_part(**query, Body=data)
        )
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if answer.get(_CHECKSUM):
            part[_CHECKSUM] = answer[_CHECKSUM]
        self._parts.append(part)

    def finish(self, size: int, once: Passing | None = None) -> ObjectInfo:
        """Make it visible; with ``once``, which are all its bytes, only if nothing is there. Raises Conflict."""
        store = self._store
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if once else {}

        def complete() -> ObjectInfo:
            try:
                row = store._ask(  # noqa: SLF001 - one module
                    self._key,
                    lambda: self._client.complete_multipart_upload(
                        **self._id,
                        **condition,
                        MultipartUpload={"Parts": self._parts},  # type: ignore[typeddict-item]
                    ),
                )
            except _NoSuchUpload as error:
                return self._completed(size, error, once)
            modified = _date(row)
            return store._info(self._place["Key"], size, row["ETag"], row.get("VersionId"), modified)  # noqa: SLF001

        return persist_write(complete, lambda: once.found_in(store, self._key)) if once else persist(complete)

    def _completed(self, size: int, error: _NoSuchUpload, once: Passing | None = None) -> ObjectInfo:
        """Find out whether an earlier try, whose answer was lost, completed it.

        Under a condition the bytes tell; without one the ETag does, which follows from the parts'.
        """
        with contextlib.suppress(_NoSuchObject):
            if once:
                return once.found_in(self._store, self._key)
            found = self._store.head(self._key)
            digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in self._parts)
            etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(self._parts)}"
            if found.size == size and found.token.strip('"') == etag:
                return found
        message = f"the upload of {self._key} to {self._store.url} was lost"
        raise Unreachable(message, hint="run again") from error

    def abort(self) -> None:
        """Give the parts up; when that cannot be said now, the bucket's lifecycle rule does it."""
        with contextlib.suppress(ClientError, BotoCoreError):
            self._client.abort_multipart_upload(**self._id)


class _NoSuchObject(NotFound):
    """The bucket is there, the object or its version is not."""


class _NoReplication(NotFound):
    """The bucket has no rules of replication."""


class _NoSuchUpload(NotFound):
    """The multipart upload is finished or aborted."""


def _translate(url: str, what: str, error: ClientError | BotoCoreError) -> UnderstudyError:  # noqa: C901, PLR0911, PLR0912
    """Say in our words what S3 or the network answered."""
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError)):
        return NeverSent(f"{url} cannot be reached", hint="look whether the site is up and the endpoint is right")
    if isinstance(error, SSLError):
        return NeverSent(f"{url} offers no certificate that is trusted here", hint="look at the endpoint and the clock")
    if isinstance(error, IncompleteReadError) or (
        isinstance(error, ResponseStreamingError) and "IncompleteRead" in str(error)
    ):
        return CutShort(f"{what} from {url} ended before its length")
    if isinstance(error, (HTTPClientError, BotoConnectionError)):
        return Unreachable(f"{url} gave no answer about {what}", hint="look whether the site is up")
    if isinstance(error, NoCredentialsError):
        return InvalidConfig(
            f"there are no credentials for {url}", hint="name them under the site, or run aws configure"
        )
    if not isinstance(error, ClientError):
        return Permanent(f"{url} could not be asked about {what}: {error}")
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = str(error.response.get("Error", {}).get("Message", "")).rstrip(".") or code
    if code == "ReplicationConfigurationNotFoundError":
        return _NoReplication(f"{url} is replicated nowhere")
    if code == "NoSuchUpload":
        return _NoSuchUpload(f"the upload of {what} to {url} is gone")
    if code == "InvalidObjectState":
        return _frozen(url, what)
    if code == "InvalidStorageClass":
        return Unsupported(f"{url} has no such storage class for {what}", hint="remove vault.cold_after")
    if code in _DENIED or status in (401, 403):
        return Denied(f"{url} does not allow it: {said}", hint="look at the credentials and their policy")
    if code in _MISSING or (
        code in ("404", "405", "InvalidArgument", "MethodNotAllowed") and _is_missing(error, status)
    ):
        return _NoSuchObject(f"{what} is not in {url}")
    if status == 404:
        return NotFound(f"{what} is not in {url}: {said}", hint="look at the bucket's name")
    if code in _BUSY:
        return Throttled(f"another write of {what} in {url} is under way", hint="run again")
    if status == 412:
        return Conflict(f"{what} in {url} was there already or was changed")
    if status == 416:
        return Corrupt(f"{what} in {url} ends before the bytes that were asked for")
    if code in _THROTTLED or status == 429:
        return Throttled(f"{url} asks for fewer calls", hint="wait, or lower the number of workers")
    if code in _FOLDERS:
        message = (
            f"{url} cannot hold {what} beside what is there: it keeps objects as files, and one is a folder's name"
        )
        return Unsupported(message, hint="name the object otherwise, or use a server that keeps keys as they are")
    if code == "400":  # the answer to HEAD has no body to say more
        hint = "look at the credentials, the region and the endpoint"
        return Denied(f"{url} refuses to be asked about {what}", hint=hint)
    if code in ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"):
        return Corrupt(f"{what} reached {url} with other bytes than were sent", hint="run again")
    if status >= 500 or code in ("RequestTimeout", "InternalError"):
        return Unreachable(f"{url} answered {status} about {what}", hint="run again, or look at the status page")
    return Permanent(f"{url} refused {what} ({code}): {said}")


def _frozen(url: str, what: str) -> NotReady:
    """Say that an object has to be brought back, and how; only a rule of the bucket's owner puts one there."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    key = f"{prefix}/{what}" if prefix else what
    return NotReady(
        f"{what} in {url} is archived and cannot be read at once",
        hint="restore it first, which takes 3 to 5 hours from Glacier and 12 to 48 from Deep Archive; and end the "
        "bucket's rule that archives what is in the vault",
        next_command=shlex.join(
            ["aws", "s3api", "restore-object", "--bucket", bucket, "--key", key, "--restore-request", "Days=7"]
        ),
    )


def _is_missing(error: ClientError, status: int) -> bool:
    """Whether an answer without a body says that an object is missing, not a bucket.

    HEAD has no body to say which; 405 is a delete marker asked for by version, InvalidArgument a malformed version.
    """
    if status in (404, 405):
        return error.operation_name in ("HeadObject", "GetObject")
    message = str(error.response.get("Error", {}).get("Message", ""))
    return status == 400 and "version" in message.lower()


def _date(answer: Any) -> datetime:  # noqa: ANN401 - any of boto3's typed dictionaries
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)


def _checksum(data: bytes) -> dict[str, Any]:
    """Return the arguments that make the server compare a body with its checksum."""
    if _crc32c is None:
        return {"ChecksumAlgorithm": _ALGORITHM}
    return {_CHECKSUM: base64.b64encode(_crc32c(data).to_bytes(4, "big")).decode()}


def _replica(rule: Any) -> Replica:  # noqa: ANN401 - one of boto3's typed dictionaries
    target = rule["Destination"]
    return Replica(
        target=f"s3://{str(target['Bucket']).rpartition(':')[2]}",
        rule=str(rule.get("ID", "")),
        enabled=rule.get("Status") == "Enabled",
        timed=target.get("ReplicationTime", {}).get("Status") == "Enabled",
        deletes=rule.get("DeleteMarkerReplication", {}).get("Status") == "Enabled",
    )
