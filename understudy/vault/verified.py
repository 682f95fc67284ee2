"""What the verifications of a vault found, kept in the vault: when, how much, and what was wrong. For the status."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import Corrupt
from understudy.report import human_bytes, human_seconds
from understudy.vault.documents import quoted
from understudy.vault.packs import pack_name
from understudy.vault.rounds import is_place, share_done

if TYPE_CHECKING:
    from understudy.settings import VerifySettings
    from understudy.vault.store import Vault
    from understudy.vault.verify import VerifyResult

logger = logging.getLogger("understudy.vault")

Kind = Literal["quick", "sampled", "deep"]
KINDS: tuple[Kind, ...] = ("quick", "sampled", "deep")

VERIFIED_KEY = "pointers/verified/vault.json"
#: So many problems are kept word for word, and so many damaged objects by their names: what a push mends at a time.
_PROBLEMS_MAX = 10
AGAIN_MAX = 20_000
#: Letters of one sentence.
_WORDS_MAX = 500
#: A night that was missed is no reason to wake anybody; two are.
_LATE = 2
#: What is late by less than this has just begun, or waits for a worker.
_SLACK = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One verification of a vault, as it is kept.

    Attributes:
        at: when it ended, by the vault's clock.
        problems: how many were found; 0 is all well.
        words: the first of them, a sentence each.
        bytes_read: of the vault.
        bytes_stored: all that the vault holds.
        seconds: wall time.
    """

    at: datetime
    problems: int
    words: tuple[str, ...]
    bytes_read: int
    bytes_stored: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What is kept of a vault's verifications.

    Attributes:
        quick: the newest one that compared listings.
        sampled: the newest one that also read a share.
        deep: the newest one that read everything.
        cursor: where the round of samples stands; empty at its beginning.
        round_began: when the round under way began; None before the first.
        round_ended: when the last whole round ended; None before.
        again: keys of objects that were read and found damaged: each night reads them again until they are sound, and
            no push counts on them.
    """

    quick: Verification | None = None
    sampled: Verification | None = None
    deep: Verification | None = None
    cursor: str = ""
    round_began: datetime | None = None
    round_ended: datetime | None = None
    again: tuple[str, ...] = ()

    def newest(self, *kinds: Kind) -> Verification | None:
        """Return the newest verification of these kinds."""
        found = [each for kind in kinds if (each := self.of(kind)) is not None]
        return max(found, key=lambda each: each.at, default=None)

    def of(self, kind: Kind) -> Verification | None:
        """Return the newest verification of one kind."""
        found: Verification | None = getattr(self, kind)
        return found

    @property
    def damage(self) -> Verification | None:
        """The verification whose problems stand: none since has looked at the same and found it sound."""
        deep = self.deep if self.deep and self.deep.problems else None
        sampled = self.newest("sampled", "deep")
        quick = self.newest(*KINDS)
        return next((each for each in (deep, sampled, quick) if each is not None and each.problems), None)

    @property
    def damaged_packs(self) -> frozenset[str]:
        """Names of the packs that were read and found damaged."""
        return frozenset(name for key in self.again if (name := pack_name(key)))


@dataclass(frozen=True, slots=True)
class VaultProof:
    """Whether the vault is read as often as the config asks, and what came of it.

    Attributes:
        verdict: ok, DAMAGED, NOT VERIFIED or not asked (the config asks for no verification).
        sentence: as a person reads it.
        quick_at: when the listing was last compared with what was recorded; None before.
        sampled_at: when a share was last read; None before.
        deep_at: when everything was last read; None before.
        round_share: how much of the round of samples is done, 0 to 1.
        round_began: when that round began; None before the first.
        problems: what is wrong, the first few.
        next: the command that says more, or mends it; empty when all is well.
    """

    verdict: str
    sentence: str
    quick_at: datetime | None = None
    sampled_at: datetime | None = None
    deep_at: datetime | None = None
    round_share: float = 0.0
    round_began: datetime | None = None
    problems: tuple[str, ...] = field(default=())
    next: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and nothing is overdue."""
        return self.verdict in ("ok", "not asked")

    def as_json(self) -> dict[str, Any]:
        """Return the proof as JSON values."""
        value = {
            name: moment.isoformat() if isinstance(moment := getattr(self, name), datetime) else moment
            for name in self.__dataclass_fields__
        }
        return value | {"problems": list(self.problems)}


def read_verified(vault: Vault) -> Verified:
    """Return what is kept; nothing before the first verification. Raises Unreachable, Denied, Corrupt."""
    return _verified(vault.pointer(VERIFIED_KEY))


def known_damage(vault: Vault) -> Verified:
    """Return what is kept, as whoever writes into the vault heeds it: what cannot be read is passed over, and said."""
    try:
        return read_verified(vault)
    except Corrupt as damage:
        logger.warning("%s; what verifications found is not heeded", damage.message)
        return Verified()


def _verified(value: Any) -> Verified:  # noqa: ANN401 - any JSON value
    if value is None:
        return Verified()
    try:
        return Verified(
            quick=_verification(value["quick"]),
            sampled=_verification(value["sampled"]),
            deep=_verification(value["deep"]),
            cursor=value["cursor"] if is_place(value["cursor"]) else "",
            round_began=_moment(value["round_began"]),
            round_ended=_moment(value["round_ended"]),
            again=tuple(str(key) for key in value["again"][:AGAIN_MAX]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{VERIFIED_KEY} is not what a verification writes"
        raise Corrupt(message, hint="remove it; the next verification writes it again") from error


def _verification(value: Any) -> Verification | None:  # noqa: ANN401 - any JSON value
    if value is None:
        return None
    return Verification(
        at=datetime.fromisoformat(value["at"]),
        problems=int(value["problems"]),
        words=tuple(str(words) for words in value["words"][:_PROBLEMS_MAX]),
        bytes_read=int(value["bytes_read"]),
        bytes_stored=int(value["bytes_stored"]),
        seconds=float(value["seconds"]),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def keep(vault: Vault, result: VerifyResult) -> Verified:
    """Keep what a verification found, by the vault's clock, and return all that is kept now.

    Raises:
        Unreachable, Denied: the pointer cannot be moved.
    """
    now = vault.store.now()
    kept = Verified()

    def build(found: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
        nonlocal kept
        try:
            before = _verified(found)
        except Corrupt:
            before = Verified()  # whoever damaged it: what was found now counts
        kept = with_result(before, result, now)
        return _as_json(kept)

    try:
        vault.move_pointer(VERIFIED_KEY, build)
    except Corrupt:
        vault.store.replace(VERIFIED_KEY, b"{}", expected=vault.store.head(VERIFIED_KEY).token)
        vault.move_pointer(VERIFIED_KEY, build)
    return kept


def with_result(before: Verified, result: VerifyResult, now: datetime) -> Verified:
    """Return what is kept after one more verification. Pure."""
    done = Verification(
        at=now,
        problems=len(result.problems),
        words=tuple(_kept_words(words) for words in result.problems[:_PROBLEMS_MAX]),
        bytes_read=result.bytes_read,
        bytes_stored=result.bytes_stored,
        seconds=round(result.seconds, 3),
    )
    if result.kind == "quick":
        return replace(before, quick=done)
    if result.kind == "deep":
        return replace(before, deep=done, again=result.damaged[:AGAIN_MAX])
    told = {*result.reread, *result.damaged}
    unread = [key for key in before.again if key not in told]
    began = before.round_began if before.cursor and before.round_began else now
    ended = result.cursor == ""
    return replace(
        before,
        sampled=done,
        cursor=result.cursor,
        round_began=began,
        round_ended=now if ended else before.round_ended,
        again=(*result.damaged, *unread)[:AGAIN_MAX],
    )


def _kept_words(text: str) -> str:
    """Return a sentence that may be shown: it may repeat names that somebody else chose."""
    return text[:_WORDS_MAX] if text.isprintable() else quoted(text)


def _as_json(verified: Verified) -> dict[str, Any]:
    return {
        **{kind: _verification_json(verified.of(kind)) for kind in KINDS},
        "cursor": verified.cursor,
        "round_began": verified.round_began.isoformat() if verified.round_began else None,
        "round_ended": verified.round_ended.isoformat() if verified.round_ended else None,
        "again": list(verified.again),
    }


def _verification_json(found: Verification | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "at": found.at.isoformat(),
        "problems": found.problems,
        "words": list(found.words),
        "bytes_read": found.bytes_read,
        "bytes_stored": found.bytes_stored,
        "seconds": found.seconds,
    }


def due(verified: Verified, settings: VerifySettings, now: datetime) -> Kind:
    """Return what is due now: everything when the last whole reading is as old as the config allows, else a share."""
    period = settings.deep
    if period is not None and (verified.deep is None or now - verified.deep.at > period - _SLACK):
        return "deep"
    return "sampled"


def judge(verified: Verified, settings: VerifySettings | None, *, now: datetime, founded: datetime) -> VaultProof:
    """Return what the status says of the vault. Pure.

    Args:
        verified: what is kept.
        settings: how often the config asks for it; None asks for nothing.
        now: the vault's clock.
        founded: when the vault was made: what was never done is late only some time after that.
    """
    damage = verified.damage
    late = _late(verified, settings, now=now, founded=founded) if settings else ""
    ages = [f"{kind} {_ago(found, now)}" for kind in KINDS if (found := verified.of(kind))]
    told = ", ".join(ages) or "never verified yet"
    if verified.cursor and verified.round_began:
        told += f"; {share_done(verified.cursor):.0%} of all sampled since {verified.round_began:%Y-%m-%d}"
    elif verified.round_ended:
        told += f"; all of it sampled by {verified.round_ended:%Y-%m-%d}"
    verdict, lead, following = "ok", "all well", ""
    if damage is not None:
        more = f" (and {damage.problems - 1} more)" if damage.problems > 1 else ""
        verdict, lead = "DAMAGED", f"DAMAGED: {damage.words[0] if damage.words else 'something'}{more}"
        following = "understudy vault verify --deep"
    elif late:
        verdict, lead = "NOT VERIFIED", f"NOT VERIFIED: {late}"
        following = f"understudy vault verify {'--deep' if late.startswith('no whole') else '--sample 1%'}"
    elif settings is None:
        verdict, lead = "not asked", "not verified by schedule"
    elif not ages:
        lead = "new"
    return VaultProof(
        verdict=verdict,
        sentence=f"vault: {lead}; {told}",
        quick_at=verified.quick.at if verified.quick else None,
        sampled_at=verified.sampled.at if verified.sampled else None,
        deep_at=verified.deep.at if verified.deep else None,
        round_share=round(share_done(verified.cursor), 4),
        round_began=verified.round_began,
        problems=damage.words if damage else (),
        next=following,
    )


def _late(verified: Verified, settings: VerifySettings, *, now: datetime, founded: datetime) -> str:
    nightly = verified.newest("sampled", "deep")
    since = now - (nightly.at if nightly else founded)
    allowed = _LATE * settings.gap + _SLACK
    if since > allowed:
        return f"no sample for {_human(since)}, asked for each {_human(settings.gap)}"
    if settings.deep is not None:
        since = now - (verified.deep.at if verified.deep else founded)
        if since > settings.deep + allowed:
            return (
                f"no whole reading for {human_seconds(since.total_seconds())}, asked for each {_human(settings.deep)}"
            )
    return ""


def _human(period: timedelta) -> str:
    return human_seconds(period.total_seconds())


def _ago(found: Verification, now: datetime) -> str:
    read = f" ({human_bytes(found.bytes_read)} of {human_bytes(found.bytes_stored)})" if found.bytes_read else ""
    return f"{human_seconds(max(0.0, (now - found.at).total_seconds()))} ago{read}"
