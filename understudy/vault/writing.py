"""Puts chunks into a vault: what is known is not sent, packs go up in parallel, the index follows."""

from __future__ import annotations

import logging
import secrets
import threading
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from understudy.errors import Conflict, Corrupt, NotFound, StoppedPartWay
from understudy.report import human_seconds
from understudy.threads import ThreadPool
from understudy.transfer.link import LinkMeter
from understudy.vault.chunks import CHAIN_MAX
from understudy.vault.condemned import WRITER_LIFE_MAX, condemned
from understudy.vault.index import PackRecord, appended, load_index, segment_of
from understudy.vault.packs import (
    PACK_BYTES_TARGET,
    PACK_CHUNKS_MAX,
    PACKS_PREFIX,
    PackBuilder,
    pack_key,
    pack_name,
    read_trailer,
)
from understudy.vault.verified import known_damage

if TYPE_CHECKING:
    from types import TracebackType

    from understudy.vault.chunks import CodedChunk, Location
    from understudy.vault.index import ChunkIndex
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

#: Packs in upload at once; on a link whose single connections are slow some more, within the memory bound.
_UPLOADS_USUAL, _UPLOADS_MAX = 3, 5
_ADOPTERS = 8
#: Of an encrypted vault's packs: see ``PackBuilder.seal``.
SALT_BYTES = 16
#: Other names tried for a pack whose own name is taken by a damaged object.
_SEAL_TRIES = 3


class ChunkWriter:
    """One run's way into a vault. ``knows`` is for any thread; ``add`` and ``commit`` for one thread at a time.

    Opening it lists the packs, loads the index, and adopts packs that no index names: what a killed run had sent.
    A chunk whose pack is gone or condemned, has another length or CRC32C than was recorded, or was found damaged by a
    verification, counts as unknown and is sent again; so does one that is decoded from such a chunk.
    """

    def __init__(self, vault: Vault, *, pack_bytes: int = PACK_BYTES_TARGET) -> None:
        """Open the vault for writing; reads its listing, its index and the trailers of adopted packs."""
        self._vault = vault
        self._pack_bytes = pack_bytes
        self.bytes_sent = 0
        self.packs_sent = 0
        self.packs_adopted = 0
        # In this order: what is condemned from now on outlives this writer, and a mark is removed after its pack.
        self._opened = vault.store.now()
        shunned = condemned(vault) | known_damage(vault).damaged_packs
        self._index = load_index(vault)
        listed = {name: info for info in vault.store.list(PACKS_PREFIX) if (name := pack_name(info.key))}
        recorded = self._index.packs
        self._usable = {
            name
            for name, record in recorded.items()
            if name in listed and name not in shunned and record.fits(listed[name])
        }
        self._absent = frozenset(recorded.keys() - self._usable)
        self._rows: list[Location] = []
        self._packs: dict[str, PackRecord] = {}
        self._seen: set[bytes] = set()
        orphans = sorted(set(listed) - set(recorded) - shunned)
        if orphans:
            with ThreadPool(_ADOPTERS, thread_name_prefix="adopt") as pool:
                trailers = {name: pool.submit(read_trailer, vault.store, listed[name]) for name in orphans}
            for name, future in trailers.items():
                self._adopt(name, PackRecord(listed[name].size, listed[name].crc32c), future)
        # Looked up before they are committed: what is decoded from a lost chunk counts no more than elsewhere.
        adopted = [segment_of(self._rows)] if self._rows else []
        self._known = replace(self._index, segments=[*adopted, *self._index.segments])
        self._usable |= self._packs.keys()
        self._builder = PackBuilder()
        self._uploads = ThreadPool(_UPLOADS_MAX, thread_name_prefix="upload")
        self._places = threading.Semaphore(_UPLOADS_USUAL)
        self._uploads_at_once = _UPLOADS_USUAL
        self.link = LinkMeter()
        self._sending: set[Future[tuple[tuple[Location, ...], PackRecord]]] = set()

    @property
    def vault(self) -> Vault:
        """The vault that is written into."""
        return self._vault

    @property
    def index(self) -> ChunkIndex:
        """The vault's index as of the last commit, and adopted packs; what was sent since is not in it."""
        return self._known

    def __enter__(self) -> Self:
        """Return itself; ``close`` follows."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the uploads."""
        self.close()

    def close(self) -> None:
        """Wait for what is in flight and stop; what was not committed is adopted by the next run."""
        self._uploads.shutdown(wait=True, cancel_futures=True)

    def knows(self, wanted: bytes) -> bool:
        """Return whether the vault, or this run, has a chunk."""
        return wanted in self._seen or self.find(wanted) is not None

    def find(self, wanted: bytes) -> Location | None:
        """Return where ``index`` says that a chunk lies, if all that it is decoded from lies whole too; else None."""
        return self._find(wanted, CHAIN_MAX)

    def add(self, chunk: CodedChunk) -> bool:
        """Send a chunk, unless it was sent meanwhile; True when it is new. Blocks while enough packs are in flight."""
        if self.knows(chunk.id):
            return False
        self._seen.add(chunk.id)
        full = self._builder.size + len(chunk.frame) > self._pack_bytes or len(self._builder) >= PACK_CHUNKS_MAX
        if full and len(self._builder):
            self._send()
        self._builder.add(chunk)
        return True

    def commit(self) -> None:
        """Return when every chunk that was added lies in a pack and in the index: then a manifest may name them.

        Raises:
            StoppedPartWay: this writer is older than a prune waits for; no manifest may be written after it.
        """
        if len(self._builder):
            self._send()
        wait(self._sending)
        self._collect()
        self._check_life()
        if not self._rows:
            return
        self._index, sent = appended(self._vault, self._index, self._rows, self._packs, absent=self._absent)
        self.bytes_sent += sent
        self._usable |= self._packs.keys()
        self._known = self._index
        self._rows, self._packs, self._seen = [], {}, set()

    def _find(self, wanted: bytes, chain: int) -> Location | None:
        for place in self._known.find_all(wanted):
            if place.pack in self._usable and (
                place.base is None or (chain > 0 and self._find(place.base, chain - 1) is not None)
            ):
                return place
        return None

    def _check_life(self) -> None:
        """Give up when packs that this run counts on may have been condemned and deleted since it began."""
        life = self._vault.store.now() - self._opened
        if life > WRITER_LIFE_MAX:
            raise StoppedPartWay(
                f"this run writes into {self._vault.url} since {human_seconds(life.total_seconds())}, longer than the "
                f"{human_seconds(WRITER_LIFE_MAX.total_seconds())} that a prune waits for it",
                hint="run it again: what was sent is found, and only the rest is sent",
            )

    def widen(self, uploads: int) -> None:
        """Let up to so many packs be in upload at once; it never becomes fewer. For the thread that adds."""
        while self._uploads_at_once < min(uploads, _UPLOADS_MAX):
            self._uploads_at_once += 1
            self._places.release()

    def _adopt(self, name: str, record: PackRecord, trailer: Future[tuple[Location, ...]]) -> None:
        try:
            locations = trailer.result()
        except (Corrupt, NotFound) as error:
            logger.warning("pack %s is in no index and is left alone: %s", name, error)
            return
        self._rows += locations
        self._packs[name] = record
        self.packs_adopted += 1

    def _send(self) -> None:
        self._places.acquire()
        try:
            self._collect()
            builder, self._builder = self._builder, PackBuilder()
            future = self._uploads.submit(self._upload, builder)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        self._sending.add(future)

    def _collect(self) -> None:
        done = {future for future in self._sending if future.done()}
        self._sending -= done
        for future in done:
            locations, record = future.result()
            self._rows += locations
            self._packs[locations[0].pack] = record
            self.bytes_sent += record.length
            self.packs_sent += 1

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self._vault.store.get(key) == data
        except Corrupt:  # not even what this vault's keys encrypted
            return False

    def _upload(self, builder: PackBuilder) -> tuple[tuple[Location, ...], PackRecord]:
        for again in range(_SEAL_TRIES):
            sealed = builder.seal(again=again, salt=secrets.token_hex(SALT_BYTES) if self._vault.encryption else "")
            key = pack_key(sealed.name)
            try:
                with self.link.passing(len(sealed.data)):
                    info = self._vault.store.create(key, sealed.data)
            except Conflict:
                if not self._holds(key, sealed.data):
                    logger.warning(
                        "pack %s in %s is damaged; its chunks go under another name", sealed.name, self._vault.url
                    )
                    continue
                info = self._vault.store.head(key)
            return sealed.locations, PackRecord(len(sealed.data), info.crc32c)
        message = f"damaged objects stand where new packs should be created in {self._vault.url}"
        raise Conflict(message, hint="run: understudy vault verify --deep")
