"""The vendors' object stores for a test session: moto for S3, our sandbox for GCS, and fresh buckets in them."""

from __future__ import annotations

import itertools
import json
import os
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from sandbox.process import free_port, launch, listens
from understudy.settings import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.process import Process

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
