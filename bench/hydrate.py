"""Hydrate beside rclone, over one network: ``python -m bench.hydrate [--size 1.0] [--rates 125 625] [--streams 8]``.

Both read from the same versitygw through the same proxy of Toxiproxy and write to files on this machine: rclone copies
the model's plain files, Understudy reads the vault's packs and proves every chunk and every file. Runs are interleaved,
rclone first and then Understudy, and medians are compared.

What is bounded: Toxiproxy's bandwidth toxic holds for each connection, so each gets rate / streams, downstream, and
both get as many connections as ``--streams`` for the model's data: rclone by ``--multi-thread-streams``, Understudy by
the number of its fetches. The most connections that were open at once, and the bytes through the proxy by the clients'
count, are printed: what a run had beyond its streams were connections that ended with one small answer each. TLS is not
measured; Toxiproxy and versitygw take their CPU from the same cores.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from bench.measuring import Run, measure
from bench.model import write_model
from sandbox.process import free_port
from sandbox.servers import servers
from sandbox.servers.server import Running

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOST = "127.0.0.1"
_SEED = 20
_REPEATS = 3
#: MB/s (1 and 5 Gbit/s) to how long Understudy may take, for one second of rclone.
RATIOS_MAX = {125.0: 1.0, 625.0: 1.3}
#: Values a layer and the vocabulary have at a width of 1: bytes of the model are 2 * (a * width^2 + b * width).
_SQUARES, _LINEARS = 16 * 12, 32_000
#: A service of models alone, whose vault lies behind the proxy; JSON is YAML too.
_CONFIG: dict[str, object] = {
    "service": "bench",
    "vault": {"url": "s3://vault/"},
    "traffic": {"url": "route53://Z0/bench.example", "addresses": {"home": "192.0.2.10", "away": "198.51.100.20"}},
    "capacity": {"away": "fixed://2", "warm": 2, "full": 2},
}
_TRAINING = {"rto": "4h", "rpo": "24h"}
_FILL = """
import json, sys
from pathlib import Path
from understudy import opening
from understudy.artifacts.replicate import push
from understudy.clouds import aws
from understudy.settings import Access
from understudy.vault.store import open_vault
access, folder = Access(**json.loads(sys.argv[1])), Path(sys.argv[2])
client = aws.client("s3", access)
for bucket in ("models", "vault"):
    client.create_bucket(Bucket=bucket)
models = opening.open_store("s3://models/", access)
for path in folder.iterdir():
    with path.open("rb") as file:
        models.put_stream(f"bench/1/{path.name}", iter(lambda: file.read(16 << 20), b""), path.stat().st_size)
reports = push(models, open_vault(opening.open_store("s3://vault/", access)))
print(json.dumps([report.as_json() for report in reports]))
"""


class Connections:
    """Counts the connections to a port of this machine that are open at once, from ``/proc/net/tcp``."""

    def __init__(self, port: int) -> None:
        self._port = f":{port:04X}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
            # Column 1 is the local address, 3 the state; 01 is established. The proxy's own side of each.
            self.most = max(self.most, sum(row[1].endswith(self._port) and row[3] == "01" for row in rows))


@contextlib.contextmanager
def road(work: Path) -> Iterator[tuple[dict[str, str], str, str]]:
    """Start versitygw and Toxiproxy for this run; give versitygw's variables, Toxiproxy's API and the proxy's URL."""
    running = [Running(servers()[name], work) for name in ("versitygw", "toxiproxy")]
    try:
        gateway, toxiproxy = (server.start(lambda sentence: print(sentence, file=sys.stderr)) for server in running)
        api, port = toxiproxy["UNDERSTUDY_TOXIPROXY"], free_port(_HOST)
        upstream = urlsplit(gateway["UNDERSTUDY_VERSITYGW"]).netloc
        _tell(api, "/proxies", {"name": "s3", "listen": f"{_HOST}:{port}", "upstream": upstream, "enabled": True})
        yield gateway, api, f"http://{_HOST}:{port}"
    finally:
        for server in running:
            server.stop()


def _tell(api: str, path: str, body: dict[str, object] | None) -> None:
    """Make what the body says; without one, remove what is there."""
    headers = {"Content-Type": "application/json", "User-Agent": "understudy-bench"}
    data, method = (None, "DELETE") if body is None else (json.dumps(body).encode(), "POST")
    request = urllib.request.Request(f"{api}{path}", data, headers, method=method)  # noqa: S310 - loopback
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback


def access_to(gateway: dict[str, str], url: str, keys: Path) -> str:
    """Return the JSON of an Access by which the product reaches versitygw at that URL."""
    prefix = "UNDERSTUDY_VERSITYGW_"
    keys.touch(mode=0o600)
    secret = {"AccessKeyId": gateway[f"{prefix}ACCESS_KEY"], "SecretAccessKey": gateway[f"{prefix}SECRET_KEY"]}
    keys.write_text(json.dumps(secret))
    return json.dumps({"region": gateway[f"{prefix}REGION"], "credentials": f"file:{keys}", "endpoints": {"s3": url}})


def _service(work: Path, access: dict[str, object]) -> Path:
    """Write the config of a service whose vault is reached by an Access, and return its path."""
    pair = {"name": "models", "home": "s3://models/", "away": f"file://{work}/serving", "every": "02:00,14:00"}
    sites = {"home": {"name": "one", "cloud": "aws", **access}, "away": {"name": "two", "cloud": "aws", **access}}
    parts = {"sites": sites, "register": {"url": f"file://{work}/register"}}
    path = work / "config.yaml"
    path.write_text(json.dumps({**_CONFIG, **parts, "components": {"training": {**_TRAINING, "pairs": [pair]}}}))
    return path


def rclone(gateway: dict[str, str], url: str, target: Path, *, streams: int, chunk_mb: int) -> Run:
    """Copy the plain files, with as many streams for each large one."""
    binary = Path(sys.executable).with_name("rclone")
    prefix = "UNDERSTUDY_VERSITYGW_"
    environment = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_HOME_TYPE": "s3",
        "RCLONE_CONFIG_HOME_PROVIDER": "Other",
        "RCLONE_CONFIG_HOME_ACCESS_KEY_ID": gateway[f"{prefix}ACCESS_KEY"],
        "RCLONE_CONFIG_HOME_SECRET_ACCESS_KEY": gateway[f"{prefix}SECRET_KEY"],
        "RCLONE_CONFIG_HOME_REGION": gateway[f"{prefix}REGION"],
        "RCLONE_CONFIG_HOME_ENDPOINT": url,
    }
    command = [str(binary), "copy", "--quiet", "home:models/bench", str(target)]
    command += ["--multi-thread-cutoff", "16M"]  # it has one stream for files below 256 MiB else
    command += ["--multi-thread-streams", str(streams), "--multi-thread-chunk-size", f"{chunk_mb}M"]
    return measure(command, environment)


def main() -> int:
    """Run both at each rate and print the tables; 1 when Understudy was slower than a bar allows."""
    parser = argparse.ArgumentParser(prog="python -m bench.hydrate", description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="GB of the model")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=list(RATIOS_MAX),
        help="MB/s of all connections together, one table each; 0: not bounded",
    )
    parser.add_argument("--streams", type=int, default=8, help="connections of each; Understudy's own number is 8")
    parser.add_argument("--chunk", type=int, default=16, help="MiB that rclone asks for at once")
    parser.add_argument("--repeats", type=int, default=_REPEATS)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "understudy-bench")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    width = _width(options.size)
    model = options.cache / f"model-width-{width}"
    write_model(model, width=width, seed=_SEED)
    with tempfile.TemporaryDirectory(dir=options.cache) as name, road(Path(name)) as (gateway, api, url):
        work = Path(name)
        direct = access_to(gateway, gateway["UNDERSTUDY_VERSITYGW"], work / "keys.json")
        pushed = measure([sys.executable, "-c", _FILL, direct, str(model)])
        access = access_to(gateway, url, work / "keys.json")
        config = _service(work, json.loads(access))
        place = {"api": api, "url": url, "gateway": gateway, "config": config}
        return max([_at_rate(options, rate, **place, work=work, model=model, pushed=pushed) for rate in options.rates])


def _at_rate(
    options: argparse.Namespace,
    rate: float,
    *,
    api: str,
    url: str,
    gateway: dict[str, str],
    config: Path,
    work: Path,
    model: Path,
    pushed: Run,
) -> int:
    """Run both at one rate and print the table; 1 when Understudy was too slow."""
    with _bounded(api, rate, options.streams):
        runs: dict[str, list[tuple[Run, int]]] = {"rclone": [], "understudy": []}
        for _ in range(options.repeats):
            for who, measured in runs.items():
                target = work / who
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                os.sync()
                with Connections(urlsplit(url).port or 0) as connections:
                    if who == "rclone":
                        run = rclone(gateway, url, target, streams=options.streams, chunk_mb=options.chunk)
                    else:
                        command = [sys.executable, "-m", "understudy", "-c", str(config), "--json"]
                        run = measure([*command, "artifacts", "pull", "bench", "1", "--to", str(target)])
                measured.append((run, connections.most))
                there = target / "1" if who == "rclone" else target / "bench" / "1"
                if not filecmp.cmp(there / "model.safetensors", model / "model.safetensors", shallow=False):
                    sys.exit(f"{who} wrote another file")
                time.sleep(0.5)
    return _table(options, rate, (model / "model.safetensors").stat().st_size, pushed, runs)


@contextlib.contextmanager
def _bounded(api: str, rate: float, streams: int) -> Iterator[None]:
    """Let all connections together pass so many MB/s; 0: as many as there are."""
    if not rate:
        yield
        return
    toxic = {"type": "bandwidth", "stream": "downstream", "attributes": {"rate": round(1000 * rate / streams)}}
    _tell(api, "/proxies/s3/toxics", {"name": "rate", **toxic})
    try:
        yield
    finally:
        _tell(api, "/proxies/s3/toxics/rate", None)


def _width(gigabytes: float) -> int:
    """Return the width, a multiple of 32, of the model that comes nearest to a size; see ``bench.model.shapes``."""
    wanted = gigabytes * 1e9 / 2
    width = 32
    while _SQUARES * (width + 16) ** 2 + _LINEARS * (width + 16) < wanted:
        width += 32
    return width


def _table(
    options: argparse.Namespace, rate: float, size: int, pushed: Run, runs: dict[str, list[tuple[Run, int]]]
) -> int:
    bound = f"{rate:.0f} MB/s" if rate else "no bound"
    print(f"{size / 1e9:.2f} GB, {bound} over {options.streams} streams, {options.repeats} runs each, interleaved")
    print("who         wall s (all)              median  CPU s  peak MB  bytes read  connections")
    medians = {}
    for who, measured in runs.items():
        walls = [run.wall for run, _ in measured]
        medians[who] = statistics.median(walls)
        cpu = statistics.median(run.cpu for run, _ in measured)
        memory = max(run.memory for run, _ in measured)
        most = max(count for _, count in measured)
        read = size if who == "rclone" else measured[-1][0].total("bytes_read")
        each = " ".join(f"{wall:.2f}" for wall in walls)
        print(f"{who:<11} {each:<25} {medians[who]:>6.2f} {cpu:>6.1f} {memory:>8.0f} {read / 1e6:>8.0f} MB {most:>9}")
    sent = 100 * pushed.total("bytes_sent") / pushed.total("bytes_total")
    ratio = medians["understudy"] / medians["rclone"]
    bar = RATIOS_MAX.get(rate)
    verdict = "no bar" if bar is None else f"bar <= {bar}: {'ok' if ratio <= bar else 'MISSED'}"
    print(f"coded size {sent:.1f} %; understudy / rclone {ratio:.3f} ({verdict})")
    return 0 if bar is None or ratio <= bar else 1


if __name__ == "__main__":
    sys.exit(main())
