"""Where the mutable objects of a vault stand: small ones below ``pointers/``, moved by compare-and-set."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.settings import ComponentName, SiteRole

_NOUNS: dict[ComponentName, str] = {
    "feature_store": "features",
    "vector_index": "vectors",
    "training": "artifacts",
}


def watermark_key(component: ComponentName, pair: str) -> str:
    """Return where a pair's watermark stands in the vault. Raises KeyError for a component that is not replicated."""
    return f"pointers/{_NOUNS[component]}/{pair}.json"


def proven_key(role: SiteRole, pair: str) -> str:
    """Return where the last proof of a pair at a site stands in the vault."""
    return f"pointers/proven/{role}/{pair}.json"
