"""Features in Redis: ``redis://user@host:6379/0?prefix=features``; ``rediss://`` for TLS. Redis 6.0 or later.

An entity is a hash ``<prefix>:<token>:<entity>``, a field for each feature. A field's value is 25 bytes that sort as
newest-wins does (event time and created time in microseconds, 8 bytes each, big end first; 1 byte that is 1 on a
tombstone; 8 bytes of the value's MD5), then the value's JSON text. ``<prefix>:generations`` maps a generation to its
token, which is made anew for each, ``<prefix>:tokens`` holds those whose keys may still be there, and
``<prefix>:pointer`` is the pointer. Keys never expire.

What it needs of the server: one primary (not Redis Cluster), a maxmemory-policy that does not evict these keys, and
room for two generations beside each other. Redis replicates asynchronously, so its own failover may lose what it
acknowledged a moment before, pointer and cells alike. https://redis.io/docs/latest/commands/
"""

from __future__ import annotations

import re
import secrets
import ssl
import struct
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidConfig,
    NotFound,
    Throttled,
    UnderstudyError,
    Unreachable,
    Unsupported,
)
from understudy.features.interface import Cell, Key, Pointer, version_of
from understudy.objects.attempts import persist
from understudy.report import Progress, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Result = TypeVar("Result")

BATCH_CELLS = 500
#: A script holds up everyone else on the server, so it gets little at a time.
BATCH_BYTES_MAX = 1 << 20
_LANES = 4
_SCAN_KEYS = 500
_SCANS_MAX = 3
_CONNECT_SECONDS = 2.0
_CALL_SECONDS = 5.0
_EXAMPLE = "write redis://host:6379/0?prefix=features, or rediss:// for TLS"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")

#: Event and created time, whether it is a tombstone, the first half of the value's MD5.
_VERSION = struct.Struct(">QQBQ")

# KEYS: generations, then a cell's hash each. ARGV: generation, token, then a cell's feature and content each.
# Answers how many were newer, or -1 when that generation has another token or none. Versions are compared byte by byte,
# because Lua compares strings by the collation of the server's locale.
_WRITE_NEWER = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return -1 end
local written = 0
for place = 2, #KEYS do
  local feature, content = ARGV[place * 2 - 1], ARGV[place * 2]
  local held = redis.call('HGET', KEYS[place], feature)
  local newer = not held
  if held then
    for digit = 1, 25 do
      local old, new = string.byte(held, digit) or -1, string.byte(content, digit)
      if old ~= new then
        newer = old < new
        break
      end
    end
  end
  if newer then
    redis.call('HSET', KEYS[place], feature, content)
    written = written + 1
  end
end
return written
"""

# KEYS: generations, tokens. ARGV: generation, token. Answers 0 when the generation is there under another token.
_CREATE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then return held == ARGV[2] and 1 or 0 end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""

# KEYS: pointer. ARGV: the new text, the expected text (empty: none). Answers 1 when the pointer is the new text now.
_MOVE = """
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then return 1 end
if (held or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Which keys of which server, and how to reach it.

    Attributes:
        host: name or address of the primary.
        prefix: what all keys begin with.
        port: usually 6379.
        database: its number.
        user: of an access control list; None is the server's default user.
        password: None where none is asked for.
        tls: whether the connection is encrypted, and the server's certificate checked.
        ca: a file with the certificates that are trusted, None for the system's.
    """

    host: str
    prefix: str
    port: int = 6379
    database: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None

    @classmethod
    def from_url(cls, url: str, *, password: str | None = None) -> RedisConfig:
        """Read ``redis://user@host:port/database?prefix=features&ca=/file``. Raises InvalidConfig."""
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
            database = int(parts.path.strip("/") or 0)
            given = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError as error:
            message = f"{_without_password(url)} is no address of Redis: {error}"
            raise InvalidConfig(message, hint=_EXAMPLE) from None
        prefix, ca = given.pop("prefix", ""), given.pop("ca", None)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or not _PREFIX.fullmatch(prefix) or given:
            wrong = f"knows no option {', '.join(given)}" if given else "names no prefix of letters, digits and _.:-"
            if not parts.hostname:
                wrong = "names no host"
            raise InvalidConfig(f"{_without_password(url)} {wrong}", hint=_EXAMPLE)
        return cls(
            host=parts.hostname,
            prefix=prefix,
            port=port,
            database=database,
            user=unquote(parts.username) if parts.username else None,
            password=password,
            tls=parts.scheme == "rediss",
            ca=ca,
        )


class RedisStore:
    """An OnlineStore over one primary of Redis or what speaks its protocol (Valkey, ElastiCache, Memorystore)."""

    vendor = "redis"

    ABILITIES: ClassVar[dict[str, str]] = {
        "newest wins": "one script a batch",
        "pointer": "one script",
        "bulk": "scripts of 500 cells into a fresh generation",
        "limits": "one primary, not Redis Cluster; room for two generations; a policy that evicts nothing",
    }

    def __init__(self, url: str, *, password: str | None = None) -> None:
        """Take the keys that a URL names, and connect to nothing yet. Raises InvalidConfig."""
        self.config = config = RedisConfig.from_url(url, password=password)
        self.name = config.prefix
        self._where = f"{config.host}:{config.port}/{config.database}"
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": config.ca} if config.tls else {}
        self._client: Any = redis.Redis(
            host=config.host,
            port=config.port,
            db=config.database,
            username=config.user,
            password=config.password,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_CALL_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),  # understudy.objects.attempts tries again, and knows for how long
            protocol=2,
            **tls,
        )
        self._pointer_key = f"{self.name}:pointer"
        self._generations_key = f"{self.name}:generations"
        self._tokens_key = f"{self.name}:tokens"
        self._write_script = self._client.register_script(_WRITE_NEWER)
        self._create_script = self._client.register_script(_CREATE)
        self._move_script = self._client.register_script(_MOVE)
        self._tokens: dict[int, bytes] = {}

    def generations(self) -> list[int]:
        """Return the numbers of all generations."""
        return sorted(int(each) for each in self._call("list", partial(self._client.hkeys, self._generations_key)))

    def create_generation(self, generation: int) -> None:
        """Give a generation a token, under which there is no key yet. Raises Unsupported where keys may be evicted."""
        self._check_server()
        self._sweep()
        token = secrets.token_hex(8)
        call = partial(
            self._create_script, keys=[self._generations_key, self._tokens_key], args=[str(generation), token]
        )
        if not self._call("make a generation", call):
            message = f"{self.name} at {self._where} has a generation {generation} already"
            raise Conflict(message, hint="another rebuild runs; let it finish")

    def drop_generation(self, generation: int) -> None:
        """Take its token away, at once, then remove its keys. What a killed one left is removed by the next."""
        self._call("drop a generation", partial(self._client.hdel, self._generations_key, str(generation)))
        self._sweep()

    def fill(self, generation: int, cells: Iterable[Cell], *, progress: Progress = quiet) -> int:
        """Write cells, 500 a script, four scripts at a time.

        They too are written only when newer: a batch that was sent again may reach the server a second time long after.
        """
        token = self._token(generation)
        filled = 0
        with ThreadPool(_LANES) as pool:
            jobs = (partial(self._fill_batch, generation, token, batch) for batch in _batches(cells))
            for count in each(pool, jobs, ahead=_LANES * 2):
                filled += count
                progress(self.name, filled, None, "cells")
        return filled

    def write_newer(self, generation: int, cells: Sequence[Cell]) -> int:
        """Write each cell where it is newer, 500 a script, each script atomic."""
        return self._of_generation(
            generation,
            lambda token: sum(self._write_batch(generation, token, batch) for batch in _batches(cells)),
        )

    def scan(self, generation: int) -> Iterator[Cell]:
        """Yield every cell by SCAN, which may repeat some while the server resizes its table."""
        token = self._token(generation)
        stem = len(self._key(token, ""))
        for keys in self._pages(token):
            found = self._read(generation, token, [("HGETALL", key) for key in keys])
            for key, fields in zip(keys, found, strict=True):
                entity = _text(key[stem:])
                yield from (_to_cell(entity, feature, content) for feature, content in fields.items())
        self._check_token(generation, token, self._token(generation))  # else the rest may be gone

    def read(self, generation: int, entity: str) -> dict[str, Cell]:
        """Return an entity's cells by one HGETALL."""

        def get(token: bytes) -> dict[str, Cell]:
            (fields,) = self._read(generation, token, [("HGETALL", self._key(token, entity))])
            cells = (_to_cell(entity, feature, content) for feature, content in fields.items())
            return {cell.feature: cell for cell in cells}

        return self._of_generation(generation, get)

    def read_keys(self, generation: int, keys: Sequence[Key]) -> dict[Key, Cell]:
        """Return the cells of these keys by an HMGET for each entity, 500 keys a round trip."""

        def get(token: bytes) -> dict[Key, Cell]:
            found: dict[Key, Cell] = {}
            for start in range(0, max(len(keys), 1), BATCH_CELLS):
                wanted: dict[str, list[str]] = {}
                for entity, feature in keys[start : start + BATCH_CELLS]:
                    wanted.setdefault(entity, []).append(feature)
                commands = [
                    ("HMGET", self._key(token, entity), *map(_bytes, features)) for entity, features in wanted.items()
                ]
                answers = self._read(generation, token, commands)
                for (entity, features), contents in zip(wanted.items(), answers, strict=True):
                    for feature, content in zip(features, contents, strict=True):
                        if content is not None:
                            found[entity, feature] = _to_cell(entity, _bytes(feature), content)
            return found

        return self._of_generation(generation, get)

    def pointer(self) -> Pointer | None:
        """Return what is live."""
        text = self._call("read the pointer", partial(self._client.get, self._pointer_key))
        return Pointer.from_text(_text(text)) if text is not None else None

    def move_pointer(self, pointer: Pointer, *, expected: Pointer | None) -> None:
        """Compare-and-set by a script on the pointer's text."""
        texts = [pointer.to_text(), expected.to_text() if expected else ""]
        if not self._call("move the pointer", partial(self._move_script, keys=[self._pointer_key], args=texts)):
            message = f"the pointer of {self.name} was moved by another run"
            raise Conflict(message, hint="run again: it starts from what is live now")

    # ------------------------------------------------------------------ private

    def _key(self, token: bytes, entity: str) -> bytes:
        return b"%b:%b:%b" % (self.name.encode(), token, _bytes(entity))

    def _token(self, generation: int) -> bytes:
        """Return the token that a generation has now. Raises NotFound."""
        token: bytes | None = self._call(
            "look a generation up", partial(self._client.hget, self._generations_key, str(generation))
        )
        if token is None:
            self._tokens.pop(generation, None)
            message = f"{self.name} at {self._where} has no generation {generation}"
            raise NotFound(message, hint="rebuild the features")
        self._tokens[generation] = token
        return token

    def _of_generation(self, generation: int, call: Callable[[bytes], Result]) -> Result:
        """Call with the token known from before, and once more when the generation has another now."""
        if (known := self._tokens.get(generation)) is not None:
            try:
                return call(known)
            except NotFound:
                pass  # dropped, or dropped and made again
        return call(self._token(generation))

    def _check_token(self, generation: int, token: bytes, found: bytes | None) -> None:
        if found != token:
            message = f"generation {generation} of {self.name} at {self._where} was dropped meanwhile"
            raise NotFound(message, hint="rebuild the features")

    def _fill_batch(self, generation: int, token: bytes, cells: Sequence[Cell]) -> int:
        self._write_batch(generation, token, cells)
        return len(cells)

    def _write_batch(self, generation: int, token: bytes, cells: Sequence[Cell]) -> int:
        keys: list[bytes | str] = [self._generations_key]
        arguments: list[bytes | str] = [str(generation), token]
        for cell in cells:
            keys.append(self._key(token, cell.entity))
            arguments += (_bytes(cell.feature), _to_content(cell))
        written: int = self._call("write cells", partial(self._write_script, keys=keys, args=arguments))
        if written < 0:
            self._check_token(generation, token, None)
        return written

    def _read(self, generation: int, token: bytes, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run reads in one round trip. The generation is looked at last: while it is there, its keys were whole."""
        *answers, found = self._pipeline("read", [*commands, ("HGET", self._generations_key, str(generation))])
        self._check_token(generation, token, found)
        return answers

    def _pages(self, token: bytes) -> Iterator[list[bytes]]:
        """Yield the keys of a token page by page, all that are there from beginning to end at least once.

        A cursor means nothing to another server, so the scan begins anew when one took over meanwhile.
        """
        server: str | None = None
        cursor = scans = 0
        scan: tuple[Any, ...] = ("MATCH", self._key(token, "*"), "COUNT", _SCAN_KEYS)
        while True:
            info, (following, keys) = self._pipeline("scan", [("INFO", "server"), ("SCAN", cursor, *scan)])
            if info["run_id"] != server:
                scans += 1
                if scans > _SCANS_MAX:
                    message = f"another server answered at {self._where} {_SCANS_MAX} times during a scan"
                    raise Unreachable(message, hint="name the primary's own address, and try again")
                if cursor:
                    server, cursor = info["run_id"], 0
                    continue
                server = info["run_id"]
            if keys:
                yield keys
            cursor = following
            if not cursor:
                return

    def _sweep(self) -> None:
        """Remove the keys of all tokens that no generation has any more."""
        # In this order: a token that is made meanwhile is not among the first.
        tokens, used = self._pipeline("list", [("SMEMBERS", self._tokens_key), ("HVALS", self._generations_key)])
        for token in set(tokens) - set(used):
            for keys in self._pages(token):
                self._call("remove cells", partial(self._client.unlink, *keys))
            self._call("remove cells", partial(self._client.srem, self._tokens_key, token))

    def _check_server(self) -> None:
        memory, cluster = self._pipeline("describe itself", [("INFO", "memory"), ("INFO", "cluster")])
        policy = str(memory.get("maxmemory_policy", ""))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            message = f"Redis at {self._where} has the maxmemory-policy {policy}: when full, it would drop features"
            raise Unsupported(message, hint="set it to noeviction, or to a volatile one: features never expire")
        if cluster.get("cluster_enabled"):
            raise _cluster(self._where)

    def _pipeline(self, what: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        def run() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                # Raised here, because redis-py would put the command with its keys and values into the error.
                answers: list[Any] = pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

        return self._call(what, run)

    def _call(self, what: str, call: Callable[[], Result]) -> Result:
        def translated() -> Result:
            try:
                return call()
            except redis_errors.RedisError as error:
                raise _translate(what, self._where, error) from error

        return persist(translated)


#: What stands in an answer -> the kind of error it is and what to do. Inside a script the server's own code is part of
#: the text, so the text is looked at and not the class alone; the first that matches counts.
_ANSWERS: tuple[tuple[str, type[UnderstudyError], str], ...] = (
    (r"\bOOM\b|maxmemory", Throttled, "raise maxmemory: a rebuild needs room for two generations beside each other"),
    (r"\bREADONLY\b|read[ -]only replica", Unreachable, "name the primary's address: this one is a replica"),
    (r"\bMASTERDOWN\b|Link with MASTER is down", Unreachable, "name the primary's address, or wait for its return"),
    (r"\bLOADING\b|loading the dataset", Unreachable, "wait until it has loaded its data"),
    (
        r"\bNOREPLICAS\b|\bMISCONF\b",
        Unreachable,
        "see to the server's replicas and disk; it takes no writes until then",
    ),
    (r"\bBUSY\b|busy running a script|max number of clients", Throttled, "try again later"),
    (r"\bNOAUTH\b|\bWRONGPASS\b|\bNOPERM\b|no permissions|invalid password|can't run this command", Denied, ""),
    (r"\bWRONGTYPE\b|wrong kind of value", Corrupt, "something else writes under this prefix; choose another one"),
)
#: What Redis says around an error of a command in a script, before 7.0 and since.
_SCRIPT = re.compile(r"^(Error|ERR Error) running script .*@user_script: ?\d+: (ERR |-)?|\.? script: \w+, on @.*$")
_DENIED = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.NoPermissionError,
)
_CLUSTER = (
    redis_errors.AskError,
    redis_errors.ClusterDownError,
    redis_errors.ClusterCrossSlotError,
    redis_errors.TryAgainError,
)
_DENIED_HINT = "check user and password of the pair; it needs +@read +@write +@scripting +info +scan on its prefix"


def _translate(what: str, where: str, error: redis_errors.RedisError) -> UnderstudyError:
    text = _SCRIPT.sub("", " ".join(str(error).split())).rstrip(".")
    words = f"Redis at {where} did not {what}: {text}"
    if isinstance(error, _DENIED):
        return Denied(words, hint=_DENIED_HINT)
    for pattern, kind, hint in _ANSWERS:
        if re.search(pattern, text):
            return kind(words, hint=hint or _DENIED_HINT)
    if isinstance(error, _CLUSTER) or re.search(r"\b(MOVED|ASK|CROSSSLOT|CLUSTERDOWN)\b", text):
        return _cluster(where)
    if isinstance(error.__cause__ or error.__context__, ssl.SSLError):
        return Unreachable(
            words, hint="write rediss:// where the server speaks TLS, and ?ca=/file for a CA of your own"
        )
    if isinstance(error, redis_errors.ResponseError | redis_errors.DataError):
        return Unsupported(words, hint="Redis 6.0 or later is needed, and a value has at most 512 MB")
    return Unreachable(words, hint="check the address and the network")


def _cluster(where: str) -> Unsupported:
    message = f"{where} is a node of a Redis Cluster, over whose nodes no change is atomic"
    return Unsupported(message, hint="use one primary with replicas (cluster mode disabled)")


def _without_password(url: str) -> str:
    return re.sub(r"(?<=//)([^/@:]*):[^/@]*@", r"\1@", url)


def _batches(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Yield cells in batches, bounded by count and by bytes."""
    batch: list[Cell] = []
    size = 0
    for cell in cells:
        batch.append(cell)
        size += len(cell.value or "")
        if len(batch) >= BATCH_CELLS or size >= BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _to_content(cell: Cell) -> bytes:
    event, created, tie = version_of(cell).split(" ")
    return _VERSION.pack(int(event), int(created), int(tie[0]), int(tie[1:], 16)) + _bytes(cell.value or "")


def _to_cell(entity: str, feature: bytes, content: bytes) -> Cell:
    try:
        event, created, deleted, _ = _VERSION.unpack_from(content)
    except struct.error as error:
        message = f"what {entity}/{_text(feature)} holds is no version of a feature"
        raise Corrupt(message, hint="something else writes under this prefix") from error
    value = None if deleted else _text(content[_VERSION.size :])
    return Cell(entity, _text(feature), value, event, created)
