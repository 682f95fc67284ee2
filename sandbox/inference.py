"""One instance of the service that the sandbox protects.

``python -m sandbox.inference --name home-1 --site home --config FILE --host 127.0.0.11 --port 8001``

It serves from its own site alone: the model that ``pointers/<model>.json`` names in the site's bucket, every file's
SHA-256 checked; neighbours from the site's index; features from the site's online store. What is missing is waited for,
and meanwhile ``/health`` answers 503 and says what it is: at the standby site an instance may be older than its model.
When the pointer moves, the new model is loaded beside the old one.

It accepts feature writes while it holds its lease, and acknowledges one when the online store *and* the offline log
have it. ``--lease off`` makes it a writer that nobody can fence.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandbox.model import SentenceModel
from understudy import opening
from understudy.errors import InvalidConfig, UnderstudyError
from understudy.failover.lease import StrictLease
from understudy.features.interface import Cell, canonical_json, micros
from understudy.features.live import LiveFeatures
from understudy.features.log import LogWriter
from understudy.service import Service
from understudy.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from understudy.objects.interface import ObjectStore
    from understudy.settings import Settings, SiteRole
    from understudy.vectors.interface import VectorStore

logger = logging.getLogger("sandbox.inference")

MODEL = "minilm"
#: What somebody of whom nothing is known is recommended by.
DEFAULT_TEXT = "How do I get started?"
K_DEFAULT, K_MAX = 10, 100
_LOOK_SECONDS = 1.0
_TEXT_MAX = 10_000


class NotServing(Exception):
    """What is asked for cannot be answered now; says why."""


class NotWriting(Exception):
    """This instance may not accept writes now; says why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: what its pointer says, and what computes."""

    version: str
    digest: str
    pointer: bytes
    model: SentenceModel


@dataclass(slots=True)
class Health:
    """What the watching thread saw last; a part that never answered has an entry in ``problems``."""

    problems: dict[str, str] = field(
        default_factory=lambda: {"model": "not loaded yet", "index": "not asked yet", "features": "not asked yet"}
    )
    index: dict[str, Any] = field(default_factory=dict)


class Instance:
    """Model, index, online store, lease and log of one instance."""

    def __init__(
        self, settings: Settings, site: SiteRole, name: str, *, strict: bool = True, model: str = MODEL
    ) -> None:
        """Open the adapters of a site; nothing is asked of them yet. Raises InvalidConfig."""
        access = settings.site(site)
        models, index, features = (
            settings.pair(component) for component in ("training", "vector_index", "feature_store")
        )
        self.name = name
        self.site = site
        self.health = Health()
        self._model_name = model
        self._bucket: ObjectStore = opening.open_store(models.home if site == "home" else models.away, access)
        self._index: VectorStore = opening.open_vectors(
            index.home if site == "home" else index.away, access, password=index.password
        )
        self._features = LiveFeatures(opening.open_features(features.home if site == "home" else features.away, access))
        if site == "home":
            self._offline: ObjectStore = opening.open_store(features.offline or features.home, access)
        else:  # the vault's copy is the offline store of the site that took over
            self._offline = Service(settings).offline(features, site)
        self._lease = (
            StrictLease(
                opening.open_register(settings), name=name, site=site, seconds=settings.register_.lease.total_seconds()
            )
            if strict
            else None
        )
        self._loaded: Loaded | None = None
        self._log: LogWriter | None = None
        self._log_lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(what,), name=what.__name__, daemon=True)
            for what in (self._look_at_model, self._look_at_index, self._look_at_features, self._look_at_lease)
        ]

    def start(self) -> None:
        """Begin to watch, and to hold the lease."""
        if self._lease is not None:
            self._lease.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give the lease back and close the log."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=2)
        if self._lease is not None:
            self._lease.stop()
        with self._log_lock, contextlib.suppress(UnderstudyError):
            if self._log is not None:
                self._log.close()

    # ------------------------------------------------------------------ what is served

    def recommend(self, entity: str, text: str | None, k: int, *, exact: bool) -> dict[str, Any]:
        """Return the ``k`` passages nearest to a text, or to what the entity is interested in."""
        loaded = self._loaded
        if loaded is None:
            raise NotServing(f"no model: {self.health.problems.get('model', 'not loaded')}")
        features = self._read_features(entity)
        query = text or features.get("interest") or DEFAULT_TEXT
        vector = loaded.model.embed(str(query)[:_TEXT_MAX])
        hits = self._index.query(vector, k, exact=exact)
        return {
            "entity": entity,
            "hits": [{"id": hit.id, "score": hit.score} for hit in hits],
            "features": features,
            "model": loaded.version,
            "site": self.site,
        }

    def write(self, entity: str, feature: str, value: Any, event_time: datetime | None) -> dict[str, Any]:
        """Write one feature to the log and the online store, and return when both have it.

        Raises NotWriting when the instance may not write, or may no longer when both had it: then nobody knows.
        """
        self._check_may_write()
        now = datetime.now(UTC)
        cell = Cell(
            entity=entity,
            feature=feature,
            value=None if value is None else canonical_json(value),
            event_us=micros(event_time or now),
            created_us=micros(now),
        )
        self._writer().append([cell])
        self._features.write([cell])
        self._check_may_write()
        return {"entity": entity, "feature": feature, "event_us": cell.event_us, "site": self.site}

    def status(self) -> tuple[bool, dict[str, Any]]:
        """Return whether all parts answer, and what ``/health`` says; asks nobody."""
        loaded, problems = self._loaded, dict(self.health.problems)
        made_with = self.health.index.get("model_digest")
        if loaded is not None and made_with is not None and made_with != loaded.digest:
            problems["index"] = f"was made with another model than version {loaded.version}, which is loaded"
        return not problems, {
            "ok": not problems,
            "name": self.name,
            "site": self.site,
            "model": loaded.version if loaded else None,
            "model_digest": loaded.digest if loaded else None,
            "index": self.health.index,
            "epoch": self._lease.epoch if self._lease else None,
            "may_write": self._may_write(),
            "problems": problems,
        }

    # ------------------------------------------------------------------ how

    def _read_features(self, entity: str) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in sorted(self._features.read(entity).items())}

    def _may_write(self) -> bool:
        return self._lease is None or self._lease.may_write()

    def _check_may_write(self) -> None:
        if self._lease is not None and not self._lease.may_write():
            raise NotWriting(f"{self.name} may not write: {self._lease.why_not()}")

    def _writer(self) -> LogWriter:
        with self._log_lock:
            if self._log is None:
                self._log = LogWriter(self._offline, self.name)
            return self._log

    def _watch(self, look: Callable[[], None]) -> None:
        part = look.__name__.removeprefix("_look_at_")
        while True:
            try:
                look()
            except (UnderstudyError, NotServing) as error:
                self.health.problems[part] = str(error)
            except Exception as error:
                logger.exception("looking at the %s failed", part)
                self.health.problems[part] = f"{type(error).__name__}: {error}"
            else:
                self.health.problems.pop(part, None)
            if self._stopping.wait(_LOOK_SECONDS):
                return

    def _look_at_model(self) -> None:
        text = self._bucket.get(f"pointers/{self._model_name}.json")
        if self._loaded is None or self._loaded.pointer != text:
            self._loaded = load_model(self._bucket, text)

    def _look_at_index(self) -> None:
        description = self._index.describe()
        self.health.index = {**description.labels, "rows": description.rows}

    def _look_at_features(self) -> None:
        self._features.read("canary")

    def _look_at_lease(self) -> None:
        # The log says "nothing was written" each second only while this instance could have written something.
        if self._may_write():
            self._writer()


def load_model(bucket: ObjectStore, pointer: bytes) -> Loaded:
    """Load what a pointer names. Raises NotServing when a file's SHA-256 is not the one recorded."""
    said = json.loads(pointer)
    files: dict[str, bytes] = {}
    for file in said["files"]:
        data = bucket.get(file["key"], version=file.get("version"))
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            raise NotServing(f"{file['path']} of model {said['model']} {said['version']} is not what its SHA-256 says")
        files[file["path"]] = data
    try:
        model = SentenceModel(files)
    except (KeyError, ValueError) as error:
        raise NotServing(f"model {said['model']} {said['version']} cannot be loaded: {error}") from error
    return Loaded(version=said["version"], digest=said["digest"], pointer=pointer, model=model)


# ---------------------------------------------------------------------- HTTP


def application(instance: Instance) -> Starlette:
    """Return the instance's HTTP interface."""

    async def health(_request: Request) -> JSONResponse:
        ok, body = instance.status()
        return JSONResponse(body, status_code=200 if ok else 503)

    async def recommend(request: Request) -> JSONResponse:
        body = await _body(request, entity=str)
        text, k, exact = body.get("text"), body.get("k", K_DEFAULT), body.get("exact", False)
        if not (text is None or isinstance(text, str)) or not isinstance(exact, bool):
            raise _Wrong("text must be a string, exact true or false")
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= K_MAX:
            raise _Wrong(f"k must be 1 to {K_MAX}")
        return JSONResponse(await run_in_threadpool(instance.recommend, body["entity"], text, k, exact=exact))

    async def features(request: Request) -> JSONResponse:
        body = await _body(request, entity=str, feature=str)
        if "value" not in body:
            raise _Wrong("value is missing; null deletes the feature")
        moment: datetime | None = None
        if body.get("event_time") is not None:
            try:
                moment = datetime.fromisoformat(body["event_time"])
            except (TypeError, ValueError) as error:
                raise _Wrong("event_time is no ISO 8601 time") from error
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        written = await run_in_threadpool(instance.write, body["entity"], body["feature"], body["value"], moment)
        return JSONResponse(written)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        instance.start()
        yield
        await run_in_threadpool(instance.stop)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/health", health),
            Route("/recommend", recommend, methods=["POST"]),
            Route("/features", features, methods=["POST"]),
        ],
        exception_handlers={
            _Wrong: _answer(400),
            NotWriting: _answer(409),
            NotServing: _answer(503),
            UnderstudyError: _answer(503),
        },
    )


class _Wrong(Exception):
    """The request is not one; says what to send."""


def _answer(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def handle(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=status)

    return handle


async def _body(request: Request, **required: type) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise _Wrong("the body is not JSON") from error
    for name, kind in required.items():
        if not isinstance(body, dict) or not isinstance(body.get(name), kind) or not body[name]:
            raise _Wrong(f"{name} is missing, or no {kind.__name__}")
    return cast("dict[str, Any]", body)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.inference", description="One instance of the service")
    parser.add_argument("--name", required=True, help="unique among the instances of both sites")
    parser.add_argument("--site", choices=["home", "away"], required=True)
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--lease", choices=["strict", "off"], default="strict")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        instance = Instance(
            load_settings(chosen.config), chosen.site, chosen.name, strict=chosen.lease == "strict", model=chosen.model
        )
    except InvalidConfig as error:
        sys.stderr.write(f"{chosen.name} cannot start: {error}\n")
        return error.exit_code
    uvicorn.run(
        application(instance), host=chosen.host, port=chosen.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
