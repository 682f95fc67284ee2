"""The journal: what a failover meant to do, did and read back; in the vault, with copies that outlive it.

``journal/<epoch>/<n>.json`` in the vault is the first copy. The same key beside the register and a file on the local
disk are the second: while the vault does not answer after the claim, they carry on, and what it missed is added later.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import Conflict, Corrupt, NotFound, NotReady, Refused, StoppedPartWay, UnderstudyError
from understudy.redaction import redact_values
from understudy.vault.store import Vault, numbered, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger("understudy.failover")

Kind = Literal[
    "intent", "effect", "read_back", "takeover", "refused", "stopped", "finished", "hold", "release", "aborted"
]
PREFIX = "journal/"
_SUFFIX = ".json"
_ASK_AGAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the journal.

    Attributes:
        n: its number within the epoch, from 1.
        kind: intent (about to), effect (the vendor answered), read_back (seen to be so), takeover, refused, stopped,
            finished, aborted; hold and release are orders, which others than the holder may write too.
        action: the plan's id of the action, such as ``scale``, or ``undo-scale``; empty for takeover and what follows.
        time: of the machine that wrote it; for people, never compared.
        who: a person at a machine.
        plan: the id of the plan.
        register: which register's epoch it is. Epochs begin anew with a new register, and what was done in another
            one's second epoch says nothing about this one's.
        data: what was meant, answered or seen; JSON values.
        clock: the register's clock when it was written, to about a second; empty when it was not known.
    """

    epoch: int
    n: int
    kind: Kind
    action: str
    time: str
    who: str
    plan: str
    register: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    clock: str = ""


_FIELDS = frozenset(each.name for each in fields(Entry))


class Journal:
    """The journal of one epoch, written by its holder. Not for use from many threads."""

    def __init__(
        self,
        vault: Vault,
        second: Vault,
        *,
        epoch: int,
        who: str,
        plan: str,
        register: str,
        directory: Path | None = None,
        service: str = "",
        clock: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        """Name the journal; ``open`` reads it.

        Args:
            vault: the first copy.
            second: the register's store, wrapped; the copy that is read when the vault is gone.
            epoch: the epoch that the plan claims.
            who: a person at a machine.
            plan: the id of the plan.
            register: the id of the register whose epoch it is; entries of another one are passed over.
            directory: of the copy on the local disk; None keeps none.
            service: part of that file's name.
            clock: the register's, without asking it; None when it is not known.
        """
        self.entries: list[Entry] = []
        self.epoch = epoch
        self._vault = vault
        self._second = second
        self._who = who
        self._plan = plan
        self._register = register
        self._clock = clock
        self._highest = 0  # number in any copy, of entries that are passed over too
        self._prefix = prefix_of(epoch)
        self._file = directory / f"journal-{service}-{register}-{epoch}.jsonl" if directory else None
        self._missing: dict[int, bytes] = {}  # what the vault has not got
        self._quiet_until = {"vault": 0.0, "register": 0.0}

    def open(self) -> Journal:
        """Read all copies and join them. Raises StoppedPartWay when neither the vault nor its copy answers."""
        found: dict[tuple[int, str, str, str], Entry] = {}
        answered = 0
        in_vault: set[int] | None = None
        for name, vault in (("vault", self._vault), ("register", self._second)):
            try:
                entries = read_journal(vault, self.epoch)
            except UnderstudyError as error:
                self._mute(name, error)
                continue
            answered += 1
            if name == "vault":
                in_vault = {entry.n for entry in entries}
            for entry in self._own(entries):
                found.setdefault((entry.n, entry.who, entry.kind, entry.action), entry)
        for entry in self._own(self._read_file()):
            found.setdefault((entry.n, entry.who, entry.kind, entry.action), entry)
        if not answered:
            message = f"neither copy of the journal of epoch {self.epoch} can be read"
            raise StoppedPartWay(
                message, hint=f"bring back {self._vault.url} or {self._second.url}; the same command resumes"
            )
        self.entries = [found[key] for key in sorted(found)]
        if in_vault is not None:
            self._missing = {entry.n: _dump(entry) for entry in self.entries if entry.n not in in_vault}
        return self

    @property
    def last(self) -> int:
        """The highest number in any copy."""
        return max([self._highest, *(entry.n for entry in self.entries)])

    def begin(self, action: str, data: dict[str, Any]) -> Entry:
        """Write the intent to claim. The vault must take it: nothing has been changed yet.

        Raises:
            Refused: the vault's journal cannot be written.
        """
        try:
            built: list[Entry] = []

            def build(n: int) -> bytes:
                built.append(self._entry(n, "intent", action, data))
                return _dump(built[-1])

            n = self._vault.append(self._prefix, build, suffix=_SUFFIX)
        except UnderstudyError as error:
            message = f"the journal in {self._vault.url} cannot be written, so nothing was changed"
            raise Refused(message, hint=error.message) from error
        entry = next(each for each in reversed(built) if each.n == n)
        self._copy(entry)
        self.entries.append(entry)
        return entry

    def write(
        self,
        kind: Kind,
        action: str = "",
        data: dict[str, Any] | None = None,
        *,
        confirm: Callable[[], None] | None = None,
        essential: bool = False,
    ) -> Entry:
        """Append an entry, to the vault or at least to a second copy.

        Args:
            kind: what it says.
            action: the plan's id of the action.
            data: JSON values.
            confirm: called when another's entry stands at the next number; raises when the epoch is no longer ours.
            essential: without any copy stop here: a point of no return is next.

        Raises:
            StoppedPartWay: ``essential``, and no copy could be written.
        """
        entry = self._entry(self.last + 1, kind, action, data or {})
        written = False
        if not self._muted("vault"):
            while not written:
                try:
                    self._settle()
                    self._vault.append(self._prefix, partial(_dump_as, entry), after=entry.n - 1, suffix=_SUFFIX)
                    written = True
                except Conflict:
                    if confirm is not None:
                        confirm()
                    self.entries.extend(e for e in self._own(read_journal(self._vault, self.epoch)) if e.n >= entry.n)
                    entry = self._entry(self.last + 1, kind, action, data or {})
                except UnderstudyError as error:
                    self._mute("vault", error)
                    break
        copied = self._copy(entry)
        if not written:
            self._missing[entry.n] = _dump(entry)
        self.entries.append(entry)
        if not (written or copied):
            logger.error("no copy of the journal could be written: %s", _dump(entry).decode())
            if essential:
                message = "no copy of the journal can be written, and the next step cannot be undone"
                raise StoppedPartWay(
                    message, hint=f"bring back {self._vault.url} or {self._second.url}; the same command resumes"
                )
        return entry

    def settle(self) -> bool:
        """Give the vault what it missed while it did not answer. Returns whether it now has all."""
        try:
            self._settle()
        except UnderstudyError as error:
            self._mute("vault", error)
        return not self._missing

    def of(self, action: str, kind: Kind) -> Entry | None:
        """Return the last entry of that kind for an action, None when there is none."""
        return next((e for e in reversed(self.entries) if e.action == action and e.kind == kind), None)

    # ------------------------------------------------------------------ copies

    def _entry(self, n: int, kind: Kind, action: str, data: dict[str, Any]) -> Entry:
        clock = self._clock()
        return Entry(
            clock=clock.isoformat(timespec="milliseconds") if clock else "",
            epoch=self.epoch,
            n=n,
            kind=kind,
            action=action,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=self._who,
            plan=self._plan,
            register=self._register,
            data=redact_values(data),  # what is written here stays: no retention ends it early
        )

    def _own(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries of this register, and remember how far the others have counted."""
        self._highest = max([self._highest, *(entry.n for entry in entries)])
        return [entry for entry in entries if entry.register == self._register]

    def _copy(self, entry: Entry) -> bool:
        """Write the second copies; True when one of them took it."""
        done = self._append_file(entry)
        if self._muted("register"):
            return done
        key = f"{self._prefix}{numbered(entry.n)}{_SUFFIX}"
        try:
            self._second.put_once(key, _dump(entry))
        except Conflict:
            logger.warning("%s beside the register holds another entry; the vault's is kept", key)
            return done
        except UnderstudyError as error:
            self._mute("register", error)
            return done
        return True

    def _append_file(self, entry: Entry) -> bool:
        if self._file is None:
            return False
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry), sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("the journal's local copy %s cannot be written: %s", self._file, error.strerror)
            return False
        return True

    def _read_file(self) -> list[Entry]:
        if self._file is None or not self._file.exists():
            return []
        return [entry for entry in _entries_in(self._file) if entry.epoch == self.epoch]

    def _settle(self) -> None:
        for n in sorted(self._missing):
            try:
                self._vault.put_once(f"{self._prefix}{numbered(n)}{_SUFFIX}", self._missing[n])
            except Conflict:
                logger.warning("entry %d of epoch %d is another one in the vault; both are kept", n, self.epoch)
            del self._missing[n]

    def _muted(self, name: str) -> bool:
        return time.monotonic() < self._quiet_until[name]

    def _mute(self, name: str, error: UnderstudyError) -> None:
        """Do not wait for a copy that does not answer at every entry."""
        logger.warning(
            "the journal's copy in the %s cannot be reached, its other copy goes on: %s", name, error.message
        )
        self._quiet_until[name] = time.monotonic() + _ASK_AGAIN_SECONDS


def prefix_of(epoch: int) -> str:
    """Return where an epoch's journal lives below a vault or the register's store."""
    return f"{PREFIX}{numbered(epoch)}/"


def read_journal(vault: Vault, epoch: int) -> list[Entry]:
    """Return an epoch's entries in order; empty when there are none. Raises Unreachable, Corrupt."""
    prefix = prefix_of(epoch)
    return [_entry_of(vault.read_json(f"{prefix}{numbered(n)}{_SUFFIX}")) for n in vault.sequences(prefix)]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What all copies of the newest epochs' journals hold together, of whichever register.

    Attributes:
        entries: each once, by epoch and number, with the names of the copies that hold it: vault, register, local.
        problems: (copy, sentence) of what could not be read.
    """

    entries: list[tuple[Entry, list[str]]]
    problems: list[tuple[str, str]]


def gather_journals(
    copies: Mapping[str, Callable[[], Vault]], directory: Path | None, *, epochs_max: int, entries_max: int
) -> Gathered:
    """Read whatever copy answers, also without a register that says which epoch it is. Changes nothing.

    Args:
        copies: what opens each copy that lies in a store, by its name.
        directory: of the local copies.
        epochs_max: how many epochs, the newest.
        entries_max: how many entries, the newest.

    Raises:
        StoppedPartWay: no copy could be read.
    """
    found: dict[str, tuple[Entry, list[str]]] = {}
    problems: list[tuple[str, str]] = []
    answered = 0

    def add(entry: Entry, name: str) -> None:
        found.setdefault(_dump(entry).decode(), (entry, []))[1].append(name)

    for name, open_copy in copies.items():
        try:
            for entry in _each_sound(open_copy(), epochs_max, entries_max, partial(_note, problems, name)):
                add(entry, name)
            answered += 1
        except UnderstudyError as error:
            problems.append((name, error.message))
    for file in sorted(directory.glob("journal-*.jsonl")) if directory else ():
        try:
            for entry in _entries_in(file):
                add(entry, "local")
            answered += 1
        except OSError as error:
            problems.append(("local", f"{file.name} cannot be read: {error.strerror}"))
    if not answered:
        message = "no copy of the journal can be read"
        raise StoppedPartWay(message, hint="; ".join(f"{name}: {words}" for name, words in problems))
    epochs = sorted({entry.epoch for entry, _ in found.values()})[-epochs_max:]
    entries = sorted(
        (item for item in found.values() if item[0].epoch in epochs),
        key=lambda item: (item[0].epoch, item[0].register, item[0].n, item[0].time),
    )
    return Gathered(entries[-entries_max:], problems)


def _note(problems: list[tuple[str, str]], name: str, words: str) -> None:
    problems.append((name, words))


def _each_sound(vault: Vault, epochs_max: int, entries_max: int, complain: Callable[[str], None]) -> Iterator[Entry]:
    """Yield a copy's newest entries, and complain of what is none: one entry must not cost the others."""
    for epoch in vault.sequences(PREFIX)[-epochs_max:]:
        for n in vault.sequences(prefix_of(epoch))[-entries_max:]:
            key = f"{prefix_of(epoch)}{numbered(n)}{_SUFFIX}"
            try:
                yield _entry_of(vault.read_json(key))
            except (Corrupt, NotFound) as error:
                complain(error.message)
            except (TypeError, AttributeError):
                complain(f"{key} is no entry of a journal")


def _entries_in(file: Path) -> list[Entry]:
    """Return the entries of a local copy. Raises OSError."""
    entries = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entries.append(_entry_of(json.loads(line)))
        except (ValueError, TypeError, AttributeError):  # the line that a kill cut short
            continue
    return entries


def read_newest(vault: Vault, epoch: int) -> Entry:
    """Return an epoch's last entry. Raises NotReady when it has none."""
    last = vault.latest(prefix_of(epoch))
    if not last:
        message = f"epoch {epoch} has no journal"
        raise NotReady(message)
    return _entry_of(vault.read_json(f"{prefix_of(epoch)}{numbered(last)}{_SUFFIX}"))


def _entry_of(values: dict[str, Any]) -> Entry:
    """Return an entry; what a later version added to it is passed over. Raises TypeError."""
    return Entry(**{name: value for name, value in values.items() if name in _FIELDS})


def _dump(entry: Entry) -> bytes:
    return to_json(asdict(entry))


def _dump_as(entry: Entry, n: int) -> bytes:  # noqa: ARG001 - the number stands in the entry already
    return _dump(entry)
