"""Ways to break one thing, each of which the demo must catch and name: no proof is worth more than what turns it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sandbox.gcs_server import data_file
from sandbox.questions import QUESTIONS
from sandbox.seed import connect
from understudy import opening
from understudy.clouds import gcp
from understudy.features.bigtable import row_key
from understudy.settings import split_url
from understudy.vault.store import numbered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.stage import Stage

    Undo = Callable[[], None]

Point = Literal["stage", "backed_up", "before_failover", "failed_over"]


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One thing to break.

    Attributes:
        name: as ``make demo SABOTAGE=name`` takes it.
        point: of the demo at which it strikes: when the stage is made, after the backups, after the disaster, or after
            the failover.
        says: what is done, for the screen.
        breaks: the proofs that must not hold then, and no others; for a gate, its name.
        strike: does it, and returns what undoes it.
    """

    name: str
    point: Point
    says: str
    breaks: frozenset[str]
    strike: Callable[[Stage], Undo]


def flip_byte(stage: Stage) -> Undo:
    """Flip one bit in the middle of the vault's largest pack, on the disk of its server."""
    pack = _largest_pack(stage)
    whole = pack.read_bytes()
    middle = len(whole) // 2
    pack.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    return lambda: _restore(pack, whole)


def drop_pack(stage: Stage) -> Undo:
    """Remove the vault's largest pack from the disk of its server."""
    pack = _largest_pack(stage)
    whole = pack.read_bytes()
    pack.unlink()
    return lambda: _restore(pack, whole)


def stale_index(stage: Stage) -> Undo:
    """Put the nearest passage of the first question somewhere else; the table's label stays as it is."""
    from sandbox.client import Client

    hits = Client(stage.settings).recommend(text=QUESTIONS[0], k=10, exact=True)["hits"]
    changed = hits[0]["id"]
    url = stage.settings.pair("vector_index").away
    with connect(url) as database:
        found = database.execute("SELECT embedding::text FROM products WHERE id = %s", (changed,)).fetchone()
        before = found[0] if found else ""
        database.execute(
            "UPDATE products SET embedding = (SELECT other.embedding FROM products other "
            "ORDER BY other.embedding <=> %s::vector DESC LIMIT 1) WHERE id = %s",
            (before, changed),
        )

    def undo() -> None:
        with connect(url) as database:
            database.execute("UPDATE products SET embedding = %s::vector WHERE id = %s", (before, changed))

    return undo


def no_fence(stage: Stage) -> Undo:
    """Make the register forget the leases of home's writers, as if they had never held any."""
    settings = stage.settings
    register = opening.open_register(settings)
    leases = register.read().leases_of("home")
    for name in leases:
        register.drop(name)

    def undo() -> None:
        epoch = register.read().epoch
        for name, lease in leases.items():
            register.renew(name, "home", epoch, lease.seconds)

    return undo


def lost_feature(stage: Stage) -> Undo:
    """Remove one feature of one entity from away's online store, behind its back."""
    settings = stage.settings
    pair, away = settings.pair("feature_store"), settings.sites.away
    store = opening.open_features(pair.away, away)
    pointer = store.pointer()
    if pointer is None:
        message = "there is no feature to lose: away's online store was never filled"
        raise RuntimeError(message)
    _, project, path = split_url(pair.away)
    instance, _, table = path.partition("/")
    entity, feature = "user-00007", "interest"
    cell = store.read(pointer.generation, entity)[feature]
    from google.cloud.bigtable.data.mutations import DeleteAllFromRow

    client = gcp.bigtable_data_client(away, project=project)
    client.get_table(instance, f"{table}__{numbered(pointer.generation)}").mutate_row(
        row_key(entity, feature), DeleteAllFromRow()
    )

    def undo() -> None:
        store.write_newer(pointer.generation, [cell])

    return undo


def _largest_pack(stage: Stage) -> Path:
    _, bucket, prefix = split_url(stage.settings.vault.url)
    vault = opening.open_store(stage.settings.vault.url, stage.settings.sites.away)
    largest = max(vault.list("packs/"), key=lambda info: info.size)
    return data_file(stage.directory / "away" / "gcs", bucket, f"{prefix.rstrip('/')}/{largest.key}")


def _restore(file: Path, whole: bytes) -> None:
    file.write_bytes(whole)


_ALL = (
    Sabotage("flip-byte", "backed_up", "one bit flipped in a pack of the vault", frozenset({"vault"}), flip_byte),
    Sabotage("drop-pack", "backed_up", "a pack of the vault removed from its disk", frozenset({"vault"}), drop_pack),
    Sabotage(
        "stale-index",
        "failed_over",
        "a row of away's index replaced, its label left as it was",
        frozenset({"answers", "index"}),
        stale_index,
    ),
    Sabotage(
        "no-fence",
        "stage",
        "home's writers hold no lease, so nobody can prove that they stopped",
        frozenset({"fence"}),
        no_fence,
    ),
    Sabotage(
        "lost-feature",
        "failed_over",
        "one feature removed from away's online store",
        frozenset({"features"}),
        lost_feature,
    ),
)
SABOTAGES: dict[str, Sabotage] = {each.name: each for each in _ALL}
