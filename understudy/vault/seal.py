"""The digest that a JSON object of the vault carries of itself, so that whoever reads it finds a flipped byte.

It stands as the last field, ``,"seal":"<hex>"``: the BLAKE3 of all the object's bytes without that field, signature
included. It proves no author (``signing.py`` does), only that the bytes are those that were written. Objects from
before it have none, and are read as they are.
"""

from __future__ import annotations

import re

from blake3 import blake3

_MARK = b',"seal":"'
_FIELD = re.compile(rb',"seal":"([0-9a-f]{64})"(\s*\}\s*)\Z')
_END = re.compile(rb"\s*\}\s*\Z")
#: The field, and what may follow it: where the remains of a damaged one are looked for.
_TAIL_BYTES = 96
#: What is read but never written by this software stands there, under keys of its source.
_FOREIGN = "offline/"


class Damaged(ValueError):
    """The object is not what was written."""


def is_sealed(key: str) -> bool:
    """Return whether a vault key is one whose object is written with a seal."""
    return key.endswith(".json") and not key.startswith(_FOREIGN)


def seal(data: bytes) -> bytes:
    """Return a JSON object with its seal; what is no object, or has no field, stays as it is."""
    end = _END.search(data, max(0, len(data) - _TAIL_BYTES))
    if end is None or data.lstrip()[:1] != b"{" or not data[: end.start()].strip()[1:]:
        return data
    return data[: end.start()] + _MARK + blake3(data).hexdigest().encode() + b'"' + data[end.start() :]


def unseal(data: bytes) -> bytes:
    """Return an object's bytes as they were before they were sealed; those of one without a seal as they are.

    Raises:
        Damaged: the seal does not fit, or there are but remains of one.
    """
    start = max(0, len(data) - _TAIL_BYTES)
    found = _FIELD.search(data, start)
    if found is None:
        if any(_nearly(data[at : at + len(_MARK)]) for at in range(start, len(data))):
            message = "its seal is damaged"
            raise Damaged(message)
        return data
    plain = data[: found.start()] + found[2]
    if blake3(plain).hexdigest().encode() != found[1]:
        message = "it does not fit its seal"
        raise Damaged(message)
    return plain


def _nearly(part: bytes) -> bool:
    """Whether these bytes are the field's beginning with at most one of them changed."""
    return len(part) == len(_MARK) and sum(one != other for one, other in zip(part, _MARK, strict=True)) <= 1
