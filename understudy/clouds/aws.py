"""Sessions and clients of AWS: credentials by reference, endpoint override, timeouts that notice a dead site."""

from __future__ import annotations

import configparser
import ipaddress
import json
import threading
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from understudy.errors import InvalidConfig
from understudy.redaction import remember
from understudy.secrets import resolve

if TYPE_CHECKING:
    from understudy.settings import Access

CONNECT_SECONDS = 2
READ_SECONDS = 20
POOL_CONNECTIONS = 32

#: What a sandbox on loopback is given, so that no real key is looked for, nor sent to it.
_LOOPBACK_KEYS = ("understudy", "loopback", None)
#: Services whose adapter tries again by itself (understudy.objects.attempts), and knows how long a call can take.
_OWN_ATTEMPTS = frozenset({"s3", "dynamodb", "route53"})
_ATTEMPTS = 3

_lock = threading.Lock()
_sessions: dict[str | None, Any] = {}


def client(service: str, access: Access) -> Any:  # noqa: ANN401 - botocore makes these classes at run time
    """Return a new botocore client of a service (s3, dynamodb, route53). Safe to use from many threads.

    Args:
        service: the service's name as boto3 writes it; the same name in ``access.endpoints`` overrides its address.
        access: region, credentials by reference (JSON or INI, see ``read_credentials``) and endpoints. Without
            credentials AWS's default chain is asked; a service on a loopback address gets fixed dummy keys instead.

    Raises:
        InvalidConfig: the credentials cannot be read.
    """
    from botocore.config import Config

    endpoint = access.endpoints.get(service)
    keys: tuple[str | None, str | None, str | None] = (None, None, None)
    if access.credentials:
        keys = read_credentials(resolve(access.credentials).reveal(), access.credentials)
    elif endpoint and is_loopback(endpoint):
        keys = _LOOPBACK_KEYS
    own: dict[str, Any] = {"addressing_style": "path" if endpoint else "auto"}
    if endpoint and is_loopback(endpoint):
        own["payload_signing_enabled"] = False  # as boto3 does over TLS; the body carries a CRC32 all the same
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=POOL_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1 if service in _OWN_ATTEMPTS else _ATTEMPTS},
        tcp_keepalive=True,
        s3=own,  # type: ignore[arg-type, unused-ignore]
        # Checksums are sent; the answer's is not computed: all that is read is proven by our own digests.
        response_checksum_validation="when_required",
        inject_host_prefix=not endpoint,
    )
    with _lock:  # making a client is not thread-safe
        return _session(None if keys[0] else access.region).create_client(
            service,
            region_name=access.region,
            endpoint_url=endpoint,
            config=config,
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            aws_session_token=keys[2],
        )


def read_credentials(text: str, reference: str) -> tuple[str, str, str | None]:
    """Return (access key id, secret access key, session token) from a secret's text.

    Args:
        text: JSON as ``aws sts`` and ``aws configure export-credentials`` print it ({"AccessKeyId", "SecretAccessKey",
            "SessionToken"}), or the INI form of ``~/.aws/credentials`` (the profile ``default``, else the first).
        reference: where it came from, for the error.

    Raises:
        InvalidConfig: it is neither, or a key is missing. The text is never shown.
    """
    found: dict[str, str] = {}
    try:
        value = json.loads(text)
        value = value.get("Credentials", value) if isinstance(value, dict) else {}
        found = {name.lower().replace("_", ""): content for name, content in value.items() if isinstance(content, str)}
    except ValueError:
        parser = configparser.ConfigParser(interpolation=None, default_section="")
        try:
            parser.read_string(text)
            profile = "default" if parser.has_section("default") else next(iter(parser.sections()), "")
            found = {name.removeprefix("aws_").replace("_", ""): value for name, value in parser[profile].items()}
        except (configparser.Error, KeyError):
            found = {}
    try:
        key, secret = found["accesskeyid"].strip(), found["secretaccesskey"].strip()
    except KeyError:
        message = f"{reference} holds no AWS credentials"
        hint = "write JSON with AccessKeyId and SecretAccessKey, or the form of ~/.aws/credentials"
        raise InvalidConfig(message, hint=hint) from None
    token = (found.get("sessiontoken") or "").strip() or None
    if any(not one.isprintable() for one in (key, secret, token or "")):  # a header with them would be shown whole
        message = f"{reference} holds AWS credentials with characters that no key has"
        raise InvalidConfig(message, hint="look for line breaks in it")
    for one in (key, secret, token):
        remember(one)
    return key, secret, token


def is_loopback(endpoint: str) -> bool:
    """Return whether an endpoint (URL or host:port) is on this very machine."""
    host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _session(region: str | None) -> Any:  # noqa: ANN401 - botocore.session.Session, imported on demand
    """Return the one session of a region whose token service AWS's default chain asks; None: for keys that are given.

    It is botocore's: boto3 makes the same clients, and imports its transfer manager first, which is not used here.
    """
    if region not in _sessions:
        from botocore.session import Session

        session = Session()
        session.set_config_variable("region", region)
        session.register_component("data_loader", _model_loader())
        _sessions[region] = session
    return _sessions[region]


@cache
def _model_loader() -> Any:  # noqa: ANN401 - a botocore class, imported on demand
    """Return the one loader of botocore's service models that costs a third: no scan of all services, and orjson."""
    import orjson
    from botocore.loaders import JSONFileLoader, Loader

    class QuickFile(JSONFileLoader):  # type: ignore[misc, unused-ignore]
        def _load_file(self, full_path: str, open_method: Any) -> Any:  # noqa: ANN401
            try:
                with open_method(full_path, "rb") as file:
                    return orjson.loads(file.read())
            except FileNotFoundError:
                return None

    class QuickLoader(Loader):  # type: ignore[misc, unused-ignore]
        loading: str | None = None

        def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:  # noqa: ANN401
            self.loading = service_name
            try:
                return super().load_service_model(service_name, type_name, api_version)
            finally:
                self.loading = None

        def list_available_services(self, type_name: str) -> list[str]:
            # While a model is loaded this is asked only whether its service is known; one that is not has no file.
            return [self.loading] if self.loading else super().list_available_services(type_name)

    return QuickLoader(file_loader=QuickFile())
