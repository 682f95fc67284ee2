"""Decides which revisions stay. Data to data: no clock, no store; everything that must stay is passed in.

``last`` counts versions in their natural order, and of each its newest revision. ``daily`` and ``weekly`` count days
and weeks (UTC, ISO) in which there was anything, newest first, and of each its newest revision: a model that is pushed
once a year keeps its history. One that several rules keep is kept once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from understudy.artifacts.plan import natural

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

#: Tags that a push writes by itself, of what a person accepted; they say nothing of how long a version is wanted.
OWN_TAGS = frozenset({"accepted", "accepted_changes"})


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of each model, and of the sets.

    Attributes:
        last: the newest so many versions.
        daily: the newest of each of the last so many days.
        weekly: the newest of each of the last so many weeks.
        tagged: True keeps what has any tag, names what has one of these.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    tagged: bool | tuple[str, ...] = False


@dataclass(frozen=True, slots=True)
class Item:
    """One revision of one version.

    Attributes:
        key: of its manifest in the vault.
        version: its name.
        revision: its number.
        at: when it was written.
        tags: names of its tags.
    """

    key: str
    version: str
    revision: int
    at: datetime
    tags: tuple[str, ...] = ()


def reasons(
    items: Sequence[Item],
    keep: Keep | None,
    *,
    now: datetime,
    grace: timedelta,
    needed: Mapping[str, Iterable[str]],
) -> dict[str, tuple[str, ...]]:
    """Say of each revision of one model why it stays; what has no reason goes.

    Args:
        items: all revisions of the model.
        keep: the policy; None keeps all.
        now: the vault's clock.
        grace: what is younger stays.
        needed: by key, why others need it: a set pins it, a site serves it.

    Returns:
        By key, reasons in words; empty for those that go. The newest revision of the newest version always stays.
    """
    why: dict[str, list[str]] = {item.key: [] for item in items}
    ordered = sorted(items, key=lambda item: (natural(item.version), item.revision), reverse=True)
    for item in ordered[:1]:
        why[item.key].append("newest")
    for item, words in _kept(ordered, keep) if keep else [(item, "no vault.keep") for item in ordered]:
        why[item.key].append(words)
    for item in ordered:
        if keep and item.at > now - grace:
            why[item.key].append("young")
    for key, others in needed.items():
        if key in why:
            why[key].extend(others)
    return {key: tuple(dict.fromkeys(words)) for key, words in why.items()}


def counted(why: Mapping[str, Sequence[str]]) -> str:
    """Return how many each reason keeps, the most frequent first: ``last 10: 10, weekly 8: 6, newest: 1``."""
    found = Counter(word for words in why.values() for word in words)
    return ", ".join(f"{word}: {count}" for word, count in found.most_common())


def _kept(ordered: Sequence[Item], keep: Keep) -> Iterator[tuple[Item, str]]:
    """Yield what the policy keeps, of items that come newest version first, and why."""
    by_time = sorted(ordered, key=lambda item: item.at, reverse=True)
    for item in _first_of_each(ordered, lambda item: item.version, keep.last):
        yield item, f"last {keep.last}"
    for item in _first_of_each(by_time, lambda item: item.at.astimezone(UTC).date(), keep.daily):
        yield item, f"daily {keep.daily}"
    for item in _first_of_each(by_time, lambda item: item.at.astimezone(UTC).isocalendar()[:2], keep.weekly):
        yield item, f"weekly {keep.weekly}"
    for item in ordered:
        if tag := _tag(item, keep):
            yield item, f"tagged {tag}"


def _first_of_each(items: Sequence[Item], group: Callable[[Item], Hashable], groups_max: int) -> list[Item]:
    """Return the first item of each of the first so many groups."""
    first: dict[Hashable, Item] = {}
    for item in items:
        if (name := group(item)) not in first:
            if len(first) >= groups_max:
                break
            first[name] = item
    return list(first.values())


def _tag(item: Item, keep: Keep) -> str:
    """Return the tag for which an item is kept, empty when there is none."""
    if isinstance(keep.tagged, tuple):
        return min((tag for tag in item.tags if tag in keep.tagged), default="")
    return min((tag for tag in item.tags if tag not in OWN_TAGS), default="") if keep.tagged else ""
