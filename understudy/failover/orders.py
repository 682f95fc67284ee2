"""What a commander may order besides a plan: to hold all failovers back, and to lift that again.

The register's one compare-and-set is the order. The journal's entry about it, for the report, is best effort.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError, Unsupported
from understudy.failover.journal import Journal, Kind
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.failover.register import Halt, Register, State

logger = logging.getLogger("understudy.failover")

REASON_MAX_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an order changed.

    Attributes:
        verdict: held, released, or nothing (there was no hold to lift).
        sentence: for people: what holds now, and what that means for a failover that is under way.
        next_command: what to do.
        halt: the hold that was given or lifted.
    """

    verdict: str
    sentence: str
    next_command: str
    halt: Halt | None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        halt = self.halt.model_dump(mode="json", exclude={"nonce"}) if self.halt else None
        return {"verdict": self.verdict, "sentence": self.sentence, "next": self.next_command, "hold": halt}


def reason_of(text: str) -> str:
    """Return a reason as one printable line.

    Raises:
        Unsupported: nothing is left of it, or it is longer than 500 characters.
    """
    line = "".join(each if each.isprintable() else " " for each in text)
    line = " ".join(line.split())
    if not line:
        raise Unsupported("a reason is missing", hint="write a ticket or a sentence; it is kept in the journal")
    if len(line) > REASON_MAX_CHARACTERS:
        message = f"the reason has {len(line)} characters, at most {REASON_MAX_CHARACTERS} are kept"
        raise Unsupported(message, hint="write a ticket or one sentence")
    return line


def hold(register: Register, vault: Vault, *, who: str, host: str, reason: str, directory: Path | None = None) -> Order:
    """Hold all failovers back: none starts or is resumed, and a running one stops before its next effect.

    Args:
        register: must answer.
        vault: for the journal's entry; may be gone.
        who: orders it.
        host: where they are.
        reason: why; kept.
        directory: of the journal's copy on the local disk.

    Raises:
        Refused: another hold stands.
        Unsupported: the reason is empty or too long.
        Unreachable: the register does not answer, so nothing was ordered.
    """
    state = register.halt(who=who, host=host, reason=reason_of(reason))
    halt, holder = state.halt, state.holder
    about = {"reason": halt.reason, "since": halt.since.isoformat()} if halt else {}
    _note("hold", about, register, vault, state, who=f"{who}@{host}", directory=directory)
    sentence = f"{state.service}: failovers are {halt.sentence}" if halt else ""
    if holder is None:
        sentence += ". None is under way, and none may start"
        return Order(verdict="held", sentence=sentence, next_command="understudy failover release", halt=halt)
    if holder.aborting:
        sentence += f". {holder} undoes plan {holder.plan} and stops before the next effect"
    elif state.active == holder.target:
        sentence += f". {holder}'s plan {holder.plan} has enabled writes already; what is left of it waits"
    elif holder.beat is None:
        sentence += f". {holder} left plan {holder.plan} at {holder.stage}; writes are off at both sites until it ends"
    else:
        sentence += (
            f". {holder}'s plan {holder.plan} stops before its next effect; "
            "writes are off at both sites until it goes on or back"
        )
    return Order(verdict="held", sentence=sentence, next_command="understudy failover status", halt=halt)


def release(register: Register, vault: Vault, *, who: str, host: str, directory: Path | None = None) -> Order:
    """Lift the hold, whoever gave it; a failover that was left part way stays so until it is resumed or aborted.

    Args:
        register: must answer.
        vault: for the journal's entry; may be gone.
        who: lifts it.
        host: where they are.
        directory: of the journal's copy on the local disk.

    Raises:
        Unreachable: the register does not answer, so the hold stands.
    """
    lifted = register.lift()
    state = register.read()
    holder = state.holder
    if lifted is None:
        sentence = f"{state.service}: nothing to do, there is no hold"
        following = holder.way_on if holder else "understudy failover plan"
        return Order(verdict="nothing", sentence=sentence, next_command=following, halt=None)
    about = {"reason": lifted.reason, "since": lifted.since.isoformat(), "held_by": str(lifted)}
    _note("release", about, register, vault, state, who=f"{who}@{host}", directory=directory)
    sentence = f"{state.service}: the hold of {lifted} ({lifted.reason}) is lifted"
    if holder is None:
        sentence += "; no failover is under way, and one may start"
        return Order(verdict="released", sentence=sentence, next_command="understudy failover plan", halt=lifted)
    if holder.aborting:
        sentence += f"; the abort of plan {holder.plan} at epoch {state.epoch} goes on with the next command"
    elif state.active == holder.target:
        sentence += f"; what is left of plan {holder.plan} at epoch {state.epoch} goes on with the next command"
    else:
        sentence += (
            f"; plan {holder.plan} still holds epoch {state.epoch} at {holder.stage}, with writes off at both sites: "
            "the next command resumes it, understudy failover abort goes back"
        )
    return Order(verdict="released", sentence=sentence, next_command=holder.way_on, halt=lifted)


def _note(
    kind: Kind,
    about: dict[str, Any],
    register: Register,
    vault: Vault,
    state: State,
    *,
    who: str,
    directory: Path | None,
) -> None:
    """Write it into the journal of the failover under way, else of the next one; a lost entry changes nothing."""
    holder = state.holder
    journal = Journal(
        vault,
        Vault(register.store),
        epoch=state.epoch if holder else state.epoch + 1,
        who=who,
        plan=holder.plan if holder else "",
        register=state.id,
        directory=directory,
        service=state.service,
        clock=register.reckoned,
    )
    try:
        journal.open().write(kind, "", about)
    except UnderstudyError as error:
        logger.warning("the %s stands in the register, but the journal lacks it: %s", kind, error.message)
