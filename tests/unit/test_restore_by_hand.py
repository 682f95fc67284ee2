"""The restore by hand of docs/formats.md, run as it stands there: a model out of a vault's files without this software.

The program is taken from the page and run in a process of its own, which can import nothing of ours. Frames are decoded
by the ``zstd`` command where it is installed, and by pyarrow's own zstd codec where it is not; where the command is
installed, both ways are run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from tests.models import bfloat16, model_files, safetensors
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
#: Makes every import of ours, and of the libraries that do its work, fail.
ALONE = """
import sys
for name in ("understudy", "zstandard", "blake3", "orjson", "pyfastcdc"):
    sys.modules[name] = None
"""


def program():
    """Return the one Python program of the page."""
    [found] = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    return found.split("```")[0]


def files_of(version):
    files = model_files(changed=2 if version == "2" else None) | {"vocab.txt": b"words and more words\n" * 5000}
    return files | {"tuned.safetensors": safetensors(weights(tuned=version == "2"))}


def weights(*, tuned):
    """Return what a fine-tune moves: a matrix by noise, one by an adapter, and an embedding by weight decay."""
    random = np.random.default_rng(5)
    whole, merged, embedding = (random.standard_normal((256, 192)).astype(np.float32) * 0.02 for _ in range(3))
    left, right = random.standard_normal((256, 4)), random.standard_normal((4, 192))
    if tuned:
        whole += random.standard_normal(whole.shape).astype(np.float32) * 0.0002
        merged += (left @ right * 0.0004).astype(np.float32)
        embedding[:200] *= np.float32(0.9999)
        embedding[200:] += random.standard_normal((56, 192)).astype(np.float32) * 0.0002
    return {"whole": bfloat16(whole), "merged": bfloat16(merged), "half": merged.astype(np.float16), "long": embedding}


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vault")
    source = MemoryStore()
    vault = open_vault(FileStore(folder))
    for version in ("1", "2"):
        for path, data in files_of(version).items():
            source.put(f"minilm/{version}/{path}", data)
        push(source, vault)
    return folder


ways = ["zstd", "pyarrow"] if shutil.which("zstd") else ["pyarrow"]


def test_what_is_restored_by_hand_was_coded_in_every_way(vault):
    rows = [row for shard in vault.glob("index/*/*.parquet") for row in pq.read_table(shard).to_pylist()]
    assert {"raw", "zstd", "planes", "delta"} == {row["coder"] for row in rows}
    flags = 0
    for row in rows:
        if row["coder"] == "delta":
            flags |= (vault / "packs" / row["pack"][:2] / row["pack"]).read_bytes()[row["offset"] + 4]
    assert 7 == flags, "factors, kinds of rows and a trend are among the deltas"


@pytest.mark.parametrize("way", ways)
@pytest.mark.parametrize("version", ["1", "2"])
def test_a_model_is_restored_by_the_page_alone(vault, tmp_path, version, way):
    command = [sys.executable, "-I", "-c", ALONE + program(), str(vault), "minilm", version, str(tmp_path)]
    path = str(Path(shutil.which("zstd")).parent) if way == "zstd" else "/nowhere"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": path}, check=False)
    assert 0 == done.returncode, done.stderr
    assert f"7 files restored by {way}, every SHA-256 as in the manifest\n" == done.stdout
    expected = {path: hashlib.sha256(data).hexdigest() for path, data in files_of(version).items()}
    assert expected == {path: hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() for path in expected}


@pytest.mark.skipif(not shutil.which("zstd"), reason="the zstd command is not installed")
def test_one_chunk_is_decoded_by_dd_and_zstd_as_the_page_shows(vault):
    [line] = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("dd if=packs/")]
    rows = pq.read_table(min(vault.glob("index/*/*.parquet"))).to_pylist()
    row = next(row for row in rows if row["coder"] == "zstd")
    names = {"<xx>": row["pack"][:2], "<pack>": row["pack"], "<offset>": row["offset"], "<length>": row["length"]}
    for name, value in names.items():
        line = line.replace(name, str(value))
    plain = subprocess.run(["bash", "-c", line], cwd=vault, capture_output=True, check=True).stdout
    assert row["raw_length"] == len(plain)
    assert row["id"] == blake3(plain).digest()
