"""Clients of Google Cloud: credentials by reference, endpoint override, timeouts that notice a dead site."""

from __future__ import annotations

import ipaddress
import json
import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from understudy.errors import Denied, InvalidConfig, Unreachable
from understudy.secrets import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from understudy.settings import Access

CONNECT_SECONDS = 2
READ_SECONDS = 20
POOL_CONNECTIONS = 32

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_STORAGE_ENDPOINT = "https://storage.googleapis.com"
_UNAUTHENTICATED = 401


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
            return _read_credentials(json.loads(resolve(access.credentials)))
        return google.auth.default(scopes=_SCOPES)[0]  # type: ignore[no-untyped-call, unused-ignore]
    except (GoogleAuthError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = access.credentials or "Google's default chain"
        message = f"{what} gives no Google Cloud credentials"
        hint = "write the JSON of a service account there, or run gcloud auth application-default login"
        raise InvalidConfig(message, hint=hint) from error


def _read_credentials(value: dict[str, Any]) -> Any:  # noqa: ANN401 - google.auth has no types
    """Return credentials of the kinds we know; one that runs a command of the file's choosing is not among them."""
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


class Answer(NamedTuple):
    """An HTTP answer: its body is whole, and as stored (no decoding)."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class StorageClient:
    """The JSON API of Cloud Storage: signs requests and pools connections. Safe to use from many threads.

    google-cloud-storage costs 0.2 CPU-seconds to import, retries where we must know that an answer was lost, and wants
    seekable files to upload; this is google-auth and one pool of connections.

    Args:
        endpoint: URL without a path; None is Google's own.
        signer: google-auth credentials, or None to send requests unsigned.
    """

    def __init__(self, endpoint: str | None, signer: Any | None) -> None:  # noqa: ANN401 - google.auth has no types
        """Open no connection yet."""
        import urllib3

        self.endpoint = (endpoint or _STORAGE_ENDPOINT).rstrip("/")
        if "//" not in self.endpoint:
            self.endpoint = f"http://{self.endpoint}"
        self._signer = signer
        self._signing = threading.Lock()
        self._pool = urllib3.PoolManager(
            num_pools=4,
            maxsize=POOL_CONNECTIONS,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> Answer:
        """Send one request and return its answer, whatever its status.

        Args:
            method: GET, POST, PUT, DELETE.
            path: path and query, or a whole URL that the server gave (an upload session).
            headers: beside what is added here; Content-Length must be among them when the body is an iterable.
            body: bytes, or a sequence of them that can be gone through again.

        Raises:
            urllib3.exceptions.HTTPError: no whole answer came.
            Denied, Unreachable: no token could be had.
        """
        url = path if path.startswith("http") else self.endpoint + path
        answer = self._send(method, url, headers, body)
        if answer.status == _UNAUTHENTICATED and self._signer is not None:
            with self._signing:
                self._signed(self._signer.refresh)
            answer = self._send(method, url, headers, body)
        return answer

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None) -> Answer:
        # Stored bytes are wanted, also of objects that were uploaded with a gzip encoding.
        full = {"Accept-Encoding": "gzip", "User-Agent": "understudy", **headers}
        if self._signer is not None:
            with self._signing:  # refreshes the token when it is about to expire
                signer = self._signer
                self._signed(lambda request: signer.before_request(request, method, url, full))
        response = self._pool.request(method, url, headers=full, body=body, decode_content=False, redirect=False)  # type: ignore[arg-type, unused-ignore]
        return Answer(response.status, response.headers, response.data)

    def _signed(self, act: Any) -> None:  # noqa: ANN401 - a function of a google-auth request
        from google.auth.exceptions import RefreshError, TransportError
        from google.auth.transport.urllib3 import Request

        try:
            act(Request(self._pool))  # type: ignore[no-untyped-call, unused-ignore]
        except TransportError as error:
            message = "Google's token server does not answer"
            raise Unreachable(message, hint="look at the network of this machine") from error
        except RefreshError as error:
            message = "Google refuses a token for these credentials"
            raise Denied(message, hint="renew the key, or look at the service account") from error


def storage_client(access: Access) -> StorageClient:
    """Return a client of Cloud Storage; ``access.endpoints["gcs"]`` overrides its address. Raises InvalidConfig."""
    endpoint = access.endpoints.get("gcs")
    anonymous = endpoint is not None and not access.credentials
    return StorageClient(endpoint, None if anonymous else credentials(access, "gcs"))


def bigtable_data_client(access: Access, *, project: str | None = None) -> Any:  # noqa: ANN401 - the SDK loads on demand
    """Return a Bigtable data client; ``access.endpoints["bigtable"]`` (``host:port``) overrides its address.

    A loopback endpoint is spoken to without TLS, credentials, channel refresh or metrics, as the SDK does for an
    emulator. Safe to use from many threads. Raises InvalidConfig.
    """
    from google.cloud.bigtable.data import BigtableDataClient

    endpoint = _bigtable_endpoint(access)
    chosen = project or access.project
    if endpoint is None or not _is_loopback(endpoint):
        options = {"api_endpoint": endpoint} if endpoint else None
        return BigtableDataClient(project=chosen, credentials=credentials(access, "bigtable"), client_options=options)

    address: str = endpoint

    class LoopbackDataClient(BigtableDataClient):
        """Told its emulator's address here: the SDK asks a variable of the whole process, and two sites may differ."""

        @property
        def _emulator_host(self) -> str | None:
            return address

        @_emulator_host.setter
        def _emulator_host(self, value: str | None) -> None:
            del value

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

    return BigtableTableAdminClient(transport=BigtableTableAdminGrpcTransport(channel=grpc.insecure_channel(endpoint)))


def _bigtable_endpoint(access: Access) -> str | None:
    endpoint = access.endpoints.get("bigtable")
    return endpoint.split("//")[-1].rstrip("/") if endpoint else None


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
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
    if endpoint and "//" not in endpoint:
        endpoint = f"http://{endpoint}"
    return ClientOptions(api_endpoint=endpoint) if endpoint else None
