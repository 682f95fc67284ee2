"""Embeds the passages in a process of its own, while the servers start.

``python -m sandbox.embedding --passages N --output DIR``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sandbox import corpus
from sandbox.model import SentenceModel, packaged_files
from sandbox.process import ServerDidNotStart, launch, tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sandbox.corpus import Passage
    from sandbox.process import Process

_PASSAGES, _VECTORS = "passages.json", "vectors.npy"


class Embedding:
    """The process that embeds the passages; ``passages`` and ``vectors`` wait for it."""

    def __init__(self, directory: Path, started: Process) -> None:
        """Hold what ``begin_embedding`` started."""
        self._directory = directory
        self._process = started

    def passages(self) -> list[Passage]:
        """Wait for the passages, which are there before their vectors, and return them. Raises ServerDidNotStart."""
        file = self._directory / _PASSAGES
        while not file.exists():
            self._still(file)
        return [corpus.Passage(**row) for row in json.loads(file.read_text(encoding="utf-8"))]

    def vectors(self, progress: Callable[[int, int], None] = lambda _done, _of: None) -> NDArray[np.float32]:
        """Wait for the vectors, shape (passages, 384), and return them.

        Args:
            progress: is told (done, of) whenever it has changed.

        Raises ServerDidNotStart when the process failed, with the end of its log.
        """
        file, told = self._directory / _VECTORS, (-1, -1)
        while not file.exists():
            self._still(file)
            now = self._progress()
            if now is not None and now != told:
                progress(*now)
                told = now
        vectors: NDArray[np.float32] = np.load(file)
        progress(len(vectors), len(vectors))
        return vectors

    def _still(self, file: Path) -> None:
        """Wait a moment for a file. Raises ServerDidNotStart when nobody is left to write it."""
        running = self._process.running()
        if not running and not file.exists():
            message = "embedding the passages failed"
            raise ServerDidNotStart(message + tail(self._process.log))
        time.sleep(0.1)

    def _progress(self) -> tuple[int, int] | None:
        try:
            done, total = (self._directory / "progress").read_text(encoding="utf-8").split()
        except (FileNotFoundError, ValueError):
            return None
        return int(done), int(total)


def begin_embedding(directory: Path, *, passages: int, log: Path, group: str = "") -> Embedding:
    """Start to embed the passages in a process of its own that ends with this one."""
    directory.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sandbox.embedding",
        "--passages",
        str(passages),
        "--output",
        directory,
    ]
    started = launch(
        command, name="embedding", log=log, ready=lambda: True, env={"OPENBLAS_NUM_THREADS": "1"}, group=group,
        cwd=Path(__file__).resolve().parent.parent,
    )  # fmt: skip
    return Embedding(directory, started)


def embed(directory: Path, passages: int) -> None:
    """Write ``passages.json`` and ``vectors.npy``, telling how far it is in ``progress``."""
    model = SentenceModel({path: file.read_bytes() for path, file in packaged_files().items()})
    chosen = corpus.passages(model.count_tokens, most=passages)
    rows = [{"id": passage.id, "title": passage.title, "body": passage.body} for passage in chosen]
    (directory / "passages.tmp").write_text(json.dumps(rows), encoding="utf-8")
    (directory / "passages.tmp").rename(directory / _PASSAGES)

    def progress(done: int, total: int) -> None:
        (directory / "progress").write_text(f"{done} {total}", encoding="utf-8")

    vectors = model.embed_all([passage.body for passage in chosen], progress, threads=os.cpu_count() or 1)
    with (directory / "vectors.tmp").open("wb") as file:
        np.save(file, vectors)
    (directory / "vectors.tmp").rename(directory / _VECTORS)


def main(arguments: list[str] | None = None) -> int:
    """Embed the passages."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.embedding", description="Embed the passages")
    parser.add_argument("--passages", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    chosen = parser.parse_args(arguments)
    embed(chosen.output, chosen.passages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
