"""Config -> adapter: the one list of vendors. An SDK is imported when its URL scheme is asked for, not before.

A vendor from elsewhere joins by an entry point of the group ``understudy.adapters``, named ``<noun>.<scheme>``
(``vectors.qdrant``), whose object is called like the functions of ``VENDORS``: ``open(url, access, password)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import parse_qs, urlsplit

from understudy.errors import InvalidConfig, UnderstudyError, Unsupported
from understudy.secrets import resolve
from understudy.settings import split_url

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from understudy.alerts.interface import Alerts
    from understudy.compute.interface import Compute
    from understudy.failover.register import Register
    from understudy.features.interface import OnlineStore
    from understudy.objects.interface import ObjectStore
    from understudy.objects.options import StoreOptions
    from understudy.settings import Access, Settings, SiteRole, Storage
    from understudy.traffic.interface import Traffic
    from understudy.vectors.interface import VectorStore

Holding = Literal["vault", "served"]
Noun = Literal["objects", "vectors", "features", "traffic", "compute", "alerts"]
#: Gets the URL as configured, how to reach its cloud, and the password by reference (None where none is configured).
Opener = Callable[[str, "Access", str | None], Any]

GROUP = "understudy.adapters"

WORDS: dict[Noun, str] = {
    "objects": "an object store",
    "vectors": "a vector index",
    "features": "an online feature store",
    "traffic": "a traffic director",
    "compute": "a group of instances",
    "alerts": "an alert",
}
_CLASSES: dict[str, Holding] = {"packs_class": "vault", "served_class": "served"}
_EXTRAS = {
    "boto3": "aws",
    "botocore": "aws",
    "google": "gcp",
    "grpc": "gcp",
    "psycopg": "postgres",
    "redis": "redis",
}


def _s3(url: str, access: Access, password: str | None) -> ObjectStore:
    del password
    from understudy.clouds import aws
    from understudy.objects.s3 import S3Store

    _, bucket, prefix = split_url(url)
    return S3Store(bucket, prefix, client=aws.client("s3", access), options=_options(access))


def _gcs(url: str, access: Access, password: str | None) -> ObjectStore:
    del password
    from understudy.clouds import gcp
    from understudy.objects.gcs import GcsStore

    _, bucket, prefix = split_url(url)
    client = gcp.storage_client(access)
    return GcsStore(bucket, prefix, client=client, options=_options(access), project=access.project)


def _options(access: Access) -> StoreOptions:
    """Return what a site's config says of its buckets; ``open_store`` has left the classes of what is kept there."""
    from understudy.objects.options import PLAIN, StoreOptions

    storage: Storage | None = getattr(access, "storage", None)
    if storage is None:
        return PLAIN
    classes = (("pointers/", ""), ("", storage.served_class or ""), ("packs/", storage.packs_class or ""))
    chosen = classes[:2] if storage.served_class else classes[2:]
    return StoreOptions(storage.requester_pays, storage.kms_key, chosen)


def _file(url: str, access: Access, password: str | None) -> ObjectStore:
    del access, password
    from understudy.objects.file import FileStore

    return FileStore(urlsplit(url).path)


def _pgvector(url: str, access: Access, password: str | None) -> VectorStore:
    del access  # a database is reached by its own address and password
    from understudy.vectors.pgvector import PgvectorStore

    return PgvectorStore(url, password=resolve(password).reveal() if password else None)


def _dynamodb(url: str, access: Access, password: str | None) -> OnlineStore:
    del password
    from understudy.clouds import aws
    from understudy.features.dynamodb import DynamodbStore

    return DynamodbStore(split_url(url)[1], client=aws.client("dynamodb", access))


def _bigtable(url: str, access: Access, password: str | None) -> OnlineStore:
    del password
    from understudy.clouds import gcp
    from understudy.features.bigtable import BigtableStore

    _, project, path = split_url(url)
    instance, _, table = path.partition("/")
    if not table:
        raise _unknown("features", url)
    return BigtableStore(
        project,
        instance,
        table,
        data=gcp.bigtable_data_client(access, project=project),
        admin=gcp.bigtable_admin_client(access),
    )


def _redis(url: str, access: Access, password: str | None) -> OnlineStore:
    del access  # a Redis is reached by its own address and password
    from understudy.features.redis import RedisStore

    return RedisStore(url, password=resolve(password).reveal() if password else None)


def _route53(url: str, access: Access, password: str | None) -> Traffic:
    del password
    from understudy.clouds import aws
    from understudy.traffic.route53 import Route53Traffic

    _, zone, name = split_url(url)
    if not name:
        raise _unknown("traffic", url)
    return Route53Traffic(zone, name, client=aws.client("route53", access))


def _gce(url: str, access: Access, password: str | None) -> Compute:
    del password
    from understudy.clouds import gcp
    from understudy.compute.gce import GceCompute

    _, zone, group = split_url(url)
    if not group:
        raise _unknown("compute", url)
    return GceCompute(
        getattr(access, "project", None) or "",
        zone,
        group,
        managers=gcp.instance_group_managers_client(access),
        operations=gcp.zone_operations_client(access),
    )


def _fixed(url: str, access: Access, password: str | None) -> Compute:
    del access, password
    from understudy.compute.fixed import FixedCompute

    count = split_url(url)[1]
    if not re.fullmatch("[0-9]{1,6}", count):
        raise _unknown("compute", url)
    return FixedCompute(int(count))


def _health_check(url: str, access: Access, password: str | None) -> Alerts:
    del password
    from understudy.alerts.route53 import Route53Alerts
    from understudy.clouds import aws

    return Route53Alerts(split_url(url)[1], client=aws.client("route53", access))


@dataclass(frozen=True, slots=True)
class Vendor:
    """One way to keep one noun.

    Attributes:
        noun: which interface the adapter fulfils.
        scheme: of the URL in the config.
        form: how the URL is written.
        name: of the product, as people call it.
        extra: what ``pip install 'understudy[...]'`` brings its SDK; empty when none is needed.
        adapter: ``module:Class``, whose docstring and ``ABILITIES`` describe it.
        open: makes the adapter.
    """

    noun: Noun
    scheme: str
    form: str
    name: str
    extra: str
    adapter: str
    open: Opener


VENDORS: tuple[Vendor, ...] = (
    Vendor("objects", "s3", "s3://bucket/prefix", "Amazon S3 and what speaks it", "aws", "objects.s3:S3Store", _s3),
    Vendor("objects", "gs", "gs://bucket/prefix", "Google Cloud Storage", "gcp", "objects.gcs:GcsStore", _gcs),
    Vendor("objects", "file", "file:///folder", "a folder", "", "objects.file:FileStore", _file),
    Vendor(
        "vectors",
        "pgvector",
        "pgvector://user@host:port/database?table=name",
        "PostgreSQL with pgvector",
        "postgres",
        "vectors.pgvector:PgvectorStore",
        _pgvector,
    ),
    Vendor(
        "features",
        "dynamodb",
        "dynamodb://table",
        "Amazon DynamoDB",
        "aws",
        "features.dynamodb:DynamodbStore",
        _dynamodb,
    ),
    Vendor(
        "features",
        "bigtable",
        "bigtable://project/instance/table",
        "Google Bigtable",
        "gcp",
        "features.bigtable:BigtableStore",
        _bigtable,
    ),
    *(
        Vendor(
            "features",
            scheme,
            f"{scheme}://user@host:6379/0?prefix=name",
            f"Redis, Valkey and what speaks their protocol{over}",
            "redis",
            "features.redis:RedisStore",
            _redis,
        )
        for scheme, over in (("redis", ""), ("rediss", ", over TLS"))
    ),
    Vendor(
        "traffic",
        "route53",
        "route53://ZONE_ID/name.example.com",
        "Amazon Route 53, weighted records",
        "aws",
        "traffic.route53:Route53Traffic",
        _route53,
    ),
    Vendor(
        "compute",
        "gce",
        "gce://zone/group",
        "Google Compute Engine, managed instance group",
        "gcp",
        "compute.gce:GceCompute",
        _gce,
    ),
    Vendor(
        "compute",
        "fixed",
        "fixed://COUNT",
        "instances whose number is kept elsewhere",
        "",
        "compute.fixed:FixedCompute",
        _fixed,
    ),
    Vendor(
        "alerts",
        "route53-health-check",
        "route53-health-check://ID",
        "Amazon Route 53, health check",
        "aws",
        "alerts.route53:Route53Alerts",
        _health_check,
    ),
)


def open_store(url: str, access: Access, *, holds: Holding | None = None) -> ObjectStore:
    """Open a bucket or a prefix of one: ``s3://``, ``gs://`` or ``file://``.

    Args:
        url: as in the config.
        access: how to reach it; what a site says of its buckets is passed on.
        holds: a vault, or models that are served: then the storage class that the site has for these is used.

    Raises:
        InvalidConfig, Unsupported: it cannot be opened.
    """
    storage: Storage | None = getattr(access, "storage", None)
    if storage is not None and (storage.packs_class or storage.served_class):
        dropped = {name: None for name, kept in _CLASSES.items() if kept != holds}
        access = access.model_copy(update={"storage": storage.model_copy(update=dropped)})
    store: ObjectStore = _open("objects", url, access)
    return store


def open_vectors(url: str, access: Access, *, password: str | None = None) -> VectorStore:
    """Open a vector index: ``pgvector://user@host:port/database?table=name``. Raises InvalidConfig, Unsupported."""
    store: VectorStore = _open("vectors", url, access, password)
    return store


def open_features(url: str, access: Access, *, password: str | None = None) -> OnlineStore:
    """Open an online feature store: ``dynamodb://table`` and others. Raises InvalidConfig, Unsupported."""
    store: OnlineStore = _open("features", url, access, password)
    return store


def open_register(settings: Settings) -> Register:
    """Open the register. Raises InvalidConfig, Unsupported."""
    from understudy.failover.register import Register

    return Register(open_store(settings.register_.url, settings.register_))


def open_traffic(settings: Settings) -> Traffic:
    """Open what leads the service's name to a site: ``route53://ZONE/name``. Raises InvalidConfig, Unsupported."""
    traffic: Traffic = _open("traffic", settings.traffic.url, settings.traffic)
    return traffic


def open_compute(settings: Settings, role: SiteRole) -> Compute:
    """Open a site's group of instances: ``gce://zone/group``. Raises InvalidConfig, Unsupported."""
    url = settings.capacity.away if role == "away" else settings.capacity.home
    if url is None:
        raise InvalidConfig(f"capacity.{role} is not configured", hint=f"write {forms('compute')}")
    compute: Compute = _open("compute", url, settings.site(role))
    return compute


def open_alerts(settings: Settings) -> Alerts:
    """Open what the monitoring watches: ``route53-health-check://ID``. Raises InvalidConfig, Unsupported."""
    if settings.alerts is None:
        raise InvalidConfig("alerts is not configured", hint=f"write alerts: {{url: {forms('alerts')}}}")
    alerts: Alerts = _open("alerts", settings.alerts.url, settings.alerts)
    return alerts


def try_credentials(access: Access) -> None:
    """Read the Google Cloud credentials that an access refers to; no server is asked. Raises InvalidConfig."""
    from understudy.clouds import gcp

    try:
        gcp.credentials(access, "config check")
    except ImportError as error:
        _missing(error)


def forms(noun: Noun) -> str:
    """Return how a noun's URLs may be written, third parties' too: ``s3://bucket/prefix or file:///folder``."""
    own = [vendor.form for vendor in VENDORS if vendor.noun == noun]
    return " or ".join([*own, *(f"{scheme}://..." for found, scheme in third_parties() if found == noun)])


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # a fifth of what opening a store costs, and rarely asked for

    return entry_points(group=GROUP)


def third_parties() -> dict[tuple[str, str], str]:
    """Return (noun, scheme) -> ``module:object`` of the adapters that other installed packages bring."""
    found: dict[tuple[str, str], str] = {}
    for point in _entry_points():
        noun, _, scheme = point.name.partition(".")
        if noun in WORDS and scheme:
            found[noun, scheme] = point.value
    return found


def query_of(url: str) -> dict[str, str]:
    """Return the options behind ``?`` in an adapter's URL, the last of each."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}


def _open(noun: Noun, url: str, access: Access, password: str | None = None) -> Any:  # noqa: ANN401 - typed by callers
    scheme = urlsplit(url).scheme
    opener = next((vendor.open for vendor in VENDORS if (vendor.noun, vendor.scheme) == (noun, scheme)), None)
    try:
        return opener(url, access, password) if opener else _open_third_party(noun, scheme, url, access, password)
    except ImportError as error:
        _missing(error)


def _open_third_party(noun: Noun, scheme: str, url: str, access: Access, password: str | None) -> Any:  # noqa: ANN401
    for point in _entry_points().select(name=f"{noun}.{scheme}"):
        try:
            return point.load()(url, access, password)
        except (UnderstudyError, ImportError):
            raise
        except Exception as error:
            raise Unsupported(
                f"the adapter {point.value} could not open {scheme}://: {type(error).__name__}",
                hint="an adapter raises the errors of understudy.errors; report it to the package that brings it",
            ) from error
    raise _unknown(noun, url)


def _missing(error: ImportError) -> NoReturn:
    module = (error.name or "").split(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        raise error
    raise Unsupported(
        f"this needs the package {error.name}, which is not installed",
        next_command=f"pip install 'understudy[{extra}]'",
    ) from error


def _unknown(noun: Noun, url: str) -> InvalidConfig:
    return InvalidConfig(f"{url} is not {WORDS[noun]} that is known here", hint=f"write {forms(noun)}")
