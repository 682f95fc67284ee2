"""What is measured: the one table of names, units and labels, for OpenTelemetry and for Prometheus alike.

What ages is measured as a moment (unix seconds), not as an age: an age that is not sent any more looks young for ever,
a moment grows old by itself wherever it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]

#: How OpenTelemetry's units are written in Prometheus' names.
_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class Instrument:
    """One thing that is measured.

    Attributes:
        name: OpenTelemetry's, with dots.
        kind: gauges are read from the stores; counters and histograms come from the runs, and are sent alone.
        unit: s, By, {item} or {run}; empty for a flag or a number.
        labels: that every value of it has.
        words: what it says.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    words: str

    @property
    def prometheus(self) -> str:
        """The name in Prometheus: underscores, the unit, and ``_total`` for a counter."""
        total = "_total" if self.kind == "counter" else ""
        return f"{self.name.replace('.', '_')}{_SUFFIXES.get(self.unit, '')}{total}"


_SERVICE = ("service",)
_COMPONENT = ("service", "component")
_PAIR = ("service", "component", "pair")
_RUN = ("service", "component", "pair", "operation")

UP = Instrument("understudy.up", "gauge", "", _SERVICE, "1 when the vault and the register were read just now, else 0")
STORE_UP = Instrument(
    "understudy.store.up", "gauge", "", ("service", "store"), "1 when this store (vault, register) was read just now"
)
LAST_VERIFIED = Instrument(
    "understudy.last_verified.timestamp",
    "gauge",
    "s",
    ("service", "component", "pair", "site", "by"),
    "when what a site serves of a pair was last proven, and by what",
)
WATERMARK = Instrument(
    "understudy.watermark.timestamp",
    "gauge",
    "s",
    _PAIR,
    "before this moment everything committed is in the vault and verified",
)
LAG = Instrument("understudy.watermark.lag", "gauge", "s", _PAIR, "the watermark's age by the vault's own clock")
PAIR = Instrument("understudy.pair.configured", "gauge", "", _PAIR, "1 for each pair that the config names")
RPO_TARGET = Instrument("understudy.rpo.target", "gauge", "s", _COMPONENT, "at most so much may be lost")
RTO_TARGET = Instrument("understudy.rto.target", "gauge", "s", _COMPONENT, "the component serves again within this")
RTO_PREDICTED = Instrument(
    "understudy.rto.predicted", "gauge", "s", _SERVICE, "until a failover is confirmed, by the newest fresh plan"
)
PLAN_MADE = Instrument(
    "understudy.plan.timestamp", "gauge", "s", _SERVICE, "when the newest plan was made; absent when none is fresh"
)
PLAN_REFUSED = Instrument(
    "understudy.plan.refused", "gauge", "", _SERVICE, "gates of the newest fresh plan that would refuse a failover"
)
PROTECTED = Instrument("understudy.protected", "gauge", "", _SERVICE, "1 when the active site's data is copied away")
EPOCH = Instrument("understudy.epoch", "gauge", "", _SERVICE, "grows by one with each failover")
WRITES = Instrument("understudy.writes", "gauge", "", _SERVICE, "1 when the active site may write")
ACTIVE = Instrument("understudy.active", "gauge", "", ("service", "site"), "1 for the active site, 0 for the other")
HELD = Instrument("understudy.failover.held", "gauge", "", _SERVICE, "1 while a failover runs or was left part way")
LEASE_RENEWED = Instrument(
    "understudy.lease.renewed.timestamp", "gauge", "s", ("service", "site", "writer"), "a writer's last good renewal"
)
LEASE_DURATION = Instrument(
    "understudy.lease.duration",
    "gauge",
    "s",
    ("service", "site", "writer"),
    "a writer stops when it could not renew for so long",
)
VAULT_VERIFIED = Instrument(
    "understudy.vault.verified.timestamp",
    "gauge",
    "s",
    ("service", "kind"),
    "when the vault itself was last read back: quick (listings), sampled (a share) or deep (all of it)",
)
VAULT_PROBLEMS = Instrument(
    "understudy.vault.problems", "gauge", "", _SERVICE, "what is wrong in the vault, by the verification that stands"
)
TRANSFERRED = Instrument(
    "understudy.transfer.month", "gauge", "By", _SERVICE, "passed between the sites this month, where that is limited"
)
TRANSFER_BUDGET = Instrument(
    "understudy.transfer.month.budget", "gauge", "By", _SERVICE, "limits.transfer_month: copies stop there"
)

BYTES_READ = Instrument("understudy.replication.read", "counter", "By", _RUN, "read from the source's data")
BYTES_SENT = Instrument("understudy.replication.sent", "counter", "By", _RUN, "written to the target")
BYTES_DEDUPLICATED = Instrument(
    "understudy.replication.deduplicated",
    "counter",
    "By",
    _RUN,
    "plain bytes that were not sent: known already, or compressed away",
)
ITEMS = Instrument("understudy.replication.items", "counter", "{item}", _RUN, "files, rows or cells looked at")
ITEMS_NEW = Instrument(
    "understudy.replication.items.new", "counter", "{item}", _RUN, "files, rows or cells sent or written"
)
RUNS = Instrument(
    "understudy.replication.runs",
    "counter",
    "{run}",
    (*_RUN, "verdict"),
    "runs: changed, unchanged, held, or the kind of error that ended them",
)
DURATION = Instrument("understudy.replication.duration", "histogram", "s", _RUN, "wall time of a run")

INSTRUMENTS: tuple[Instrument, ...] = (
    UP,
    STORE_UP,
    LAST_VERIFIED,
    WATERMARK,
    LAG,
    PAIR,
    RPO_TARGET,
    RTO_TARGET,
    RTO_PREDICTED,
    PLAN_MADE,
    PLAN_REFUSED,
    PROTECTED,
    EPOCH,
    WRITES,
    ACTIVE,
    HELD,
    LEASE_RENEWED,
    LEASE_DURATION,
    VAULT_VERIFIED,
    VAULT_PROBLEMS,
    TRANSFERRED,
    TRANSFER_BUDGET,
    BYTES_READ,
    BYTES_SENT,
    BYTES_DEDUPLICATED,
    ITEMS,
    ITEMS_NEW,
    RUNS,
    DURATION,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of an instrument; ``labels`` has every label that the instrument names."""

    instrument: Instrument
    value: float
    labels: dict[str, str]
