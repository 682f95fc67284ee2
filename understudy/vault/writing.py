"""Puts chunks into a vault: what is known is not sent, packs go up in parallel, the index follows."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Self

from understudy.errors import Conflict, Corrupt, NotFound
from understudy.threads import ThreadPool
from understudy.vault.index import LIVE_SEQUENCES_MAX, PackRecord, append_index, load_index
from understudy.vault.packs import (
    PACK_BYTES_TARGET,
    PACK_CHUNKS_MAX,
    PACKS_PREFIX,
    PackBuilder,
    pack_key,
    pack_name,
    read_trailer,
)

if TYPE_CHECKING:
    from types import TracebackType

    from understudy.vault.chunks import CodedChunk, Location
    from understudy.vault.index import ChunkIndex
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

_UPLOADS_MAX = 3
_ADOPTERS = 8
#: Other names tried for a pack whose own name is taken by a damaged object.
_SEAL_TRIES = 3


class ChunkWriter:
    """One run's way into a vault. ``knows`` is for any thread; ``add`` and ``commit`` for one thread at a time.

    Opening it lists the packs, loads the index, and adopts packs that no index names: what a killed run had sent.
    A chunk whose pack is gone, or has another length than was recorded, counts as unknown and is sent again.
    """

    def __init__(self, vault: Vault, *, pack_bytes: int = PACK_BYTES_TARGET) -> None:
        """Open the vault for writing; reads its listing, its index and the trailers of adopted packs."""
        self._vault = vault
        self._pack_bytes = pack_bytes
        self.bytes_sent = 0
        self.packs_sent = 0
        self.packs_adopted = 0
        self._commits = 0
        self._index = load_index(vault)
        listed = {name: info for info in vault.store.list(PACKS_PREFIX) if (name := pack_name(info.key))}
        recorded = self._index.packs
        self._usable = {
            name for name, record in recorded.items() if name in listed and listed[name].size == record.length
        }
        self._rows: list[Location] = []
        self._packs: dict[str, PackRecord] = {}
        self._seen: set[bytes] = set()
        orphans = sorted(set(listed) - set(recorded))
        if orphans:
            with ThreadPool(_ADOPTERS, thread_name_prefix="adopt") as pool:
                trailers = {name: pool.submit(read_trailer, vault.store, listed[name]) for name in orphans}
            for name, future in trailers.items():
                self._adopt(name, PackRecord(listed[name].size, listed[name].crc32c), future)
        self._builder = PackBuilder()
        self._uploads = ThreadPool(_UPLOADS_MAX, thread_name_prefix="upload")
        self._places = threading.BoundedSemaphore(_UPLOADS_MAX)
        self._sending: set[Future[tuple[tuple[Location, ...], PackRecord]]] = set()

    @property
    def vault(self) -> Vault:
        """The vault that is written into."""
        return self._vault

    @property
    def index(self) -> ChunkIndex:
        """The vault's index as it was loaded last: what this run has sent may not be in it."""
        return self._index

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
        return wanted in self._seen or self._index.find_in(wanted, self._usable.__contains__) is not None

    def add(self, chunk: CodedChunk) -> bool:
        """Send a chunk, unless it was sent meanwhile; True when it is new. Blocks while three packs are in flight."""
        if self.knows(chunk.id):
            return False
        self._seen.add(chunk.id)
        full = self._builder.size + len(chunk.frame) > self._pack_bytes or len(self._builder) >= PACK_CHUNKS_MAX
        if full and len(self._builder):
            self._send()
        self._builder.add(chunk)
        return True

    def commit(self) -> None:
        """Return when every chunk that was added lies in a pack and in the index: then a manifest may name them."""
        if len(self._builder):
            self._send()
        wait(self._sending)
        self._collect()
        if not self._rows:
            return
        if len(self._index.live) + self._commits >= LIVE_SEQUENCES_MAX:
            self._index, self._commits = load_index(self._vault), 0
        _, sent = append_index(self._vault, self._index, self._rows, self._packs)
        self._commits += 1
        self.bytes_sent += sent
        self._rows, self._packs = [], {}

    def _adopt(self, name: str, record: PackRecord, trailer: Future[tuple[Location, ...]]) -> None:
        try:
            locations = trailer.result()
        except (Corrupt, NotFound) as error:
            logger.warning("pack %s is in no index and is left alone: %s", name, error)
            return
        self._rows += locations
        self._packs[name] = record
        self._seen.update(location.id for location in locations)
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

    def _upload(self, builder: PackBuilder) -> tuple[tuple[Location, ...], PackRecord]:
        for again in range(_SEAL_TRIES):
            sealed = builder.seal(again=again)
            key = pack_key(sealed.name)
            try:
                info = self._vault.store.create(key, sealed.data)
            except Conflict:
                if self._vault.store.get(key) != sealed.data:
                    logger.warning(
                        "pack %s in %s is damaged; its chunks go under another name", sealed.name, self._vault.url
                    )
                    continue
                info = self._vault.store.head(key)
            return sealed.locations, PackRecord(len(sealed.data), info.crc32c)
        message = f"damaged objects stand where new packs should be created in {self._vault.url}"
        raise Conflict(message, hint="run: understudy vault verify --deep")
