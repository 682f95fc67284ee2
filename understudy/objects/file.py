"""An object store in a folder: ``file:///path``. For a disk that is mounted, for tests, and for restoring by hand.

An object is a plain file of the same name below the folder. What is half written has a name in ``.understudy`` there,
which no listing shows. Whole files appear by link (create) or rename (put, replace), both atomic in POSIX.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from understudy.errors import Conflict, Corrupt, Denied, NotFound, Unreachable, Unsupported
from understudy.objects.interface import Abilities, ObjectInfo
from understudy.objects.parts import exactly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from understudy.errors import UnderstudyError

_MAKE_TRIES = 5
#: What was left half written is removed by the next one after so long.
_PARTIAL_KEPT_SECONDS = 7 * 86400
_PARTIAL = "partial-"
_NANOSECONDS = 1_000_000_000
#: So much of a long file is sent on its way to the disk at once, while the rest is still to come.
_FLUSHED_BYTES = 32 << 20
#: Bytes that the kernel is given at once. Longer writes fill the page cache with pages of megabytes, and those a
#: virtual machine that gives its free memory back must first get from its host, which costs more than the copy itself.
_WRITTEN_BYTES = 256 << 10


class FileStore:
    """Objects as files below a folder, which must exist. Keeps no versions.

    Several processes may use one folder, if its file system has POSIX locks and hard links (local disks, NFSv4).

    A symbolic link is followed while it stays in the folder. One that leads out of it, or nowhere, and what is neither
    file nor folder (a device, a pipe), is refused by name: never followed, never opened, never silently left out.

    Args:
        folder: absolute path of the folder; a store's prefix is simply a deeper folder.
    """

    #: Where the lock and what is half written lie.
    own_folder: ClassVar[str] = ".understudy"

    ABILITIES: ClassVar[dict[str, str]] = {
        "create once": "a hard link",
        "compare-and-set": "under a lock of the folder",
        "versions": "no",
        "checksums in listings": "no",
        "colder storage": "no",
    }

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Name the folder; it is looked for at each call."""
        self._root = Path(folder).absolute()
        self.url = f"file://{self._root}"
        self.abilities = Abilities(versions=False, lists_crc32c=False)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with prefix, sorted."""
        above = prefix.rpartition("/")[0]
        try:
            self._check_root()
            self._inside(self._root / above, above)
            found = sorted(self._walk(self._root / above, above + "/" if above else "", prefix), key=_in_bytes)
        except OSError as error:
            raise self._translate(error, prefix) from error
        return iter(found)

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Do the same as ``list``: there are no versions here."""
        return self.list(prefix)

    def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound."""
        try:
            status = self._path(key).stat()
        except OSError as error:
            raise self._translate(error, key) from error
        if stat.S_ISDIR(status.st_mode):
            raise self._missing(key)
        if not stat.S_ISREG(status.st_mode):
            raise self._special(key)
        return _info(key, status)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """Return all bytes. Raises NotFound, Corrupt."""
        return self._read(key, 0, None, version)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound, Corrupt."""
        return self._read(key, start, length, version)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write only if nothing is there. Raises Conflict."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Write only if the key's token is ``expected``. Raises Conflict."""
        return self._publish(key, (data,), len(data), expected=expected, conditional=True)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write without a condition."""
        return self._publish(key, (data,), len(data))

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts; raises Corrupt and writes nothing when they do not add up to ``size``."""
        return self._publish(key, parts, size)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts, only if nothing is there. Raises Conflict, Corrupt."""
        return self._publish(key, parts, size, expected=None, conditional=True)

    @contextlib.contextmanager
    def partial(self, name: str) -> Iterator[PartialFile | None]:
        """Open what an earlier run left half written under a name, or begin it; None while another process has it.

        It is kept when the block ends in an error, so that the next run finds it; no listing shows it.

        Args:
            name: digits and letters that stand for the whole content, such as its SHA-256.
        """
        path = self._root / self.own_folder / (_PARTIAL + name)
        try:
            self._check_root()
            path.parent.mkdir(exist_ok=True)
            self._sweep(path)
            descriptor = _open_alone(path)
        except OSError as error:
            raise self._translate(error, path.name) from error
        if descriptor is None:
            yield None
            return
        try:
            yield PartialFile(self, path, descriptor)
        except OSError as error:
            raise self._translate(error, path.name) from error
        finally:
            os.close(descriptor)

    def publish_partial(self, partial: Path, key: str) -> ObjectInfo:
        """Let a file that is whole appear under a key, as ``put`` does."""
        try:
            return self._appear(partial, key, expected=None, conditional=False)
        except OSError as error:
            raise self._translate(error, key) from error

    def _sweep(self, kept: Path) -> None:
        """Remove what was left half written long ago, unless it is this one, or somebody goes on with it."""
        for path in kept.parent.glob(f"{_PARTIAL}*"):
            with contextlib.suppress(FileNotFoundError):
                if path != kept and time.time() - path.stat().st_mtime > _PARTIAL_KEPT_SECONDS:
                    descriptor = _open_alone(path)
                    if descriptor is not None:
                        path.unlink()
                        os.close(descriptor)

    def delete(self, key: str) -> None:
        """Remove the object, and the folders that it leaves empty."""
        path = self._path(key)
        try:
            with self._lock():
                path.unlink(missing_ok=True)
                for folder in path.parents:
                    if folder == self._root:
                        break
                    folder.rmdir()
        except NotADirectoryError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EISDIR):
                raise self._translate(error, key) from error
            self._check_root()

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore. Raises Unsupported: a folder has one kind of storage."""
        raise Unsupported(f"{self.url} has no {tier} storage for {key}", hint="remove vault.cold_after")

    def now(self) -> datetime:
        """Return this machine's clock, which also stamps the files."""
        return datetime.now(UTC)

    def _path(self, key: str) -> Path:
        segments = key.split("/")
        if any(segment in ("", ".", "..") for segment in segments) or "\0" in key or segments[0] == self.own_folder:
            message = f"{key!r} cannot be a file's name below {self._root}"
            raise Unsupported(message, hint="use keys without empty parts, . and ..")
        path = self._root.joinpath(*segments)
        self._inside(path, key)
        return path

    def _inside(self, path: Path, key: str) -> None:
        """Refuse what a symbolic link leads out of the folder."""
        root, real = os.path.realpath(self._root), os.path.realpath(path)
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            message = f"a symbolic link leads {key!r} out of {self.url}"
            raise Unsupported(message, hint="put the file itself there, or name the folder where it lies in the config")

    def _special(self, key: str) -> Unsupported:
        message = f"{key!r} in {self.url} is neither a file nor a folder"
        return Unsupported(message, hint="devices, pipes and sockets cannot be kept: move it away")

    def _check_root(self) -> None:
        if not self._root.is_dir():
            message = f"the folder {self._root} does not exist"
            raise NotFound(message, hint="mount it or make it", next_command=f"mkdir -p {self._root}")
        self._inside(self._root / self.own_folder, self.own_folder)

    def _read(self, key: str, start: int, length: int | None, version: str | None) -> bytes:
        if version is not None:
            message = f"{self.url} keeps no versions"
            raise Unsupported(message, hint="read the object without a version")
        try:
            with open(self._path(key), "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise self._special(key)
                wanted = status.st_size if length is None else length
                file.seek(start)
                data = file.read(wanted)
        except IsADirectoryError:
            raise self._missing(key) from None
        except OSError as error:
            raise self._translate(error, key) from error
        if len(data) != wanted:
            message = f"{key} in {self.url} ends before byte {start + wanted}"
            raise Corrupt(message, hint="it is shorter than what refers to it says")
        return data

    def _publish(
        self, key: str, parts: Iterable[bytes], size: int, *, expected: str | None = None, conditional: bool = False
    ) -> ObjectInfo:
        self._path(key)
        temporary = self._root / self.own_folder / f"{os.getpid()}-{threading.get_ident()}-{secrets.token_hex(8)}"
        try:
            self._check_root()
            temporary.parent.mkdir(exist_ok=True)
            try:
                _write(temporary, key, parts, size)
                return self._appear(temporary, key, expected=expected, conditional=conditional)
            finally:
                temporary.unlink(missing_ok=True)
        except FileExistsError as error:
            message = f"{key} in {self.url} was there already"
            raise Conflict(message) from error
        except OSError as error:
            raise self._translate(error, key) from error

    def _appear(self, temporary: Path, key: str, *, expected: str | None, conditional: bool) -> ObjectInfo:
        """Move a whole file to where its key says."""
        path = self._path(key)
        with self._lock():
            if conditional:
                self._check_token(path, key, expected)
            # The lock makes this stamp grow with every write, so that it can be the token.
            stamp = time.time_ns()
            os.utime(temporary, ns=(stamp, stamp))
            self._move(temporary, path, only_if_absent=conditional and expected is None)
            status = path.stat()
        _sync_folder(path.parent)
        return _info(key, status)

    def _check_token(self, path: Path, key: str, expected: str | None) -> None:
        try:
            token = _info(key, path.stat()).token
        except (FileNotFoundError, NotADirectoryError):
            token = None
        if token != expected:
            what = "was there already" if expected is None else "was changed"
            raise Conflict(f"{key} in {self.url} {what}")

    def _move(self, temporary: Path, path: Path, *, only_if_absent: bool) -> None:
        for remaining in reversed(range(_MAKE_TRIES)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if only_if_absent:
                    os.link(temporary, path)
                else:
                    temporary.replace(path)
            except FileNotFoundError:  # a folder was emptied and removed by another process meanwhile
                if not remaining:
                    raise
            else:
                return

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder's lock against other threads and processes; the kernel lets go when the holder dies."""
        self._check_root()
        own = self._root / self.own_folder
        own.mkdir(exist_ok=True)
        descriptor = os.open(own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _walk(self, folder: Path, above: str, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects in a folder and below it, in no order; ``above`` is the folder's own part of their keys."""
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return  # deleted meanwhile, or nothing has this prefix
        for entry in entries:
            key = above + entry.name
            if key == self.own_folder or not (key.startswith(prefix) or prefix.startswith(key + "/")):
                continue
            if entry.is_symlink():
                self._check_link(folder, key)
            if entry.is_dir():
                yield from self._walk(folder / entry.name, key + "/", prefix)
            elif key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):
                        raise self._special(key)
                    yield _info(key, status)

    def _check_link(self, folder: Path, key: str) -> None:
        """Refuse a link out of the folder, to nowhere, or back to a folder that it lies in."""
        path = self._root / key
        self._inside(path, key)
        real = os.path.realpath(path)
        if not path.exists() or os.path.realpath(folder).startswith(real.rstrip("/") + "/") or path.samefile(folder):
            message = f"the symbolic link {key!r} in {self.url} leads nowhere, or back to where it is"
            raise Unsupported(message, hint="put the file itself there, or remove the link")

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"{key} is not in {self.url}")

    def _translate(self, error: OSError, key: str) -> UnderstudyError:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and self._root.is_dir():
            return self._missing(key)
        if error.errno == errno.ENOENT:
            return NotFound(f"the folder {self._root} does not exist", hint="mount it or make it")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return Denied(f"{key} in {self.url} is not allowed: {error.strerror}", hint="look at the folder's owner")
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOTEMPTY):
            return Unsupported(f"{key!r} cannot be a file's name in {self.url}: {error.strerror}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Unreachable(f"{self.url} is full", hint="make room and run again")
        return Unreachable(f"{self.url} does not answer: {error.strerror}", hint="look at the disk")


class PartialFile:
    """A file that is written from its beginning on, and that a later run goes on with. For one thread."""

    def __init__(self, store: FileStore, path: Path, descriptor: int) -> None:
        """Take a file that this process alone has open."""
        self._store, self._path, self._descriptor = store, path, descriptor
        self._place = self._flushed = 0

    @property
    def size(self) -> int:
        """Bytes that are there; nothing says that they are right."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``start``: fewer at the end."""
        return os.pread(self._descriptor, length, start)

    def keep(self, size: int) -> None:
        """Forget what lies behind the first ``size`` bytes; the next are written there."""
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        self._place = self._flushed = size

    def append(self, data: bytes) -> None:
        """Write the next bytes."""
        _append(self._descriptor, data)
        self._place += len(data)
        if self._place - self._flushed >= _FLUSHED_BYTES:
            # To say that pages are no longer needed starts their writing, and waits for nothing: what is left for
            # ``publish`` to wait for is the end of the file, not all of it.
            # Advice alone: a system that has no such call, or a file system that takes none, loses nothing.
            with contextlib.suppress(AttributeError, OSError):
                os.posix_fadvise(self._descriptor, self._flushed, self._place - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = self._place

    def publish(self, key: str) -> ObjectInfo:
        """Let it appear under a key, as ``put`` does: the caller has proven all of it."""
        os.fsync(self._descriptor)
        return self._store.publish_partial(self._path, key)


def _open_alone(path: Path) -> int | None:
    """Open a file, made if it is not there, that no other process writes; None when one does."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # it was published or removed between the two calls: that is not the file to write to
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(status.st_mtime_ns / _NANOSECONDS, UTC)
    return ObjectInfo(key, status.st_size, f"{status.st_mtime_ns:x}-{status.st_ino:x}", None, modified)


def _in_bytes(info: ObjectInfo) -> bytes:
    return os.fsencode(info.key)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe would otherwise hold the reader until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def _write(path: Path, key: str, parts: Iterable[bytes], size: int) -> None:
    with path.open("xb", buffering=0) as file:
        for part in exactly(parts, size, key):
            _append(file.fileno(), part)
        os.fsync(file.fileno())


def _append(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:_WRITTEN_BYTES]) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
