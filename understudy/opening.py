"""Config -> adapter: the one list of vendors. An SDK is imported when its URL scheme is asked for, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qs, urlsplit

from understudy.errors import InvalidConfig, Unsupported
from understudy.secrets import resolve
from understudy.settings import split_url

if TYPE_CHECKING:
    from understudy.alerts.interface import Alerts
    from understudy.compute.interface import Compute
    from understudy.failover.register import Register
    from understudy.features.interface import OnlineStore
    from understudy.objects.interface import ObjectStore
    from understudy.settings import Access, Settings, SiteRole
    from understudy.traffic.interface import Traffic
    from understudy.vectors.interface import VectorStore

_EXTRAS = {"boto3": "aws", "botocore": "aws", "google": "gcp", "psycopg": "postgres", "grpc": "gcp"}


def open_store(url: str, access: Access) -> ObjectStore:
    """Open a bucket or a prefix of one: ``s3://``, ``gs://`` or ``file://``. Raises InvalidConfig."""
    scheme, bucket, prefix = split_url(url)
    try:
        if scheme == "s3":
            from understudy.clouds import aws
            from understudy.objects.s3 import S3Store

            return S3Store(bucket, prefix, client=aws.client("s3", access))
        if scheme == "gs":
            from understudy.clouds import gcp
            from understudy.objects.gcs import GcsStore

            return GcsStore(bucket, prefix, client=gcp.storage_client(access))
        if scheme == "file":
            from understudy.objects.file import FileStore

            return FileStore(urlsplit(url).path)
    except ImportError as error:
        _missing(error)
    raise _unknown(url, "an object store", "s3://bucket/prefix, gs://bucket/prefix or file:///folder")


def open_vectors(url: str, access: Access, *, password: str | None = None) -> VectorStore:
    """Open a vector index: ``pgvector://user@host:port/database?table=name``. Raises InvalidConfig."""
    del access  # a database is reached by its own address and password
    parts = urlsplit(url)
    try:
        if parts.scheme == "pgvector":
            from understudy.vectors.pgvector import PgvectorStore

            return PgvectorStore(url, password=resolve(password) if password else None)
    except ImportError as error:
        _missing(error)
    raise _unknown(url, "a vector index", "pgvector://user@host:port/database?table=name")


def open_features(url: str, access: Access) -> OnlineStore:
    """Open an online feature store: ``dynamodb://table`` or ``bigtable://project/instance/table``.

    Raises:
        InvalidConfig: the URL names neither.
    """
    scheme, host, path = split_url(url)
    try:
        if scheme == "dynamodb":
            from understudy.clouds import aws
            from understudy.features.dynamodb import DynamodbStore

            return DynamodbStore(host, client=aws.client("dynamodb", access))
        if scheme == "bigtable":
            from understudy.clouds import gcp
            from understudy.features.bigtable import BigtableStore

            instance, _, table = path.partition("/")
            if table:
                return BigtableStore(
                    host,
                    instance,
                    table,
                    data=gcp.bigtable_data_client(access, project=host),
                    admin=gcp.bigtable_admin_client(access),
                )
    except ImportError as error:
        _missing(error)
    raise _unknown(url, "an online feature store", "dynamodb://table or bigtable://project/instance/table")


def open_register(settings: Settings) -> Register:
    """Open the register. Raises InvalidConfig."""
    from understudy.failover.register import Register

    return Register(open_store(settings.register_.url, settings.register_))


def open_traffic(settings: Settings) -> Traffic:
    """Open what leads the service's name to a site: ``route53://ZONE/name``. Raises InvalidConfig."""
    scheme, zone, name = split_url(settings.traffic.url)
    try:
        if scheme == "route53" and name:
            from understudy.clouds import aws
            from understudy.traffic.route53 import Route53Traffic

            return Route53Traffic(zone, name, client=aws.client("route53", settings.traffic))
    except ImportError as error:
        _missing(error)
    raise _unknown(settings.traffic.url, "a traffic director", "route53://ZONE_ID/name.example.com")


def open_compute(settings: Settings, role: SiteRole) -> Compute:
    """Open a site's group of instances: ``gce://zone/group``. Raises InvalidConfig."""
    url = settings.capacity.away if role == "away" else settings.capacity.home
    if url is None:
        raise InvalidConfig(f"capacity.{role} is not configured", hint="write gce://zone/group")
    scheme, zone, group = split_url(url)
    site = settings.site(role)
    try:
        if scheme == "gce" and group:
            from understudy.clouds import gcp
            from understudy.compute.gce import GceCompute

            return GceCompute(
                site.project or "",
                zone,
                group,
                managers=gcp.instance_group_managers_client(site),
                operations=gcp.zone_operations_client(site),
            )
    except ImportError as error:
        _missing(error)
    raise _unknown(url, "a group of instances", "gce://zone/group")


def open_alerts(settings: Settings) -> Alerts:
    """Open what the monitoring watches: ``route53-health-check://ID``. Raises InvalidConfig."""
    if settings.alerts is None:
        raise InvalidConfig("alerts is not configured", hint="write alerts: {url: route53-health-check://ID}")
    scheme, health_check, _ = split_url(settings.alerts.url)
    try:
        if scheme == "route53-health-check":
            from understudy.alerts.route53 import Route53Alerts
            from understudy.clouds import aws

            return Route53Alerts(health_check, client=aws.client("route53", settings.alerts))
    except ImportError as error:
        _missing(error)
    raise _unknown(settings.alerts.url, "an alert", "route53-health-check://ID")


def query_of(url: str) -> dict[str, str]:
    """Return the options behind ``?`` in an adapter's URL, the last of each."""
    return {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}


def _missing(error: ImportError) -> NoReturn:
    module = (error.name or "").split(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        raise error
    raise Unsupported(
        f"this needs the package {error.name}, which is not installed",
        next_command=f"pip install 'understudy[{extra}]'",
    ) from error


def _unknown(url: str, what: str, forms: str) -> InvalidConfig:
    return InvalidConfig(f"{url} is not {what} that is known here", hint=f"write {forms}")
