"""What a vault says of every pair: how far it is copied, and by what each site was last proven. Read at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from understudy.threads import ThreadPool
from understudy.vault.pointers import proven_key, watermark_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from understudy.settings import ComponentName, Pair, SiteRole
    from understudy.vault.store import Vault

_READERS = 8


@dataclass(frozen=True, slots=True)
class Marks:
    """The pointers of all pairs.

    Attributes:
        now: the vault's clock, which the lags are measured on.
        watermarks: by pair name; None where nothing was ever copied.
        proven: by role and pair name, by what and when; pairs that never were are left out.
    """

    now: datetime
    watermarks: Mapping[str, datetime | None]
    proven: Mapping[SiteRole, Mapping[str, tuple[str, datetime]]]


def read_marks(vault: Vault, pairs: Iterable[tuple[ComponentName, Pair]], roles: Sequence[SiteRole]) -> Marks:
    """Read every pair's watermark, and its proof at each of these sites. Raises Unreachable, Denied, Corrupt."""
    known = list(pairs)
    with ThreadPool(_READERS, thread_name_prefix="marks") as pool:
        marks = {pair.name: pool.submit(vault.pointer, watermark_key(name, pair.name)) for name, pair in known}
        proofs = {
            (role, pair.name): pool.submit(vault.pointer, proven_key(role, pair.name))
            for role in roles
            for _, pair in known
        }
        now = pool.submit(vault.store.now)
        return Marks(
            now=now.result(),
            watermarks={name: _moment((job.result() or {}).get("watermark")) for name, job in marks.items()},
            proven={
                role: {
                    name: (found["by"], datetime.fromisoformat(found["at"]))
                    for (at, name), job in proofs.items()
                    if at == role and (found := job.result())
                }
                for role in roles
            },
        )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
