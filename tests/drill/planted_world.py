"""A whole service whose every secret is a distinctive text, run well and badly, in and out of Prefect.

``python -m tests.drill.planted_world FOLDER`` leaves below FOLDER/evidence all that the runs printed, logged, kept,
stored and showed, for ``test_planted_secrets`` to look through.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import logging
import os
import shutil
import sys
import threading
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import yaml

from sandbox.process import free_port, launch
from tests.models import model_files
from tests.servers import HOST, launch_moto

HOME_ADDRESS, AWAY = "127.0.0.98", "127.0.0.99"
#: Each is long, unlike anything else, and has characters that URLs and JSON write otherwise.
PLANTED = {
    "aws key id": "AKIAPLANTEDKEYID7X3Q",
    "aws secret": "PlantedAws/Secret+Key==7x3q9Zw2Lk8Tn5Vb",
    "aws token": "PlantedAwsSessionToken//7x3q+9Zw2Lk8Tn5Vb4Rm",
    "pg password": "planted pg&pa/ss+word 7x3q9Zw2",
    "wrong pg password": "planted wrong&pa/ss+word 8y4r0Ax3",
    "redis password": "planted-redis&pa/ss+word-7x3q9Zw2",
    "wrong redis password": "planted-wrong&redis/pass-8y4r0Ax3",
    "signing key": base64.b64encode(b"planted signing key 7x3q9Zw2Lk8T").decode(),
    "ping token": "planted-ping-token-7x3q9Zw2Lk8Tn5Vb",
    "slack token": "TPLANTED/BPLANTED/plantedslack7x3q9Zw2Lk8Tn5Vb",
}
CREDENTIALS = {
    "AccessKeyId": PLANTED["aws key id"],
    "SecretAccessKey": PLANTED["aws secret"],
    "SessionToken": PLANTED["aws token"],
}


class Echo(http.server.BaseHTTPRequestHandler):
    """A server that denies everything and says back all that it was sent, as a careless proxy does."""

    def do_GET(self) -> None:
        body = str(self.headers).replace("&", "&amp;").replace("<", "&lt;")
        said = f"<Error><Code>AccessDenied</Code><Message>not with {body} for {self.path}</Message></Error>".encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - the names are the library's

    def log_message(self, *args: object) -> None:
        del args


class Standby(Echo):
    """An instance that is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


class Evidence:
    """Everything that anybody could read afterwards, a file a thing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.exits: dict[str, int] = {}
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        plain = logging.getLogRecordFactory()

        def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
            made = plain(*args, **kwargs)
            if made.levelno >= logging.INFO or made.name.startswith("understudy"):
                why = "".join(traceback.format_exception(*made.exc_info)) if made.exc_info else ""
                self._log.write(f"{made.name} {made.levelname} {made.getMessage()}\n{why}")
                self._log.flush()
            return made

        logging.setLogRecordFactory(record)

    def keep(self, name: str, data: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def command(self, name: str, config: Path, *arguments: str) -> int:
        """Run the command line in this process and keep what it prints, as people see it, and for machines."""
        from understudy.command.root import run

        code = 0
        for way in ([], ["--json"]):
            out, err = io.StringIO(), io.StringIO()
            os.environ["UNDERSTUDY_DEBUG"] = "1"
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(["-c", str(config), *way, *arguments])
            self.keep(f"commands/{name}{'-json' if way else ''}.txt", f"{out.getvalue()}\n--\n{err.getvalue()}")
        self.exits[name] = code
        return code


def start_servers(folder: Path) -> dict[str, Any]:
    """Start S3, Route 53 and DynamoDB (moto), PostgreSQL and Redis with passwords, and the echo."""
    from sandbox.postgres import accepts_connections
    from tests.redis_fixture import launch_redis

    url, moto = launch_moto(folder / "moto.log")
    port = free_port(HOST)
    data = folder / "postgres"
    command = [sys.executable, "-m", "sandbox.postgres", "--host", HOST, "--port", str(port), "--data", str(data)]
    postgres = launch(
        command,
        name="PostgreSQL",
        log=folder / "postgres.log",
        ready=lambda: accepts_connections(HOST, port),
        env={"UNDERSTUDY_SANDBOX_PASSWORD": PLANTED["pg password"]},
    )
    redis, server = launch_redis(folder / "redis", "--requirepass", PLANTED["redis password"])
    echo = http.server.ThreadingHTTPServer((HOST, 0), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    standby = http.server.ThreadingHTTPServer((AWAY, 0), Standby)
    threading.Thread(target=standby.serve_forever, daemon=True).start()
    return {
        "port": standby.server_port,
        "aws": url,
        "postgres": f"{HOST}:{port}",
        "redis": redis,
        "echo": f"http://{HOST}:{echo.server_port}",
        "processes": [moto, postgres, server],
    }


def document(servers: dict[str, Any], zone: str) -> dict[str, Any]:
    """Return the config of a service that works."""
    aws = {"cloud": "aws", "credentials": "env:PLANTED_AWS"}
    services = {"endpoints": dict.fromkeys(("s3", "dynamodb", "route53"), servers["aws"])}
    postgres = f"pgvector://understudy@{servers['postgres']}"
    return {
        "service": "recommender",
        "sites": {
            "home": {"name": "aws-use1", "region": "us-east-1", **aws, **services},
            "away": {"name": "aws-usw2", "region": "us-west-2", **aws, **services},
        },
        "vault": {"url": "s3://planted-vault/recommender", "sign_with": "env:PLANTED_SIGNING_KEY"},
        "register": {
            "url": "s3://planted-register/recommender",
            "region": "eu-west-1",
            "lease": "1s",
            **aws,
            **services,
        },
        "components": {
            "inference": {"rto": "5m", "rpo": "none"},
            "feature_store": {
                "rto": "15m",
                "rpo": "5m",
                "pairs": [
                    {
                        "name": "features",
                        "offline": "s3://planted-lake/features/",
                        "home": f"redis://{servers['redis']}/0?prefix=home",
                        "away": f"redis://{servers['redis']}/0?prefix=away",
                        "password": "env:PLANTED_REDIS",
                        "every": "2m",
                    }
                ],
            },
            "vector_index": {
                "rto": "30m",
                "rpo": "1h",
                "pairs": [
                    {
                        "name": "products",
                        "home": f"{postgres}/vectors?table=products",
                        "away": f"{postgres}/standby?table=products",
                        "password": "env:PLANTED_PG",
                        "every": "30m",
                    }
                ],
            },
            "training": {
                "rto": "4h",
                "rpo": "24h",
                "pairs": [
                    {
                        "name": "models",
                        "home": "s3://planted-models/",
                        "away": "s3://planted-serving/",
                        "every": "02:00,14:00",
                    }
                ],
            },
        },
        "traffic": {
            "url": f"route53://{zone}/recommend.planted.example",
            "region": "us-east-1",
            "scheme": "http",
            "port": servers["port"],
            "resolvers": [servers["dns"]],
            "addresses": {"home": HOME_ADDRESS, "away": AWAY},
            "ttl_max": "2s",
            **aws,
            **services,
        },
        "capacity": {"away": "fixed://1", "warm": 1, "full": 1},
        "metrics": {"ping": "env:PLANTED_PING"},
        "notify": ["block:slack-webhook/incidents"],
    }


def changed(whole: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a copy of the config with dotted settings changed (``__`` for a dot)."""
    copy = json.loads(json.dumps(whole))
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        node = copy
        for part in path:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] = value
    return copy


def fill(servers: dict[str, Any], log: Path) -> str:
    """Make the buckets, the databases, a model, an index and features; return the hosted zone's id."""
    from understudy.artifacts.manifest import model_digest
    from understudy.clouds import aws
    from understudy.features.interface import Cell
    from understudy.features.log import LogWriter
    from understudy.objects.s3 import S3Store
    from understudy.settings import Access
    from understudy.traffic.route53 import Route53Traffic
    from understudy.traffic.watch import resolve

    access = Access(endpoints=dict.fromkeys(("s3", "route53"), servers["aws"]))
    s3 = aws.client("s3", access)
    for bucket in ("vault", "register", "lake", "models", "serving"):
        s3.create_bucket(Bucket=f"planted-{bucket}")
        status = {"Status": "Enabled"}
        s3.put_bucket_versioning(Bucket=f"planted-{bucket}", VersioningConfiguration=status)  # type: ignore[arg-type]
    models = S3Store("planted-models", client=s3)
    files = model_files()
    for name, data in files.items():
        models.put(f"minilm/1/{name}", data)
    digest = model_digest((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
    lake = S3Store("planted-lake", "features", client=s3)
    moment = int((datetime.now(UTC) - timedelta(minutes=1)).timestamp() * 1e6)
    with LogWriter(lake, "pod-a") as writer:
        writer.append([Cell(f"user-{n}", "watched", str(n), moment, moment) for n in range(20)])
    host, _, port = servers["postgres"].partition(":")
    with psycopg.connect(
        host=host, port=port, dbname="vectors", user="understudy", password=PLANTED["pg password"], autocommit=True
    ) as home:
        home.execute("CREATE DATABASE standby")
        home.execute("CREATE TABLE products (id text PRIMARY KEY, embedding vector(3))")
        home.execute(
            "INSERT INTO products SELECT 'p' || n, ('[' || n || ',1,2]')::vector FROM generate_series(1, 30) n"
        )
        home.execute("CREATE INDEX ON products USING hnsw (embedding vector_cosine_ops)")
        labels = json.dumps({"model": "minilm", "model_version": "1", "model_digest": digest})
        home.execute(f"COMMENT ON TABLE products IS '{labels}'")  # type: ignore[call-overload]
    with psycopg.connect(
        host=host, port=port, dbname="standby", user="understudy", password=PLANTED["pg password"], autocommit=True
    ) as away:
        away.execute("CREATE EXTENSION IF NOT EXISTS vector")
    route53 = aws.client("route53", access)
    made = route53.create_hosted_zone(Name="planted.example", CallerReference="planted")
    zone = str(made["HostedZone"]["Id"]).rpartition("/")[2]
    traffic = Route53Traffic(zone, "recommend.planted.example", client=route53)
    traffic.prepare({"home": HOME_ADDRESS, "away": AWAY}, active="home", ttl=2)
    dns = free_port(HOST)
    command = [sys.executable, "-m", "sandbox.dns_server", "--port", str(dns), "--zone-id", zone]
    process = launch(
        [*command, "--route53-endpoint", servers["aws"]],
        name="DNS",
        log=log,
        ready=lambda: resolve("recommend.planted.example", f"{HOST}:{dns}", timeout=0.5) == [HOME_ADDRESS],
    )
    servers["dns"] = f"{HOST}:{dns}"
    servers["processes"].append(process)
    return zone


COMMANDS = (
    ("check", "config", "check", "--seconds", "5"),
    ("push", "artifacts", "push"),
    ("hydrate", "artifacts", "hydrate"),
    ("export", "vectors", "export"),
    ("rebuild", "vectors", "rebuild"),
    ("features-push", "features", "push"),
    ("features-rebuild", "features", "rebuild"),
    ("verify", "vault", "verify", "--deep"),
    ("status", "status"),
    ("failover-plan", "failover", "plan", "--to", "away"),
    ("failover-refused", "failover", "run", "--yes"),
    ("failover-status", "failover", "status"),
)
LAST = (
    ("failover-plan", "failover", "plan", "--to", "away"),
    ("failover-run", "failover", "run", "--yes", "--accept-unfenced", "the drill", "--reason", "the drill"),
    ("failover-status", "failover", "status"),
)


def run_commands(evidence: Evidence, folder: Path, whole: dict[str, Any], servers: dict[str, Any]) -> None:
    """Run every command well, then with each thing wrong that can be wrong."""
    free = free_port(HOST)

    def config(name: str, settings: dict[str, Any]) -> Path:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    def run(case: str, settings: dict[str, Any], commands: Any = COMMANDS) -> None:
        path = config(case, settings)
        for name, *arguments in commands:
            evidence.command(f"{case}/{name}", path, *arguments)

    run("well", whole, (("register", "register", "init"), *COMMANDS))
    bundle = ("debug", "bundle", "--out", str(evidence.folder / "bundle.tgz"))
    evidence.command("well/bundle", folder / "well.yaml", *bundle)
    services = dict.fromkeys(("s3", "dynamodb", "route53"), servers["echo"])
    reading = [command for command in COMMANDS if command[0] not in ("failover-refused", "verify")]
    copying = [command for command in reading if "failover" not in command[0]]
    run("echo", changed(whole, sites__home__endpoints=services, sites__away__endpoints=services), reading)
    run("echo-register", changed(whole, register__endpoints=services, traffic__endpoints=services), reading)
    refused = dict.fromkeys(services, f"http://{HOST}:{free}")
    run("refused", changed(whole, sites__home__endpoints=refused, sites__away__endpoints=refused), copying[:2])
    bad = dict.fromkeys(services, "http://bad host:port/")
    run("bad-endpoint", changed(whole, sites__home__endpoints=bad), copying[:2])
    os.environ |= {"PLANTED_PG": PLANTED["wrong pg password"], "PLANTED_REDIS": PLANTED["wrong redis password"]}
    run("wrong-password", whole, copying)
    os.environ |= {"PLANTED_PG": PLANTED["pg password"], "PLANTED_REDIS": PLANTED["redis password"]}
    dead = f"pgvector://understudy@{HOST}:{free}/vectors?table=products"
    gone = f"redis://{HOST}:{free}/0?prefix=home"
    pairs = {
        "components__vector_index__pairs__0__home": dead,
        "components__vector_index__pairs__0__away": dead.replace("vectors?", "standby?"),
        "components__feature_store__pairs__0__home": gone,
        "components__feature_store__pairs__0__away": gone.replace("home", "away"),
    }
    run("dead-databases", changed(whole, **pairs), copying)
    mistaken = {
        "components__vector_index__pairs__0__home": f"pgvector://understudy:{PLANTED['pg password']}@{HOST}/v?table=p",
        "components__feature_store__pairs__0__home": f"redis://:{PLANTED['redis password']}@{HOST}/0?prefix=home",
        "components__vector_index__pairs__0__password": PLANTED["pg password"],
        "components__feature_store__pairs__0__away": f"redis://{HOST}/0?prefix=a&password={PLANTED['redis password']}",
        "vault__sign_with": PLANTED["signing key"],
        "metrics__ping": f"https://ping.example/{PLANTED['ping token']}",
        "metrics__otlp": f"http://user:{PLANTED['ping token']}@collector",
        "notify": [f"https://hooks.example/services/{PLANTED['slack token']}"],
        "sites__home__credentials": f"env:{PLANTED['aws secret']}",
    }
    run("secrets-in-the-config", changed(whole, **mistaken), [COMMANDS[0], COMMANDS[8]])
    kept = os.environ["PLANTED_AWS"]
    wrong_kinds = {
        "not-json": kept[:-5],
        "gcp-kind": json.dumps({"type": "service_account", "private_key": PLANTED["aws secret"]}),
        "line-break": json.dumps(CREDENTIALS | {"SessionToken": PLANTED["aws token"] + "\n", "AccessKeyId": "A\nB"}),
    }
    for case, text in wrong_kinds.items():
        os.environ["PLANTED_AWS"] = text
        run(case, whole, copying[:2])
        gcp = changed(whole, vault__url="gs://planted-vault/recommender", sites__away__cloud="gcp")
        run(f"{case}-as-gcp", gcp, copying[:2])
    os.environ["PLANTED_AWS"] = kept
    key = os.environ["PLANTED_SIGNING_KEY"]
    os.environ["PLANTED_SIGNING_KEY"] = key[:-6]
    run("half-a-key", whole, copying[:4])
    os.environ["PLANTED_SIGNING_KEY"] = key


def run_flows(evidence: Evidence, folder: Path) -> None:
    """Run the flows under Prefect, well and badly, and keep what its server knows."""
    os.environ.update(
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_EXTRA_LOGGERS="understudy",
        HTTPS_PROXY=f"http://{HOST}:9",  # nothing leaves this machine
    )
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        from prefect.blocks.notifications import SlackWebhook
        from prefect.blocks.system import Secret
        from prefect.client.orchestration import get_client
        from prefect.settings import get_current_settings

        SlackWebhook(url=f"https://hooks.slack.com/services/{PLANTED['slack token']}").save("incidents")  # type: ignore[arg-type]
        Secret(value=json.dumps(CREDENTIALS)).save("aws")  # type: ignore[call-arg]
        Secret(value=PLANTED["pg password"]).save("pg")  # type: ignore[call-arg]
        from flows.failover import failover
        from flows.plan_failover import plan_failover
        from flows.rebuild_features import rebuild_features
        from flows.replicate_artifacts import replicate_artifacts
        from flows.replicate_offline import replicate_offline
        from flows.replicate_vectors import replicate_vectors
        from tasks.house import may_pass  # noqa: F401 - its import registers the reader of blocks

        well = yaml.safe_load((folder / "well.yaml").read_text(encoding="utf-8"))
        in_blocks = changed(
            well,
            sites__home__credentials="block:secret/aws",
            sites__away__credentials="block:secret/aws",
            components__vector_index__pairs__0__password="block:secret/pg",
            vault__url="s3://planted-vault/blocks",
            register__url="s3://planted-register/blocks",
        )
        (folder / "blocks.yaml").write_text(yaml.safe_dump(in_blocks), encoding="utf-8")
        from understudy.service import open_service

        open_service(folder / "blocks.yaml").register.initialise("recommender")
        _without_retries()
        states: dict[str, str] = {}
        for case in ("blocks", "echo", "wrong-password", "not-json", "secrets-in-the-config"):
            wrong = case == "wrong-password"
            os.environ["PLANTED_PG"] = PLANTED["wrong pg password" if wrong else "pg password"]
            os.environ["PLANTED_REDIS"] = PLANTED["wrong redis password" if wrong else "redis password"]
            os.environ["PLANTED_AWS"] = json.dumps(CREDENTIALS)[: -5 if case == "not-json" else None]
            flows = (replicate_artifacts, replicate_vectors, replicate_offline, rebuild_features)
            for flow in flows if case == "blocks" or wrong else flows[:1]:
                state = flow(config=str(folder / f"{case}.yaml"), return_state=True)
                states[f"{case}/{flow.name}"] = f"{state.name}: {state.message}"
        accepted = {"confirm": "recommender", "accept_unfenced": "the drill", "reason": "the drill"}
        for flow, given in ((plan_failover, {}), (failover, accepted)):
            state = flow(config=str(folder / "blocks.yaml"), return_state=True, **given)  # type: ignore[operator]
            states[f"blocks/{flow.name}"] = f"{state.name}: {state.message}"
        evidence.keep("states.json", json.dumps(states, indent=1))
        with get_client(sync_client=True) as client:
            _keep_what_prefect_knows(evidence, client)
        # What no call of the client asks for, such as events, stands in the server's own database.
        address = get_current_settings().server.database.connection_url
        database = Path(address.get_secret_value().partition(":///")[2])  # type: ignore[union-attr]
        for file in database.parent.glob(f"{database.name}*"):
            evidence.keep(f"prefect/database/{file.name}", file.read_bytes())
            evidence.exits["prefect/database"] = evidence.exits.get("prefect/database", 0) + file.stat().st_size


def _without_retries() -> None:
    """Let the tasks fail at once; what they say the second time is the same."""
    from prefect.tasks import Task

    import tasks.artifacts
    import tasks.features
    import tasks.vectors

    for module in (tasks.artifacts, tasks.features, tasks.vectors):
        for each in vars(module).values():
            if isinstance(each, Task):
                each.retries = 0


def _keep_what_prefect_knows(evidence: Evidence, client: Any) -> None:
    import time

    from prefect.client.schemas.filters import LogFilter
    from prefect.client.schemas.sorting import LogSort
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=20)
    time.sleep(2)  # the server writes what it was sent in batches
    logs: list[Any] = []
    while True:
        page = client.read_logs(LogFilter(), limit=200, offset=len(logs), sort=LogSort.TIMESTAMP_ASC)
        logs += page
        if len(page) < 200:
            break
    asked = {
        "flow-runs": client.read_flow_runs(limit=200),
        "artifacts": client.read_artifacts(limit=200),
        "blocks": client.read_block_documents(include_secrets=False),
        "variables": client.read_variables(),
        "logs": logs,
    }
    for name, found in asked.items():
        evidence.keep(f"prefect/{name}.json", "[" + ",\n".join(each.model_dump_json() for each in found) + "]")
        evidence.exits[f"prefect/{name}"] = len(found)


def keep_objects(evidence: Evidence, servers: dict[str, Any]) -> None:
    """Keep every object of the vault, the register and the serving bucket, old versions too."""
    from understudy.clouds import aws
    from understudy.settings import Access

    s3 = aws.client("s3", Access(endpoints={"s3": servers["aws"]}))
    count = 0
    for bucket in ("vault", "register", "serving", "lake"):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=f"planted-{bucket}"):
            for version in page.get("Versions", []):
                place = {"Bucket": f"planted-{bucket}", "Key": version["Key"], "VersionId": version["VersionId"]}
                body = s3.get_object(**place)["Body"].read()  # type: ignore[arg-type]
                evidence.keep(f"objects/{bucket}/{count:05d}", version["Key"].encode() + b"\n" + body)
                count += 1
    evidence.exits["objects"] = count


def main() -> None:
    """Do all of it."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        XDG_STATE_HOME=str(folder / "state"),
        PLANTED_AWS=json.dumps(CREDENTIALS),
        PLANTED_PG=PLANTED["pg password"],
        PLANTED_REDIS=PLANTED["redis password"],
        PLANTED_SIGNING_KEY=PLANTED["signing key"],
        PLANTED_PING=f"http://{HOST}:{free_port(HOST)}/{PLANTED['ping token']}",
    )
    evidence = Evidence(folder / "evidence")
    servers = start_servers(folder / "servers")
    try:
        zone = fill(servers, folder / "dns.log")
        whole = document(servers, zone)
        run_commands(evidence, folder, whole, servers)
        run_flows(evidence, folder)
        for name, *arguments in LAST:
            evidence.command(f"last/{name}", folder / "well.yaml", *arguments)
        keep_objects(evidence, servers)
        if (folder / "state").exists():
            shutil.copytree(folder / "state", evidence.folder / "state")
        evidence.keep("exits.json", json.dumps(evidence.exits, indent=1))
    finally:
        for process in servers["processes"]:
            process.kill()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
