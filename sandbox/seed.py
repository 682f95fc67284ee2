"""What the service has before anything happens: its model, its index, its features, its register. Always the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from sandbox import tune
from sandbox.model import WEIGHTS, packaged_files
from understudy import opening
from understudy.artifacts.manifest import model_digest
from understudy.artifacts.pointer import Pointer, ServedFile, encode_pointer, pointer_key
from understudy.clouds import aws
from understudy.features.rebuild import rebuild
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.settings import split_url
from understudy.vault.store import open_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from sandbox.corpus import Passage
    from sandbox.stage import Stage
    from understudy.objects.interface import ObjectStore

    Say = Callable[[str], None]

MODEL = "minilm"
FEATURES = ("interest", "visits_7d", "dwell_seconds", "segment")
_SEGMENTS = ("new", "casual", "regular", "loyal", "lapsed", "staff")
#: Event times do not follow the wall clock, so that two seeds give the same bytes.
_FIRST_DAY = datetime(2025, 3, 1, tzinfo=UTC)
_DAYS = 4
_SEED = 20_250_301
_LATE_SHARE = 0.05
_TELL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Seeded:
    """What was put into home.

    Attributes:
        model_bytes: of all files of version 1.
        model_digest: over them.
        passages: rows of the index.
        entities: of the feature store.
        values: current values, four an entity.
        rows: of the event-time history.
    """

    model_bytes: int
    model_digest: str
    passages: int
    entities: int
    values: int
    rows: int


def seed(stage: Stage, progress: Say = lambda _: None) -> Seeded:
    """Fill home, make away's buckets, initialise the register. The servers must be up.

    Args:
        stage: started with ``start_servers``.
        progress: is told each part as it is done, and how far the embedding is.
    """
    settings, say = stage.settings, progress
    _make_buckets(stage)
    opening.open_register(settings).initialise(settings.service)
    say("buckets made, register initialised at epoch 1")
    size, digest = upload_model(stage, "1", {path: file.read_bytes() for path, file in packaged_files().items()})
    point_at(stage, "1")
    say(f"model {MODEL} version 1: {size / 1e6:.1f} MB in versioned S3")
    passages = stage.embedding.passages()
    rows = _fill_features(stage, [passage.title for passage in passages])  # while the other core embeds
    say(f"features: {stage.entities:,} entities x {len(FEATURES)}, {rows:,} rows of history, online in DynamoDB")
    told = 0.0

    def embedded(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_SECONDS or done == total:
            told = time.monotonic()
            say(f"embedded {done:,} of {total:,} passages")

    vectors = stage.embedding.vectors(embedded)
    _fill_index(stage, passages, vectors, digest)
    say(f"index products: {len(passages):,} rows of {vectors.shape[1]} numbers, HNSW")
    return Seeded(size, digest, len(passages), stage.entities, stage.entities * len(FEATURES), rows)


def add_version_2(stage: Stage) -> int:
    """Upload a fine-tuned version 2 of the model to home's bucket; version 1 stays served. Returns its bytes."""
    files = {path: file.read_bytes() for path, file in packaged_files().items()}
    files[WEIGHTS] = tune.fine_tune(files[WEIGHTS])
    return upload_model(stage, "2", files)[0]


def upload_model(stage: Stage, version: str, files: dict[str, bytes]) -> tuple[int, str]:
    """Write a version's files to home's bucket; returns (bytes, model digest)."""
    store = _models(stage)
    for path, data in files.items():
        store.put_stream(f"{MODEL}/{version}/{path}", iter([data]), len(data))
    digest = model_digest((path, hashlib.sha256(data).hexdigest()) for path, data in files.items())
    return sum(len(data) for data in files.values()), digest


def point_at(stage: Stage, version: str) -> None:
    """Move home's pointer, so that instances serve that version."""
    store, prefix = _models(stage), f"{MODEL}/{version}/"
    files = []
    for key in [info.key for info in store.list(prefix)]:
        info, data = store.head(key), store.get(key)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(ServedFile(key.removeprefix(prefix), key, info.version, info.token, len(data), sha256))
    digest = model_digest((file.path, file.sha256) for file in files)
    store.put(pointer_key(MODEL), encode_pointer(Pointer(MODEL, version, 1, digest, tuple(files))))


def _models(stage: Stage) -> ObjectStore:
    return opening.open_store(stage.settings.pair("training").home, stage.settings.sites.home)


def _make_buckets(stage: Stage) -> None:
    settings = stage.settings
    offline = settings.pair("feature_store").offline or ""
    for url, access, versioned in (
        (settings.pair("training").home, settings.sites.home, True),
        (offline, settings.sites.home, False),
        (settings.register_.url, settings.register_, True),
    ):
        s3, bucket = aws.client("s3", access), split_url(url)[1]
        place = (
            {} if access.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": access.region}}
        )
        s3.create_bucket(Bucket=bucket, **place)
        if versioned:
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    away = settings.sites.away
    for url in (settings.vault.url, settings.pair("training").away):
        body = json.dumps({"name": split_url(url)[1], "versioning": {"enabled": True}}).encode()
        request = urllib.request.Request(  # noqa: S310 - a loopback URL
            f"{away.endpoints['gcs']}/storage/v1/b?project={away.project}", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def _fill_index(stage: Stage, passages: list[Passage], vectors: NDArray[np.float32], digest: str) -> None:
    url = stage.settings.pair("vector_index").home
    labels = json.dumps({"model_digest": digest, "model": MODEL, "model_version": "1"})
    with connect(url) as database, database.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE products (id text PRIMARY KEY, embedding vector({vectors.shape[1]}) NOT NULL, "
            "title text NOT NULL, body text NOT NULL)"
        )
        with cursor.copy("COPY products (id, embedding, title, body) FROM STDIN") as copy:
            for passage, vector in zip(passages, vectors, strict=True):
                # The shortest text of a float32 as a float64 rounds back to the very same float32.
                copy.write_row((passage.id, str([float(number) for number in vector]), passage.title, passage.body))
        cursor.execute("CREATE INDEX products_nearest ON products USING hnsw (embedding vector_cosine_ops)")
        cursor.execute(psycopg.sql.SQL("COMMENT ON TABLE products IS {}").format(psycopg.sql.Literal(labels)))


def connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Open the database of a ``pgvector://`` URL as its owner."""
    from sandbox.postgres import PASSWORD_VARIABLE

    return psycopg.connect(
        url.replace("pgvector://", "postgresql://").partition("?")[0], password=os.environ.get(PASSWORD_VARIABLE)
    )


def _fill_features(stage: Stage, titles: list[str]) -> int:
    pair = stage.settings.pair("feature_store")
    home = stage.settings.sites.home
    offline = opening.open_store(pair.offline or "", home)
    rows = 0
    for number, table in enumerate(history(stage.entities, titles), start=1):
        data = io.BytesIO()
        pq.write_table(table, data, compression="zstd")
        offline.put(f"history/day-{number:02d}.parquet", data.getvalue())
        rows += table.num_rows
    # The product's own rebuild fills home's online store, by way of a vault that nobody keeps.
    scratch = open_vault(MemoryStore())
    replicate_offline(offline, scratch, view=pair.name)
    rebuild(scratch, opening.open_features(pair.home, home), view=pair.name, deletes_max=0)
    return rows


def history(entities: int, titles: list[str]) -> Iterator[pa.Table]:
    """Yield a wide table of feature rows a day: every entity on the first day, then some; a null is "not written".

    One row in twenty is late: its event is older than one that was written before it.
    """
    random = np.random.default_rng(_SEED)
    for day in range(_DAYS):
        written = _FIRST_DAY + timedelta(days=day)
        chosen = np.arange(entities) if day == 0 else np.flatnonzero(random.random(entities) < 0.6)
        columns: dict[str, list[Any]] = {
            name: [] for name in ("entity", "event_timestamp", "created_timestamp", *FEATURES)
        }
        for entity in chosen:
            late = timedelta(days=2) if day and random.random() < _LATE_SHARE else timedelta()
            event = written + timedelta(microseconds=int(random.integers(0, 80_000_000_000)))
            columns["entity"].append(f"user-{entity:05d}")
            columns["event_timestamp"].append(event - late)
            columns["created_timestamp"].append(event + timedelta(seconds=int(random.integers(1, 600))))
            values = (
                titles[int(random.integers(len(titles)))],
                int(random.integers(0, 200)),
                round(float(random.gamma(2.0, 30.0)), 3),
                _SEGMENTS[int(random.integers(len(_SEGMENTS)))],
            )
            for name, value in zip(FEATURES, values, strict=True):
                columns[name].append(value if day == 0 or random.random() < 0.7 else None)
        moment = pa.timestamp("us", tz="UTC")
        yield pa.table(
            {
                "entity": pa.array(columns["entity"], pa.string()),
                "event_timestamp": pa.array(columns["event_timestamp"], moment),
                "created_timestamp": pa.array(columns["created_timestamp"], moment),
                "interest": pa.array(columns["interest"], pa.string()),
                "visits_7d": pa.array(columns["visits_7d"], pa.int64()),
                "dwell_seconds": pa.array(columns["dwell_seconds"], pa.float64()),
                "segment": pa.array(columns["segment"], pa.string()),
            }
        )
