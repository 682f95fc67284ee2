"""Clients of Google Cloud: credentials by reference, endpoint override, timeouts that notice a dead site."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from understudy.errors import InvalidConfig
from understudy.redaction import remember
from understudy.secrets import resolve

if TYPE_CHECKING:
    from google.cloud.storage import Client
    from requests import PreparedRequest, Response

    from understudy.settings import Access

CONNECT_SECONDS = 2
READ_SECONDS = 20
POOL_CONNECTIONS = 32

#: Else a channel waits up to two minutes before it tries again, though its server has long been back.
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 1_000))

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


def credentials(access: Access, api: str) -> Any:  # noqa: ANN401 - google.auth has no types
    """Return google-auth credentials for an API (gcs, bigtable, compute).

    What ``access.credentials`` refers to is the JSON of a service account, an external account (workload identity) or
    an authorized user. Without it Google's default chain is asked, except that an API whose endpoint is overridden gets
    anonymous credentials, so that no real token is sent to a sandbox.

    Raises:
        InvalidConfig: there are none, or they cannot be read.
    """
    if not access.credentials and api in access.endpoints:
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials()  # type: ignore[no-untyped-call, unused-ignore]
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        if access.credentials:
            return _read_credentials(json.loads(resolve(access.credentials).reveal()))
        return google.auth.default(scopes=_SCOPES)[0]  # type: ignore[no-untyped-call, unused-ignore]
    except (GoogleAuthError, ValueError, TypeError, KeyError, AttributeError):
        what = access.credentials or "Google's default chain"
        message = f"{what} gives no Google Cloud credentials"
        hint = "write the JSON of a service account there, or run gcloud auth application-default login"
        raise InvalidConfig(message, hint=hint) from None  # the cause may hold the text


def _read_credentials(value: dict[str, Any]) -> Any:  # noqa: ANN401 - google.auth has no types
    """Return credentials of the kinds we know; one that runs a command of the file's choosing is not among them."""
    for name in ("private_key", "refresh_token", "client_secret"):
        remember(value.get(name))
    match value["type"]:
        case "service_account":
            from google.oauth2 import service_account

            return service_account.Credentials.from_service_account_info(value, scopes=_SCOPES)  # type: ignore[no-untyped-call, unused-ignore]
        case "authorized_user":
            from google.oauth2 import credentials as user

            return user.Credentials.from_authorized_user_info(value, scopes=_SCOPES)  # type: ignore[no-untyped-call, unused-ignore]
        case "external_account" if str(value["credential_source"].get("environment_id", "")).startswith("aws"):
            from google.auth import aws

            return aws.Credentials.from_info(value, scopes=_SCOPES)  # type: ignore[no-untyped-call, unused-ignore]
        case "external_account" if "executable" not in value["credential_source"]:
            from google.auth import identity_pool

            return identity_pool.Credentials.from_info(value, scopes=_SCOPES)  # type: ignore[no-untyped-call, unused-ignore]
    message = f"credentials of the type {value['type']} are not read"
    raise ValueError(message)


def storage_client(access: Access) -> Client:
    """Return a client of Cloud Storage; ``access.endpoints["gcs"]`` overrides its address. Raises InvalidConfig.

    Safe to use from many threads.
    """
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    class PiecewiseAdapter(HTTPAdapter):
        """Sends a body piece by piece: in one piece, all of it must be sent within the seconds of a connect."""

        def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:  # noqa: ANN401 - the base's own
            if isinstance(request.body, bytes):
                request.body = io.BytesIO(request.body)
            return super().send(request, *args, **kwargs)

    # Else the first call asks for the bucket behind our back: https://github.com/googleapis/google-cloud-python/issues/17650
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    endpoint = access.endpoints.get("gcs")
    signer = credentials(access, "gcs")
    session = AuthorizedSession(signer, refresh_timeout=READ_SECONDS)  # type: ignore[no-untyped-call, unused-ignore]
    for scheme in ("http://", "https://"):
        session.mount(scheme, PiecewiseAdapter(pool_maxsize=POOL_CONNECTIONS))
    session.configure_mtls_channel()  # type: ignore[no-untyped-call, unused-ignore]
    if endpoint and _is_loopback(endpoint):
        session.trust_env = False  # no proxy leads to this very machine
    return Client(
        project=access.project,
        credentials=signer,
        client_options={"api_endpoint": _as_url(endpoint)} if endpoint else None,
        _http=session,  # the library's own has ten connections, and shows itself by a private name alone
    )


def bigtable_data_client(access: Access, *, project: str | None = None) -> Any:  # noqa: ANN401 - the SDK loads on demand
    """Return a Bigtable data client; ``access.endpoints["bigtable"]`` (``host:port``) overrides its address.

    A loopback endpoint is spoken to without TLS, credentials, channel refresh or metrics, as the SDK does for an
    emulator. Safe to use from many threads. Raises InvalidConfig.
    """
    from google.cloud.bigtable.data import BigtableDataClient

    class QuickDataClient(BigtableDataClient):
        """Connects again soon after its server is back. The SDK has no word for this but the channel's own options."""

        def _build_grpc_channel(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the base's own
            kwargs["options"] = [*(kwargs.get("options") or ()), *_RECONNECT]
            return super()._build_grpc_channel(*args, **kwargs)

    endpoint = _bigtable_endpoint(access)
    chosen = project or access.project
    if endpoint is None or not _is_loopback(endpoint):
        options = {"api_endpoint": endpoint} if endpoint else None
        return QuickDataClient(project=chosen, credentials=credentials(access, "bigtable"), client_options=options)

    import grpc
    from google.cloud.bigtable.data._sync_autogen._swappable_channel import SwappableChannel

    address: str = endpoint

    class LoopbackDataClient(BigtableDataClient):
        """Told its emulator's address here: the SDK asks a variable of the whole process, and two sites may differ."""

        @property
        def _emulator_host(self) -> str | None:
            return address

        @_emulator_host.setter
        def _emulator_host(self, value: str | None) -> None:
            del value

        def _build_grpc_channel(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the base's own
            del args, kwargs
            return SwappableChannel(lambda: grpc.insecure_channel(address, options=_RECONNECT))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Connecting to Bigtable emulator", category=RuntimeWarning)
        return LoopbackDataClient(project=chosen or "sandbox", credentials=credentials(access, "bigtable"))


def bigtable_admin_client(access: Access) -> Any:  # noqa: ANN401 - the SDK loads on demand
    """Return a Bigtable table admin client, by the same rules as ``bigtable_data_client``. Raises InvalidConfig."""
    from google.cloud.bigtable_admin_v2 import BigtableTableAdminClient

    endpoint = _bigtable_endpoint(access)
    if endpoint is None or not _is_loopback(endpoint):
        options = {"api_endpoint": endpoint} if endpoint else None
        return BigtableTableAdminClient(credentials=credentials(access, "bigtable"), client_options=options)
    import grpc
    from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import (
        BigtableTableAdminGrpcTransport,
    )

    channel = grpc.insecure_channel(endpoint, options=_RECONNECT)
    return BigtableTableAdminClient(transport=BigtableTableAdminGrpcTransport(channel=channel))


def _bigtable_endpoint(access: Access) -> str | None:
    endpoint = access.endpoints.get("bigtable")
    return endpoint.split("//")[-1].rstrip("/") if endpoint else None


def _as_url(endpoint: str) -> str:
    """Return an endpoint (a URL or ``host:port``) as a URL."""
    return (endpoint if "//" in endpoint else f"http://{endpoint}").rstrip("/")


def _is_loopback(endpoint: str) -> bool:
    host = urlsplit(_as_url(endpoint)).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def instance_group_managers_client(access: Access) -> Any:  # noqa: ANN401 - imported when needed: 1.3 CPU-seconds
    """Return a Compute Engine client of managed instance groups (REST). Raises InvalidConfig."""
    from google.cloud import compute_v1

    return compute_v1.InstanceGroupManagersClient(
        credentials=credentials(access, "compute"), client_options=_compute_options(access)
    )


def zone_operations_client(access: Access) -> Any:  # noqa: ANN401 - as above
    """Return a Compute Engine client that waits for operations in a zone (REST). Raises InvalidConfig."""
    from google.cloud import compute_v1

    return compute_v1.ZoneOperationsClient(
        credentials=credentials(access, "compute"), client_options=_compute_options(access)
    )


def _compute_options(access: Access) -> Any:  # noqa: ANN401 - as above
    """Return client options with the endpoint that the config overrides, None without one."""
    from google.api_core.client_options import ClientOptions

    endpoint = access.endpoints.get("compute")
    return ClientOptions(api_endpoint=_as_url(endpoint)) if endpoint else None
