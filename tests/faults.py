"""An adapter that fails on cue, over any other adapter: what a kill test needs.

``FaultyStore(store).fail("create", nth=3)`` and the third call of ``create`` raises Unreachable before anything was
written; ``after=True`` writes and loses the answer. ``kill`` ends this process there, as a power cut would. ``Faulty``
does the same over any adapter: an online store, a vector store, a register.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from understudy.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from understudy.objects.interface import ObjectInfo, ObjectStore

Action = Literal["fail", "kill", "slow", "cut", "run"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at which calls."""

    method: str
    action: Action
    nth: int | None
    after: bool
    key: str
    error: Callable[[], Exception]
    seconds: float
    run: Callable[[], object] | None = None


def _lost() -> Exception:
    return Unreachable("the answer was lost (a fault of this test)")


class Faulty:
    """Any adapter, with every call passed on, except those told to fail.

    ``method`` is the interface's name or ``*`` for every one of them; ``nth`` counts the calls that match method and
    key, from 1 (None: every one); ``key`` limits to calls whose first argument is a text that starts with it. Rules are
    set before the calls start.

    Attributes:
        calls: how often each method was called.
        keys: (method, key) of every call in order.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.keys: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._seen: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name.startswith("_") or not callable(found):
            return found

        def passed(*arguments: Any, **named: Any) -> Any:
            key = arguments[0] if arguments and isinstance(arguments[0], str) else ""
            return self._pass(name, key, lambda: found(*arguments, **named))

        return passed

    def fail(
        self,
        method: str,
        *,
        nth: int | None = 1,
        after: bool = False,
        key: str = "",
        error: Callable[[], Exception] = _lost,
    ) -> Self:
        """Raise at that call: before its effect, or after it (the answer is lost)."""
        return self._add(method, "fail", nth=nth, after=after, key=key, error=error)

    def kill(self, method: str, *, nth: int = 1, after: bool = False, key: str = "") -> Self:
        """SIGKILL this very process at that call: before its effect, or right after it."""
        return self._add(method, "kill", nth=nth, after=after, key=key)

    def slow(self, method: str, seconds: float, *, nth: int | None = None, key: str = "") -> Self:
        """Wait before passing on that call (every one by default)."""
        return self._add(method, "slow", nth=nth, key=key, seconds=seconds)

    def cut(self, method: str = "get", *, nth: int | None = 1, key: str = "") -> Self:
        """Return a body (of get or get_range) without its last byte, as an adapter that checks nothing would."""
        return self._add(method, "cut", nth=nth, key=key)

    def run(self, method: str, action: Callable[[], object], *, nth: int = 1, key: str = "") -> Self:
        """Do something else before passing on that call: break the network, change the world."""
        return self._add(method, "run", nth=nth, key=key, run=action)

    def heal(self) -> Self:
        """Forget all faults; the counts stay."""
        self._faults.clear()
        return self

    def _add(
        self,
        method: str,
        action: Action,
        *,
        nth: int | None,
        key: str,
        after: bool = False,
        error: Callable[[], Exception] = _lost,
        seconds: float = 0.0,
        run: Callable[[], object] | None = None,
    ) -> Self:
        self._faults.append(Fault(method, action, nth, after, key, error, seconds, run))
        return self

    def _due(self, method: str, key: str) -> list[Fault]:
        with self._lock:
            self.calls[method] += 1
            self.keys.append((method, key))
            due = []
            for number, fault in enumerate(self._faults):
                if fault.method in (method, "*") and key.startswith(fault.key):
                    self._seen[number] += 1
                    if fault.nth in (None, self._seen[number]):
                        due.append(fault)
            return due

    def _pass(self, method: str, key: str, call: Callable[[], Any]) -> Any:
        due = self._due(method, key)
        for fault in due:
            if fault.action == "slow":
                time.sleep(fault.seconds)
            elif fault.run is not None:
                fault.run()
            elif not fault.after:
                _strike(fault)
        result = call()
        for fault in due:
            if fault.action == "cut":
                result = result[:-1]
            elif fault.after:
                _strike(fault)
        return result


class FaultyStore(Faulty):
    """An ObjectStore: its listings fail when they are read, as those of a server do. Made to be subclassed too."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.url = store.url

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        yield from self._pass("list", prefix, lambda: self.store.list(prefix))

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        yield from self._pass("list_versions", prefix, lambda: self.store.list_versions(prefix))

    def head(self, key: str) -> ObjectInfo:
        return self._pass("head", key, lambda: self.store.head(key))

    def get(self, key: str, *, version: str | None = None) -> bytes:
        return self._pass("get", key, lambda: self.store.get(key, version=version))

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        return self._pass("get_range", key, lambda: self.store.get_range(key, start, length, version=version))

    def create(self, key: str, data: bytes) -> ObjectInfo:
        return self._pass("create", key, lambda: self.store.create(key, data))

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        return self._pass("replace", key, lambda: self.store.replace(key, data, expected=expected))

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._pass("put", key, lambda: self.store.put(key, data))

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        return self._pass("put_stream", key, lambda: self.store.put_stream(key, parts, size))

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        return self._pass("create_stream", key, lambda: self.store.create_stream(key, parts, size))

    def delete(self, key: str) -> None:
        self._pass("delete", key, lambda: self.store.delete(key))

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        return self._pass("set_tier", key, lambda: self.store.set_tier(key, tier))


def _strike(fault: Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.action == "fail":
        raise fault.error()


class LossyProxy:
    """A TCP proxy before a server that loses or cuts answers on cue: what no wrapper around a store can show.

    ``lose("PUT")``: the next request of that method reaches the server, its answer never comes back (the connection
    closes). ``cut("GET", 100)``: only the first 100 bytes of the answer come. Each cue is used once. With
    ``bytes_per_second`` set, requests pass no faster.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._cues: list[tuple[bytes, int]] = []
        self._lock = threading.Lock()
        self.struck = 0
        self.bytes_per_second: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, method: str, *, times: int = 1) -> None:
        """Lose the answers of the next requests of this method."""
        self._cues += [(method.encode() + b" ", 0)] * times

    def cut(self, method: str, count: int, *, times: int = 1) -> None:
        """Pass on only the first bytes of the next answers to this method."""
        self._cues += [(method.encode() + b" ", count)] * times

    def close(self) -> None:
        """Refuse connections from now on."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        due: list[int] = []
        with client, socket.create_connection(self._upstream) as server:
            threading.Thread(target=self._answer, args=(client, server, due), daemon=True).start()
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    with self._lock:
                        for cue in self._cues:
                            if data.startswith(cue[0]):
                                self._cues.remove(cue)
                                due.append(cue[1])
                                break
                    server.sendall(data)
                    if self.bytes_per_second:
                        time.sleep(len(data) / self.bytes_per_second)

    def _answer(self, client: socket.socket, server: socket.socket, due: list[int]) -> None:
        passed: int | None = None
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                while data.startswith(b"HTTP/1.1 100"):  # no answer yet, though one may follow in the same bytes
                    interim, end, data = data.partition(b"\r\n\r\n")
                    client.sendall(interim + end)
                if not data:
                    continue
                if due:
                    passed = passed or 0
                    part = data[: max(due[0] - passed, 0)]
                    client.sendall(part)
                    passed += len(part)
                    if passed >= due[0]:
                        self.struck += 1
                        break
                else:
                    client.sendall(data)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
