"""One thing that was tried of a config, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        what: such as ``vault gs://bucket``.
        ok: whether it holds.
        words: what is wrong and what to write; when it holds, what is worth knowing.
        file: the config; empty when the settings were not read from one.
        line: in it, 0 when there is none.
        exit_code: of the error, 3 (config) where there was no error of a vendor.
    """

    what: str
    ok: bool
    words: str = ""
    file: str = ""
    line: int = 0
    exit_code: int = 3

    @property
    def where(self) -> str:
        """``file:line``, as far as it is known."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {"file": self.file, "line": self.line, "what": self.what, "ok": self.ok, "words": self.words}
