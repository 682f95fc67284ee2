"""The last net under secrets: what was resolved in this process is cut out of every error's words.

Adapters keep secrets out of their errors at the border. Yet a vendor's sentence may repeat what it was sent, and a
server may echo a header; so an error's words pass here before anybody sees, logs or stores them.
"""

from __future__ import annotations

import base64
import json
import threading
from urllib.parse import quote, quote_plus

#: A shorter secret would be found inside of ordinary words.
LENGTH_MIN = 8
_SHOWN = "***"

_lock = threading.Lock()
_known: dict[str, tuple[str, ...]] = {}


def remember(secret: str | None) -> None:
    """Cut this text out of every error from now on, also where it is written in base64 or in a URL."""
    text = (secret or "").strip()
    if len(text) < LENGTH_MIN or text in _known:
        return
    with _lock:
        _known[text] = tuple(sorted(forms_of(text), key=len, reverse=True))


def forms_of(secret: str) -> set[str]:
    """Return how a text may be written: as it is, in a URL, in JSON, and in base64 wherever it begins in it."""
    forms = {secret, quote(secret, safe=""), quote_plus(secret), quote(secret), json.dumps(secret)[1:-1]}
    for before in range(3):
        data = bytes(before) + secret.encode()
        # The characters whose bits are the secret's alone.
        first, last = -(-before * 8 // 6), len(data) * 8 // 6
        forms.add(base64.b64encode(data).decode()[first:last])
        forms.add(base64.urlsafe_b64encode(data).decode()[first:last])
    return forms


def redact(words: str) -> str:
    """Return words without any secret that was remembered."""
    for forms in list(_known.values()):
        for form in forms:
            if form in words:
                words = words.replace(form, _SHOWN)
    return words
