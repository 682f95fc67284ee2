"""The one screen: each component's recovery point and time beside its target, by what it was proven, and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.failover.register import Halt
    from understudy.settings import Settings, SiteRole
    from understudy.transfer.budget import Transferred
    from understudy.vault.verified import VaultProof

#: A proof older than this says nothing about a standby that may have been damaged since.
PROOF_DAYS_MAX = 7
_COPY: dict[str, str] = {
    "feature_store": "understudy features push",
    "vector_index": "understudy vectors export",
    "training": "understudy artifacts push",
}
_VERIFY: dict[str, str] = {
    "feature_store": "understudy features verify",
    "vector_index": "understudy vectors verify",
    "training": "understudy artifacts verify",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One component of the status; durations in seconds, None where nothing is known or nothing applies.

    Attributes:
        component: its name in the config.
        rpo_seconds: how much would be lost now.
        rpo_target_seconds: how much may be lost.
        rto_seconds: how long a failover is predicted to take.
        rto_target_seconds: how long it may take.
        proven_by: by what the standby was proven; empty when it never was.
        proven_at: when, for the pair whose proof is the oldest.
        verdict: ok, MISSED, TOO SLOW, NEVER COPIED, NOT PROVEN, UNPROTECTED or not exercised.
    """

    component: str
    rpo_seconds: float | None
    rpo_target_seconds: float | None
    rto_seconds: float | None
    rto_target_seconds: float
    proven_by: str
    proven_at: datetime | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a service's protection at one moment.

    Attributes:
        service: whose.
        active: name of the site that may write; ``active_role`` is its role in the config.
        standby: name of the other site.
        epoch: how many failovers there were, from 1.
        writes: whether the active site may write now.
        holder: who runs a failover or left one part way; empty when nobody did.
        set_sentence: what a failover would serve, in words.
        held: versions that are in the vault and not served, and why.
        protected: False while the active site holds the vault itself.
        at: the vault's clock.
        rows: a component each, in the order of the config.
        halt: the order that holds failovers back; None when there is none.
        vault: whether the vault itself is read back as often as it should be, and what came of it.
        transfer: what passed between the sites this month; None where the config has no budget for it.
    """

    service: str
    active: str
    active_role: SiteRole
    standby: str
    epoch: int
    writes: bool
    holder: str
    set_sentence: str
    held: tuple[str, ...]
    protected: bool
    at: datetime
    rows: tuple[Row, ...]
    halt: Halt | None = None
    vault: VaultProof | None = None
    transfer: Transferred | None = None

    @property
    def next_command(self) -> str:
        """The command that lifts a hold, else mends the first component that is not ok, else the vault; else empty."""
        if self.halt is not None:
            return "understudy failover release"
        for row in self.rows if self.protected else ():
            mends = _VERIFY if row.verdict == "NOT PROVEN" else _COPY
            if row.verdict != "ok" and row.component in mends:
                return mends[row.component]
        return self.vault.next if self.vault is not None else ""

    @property
    def ok(self) -> bool:
        """Whether every component is within its targets, the vault is sound, and failovers are not on hold."""
        sound = self.vault is None or self.vault.ok
        return self.protected and self.halt is None and sound and all(row.verdict == "ok" for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        value = asdict(self)
        del value["halt"]
        value["hold"] = self.halt.model_dump(mode="json", exclude={"nonce"}) if self.halt else None
        value["at"] = self.at.isoformat()
        if self.vault is not None:
            value["vault"] = self.vault.as_json()
        for row in value["rows"]:
            row["proven_at"] = row["proven_at"].isoformat() if row["proven_at"] else None
        return {**value, "ok": self.ok, "next": self.next_command}


def judge(
    settings: Settings,
    *,
    now: datetime,
    watermarks: Mapping[str, datetime | None],
    proven: Mapping[str, tuple[str, datetime]],
    predicted: Mapping[str, float],
    protected: bool = True,
) -> list[Row]:
    """Return a row a component, in the order of the config. Pure.

    Args:
        settings: the config with its targets.
        now: the clock of the vault, the same that the lags are measured on.
        watermarks: by pair name; None where nothing was ever replicated.
        proven: by pair name, what proved the standby and when.
        predicted: seconds a failover would need, by component name.
        protected: False when the active site holds the vault itself: then no watermark says anything about loss.
    """
    rows = []
    for name, component in settings.components.items():
        target = component.rpo.total_seconds() if component.rpo else None
        lags = [
            (now - mark).total_seconds() if (mark := watermarks.get(pair.name)) else None for pair in component.pairs
        ]
        lag = None if not lags or None in lags else max(0.0, *(value for value in lags if value is not None))
        proofs = [proven[pair.name] for pair in component.pairs if pair.name in proven]
        oldest = min(proofs, key=lambda proof: proof[1]) if len(proofs) == len(component.pairs) and proofs else None
        rto = predicted.get(name)
        verdict = "ok"
        if not protected:
            lag, verdict = None, "UNPROTECTED"
        elif component.pairs and lag is None:
            verdict = "NEVER COPIED"
        elif target is not None and lag is not None and lag > target:
            verdict = "MISSED"
        elif component.pairs and (oldest is None or now - oldest[1] > timedelta(days=PROOF_DAYS_MAX)):
            verdict = "NOT PROVEN"
        elif rto is not None and rto > component.rto.total_seconds():
            verdict = "TOO SLOW"
        elif not component.pairs and target is not None:
            verdict = "not exercised"
        rows.append(
            Row(
                component=name,
                rpo_seconds=lag,
                rpo_target_seconds=target,
                rto_seconds=rto,
                rto_target_seconds=component.rto.total_seconds(),
                proven_by=oldest[0] if oldest else "",
                proven_at=oldest[1] if oldest else None,
                verdict=verdict,
            )
        )
    return rows


def render(status: Status) -> list[str]:
    """Return the one screen as lines."""
    home = " (home)" if status.active_role == "home" else ""
    off = "" if status.writes else "  WRITES OFF"
    head = f"{status.service}  ACTIVE {status.active}{home}  standby {status.standby}  epoch {status.epoch}"
    lines = [f"{head}{off}  {status.at:%H:%M:%S}Z"]
    if status.holder:
        lines.append(f"a failover is under way: {status.holder}")
    if status.halt is not None:
        lines.append(f"ON HOLD: failovers are {status.halt.sentence}")
    if not status.protected:
        lines.append(f"UNPROTECTED: {status.active} serves from its own vault; nothing is copied to {status.standby}")
    heads = ("COMPONENT", "RPO now/target", "RTO predicted/target", "proven", "VERDICT")
    cells = [
        (
            row.component,
            f"{_short(row.rpo_seconds)} / {_short(row.rpo_target_seconds, 'none')}",
            f"{_short(row.rto_seconds)} / {_short(row.rto_target_seconds)}",
            _proof(row, status.at),
            row.verdict,
        )
        for row in status.rows
    ]
    widths = [max(len(line[column]) for line in [heads, *cells]) for column in range(len(heads))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *cells]
    ]
    if status.vault is not None:
        lines.append(status.vault.sentence)
    if status.transfer is not None:
        lines.append(f"between the sites: {status.transfer.sentence}")
    lines.append(status.set_sentence)
    lines += [f"held: {reason}" for reason in status.held]
    if status.next_command:
        lines.append(f"next: {status.next_command}")
    return lines


def _proof(row: Row, now: datetime) -> str:
    return f"{row.proven_by} {human_seconds((now - row.proven_at).total_seconds())} ago" if row.proven_at else "-"


def _short(seconds: float | None, nothing: str = "-") -> str:
    return nothing if seconds is None else human_seconds(seconds)
