"""The sandbox's GCS server under Google's own client and, where that hides the wire, under plain requests.

What is asserted here is what the JSON API's description says; it cannot prove quotas, permissions or throttling. With
``--real-servers`` fake-gcs-server is held to the same tests, so that the sandbox is no mirror of our own belief.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from sandbox.gcs_server import data_file
from tests.real_servers import real
from understudy.clouds import gcp
from understudy.errors import NotFound
from understudy.objects.gcs import GcsStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import ObjectServer
    from understudy.settings import Access

KIB256 = 256 * 1024


@pytest.fixture(scope="module", params=["gcs", real("fake_gcs")])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    return request.getfixturevalue("object_server")(request.param)


@pytest.fixture(scope="module")
def url(server: ObjectServer) -> str:
    return server.url


@pytest.fixture(scope="module")
def client(url: str) -> storage.Client:
    return storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})


@pytest.fixture
def bucket(client: storage.Client, server: ObjectServer) -> storage.Bucket:
    return client.bucket(server.make_bucket())


def ask(method: str, url: str, body: bytes = b"", **headers: str) -> Any:
    full = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Length": str(len(body))}
    return urllib3.request(method, url, body=body, headers=full, retries=False, redirect=False, timeout=10)


def test_googles_client_creates_lists_and_drops_buckets(client: storage.Client) -> None:
    wanted = client.bucket("made-by-google-client")
    wanted.versioning_enabled = True
    client.create_bucket(wanted)
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("made-by-google-client")
    assert client.get_bucket("made-by-google-client").versioning_enabled
    assert "made-by-google-client" in [found.name for found in client.list_buckets()]
    wanted.delete()
    with pytest.raises(exceptions.NotFound):
        client.get_bucket("made-by-google-client")


def test_googles_client_gets_a_412_where_a_generation_does_not_match(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a/b c#%+é")
    blob.upload_from_string(b"1", if_generation_match=0)
    for generation in (0, blob.generation + 1):
        with pytest.raises(exceptions.PreconditionFailed):
            bucket.blob(blob.name).upload_from_string(b"2", if_generation_match=generation)
    bucket.blob(blob.name).upload_from_string(b"2", if_generation_match=blob.generation)
    assert b"2" == bucket.blob(blob.name).download_as_bytes()


def test_reading_and_deleting_are_conditional_too(bucket: storage.Bucket) -> None:
    blob = bucket.blob("x")
    blob.upload_from_string(b"1")
    for generation in (0, blob.generation + 1):
        with pytest.raises(exceptions.PreconditionFailed):
            bucket.blob("x").delete(if_generation_match=generation)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("x").download_as_bytes(if_generation_match=1)
    assert b"1" == bucket.blob("x").download_as_bytes(if_generation_match=blob.generation)
    bucket.blob("x").delete(if_generation_match=blob.generation)
    assert not bucket.blob("x").exists()


def write_and_delete(bucket: storage.Bucket) -> list[int]:
    generations = []
    for data in (b"one", b"two", b"three"):
        blob = bucket.blob("x")
        blob.upload_from_string(data)
        generations.append(blob.generation)
    bucket.blob("x").delete()
    return generations


def test_googles_client_reads_old_generations(bucket: storage.Bucket) -> None:
    generations = write_and_delete(bucket)
    assert [b"one", b"two", b"three"] == [bucket.blob("x", generation=g).download_as_bytes() for g in generations]
    assert not bucket.blob("x").exists()


def test_googles_client_lists_old_generations_and_deletes_one(bucket: storage.Bucket) -> None:
    generations = write_and_delete(bucket)
    assert generations == [found.generation for found in bucket.list_blobs(versions=True)]
    assert [] == list(bucket.list_blobs())
    bucket.blob("x", generation=generations[0]).delete()
    assert generations[1:] == [found.generation for found in bucket.list_blobs(versions=True)]


def test_an_unversioned_bucket_forgets_old_generations(client: storage.Client, server: ObjectServer) -> None:
    bucket = client.bucket(server.make_bucket(versioned=False))
    first = bucket.blob("x")
    first.upload_from_string(b"1")
    bucket.blob("x").upload_from_string(b"2")
    with pytest.raises(exceptions.NotFound):
        bucket.blob("x", generation=first.generation).download_as_bytes()
    assert 1 == len(list(bucket.list_blobs(versions=True)))


def test_googles_client_pages_and_folds_by_delimiter(bucket: storage.Bucket) -> None:
    names = [f"d{number % 3}/k{number}" for number in range(12)] + ["top", "d1"]
    for name in names:
        bucket.blob(name).upload_from_string(b"")
    assert sorted(names) == [found.name for found in bucket.list_blobs(page_size=5)]
    for size in (1, 2, 100):
        rows = bucket.list_blobs(delimiter="/", page_size=size)
        assert ["d1", "top"] == [found.name for found in rows]
        assert {"d0/", "d1/", "d2/"} == rows.prefixes
    assert ["d1/k1", "d1/k10"] == [found.name for found in bucket.list_blobs(prefix="d1/k1")]
    assert ["d2/k8", "top"] == [found.name for found in bucket.list_blobs(start_offset="d2/k8")]


def test_googles_client_uploads_in_chunks_and_the_checksums_agree(bucket: storage.Bucket) -> None:
    data = bytes(range(256)) * 5_000 + b"odd"
    blob = bucket.blob("chunks", chunk_size=KIB256)
    blob.upload_from_file(io.BytesIO(data), if_generation_match=0, checksum="md5")
    assert data == bucket.blob("chunks").download_as_bytes(checksum="crc32c")
    assert data[100:201] == bucket.blob("chunks").download_as_bytes(start=100, end=200)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("chunks", chunk_size=KIB256).upload_from_file(io.BytesIO(data), if_generation_match=0)


def test_rclone_sends_what_it_does_not_know_the_length_of(url: str, bucket: storage.Bucket, tmp_path: Path) -> None:
    # Go's client: small files in a chunked body, long ones in parts by POST, told apart from redirections by a header.
    files = {"small": b"small", "long": random.Random(4).randbytes((16 << 20) + 5)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rclone = [str(Path(sys.executable).with_name("rclone")), "copy", str(tmp_path), f"away:{bucket.name}"]
    environment = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_AWAY_TYPE": "google cloud storage",
        "RCLONE_CONFIG_AWAY_ANONYMOUS": "true",
        "RCLONE_CONFIG_AWAY_ENDPOINT": f"{url}/storage/v1/",
        "RCLONE_CONFIG_AWAY_BUCKET_POLICY_ONLY": "true",
    }
    done = subprocess.run(rclone, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
    assert files == {blob.name: blob.download_as_bytes(checksum="crc32c") for blob in bucket.list_blobs()}


def test_googles_client_copies_and_patches(bucket: storage.Bucket) -> None:
    blob = bucket.blob("source")
    blob.upload_from_string(b"copied")
    copy = bucket.copy_blob(blob, bucket, "target")
    token, done, total = bucket.blob("third").rewrite(copy)
    assert (None, 6, 6) == (token, done, total)
    assert b"copied" == bucket.blob("third").download_as_bytes()
    copy.metadata = {"why": "test"}
    copy.patch()
    assert {"why": "test"} == bucket.get_blob("target").metadata


def test_googles_client_is_told_of_a_wrong_checksum(bucket: storage.Bucket) -> None:
    blob = bucket.blob("bad")
    blob.crc32c = "AAAAAA=="
    with pytest.raises(exceptions.BadRequest, match="CRC32C"):
        blob.upload_from_string(b"data", checksum=None)
    assert [] == list(bucket.list_blobs())


def test_a_wrong_checksum_in_a_header_is_refused_and_nothing_is_visible(url: str, bucket: storage.Bucket) -> None:
    objects = f"{url}/upload/storage/v1/b/{bucket.name}/o"
    wrong = base64.b64encode(b"0" * 16).decode()
    assert 400 == ask("POST", f"{objects}?uploadType=media&name=bad", b"data", Content_MD5=wrong).status
    session = ask("POST", f"{objects}?uploadType=resumable&name=bad").headers["Location"]
    assert 400 == ask("PUT", session, b"data", Content_Range="bytes 0-3/4", X_Goog_Hash="crc32c=AAAAAA==").status
    assert [] == list(bucket.list_blobs(versions=True))


def test_a_resumable_upload_says_how_far_it_came_and_goes_on_from_there(url: str, bucket: storage.Bucket) -> None:
    data = bytes(range(256)) * 2_048  # 512 KiB
    start = f"{url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=r"
    session = ask("POST", start, X_Upload_Content_Length=str(len(data))).headers["Location"]

    def status() -> tuple[int, str | None]:
        answer = ask("PUT", session, Content_Range=f"bytes */{len(data)}")
        return answer.status, answer.headers.get("Range")

    assert (308, None) == status()
    first = ask("PUT", session, data[:KIB256], Content_Range=f"bytes 0-{KIB256 - 1}/{len(data)}")
    assert (308, f"bytes=0-{KIB256 - 1}") == (first.status, first.headers["Range"]) == status()
    gap = ask("PUT", session, data[-10:], Content_Range=f"bytes {len(data) - 10}-{len(data) - 1}/{len(data)}")
    assert 400 == gap.status
    assert 404 == ask("GET", f"{url}/storage/v1/b/{bucket.name}/o/r").status
    rest = f"bytes {KIB256 - 5}-{len(data) - 1}/{len(data)}"  # overlaps what is there
    done = ask("PUT", session, data[KIB256 - 5 :], Content_Range=rest)
    assert (200, str(len(data))) == (done.status, json.loads(done.data)["size"])
    assert 200 == status()[0]
    assert data == bucket.blob("r").download_as_bytes()


def test_chunks_of_an_unknown_size_come_in_multiples_of_256_kib(url: str, bucket: storage.Bucket) -> None:
    start = f"{url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=r"
    session = ask("POST", start).headers["Location"]
    assert 400 == ask("PUT", session, b"x" * 100, Content_Range="bytes 0-99/*").status
    assert 308 == ask("PUT", session, b"x" * KIB256, Content_Range=f"bytes 0-{KIB256 - 1}/*").status
    assert 200 == ask("PUT", session, b"y", Content_Range=f"bytes {KIB256}-{KIB256}/{KIB256 + 1}").status
    assert KIB256 + 1 == bucket.get_blob("r").size


def test_a_cancelled_upload_is_gone(url: str, bucket: storage.Bucket) -> None:
    start = f"{url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name=r"
    session = ask("POST", start).headers["Location"]
    assert 499 == ask("DELETE", session).status
    assert 404 == ask("PUT", session, b"x").status


def test_a_range_past_the_end_is_a_416_and_errors_are_in_googles_form(url: str, bucket: storage.Bucket) -> None:
    bucket.blob("x").upload_from_string(b"12345")
    media = f"{url}/storage/v1/b/{bucket.name}/o/x?alt=media"
    assert 416 == ask("GET", media, Range="bytes=5-").status
    assert (206, b"45") == ((answer := ask("GET", media, Range="bytes=-2")).status, answer.data)
    assert (206, "bytes 4-4/5") == (
        (answer := ask("GET", media, Range="bytes=4-9")).status,
        answer.headers["Content-Range"],
    )
    answer = ask("GET", f"{url}/storage/v1/b/{bucket.name}/o/none")
    error = json.loads(answer.data)["error"]
    assert (404, 404, "notFound") == (answer.status, error["code"], error["errors"][0]["reason"])
    assert "Date" in answer.headers


def test_what_did_not_change_is_not_sent_again(url: str, bucket: storage.Bucket) -> None:
    bucket.blob("x").upload_from_string(b"1")
    media = f"{url}/storage/v1/b/{bucket.name}/o/x?alt=media"
    assert 304 == ask("GET", f"{media}&ifGenerationNotMatch={bucket.get_blob('x').generation}").status


def test_an_upload_cut_in_the_middle_leaves_nothing(url: str, bucket: storage.Bucket) -> None:
    pool = urllib3.HTTPConnectionPool(
        url.split("//")[1].split(":", maxsplit=1)[0], int(url.rpartition(":")[2]), retries=False
    )
    connection = pool._new_conn()
    connection.putrequest("POST", f"/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=half")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(b"x" * 5_000)
    connection.close()
    assert [] == list(bucket.list_blobs(versions=True))
    bucket.blob("half").upload_from_string(b"whole", if_generation_match=0)


def test_what_is_broken_on_the_disk_is_served_broken(
    gcs_data: Path, gcp_access: Access, make_bucket_gcs: Callable[..., str]
) -> None:
    name = make_bucket_gcs()
    store = GcsStore(name, "vault", client=gcp.storage_client(gcp_access))
    for key in ("flipped", "dropped", "cut", "x" * 250):
        store.put(key, b"0123456789")
    file = data_file(gcs_data, name, "vault/flipped")
    file.write_bytes(b"X" + file.read_bytes()[1:])
    data_file(gcs_data, name, "vault/dropped").unlink()
    file = data_file(gcs_data, name, "vault/cut")
    file.write_bytes(file.read_bytes()[:-1])
    assert b"X123456789" == store.get("flipped")
    assert {"cut": 9, "flipped": 10, "x" * 250: 10} == {info.key: info.size for info in store.list()}
    for read in (store.get, store.head):
        with pytest.raises(NotFound):
            read("dropped")
    store.create("dropped", b"again")
    assert b"0123456789" == data_file(gcs_data, name, "vault/" + "x" * 250).read_bytes()
