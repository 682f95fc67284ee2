"""What one gigabyte, chunk, file, version and push costs: measured, for docs/scale.json."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.measuring import measure, median_cpu
from bench.model import Change, write_model
from bench.scale import service_in, write_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from understudy.objects.interface import ObjectInfo, ObjectStore

_WIDTH = 1104
_SEED = 20
_NUDGE_PERCENT = 0.3
_FILES = 10_000
_ROWS = 500_000
_GB = 1e9
_DIGITS = 4


def units() -> dict[str, Any]:
    """Return every unit cost, by the step that measures it."""
    # Each in a process of its own: a child's peak of memory begins with that of who starts it.
    found = {name: json.loads(measure([sys.executable, "-m", __name__, name]).output) for name in _SECTIONS}
    return {"cores": os.cpu_count()} | found


def main() -> None:
    """Measure one section and print it."""
    with tempfile.TemporaryDirectory(prefix="units-") as folder:
        print(json.dumps(_rounded(_SECTIONS[sys.argv[1]](Path(folder)))))


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


class _Counting:
    """Counts the requests of a store by method; a listing counts once a thousand rows."""

    def __init__(self, store: ObjectStore, *, versioned: bool) -> None:
        self._store = store
        self._versioned = versioned
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def counted(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self.calls[name] += 1
            return found(*arguments, **named)

        return counted

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List without versions, as S3 does, where it is to be like it."""
        from dataclasses import replace

        rows = [replace(info, version=None) if self._versioned else info for info in self._store.list(prefix)]
        self.calls["list"] += max(1, -(-len(rows) // 1000))
        return iter(rows)

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List with versions."""
        rows = list(self._store.list_versions(prefix))
        self.calls["list"] += max(1, -(-len(rows) // 1000))
        return iter(rows)


def _requests(*, versioned: bool) -> dict[str, dict[str, float]]:
    """Return the requests of a push by what they grow with; a store that is asked for versions is S3's manner."""
    few, many = (_pushed(files=files, versions=1, versioned=versioned) for files in (1000, 3000))
    two = _pushed(files=1000, versions=2, versioned=versioned)
    again = _pushed(files=1000, versions=1, versioned=versioned, again=True)
    names = sorted({*few, *many, *two, *again})
    return {
        "a file": {name: (many[name] - few[name]) / 2000 for name in names if many[name] != few[name]},
        "a version more": {
            name: two[name] - few[name] - (many[name] - few[name]) / 2 for name in names if two[name] != few[name]
        },
        "a push of one version of 1000 files": {name: few[name] for name in names if few[name]},
        "a push that finds nothing new": {name: again[name] for name in names if again[name]},
    }


def _pushed(*, files: int, versions: int, versioned: bool, again: bool = False) -> Counter[str]:
    from understudy.artifacts.replicate import push
    from understudy.objects.memory import MemoryStore
    from understudy.vault.store import open_vault

    source = MemoryStore("source")
    for version in range(1, versions + 1):
        for number in range(files):
            source.put(f"m/{version}/{number:06d}.bin", f"{version} {number}".encode())
    vault = MemoryStore("vault")
    calls: Counter[str] = Counter()
    for _ in range(1 + again):
        counting = [_Counting(store, versioned=versioned) for store in (source, vault)]
        push(counting[0], open_vault(counting[1]))  # type: ignore[arg-type]
        calls = Counter()
        for where, store in zip(("source", "vault"), counting, strict=True):
            calls.update({f"{where} {_CLASS.get(name, name)}": count for name, count in store.calls.items()})
    calls.pop("source now", None)
    calls.pop("vault now", None)
    return calls


def _weight_requests(work: Path) -> dict[str, float]:
    """Return how often the source is asked for each GB of a model's first version, and of a fine-tune."""
    from understudy.artifacts.replicate import push
    from understudy.objects.memory import MemoryStore
    from understudy.vault.store import open_vault

    source, vault, found = MemoryStore("source"), MemoryStore("vault"), {}
    for version, percent in (("1", 0.0), ("2", _NUDGE_PERCENT)):
        size = write_model(work / version, width=_WIDTH, seed=_SEED, change=Change(percent=percent))
        for path in (work / version).iterdir():
            source.put(f"m/{version}/{path.name}", path.read_bytes())
        counting = _Counting(source, versioned=False)
        push(counting, open_vault(vault))  # type: ignore[arg-type]
        found["fine-tune" if percent else "first version"] = counting.calls["get_range"] / (size / _GB)
    return found


_CLASS = {"get_range": "GET", "get": "GET", "head": "HEAD"}
_CLASS |= {"create": "PUT", "replace": "PUT", "put": "PUT", "list": "LIST"}


def _weights(work: Path) -> dict[str, Any]:
    """Push a bf16 model, then a fine-tune of it, then nothing; restore and decode: per GB of plain bytes."""
    config = service_in(work)
    command = [sys.executable, "-m", "understudy", "-c", str(config), "-q"]
    idle = median_cpu(lambda: measure([*command, "--version"]))
    folder = work / "models" / "weights"
    _write(folder / "1", 0.0)
    size = (folder / "1" / "model.safetensors").stat().st_size
    vault = work / "vault"
    found: dict[str, Any] = {"gigabytes": size / _GB, "nudge_percent": _NUDGE_PERCENT}

    def step(name: str, *what: str, versions: int = 1) -> None:
        before = _bytes(vault / "packs")
        run = measure([*command, *what])
        found[name] = {
            "cpu_seconds_per_gb": max(0.0, run.cpu - idle) / (versions * size / _GB),
            "memory_mb": run.memory,
        }
        found[name]["sent_percent"] = 100 * (_bytes(vault / "packs") - before) / size

    step("first push", "artifacts", "push")
    _write(folder / "2", _NUDGE_PERCENT)
    step("next version", "artifacts", "push")
    shutil.copytree(folder / "2", folder / "3")
    step("the same under another name", "artifacts", "push")
    step("restore", "artifacts", "hydrate")
    step("vault verify --deep", "vault", "verify", "--deep", versions=2)  # the third is the second again
    for name in ("restore", "vault verify --deep"):
        del found[name]["sent_percent"]
    return found


def _write(folder: Path, percent: float) -> None:
    """Write a model in a process of its own."""
    made = f"write_model(Path({str(folder)!r}), width={_WIDTH}, seed={_SEED}, change=Change(percent={percent}))"
    measure([sys.executable, "-c", f"from pathlib import Path; from bench.model import Change, write_model; {made}"])


def _small_files(work: Path) -> dict[str, Any]:
    """Take every command over versions of small files: microseconds of CPU a file, and memory."""
    config = service_in(work)
    command = [sys.executable, "-m", "understudy", "-c", str(config), "-q"]
    idle = median_cpu(lambda: measure([*command, "--version"]))
    write_version(work / "models", 1, _FILES)
    found: dict[str, Any] = {"files": _FILES}
    for name, what in {
        "push": ("artifacts", "push"),
        "push, nothing new": ("artifacts", "push"),
        "artifacts list": ("artifacts", "list"),
        "vault verify": ("vault", "verify"),
        "vault verify --deep": ("vault", "verify", "--deep"),
    }.items():
        run = measure([*command, *what])
        found[name] = {"cpu_microseconds_per_file": 1e6 * max(0.0, run.cpu - idle) / _FILES, "memory_mb": run.memory}
    return found


def _index(_work: Path) -> dict[str, float]:
    """Write an index of many rows: bytes a row in the vault, and in memory once it is loaded."""
    from understudy.objects.memory import MemoryStore
    from understudy.vault.chunks import Location
    from understudy.vault.index import append_index, load_index
    from understudy.vault.packs import PACK_BYTES_TARGET
    from understudy.vault.store import open_vault

    random = np.random.default_rng(_SEED)
    frame = 2_800_000
    in_pack = PACK_BYTES_TARGET // frame
    packs = [random.bytes(32).hex() for _ in range(_ROWS // in_pack + 1)]
    rows = [
        Location(random.bytes(32), packs[n // in_pack], n % in_pack * frame, frame - n % 1000, 4 << 20, "planes")
        for n in range(_ROWS)
    ]
    vault = open_vault(MemoryStore("vault"))
    _, written = append_index(vault, load_index(vault), rows, {})
    segment = load_index(vault).segments[0]
    arrays = (segment.keys, segment.ids, segment.pack_of, segment.offsets, segment.lengths, segment.raw_lengths)
    held = sum(array.nbytes for array in (*arrays, segment.coder_of))
    held += sum(sys.getsizeof(pack) for pack in segment.packs)
    return {"bytes_per_chunk": written / _ROWS, "memory_bytes_per_chunk": held / _ROWS}


def _manifest(_work: Path) -> dict[str, float]:
    """Encode manifests of many files, and of many chunks: bytes of each."""
    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest, SourceObject, encode_manifest

    def encoded(files: int, chunks: int) -> int:
        digest = "0" * 64
        path, stamp = "part-000/000000.bin", "2026-11-22T03:00:00+00:00"
        source = SourceObject(f"many/1/{path}", "0" * 32, f'"{"0" * 32}"', stamp)
        file = ArtifactFile(path, chunks << 22, digest, "opaque", source, ((digest, 4 << 20),) * chunks)
        made = ArtifactManifest(model="many", version="1", revision=1, digest=digest, files=(file,) * files)
        return len(encode_manifest(made))

    a_chunk = (encoded(1, 10_001) - encoded(1, 1)) / 10_000
    return {"bytes_per_chunk": a_chunk, "bytes_per_file": (encoded(10_001, 1) - encoded(1, 1)) / 10_000 - a_chunk}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def _all_requests(_work: Path) -> dict[str, Any]:
    return {"listed": _requests(versioned=False), "asked": _requests(versioned=True)}


_SECTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "small_files": _small_files,
    "weights": _weights,
    "index": _index,
    "manifest": _manifest,
    "gets_per_gb": _weight_requests,
    "requests": _all_requests,
}

if __name__ == "__main__":
    main()
