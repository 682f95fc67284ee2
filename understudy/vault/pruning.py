"""Takes out of a vault what retention does not keep and nothing needs: mark, wait, mark again, sweep.

What goes is condemned first (``condemned.py``), and deleted by a run that finds it condemned for long enough and still
not needed. Every step can be the last one of a run that is killed: the next run begins by looking at everything anew.
Sets go before the versions that they pin, these before the packs, and the index forgets packs before they are deleted.
Nothing that the index says of a pack is believed when it comes to deleting another one: what is needed and lies in a
pack that is due is decoded from where it stays (``homes.py``), and where that fails, the pack stays.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from understudy.artifacts.catalog import Unreadable, in_order, read_each, revisions
from understudy.artifacts.manifest import manifest_key
from understudy.artifacts.plan import natural
from understudy.artifacts.tags import all_tags
from understudy.errors import Conflict, Corrupt, Denied, NotFound, NotReady, Unsupported
from understudy.report import human_bytes, quiet
from understudy.threads import ThreadPool
from understudy.vault import sets
from understudy.vault.census import Census
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.condemned import mark, mark_key, marked, retire, source_digest
from understudy.vault.homes import prove_homes
from understudy.vault.index import INDEX_PREFIX, PackRecord, append_index, compact_index, load_index
from understudy.vault.packs import PACK_BYTES_TARGET, PACK_CHUNKS_MAX, PACKS_PREFIX, PackBuilder, pack_key, pack_name
from understudy.vault.prune_lock import PruneLock
from understudy.vault.pruned import Amount, Kept, PruneResult
from understudy.vault.retention import Item, counted, reasons
from understudy.vault.store import FORMAT_KEY, is_number
from understudy.vault.unlisted import unlisted
from understudy.vault.verified import known_damage
from understudy.vault.writing import SALT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.objects.interface import ObjectInfo
    from understudy.report import Progress
    from understudy.vault.chunks import Location
    from understudy.vault.index import Segment
    from understudy.vault.pruned import Rules, Served
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

#: Objects deleted between two looks at the lock: seconds, where the lock holds for an hour.
_BATCH = 100
_LANES = 8
#: Manifests of 100,000 files are 25 MB and more.
_MANIFESTS_AHEAD = 3
#: Packs smaller than this are put together, once there are so many of them.
_SMALL_BYTES = PACK_BYTES_TARGET // 4
_SMALL_MIN = 8
#: What a chunk takes in its pack's list, at most.
_LISTED_BYTES = 160
_REFUSALS_SHOWN = 3
#: Reasons to keep that keep a version out of colder storage too.
_HOT = ("newest", "served by ", "set of ", "index ")


def prune(
    vault: Vault,
    *,
    rules: Rules,
    served: Sequence[Served] = (),
    write: bool,
    still_allowed: Callable[[], object] = lambda: None,
    progress: Progress = quiet,
) -> PruneResult:
    """Take out what is not needed; without ``write`` only say what would be.

    Args:
        vault: whose.
        rules: what stays, and for how long the rest.
        served: what every site serves, which stays.
        write: do it.
        still_allowed: called before anything is deleted; raises when the run has to stop, such as for a failover.
        progress: told manifests read and bytes written anew.

    Raises:
        Corrupt, Unsupported: a manifest cannot be read, or a kept one names what no pack has. What is needed is then
            not known, and nothing is changed.
        HeldByAnother: another prune is under way.
    """
    if not write or next(iter(vault.store.list(FORMAT_KEY)), None) is None:  # what is no vault is not made one
        return _Prune(vault, rules, served, None, progress).run()
    with PruneLock(vault, still_allowed) as lock:
        return _Prune(vault, rules, served, lock, progress).run()


@dataclass(slots=True)
class _Revision:
    """A revision as it is decided about; its chunks as numbers of the census."""

    model: str
    item: Item
    digest: str
    source: str
    chunks: NDArray[np.int32]


@dataclass(slots=True)
class _Fate:
    """What becomes of the revisions of one model, or of a service's sets: keys by what is done about them."""

    name: str
    why: dict[str, tuple[str, ...]] = field(default_factory=dict)
    condemn: list[str] = field(default_factory=list)
    wait: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)

    @property
    def going(self) -> list[str]:
        return [*self.condemn, *self.wait, *self.delete]


@dataclass(slots=True, kw_only=True)
class _Decided:
    """What becomes of the packs: coded bytes that are needed of each, and names by what is done about them.

    Attributes:
        kept: of the census, which chunks what is kept needs; later more are counted as needed.
    """

    needed: dict[str, int]
    old: list[str]
    waiting: list[str]
    fresh: list[str]
    young: list[str]
    spared: set[str]
    rewrite: list[str]
    kept: NDArray[np.bool_]
    due: list[str] = field(default_factory=list)
    cool: list[str] = field(default_factory=list)


class _Prune:
    """One run; without a lock it changes nothing."""

    def __init__(
        self, vault: Vault, rules: Rules, served: Sequence[Served], lock: PruneLock | None, progress: Progress
    ) -> None:
        self._vault = vault
        self._rules = rules
        self._served = served
        self._lock = lock
        self._progress = progress
        self._refused: list[str] = []
        self._refusals = 0
        self._left_of_indexes: tuple[str, ...] = ()
        # The marks before the manifests, the manifests before the index, the index before the packs. A mark that is old
        # enough now was there before every writer that may still show something; see ``condemned.py``.
        self._now = vault.store.now()
        self._marks = marked(vault)
        self._tags = _names_of_tags(vault)
        self._revisions = revisions(vault)
        self._listed_at = {info.key: info.modified for info in vault.listing("artifacts/")}
        self._sets = list(vault.listing(sets.SETS_PREFIX))
        self._index = load_index(vault)
        self._packs = {name: info for info in vault.store.list(PACKS_PREFIX) if (name := pack_name(info.key))}
        records = self._index.packs
        self._whole = {
            name for name, info in self._packs.items() if name not in records or records[name].length == info.size
        }
        self._damaged = known_damage(vault).damaged_packs
        self._marked_packs = {name for key in self._marks if (name := pack_name(key))}
        self._unlisted: list[Segment] = []
        self._misrecorded: list[str] = []
        self._proven = self._proven_bytes = 0
        due = [
            name
            for name in sorted(self._marked_packs & self._packs.keys())
            if self._is_due(self._marks[pack_key(name)])
        ]
        if lock is not None and (due or self._old_index()):
            self._misrecorded = self._whole_in_spite_of_the_index()
            self._whole.update(self._misrecorded)
            self._unlisted = unlisted(vault, self._index, there=self._whole, packs=[self._packs[name] for name in due])
        self._suspects: dict[str, str] = {}
        self._unread: set[str] = set()
        self._census = self._counted_anew()
        self._census_index = self._index

    def _whole_in_spite_of_the_index(self) -> list[str]:
        """Return packs that have another length than the index records, and hold what their name says all the same.

        Raises:
            Corrupt: there are more of them than a run may read.
        """
        odd = sorted(self._packs.keys() - self._whole)
        size = sum(self._packs[name].size for name in odd)
        if size > self._rules.prove_bytes_max:
            raise Corrupt(
                f"nothing is pruned: {len(odd)} packs ({human_bytes(size)}) of {self._vault.url} have another length "
                "than the index records",
                hint="look at who can write into the vault; the packs themselves say what they hold",
                next_command="understudy vault verify --deep",
            )
        found = []
        for name in odd:
            self._hold()
            try:
                data = self._vault.store.get(pack_key(name))
            except (Corrupt, NotFound, NotReady):
                continue
            self._proven_bytes += len(data)
            if chunk_id(data).hex() == name:
                found.append(name)
        return found

    def run(self) -> PruneResult:
        started = time.monotonic()
        found = self._read_manifests()
        set_fates = self._fates_of_sets()
        fates = self._fates_of_models(found, set_fates)
        bytes_by_model = self._need(found, fates)
        old_index = self._old_index()
        decided = self._decide(found, fates)
        while self._lock is not None and (suspects := self._disproven(decided, forgotten=bool(old_index))):
            # What a pack does not give is looked for elsewhere: that may be a pack that was to go.
            self._suspects |= suspects
            self._census = self._counted_anew()
            bytes_by_model = self._need(found, fates)
            old_index = []
            decided = self._decide(found, fates)
        due = decided.due
        rewritten_bytes = 0
        if self._lock is not None:
            spared = sorted(decided.spared)
            self._spare([*(key for fate in (*fates, *set_fates) for key in fate.spare), *map(pack_key, spared)])
            self._list_again(decided.spared)
            stayed = self._sweep_manifests(found, fates, set_fates)
            due = self._free_of(found, stayed, due)
            refused = self._sweep_packs(due)
            due = [name for name in due if pack_key(name) not in refused]
            self._delete(old_index)
            if decided.rewrite:
                rewritten_bytes = self._rewrite(decided.rewrite, decided.kept)
            self._condemn(fates, set_fates, [*decided.fresh, *decided.rewrite])
            decided.cool = self._cool(decided.cool)
        waiting = sorted({*decided.waiting, *decided.old} - set(due))
        return PruneResult(
            written=self._lock is not None,
            vault=self._vault.url,
            policy=self._rules.keep is not None,
            models=tuple(_kept(fate, bytes_by_model.get(fate.name, 0)) for fate in fates),
            sets=tuple(_kept(fate) for fate in set_fates),
            condemned=self._amount([*decided.fresh, *decided.rewrite]),
            waiting=self._amount(waiting),
            deleted=self._amount(due),
            spared=self._amount(decided.spared),
            young=self._amount(decided.young),
            rewritten=self._amount(decided.rewrite),
            rewritten_bytes=rewritten_bytes or sum(decided.needed[name] for name in decided.rewrite),
            cooled=self._amount(decided.cool),
            index_objects=len(old_index),
            refused=self._refusals,
            refusals=tuple(self._refused),
            proven=self._proven,
            proven_bytes=self._proven_bytes,
            problems=(
                *(words for name, words in self._suspects.items() if name not in self._unread),
                *(f"pack {name} is whole, and the index recorded another length of it" for name in self._misrecorded),
            ),
            left=self._left(),
            next_at=self._next_at(waiting, decided.fresh or decided.rewrite, (*fates, *set_fates)),
            keeps_versions=self._keeps_versions(),
            seconds=time.monotonic() - started,
        )

    def _counted_anew(self) -> Census:
        return Census(
            self._index,
            whole=self._whole,
            condemned=self._marked_packs,
            unlisted=self._unlisted,
            suspects=self._suspects,
        )

    def _decide(self, found: list[_Revision], fates: list[_Fate]) -> _Decided:
        """Say of each pack what becomes of it. What versions that wait need is counted as needed from then on."""
        needed = self._census.needed_bytes()
        dead = {name for name in self._packs if name not in needed}
        old, waiting, fresh, young = self._sorted_out(dead)
        decided = _Decided(
            needed=needed,
            old=old,
            waiting=waiting,
            fresh=fresh,
            young=young,
            spared={name for name in self._marked_packs & needed.keys() if name in self._packs},
            rewrite=self._to_rewrite(needed),
            kept=self._census.live.copy(),
        )
        decided.cool = self._to_cool(found, fates, decided)
        free = self._free_of(found, [key for fate in fates for key in (*fate.condemn, *fate.wait)], old)
        decided.due = self._affordable(free)
        return decided

    def _affordable(self, due: list[str]) -> list[str]:
        """Return those packs, condemned longest first, of which all can be proven elsewhere by what a run may read."""
        moved = self._census.moved_bytes()
        left = self._rules.prove_bytes_max
        chosen: list[str] = []
        for name in sorted(due, key=lambda name: (self._marks[pack_key(name)].modified, name)):
            left -= moved.get(name, 0)
            if left < 0 and chosen and moved.get(name, 0):
                continue
            chosen.append(name)
        return sorted(chosen)

    def _disproven(self, decided: _Decided, *, forgotten: bool) -> dict[str, str]:
        """Decode what is needed of what goes from where it stays; return packs that fail to give it, and why."""
        chunks = self._census.at_risk(set(decided.due), forgotten=forgotten and bool(self._unlisted))
        if not len(chunks):
            return {}
        proof = prove_homes(
            self._vault, self._census, chunks, skip=self._suspects, hold=self._hold, progress=self._progress
        )
        self._proven, self._proven_bytes = proof.chunks, self._proven_bytes + proof.bytes_read
        for words in proof.unread.values():
            self._refuse(words)
        self._unread |= proof.unread.keys()
        return proof.problems | proof.unread

    def _list_again(self, spared: Iterable[str]) -> None:
        """Have the index name what was found to lie elsewhere than it says, before all that it says else."""
        if not self._suspects and not self._misrecorded:
            return
        chunks = np.flatnonzero(self._census.live)
        rows = [place for place in self._census.homes(chunks) if self._index.find(place.id) != place]
        if rows or self._misrecorded:
            self._hold()
            known = (self._packs[name] for name in {*(row.pack for row in rows), *self._misrecorded})
            packs = {info.key.rpartition("/")[2]: PackRecord(info.size, info.crc32c) for info in known}
            dying = self._marked_packs - set(spared)
            append_index(self._vault, self._index, rows, packs, absent=dying | self._suspects.keys())
            self._index = load_index(self._vault)

    # ------------------------------------------------------------------ what is there

    def _read_manifests(self) -> list[_Revision]:
        """Read every manifest, one after another, and keep of each what is decided by. Raises Corrupt, Unsupported."""
        wanted = in_order(self._revisions)
        found: list[_Revision] = []
        for manifest in read_each(self._vault, wanted, ahead=_MANIFESTS_AHEAD):
            if isinstance(manifest, Unreadable):
                damage = manifest.damage
                words = f"nothing is pruned: {damage.message}"
                kind = Unsupported if isinstance(damage, Unsupported) else Corrupt
                raise kind(words, hint=damage.hint, next_command="understudy vault verify --deep") from damage
            found.append(self._revision(manifest))
            self._progress("read manifests", len(found), len(wanted), "manifests")
        return found

    def _revision(self, manifest: ArtifactManifest) -> _Revision:
        key = manifest_key(manifest.model, manifest.version, manifest.revision)
        ids = bytes.fromhex("".join([name for file in manifest.files for name, _ in file.chunks]))
        return _Revision(
            model=manifest.model,
            item=Item(
                key,
                manifest.version,
                manifest.revision,
                _moment(manifest.created.get("at")) or self._listed_at[key],
                tuple(sorted({*manifest.tags, *self._tags.get(key, ())})),
            ),
            digest=manifest.digest,
            source=source_digest((file.path, file.source.key, file.source.token, file.size) for file in manifest.files),
            chunks=np.unique(self._census.positions(ids)).astype(np.int32),
        )

    # ------------------------------------------------------------------ what is decided

    def _fates_of_sets(self) -> list[_Fate]:
        by_service: dict[str, list[Item]] = defaultdict(list)
        for info in self._sets:
            service, _, stem = info.key[len(sets.SETS_PREFIX) :].partition("/")
            if is_number(stem.removesuffix(".json")):
                by_service[service].append(Item(info.key, stem.removesuffix(".json"), 1, info.modified))
        return [self._fate(service, items, {}) for service, items in sorted(by_service.items())]

    def _fates_of_models(self, found: list[_Revision], set_fates: list[_Fate]) -> list[_Fate]:
        needed: dict[str, list[str]] = defaultdict(list)
        for fate in set_fates:
            for key in (key for key, why in fate.why.items() if why):
                needed[_pinned(self._vault, key)].append(f"set of {fate.name}")
        for each in self._served:
            numbers = self._revisions.get((each.model, each.version), [])
            for number in [each.revision] if each.revision in numbers else numbers:
                needed[manifest_key(each.model, each.version, number)].append(f"served by {each.site}")
        made_with = self._models_of_indexes()
        for revision in found:
            for index in made_with.get(revision.digest, ()):
                needed[revision.item.key].append(f"index {index}")
        by_model: dict[str, list[Item]] = defaultdict(list)
        for revision in found:
            by_model[revision.model].append(revision.item)
        return [self._fate(model, items, needed) for model, items in sorted(by_model.items())]

    def _fate(self, name: str, items: list[Item], needed: dict[str, list[str]]) -> _Fate:
        grace = self._rules.condemned_for
        fate = _Fate(name, reasons(items, self._rules.keep, now=self._now, grace=grace, needed=needed))
        for key, why in fate.why.items():
            stands = self._marks.get(key)
            if why:
                if stands:
                    fate.spare.append(key)
            elif stands is None:
                fate.condemn.append(key)
            elif self._is_due(stands):
                fate.delete.append(key)
            else:
                fate.wait.append(key)
        return fate

    def _models_of_indexes(self) -> dict[str, list[str]]:
        """Return, by the digest of a model, the exported indexes whose newest sequence was made with it."""
        newest: dict[str, tuple[int, str]] = {}
        counts: Counter[str] = Counter()
        for info in self._vault.listing("vectors/"):
            parts = info.key.split("/")
            if is_number(parts[2]) and parts[-1] == "manifest.json":
                newest[parts[1]] = max(newest.get(parts[1], (0, "")), (int(parts[2]), info.key))
                counts[parts[1]] += 1
        words = [f"vectors {index}: all {count} exports" for index, count in sorted(counts.items()) if count > 1]
        self._left_of_indexes = tuple(words)
        found: dict[str, list[str]] = defaultdict(list)
        for index, (_, key) in newest.items():
            value = self._vault.read_json(key)
            if isinstance(value, dict):
                found[str(value.get("model_digest"))].append(index)
        return found

    def _need(self, found: list[_Revision], fates: list[_Fate]) -> dict[str, int]:
        """Count what the kept revisions need; return the bytes that only those that go need, by model."""
        going = {key for fate in fates for key in fate.going}
        away: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for revision in found:
            chunks = revision.chunks.astype(np.int64)
            if revision.item.key in going:
                away[revision.model].append(chunks)
                continue
            lost = self._census.homeless(chunks)
            if lost := lost if self._suspects else lost + self._census.unlisted(chunks):
                raise Corrupt(
                    f"nothing is pruned: {lost} chunks of {revision.model} {revision.item.version} (revision "
                    f"{revision.item.revision}) are in no whole pack of {self._vault.url}",
                    hint="push again from the source, then prune again",
                    next_command="understudy vault verify",
                )
            self._census.need(chunks)
        return {model: self._census.bytes_alone(chunks) for model, chunks in away.items()}

    def _sorted_out(self, dead: set[str]) -> tuple[list[str], list[str], list[str], list[str]]:
        """Sort the packs that nothing needs into those that are due, wait, are to be condemned, and are too young."""
        due: list[str] = []
        waiting: list[str] = []
        fresh: list[str] = []
        young: list[str] = []
        for name in sorted(dead):
            stands = self._marks.get(pack_key(name))
            if stands is not None:
                (due if self._is_due(stands) else waiting).append(name)
            else:
                (fresh if self._is_old(self._packs[name]) else young).append(name)
        return due, waiting, fresh, young

    def _free_of(self, found: list[_Revision], keys: Iterable[str], packs: list[str]) -> list[str]:
        """Return those packs in which these revisions, which are there as long as their mark waits, need nothing."""
        there = set(keys)
        for revision in found:
            if revision.item.key in there:
                self._census.need(revision.chunks.astype(np.int64))
        needed = self._census.needed_bytes()
        return [name for name in packs if name not in needed]

    def _to_rewrite(self, needed: dict[str, int]) -> list[str]:
        """Return the packs to write anew, in the order in which they were written: mostly dead ones, and small ones."""
        known = [
            name
            for name in needed
            if name not in self._marked_packs
            and name not in self._suspects
            and name not in self._damaged
            and self._packs[name].tier in (None, "standard")
            and name in self._index.packs
            and self._is_old(self._packs[name])
        ]
        sizes = {name: self._packs[name].size for name in known}
        listed = self._census.needed_bytes(each=_LISTED_BYTES)
        mostly_dead = [name for name in known if listed[name] < self._rules.rewrite_below * sizes[name]]
        small = [name for name in known if sizes[name] < _SMALL_BYTES]
        chosen: set[str] = set()
        budget = self._rules.rewrite_bytes_max
        for name in [
            *sorted(mostly_dead, key=lambda name: (needed[name] / sizes[name], name)),
            *(sorted(small, key=lambda name: (sizes[name], name)) if len(small) >= _SMALL_MIN else ()),
        ]:
            if name not in chosen and needed[name] <= budget:
                chosen.add(name)
                budget -= needed[name]
        return sorted(chosen, key=lambda name: (self._packs[name].modified, name))

    def _to_cool(self, found: list[_Revision], fates: list[_Fate], decided: _Decided) -> list[str]:
        """Return packs in standard storage that only old versions need, of which none is served, newest or in a set."""
        after = self._rules.cold_after
        if after is None or self._suspects:
            return []
        why = {key: words for fate in fates for key, words in fate.why.items()}
        census = self._census
        kept, census.live = census.live, np.zeros_like(census.live)
        for revision in found:
            key = revision.item.key
            if revision.item.at > self._now - after or any(word.startswith(_HOT) for word in why[key]):
                census.need(revision.chunks.astype(np.int64))
        hot, census.live = census.needed_bytes(), kept
        away = {*hot, *self._marked_packs, *decided.rewrite}
        return [
            name
            for name in sorted(decided.needed)
            if name not in away
            and self._packs[name].tier == "standard"
            and self._packs[name].modified <= self._now - after
        ]

    def _cool(self, names: Sequence[str]) -> list[str]:
        """Move packs to colder storage; return those that are there now. What the store refuses is said."""
        done: list[str] = []
        for batch in _batches(names):
            self._hold()
            with ThreadPool(_LANES, thread_name_prefix="cool") as pool:
                refusals = list(pool.map(self._cool_one, batch))
            done += [name for name, words in zip(batch, refusals, strict=True) if not words]
            for words in filter(None, refusals):
                self._refuse(words)
            self._progress("move to colder storage", len(done), len(names), "packs")
        return done

    def _cool_one(self, name: str) -> str:
        try:
            self._vault.store.set_tier(pack_key(name), "cold")
        except (Denied, Conflict, NotFound, Unsupported) as refusal:
            logger.warning("not moved: %s", refusal.message)
            return refusal.message
        return ""

    def _refuse(self, words: str) -> None:
        self._refusals += 1
        if len(self._refused) < _REFUSALS_SHOWN and words not in self._refused:
            self._refused.append(words)

    def _old_index(self) -> list[str]:
        """Return the objects of the index that a sequence replaces which is there for long enough."""
        shards: dict[int, list[ObjectInfo]] = defaultdict(list)
        for info in self._vault.store.list(INDEX_PREFIX):
            sequence = info.key[len(INDEX_PREFIX) :].partition("/")[0]
            if is_number(sequence):
                shards[int(sequence)].append(info)
        ranges = [
            each
            for sequence, replaced in self._index.replaces.items()
            if all(self._is_old(info) for info in shards.get(sequence, ()))
            for each in replaced
        ]
        return [
            info.key
            for sequence, infos in sorted(shards.items())
            for info in infos
            if any(low <= sequence <= high for low, high in ranges)
        ]

    def _is_due(self, stands: ObjectInfo) -> bool:
        return stands.modified <= self._now - self._rules.condemned_for

    _is_old = _is_due

    # ------------------------------------------------------------------ what is done

    def _hold(self) -> None:
        if self._lock is not None:
            self._lock.hold()

    def _spare(self, keys: Iterable[str]) -> None:
        self._delete([mark_key(key) for key in keys])

    def _sweep_manifests(self, found: list[_Revision], fates: list[_Fate], set_fates: list[_Fate]) -> set[str]:
        """Delete what was condemned for long enough: sets, then versions, whose names are remembered.

        Returns:
            The keys of the versions that are still there, because the store refused to delete them or their set.
        """
        gone = [key for fate in set_fates for key in fate.delete]
        refused_sets = self._delete(gone)
        pinned = {_pinned(self._vault, key) for key in refused_sets}
        self._delete([mark_key(key) for key in gone if key not in refused_sets])
        gone = [key for fate in fates for key in fate.delete if key not in pinned]
        by_key = {revision.item.key: revision for revision in found}
        for revision in (by_key[key] for key in gone):
            self._hold()
            retire(self._vault, revision.model, revision.item.version, revision.item.revision, revision.source)
        refused = self._delete(gone)
        # A mark without its manifest was left by a run that was killed here.
        there = {revision.item.key for revision in found} | {info.key for info in self._sets}
        left = [key for key in self._marks if key.startswith(("artifacts/", sets.SETS_PREFIX)) and key not in there]
        self._delete([mark_key(key) for key in (*gone, *left) if key not in refused])
        for fate in (*fates, *set_fates):
            stayed = [key for key in fate.delete if key in refused | refused_sets | pinned]
            fate.delete = [key for key in fate.delete if key not in stayed]
            fate.wait += stayed
        return refused | pinned

    def _sweep_packs(self, due: list[str]) -> set[str]:
        """Have the index forget packs, delete them, then take away their marks; return the keys that were refused."""
        left = sorted(self._marked_packs - self._packs.keys())
        gone = {*due, *left}
        if not gone:
            return set()
        census = Census(self._index, whole=self._whole - gone, condemned=self._marked_packs, suspects=self._suspects)
        lost = [census.lost_in(number, gone) for number in range(len(self._index.segments))]
        if any(rows.any() for rows in lost) or gone & self._index.packs.keys():
            self._hold()
            compact_index(
                self._vault,
                self._index,
                keep=lambda number: ~lost[number],
                first=census.homes_in,
                dropped=gone,
            )
            self._index = load_index(self._vault)
        refused = self._delete([pack_key(name) for name in due])
        self._delete([mark_key(pack_key(name)) for name in (*due, *left) if pack_key(name) not in refused])
        return refused

    def _rewrite(self, names: Sequence[str], kept: NDArray[np.bool_]) -> int:
        """Copy the frames of packs that what is kept needs into new ones, as they are; return the bytes written."""
        wanted: dict[str, list[Location]] = defaultdict(list)
        chosen = set(names)
        for number, segment in enumerate(self._census_index.segments):
            of = np.array([name in chosen for name in segment.packs], bool)[segment.pack_of]
            for row in np.flatnonzero(of & self._census.homes_of(kept, number)):
                location = segment.location(int(row))
                wanted[location.pack].append(location)
        rows: list[Location] = []
        packs: dict[str, PackRecord] = {}
        written = 0
        builder = PackBuilder()

        def close() -> None:
            nonlocal builder, written
            sealed = builder.seal(salt=secrets.token_hex(SALT_BYTES) if self._vault.encryption else "")
            self._hold()
            info = self._create_pack(pack_key(sealed.name), sealed.data)
            rows.extend(sealed.locations)
            packs[sealed.name] = PackRecord(len(sealed.data), info.crc32c)
            written += len(sealed.data)
            builder = PackBuilder()
            self._progress("write packs anew", written, None, "bytes")

        for name in names:
            data = self._whole_pack(name)
            for location in sorted(wanted[name], key=lambda location: location.offset):
                if len(builder) and (
                    builder.size + location.length > PACK_BYTES_TARGET or len(builder) >= PACK_CHUNKS_MAX
                ):
                    close()
                frame = data[location.offset : location.offset + location.length]
                builder.add(CodedChunk(location.id, location.raw_length, location.coder, bytes(frame), location.base))
        if len(builder):
            close()
        self._hold()
        append_index(self._vault, self._index, rows, packs, absent=self._marked_packs | chosen)
        return written

    def _create_pack(self, key: str, data: bytes) -> ObjectInfo:
        try:
            return self._vault.store.create(key, data)
        except Conflict:  # a run that was killed had written the same
            if self._vault.store.get(key) != data:
                raise
            return self._vault.store.head(key)

    def _whole_pack(self, name: str) -> memoryview:
        """Return a pack's bytes, proven by its name. Raises Corrupt."""
        data = self._vault.store.get(pack_key(name))
        if chunk_id(data).hex() != name:
            raise Corrupt(
                f"pack {name} in {self._vault.url} holds other bytes than its name says; it is not written anew",
                hint="restore it from the bucket's versions",
                next_command="understudy vault verify --deep",
            )
        return memoryview(data)

    def _condemn(self, fates: list[_Fate], set_fates: list[_Fate], packs: Iterable[str]) -> None:
        keys = [key for fate in (*set_fates, *fates) for key in fate.condemn]
        keys += [pack_key(name) for name in packs]
        for batch in _batches(keys):
            self._hold()
            with ThreadPool(_LANES, thread_name_prefix="condemn") as pool:
                for _ in pool.map(partial(mark, self._vault), batch):
                    pass

    def _delete(self, keys: Sequence[str]) -> set[str]:
        """Delete objects; return those that the store refused to."""
        refused: set[str] = set()
        for batch in _batches(keys):
            self._hold()
            with ThreadPool(_LANES, thread_name_prefix="delete") as pool:
                for key, words in zip(batch, pool.map(self._delete_one, batch), strict=True):
                    if words:
                        refused.add(key)
                        self._refuse(words)
        return refused

    def _delete_one(self, key: str) -> str:
        try:
            self._vault.store.delete(key)
        except (Denied, Conflict) as refusal:
            logger.warning("not deleted: %s", refusal.message)
            return refusal.message
        return ""

    # ------------------------------------------------------------------ what is said

    def _amount(self, names: Sequence[str] | set[str]) -> Amount:
        return Amount(packs=len(names), bytes=sum(self._packs[name].size for name in names))

    def _next_at(self, waiting: Iterable[str], fresh: Sequence[str], fates: Iterable[_Fate]) -> datetime | None:
        moments = [self._marks[pack_key(name)].modified for name in waiting]
        for fate in fates:
            moments += [self._marks[key].modified for key in fate.wait]
            moments += [self._now for _ in fate.condemn]
        moments += [self._now for _ in fresh]
        return min(moments) + self._rules.condemned_for if moments else None

    def _keeps_versions(self) -> bool | None:
        try:
            return self._vault.store.abilities.versions
        except Denied:
            return None

    def _left(self) -> tuple[str, ...]:
        counts = Counter(info.key.split("/")[1] for info in self._vault.listing("features/"))
        words = [f"features {view}: all {count} states" for view, count in sorted(counts.items()) if count > 1]
        if self._rules.cold_after is not None and not self._has_tiers():
            words.append("colder storage: this store has none, so vault.cold_after moves nothing")
        return (*self._left_of_indexes, *words)

    def _has_tiers(self) -> bool:
        try:
            return self._vault.store.abilities.tiers
        except Denied:
            return True  # it may not be asked; a move says what it can


def _names_of_tags(vault: Vault) -> dict[str, list[str]]:
    """Return the names that people gave to revisions, by the keys of their manifests. Raises Corrupt."""
    found: dict[str, list[str]] = defaultdict(list)
    try:
        for model, tags in all_tags(vault).items():
            for tag in tags:
                found[manifest_key(model, tag.version, tag.revision)].append(tag.name)
    except Corrupt as error:
        raise Corrupt(f"nothing is pruned: {error.message}", hint=error.hint) from error
    return found


def _pinned(vault: Vault, key: str) -> str:
    """Return the manifest's key of the model that a set pins. Raises Corrupt."""
    model = sets.set_of(key, vault.read_json(key)).model
    return manifest_key(model.name, model.version, model.revision)


def _kept(fate: _Fate, size: int = 0) -> Kept:
    stays = {key: why for key, why in fate.why.items() if why}
    return Kept(
        name=fate.name,
        kept=len(stays),
        why=counted(stays),
        condemned=_labels(fate.condemn),
        waiting=_labels(fate.wait),
        deleted=_labels(fate.delete),
        spared=_labels(fate.spare),
        bytes=size,
    )


def _labels(keys: Iterable[str]) -> tuple[str, ...]:
    """Return what people call revisions and sets, in their order: ``41``, ``41 revision 2``, ``set 7``."""
    found = []
    for key in keys:
        kind, _, *middle, stem = key.split("/")
        number = int(stem.removesuffix(".json"))
        label = f"set {number}" if f"{kind}/" == sets.SETS_PREFIX else middle[0]
        found.append((natural(label), number, label if number == 1 or not middle else f"{label} revision {number}"))
    return tuple(label for _, _, label in sorted(found))


def _moment(text: str | None) -> datetime | None:
    """Return the moment that a manifest says it was written at; None when it says none that can be read."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else None


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
