"""The schema of config/*.yaml: sites, components with their targets and pairs, vault, register, traffic, capacity.

What is secret stands here by reference only (``env:NAME``, ``file:/path``, ``block:type/name``), and who is active
stands in the register, never here.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from understudy.errors import InvalidConfig

SiteRole = Literal["home", "away"]
ComponentName = Literal["inference", "feature_store", "vector_index", "training", "evaluation"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_CLOCKS = re.compile(r"([01]\d|2[0-3]):[0-5]\d(,\s*([01]\d|2[0-3]):[0-5]\d)*")


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


def check_url(value: object) -> object:
    """Refuse a password inside a URL: it would be shown wherever the URL is."""
    if (
        isinstance(value, str)
        and "://" in value
        and ":" in value.partition("://")[2].rpartition("@")[0].partition("/")[0]
    ):
        raise ValueError("has a password in it; take it out and name it under password: env:NAME")
    return value


def check_reference(value: object) -> object:
    """Accept ``env:``, ``file:`` and ``block:`` references; refuse what looks like the secret itself."""
    if isinstance(value, str) and not value.startswith(("env:", "file:", "block:")):
        message = "is not a reference; write env:NAME, file:/path or block:type/name, never the secret itself"
        raise ValueError(message)
    return value


def check_both(value: dict[SiteRole, str]) -> dict[SiteRole, str]:
    """Refuse a mapping that names only one of the two sites."""
    if set(value) != {"home", "away"}:
        raise ValueError("names one site only; write both home and away")
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Target = Annotated[timedelta | None, BeforeValidator(parse_target)]
Every = Annotated[timedelta | str, BeforeValidator(parse_every)]
Reference = Annotated[str, BeforeValidator(check_reference)]
Url = Annotated[str, BeforeValidator(check_url)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Access(_Strict):
    """How to reach one cloud: the cloud, region, credentials by reference, and endpoint overrides for tests."""

    cloud: Literal["aws", "gcp"] = "aws"
    region: str = "us-east-1"
    project: str | None = None
    credentials: Reference | None = Field(
        default=None, description="env:VARIABLE or file:/path of a credentials file; absent: the cloud's own chain"
    )
    endpoints: dict[str, Url] = Field(
        default_factory=dict, description="API name (s3, dynamodb, route53, gcs, bigtable, compute) to URL or host:port"
    )


class Site(Access):
    """A named set of endpoints in one failure domain."""

    name: str


class Sites(_Strict):
    """The two sites. Who is active is in the register."""

    home: Site
    away: Site


class VaultSettings(_Strict):
    """The vault that replication fills: one bucket at the away site, and one at home for the way back."""

    url: Url
    home_url: Url | None = None
    sign_with: Reference | None = Field(
        default=None, description="the private Ed25519 key of the replicator; absent: manifests are not signed"
    )
    trust: tuple[str, ...] = Field(
        default=(), description="public keys (ed25519:BASE64) whose manifests are read; empty: signatures are not asked"
    )


class RegisterSettings(Access):
    """The epoch and the leases: one small object with compare-and-set, in neither site."""

    url: Url
    lease: Duration = Field(
        default=timedelta(seconds=15), description="writers stop when they could not renew for this long"
    )


class Probe(_Strict):
    """What a healthy instance answers."""

    path: str = "/recommend"
    body: dict[str, Any] = Field(default_factory=lambda: {"entity": "canary"})
    p95: Duration = timedelta(milliseconds=100)


class Pair(_Strict):
    """One thing at both sites."""

    name: str
    home: Url
    away: Url
    every: Every
    offline: Url | None = Field(default=None, description="features: the offline store at the home site")
    password: Reference | None = None


class Component(_Strict):
    """What has its own recovery time and recovery point."""

    rto: Duration
    rpo: Target
    pairs: tuple[Pair, ...] = ()
    health: str = "/health"
    probe: Probe | None = None


class Traffic(Access):
    """Which site the service's name leads to."""

    url: str = Field(description="route53://ZONE_ID/name.example.com")
    port: int = 443
    scheme: Literal["http", "https"] = "https"
    addresses: Annotated[dict[SiteRole, str], AfterValidator(check_both)] = Field(
        description="the load balancer of each site"
    )
    ttl_max: Duration = timedelta(seconds=60)
    ramp: tuple[int, ...] = (10, 50, 100)
    resolvers: tuple[str, ...] = Field(
        default=(), description="host:port of the resolvers asked during cutover; empty: the system's"
    )


class Capacity(_Strict):
    """How many instances serve at the away site, warm and in full."""

    away: str = Field(description="gce://zone/group")
    home: str | None = None
    warm: int = Field(ge=0)
    full: int = Field(ge=1)
    wait: Duration = timedelta(minutes=5)


class Alerts(Access):
    """What the monitoring watches; re-pointed at the site that serves."""

    url: str = Field(description="route53-health-check://ID")


class Metrics(_Strict):
    """Where measurements go, and who is pinged after each verified replication."""

    otlp: Url | None = Field(default=None, description="an OTLP/HTTP collector, http://host:4318")
    ping: Reference | None = Field(
        default=None, description="the URL of a dead man's switch outside Prefect, by reference: it is a secret"
    )


class Limits(_Strict):
    """A limit on everything."""

    memory: str = "600MB"
    deletes_max: int = Field(
        default=100, ge=0, description="a rebuild that would drop more rows or cells stops and asks"
    )
    plan_fresh: Duration = timedelta(minutes=10)


class Settings(_Strict):
    """One service and its standby."""

    service: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    sites: Sites
    vault: VaultSettings
    register_: RegisterSettings = Field(alias="register")
    components: dict[ComponentName, Component]
    traffic: Traffic
    capacity: Capacity
    alerts: Alerts | None = None
    limits: Limits = Limits()
    metrics: Metrics = Metrics()
    notify: tuple[Reference, ...] = Field(
        default=(), description="Prefect notification blocks, block:slack-webhook/NAME or block:pager-duty-webhook/NAME"
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        names = [pair.name for component in self.components.values() for pair in component.pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"two pairs are named {twice[0]}; give each its own name"
            raise ValueError(message)
        return self

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


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read and check a config file; ``${NAME}`` in it is taken from the environment.

    Args:
        path: the file; None takes ``$UNDERSTUDY_CONFIG``, then ``config/production.yaml``.

    Raises:
        InvalidConfig: all that is wrong at once, each with file:line and what to write.
    """
    chosen = Path(path or os.environ.get("UNDERSTUDY_CONFIG") or "config/production.yaml")
    try:
        text = chosen.read_text(encoding="utf-8")
    except OSError as error:
        message = f"{chosen} cannot be read: {error.strerror}"
        raise InvalidConfig(message, hint="name the config with -c FILE or UNDERSTUDY_CONFIG") from error
    missing = sorted({name for name in _VARIABLE.findall(text) if name not in os.environ})
    if missing:
        message = f"{chosen} needs the environment variable {', '.join(missing)}"
        raise InvalidConfig(message, hint="set it, or write the value in its place")
    text = _VARIABLE.sub(lambda match: os.environ[match[1]], text)
    try:
        loader = yaml.SafeLoader if not hasattr(yaml, "CSafeLoader") else yaml.CSafeLoader
        document = yaml.load(text, Loader=loader)  # noqa: S506 - both loaders are safe ones
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        message = f"{chosen}{line} is not YAML: {getattr(error, 'problem', error)}"
        raise InvalidConfig(message) from error
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise InvalidConfig(_explain(chosen, text, error)) from error


def _explain(path: Path, text: str, error: ValidationError) -> str:
    lines = []
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for problem in error.errors():
        place = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function"))]
        words = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            words = "is not a setting; remove it or correct its name"
        elif problem["type"] == "missing":
            words = "is missing; write it"
        dotted = ".".join(str(part) for part in place)
        lines.append(f"{path}:{_line_of(root, place)} {dotted}: {words}" if dotted else f"{path}: {words}")
    return "\n".join(lines)


def _line_of(node: yaml.Node | None, place: list[Any]) -> int:
    line = 1
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


def split_url(url: str) -> tuple[str, str, str]:
    """Return (scheme, bucket or host, path without its leading slash) of an adapter's URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path.lstrip("/")
