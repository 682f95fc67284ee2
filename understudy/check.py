"""Whether a config would work: what it says by itself, then all that it names, tried side by side."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from understudy import opening, secrets
from understudy.errors import InvalidConfig, Transient, UnderstudyError
from understudy.finding import Finding
from understudy.report import human_seconds
from understudy.settings import PAIR_NOUNS, URL_NOUNS, longest_gap
from understudy.threads import TookTooLong, within
from understudy.trials import TRIAL_SECONDS, attempt, measured, trials_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.opening import Noun
    from understudy.service import Service
    from understudy.settings import Access, Settings, SiteRole

#: What stands in a fresh config for the names that only its owner knows.
PLACEHOLDER = "FILL-IN"

_REGIONS = {"aws": "[a-z]{2}(-[a-z]+){1,3}-[0-9]+", "gcp": "[a-z]+-[a-z]+[0-9]+|us|eu|asia"}
_REGION_EXAMPLES = {"aws": "us-east-1", "gcp": "us-central1"}
_FENCE_MARGIN_SECONDS = 2.0
Place = tuple[str | int, ...]


def check_service(
    service: Service, *, offline: bool = False, writes: bool = True, seconds: float = TRIAL_SECONDS
) -> list[Finding]:
    """Return everything that was tried, whether it holds or not; never raises for what it finds.

    Args:
        service: whose config it is.
        offline: what the config says by itself, its secrets and its schedules; the network is left alone.
        writes: try by probes whether what must be written can be; without, nothing is changed anywhere.
        seconds: how long one trial may take; all run side by side.
    """
    settings = service.settings
    findings = [*check_values(settings), *check_secrets(settings, seconds=seconds)]
    usual: dict[str, float] | None = {}
    if not offline:
        missing = frozenset(finding.what.removeprefix("secret ") for finding in findings if _is_secret_missing(finding))
        findings += attempt(settings, trials_of(service, writes=writes), missing=missing, seconds=seconds)
        usual = _measured(service, seconds) if all(one.ok for one in findings if one.what.startswith("vault ")) else {}
    return [*findings, *check_schedules(settings, usual)]


def exit_code(findings: list[Finding]) -> int:
    """Return 0 when all holds, 9 when all that fails did not answer, else 3."""
    failed = [finding for finding in findings if not finding.ok]
    if not failed:
        return 0
    return 9 if all(finding.exit_code == Transient.exit_code for finding in failed) else 3


def check_schedules(settings: Settings, usual_seconds: dict[str, float] | None = None) -> list[Finding]:
    """Return a finding a pair: its period and usual duration together must stay below the component's RPO.

    Args:
        settings: the config.
        usual_seconds: how long a pair's replication usually takes, by the pair's name; unknown counts as 0.
    """
    findings = []
    for name, component in settings.components.items():
        for number, pair in enumerate(component.pairs):
            period = longest_gap(pair.every)
            known = (usual_seconds or {}).get(pair.name)
            usual = timedelta(seconds=known or 0.0)
            took = "no run was measured yet" if known is None else f"the last copy took {human_seconds(known)}"
            words = f"every {human_seconds(period.total_seconds())}; {took}"
            ok = component.rpo is None or period + usual < component.rpo
            if not ok and component.rpo is not None:
                words = (
                    f"every {human_seconds(period.total_seconds())} plus {human_seconds(usual.total_seconds())} "
                    f"of work reaches the RPO of {name}, {human_seconds(component.rpo.total_seconds())}; "
                    "write a shorter period, or a second time of day, under every"
                )
            place = ("components", name, "pairs", number, "every")
            findings.append(_finding(settings, f"schedule {pair.name}", place, words, ok=ok))
    return findings


def check_secrets(settings: Settings, *, seconds: float = TRIAL_SECONDS) -> list[Finding]:
    """Return a finding a reference: whether what it leads to is there, and of use. Its text is never shown."""
    findings = []
    seen: set[str] = set()
    for place, reference in settings.references():
        if place[0] == "notify":
            words = "is read by Prefect alone; not tried here"
            findings.append(_finding(settings, f"block {reference.removeprefix('block:')}", place, words, ok=True))
            continue
        access = _access_of(settings, place)
        if (key := f"{reference} {access.cloud if access else place[-1]}") in seen:
            continue
        seen.add(key)
        what = f"secret {reference}"
        try:
            words = within(seconds, partial(_of_use, settings, place, reference, access), name=what)
            findings.append(_finding(settings, what, place, words, ok=True))
        except UnderstudyError as error:
            findings.append(_failure(settings, what, place, error))
        except TookTooLong:
            words = f"was not read within {human_seconds(seconds)}"
            findings.append(_finding(settings, what, place, words, ok=False))
    return findings


def _access_of(settings: Settings, place: Place) -> Access | None:
    """Return whose credentials stand at a place, None when it is another kind of secret."""
    if place[-1] != "credentials":
        return None
    if place[0] == "sites":
        return settings.sites.home if place[1] == "home" else settings.sites.away
    return {"register": settings.register_, "traffic": settings.traffic, "alerts": settings.alerts}[str(place[0])]


def _of_use(settings: Settings, place: Place, reference: str, access: Access | None) -> str:
    """Resolve a reference and look whether it is of the right kind. Raises UnderstudyError."""
    secret = secrets.resolve(reference)
    if access is not None and access.cloud == "aws":
        from understudy.clouds import aws

        aws.read_credentials(secret.reveal(), reference)
        return "is there: AWS credentials"
    if access is not None:
        opening.try_credentials(access)
        return "is there: Google Cloud credentials"
    if place == ("vault", "sign_with"):
        from understudy.vault.signing import Signing

        Signing(settings.service, trust=settings.vault.trust, private_key=secret.reveal).ready()
        return "is there: a key" + (" that vault.trust names" if settings.vault.trust else "; vault.trust is empty")
    if place == ("vault", "encrypt_with"):
        from understudy.vault.encryption import read_keys

        first, *others = (key.id for key in read_keys(secret.reveal()))
        older = f", and for reading {', '.join(others)}" if others else ""
        return f"is there: {first}{older}; who loses it loses the vault, so keep a copy of it apart"
    if place == ("metrics", "ping"):
        if not secret.reveal().startswith(("https://", "http://")):
            raise InvalidConfig("what metrics.ping refers to is no URL", hint="write the whole URL there")
        return "is there: a URL, not called, for a call says that a copy was verified"
    return "is there"


def check_values(settings: Settings) -> list[Finding]:
    """Return what the settings say against each other, and what still has to be filled in; empty when all is well."""
    found = [
        *_placeholders(settings),
        *_clouds(settings),
        *_places_apart(settings),
        *_register_apart(settings),
        *_times(settings),
    ]
    return [_finding(settings, ".".join(str(part) for part in place), place, words, ok=False) for place, words in found]


def _placeholders(settings: Settings) -> Iterator[tuple[Place, str]]:
    def walk(value: Any, place: Place) -> Iterator[tuple[Place, str]]:  # noqa: ANN401 - any YAML
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(inner, (*place, name))
        elif isinstance(value, list | tuple):
            for number, inner in enumerate(value):
                yield from walk(inner, (*place, number))
        elif isinstance(value, str) and PLACEHOLDER in value:
            yield place, f"still says {PLACEHOLDER}; write your own"

    yield from walk(settings.model_dump(by_alias=True), ())


def _adapters(settings: Settings) -> Iterator[tuple[Place, Noun, str, tuple[Place, Access]]]:
    """Yield (place, noun, URL, (place of its access, access)) of every adapter that the config names."""
    sites = {role: (("sites", role), settings.site(role)) for role in _ROLES}
    whose: dict[tuple[str, str], tuple[Place, Access]] = {
        ("vault", "url"): sites["away"],
        ("vault", "home_url"): sites["home"],
        ("register", "url"): (("register",), settings.register_),
        ("traffic", "url"): (("traffic",), settings.traffic),
        ("capacity", "away"): sites["away"],
        ("capacity", "home"): sites["home"],
    }
    if settings.alerts is not None:
        whose["alerts", "url"] = (("alerts",), settings.alerts)
    for place, access in whose.items():
        section = settings.register_ if place[0] == "register" else getattr(settings, place[0])
        if url := getattr(section, place[1]):
            yield place, URL_NOUNS[place], url, access
    for component, noun in PAIR_NOUNS.items():
        found = settings.components.get(component)  # type: ignore[call-overload]
        for number, pair in enumerate(found.pairs if found else ()):
            where: Place = ("components", component, "pairs", number)
            yield (*where, "home"), noun, pair.home, sites["home"]
            yield (*where, "away"), noun, pair.away, sites["away"]
            if pair.offline:
                yield (*where, "offline"), "objects", pair.offline, sites["home"]


_ROLES: tuple[SiteRole, ...] = ("home", "away")


def _clouds(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Find a URL of one cloud that is opened with the credentials of the other, and regions that are of neither."""
    clouds = {(vendor.noun, vendor.scheme): vendor.extra for vendor in opening.VENDORS}
    seen = set()
    for place, noun, url, (owner, access) in _adapters(settings):
        scheme = urlsplit(url).scheme
        cloud = clouds.get((noun, scheme), "")
        if cloud in ("aws", "gcp") and cloud != access.cloud and not access.endpoints:
            dotted = ".".join(str(part) for part in owner)
            yield place, f"{scheme}:// is of {cloud}, and {dotted}.cloud is {access.cloud}; correct one of them"
        elif cloud and owner not in seen:
            seen.add(owner)
            if not access.endpoints and not re.fullmatch(_REGIONS[access.cloud], access.region):
                example = _REGION_EXAMPLES[access.cloud]
                yield (*owner, "region"), f"{access.region} is no region of {access.cloud}; write one such as {example}"


def _places_apart(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Find two things in one place: a copy beside its original is lost with it, or one would overwrite the other."""
    seen: list[tuple[Place, str]] = []
    for place, noun, url, (_, access) in _adapters(settings):
        if noun not in PAIR_NOUNS.values():
            continue
        parts = urlsplit(url)
        # The endpoint belongs to the address: two sites on one machine differ by nothing else.
        region = access.region if parts.scheme == "dynamodb" else ""  # whose names are a region's own
        endpoint = sorted(access.endpoints.items())
        address = f"{parts.scheme}://{parts.netloc} {region} {endpoint} {parts.query}/{parts.path.strip('/')}"
        address = f"{address.rstrip('/')}/"
        for other, taken in seen:
            if address.startswith(taken) or taken.startswith(address):
                dotted = ".".join(str(part) for part in other)
                yield place, f"is the same place as {dotted}, or inside it; give each a bucket or prefix of its own"
                break
        seen.append((place, address))


def _register_apart(settings: Settings) -> Iterator[tuple[Place, str]]:
    register = settings.register_
    if urlsplit(register.url).scheme == "file":  # a folder stands in no region
        return
    for role in _ROLES:
        site = settings.site(role)
        if (register.cloud, register.region) == (site.cloud, site.region) and not register.endpoints:
            words = (
                f"{register.region} is the region of {site.name}; when it falls nobody can claim an epoch; "
                "write a bucket in a third region"
            )
            yield ("register", "region" if "region" in register.model_fields_set else "url"), words


def _times(settings: Settings) -> Iterator[tuple[Place, str]]:
    inference = settings.components.get("inference")
    ttl, lease = settings.traffic.ttl_max.total_seconds(), settings.register_.lease.total_seconds()
    if inference and ttl + lease + _FENCE_MARGIN_SECONDS >= inference.rto.total_seconds():
        place: Place = ("traffic", "ttl_max") if ttl >= lease else ("register", "lease")
        yield (
            place,
            (
                f"the fence waits {human_seconds(lease)} and clients keep an old answer for {human_seconds(ttl)}: "
                f"together they reach the RTO of inference, {human_seconds(inference.rto.total_seconds())}; "
                f"write a shorter {place[-1]}"
            ),
        )
    if lease <= 0:
        yield ("register", "lease"), "is nothing; write 15s"


def _is_secret_missing(finding: Finding) -> bool:
    return not finding.ok and finding.what.startswith("secret ")


def _measured(service: Service, seconds: float) -> dict[str, float]:
    try:
        return within(seconds, lambda: measured(service), name="reading the watermarks")
    except (UnderstudyError, TookTooLong):
        return {}


def _finding(settings: Settings, what: str, place: Place, words: str, *, ok: bool) -> Finding:
    file, line = settings.line(*place)
    return Finding(what, ok=ok, words=words, file=file, line=line)


def _failure(settings: Settings, what: str, place: Place, error: UnderstudyError) -> Finding:
    file, line = settings.line(*place)
    return Finding(what, ok=False, words=str(error), file=file, line=line, exit_code=error.exit_code)
