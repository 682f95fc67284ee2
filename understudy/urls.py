"""What is wrong with an adapter's URL, said before anything is opened: an unknown vendor, or a part that is missing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.opening import Noun

_BUCKET = "[^/?#]+(/[^?#]*)?"
_REDIS = r"[^/?#]+(/[^/?#]*)?(\?[^#]*)?"

#: What follows ``scheme://``, in the regular expressions that Python and JSON Schema share; others are not looked into.
PATTERNS: dict[tuple[Noun, str], str] = {
    ("objects", "s3"): _BUCKET,
    ("objects", "gs"): _BUCKET,
    ("objects", "file"): "/.*",
    ("vectors", "pgvector"): r"[^/?#]+/[^/?#]+/?\?([^#]*&)?table=[^&#]+(&[^#]*)?",
    ("features", "dynamodb"): "[^/?#]+/?",
    ("features", "bigtable"): "[^/?#]+/[^/?#]+/[^/?#]+/?",
    ("features", "redis"): _REDIS,
    ("features", "rediss"): _REDIS,
    ("traffic", "route53"): "[^/?#]+/[^/?#]+",
    ("compute", "gce"): "[^/?#]+/[^/?#]+/?",
    ("compute", "fixed"): "[0-9]{1,6}/?",
    ("alerts", "route53-health-check"): "[^/?#]+/?",
}


def wrong_url(noun: Noun, url: str) -> str:
    """Return what is wrong with an adapter's URL and what to write, empty when nothing is. The URL is not repeated."""
    from understudy.opening import VENDORS, WORDS, forms, third_parties

    scheme, given, rest = url.partition("://")
    for vendor in VENDORS:
        if given and (vendor.noun, vendor.scheme) == (noun, scheme):
            whole = re.fullmatch(PATTERNS.get((noun, scheme), ".*"), rest)
            return "" if whole else f"is not complete; write {vendor.form}"
    if given and (noun, scheme) in third_parties():
        return ""
    if not given or not re.fullmatch("[a-z][a-z0-9+.-]*", scheme):
        return f"names no vendor; write {forms(noun)}"
    return f"{scheme}:// is not {WORDS[noun]} that is known here; write {forms(noun)}"
