"""What every command prints under ``--json``, as one JSON Schema: ``python -m understudy.command.shapes``.

The shapes are those of the objects that are printed, so the schema follows the code; what a docstring says of a field
stands beside it. The tests hold all that any command prints to it.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, cast, get_type_hints

from pydantic import TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema

from understudy.artifacts.manifest import Lineage  # noqa: TC001 - pydantic reads it from the annotations
from understudy.artifacts.pull import FileChange
from understudy.artifacts.tags import Tagged
from understudy.failover.abort import AbortOutcome
from understudy.failover.engine import Outcome
from understudy.failover.orders import Order
from understudy.failover.plan import Plan
from understudy.failover.register import Halt
from understudy.failover.report import FailoverReport
from understudy.failover.status import FailoverStatus
from understudy.features.manifest import FileEntry  # noqa: TC001 - pydantic reads it from the annotations
from understudy.features.pull import ViewChanges
from understudy.finding import Finding
from understudy.iam.gcp import Binding
from understudy.iam.needs import Identity
from understudy.kit import Kit
from understudy.report import Report
from understudy.settings import SiteRole
from understudy.status import Status
from understudy.transfer.budget import Transferred
from understudy.vault.compare import Comparison
from understudy.vault.countersign import Countersigned
from understudy.vault.pruned import PruneResult
from understudy.vault.rekey import Rekeyed
from understudy.vault.sets import SetManifest  # noqa: TC001 - pydantic reads it from the annotations
from understudy.vault.verified import Kind, VaultProof
from understudy.vault.verify import VerifyResult
from understudy.vectors.interface import Schema  # noqa: TC001 - pydantic reads it from the annotations
from understudy.vectors.pull import RowChanges

#: Grows when a field is renamed, removed or changes its meaning; a field that is added does not change it.
FORMAT = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: Names that a module of the product imports for its annotations alone.
_NAMES = {
    "VaultProof": VaultProof,
    "Transferred": Transferred,
    "Kind": Kind,
    "datetime": datetime,
    "SiteRole": SiteRole,
    "Halt": Halt,
}
_ATTRIBUTE = re.compile(
    r"^ {0,8}([a-z_0-9]+(?:, [a-z_0-9]+)*): (.+?)(?=\n {0,8}[a-z_0-9]+(?:, [a-z_0-9]+)*: |\Z)", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class ErrorWords:
    """What is wrong, and what to do.

    Attributes:
        code: the exit code.
        kind: which kind of error it was; docs/json.md lists them.
        message: what is wrong, in one sentence.
        hint: what to do about it; empty when there is nothing.
        next: a command ready to paste; empty when there is none.
    """

    code: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 130]
    kind: str
    message: str
    hint: str
    next: str


@dataclass(frozen=True)
class Error:
    """What any command prints instead of its result when it fails."""

    error: ErrorWords


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its path below the version, bytes, and the SHA-256 of them in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class RestoreEstimate:
    """What restoring a version takes.

    Attributes:
        size: plain bytes of its files.
        own: coded bytes of its own chunks, each once.
        bases: coded bytes of what these are decoded from and that is not its own.
        bytes_read: both together: what is read from the vault.
        chunks: how many distinct chunks it has.
        packs: how many packs are read from.
        missing: chunks that no pack has: the restore would stop there.
        rate: plain bytes a second of the last restore that was measured; null before the first.
        seconds: at that rate; null before the first.
        cold_packs: of the packs, those in colder storage, which is read at once and costs more to read.
        cold_bytes: what is read from these.
        frozen_packs: those that have to be brought back before they can be read.
        frozen_bytes: what is read from these.
        frozen_hours: how long that usually takes at most; 0 where there are none.
    """

    size: int
    own: int
    bases: int
    bytes_read: int
    chunks: int
    packs: int
    missing: int
    rate: float | None
    seconds: float | None
    cold_packs: int
    cold_bytes: int
    frozen_packs: int
    frozen_bytes: int
    frozen_hours: int


@dataclass(frozen=True)
class ModelVersion:
    """One revision of a model's version in the vault; ``parent`` is the revision that it was derived from.

    ``damage`` says why its manifest cannot be read; what else is in it is not known then. It is empty when all is well.
    """

    model: str
    version: str
    revision: int
    digest: str
    parent: Lineage | None
    tags: dict[str, str]
    files: list[ModelFile]
    damage: str


@dataclass(frozen=True)
class ModelDetails(ModelVersion):
    """One revision of a model's version, and what restoring it would read."""

    restore: RestoreEstimate


@dataclass(frozen=True)
class IndexSequence:
    """One export of a vector index: when it was taken, its rows, and the digest over all of them."""

    index: str
    sequence: int
    taken: datetime
    rows: int
    digest: str
    labels: dict[str, Any]


@dataclass(frozen=True)
class IndexDetails(IndexSequence):
    """One export of a vector index with its schema; ``bytes`` are those of its Parquet files."""

    source: str
    bytes: int
    schema: Schema


@dataclass(frozen=True)
class ViewSequence:
    """One state of a feature view; before ``watermark`` every row is in."""

    view: str
    sequence: int
    watermark: datetime
    files: int
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class ViewDetails:
    """One state of a feature view with its files; ``schema`` is from feature to type, ``vanished`` is gone at home."""

    view: str
    sequence: int
    watermark: datetime
    digest: str
    schema: dict[str, str]
    files: list[FileEntry]
    vanished: list[str]


@dataclass(frozen=True)
class VaultPart:
    """One folder of the vault."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class VaultCounts:
    """The vault's objects by folder, and the set that a site would serve; null before there is one."""

    url: str
    parts: dict[str, VaultPart]
    set: SetManifest | None


@dataclass(frozen=True)
class KeyPair:
    """The line for ``vault.trust``, and where the private key was written."""

    public: str
    private_key_file: str


@dataclass(frozen=True)
class EncryptionKey:
    """What errors and ``format.json`` call a key, and where it was written."""

    id: str
    key_file: str


@dataclass(frozen=True)
class Hold:
    """A commander's order that no failover starts or goes on."""

    who: str
    host: str
    reason: str
    since: datetime


@dataclass(frozen=True)
class NothingToAbort:
    """No failover is under way."""

    verdict: Literal["nothing"]
    next: str


@dataclass(frozen=True)
class ReportWritten:
    """With ``--out``: where the report was written."""

    written: str
    epoch: int
    verdict: str
    next: str


@dataclass(frozen=True)
class ReportPage:
    """With ``--format md`` or ``html``: the page as text."""

    format: Literal["md", "html"]
    text: str


@dataclass(frozen=True)
class Unreadable:
    """A part of the bundle that could not be read, and why."""

    part: str
    error: str


@dataclass(frozen=True)
class Bundle:
    """Where the bundle was written."""

    file: str
    bytes: int
    unreadable: list[Unreadable]


@dataclass(frozen=True)
class Measure:
    """One value as Prometheus would read it; docs/monitoring.md lists the names."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class FilesWritten:
    """What was written."""

    written: list[str]


@dataclass(frozen=True)
class RegisterState:
    """The register as it was written; ``active`` is a site's name."""

    service: str
    epoch: int
    active: str
    url: str


@dataclass(frozen=True)
class Condition:
    """When a binding holds, in CEL."""

    title: str
    expression: str


@dataclass(frozen=True)
class CustomRole:
    """A custom role of one Google Cloud project, as ``gcloud iam roles create`` reads it."""

    id: str
    project: str
    title: str
    description: str
    stage: str
    includedPermissions: list[str]  # noqa: N815 - as gcloud writes it


@dataclass(frozen=True)
class PoliciesWritten:
    """With ``--out``: files that were written, those of an earlier config that were removed, what cannot be said."""

    files: list[str]
    removed: list[str]
    notes: list[str]


def _shape(owner: Any, name: str = "", *, without: tuple[str, ...] = (), **added: Any) -> Any:  # noqa: ANN401 - types
    """Return the shape of a dataclass's ``as_json``: its fields, without some, with others added."""
    hints = get_type_hints(owner, localns=_NAMES)
    kept = {field.name: (hints[field.name], ...) for field in fields(owner) if field.name not in without}
    made = {name: (kind, ...) for name, kind in added.items()}
    return cast("Any", create_model)(name or owner.__name__, __doc__=owner.__doc__, **kept, **made)


def _many(shape: Any) -> Any:  # noqa: ANN401 - types
    return list[shape]


_BINDINGS: Any = _many(_shape(Binding, without=("title", "expression"), condition=Condition | None))


@dataclass(frozen=True)
class Grant:
    """What Google Cloud grants one service account."""

    member: str
    roles: list[CustomRole]
    bindings: _BINDINGS


@dataclass(frozen=True)
class Policy:
    """What one identity is granted; null where a cloud has nothing of it. In AWS several policies where one is full."""

    aws: list[dict[str, Any]] | None
    gcp: Grant | None
    notes: list[str]


_REPORTS: Any = _many(_shape(Report, dry_run=bool))
_ORDER = _shape(Order, without=("next_command", "halt"), next=str, hold=Hold | None)
_KIT = _shape(Kit)

#: What a command prints, by its words.
SHAPES: dict[str, Any] = {
    "status": _shape(Status, without=("halt",), ok=bool, next=str, hold=Hold | None),
    "report": _shape(FailoverReport, without=("next_command",), format=Literal[1], next=str)
    | ReportWritten
    | ReportPage,
    "metrics": list[Measure],
    "init": FilesWritten,
    "iam": dict[Identity, Policy] | PoliciesWritten,
    "config check": _many(_shape(Finding, without=("exit_code",))),
    "config schema": dict[str, Any],
    "register init": RegisterState,
    "artifacts push": _REPORTS,
    "artifacts hydrate": _REPORTS,
    "artifacts list": list[ModelVersion],
    "artifacts show": ModelDetails,
    "artifacts pull": _REPORTS,
    "artifacts tag": _shape(Tagged, sentence=str),
    "artifacts diff": list[FileChange],
    "artifacts verify": _REPORTS,
    "vectors export": _REPORTS,
    "vectors rebuild": _REPORTS,
    "vectors list": list[IndexSequence],
    "vectors show": IndexDetails,
    "vectors pull": _REPORTS,
    "vectors diff": RowChanges,
    "vectors verify": _REPORTS,
    "features push": _REPORTS,
    "features rebuild": _REPORTS,
    "features list": list[ViewSequence],
    "features show": ViewDetails,
    "features pull": _REPORTS,
    "features diff": ViewChanges,
    "features verify": _REPORTS,
    "features retire": _REPORTS,
    "vault stat": VaultCounts,
    "vault prune": _shape(PruneResult, sentence=str),
    "vault verify": _shape(VerifyResult, ok=bool, sentence=str),
    "vault keygen": KeyPair | EncryptionKey,
    "vault rekey": _shape(Rekeyed, sentence=str),
    "vault compare": _shape(Comparison, equal=bool, sentence=str),
    "vault sign": _shape(Countersigned, sentence=str),
    "failover plan": Plan,
    "failover run": _shape(Outcome, next=str),
    "failover status": _shape(FailoverStatus),
    "failover hold": _ORDER,
    "failover release": _ORDER,
    "failover abort": _shape(AbortOutcome, next=str) | NothingToAbort,
    "kit build": _KIT,
    "kit check": _shape(Kit, "KitChecked", runs=str),
    "debug bundle": Bundle,
}

#: Commands whose output is the same with and without ``--json``, and why.
NO_SHAPE = {"completion": "prints a script for a shell"}


class _Generator(GenerateJsonSchema):
    """Writes no titles, which only repeat a field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401 - pydantic's core schema
        del schema
        return False


def build() -> dict[str, Any]:
    """Return the schema: a definition a command, with its words joined by dashes as the anchor, and ``error``."""
    shapes = {"error": Error, **SHAPES}
    adapters = [(name, cast("Any", "serialization"), TypeAdapter(shape)) for name, shape in shapes.items()]
    found, whole = TypeAdapter.json_schemas(adapters, schema_generator=_Generator)
    definitions = {name: _plain(definition) for name, definition in sorted(whole["$defs"].items())}
    printed = {name: {"$anchor": anchor(name), **_plain(found[name, "serialization"])} for name in shapes}
    return {
        "$schema": DIALECT,
        "$id": f"urn:understudy:output:{FORMAT}",
        "title": "What understudy --json prints",
        "$comment": "Made by python -m understudy.command.shapes; not written by hand.",
        "anyOf": [{"$ref": f"#{anchor(name)}"} for name in shapes],
        "$defs": printed | definitions,
    }


def anchor(command: str) -> str:
    """Return the anchor of a command's definition: ``artifacts-push``."""
    return command.replace(" ", "-")


def of(command: str, *, closed: bool = False) -> dict[str, Any]:
    """Return a schema of what one command prints, or of ``error``.

    Args:
        command: its words, such as ``artifacts push``. Raises KeyError for one without a shape.
        closed: refuse a field that the schema does not name. The published schema does not, for fields are added.
    """
    if command != "error":
        SHAPES[command]
    whole = build()
    definitions = _closed(whole["$defs"]) if closed else whole["$defs"]
    return {"$schema": DIALECT, "$id": whole["$id"], "$ref": f"#{anchor(command)}", "$defs": definitions}


def _closed(node: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    inner = {name: _closed(each) for name, each in node.items()}
    # A dictionary of properties may itself have one that is called properties.
    return inner | {"additionalProperties": False} if node.get("type") == "object" and "properties" in node else inner


def _plain(definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition whose fields say what its docstring says of them; open, for fields are added."""
    made = copy.deepcopy(definition)
    made.pop("title", None)
    if made.get("additionalProperties") is False:
        del made["additionalProperties"]
    text, _, attributes = made.get("description", "").partition("Attributes:")
    if text:
        made["description"] = _words(text.split("\n\n")[0])
    for names, said in _ATTRIBUTE.findall(attributes.split("\n\n")[0]):
        for name in names.split(", "):
            if name in made.get("properties", {}):
                made["properties"][name].setdefault("description", _words(said))
    return made


def _words(text: str) -> str:
    return re.sub(r"\bNone\b", "null", " ".join(text.split()).replace("``", "`"))


def text() -> str:
    """Return docs/output.schema.json."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
