"""What a vault holds: objects and bytes by part, and the set that is served from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.vault.sets import SetManifest
    from understudy.vault.store import Vault


def count_parts(vault: Vault) -> dict[str, tuple[int, int]]:
    """Return (objects, bytes) below each first part of a key, sorted by its name."""
    found: dict[str, tuple[int, int]] = {}
    for info in vault.store.list():
        part = info.key.split("/")[0]
        objects, size = found.get(part, (0, 0))
        found[part] = objects + 1, size + info.size
    return dict(sorted(found.items()))


def holdings(vault: Vault, parts: dict[str, tuple[int, int]], pinned: SetManifest | None) -> dict[str, Any]:
    """Return it as JSON values."""
    return {
        "url": vault.url,
        "parts": {name: {"objects": objects, "bytes": size} for name, (objects, size) in parts.items()},
        "set": asdict(pinned) if pinned else None,
    }
