"""Processes measured by the kernel, and the table that is printed of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_REPEATS = 7
#: What pushes of artifacts are held to: percent of a model sent, CPU beyond the start, memory.
SENT_PERCENT_MAX = 67.5
UNCHANGED_CPU_SECONDS_MAX = 0.3
MEMORY_MB_MAX = 600


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds of wall and CPU, peak resident memory in MB, and what it printed."""

    wall: float
    cpu: float
    memory: float
    output: str

    def total(self, name: str) -> int:
        """Add up one figure of the reports that it printed."""
        return sum(int(report[name]) for report in json.loads(self.output))


def measure(command: Sequence[str], env: dict[str, str] | None = None, *, folder: Path | None = None) -> Run:
    """Run a command to its end, in a folder, and measure it; its failure ends the benchmark with what it said.

    The kernel counts this process's own memory, at the moment of the fork, into the child's peak: so it stays small.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            list(command), stdout=output, stderr=errors, env=env and {**os.environ, **env}, cwd=folder
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            sys.exit(f"{command[0]} failed ({child.returncode}): {errors.read().decode()[-2000:]}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, output.read().decode())


def median_cpu(run: Callable[[], Run]) -> float:
    """Return the median CPU seconds of several runs, after one that warms the caches."""
    run()
    return statistics.median(run().cpu for _ in range(_REPEATS))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Table:
    """What is printed: one row a measurement, with its bar and verdict."""

    def __init__(self) -> None:
        self.failed = False
        self._rows: list[tuple[str, str, str, str]] = []

    def add(self, what: str, value: str, bar: str = "", *, holds: bool | None = None) -> None:
        """Add a row; ``holds`` None is for what has no bar."""
        self.failed = self.failed or holds is False
        self._rows.append((what, value, bar, "" if holds is None else "ok" if holds else "MISSED"))
        print("  ".join(text for text in self._rows[-1] if text), file=sys.stderr, flush=True)

    def memory(self, what: str, run: Run) -> None:
        """Add a row for the peak memory of a run."""
        held = run.memory < MEMORY_MB_MAX
        self.add(f"{what}, peak memory", f"{run.memory:.0f} MB", f"< {MEMORY_MB_MAX} MB", holds=held)

    def print(self) -> None:
        """Print all rows, aligned."""
        rows = [("measurement", "value", "bar", "verdict"), *self._rows]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
