"""Objects in one SQLite file, every version kept: ``sqlite:///path/to/file?table=name`` (https://sqlite.org/lang.html)."""

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit

from understudy.errors import Conflict, Corrupt, InvalidConfig, NotFound, Unreachable, Unsupported
from understudy.objects.interface import Abilities, ObjectInfo
from understudy.objects.parts import exactly
from understudy.opening import query_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from understudy.settings import Access

_COLUMNS = "key, length(data), version, modified"


def open_store(url: str, access: Access, password: str | None) -> SqliteStore:
    """Open what a config's URL names; the entry point of this package."""
    del access, password
    return SqliteStore(urlsplit(url).path, query_of(url).get("table", "objects"))


class SqliteStore:
    """One table of objects."""

    ABILITIES: ClassVar[dict[str, str]] = {
        "create once": "in one transaction",
        "compare-and-set": "in one transaction",
        "versions": "all of them",
        "checksums in listings": "no",
        "colder storage": "no",
    }
    abilities = Abilities(versions=True, lists_crc32c=False)

    def __init__(self, path: str, table: str) -> None:
        """Use a table of a file; both are made when they are first used. Raises InvalidConfig."""
        if not re.fullmatch(r"\w+", table):
            raise InvalidConfig(f"{table!r} is no name of a table", hint="write letters and digits: ?table=models")
        self.url = f"sqlite://{path}?table={table}"
        self._path, self._table = path, table
        self._local = threading.local()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        newest = f"SELECT max(version) FROM {self._table} GROUP BY key"
        where = f"version IN ({newest}) AND data IS NOT NULL AND substr(key, 1, ?) = ?"
        with self._transaction() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM {self._table} WHERE {where}", (len(prefix), prefix))
            found = [_info(row) for row in rows]
        return iter(sorted(found, key=lambda info: info.key.encode()))

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore; every row has its version anyway."""
        return self.list(prefix)

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        with self._transaction() as database:
            return self._row(database, key)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        with self._transaction() as database:
            info = self._row(database, key, version)
            (data,) = database.execute(f"SELECT data FROM {self._table} WHERE version = ?", (info.token,)).fetchone()
            return bytes(data)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        part = self.get(key, version=version)[start : start + length]
        if len(part) != length:
            raise Corrupt(f"{key} in {self.url} ends before byte {start + length}")
        return part

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See ObjectStore."""
        with self._transaction() as database:
            try:
                stood: str | None = self._row(database, key).token
            except NotFound:
                stood = None
            if stood != expected:
                raise Conflict(f"{key} in {self.url} is not as expected", hint="read it again")
            return self._write(database, key, data)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        with self._transaction() as database:
            return self._write(database, key, data)

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore; SQLite takes a value whole, so its memory is that of the object."""
        return self.put(key, b"".join(exactly(parts, size, key)))

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore; the memory is that of the object here too."""
        return self.create(key, b"".join(exactly(parts, size, key)))

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with self._transaction() as database:
            try:
                self._row(database, key)
            except NotFound:
                return
            self._write(database, key, None)

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore. Raises Unsupported: a database file has one kind of storage."""
        raise Unsupported(f"{self.url} has no {tier} storage for {key}", hint="remove vault.cold_after")

    def now(self) -> datetime:
        """See ObjectStore; the clock of this machine, which is where the file is."""
        return datetime.now(UTC)

    def _row(self, database: sqlite3.Connection, key: str, version: str | None = None) -> ObjectInfo:
        which = "version = ?" if version is not None else "? IS NULL ORDER BY version DESC LIMIT 1"
        query = f"SELECT {_COLUMNS} FROM {self._table} WHERE key = ? AND {which}"
        row = database.execute(query, (key, version)).fetchone()
        if row is None or row[1] is None:
            raise NotFound(f"{key} is not in {self.url}")
        return _info(row)

    def _write(self, database: sqlite3.Connection, key: str, data: bytes | None) -> ObjectInfo:
        modified = self.now().isoformat()
        insert = f"INSERT INTO {self._table} (key, data, modified) VALUES (?, ?, ?)"
        version = database.execute(insert, (key, data, modified)).lastrowid
        return _info((key, len(data or b""), version, modified))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction at a time writes; the vendor's errors become ours here, and nowhere else."""
        try:
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise Unreachable(
                f"{self.url} does not answer: {error}", hint="is the folder there, and writable?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{self.url} is not what it was: {error}", hint="restore the file from a backup") from error

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection; SQLite's are not shared."""
        if not hasattr(self._local, "database"):
            self._local.database = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            self._local.database.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} "
                "(version INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, data BLOB, modified TEXT NOT NULL)"
            )
            self._local.database.execute(f"CREATE INDEX IF NOT EXISTS {self._table}_key ON {self._table} (key)")
        connection: sqlite3.Connection = self._local.database
        return connection


def _info(row: tuple[str, int, int, str]) -> ObjectInfo:
    key, size, version, modified = row
    return ObjectInfo(key, size, str(version), str(version), datetime.fromisoformat(modified))
