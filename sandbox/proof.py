"""The proof: what was recorded at home, compared with what the other site says. Knows nothing of Prefect.

Where it can, it asks in another way than the product does: answers through DNS and HTTP, rows by plain SQL, files by
reading them, the offline truth by a dozen lines of Python. Scores are compared as they are, with no tolerance: the same
files, the same vectors bit for bit and the same code must give the same bits, and a difference of any size is one.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow.parquet as pq

from sandbox.client import Answer, Client, NotAnswered, ask
from sandbox.seed import MODEL, connect
from understudy import opening
from understudy.artifacts.pointer import read_pointer
from understudy.errors import NotFound, UnderstudyError
from understudy.failover.journal import read_journal
from understudy.report import human_seconds
from understudy.vault.pointers import watermark_key
from understudy.vault.store import open_vault
from understudy.vault.verify import verify as verify_vault
from understudy.vectors.verify import verify as verify_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox.client import Watch, Written
    from sandbox.stage import Stage
    from understudy.features.interface import Cell
    from understudy.settings import ComponentName, Settings, SiteRole

RECALL_OF_HOME = 0.99
HEALTH_CALLS = 100
HITS = 10
_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What home was while it lived.

    Attributes:
        answers: to the questions.
        model_version: that answered.
        files: of the model, path to hex SHA-256 of the bytes read.
        rows: of the index.
        index_digest: hex SHA-256 over its rows by plain SQL.
    """

    answers: list[Answer]
    model_version: str
    files: dict[str, str]
    rows: int
    index_digest: str


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One thing that was to be proven: whether it held, and a sentence with its figures."""

    name: str
    held: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One component beside its targets; seconds, None where there is no target or nothing was measured."""

    component: str
    rto_target: float
    rto_achieved: float | None
    rpo_target: float | None
    rpo_achieved: float | None

    @property
    def held(self) -> bool:
        """Whether both targets were met."""
        if self.rto_achieved is None or self.rto_achieved > self.rto_target:
            return False
        return self.rpo_target is None or (self.rpo_achieved is not None and self.rpo_achieved <= self.rpo_target)


@dataclass(frozen=True, slots=True)
class Proof:
    """All rows, and the table of targets."""

    service: str
    site: str
    killed_at: datetime
    rows: list[ProofRow]
    targets: list[TargetRow] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every proof held and every target was met."""
        return all(row.held for row in self.rows) and all(row.held for row in self.targets)

    @property
    def failed(self) -> set[str]:
        """The names of the proofs that did not hold."""
        return {row.name for row in self.rows if not row.held}

    def text(self) -> str:
        """Return the table of targets for a terminal."""
        table = [list(_HEAD), *self._cells()]
        widths = [max(len(line[column]) for line in table) for column in range(len(_HEAD))]
        return "\n".join(
            " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        )

    def markdown(self) -> str:
        """Return both tables as Markdown."""
        verdict = "All proved" if self.held else "NOT PROVED"
        lines = [
            f"**{verdict}**: {self.service} at {self.site}; home was killed {self.killed_at:%Y-%m-%d %H:%M:%S}Z",
            "",
            "| proof | held | |",
            "| --- | --- | --- |",
            *(f"| {row.name} | {'yes' if row.held else '**NO**'} | {_cell(row.sentence)} |" for row in self.rows),
            "",
            f"| {' | '.join(_HEAD)} |",
            f"|{' --- |' * len(_HEAD)}",
            *(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in self._cells()),
        ]
        return "\n".join(lines) + "\n"

    def json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "service": self.service,
            "site": self.site,
            "killed_at": self.killed_at.isoformat(),
            "held": self.held,
            "proofs": [asdict(row) for row in self.rows],
            "targets": [{**asdict(row), "held": row.held} for row in self.targets],
        }

    def _cells(self) -> Iterator[list[str]]:
        for row in self.targets:
            yield [
                row.component,
                f"{human_seconds(row.rto_target)}, {_seconds(row.rto_achieved)}",
                "none" if row.rpo_target is None else f"{human_seconds(row.rpo_target)}, {_seconds(row.rpo_achieved)}",
                "met" if row.held else "MISSED",
            ]


_HEAD = ("component", "RTO target, achieved", "RPO target, achieved", "verdict")


class _Fails(Exception):
    """A proof does not hold; says how."""


def record(stage: Stage) -> Recorded:
    """Ask the questions, read model and index at home. Raises NotAnswered, UnderstudyError, psycopg.Error."""
    settings = stage.settings
    client = Client(settings)
    return Recorded(
        answers=ask(client, k=HITS),
        model_version=str(client.recommend()["model"]),
        files=model_files(settings, "home"),
        **dict(zip(("rows", "index_digest"), index_rows(settings, "home"), strict=True)),  # type: ignore[arg-type]
    )


def prove(
    stage: Stage, recorded: Recorded, *, killed_at: datetime, acknowledged: Sequence[Written], watch: Watch
) -> Proof:
    """Compare what was recorded at home with what away serves; every row is tried, whatever the others say.

    Args:
        stage: whose away site took over. Nobody writes any more.
        recorded: at home, before it was lost.
        killed_at: on this machine's clock, just before the kill.
        acknowledged: the writes that the service acknowledged, at both sites, in order.
        watch: the stopwatch that ran from the kill.
    """
    proving = _Proving(stage.settings, recorded, killed_at, acknowledged, watch)
    rows = [_row(name, check) for name, check in proving.checks().items()]
    return Proof(stage.settings.service, stage.settings.sites.away.name, killed_at, rows, proving.targets())


def _row(name: str, check: Callable[[], str]) -> ProofRow:
    try:
        return ProofRow(name, held=True, sentence=check())
    except (_Fails, NotAnswered, UnderstudyError, psycopg.Error, OSError, KeyError, ValueError, TypeError) as error:
        words = (
            str(error)
            if isinstance(error, (_Fails, NotAnswered, UnderstudyError))
            else f"{type(error).__name__}: {error}"
        )
        return ProofRow(name, held=False, sentence=words)


class _Proving:
    """The checks, by name."""

    def __init__(
        self, settings: Settings, recorded: Recorded, killed_at: datetime, acknowledged: Sequence[Written], watch: Watch
    ) -> None:
        self._settings = settings
        self._recorded = recorded
        self._killed_at = killed_at
        self._acknowledged = sorted(acknowledged, key=lambda write: write.acknowledged)
        self._watch = watch
        self._client = Client(settings)
        self._vault = open_vault(opening.open_store(settings.vault.url, settings.sites.away))
        self._lost_seconds: float | None = None
        self._asked: list[Answer] | None = None

    def checks(self) -> dict[str, Callable[[], str]]:
        return {
            "name": self._name,
            "fence": self._fence,
            "answers": self._answers,
            "recall": self._recall,
            "model": self._model,
            "vault": self._whole_vault,
            "index": self._index,
            "features": self._features,
            "writes": self._writes,
            "recovery": self._recovery,
            "health": self._health,
        }

    def targets(self) -> list[TargetRow]:
        rows = []
        for name, component in self._settings.components.items():
            lost: float | None = None
            if name == "feature_store":
                lost = self._lost_seconds
            elif component.rpo is not None:
                lost = self._behind(name)
            recovered = self._watch.recovered_seconds if name == "feature_store" else self._watch.answered_seconds
            target = None if component.rpo is None else component.rpo.total_seconds()
            rows.append(TargetRow(name, component.rto.total_seconds(), recovered, target, lost))
        return rows

    # ------------------------------------------------------------------ each proof

    def _name(self) -> str:
        address, wanted = self._client.resolve(), self._settings.traffic.addresses["away"]
        if address != wanted:
            raise _Fails(f"{self._client.name} leads to {address}, not to {wanted}")
        return f"{self._client.name} leads to {address} ({self._settings.sites.away.name})"

    def _fence(self) -> str:
        state = opening.open_register(self._settings).read()
        if state.active != "away" or not state.writes:
            raise _Fails(f"the register says that {state.active} is active, writes {'on' if state.writes else 'off'}")
        entries = read_journal(self._vault, state.epoch)
        proven = next((e for e in entries if e.action == "fence" and e.kind == "read_back"), None)
        enabled = next((e for e in entries if e.action == "writes" and e.kind == "intent"), None)
        if proven is None or enabled is None or proven.n > enabled.n:
            raise _Fails(
                f"the journal of epoch {state.epoch} does not prove that the old writers had stopped when writes began"
            )
        if state.fence is None or state.fence.epoch != state.epoch or state.fence.by != "leases":
            raise _Fails(f"the register has no fence by expired leases at epoch {state.epoch}")
        late = [
            w
            for w in self._acknowledged
            if w.site == "home" and w.acknowledged > self._killed_at + timedelta(seconds=1)
        ]
        if late:
            raise _Fails(f"home acknowledged {late[0].entity}/{late[0].feature} after it was killed")
        return f"epoch {state.epoch}: leases expired (entry {proven.n}) before writes were enabled (entry {enabled.n})"

    def _answers(self) -> str:
        asked = self._ask()
        if self._client.recommend()["model"] != self._recorded.model_version:
            raise _Fails(f"another version of the model answers than {self._recorded.model_version}, home's")
        wrong = [was.question for was, now in zip(self._recorded.answers, asked, strict=True) if was.exact != now.exact]
        if wrong:
            raise _Fails(f"{len(wrong)} of {len(asked)} questions have other hits or scores; the first: {wrong[0]!r}")
        return f"{len(asked)}/{len(asked)} questions: the same {HITS} hits and the same scores to the last bit"

    def _recall(self) -> str:
        home, away = _recall(self._recorded.answers), _recall(self._ask())
        if away < RECALL_OF_HOME * home:
            raise _Fails(f"recall@{HITS} is {away:.3f}, at home it was {home:.3f}")
        return f"recall@{HITS} of the HNSW graph {away:.3f}, at home {home:.3f}"

    def _model(self) -> str:
        now = model_files(self._settings, "away")
        different = sorted(
            path for path in self._recorded.files.keys() | now.keys() if self._recorded.files.get(path) != now.get(path)
        )
        if different:
            raise _Fails(
                f"{len(different)} of {len(self._recorded.files)} model files differ; the first: {different[0]}"
            )
        return f"{len(now)}/{len(now)} model files equal by SHA-256, read back"

    def _whole_vault(self) -> str:
        result = verify_vault(self._vault, deep=True)
        if not result.ok:
            more = f" (and {len(result.problems) - 1} more)" if len(result.problems) > 1 else ""
            raise _Fails(result.problems[0] + more)
        return result.sentence

    def _index(self) -> str:
        rows, digest = index_rows(self._settings, "away")
        if (rows, digest) != (self._recorded.rows, self._recorded.index_digest):
            raise _Fails(
                f"the index's {rows:,} rows are not home's {self._recorded.rows:,}, though its label may say so"
            )
        pair = self._settings.pair("vector_index")
        store = opening.open_vectors(pair.away, self._settings.sites.away, password=pair.password)
        verify_vectors(self._vault, store, index=pair.name)
        return f"{rows:,}/{rows:,} rows equal, vectors bit for bit (SHA-256 {digest[:12]})"

    def _features(self) -> str:
        truth, online = self._truth(), self._online()
        missing = [key for key in truth if key not in online]
        extra = [key for key in online if key not in truth]
        other = [key for key in truth if key in online and truth[key] != online[key]]
        for words, keys in (("missing", missing), ("not in the truth", extra), ("of another value", other)):
            if keys:
                raise _Fails(f"{len(keys)} of {len(truth):,} features are {words}; the first: {'/'.join(min(keys))}")
        mark = self._watermark("feature_store")
        return f"{len(truth):,}/{len(truth):,} features equal the offline truth (watermark {mark:%H:%M:%S}Z)"

    def _writes(self) -> str:
        online = self._online()
        before = [write for write in self._acknowledged if write.site == "home"]
        after = [write for write in self._acknowledged if write.site == "away"]
        if not before or not after:
            raise _Fails(f"{len(before)} writes were acknowledged at home and {len(after)} at away; both are needed")
        there = [_is_there(write, online) for write in before]
        if not all(_is_there(write, online) for write in after):
            raise _Fails("a write that away acknowledged is not there")
        mark = self._watermark("feature_store")
        early = [w for w, found in zip(before, there, strict=True) if not found and w.acknowledged <= mark]
        if early:
            raise _Fails(
                f"{len(early)} writes acknowledged before the watermark {mark:%H:%M:%S.%f}Z are lost; "
                f"the first: {early[0].entity}"
            )
        first_lost = there.index(False) if False in there else len(before)
        if not first_lost:
            raise _Fails("not one acknowledged write was found")
        last = before[first_lost - 1]
        self._lost_seconds = max(0.0, (self._killed_at - last.acknowledged).total_seconds())
        lost = there.count(False)
        return (
            f"the last write before the first lost one, {last.entity}, was acknowledged {self._lost_seconds:.1f}s "
            f"before the kill; {lost} of {len(before)} lost, none older than the watermark; {len(after)} accepted since"
        )

    def _recovery(self) -> str:
        if self._watch.answered_seconds is None or self._watch.recovered_seconds is None:
            raise _Fails("no correct answer and accepted write were seen through DNS")
        return (
            f"first correct answer through DNS {human_seconds(self._watch.answered_seconds)} after the kill, "
            f"first accepted write {human_seconds(self._watch.recovered_seconds)}"
        )

    def _health(self) -> str:
        probe = self._settings.components["inference"].probe
        limit = probe.p95.total_seconds() if probe else 0.1
        took = []
        for _ in range(HEALTH_CALLS):
            began = time.perf_counter()
            answer = self._client.health()
            took.append(time.perf_counter() - began)
            if not answer["ok"] or answer["site"] != "away":
                raise _Fails(f"{answer['name']} says {answer['problems'] or answer['site']}")
        p95 = sorted(took)[HEALTH_CALLS * 95 // 100 - 1]
        if p95 > limit:
            raise _Fails(
                f"p95 of {HEALTH_CALLS} calls of /health is {p95 * 1000:.0f} ms, more than {limit * 1000:.0f} ms"
            )
        return f"{HEALTH_CALLS} calls of /health, p95 {p95 * 1000:.1f} ms (limit {limit * 1000:.0f} ms)"

    # ------------------------------------------------------------------ how

    def _ask(self) -> list[Answer]:
        if self._asked is None:
            self._asked = ask(self._client, k=HITS)
        return self._asked

    def _online(self) -> dict[tuple[str, str], Any]:
        return online_values(self._settings, "away")

    def _truth(self) -> dict[tuple[str, str], Any]:
        """Compute the newest value of each feature from all Parquet in the vault, in plain Python."""
        root = f"offline/{self._settings.pair('feature_store').name}/"
        newest: dict[tuple[str, str], tuple[datetime, datetime, bool, Any]] = {}

        def see(key: tuple[str, str], event: datetime, created: datetime, value: Any, *, deleted: bool = False) -> None:
            if key not in newest or (event, created) > newest[key][:2]:
                newest[key] = (event, created, deleted, value)

        for info in self._vault.store.list(root):
            if not info.key.endswith(".parquet"):
                continue
            rows = pq.read_table(io.BytesIO(self._vault.store.get(info.key))).to_pylist()
            for row in rows:
                event, created = row.pop("event_timestamp"), row.pop("created_timestamp")
                entity = row.pop("entity")
                if info.key.startswith(f"{root}log/"):
                    value = None if row["deleted"] else json.loads(row["value"])
                    see((entity, row["feature"]), event, created, value, deleted=row["deleted"])
                    continue
                for feature, value in row.items():
                    if value is not None:
                        see((entity, feature), event, created, value)
        return {key: value for key, (_, _, deleted, value) in newest.items() if not deleted}

    def _watermark(self, component: ComponentName) -> datetime:
        pair = self._settings.pair(component)
        mark = self._vault.read_json(watermark_key(component, pair.name)).get("watermark")
        if mark is None:
            raise _Fails(f"the vault has no watermark of {pair.name}")
        return datetime.fromisoformat(mark)

    def _behind(self, component: ComponentName) -> float | None:
        try:
            return max(0.0, (self._killed_at - self._watermark(component)).total_seconds())
        except (_Fails, UnderstudyError, ValueError):
            return None


def model_files(settings: Settings, site: SiteRole) -> dict[str, str]:
    """Return path to hex SHA-256 of the model that a site serves, of the bytes as they are read. Raises NotFound."""
    pair = settings.pair("training")
    bucket = opening.open_store(pair.home if site == "home" else pair.away, settings.site(site))
    pointer, _ = read_pointer(bucket, MODEL)
    if pointer is None:
        message = f"{settings.site(site).name} serves no model"
        raise NotFound(message)
    return {file.path: hashlib.sha256(bucket.get(file.key, version=file.version)).hexdigest() for file in pointer.files}


def index_rows(settings: Settings, site: SiteRole) -> tuple[int, str]:
    """Return (rows, hex SHA-256 over all of them in the order of their ids), by plain SQL. Raises psycopg.Error."""
    pair = settings.pair("vector_index")
    digest, rows = hashlib.sha256(), 0
    with connect(pair.home if site == "home" else pair.away) as database:
        for row in database.execute('SELECT id, embedding::text, title, body FROM products ORDER BY id COLLATE "C"'):
            digest.update(json.dumps(row).encode())
            rows += 1
    return rows, digest.hexdigest()


def online_values(settings: Settings, site: SiteRole) -> dict[tuple[str, str], Any]:
    """Return every feature that a site's online store holds now, by (entity, feature). Raises NotFound."""
    pair = settings.pair("feature_store")
    store = opening.open_features(pair.home if site == "home" else pair.away, settings.site(site))
    pointer = store.pointer()
    if pointer is None:
        message = f"the online store of {settings.site(site).name} was never filled"
        raise NotFound(message)
    cells: Iterator[Cell] = store.scan(pointer.generation)
    return {(cell.entity, cell.feature): json.loads(cell.value) for cell in cells if cell.value is not None}


def _is_there(write: Written, online: dict[tuple[str, str], Any]) -> bool:
    return bool(online.get((write.entity, write.feature)) == write.value)


def _recall(answers: Sequence[Answer]) -> float:
    found = sum(len(set(answer.approximate) & {id_ for id_, _ in answer.exact}) for answer in answers)
    return found / sum(len(answer.exact) for answer in answers)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else human_seconds(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
