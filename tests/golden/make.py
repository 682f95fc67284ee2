"""Makes a golden vault: ``python -m tests.golden.make FOLDER [--signed]``. Seeds are fixed, and so is the clock.

``v1`` was made by the first version of the format, before manifests could be signed; it is never made again. A change
of the format makes a folder of its own beside it. ``expected.json`` is computed from the plain sources alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.models import model_files
from tests.unit.features.offline_store import logged, put_history, put_log
from tests.unit.vectors.rows import batch_of, schema_of, vectors_of
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.replicate import push
from understudy.features.replicate import replicate_offline
from understudy.features.truth import read_offline
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.sets import compose
from understudy.vault.store import Vault, open_vault
from understudy.vectors.export import export
from understudy.vectors.interface import Column
from understudy.vectors.memory import MemoryVectors

SERVICE = "golden"
MOMENT = datetime(2026, 11, 21, 13, tzinfo=UTC)
#: Of a test: nothing else is ever signed with it.
SEED = bytes(range(32))


class FixedStore(FileStore):
    """A folder whose clock stands."""

    def now(self) -> datetime:
        return MOMENT


class FixedSource(MemoryStore):
    """A source in memory whose clock stands."""

    def now(self) -> datetime:
        return MOMENT


def files_of(version: str) -> dict[str, bytes]:
    """Return a version's files: safetensors, JSON, an empty one, text that shrinks, and noise that does not."""
    files = model_files(changed=1 if version == "2" else None, rows=16, count=3)
    files["vocab.txt"] = b"".join(f"word{number}\n".encode() for number in range(500))
    files["noise.bin"] = np.random.default_rng(7).bytes(20_000)
    return files


def rows(count: int) -> tuple[object, object]:
    """Return schema and rows of a small index."""
    schema = schema_of(Column("title", "text", "text"))
    bits = np.random.default_rng(3).standard_normal((count, 3)).astype(np.float32).view(np.uint32)
    titles = [f"Nr. {number} ü" if number % 5 else None for number in range(count)]
    return schema, pa.Table.from_batches([batch_of(schema, list(range(count)), vectors_of(bits), titles)])


def fill(vault: Vault) -> dict[str, object]:
    """Fill a vault with two versions of a model, one of them held, an index, features, sets; return what it holds."""
    source = FixedSource("source")
    expected: dict[str, object] = {"files": {}, "service": SERVICE}

    def add(version: str) -> None:
        for path, data in files_of(version).items():
            source.put(f"m/{version}/{path}", data)
            expected["files"][f"m/{version}/{path}"] = hashlib.sha256(data).hexdigest()  # type: ignore[index]
        push(source, vault)

    add("1")
    source.put("m/1/notes.txt", b"written later\n")
    expected["files"]["m/1/notes.txt"] = hashlib.sha256(b"written later\n").hexdigest()  # type: ignore[index]
    push(source, vault)
    index = MemoryVectors("products", clock=lambda: MOMENT)
    index.replace(
        *rows(40), labels={"model": "m", "model_version": "1", "model_digest": find_manifest(vault, "m", "1").digest}
    )
    export(index, vault, index="products")
    lake = FixedSource("lake")
    put_history(lake, 30)
    put_log(lake, 1, [logged("user:00003", "clicks", "99", 60), logged("user:00004", "city", None, 61)])
    replicate_offline(lake, vault, view="profiles")
    compose(vault, SERVICE, index="products", view="profiles")
    add("2")
    last = compose(vault, SERVICE, index="products", view="profiles")
    expected["set"] = last.sentence
    expected["rows"] = rows(40)[1].to_pylist()  # type: ignore[attr-defined]
    expected["cells"] = [[cell.entity, cell.feature, cell.value] for cell in read_offline(vault, view="profiles")]
    return expected


def main() -> None:
    """Make the vault named on the command line."""
    folder = Path(sys.argv[1])
    (folder / "vault").mkdir(parents=True)
    store = FixedStore(folder / "vault")
    if "--signed" in sys.argv:
        from understudy.vault.signing import Signing, private_key_text, public_line

        trust = public_line(SEED)
        signing = Signing(SERVICE, trust=(trust,), private_key=lambda: private_key_text(SEED))
        vault = open_vault(store, service=SERVICE, signing=signing)
        expected = fill(vault) | {"trust": trust}
    else:
        vault = open_vault(store)
        expected = fill(vault)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
