"""What a site's config says of its buckets goes over the wire with every call that takes it, and what buckets say."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from requests.adapters import HTTPAdapter

from tests.models import model_files
from tests.servers import OBJECT_SERVERS, new_name
from tests.unit.example import example
from understudy import opening
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.replicate import push
from understudy.clouds import aws, gcp
from understudy.errors import NotFound
from understudy.objects.gcs import GcsStore
from understudy.objects.interface import Replica, Safeguarded, Safeguards
from understudy.objects.memory import MemoryStore
from understudy.objects.options import StoreOptions
from understudy.objects.s3 import S3Store
from understudy.service import Service
from understudy.settings import Settings, Site
from understudy.trials import try_source
from understudy.vault.store import open_vault
from understudy.vault.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import ObjectServer
    from understudy.objects.interface import ObjectStore
    from understudy.settings import Access

AWS_KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
GCP_KEY = "projects/acme/locations/us/keyRings/ring/cryptoKeys/vault"
BIG = bytes(range(256)) * 80_000
PAYER = ("x-amz-request-payer", "requester")


def use_every_call(store: ObjectStore) -> None:
    """Make every call of the interface; streams and bodies of more than one part too."""
    first = store.create("packs/one", b"1")
    second = store.replace("pointers/p", b"1", expected=None)
    store.replace("pointers/p", b"2", expected=second.token)
    store.put("m/1/config.json", b"{}")
    store.put_stream("m/1/small", [b"small"], 5)
    store.put_stream("m/1/big", [BIG], len(BIG))
    store.create_stream("packs/big", [BIG], len(BIG))
    assert b"1" == store.get("packs/one", version=first.version)
    assert BIG[5:1000] == store.get_range("m/1/big", 5, 995)
    assert 6 == len(list(store.list()))
    assert 6 == len(list(store.list_versions()))
    assert 1 == store.head("packs/one").size
    store.delete("m/1/small")
    with pytest.raises(NotFound):
        store.get("m/1/small")
    assert store.abilities.versions
    store.now()


class Wire:
    """Every request to S3 as it is sent."""

    def __init__(self, client: Any) -> None:
        self.sent: list[tuple[str, dict[str, str]]] = []
        client.meta.events.register("before-send.s3", self._keep)

    def _keep(self, request: Any, event_name: str, **_: Any) -> None:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        self.sent.append((event_name.rpartition(".")[2], headers))


def test_an_s3_bucket_whose_requester_pays_is_told_so_by_every_call_on_objects(
    aws_access: Access, make_s3_bucket: Callable[..., str]
) -> None:
    client = aws.client("s3", aws_access)
    wire = Wire(client)
    use_every_call(S3Store(make_s3_bucket(), "be low", client=client, options=StoreOptions(requester_pays=True)))
    told = {operation for operation, headers in wire.sent if PAYER in headers.items()}
    untold = {operation for operation, headers in wire.sent if PAYER not in headers.items()}
    assert {"HeadBucket", "GetBucketVersioning"} == untold
    assert {
        *("ListObjectsV2", "ListObjectVersions", "HeadObject", "GetObject", "PutObject", "DeleteObject"),
        *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"),
    } == told


def test_what_is_written_to_s3_names_its_key_and_its_class(
    aws_access: Access, make_s3_bucket: Callable[..., str]
) -> None:
    client = aws.client("s3", aws_access)
    wire = Wire(client)
    options = StoreOptions(kms_key=AWS_KEY, classes=(("packs/", "STANDARD_IA"),))
    bucket = make_s3_bucket()
    use_every_call(S3Store(bucket, "be low", client=client, options=options))
    writes = [headers for operation, headers in wire.sent if operation in ("PutObject", "CreateMultipartUpload")]
    assert 7 == len(writes)
    assert {("aws:kms", AWS_KEY)} == {
        (each.get("x-amz-server-side-encryption"), each.get("x-amz-server-side-encryption-aws-kms-key-id"))
        for each in writes
    }
    assert 2 == sum("x-amz-storage-class" in each for each in writes)
    for key, expected in (("packs/one", "STANDARD_IA"), ("packs/big", "STANDARD_IA"), ("m/1/big", None)):
        found = client.head_object(Bucket=bucket, Key=f"be low/{key}")
        assert (expected, AWS_KEY) == (found.get("StorageClass"), found["SSEKMSKeyId"])


def test_without_options_nothing_is_added(aws_access: Access, make_s3_bucket: Callable[..., str]) -> None:
    client = aws.client("s3", aws_access)
    wire = Wire(client)
    use_every_call(S3Store(make_s3_bucket(), client=client))
    added = ("x-amz-request-payer", "x-amz-server-side-encryption", "x-amz-storage-class")
    assert set() == {name for _, headers in wire.sent for name in headers if name.startswith(added)}


def test_every_body_sent_to_s3_carries_its_crc32c(aws_access: Access, make_s3_bucket: Callable[..., str]) -> None:
    client = aws.client("s3", aws_access)
    wire = Wire(client)
    use_every_call(S3Store(make_s3_bucket(), client=client))
    bodies = [headers for operation, headers in wire.sent if operation in ("PutObject", "UploadPart")]
    assert 11 == len(bodies)
    assert all("x-amz-checksum-crc32c" in headers for headers in bodies)


class Recording(HTTPAdapter):
    """Every request to Cloud Storage as it is sent."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=8)
        self.sent: list[tuple[str, str, dict[str, list[str]]]] = []

    def send(self, request: Any, *arguments: Any, **named: Any) -> Any:
        parts = urlsplit(request.url)
        self.sent.append((request.method, parts.path, parse_qs(parts.query)))
        return super().send(request, *arguments, **named)


def test_cloud_storage_is_told_who_pays_which_key_and_which_class(
    gcp_access: Access, make_bucket_gcs: Callable[..., str]
) -> None:
    client = gcp.storage_client(gcp_access)
    recording = Recording()
    client._http.mount("http://", recording)
    options = StoreOptions(requester_pays=True, kms_key=GCP_KEY, classes=(("packs/", "NEARLINE"),))
    bucket = make_bucket_gcs()
    use_every_call(GcsStore(bucket, "be low", client=client, options=options, project="acme"))
    asked = [(method, path) for method, path, query in recording.sent if query.get("userProject") != ["acme"]]
    assert {"PUT"} >= {method for method, _ in asked}  # the chunks of a session, whose URL the server made
    begun = [query for method, path, query in recording.sent if method == "POST" and path.startswith("/upload/")]
    assert 7 == len(begun)
    assert {GCP_KEY} == {query.get("kmsKeyName", [""])[0] for query in begun}
    for key, expected in (("packs/one", "NEARLINE"), ("packs/big", "NEARLINE"), ("m/1/big", "STANDARD")):
        assert expected == client.bucket(bucket).get_blob(f"be low/{key}").storage_class


# -- from the config --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holds", "key", "expected"),
    [
        ("vault", "packs/aa/pack", "STANDARD_IA"),
        ("vault", "index/00000001/0.parquet", None),
        ("served", "m/1/model.safetensors", "ONEZONE_IA"),
        ("served", "packs/1/model.safetensors", "ONEZONE_IA"),
        ("served", "pointers/m.json", None),
        (None, "packs/aa/pack", None),
    ],
)
def test_a_class_is_for_what_is_kept_there(
    aws_access: Access, make_s3_bucket: Callable[..., str], holds: Any, key: str, expected: str | None
) -> None:
    classes = {"packs_class": "STANDARD_IA", "served_class": "ONEZONE_IA"}
    site = Site(name="aws-use1", endpoints=aws_access.endpoints, storage=classes)
    bucket = make_s3_bucket()
    opening.open_store(f"s3://{bucket}/below", site, holds=holds).put(key, b"x")
    found = aws.client("s3", aws_access).head_object(Bucket=bucket, Key=f"below/{key}")
    assert expected == found.get("StorageClass")


# -- what buckets do by themselves ------------------------------------------------------------------------------------


def rule(name: str, target: str, *, on: bool = True) -> dict[str, Any]:
    return {
        "ID": name,
        "Priority": 1,
        "Status": "Enabled" if on else "Disabled",
        "Filter": {"Prefix": ""},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": f"arn:aws:s3:::{target}"},
    }


def test_an_s3_buckets_replication_and_versions_are_told(
    aws_access: Access, make_s3_bucket: Callable[..., str]
) -> None:
    client, bucket, other = aws.client("s3", aws_access), make_s3_bucket(), make_s3_bucket()
    store = S3Store(bucket, "models", client=client)
    assert isinstance(store, Safeguarded)
    assert Safeguards(versions="on") == store.safeguards()
    rules = [rule("dr", other), rule("old", other, on=False)]
    client.put_bucket_replication(
        Bucket=bucket, ReplicationConfiguration={"Role": "arn:aws:iam::123456789012:role/r", "Rules": rules}
    )
    replicas = tuple(
        Replica(f"s3://{other}", name, enabled=on, timed=False, deletes=False)
        for name, on in (("dr", True), ("old", False))
    )
    assert Safeguards(versions="on", replicas=replicas) == store.safeguards()
    store.put("x", b"1")
    said = (
        f"listed and read; the bucket replicates itself to s3://{other} (rule dr, with no promised time); "
        f"replicates nothing to s3://{other} (rule old, disabled)"
    )
    assert said == try_source(store)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert (
        "versioning is suspended: an object that changes while it is copied is not noticed; turn it on for that bucket"
    ) in try_source(store)


#: As Amazon shows it: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketReplication.html. Moto forgets the
#: prefixes of rules and their promised times.
_RULES = """<?xml version="1.0" encoding="UTF-8"?>
<ReplicationConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Role>arn:aws:iam::1:role/r</Role>{}
</ReplicationConfiguration>"""
_RULE = """<Rule><ID>{0}</ID><Status>Enabled</Status><Priority>1</Priority>
<DeleteMarkerReplication><Status>{2}</Status></DeleteMarkerReplication>{1}<Destination><Bucket>arn:aws:s3:::copy</Bucket>
<ReplicationTime><Status>{2}</Status><Time><Minutes>15</Minutes></Time></ReplicationTime></Destination></Rule>"""


@contextlib.contextmanager
def saying(answers: dict[str, str]) -> Iterator[str]:
    """Give the URL of a server that answers questions of a bucket by the query's name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[urlsplit(self.path).query].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_rules_for_other_prefixes_are_not_told_and_a_promised_time_is() -> None:
    rules = [
        _RULE.format("below", "<Filter><Prefix>models/reco/</Prefix></Filter>", "Disabled"),
        _RULE.format("above", "<Filter><And><Prefix>mod</Prefix></And></Filter>", "Enabled"),
        _RULE.format("whole", "<Filter></Filter>", "Disabled"),
        _RULE.format("early", "<Prefix>models/</Prefix>", "Disabled"),
        _RULE.format("beside", "<Filter><Prefix>logs/</Prefix></Filter>", "Enabled"),
    ]
    versioning = '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'
    with saying({"replication": _RULES.format("".join(rules)), "versioning": versioning}) as url:
        found = S3Store("bucket", "models", client=aws.client("s3", Site(name="x", endpoints={"s3": url}))).safeguards()
    assert "off" == found.versions
    assert ["below", "above", "whole", "early"] == [replica.rule for replica in found.replicas]
    assert ["above"] == [replica.rule for replica in found.replicas if replica.timed and replica.deletes]


def test_what_may_not_be_asked_is_said_and_is_no_failure(
    aws_access: Access, make_s3_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = aws.client("s3", aws_access)
    store = S3Store(make_s3_bucket(), client=client)
    store.put("x", b"1")

    def refuse(**_: Any) -> Any:
        raise client.exceptions.ClientError(
            {"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "Get"
        )

    monkeypatch.setattr(client, "get_bucket_versioning", refuse)
    monkeypatch.setattr(client, "get_bucket_replication", refuse)
    assert Safeguards(versions=None, unasked=("versioning", "replication")) == store.safeguards()
    assert "listed and read; may not be asked: versioning, replication" == try_source(store)


def test_a_cloud_storage_bucket_tells_versions_soft_delete_and_regions(gcs_url: str, gcp_access: Access) -> None:
    name = new_name("bucket")
    meta = {
        "name": name,
        "versioning": {"enabled": True},
        "location": "NAM4",
        "locationType": "dual-region",
        "rpo": "ASYNC_TURBO",
        "softDeletePolicy": {"retentionDurationSeconds": "604800"},
    }
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{gcs_url}/storage/v1/b?project=test", json.dumps(meta).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback
    store = GcsStore(name, client=gcp.storage_client(gcp_access))
    expected = Safeguards(versions="on", soft_delete_seconds=604800, regions="dual-region NAM4, turbo replication")
    assert expected == store.safeguards()
    store.put("x", b"1")
    assert "listed and read; dual-region NAM4, turbo replication; what is deleted can be brought back for 7d00h" == (
        try_source(store)
    )


def test_a_plain_cloud_storage_bucket_tells_that_versioning_is_off(
    gcp_access: Access, make_bucket_gcs: Callable[..., str]
) -> None:
    store = GcsStore(make_bucket_gcs(versioned=False), client=gcp.storage_client(gcp_access))
    assert Safeguards(versions="off") == store.safeguards()


# -- any to any -------------------------------------------------------------------------------------------------------


class Meddling:
    """A store in which somebody writes while it is read, once."""

    def __init__(self, store: ObjectStore, meddle: Callable[[], object]) -> None:
        self._store = store
        self._meddle: Callable[[], object] | None = meddle
        self._turn = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        with self._turn:  # what is read beside it comes after it
            data = self._store.get_range(key, start, length, version=version)
            if length > 100_000 and self._meddle is not None:
                meddle, self._meddle = self._meddle, None
                meddle()
            return data


@pytest.mark.parametrize("versioned", [True, False], ids=["versions", "no versions"])
@pytest.mark.parametrize("name", OBJECT_SERVERS)
def test_a_file_that_changes_while_it_is_read_is_never_a_mixture(
    object_server: Callable[[str], ObjectServer], name: str, *, versioned: bool
) -> None:
    """With versions the pinned bytes are read to their end; without, the change is noticed and all is read again."""
    server = object_server(name)
    source = server.open(server.make_bucket(versioned=versioned))
    before, after = (model_files(rows=3072, changed=changed)["model.safetensors"] for changed in (None, 0))
    source.put("m/1/model.safetensors", before)
    source.put("m/1/config.json", b"{}")
    vault = open_vault(MemoryStore())
    [report] = push(Meddling(source, lambda: source.put("m/1/model.safetensors", after)), vault)
    assert "changed" == report.verdict
    kept = {file.path: file.sha256 for file in find_manifest(vault, "m").files}["model.safetensors"]
    assert hashlib.sha256(before if versioned else after).hexdigest() == kept
    assert verify(vault, deep=True).ok


def test_a_service_of_two_regions_of_s3_asks_each_region_for_its_own(aws_access: Access, tmp_path: Path) -> None:
    regions = {"home": "eu-west-1", "away": "us-west-2"}
    buckets = {}
    for role, region in regions.items():
        client = aws.client("s3", aws_access.model_copy(update={"region": region}))
        buckets[role] = new_name("bucket")
        client.create_bucket(Bucket=buckets[role], CreateBucketConfiguration={"LocationConstraint": region})
    (tmp_path / "register").mkdir()
    document = example(
        **{
            f"sites.{role}": {"name": role, "region": region, "endpoints": aws_access.endpoints}
            for role, region in regions.items()
        },
        **{
            "vault.url": f"s3://{buckets['away']}/vault",
            "register.url": f"file://{tmp_path}/register",
            "components.training.pairs.0.home": f"s3://{buckets['home']}/models",
            "components.training.pairs.0.away": f"s3://{buckets['away']}/serving",
        },
    )
    del document["components"]["feature_store"], document["components"]["vector_index"]
    service = Service(Settings.model_validate(document))
    service.register.initialise("test")
    training = service.settings.pair("training")
    home = service.models(training, "home")
    wires = [Wire(store._client) for store in (home, service.vault.bare)]
    for path, data in model_files().items():
        home.put(f"m/1/{path}", data)
    assert ["changed"] == [report.verdict for report in service.push_artifacts(training)]
    assert ["changed"] == [report.verdict for report in service.hydrate(training)]
    assert ["sha256 5/5"] == [report.proven for report in service.verify_models(training)]
    signed = [
        {re.search(r"/([a-z0-9-]+)/s3/aws4_request", headers["authorization"])[1] for _, headers in wire.sent}
        for wire in wires
    ]
    assert [{"eu-west-1"}, {"us-west-2"}] == signed
