"""The schema of config/*.yaml: sites, components with their targets and pairs, vault, register, traffic, capacity.

What is secret stands here by reference only (``env:NAME``, ``file:/path``, ``block:type/name``), and who is active
stands in the register, never here.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from understudy.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.opening import Noun

SiteRole = Literal["home", "away"]
Runner = Literal["threads", "dask", "ray"]
ComponentName = Literal["inference", "feature_store", "vector_index", "training", "evaluation"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "ms": 0.001}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_CLOCKS = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](,\s*([01][0-9]|2[0-3]):[0-5][0-9])*")


def parse_duration(value: object) -> object:
    """Turn ``5m``, ``90s``, ``1.5h``, ``100ms`` into a timedelta; say which unit is missing."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return value
    text = str(value).strip()
    match = _DURATION.fullmatch(text)
    if match:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    if text.isdigit():
        raise ValueError(f'"{text}" has no unit; write {text}m')
    raise ValueError(f'"{text}" is no duration; write 90s, 5m or 1h')


def parse_target(value: object) -> object:
    """Like a duration; ``none`` means that the component holds nothing that could be lost."""
    return None if value in ("none", None) else parse_duration(value)


def parse_every(value: object) -> object:
    """A period (``30m``) or times of day in UTC (``"02:00"``, ``"02:00,14:00"``)."""
    if isinstance(value, str) and _CLOCKS.fullmatch(value.strip()):
        return ",".join(sorted({clock.strip() for clock in value.split(",")}))
    return parse_duration(value)


def longest_gap(every: timedelta | str) -> timedelta:
    """Return the longest time between two runs of a schedule."""
    if isinstance(every, timedelta):
        return every
    minutes = [int(clock[:2]) * 60 + int(clock[3:]) for clock in every.split(",")]
    following = [*minutes[1:], minutes[0] + 24 * 60]
    return max(timedelta(minutes=after - before) for before, after in zip(minutes, following, strict=True))


_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def parse_share(value: object) -> object:
    """Turn ``1%`` into 0.01; a bare number would be 100 times what somebody meant, or a hundredth of it."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return value
    match = _SHARE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f'"{value}" is no share; write it with its sign, such as 1%')
    return float(match[1]) / 100


_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(kB|MB|GB|TB)")
_AMOUNT_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_amount(value: object) -> object:
    """Turn ``600MB`` or ``20TB`` into bytes."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return value
    match = _AMOUNT.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f'"{value}" is no amount; write it with its unit, such as 50GB')
    return int(float(match[1]) * _AMOUNT_UNITS[match[2]])


def parse_rate(value: object) -> object:
    """Turn ``500MB/s`` into bytes a second; bits are refused by name, for they are eight times less."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return value
    text = str(value).strip()
    amount = parse_amount(text.removesuffix("/s")) if text.endswith("/s") and _AMOUNT.fullmatch(text[:-2]) else None
    if amount is None:
        raise ValueError(f'"{value}" is no rate; write it in bytes a second, such as 500MB/s')
    return amount


_HOST = re.compile(r"[^:]*(:[0-9]*)?|\[[0-9a-fA-F:.]+\](:[0-9]*)?")
_SECRET_OPTIONS = {"password", "passwd", "sslpassword", "token", "secret", "api_key"}


def check_url(value: object) -> object:
    """Refuse a password inside a URL: it would be shown wherever the URL is."""
    if not isinstance(value, str) or "://" not in value:
        return value
    rest = value.partition("://")[2]
    user, _, host = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")
    options = {name.lower() for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)}
    # What follows a colon is a port, or the beginning of a password with a slash in it.
    if ":" in user or not _HOST.fullmatch(host) or options & _SECRET_OPTIONS:
        raise ValueError(
            "has a password in it, or a port that is no number; take it out and name it under password: env:NAME"
        )
    return value


_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|block:[a-z0-9-]+/[a-z0-9-]+")


def check_reference(value: object) -> object:
    """Accept ``env:``, ``file:`` and ``block:`` references; refuse what looks like the secret itself."""
    if isinstance(value, str) and not _REFERENCE.fullmatch(value):
        message = "is not a reference; write env:NAME, file:/path or block:type/name, never the secret itself"
        raise ValueError(message)
    return value


#: Storage classes of S3 whose objects must be asked for hours before they can be read.
_SLEEPING = {"GLACIER", "DEEP_ARCHIVE"}


def check_storage_class(value: object) -> object:
    """Refuse a class that cannot be read at once: a standby could not start from it."""
    if value in _SLEEPING:
        raise ValueError(f"{value} cannot be read for hours; write a class that can, such as GLACIER_IR")
    if isinstance(value, str) and not re.fullmatch("[A-Z][A-Z_]+", value):
        raise ValueError(f'"{value}" is no storage class; write it as the cloud does, such as STANDARD_IA or NEARLINE')
    return value


_PUBLIC_KEY_BYTES = 32


def check_public_key(value: object) -> object:
    """Accept ``ed25519:`` and 32 bytes in base64."""
    if not isinstance(value, str):
        return value
    kind, _, text = value.partition(":")
    try:
        right = kind == "ed25519" and len(base64.b64decode(text, validate=True)) == _PUBLIC_KEY_BYTES
    except binascii.Error:
        right = False
    if not right:
        raise ValueError("is no public key; write ed25519: and its 32 bytes in base64, as the key was shown when made")
    return value


def check_ramp(value: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse shares of traffic that do not grow, or do not end in all of it."""
    if not value or value[-1] != 100 or value[0] < 1 or list(value) != sorted(set(value)):
        raise ValueError("must grow and end in 100, such as [10, 50, 100]")
    return value


def check_both(value: dict[SiteRole, str]) -> dict[SiteRole, str]:
    """Refuse a mapping that names only one of the two sites."""
    if set(value) != {"home", "away"}:
        raise ValueError("names one site only; write both home and away")
    return value


_DURATION_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)\s*$",
    "examples": ["30s", "5m", "1.5h", "24h"],
}
_EVERY_SCHEMA = {
    "type": "string",
    "pattern": rf"{_DURATION_SCHEMA['pattern']}|^\s*{_CLOCKS.pattern}\s*$",
    "examples": ["2m", "30m", "02:00", "02:00,14:00"],
}
_SHARE_SCHEMA = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$", "examples": ["1%", "2.5%"]}
_AMOUNT_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(kB|MB|GB|TB)\s*$",
    "examples": ["500MB", "50GB"],
}
_RATE_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(kB|MB|GB|TB)/s\s*$",
    "examples": ["500MB/s", "1.5GB/s"],
}
#: A writer's longest life, and a day: see ``vault/condemned.py``.
CONDEMNED_FOR_MIN = timedelta(days=3)
_URL_SCHEMA = {"type": "string", "not": {"pattern": "^[^/]*://[^/?#@]*:[^/?#@]*@"}}
_REFERENCE_SCHEMA = {
    "type": "string",
    "pattern": f"^({_REFERENCE.pattern})$",
    "examples": ["env:NAME", "file:/path", "block:secret/name"],
}
_CLASS_SCHEMA = {
    "type": "string",
    "pattern": "^[A-Z][A-Z_]+$",
    "not": {"enum": sorted(_SLEEPING)},
    "examples": ["STANDARD_IA", "NEARLINE"],
}
_KEY_SCHEMA = {"type": "string", "pattern": "^ed25519:[A-Za-z0-9+/]{43}=$"}

Duration = Annotated[timedelta, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
Target = Annotated[
    timedelta | None,
    BeforeValidator(parse_target),
    WithJsonSchema({"anyOf": [_DURATION_SCHEMA, {"const": "none"}, {"type": "null"}]}),
]
Every = Annotated[timedelta | str, BeforeValidator(parse_every), WithJsonSchema(_EVERY_SCHEMA)]
Share = Annotated[float, BeforeValidator(parse_share), Field(gt=0, le=1), WithJsonSchema(_SHARE_SCHEMA)]
Amount = Annotated[int, BeforeValidator(parse_amount), Field(gt=0), WithJsonSchema(_AMOUNT_SCHEMA)]
Rate = Annotated[int, BeforeValidator(parse_rate), Field(gt=0), WithJsonSchema(_RATE_SCHEMA)]
Reference = Annotated[str, BeforeValidator(check_reference), WithJsonSchema(_REFERENCE_SCHEMA)]
Url = Annotated[str, BeforeValidator(check_url), WithJsonSchema(_URL_SCHEMA)]
StorageClass = Annotated[str, BeforeValidator(check_storage_class), WithJsonSchema(_CLASS_SCHEMA)]
PublicKey = Annotated[str, BeforeValidator(check_public_key), WithJsonSchema(_KEY_SCHEMA)]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a config: the file, the line, the dotted setting, and what to write."""

    file: str
    line: int
    setting: str
    words: str

    def __str__(self) -> str:
        """Render the line that a person reads."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where} {self.setting}: {self.words}" if self.setting else f"{where}: {self.words}"


class InvalidSettings(InvalidConfig):
    """All that is wrong with a config, each with its line."""

    def __init__(self, problems: list[Problem]) -> None:
        """Join the problems, one a line."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Source:
    """The file that settings were read from; knows the line of each setting."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self._text = text

    @cached_property
    def _root(self) -> yaml.Node | None:
        return yaml.compose(self._text, Loader=yaml.SafeLoader)

    def line(self, *place: str | int) -> int:
        """Return the line of a setting, or of the nearest thing around it that is there."""
        node, line = self._root, 1
        for part in place:
            if node is None:
                break
            line = node.start_mark.line + 1
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(part)]
                if not found:
                    return line
                line, node = found[0][0].start_mark.line + 1, found[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
        return line

    def problem(self, place: tuple[str | int, ...], words: str) -> Problem:
        """Return what is wrong with a setting, with its line."""
        return Problem(self.file, self.line(*place) if place else 0, ".".join(str(part) for part in place), words)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Access(_Strict):
    """How to reach one cloud: the cloud, region, credentials by reference, and endpoint overrides for tests."""

    cloud: Literal["aws", "gcp"] = Field(default="aws", description="the cloud whose credentials and clients are used")
    region: str = Field(default="us-east-1", description="the region, such as us-east-1 or us-central1")
    project: str | None = Field(default=None, description="Google Cloud: the project")
    credentials: Reference | None = Field(
        default=None,
        description="what holds the credentials: env:NAME, file:/path or block:type/name, each with the text of a "
        "credentials file; absent: the cloud's own chain (environment, profile, instance role, workload identity)",
    )
    endpoints: dict[str, Url] = Field(
        default_factory=dict,
        description="API name (s3, dynamodb, route53, gcs, bigtable, compute) to a URL or host:port, for what speaks "
        "the same API elsewhere; absent: the cloud's own",
    )


class Storage(_Strict):
    """How a site's buckets are read and written."""

    requester_pays: bool = Field(
        default=False,
        description="agree to pay for what is asked of them, as buckets of others may want it; in Google Cloud the "
        "site's project pays",
    )
    kms_key: str | None = Field(
        default=None,
        min_length=1,
        description="the key that encrypts what is written: an ARN, id or alias of AWS KMS, or "
        "projects/P/locations/L/keyRings/R/cryptoKeys/K; absent: as the bucket says",
    )
    packs_class: StorageClass | None = Field(
        default=None, description="the storage class of the vault's packs; absent: as the bucket says"
    )
    served_class: StorageClass | None = Field(
        default=None, description="the storage class of the model files that are served; absent: as the bucket says"
    )


_CLOUD_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")


class StoredAccess(Access):
    """How to reach one cloud, and how its buckets are read and written."""

    storage: Storage = Field(default=Storage(), description="how its buckets are read and written")

    @model_validator(mode="after")
    def _storage_is_of_the_cloud(self) -> StoredAccess:
        storage = self.storage
        of_google = storage.kms_key is not None and _CLOUD_KEY.fullmatch(storage.kms_key) is not None
        if storage.kms_key is not None and of_google != (self.cloud == "gcp"):
            form = "projects/P/locations/L/keyRings/R/cryptoKeys/K" if self.cloud == "gcp" else "an ARN of AWS KMS"
            message = f"storage.kms_key is no key of {self.cloud}; write {form}"
            raise ValueError(message)
        if storage.requester_pays and self.cloud == "gcp" and not self.project:
            message = "storage.requester_pays says that this site's project pays, and there is none; write project: ID"
            raise ValueError(message)
        return self


class Site(StoredAccess):
    """A named set of endpoints in one failure domain."""

    name: str = Field(min_length=1, description="how people call the site, such as aws-use1; never active or standby")


class Sites(_Strict):
    """The two sites. Who is active is in the register."""

    home: Site = Field(description="where the service usually runs")
    away: Site = Field(description="where its standby is kept")


class VerifySettings(_Strict):
    """How often the vault is read to see that it can be read.

    Each time the listing is compared whole, and a share is read and decoded; the shares follow one another, so that
    1% has read everything after at most 101 of them, where ``most`` does not end them sooner. Everything at once is
    read as often as ``deep`` says.
    """

    every: Every = Field(default="03:00", description="when a share is read: a period, or times of day in UTC")
    sample: Share = Field(
        default=0.01,
        description="how much is read each time, as a share of the vault's bytes",
        json_schema_extra={"default": "1%"},
    )
    most: Amount = Field(
        default=50 * 10**9,
        description="no more than this is read for each sample, save one whole object and what chunks are decoded from",
        json_schema_extra={"default": "50GB"},
    )
    deep: Target = Field(
        default=timedelta(days=7), description="how often everything is read, at one of those times; none: never"
    )

    @property
    def gap(self) -> timedelta:
        """The longest time between two of the times."""
        return longest_gap(self.every)


class KeepSettings(_Strict):
    """Which versions of each model, and which sets, a prune leaves in the vault; what is served or newest stays."""

    last: int = Field(default=0, ge=0, description="the newest so many versions, and so many sets")
    daily: int = Field(default=0, ge=0, description="the newest of each of the last so many days that had any (UTC)")
    weekly: int = Field(default=0, ge=0, description="the newest of each of the last so many weeks that had any (UTC)")
    tagged: bool | tuple[str, ...] = Field(
        default=False, description="true: whatever has a tag; names: what has one of these tags"
    )

    @model_validator(mode="after")
    def _something_is_kept(self) -> KeepSettings:
        if not (self.last or self.daily or self.weekly):
            raise ValueError("keeps no version by its age; write last: 10, or remove keep: then a prune takes none out")
        return self


def check_condemned_for(value: timedelta) -> timedelta:
    """Refuse a wait that is shorter than the life of a writer, and a day."""
    if value < CONDEMNED_FOR_MIN:
        raise ValueError("is shorter than a push may take; write 3d or more")
    return value


class VaultSettings(_Strict):
    """The vault that replication fills: one bucket at the away site, and one at home for the way back."""

    url: Url = Field(description="the bucket, or a prefix of one, at the away site")
    home_url: Url | None = Field(default=None, description="the same at the home site, for the way back")
    sign_with: Reference | None = Field(
        default=None, description="the private Ed25519 key of the replicator; absent: manifests are not signed"
    )
    trust: tuple[PublicKey, ...] = Field(
        default=(), description="public keys (ed25519:BASE64) whose manifests are read; empty: signatures are not asked"
    )
    encrypt_with: Reference | None = Field(
        default=None,
        description="the key that the vault is encrypted with, and older ones behind it, of vault keygen --encryption; "
        "who loses it loses the vault; absent: the vault is not encrypted here",
    )
    keep: KeepSettings | None = Field(
        default=None, description="what a prune leaves in the vault; absent: it takes no version out"
    )
    condemned_for: Annotated[Duration, AfterValidator(check_condemned_for)] = Field(
        default=timedelta(days=7),
        description="how long a prune waits before it deletes what it has condemned; 3d at least",
    )
    cold_after: Duration | None = Field(
        default=None,
        description="a prune moves packs that only versions older than this need, and nothing that is served, newest "
        "or in a set, to colder storage, which reads at once; absent: none",
    )
    prune_every: Every | None = Field(
        default=None, description="how often a prune runs by itself; absent: by hand alone, understudy vault prune"
    )
    verify: VerifySettings | None = Field(
        default=VerifySettings(), description="how often the vault itself is read back; null: never by schedule"
    )


class RegisterSettings(StoredAccess):
    """The epoch and the leases: one small object with compare-and-set, in neither site."""

    url: Url = Field(description="the bucket, or a prefix of one, in neither site")
    lease: Duration = Field(
        default=timedelta(seconds=15), description="writers stop when they could not renew for this long"
    )


class Probe(_Strict):
    """What a healthy instance answers."""

    path: str = Field(default="/recommend", description="where it is asked")
    body: dict[str, Any] = Field(
        default_factory=lambda: {"entity": "canary"}, description="the JSON that it is asked with"
    )
    p95: Duration = Field(
        default=timedelta(milliseconds=100), description="19 of 20 answers must come within this time"
    )


class Pair(_Strict):
    """One thing at both sites."""

    name: str = Field(min_length=1, description="how people call it; no two pairs share a name")
    home: Url = Field(description="where it is at the home site")
    away: Url = Field(description="where it is at the away site")
    every: Every = Field(description="how often it is copied: a period, or times of day in UTC")
    offline: Url | None = Field(
        default=None, description="features, which must have it: the offline store at the home site"
    )
    password: Reference | None = Field(default=None, description="of the databases at both sites")


class Component(_Strict):
    """What has its own recovery time and recovery point."""

    rto: Duration = Field(description="the longest time until it serves again")
    rpo: Target = Field(description="the longest time whose changes may be lost; none: it holds nothing of its own")
    pairs: tuple[Pair, ...] = Field(default=(), description="what is copied")
    health: str = Field(default="/health", description="where an instance says that it is well")
    probe: Probe | None = Field(default=None, description="a question that a healthy instance answers")


class Traffic(Access):
    """Which site the service's name leads to."""

    url: Url = Field(description="the records of the service's name")
    port: int = Field(default=443, ge=1, le=65535, description="where the service answers, at both sites")
    scheme: Literal["http", "https"] = Field(default="https", description="how it is spoken to")
    addresses: Annotated[dict[SiteRole, str], AfterValidator(check_both)] = Field(
        description="the load balancer of each site"
    )
    ttl_max: Duration = Field(default=timedelta(seconds=60), description="how long clients may keep an old answer")
    ramp: Annotated[tuple[int, ...], AfterValidator(check_ramp)] = Field(
        default=(10, 50, 100), description="the shares of traffic, in percent, by which the other site is given it"
    )
    resolvers: tuple[str, ...] = Field(
        default=(), description="host:port of the resolvers asked during cutover; empty: the system's"
    )


class Capacity(_Strict):
    """How many instances serve at the away site, warm and in full."""

    away: Url = Field(description="the group of instances at the away site")
    home: Url | None = Field(default=None, description="the group of instances at the home site, for the way back")
    warm: int = Field(ge=0, description="instances that always run at the standby")
    full: int = Field(ge=1, description="instances that carry all of the traffic")
    wait: Duration = Field(default=timedelta(minutes=5), description="how long a failover waits for instances")

    @model_validator(mode="after")
    def _full_is_not_less_than_warm(self) -> Capacity:
        if self.warm > self.full:
            message = f"keeps {self.warm} warm and {self.full} in full; write a full that is not less than warm"
            raise ValueError(message)
        return self


class Alerts(Access):
    """What the monitoring watches; re-pointed at the site that serves."""

    url: Url = Field(description="the health check that alarms look at")


def check_warm(value: str) -> str:
    """Refuse what is no URL over HTTP, or names the same URL for every file."""
    if not value.startswith(("https://", "http://")):
        raise ValueError("is no URL over HTTP; write https://cdn.example/models/{path}")
    if "{path}" not in value and "{file}" not in value:
        raise ValueError("names one URL for all files; write {path} where each file's path belongs")
    return value


class Serving(_Strict):
    """What follows when a site's pointer has moved to a new model: its CDN is warmed, and its loading is timed."""

    warm: tuple[Annotated[Url, AfterValidator(check_warm)], ...] = Field(
        default=(),
        description="URLs of the served files through the CDN: {path} is MODEL/VERSION/FILE, {file}, {model} and "
        "{version} its parts; each is read once after the pointer moved",
    )
    piece: Amount | None = Field(
        default=None, description="files are asked for in ranges of this length, as a CDN keeps them; absent: whole"
    )
    at_once: int = Field(default=4, ge=1, le=64, description="so many URLs are read at once")
    warm_bytes: Amount = Field(
        default=100 * 10**9,
        description="no more than about this is read through the CDN",
        json_schema_extra={"default": "100GB"},
    )
    warm_for: Duration = Field(default=timedelta(minutes=10), description="warming ends after this, done or not")
    loaded: str | None = Field(
        default=None,
        min_length=1,
        description="the field of the health check's JSON answer that names the model's version or digest, such as "
        "model or model.version; it is asked at the site's load balancer until the new one is there; absent: not asked",
    )
    load_seconds: str | None = Field(
        default=None, min_length=1, description="the field in which the service itself says how long loading took"
    )
    loaded_for: Duration = Field(default=timedelta(minutes=5), description="how long is waited for that at most")


class Metrics(_Strict):
    """Where measurements go, and who is pinged after each verified replication."""

    otlp: Url | None = Field(default=None, description="an OTLP/HTTP collector, http://host:4318")
    ping: Reference | None = Field(
        default=None, description="the URL of a dead man's switch outside Prefect, by reference: it is a secret"
    )


class Limits(_Strict):
    """A limit on everything."""

    memory: str = Field(
        default="600MB",
        pattern=r"^[0-9]+(\.[0-9]+)?(kB|MB|GB)$",
        description="what a run is built to stay below on a worker; to plan its size with, it is not enforced",
    )
    deletes_max: int = Field(
        default=100, ge=0, description="a rebuild that would drop more rows or cells stops and asks"
    )
    plan_fresh: Duration = Field(default=timedelta(minutes=10), description="how long a failover plan may be run")
    bandwidth: Rate | None = Field(
        default=None,
        description="how fast one run may copy between the sites, over all its threads; absent: as fast as it goes",
    )
    transfer_month: Amount | None = Field(
        default=None,
        description="how many bytes may be copied between the sites in a calendar month, by all runs together; a copy "
        "that would send more stops, a failover never does; absent: they are not counted",
    )


class Settings(_Strict):
    """One service and its standby."""

    service: str = Field(
        pattern=r"^[a-z][a-z0-9-]{0,62}$", description="the service's name: lowercase letters, digits and dashes"
    )
    sites: Sites = Field(description="where the service can run; who is active is in the register, never here")
    vault: VaultSettings = Field(description="where copies go: all that is needed to run the service at the away site")
    register_: RegisterSettings = Field(
        alias="register", description="who is active: one small object with compare-and-set, in neither site"
    )
    components: dict[ComponentName, Component] = Field(
        description="what is protected, each with its own targets; pairs name both sites"
    )
    traffic: Traffic = Field(description="which site the service's name leads to")
    capacity: Capacity = Field(description="the instances of the away site")
    alerts: Alerts | None = Field(default=None, description="what the monitoring watches; absent: it is not re-pointed")
    limits: Limits = Field(default=Limits(), description="a limit on everything")
    serving: Serving = Field(default=Serving(), description="what follows when a site's model pointer has moved")
    metrics: Metrics = Field(default=Metrics(), description="where measurements go")
    runner: Runner = Field(
        default="threads",
        description="who reads and sends models: threads of the run itself, or the workers of a Dask or Ray cluster, "
        "which need this config, its credentials and this software too",
    )
    runner_address: str | None = Field(
        default=None,
        description="Dask: the scheduler (tcp://host:8786); Ray: the head (ray://host:10001); absent: a cluster of "
        "processes on the run's own machine, for as long as the run",
    )
    notify: tuple[Reference, ...] = Field(
        default=(), description="Prefect notification blocks, block:slack-webhook/NAME or block:pager-duty-webhook/NAME"
    )

    _source: Source | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _address_is_of_a_cluster(self) -> Settings:
        if self.runner_address and self.runner == "threads":
            raise ValueError("has a runner_address, but runner: threads has no cluster; write dask or ray there")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        names = [pair.name for _, pair in self.all_pairs()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"two pairs are named {twice[0]}; give each its own name"
            raise ValueError(message)
        return self

    def read_from(self, source: Source) -> Settings:
        """Remember the file that these settings stand in, so that what is wrong can be said with its line."""
        self._source = source
        return self

    def line(self, *place: str | int) -> tuple[str, int]:
        """Return (file, line) of a setting, such as ``("vault", "url")``; ("", 0) when there is no file."""
        return (self._source.file, self._source.line(*place)) if self._source else ("", 0)

    def all_pairs(self) -> list[tuple[ComponentName, Pair]]:
        """Return (component, pair) of every pair, in the order of the config."""
        return [(name, pair) for name, component in self.components.items() for pair in component.pairs]

    def site_names(self) -> dict[SiteRole, str]:
        """Return what people call each site, by its role in the config."""
        return {"home": self.sites.home.name, "away": self.sites.away.name}

    def references(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield (place, reference) of every secret and every block that the config names."""
        accesses: list[tuple[tuple[str, ...], Access | None]] = [
            (("sites", "home"), self.sites.home),
            (("sites", "away"), self.sites.away),
            (("register",), self.register_),
            (("traffic",), self.traffic),
            (("alerts",), self.alerts),
        ]
        yield from (
            ((*place, "credentials"), access.credentials) for place, access in accesses if access and access.credentials
        )
        if self.vault.sign_with:
            yield ("vault", "sign_with"), self.vault.sign_with
        if self.vault.encrypt_with:
            yield ("vault", "encrypt_with"), self.vault.encrypt_with
        for component, configured in self.components.items():
            yield from (
                (("components", component, "pairs", number, "password"), pair.password)
                for number, pair in enumerate(configured.pairs)
                if pair.password
            )
        if self.metrics.ping:
            yield ("metrics", "ping"), self.metrics.ping
        yield from ((("notify", number), block) for number, block in enumerate(self.notify))

    def site(self, role: SiteRole) -> Site:
        """Return the site configured as home or away."""
        return self.sites.home if role == "home" else self.sites.away

    def role_of(self, name: str) -> SiteRole:
        """Return whether the site of that name is configured as home or away. Raises InvalidConfig."""
        if name in ("home", self.sites.home.name):
            return "home"
        if name in ("away", self.sites.away.name):
            return "away"
        message = f"there is no site {name!r}"
        raise InvalidConfig(message, hint=f"write {self.sites.home.name} or {self.sites.away.name}")

    def pair(self, component: ComponentName, name: str | None = None) -> Pair:
        """Return a component's pair by name, or its only one. Raises InvalidConfig."""
        pairs = self.components[component].pairs if component in self.components else ()
        for pair in pairs:
            if name in (None, pair.name):
                return pair
        known = ", ".join(pair.name for pair in pairs) or "none"
        message = f"components.{component} has no pair {name!r}" if name else f"components.{component} has no pair"
        raise InvalidConfig(message, hint=f"configured: {known}")


def other(role: SiteRole) -> SiteRole:
    """Return the other site's role in the config."""
    return "away" if role == "home" else "home"


_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")

#: Which noun a pair of a component is, and the places of all other adapters' URLs.
PAIR_NOUNS: dict[str, Noun] = {"feature_store": "features", "vector_index": "vectors", "training": "objects"}
URL_NOUNS: dict[tuple[str, str], Noun] = {
    ("vault", "url"): "objects",
    ("vault", "home_url"): "objects",
    ("register", "url"): "objects",
    ("traffic", "url"): "traffic",
    ("capacity", "away"): "compute",
    ("capacity", "home"): "compute",
    ("alerts", "url"): "alerts",
}


def config_path(path: str | os.PathLike[str] | None = None) -> Path:
    """Return which config file is meant (None: ``$UNDERSTUDY_CONFIG``, then ``config/production.yaml``)."""
    return Path(path or os.environ.get("UNDERSTUDY_CONFIG") or "config/production.yaml")


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read and check a config file; ``${NAME}`` in it is taken from the environment.

    Args:
        path: the file; None takes ``$UNDERSTUDY_CONFIG``, then ``config/production.yaml``.

    Raises:
        InvalidSettings: all that is wrong at once, each with file:line and what to write.
        InvalidConfig: there is no such file.
    """
    chosen = config_path(path)
    try:
        text = chosen.read_text(encoding="utf-8")
    except OSError as error:
        message = f"{chosen} cannot be read: {error.strerror}"
        raise InvalidConfig(message, hint="name the config with -c FILE or UNDERSTUDY_CONFIG") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{chosen} is not text in UTF-8", hint="save it as UTF-8") from error
    missing = [
        Problem(str(chosen), number, "", f"${{{name}}} is not set in the environment; set it, or write the value")
        for number, line in enumerate(text.splitlines(), 1)
        for name in _VARIABLE.findall(_without_comment(line))
        if name not in os.environ
    ]
    if missing:
        raise InvalidSettings(missing)
    text = _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text)
    source = Source(str(chosen), text)
    try:
        loader = yaml.SafeLoader if not hasattr(yaml, "CSafeLoader") else yaml.CSafeLoader
        document = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe ones
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        words = f"is not YAML: {getattr(error, 'problem', None) or type(error).__name__}"
        raise InvalidSettings([Problem(str(chosen), mark.line + 1 if mark else 0, "", words)]) from error
    strange = [source.problem(place, words) for place, words in (*_wrong_urls(document), *_without_offline(document))]
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        problems = [_explain(source, problem) for problem in error.errors(include_url=False, include_context=False)]
        said = {problem.setting for problem in problems}
        raise InvalidSettings([*problems, *(one for one in strange if one.setting not in said)]) from None
    if strange:
        raise InvalidSettings(strange)
    return settings.read_from(source)


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line


def _explain(source: Source, problem: Any) -> Problem:  # noqa: ANN401 - pydantic's ErrorDetails
    place = tuple(part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function")))
    if place and place[-1] == "[key]":
        place = place[:-1]
    words = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        words = "is not a setting; remove it or correct its name"
    elif problem["type"] == "missing":
        words = "is missing; write it"
    return source.problem(place, words)


def _wrong_urls(document: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: ANN401 - any YAML
    """Yield (place, what is wrong) of every adapter's URL whose vendor is not known, or that lacks a part."""
    from understudy.urls import wrong_url

    for place, noun, url in adapter_urls(document):
        if words := wrong_url(noun, url):
            yield place, words


def _without_offline(document: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:  # noqa: ANN401 - any YAML
    """Yield (place, what is wrong) of every feature pair that names no offline store, nor is one at home itself."""
    from understudy.opening import forms
    from understudy.urls import wrong_url

    pairs = _inside(document, "components", "feature_store", "pairs")
    for number, pair in enumerate(pairs if isinstance(pairs, list) else []):
        home = _inside(pair, "home")
        if _inside(pair, "offline") is None and isinstance(home, str) and wrong_url("objects", home):
            words = f"is missing; write where the service keeps its features: {forms('objects')}"
            yield ("components", "feature_store", "pairs", number, "offline"), words


def adapter_urls(document: Any) -> Iterator[tuple[tuple[str | int, ...], Noun, str]]:  # noqa: ANN401 - any YAML
    """Yield (place, noun, URL) of every adapter's URL in a config's YAML, whatever else may be wrong with it."""
    for place, noun in URL_NOUNS.items():
        found = _inside(document, *place)
        if isinstance(found, str):
            yield place, noun, found
    for component, noun in PAIR_NOUNS.items():
        pairs = _inside(document, "components", component, "pairs")
        for number, pair in enumerate(pairs if isinstance(pairs, list) else []):
            for name in ("home", "away", "offline"):
                url = _inside(pair, name)
                if isinstance(url, str):
                    yield ("components", component, "pairs", number, name), _noun_of(name, noun), url


def _noun_of(setting: str, noun: Noun) -> Noun:
    return "objects" if setting == "offline" else noun


def _inside(value: Any, *path: str) -> Any:  # noqa: ANN401 - any YAML
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def split_url(url: str) -> tuple[str, str, str]:
    """Return (scheme, bucket or host, path without its leading slash) of an adapter's URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path.lstrip("/")
