"""Model artifacts from S3 to Cloud Storage beside rclone: part of ``python -m bench.artifacts``.

The source is versitygw, the target the sandbox's Cloud Storage, both on this machine, and both programs use them as
they would the real ones. rclone copies the plain files, Understudy sends packs into the vault. They take turns, each
time into an empty prefix.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measuring import SENT_PERCENT_MAX, UNCHANGED_CPU_SECONDS_MAX, Run, Table, measure, median_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOST = "127.0.0.1"
_PREFIX = "UNDERSTUDY_VERSITYGW_"
_COMMAND = [sys.executable, "-m", "understudy"]
_RCLONE = [str(Path(sys.executable).with_name("rclone"))]


@dataclass(frozen=True, slots=True)
class _Clouds:
    """Both servers, as Understudy's config and as rclone's environment have them."""

    home: dict[str, object]
    away: dict[str, object]
    environment: dict[str, str]


def bench_clouds(table: Table, work: Path, model: Path, repeats: int) -> None:
    """First and unchanged push of a model, and its hydration, through the vendors' own clients."""
    idle = {"understudy": median_cpu(lambda: measure([*_COMMAND, "--version"]))}
    idle["rclone"] = median_cpu(lambda: measure([*_RCLONE, "version"]))
    with _clouds(work) as clouds:
        _upload(clouds, model)
        runs: dict[str, list[Run]] = {"rclone": [], "understudy": []}
        for number in range(repeats):
            runs["rclone"].append(_copy(clouds, number))
            runs["understudy"].append(_push(_service(work, clouds, number)))
        for name, each in runs.items():
            cpu = statistics.median(run.cpu for run in each) - idle[name]
            value = f"{cpu:5.2f} CPU-s  {statistics.median(run.wall for run in each):5.2f} s"
            if name == "rclone":
                table.add("S3 -> GCS first push, rclone", f"100.00 %  {value}")
                continue
            share = 100 * each[-1].total("bytes_sent") / each[-1].total("bytes_total")
            bar, what = f"{SENT_PERCENT_MAX} %", f"S3 -> GCS first push, {name}"
            table.add(what, f"{share:6.2f} %  {value}", bar, holds=share <= SENT_PERCENT_MAX)
            table.memory(what, max(each, key=lambda run: run.memory))
        last = repeats - 1
        more = median_cpu(lambda: _copy(clouds, last)) - idle["rclone"]
        table.add("S3 -> GCS unchanged, rclone", f"{more:5.2f} CPU-s")
        config = _service(work, clouds, last)
        again = _push(config)
        read, sent = again.total("bytes_read"), again.total("bytes_sent")
        table.add("S3 -> GCS unchanged, model bytes read, sent", f"{read} B, {sent} B", "0 B", holds=read == sent == 0)
        more = median_cpu(lambda: _push(config)) - idle["understudy"]
        bar = f"{UNCHANGED_CPU_SECONDS_MAX:.2f} CPU-s"
        holds = more <= UNCHANGED_CPU_SECONDS_MAX
        table.add("S3 -> GCS unchanged, understudy", f"{more:5.2f} CPU-s", bar, holds=holds)
        hydrated = measure([*_COMMAND, "-c", str(config), "--json", "artifacts", "hydrate"])
        what = "GCS vault -> GCS bucket, hydrate"
        table.add(what, f"{hydrated.cpu - idle['understudy']:5.2f} CPU-s  {hydrated.wall:5.2f} s")
        table.memory(what, hydrated)


def _push(config: Path) -> Run:
    return measure([*_COMMAND, "-c", str(config), "--json", "artifacts", "push"])


def _copy(clouds: _Clouds, number: int) -> Run:
    return measure([*_RCLONE, "copy", "--quiet", "home:models", f"away:plain/{number}"], clouds.environment)


def _service(work: Path, clouds: _Clouds, number: int) -> Path:
    """Write the config of a service of models alone, with a vault of its own; return its path."""
    place = work / str(number)
    path = place / "config.yaml"
    if path.exists():
        return path
    (place / "register").mkdir(parents=True)
    pair = {"name": "models", "home": "s3://models/", "away": f"gs://away/{number}/", "every": "02:00,14:00"}
    config = {
        "service": "bench",
        "sites": {"home": {"name": "one", **clouds.home}, "away": {"name": "two", **clouds.away}},
        "vault": {"url": f"gs://vault/{number}/"},
        "register": {"url": f"file://{place}/register"},
        "components": {"training": {"rto": "4h", "rpo": "24h", "pairs": [pair]}},
        "traffic": {"url": "route53://Z0/bench.example", "addresses": {"home": "192.0.2.10", "away": "198.51.100.20"}},
        "capacity": {"away": "fixed://2", "warm": 2, "full": 2},
    }
    path.write_text(json.dumps(config))  # JSON is YAML too
    measure([*_COMMAND, "-c", str(path), "register", "init"])
    return path


@contextlib.contextmanager
def _clouds(work: Path) -> Iterator[_Clouds]:
    """Start both servers, with empty buckets."""
    from sandbox.process import free_port, launch, listens
    from sandbox.servers import servers
    from sandbox.servers.server import Running

    gateway = Running(servers()["versitygw"], work)
    variables = gateway.start(lambda sentence: print(sentence, file=sys.stderr))
    port = free_port(_HOST)
    command = [sys.executable, "-m", "sandbox.gcs_server", "--host", _HOST, "--data", str(work / "gcs"), "--port"]
    cloud = launch([*command, str(port)], name="gcs", log=work / "gcs.log", ready=lambda: listens(_HOST, port))
    try:
        for bucket in ("vault", "away", "plain"):
            body = json.dumps({"name": bucket, "versioning": {"enabled": True}}).encode()
            url = f"http://{_HOST}:{port}/storage/v1/b?project=bench"
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback
        keys = work / "keys.json"
        keys.touch(mode=0o600)
        access, secret = variables[f"{_PREFIX}ACCESS_KEY"], variables[f"{_PREFIX}SECRET_KEY"]
        keys.write_text(json.dumps({"AccessKeyId": access, "SecretAccessKey": secret}))
        region, s3 = variables[f"{_PREFIX}REGION"], variables["UNDERSTUDY_VERSITYGW"]
        yield _Clouds(
            home={"cloud": "aws", "region": region, "credentials": f"file:{keys}", "endpoints": {"s3": s3}},
            away={"cloud": "gcp", "project": "bench", "endpoints": {"gcs": f"http://{_HOST}:{port}"}},
            environment={
                "RCLONE_CONFIG": os.devnull,
                "RCLONE_CONFIG_HOME_TYPE": "s3",
                "RCLONE_CONFIG_HOME_PROVIDER": "Other",
                "RCLONE_CONFIG_HOME_ACCESS_KEY_ID": access,
                "RCLONE_CONFIG_HOME_SECRET_ACCESS_KEY": secret,
                "RCLONE_CONFIG_HOME_REGION": region,
                "RCLONE_CONFIG_HOME_ENDPOINT": s3,
                "RCLONE_CONFIG_AWAY_TYPE": "google cloud storage",
                "RCLONE_CONFIG_AWAY_ANONYMOUS": "true",
                "RCLONE_CONFIG_AWAY_ENDPOINT": f"http://{_HOST}:{port}/storage/v1/",
                "RCLONE_CONFIG_AWAY_BUCKET_POLICY_ONLY": "true",
            },
        )
    finally:
        cloud.kill()
        gateway.stop()


def _upload(clouds: _Clouds, model: Path) -> None:
    """Put the model into a new versioned bucket, as its owner would."""
    from understudy import opening
    from understudy.clouds import aws
    from understudy.settings import Access

    access = Access(**{name: value for name, value in clouds.home.items() if name != "cloud"})  # type: ignore[arg-type]
    client = aws.client("s3", access)
    client.create_bucket(Bucket="models")
    client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    store = opening.open_store("s3://models/", access)
    for path in model.iterdir():
        with path.open("rb") as file:
            parts = iter(lambda: file.read(16 << 20), b"")
            store.put_stream(f"bench/1/{path.name}", parts, path.stat().st_size)
