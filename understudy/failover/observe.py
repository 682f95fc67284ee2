"""Gathers what a plan is made from. What does not answer is written down, not raised: a dead site is normal here.

Only the register must answer: without it nobody may say who is active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from understudy.errors import NotFound, Refused, UnderstudyError
from understudy.failover.journal import PREFIX, prefix_of, read_newest
from understudy.failover.observed import Copied, Observed, Pinned
from understudy.settings import other
from understudy.threads import ThreadPool
from understudy.vault.marks import read_marks
from understudy.vault.pointers import proven_key
from understudy.vault.store import numbered

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.failover.observed import Health
    from understudy.failover.world import World
    from understudy.settings import SiteRole
    from understudy.vault.store import Vault

_EPOCHS_BACK = 3
_T = TypeVar("_T")


def observe(world: World, *, target: SiteRole) -> Observed:
    """Return what is seen of both sites, the vault and the register now.

    Args:
        world: what to look at.
        target: the site that is to become active.

    Raises:
        Refused: the register cannot be read.
    """
    settings, source = world.settings, other(target)
    try:
        state, now = world.register.read(), world.register.now()
    except UnderstudyError as error:
        message = f"the register at {world.register.url} cannot be read: {error.message}"
        raise Refused(message, hint="without it nobody can say who is active; bring it back first") from error
    problems: dict[str, str] = {}

    def seen(noun: str, look: Callable[[], _T]) -> _T | None:
        try:
            return look()
        except UnderstudyError as error:
            problems[noun] = error.message
            return None

    def look_at_health(site: SiteRole) -> Health:
        return world.outside.health(settings.traffic.addresses[site])

    with ThreadPool(max_workers=6, thread_name_prefix="observe") as pool:
        health = {site: pool.submit(look_at_health, site) for site in (source, target)}
        pinned = pool.submit(seen, "vault", lambda: read_pinned(world.vault, settings.service))
        group = pool.submit(seen, "compute", world.compute.read)
        routing = pool.submit(seen, "traffic", world.traffic.read)
        alerts = world.alerts
        watched = pool.submit(seen, "alerts", alerts.read) if alerts else None
        copied = seen("vault", lambda: _read_copied(world))
        timings = seen("vault", lambda: read_timings(world.vault))
        return Observed(
            service=settings.service,
            now=now,
            source=source,
            target=target,
            names=settings.site_names(),
            state=state,
            health={site: future.result() for site, future in health.items()},
            copied=copied or (),
            pinned=pinned.result(),
            group=group.result(),
            routing=routing.result(),
            watched=watched.result() if watched else None,
            problems=problems,
            control_planes={
                "traffic": world.traffic.control_plane,
                "compute": world.compute.control_plane,
                **({"alerts": alerts.control_plane} if alerts else {}),
            },
            timings=timings or {},
            load_seconds=seen("vault", lambda: _read_load(world, target)) or 0.0,
        )


def read_pinned(vault: Vault, service: str) -> Pinned | None:
    """Return the newest set, and what it names but the vault lacks; None when there is no set. Raises Unreachable."""
    prefix = f"sets/{service}/"
    sequence = vault.latest(prefix)
    if not sequence:
        return None
    found: dict[str, Any] = vault.read_json(f"{prefix}{numbered(sequence)}.json")
    model, index, features = found["model"], found.get("index"), found.get("features")
    keys = [f"artifacts/{model['name']}/{model['version']}/{numbered(int(model['revision']))}.json"]
    if index:
        keys.append(f"vectors/{index['name']}/{numbered(int(index['sequence']))}/manifest.json")
    if features:
        keys.append(f"features/{features['view']}/{numbered(int(features['sequence']))}.json")
    return Pinned(
        sequence=sequence,
        model=str(model["name"]),
        version=str(model["version"]),
        digest=str(model.get("digest", "")),
        index=str(index["name"]) if index else None,
        index_sequence=int(index["sequence"]) if index else None,
        view=str(features["view"]) if features else None,
        missing=tuple(key for key in keys if not _is_there(vault, key)),
        held=tuple(f"{each['model']} {each['version']} is held: {each['reason']}" for each in found.get("held", [])),
    )


def read_timings(vault: Vault) -> dict[str, float]:
    """Return what the actions took in the newest finished failover, by their kind; empty before the first."""
    for epoch in reversed(vault.sequences(PREFIX)[-_EPOCHS_BACK:]):
        if not vault.latest(prefix_of(epoch)):
            continue
        entry = read_newest(vault, epoch)
        if entry.kind == "finished":
            return {str(kind): float(seconds) for kind, seconds in entry.data.get("timings", {}).items()}
    return {}


def _read_copied(world: World) -> tuple[Copied, ...]:
    components = world.settings.components
    pairs = [(name, pair) for name, pair in world.settings.all_pairs() if components[name].rpo is not None]
    found = read_marks(world.vault, pairs, ()).watermarks
    return tuple(Copied(name, pair.name, found[pair.name]) for name, pair in pairs)


def _read_load(world: World, target: SiteRole) -> float:
    training = world.settings.components.get("training")
    found = [
        (world.vault.pointer(proven_key(target, pair.name)) or {}).get("load")
        for pair in (training.pairs if training else ())
    ]
    return max((float(each["seconds"]) for each in found if each), default=0.0)


def _is_there(vault: Vault, key: str) -> bool:
    try:
        vault.store.head(key)
    except NotFound:
        return False
    return True
