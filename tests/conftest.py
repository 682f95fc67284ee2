"""Fixtures of every test: servers start when a test asks for one, once a session, and end with it."""

from __future__ import annotations

from tests.bigtable_fixture import bigtable_access, bigtable_endpoint
from tests.postgres_fixture import make_database, postgres_dsn
from tests.real_servers import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    real_server,
)
from tests.redis_fixture import redis_endpoint, start_redis
from tests.servers import (
    aws_access,
    gcp_access,
    gcs_data,
    gcs_url,
    make_bucket_gcs,
    make_s3_bucket,
    moto_url,
    object_server,
)
from tests.shapes import json_as_documented

__all__ = [
    "aws_access",
    "bigtable_access",
    "bigtable_endpoint",
    "gcp_access",
    "gcs_data",
    "gcs_url",
    "json_as_documented",
    "make_bucket_gcs",
    "make_database",
    "make_s3_bucket",
    "moto_url",
    "object_server",
    "postgres_dsn",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "real_server",
    "redis_endpoint",
    "start_redis",
]
