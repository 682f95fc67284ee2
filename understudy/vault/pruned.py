"""What a prune is asked to keep, and what it says that it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt
from understudy.report import Report, human_bytes, human_seconds

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from understudy.vault.retention import Keep

#: A pack of which less than this share is needed is written anew, without the rest.
REWRITE_BELOW = 0.5
#: Coded bytes that one run writes anew, at most: what is left waits for the next.
REWRITE_BYTES_MAX = 1 << 30
#: Coded bytes that one run proves in their new place, at most: packs that are due beyond that wait for the next.
PROVE_BYTES_MAX = 8 << 30
_PROBLEM_HINT = "all else was pruned and nothing that is needed is lost; look at who can write into the vault"


@dataclass(frozen=True, slots=True)
class Served:
    """A revision that a site serves now.

    Attributes:
        site: its name.
        model: of the pointer.
        version: of the model.
        revision: of the version; 0 where the pointer does not say.
    """

    site: str
    model: str
    version: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a prune decides.

    Attributes:
        keep: which versions and sets stay; None keeps all of them.
        condemned_for: what is condemned is deleted after this, and what is younger is never condemned.
        rewrite_below: packs of which a smaller share is needed are written anew.
        rewrite_bytes_max: coded bytes that one run writes anew.
        cold_after: packs that only older versions need are moved to colder storage; None moves none.
        prove_bytes_max: coded bytes that one run reads to prove what lies in the packs that it deletes, about.
    """

    keep: Keep | None
    condemned_for: timedelta
    rewrite_below: float = REWRITE_BELOW
    rewrite_bytes_max: int = REWRITE_BYTES_MAX
    prove_bytes_max: int = PROVE_BYTES_MAX
    cold_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What becomes of one model's versions, or of one service's sets.

    Attributes:
        name: of the model or of the service.
        kept: revisions (of sets: sets) that stay.
        why: how many each reason keeps.
        condemned: revisions that are condemned by this run.
        waiting: of earlier runs' condemned, those that have to wait still.
        deleted: those that go now.
        spared: those that had been condemned and are kept again.
        bytes: coded bytes that nothing but these condemned, waiting and deleted ones needs.
    """

    name: str
    kept: int
    why: str
    condemned: tuple[str, ...]
    waiting: tuple[str, ...]
    deleted: tuple[str, ...]
    spared: tuple[str, ...]
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Packs, and the bytes of them."""

    packs: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """What a prune did, or would do.

    Attributes:
        written: False for a dry run: nothing was changed.
        vault: its URL.
        policy: whether ``vault.keep`` is set; without it no version is taken out.
        models: by model.
        sets: by service.
        condemned: packs that nothing needs, condemned by this run.
        waiting: packs condemned earlier, which wait still.
        deleted: packs deleted by this run, condemned for long enough.
        spared: packs that had been condemned and are needed again.
        young: packs that nothing needs and that are too young to say: a push may be about to name them.
        rewritten: packs whose needed part was written anew; they are among the condemned.
        rewritten_bytes: bytes of the packs that were written for it.
        cooled: packs that only old versions need, moved to colder storage.
        index_objects: objects of the index that later ones replace, deleted.
        refused: deletions and moves that the store refused (a lock, a retention policy, a permission); they are tried
            again.
        refusals: the first of its sentences.
        proven: chunks that lay in what was deleted, or forgotten, and were decoded from where they stay.
        proven_bytes: bytes read for that.
        problems: a sentence for each pack that does not hold what the index says: what stays for its sake, and why.
        left: what is never pruned here, in words.
        next_at: when the first of what waits may be deleted; None when nothing waits.
        keeps_versions: whether the bucket keeps what is deleted as old versions; None where it cannot be said.
        seconds: wall time.
    """

    written: bool
    vault: str
    policy: bool
    models: tuple[Kept, ...]
    sets: tuple[Kept, ...]
    condemned: Amount
    waiting: Amount
    deleted: Amount
    spared: Amount
    young: Amount
    rewritten: Amount
    rewritten_bytes: int
    cooled: Amount
    index_objects: int
    refused: int
    refusals: tuple[str, ...]
    proven: int
    proven_bytes: int
    problems: tuple[str, ...]
    left: tuple[str, ...]
    next_at: datetime | None
    keeps_versions: bool | None
    seconds: float

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        kinds = (self.condemned, self.deleted, self.spared, self.rewritten, self.cooled)
        return (
            any(each.packs for each in kinds)
            or self.index_objects > 0
            or any(each.condemned or each.deleted or each.spared for each in (*self.models, *self.sets))
        )

    @property
    def sentence(self) -> str:
        """What was done, or would be, as a person reads it."""
        versions = sum(len(each.condemned) for each in self.models)
        gone = sum(len(each.deleted) for each in self.models)
        kept = sum(each.kept for each in self.models)
        parts = [f"{_revisions(kept)} kept"]
        if versions or self.condemned.packs:
            parts.append(f"{_revisions(versions)} and {told(self.condemned)} condemned")
        if gone or self.deleted.packs:
            parts.append(f"{_revisions(gone)} and {told(self.deleted)} deleted")
        if self.spared.packs:
            parts.append(f"{told(self.spared)} needed again")
        if self.waiting.packs:
            parts.append(f"{told(self.waiting)} wait")
        if self.refused:
            parts.append(f"{self.refused} deletions or moves refused by the store")
        if self.cooled.packs:
            parts.append(f"{told(self.cooled)} moved to colder storage")
        if self.proven:
            parts.append(f"{self.proven:,} chunks proven elsewhere before ({human_bytes(self.proven_bytes)} read)")
        if self.problems:
            parts.append(f"{len(self.problems)} packs do not hold what the index says")
        lead = "prune" if self.written else "would prune"
        return f"{lead} {self.vault}: {', '.join(parts)} ({human_seconds(self.seconds)})"

    def as_report(self, service: str) -> Report:
        """Return what a scheduled prune reports; what was waiting and waits still is no change."""
        return Report(
            noun="vault",
            name=service,
            verdict="changed" if self.written and self.changes else "unchanged",
            sentence=self.sentence,
            items_total=sum(each.kept + len(each.condemned) + len(each.waiting) for each in self.models),
            bytes_total=self.waiting.bytes + self.condemned.bytes,
            seconds=self.seconds,
            bytes_read=self.proven_bytes,
            details={
                "deleted_bytes": self.deleted.bytes,
                "refusals": list(self.refusals),
                "problems": list(self.problems),
            },
        )

    def require(self) -> None:
        """Raise Corrupt, with the first of the sentences, when a pack does not hold what the index says."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise Corrupt(self.problems[0] + more, hint=_PROBLEM_HINT, next_command="understudy vault verify --deep")

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        at = self.next_at.isoformat() if self.next_at else None
        return asdict(self) | {"next_at": at, "sentence": self.sentence}


def _revisions(count: int) -> str:
    return f"{count:,} {'revision' if count == 1 else 'revisions'}"


def told(amount: Amount) -> str:
    """Return an amount as people read it: ``3 packs (9.1 MB)``."""
    return f"{amount.packs} {'pack' if amount.packs == 1 else 'packs'} ({human_bytes(amount.bytes)})"
