"""Fixtures of every test: servers start when a test asks for one, once a session, and end with it."""

from __future__ import annotations

from tests.servers import aws_access, gcp_access, gcs_data, gcs_url, make_bucket_gcs, make_s3_bucket, moto_url

__all__ = ["aws_access", "gcp_access", "gcs_data", "gcs_url", "make_bucket_gcs", "make_s3_bucket", "moto_url"]
