"""The last net under secrets: what was resolved in this process is cut out of errors, log lines and the journal.

Adapters keep secrets out of their errors at the border. Yet a vendor's sentence may repeat what it was sent, and a
server may echo a header; so words pass here before anybody sees, logs or stores them.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Callable

#: A shorter secret would be found inside of ordinary words.
LENGTH_MIN = 8
_SHOWN = "***"

_lock = threading.Lock()
_known: dict[str, tuple[str, ...]] = {}


def remember(secret: str | None) -> None:
    """Cut this text out of errors and log lines from now on, also where it is written in base64 or in a URL."""
    text = (secret or "").strip()
    if len(text) < LENGTH_MIN or text in _known:
        return
    watch_logs()
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


def redact_values(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a JSON value whose strings are redacted, however deep they stand. Keys and numbers stay as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [redact_values(each) for each in value]
    if isinstance(value, tuple):
        return tuple(redact_values(each) for each in value)
    return value


# ---------------------------------------------------------------------- log lines

_plain = logging.Formatter()


def watch_logs() -> None:
    """Have every log line of this process redacted, its traceback too; doing it again changes nothing.

    Where records are made, and not by a filter: a logger's filter is not asked about what its children log, and a
    handler's would leave out those of Prefect's run page, of whoever embeds this, and what an SDK logs by itself.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Redacting):
        logging.setLogRecordFactory(_Redacting(make))


class _Redacting:
    """Makes log records as the factory before it does, without secrets."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - as logging calls it
        record = self._make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - words and arguments that do not fit: the handler says so, as without us
            message = record.msg if isinstance(record.msg, str) else ""
        if (shown := redact(message)) != message:
            record.msg, record.args = shown, None
        if record.exc_info and record.exc_info[0] is not None:
            text = _plain.formatException(record.exc_info)
            if (shown := redact(text)) != text:
                # Handlers print the text; without the exception none can print it anew.
                record.exc_text, record.exc_info = shown, None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record
