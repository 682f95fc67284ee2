"""JSON that somebody else may have written: parsed with a bound on what it makes of memory.

A few bytes of JSON make a Python object of fifty and more: ``[[],[],...`` grows twentyfold. What opens or separates
values is counted first, at the speed of a memory scan.
"""

from __future__ import annotations

from typing import Any

import orjson

#: Values in one document: about 400 MB of objects at the very worst, some 4 TB of chunks in a manifest.
VALUES_MAX = 4_000_000
#: No manifest, pointer or set is longer; a writer refuses to make one that is.
DOCUMENT_BYTES_MAX = 64 << 20
_SHOWN_MAX = 120


class TooMuch(ValueError):
    """The document would make more objects than its reader bears; the text says how many."""


def parse_json(data: bytes | memoryview, *, values_max: int = VALUES_MAX) -> Any:  # noqa: ANN401 - any JSON value
    """Return a document's value.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than 1024, or (TooMuch) of more than ``values_max`` values.
    """
    whole = bytes(data) if isinstance(data, memoryview) else data
    if len(whole) > values_max:
        values = sum(whole.count(mark) for mark in (b",", b"[", b"{"))
        if values > values_max:
            message = f"has about {values} values, the limit is {values_max}"
            raise TooMuch(message)
    return orjson.loads(whole)


def shown(text: str) -> str:
    """Return what somebody else wrote as a sentence may carry it: short, and without what a terminal would obey."""
    return text if len(text) <= _SHOWN_MAX and text.isprintable() else quoted(text)


def quoted(value: object) -> str:
    """Return anything as ``repr`` does, shortened: a name of megabytes is no sentence."""
    if isinstance(value, str):
        more = f"... ({len(value):,} letters)" if len(value) > _SHOWN_MAX else ""
        return repr(value[:_SHOWN_MAX]) + more
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
