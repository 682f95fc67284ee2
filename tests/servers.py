"""The vendors' object stores for a test session, and fresh buckets in them.

Moto for S3 and our sandbox for GCS; with ``--real-servers`` versitygw and fake-gcs-server as well. A test that is
parametrized by ``OBJECT_SERVERS`` asks the fixture ``object_server`` for the one of that name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.process import free_port, launch, listens
from tests.real_servers import real
from understudy.settings import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.process import Process
    from understudy.objects.interface import ObjectStore

#: Params: moto, our sandbox, and with ``--real-servers`` two servers that nobody here wrote.
OBJECT_SERVERS = ("s3", "gcs", real("versitygw"), real("fake_gcs"))
HOST = "127.0.0.1"
_numbers = itertools.count(1)


def launch_moto(log: Path, *, host: str = HOST, port: int | None = None) -> tuple[str, Process]:
    """Start a moto server (S3, DynamoDB, Route 53) and return its URL and process."""
    port = port or free_port(host)
    command = [sys.executable, "-m", "sandbox.moto_server", "-H", host, "-p", str(port)]
    return f"http://{host}:{port}", launch(command, name="moto", log=log, ready=lambda: listens(host, port))


def launch_gcs(data: Path, log: Path, *, host: str = HOST, port: int | None = None) -> tuple[str, Process]:
    """Start a GCS server of the sandbox over a data directory and return its URL and process."""
    port = port or free_port(host)
    command = [sys.executable, "-m", "sandbox.gcs_server", "--host", host, "--port", str(port), "--data", str(data)]
    return f"http://{host}:{port}", launch(command, name="GCS", log=log, ready=lambda: listens(host, port))


def new_name(kind: str) -> str:
    """Return a bucket or table name that no other test of this machine has."""
    return f"{kind}-{os.getpid()}-{next(_numbers)}"


def make_gcs_bucket(url: str, name: str, *, versioned: bool = True) -> None:
    """Make a bucket on a sandbox server."""
    body = json.dumps({"name": name, "versioning": {"enabled": versioned}}).encode()
    request = urllib.request.Request(f"{url}/storage/v1/b?project=test", body, {"Content-Type": "application/json"})  # noqa: S310
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


@dataclass(frozen=True)
class ObjectServer:
    """One server of object stores.

    Attributes:
        name: as in ``OBJECT_SERVERS``.
        scheme: of its buckets' URLs, ``s3`` or ``gs``.
        url: ``http://127.0.0.1:PORT``.
        access: how the product reaches it.
        client: the vendor's client over that access.
    """

    name: str
    scheme: str
    url: str
    access: Access
    client: Any

    def make_bucket(self, *, versioned: bool = True) -> str:
        """Make an empty bucket and return its name."""
        name = new_name("bucket")
        if self.scheme == "gs":
            make_gcs_bucket(self.url, name, versioned=versioned)
            return name
        self.client.create_bucket(Bucket=name)
        if versioned:
            self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def open(self, bucket: str, prefix: str = "", **limits: int) -> ObjectStore:
        """Open a bucket of it, or a prefix of one."""
        if self.scheme == "gs":
            from understudy.objects.gcs import GcsStore

            return GcsStore(bucket, prefix, client=self.client, **limits)
        from understudy.objects.s3 import S3Store

        return S3Store(bucket, prefix, client=self.client, **limits)

    @contextlib.contextmanager
    def leading_to(self, url: str) -> Iterator[ObjectServer]:
        """Give the same server as it is reached through a proxy at that URL."""
        api = "gcs" if self.scheme == "gs" else "s3"
        if self.name == "fake_gcs":
            self._tell_external(
                url
            )  # where it sends an upload session; Google's own answer names the host it was asked at
        try:
            yield _serve(self.name, self.scheme, url, self.access.model_copy(update={"endpoints": {api: url}}))
        finally:
            if self.name == "fake_gcs":
                self._tell_external(self.url)

    def _tell_external(self, url: str) -> None:
        body = json.dumps({"externalUrl": url}).encode()
        request = urllib.request.Request(f"{self.url}/_internal/config", body, method="PUT")  # noqa: S310
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def _serve(name: str, scheme: str, url: str, access: Access) -> ObjectServer:
    from understudy.clouds import aws, gcp

    client = gcp.storage_client(access) if scheme == "gs" else aws.client("s3", access)
    return ObjectServer(name, scheme, url, access, client)


@pytest.fixture(scope="session")
def object_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ObjectServer]:
    """Return what returns the server of a name among ``OBJECT_SERVERS``, started once a session."""
    found: dict[str, ObjectServer] = {}

    def make(name: str) -> ObjectServer:
        if name in ("s3", "gcs"):
            access = request.getfixturevalue("aws_access" if name == "s3" else "gcp_access")
            return _serve(name, "s3" if name == "s3" else "gs", access.endpoints[name], access)
        # Its own fake-gcs-server, because ``leading_to`` tells the whole server where its answers are to lead.
        variables = request.getfixturevalue("real_server")(name, own=name == "fake_gcs")
        if name == "fake_gcs":
            url = variables["UNDERSTUDY_FAKE_GCS"]
            return _serve(name, "gs", url, Access(cloud="gcp", project="test", endpoints={"gcs": url}))
        url, prefix = variables["UNDERSTUDY_VERSITYGW"], "UNDERSTUDY_VERSITYGW_"
        keys = {"AccessKeyId": variables[f"{prefix}ACCESS_KEY"], "SecretAccessKey": variables[f"{prefix}SECRET_KEY"]}
        file = tmp_path_factory.mktemp("keys") / "versitygw.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(keys))
        region = variables[f"{prefix}REGION"]
        return _serve(name, "s3", url, Access(region=region, credentials=f"file:{file}", endpoints={"s3": url}))

    def ask(name: str) -> ObjectServer:
        if name not in found:
            found[name] = make(name)
        return found[name]

    return ask


@pytest.fixture(scope="session")
def moto_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``http://127.0.0.1:PORT`` of a moto server: S3, DynamoDB, Route 53, state in memory."""
    url, server = launch_moto(tmp_path_factory.mktemp("moto") / "log")
    yield url
    server.kill()


@pytest.fixture(scope="session")
def gcs_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``gcs_url`` keeps its objects; see ``sandbox.gcs_server.data_file``."""
    return tmp_path_factory.mktemp("gcs") / "data"


@pytest.fixture(scope="session")
def gcs_url(gcs_data: Path) -> Iterator[str]:
    """``http://127.0.0.1:PORT`` of the sandbox's GCS server."""
    url, server = launch_gcs(gcs_data, gcs_data.parent / "log")
    yield url
    server.kill()


@pytest.fixture(scope="session")
def aws_access(moto_url: str) -> Access:
    """How to reach the moto server through ``understudy.clouds.aws``."""
    return Access(cloud="aws", endpoints=dict.fromkeys(("s3", "dynamodb", "route53"), moto_url))


@pytest.fixture(scope="session")
def gcp_access(gcs_url: str) -> Access:
    """How to reach the sandbox's GCS server through ``understudy.clouds.gcp``."""
    return Access(cloud="gcp", project="test", endpoints={"gcs": gcs_url})


@pytest.fixture
def make_s3_bucket(aws_access: Access) -> Callable[..., str]:
    """Return what makes an empty bucket (versioned unless told otherwise) and returns its name."""
    from understudy.clouds import aws

    def make(*, versioned: bool = True) -> str:
        client, name = aws.client("s3", aws_access), new_name("bucket")
        client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    return make


@pytest.fixture
def make_bucket_gcs(gcs_url: str) -> Callable[..., str]:
    """Return what makes an empty bucket (versioned unless told otherwise) and returns its name."""

    def make(*, versioned: bool = True) -> str:
        name = new_name("bucket")
        make_gcs_bucket(gcs_url, name, versioned=versioned)
        return name

    return make
