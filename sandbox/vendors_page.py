"""Writes docs/vendors.md from the table of vendors, what the adapters say of themselves, and what proves them.

``python -m sandbox.vendors_page > docs/vendors.md``; a house test checks that the page is fresh.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from sandbox.servers import NO_REAL_SERVER, PROVED_BY, script
from understudy.opening import VENDORS, Noun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.opening import Vendor

_HEADS: dict[Noun, str] = {
    "objects": "Object stores: models, the offline feature store, the vault, the register",
    "vectors": "Vector indexes",
    "features": "Online feature stores",
    "traffic": "Traffic",
    "compute": "Capacity",
    "alerts": "Alerts",
}
_LEAD = """\
# Vendors

This page is generated (`python -m sandbox.vendors_page > docs/vendors.md`) from `understudy/opening.py`, from what
each adapter says of itself, and from the list of servers that its contract runs on. A third party's adapter joins by
an entry point; CONTRIBUTING.md says how.

*Proved on* is what the adapter's contract runs on with `make contracts`. No vendor was tried with a real account yet.
"""


def page() -> str:
    """Return the whole page."""
    parts = [_LEAD]
    for noun, head in _HEADS.items():
        vendors = [vendor for vendor in VENDORS if vendor.noun == noun]
        names = import_module(f"understudy.{noun}.interface").ABILITIES
        rows = [["vendor", "URL", "extra", *names, "proved on"]]
        for vendor in vendors:
            words = abilities(vendor)
            rows.append(
                [
                    vendor.name,
                    f"`{vendor.form}`",
                    vendor.extra or "none",
                    *(words[name] for name in names),
                    _proof(vendor),
                ]
            )
        parts.append(f"\n## {head}\n\n{_table(rows)}")
    parts.append(f"\n## What a server cannot prove\n\n{_limits()}")
    return "".join(parts)


def abilities(vendor: Vendor) -> dict[str, str]:
    """Return what a vendor's adapter says of itself: each ability of its noun, in words."""
    module, _, name = vendor.adapter.partition(":")
    found: dict[str, str] = getattr(import_module(f"understudy.{module}"), name).ABILITIES
    return found


def _proof(vendor: Vendor) -> str:
    if vendor.scheme in NO_REAL_SERVER:
        return f"no real server: {NO_REAL_SERVER[vendor.scheme]}"
    server = script(PROVED_BY[vendor.scheme]).SERVER
    return f"{server.name} {server.version}".strip()


def _limits() -> str:
    lines = [
        f"- {name}: `{test}`: {reason}\n"
        for name in dict.fromkeys(PROVED_BY.values())
        for test, reason in script(name).CANNOT_PROVE.items()
    ]
    return "".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
