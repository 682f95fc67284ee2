"""A dead man's switch: somebody outside who expects a call, and raises the alarm when none comes.

Prefect cannot say that Prefect stopped, nor a worker that it is gone.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException

from understudy.errors import InvalidConfig, Unreachable

_SECONDS_MAX = 2.0


def ping(url: str, *, seconds: float = _SECONDS_MAX) -> None:
    """Call the switch's URL with GET. The URL is a secret: no error shows it.

    Raises:
        InvalidConfig: it is no http or https URL.
        Unreachable: no answer in time, or one that is not 2xx.
    """
    if not url.startswith(("https://", "http://")):
        raise InvalidConfig("metrics.ping does not lead to a URL", hint="the secret is the whole URL, with https://")
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310 - the scheme is checked above
            answer.read(1)
    except urllib.error.HTTPError as error:
        raise Unreachable(f"the dead man's switch answers {error.code}", hint="see metrics.ping") from None
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None)
        words = str(why) if isinstance(why, OSError) else type(error).__name__
        raise Unreachable(f"the dead man's switch was not reached: {words}", hint="see metrics.ping") from None
