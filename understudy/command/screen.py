"""What the command line prints: sentences or JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from understudy.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from understudy.errors import UnderstudyError
    from understudy.report import Counts, Report

_DRAWN_SECONDS = 0.5
#: In a log, where each line stays.
_PLAIN_SECONDS = 5.0


class Screen:
    """One command's output: people's sentences, or one JSON value under ``--json``."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._lock = threading.Lock()
        self._meter = Meter()
        # In a log nothing is said of work that is done within a moment.
        self._shown = 0.0 if sys.stderr.isatty() else time.monotonic()
        self._line = False

    def say(self, text: str) -> None:
        """Print a line for people; nothing under ``--json`` or ``-q``."""
        if not self.as_json and not self.quiet:
            self._clear()
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def result(self, value: Any, lines: Iterable[str]) -> None:  # noqa: ANN401 - any JSON value
        """Print a result: the JSON value under ``--json``, else the lines (also under ``-q``: it is what was asked)."""
        if self.as_json:
            self.write_json(value)
            return
        self._clear()
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def write_json(self, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """Print one JSON value; understudy.command.shapes says what each command's looks like."""
        self._clear()
        sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def reports(self, reports: Sequence[Report], *, empty: str, dry: bool = False) -> None:
        """Print what replications did, or would do."""
        lead = "dry run, nothing was written: " if dry else ""
        value = [{**report.as_json(), "dry_run": dry} for report in reports]
        self.result(value, [lead + report.sentence for report in reports] or [empty])

    def progress(self, what: str, done: int, total: int | None, unit: str, counts: Counts | None = None) -> None:
        """Say on stderr how far long work is: one line drawn anew on a terminal, elsewhere a line every few seconds."""
        if self.as_json or self.quiet:
            return
        now = time.monotonic()
        reading = self._meter.read(what, done, total, unit, counts, now=now)
        drawn = sys.stderr.isatty()
        with self._lock:
            if now - self._shown < (_DRAWN_SECONDS if drawn else _PLAIN_SECONDS):
                return
            self._shown = now
            if drawn:
                width = shutil.get_terminal_size().columns - 1
                sys.stderr.write(f"\r\x1b[K{reading.line[:width]}")
            else:
                sys.stderr.write(f"{reading.line}\n")
            sys.stderr.flush()
            self._line = drawn

    def error(self, error: UnderstudyError) -> None:
        """Print an error as one sentence on stderr, or as an object on stdout under ``--json``."""
        if self.as_json:
            words = {
                "code": error.exit_code,
                "kind": error.kind,
                "message": error.message,
                "hint": error.hint,
                "next": error.next_command,
            }
            self.write_json({"error": words})
            return
        self._clear()
        lead = "refused: " if error.kind in ("refused", "held") else ""
        sys.stderr.write(f"{lead}{error}\n")

    def log_warnings(self) -> None:
        """Send the product's warnings to stderr; its information stays for the run page."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.WARNING)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger("understudy")
        logger.handlers = [handler]
        logger.propagate = False

    def _clear(self) -> None:
        with self._lock:
            if self._line:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                self._line = False


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows under their heads, each column as wide as its widest cell."""
    widths = [max(len(str(row[column])) for row in [heads, *rows]) for column in range(len(heads))]
    return [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [heads, *rows]
    ]
