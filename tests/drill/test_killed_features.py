"""A rebuild of the features, killed: the old table goes on serving, or the new one does, and the next run completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.features.offline_store import at, logged, put_history, put_log
from understudy.features.live import LiveFeatures
from understudy.features.rebuild import rebuild
from understudy.features.replicate import replicate_offline
from understudy.features.truth import read_offline
from understudy.features.verify import verify
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.opening import open_features
from understudy.settings import Access
from understudy.vault.store import open_vault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from understudy.features.interface import Cell
    from understudy.report import Progress

pytestmark = pytest.mark.slow
VIEW = "user_features"
ENTITIES = 300


class Killing:
    """An online store that ends this process before or after a call."""

    def __init__(self, store: Any, point: str) -> None:
        self._store = store
        self._when, _, self._method = point.partition(" ")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name != self._method:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = found(*args, **kwargs)
            if self._when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def fill(self, generation: int, cells: Iterable[Cell], *, progress: Progress) -> int:
        def counted() -> Iterator[Cell]:
            for number, cell in enumerate(cells):
                if self._method == "fill" and number == ENTITIES * 4 - 50:
                    while next(self._store.scan(generation), None) is None:
                        time.sleep(0.01)  # the first batch is on its way
                    os.kill(os.getpid(), signal.SIGKILL)
                yield cell

        return int(self._store.fill(generation, counted(), progress=progress))

    def scan(self, generation: int) -> Iterator[Cell]:
        for number, cell in enumerate(self._store.scan(generation)):
            if self._method == "scan" and number == ENTITIES:
                os.kill(os.getpid(), signal.SIGKILL)
            yield cell


def child(arguments: dict[str, str]) -> None:
    """What is killed: one rebuild."""
    store = Killing(open_online(arguments["url"], arguments["endpoint"]), arguments["point"])
    vault = open_vault(FileStore(arguments["vault"]))
    rebuild(vault, store, view=VIEW, full=arguments["mode"] == "full")  # type: ignore[arg-type]


def open_online(url: str, endpoint: str) -> Any:
    api = url.split(":", maxsplit=1)[0]
    return open_features(url, Access(cloud="gcp", project="acme", endpoints={api: endpoint}))


POINTS = [
    "full: before create_generation",
    "full: after create_generation",
    "full: within fill",
    "full: within scan",
    "full: before move_pointer",
    "full: after move_pointer",
    "full: before drop_generation",
    "catch_up: after write_newer",
    "catch_up: before move_pointer",
    "catch_up: after move_pointer",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_rebuild_leaves_a_table_that_serves_and_the_next_run_completes(
    point: str, bigtable_endpoint: str, tmp_path: Path
) -> None:
    mode, _, moment = point.partition(": ")
    url = f"bigtable://acme/online/killed_{os.getpid()}_{POINTS.index(point)}"
    source = MemoryStore("lake", clock=lambda: at(100))
    (tmp_path / "vault").mkdir()
    vault = open_vault(FileStore(str(tmp_path / "vault")))
    put_history(source, ENTITIES)
    replicate_offline(source, vault, view=VIEW)
    store = open_online(url, bigtable_endpoint)
    for _ in range(2):  # so that there is an older table to drop
        rebuild(vault, store, view=VIEW, full=True)
    put_log(source, 1, [logged("user:00001", "clicks", "77", 50), logged("user:00002", "clicks", None, 50)])
    replicate_offline(source, vault, view=VIEW)

    arguments = {
        "url": url,
        "endpoint": bigtable_endpoint,
        "vault": str(tmp_path / "vault"),
        "point": moment,
        "mode": mode,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "tests.drill.test_killed_features", json.dumps(arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert -signal.SIGKILL == ended.returncode, ended.stderr

    live = LiveFeatures(store, pointer_seconds_max=0)
    assert live.read("user:00001")["clicks"] in ("1", "77")
    assert "3" == live.read("user:00003")["clicks"]
    pointer = store.pointer()
    assert ENTITIES * 4 <= sum(1 for _ in store.scan(pointer.generation))
    if pointer.sequence == 1 and mode == "full":
        assert "1" == live.read("user:00001")["clicks"]

    rebuild(vault, store, view=VIEW, full=mode == "full")
    assert {"clicks": "77", "rate": "0.14285714285714285", "city": '"Zürich 1"', "member": "false"} == live.read(
        "user:00001"
    )
    assert "clicks" not in live.read("user:00002")
    pointer = store.pointer()
    assert read_offline(vault, view=VIEW) == sorted(store.scan(pointer.generation))
    assert (2, None) == (pointer.sequence, pointer.carry_from)
    assert len(store.generations()) <= 2
    proof = verify(vault, store, view=VIEW)
    assert "digest equal" in proof.sentence
    if mode == "full":
        assert proof.details["digest"] == pointer.digest


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
