"""Prefect's automations, from deployments/automations.yaml: found by name and updated in place.

Prefect itself makes a second automation of the same name without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prefect.events.schemas.automations import Automation, AutomationCore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

    from understudy.settings import Settings

FILE = Path(__file__).with_name("automations.yaml")
_PAGE = 200
#: What an operator may change in the UI without being overruled.
_KEPT = {"enabled"}


def automations(settings: Settings, blocks: Sequence[UUID], text: str | None = None) -> list[AutomationCore]:
    """Return the automations of a service; those that only notify are left out where there is no block.

    Args:
        settings: for the service's name.
        blocks: ids of the notification blocks.
        text: of the file; None reads it.
    """
    document = yaml.safe_load((text or FILE.read_text(encoding="utf-8")).replace("$SERVICE", settings.service))
    found = []
    for each in document["automations"]:
        values: dict[str, Any] = {**each, "name": f"{_prefix(settings)}{each['name']}"}
        notify = values.pop("notify", None)
        actions = list(values.pop("actions", []))
        if notify:
            actions += [{"type": "send-notification", "block_document_id": str(block), **notify} for block in blocks]
        if actions:
            found.append(AutomationCore.model_validate({**values, "actions": actions}))
    return found


def put_automations(
    client: SyncPrefectClient, settings: Settings, wanted: Sequence[AutomationCore], said: list[str]
) -> None:
    """Create or update a service's automations; ``said`` gets a line for each that changed or does not belong."""
    there: dict[str, list[Automation]] = {}
    for each in sorted(_read(client), key=lambda found: str(found.id)):
        if each.name.startswith(_prefix(settings)):
            there.setdefault(each.name, []).append(each)
    for automation in wanted:
        same = there.pop(automation.name, [])
        if not same:
            client.create_automation(automation)
            said.append(f"automation {automation.name!r}: created")
            continue
        first, *rest = same
        if first.id is not None and _values(first) != _values(automation):
            changed = automation.model_copy(update={name: getattr(first, name) for name in _KEPT})
            client.update_automation(first.id, changed)
            said.append(f"automation {automation.name!r}: updated")
        if rest:
            there[automation.name] = rest
    said += [
        f"automation {name!r} is not of the file; remove it: prefect automation delete --id {each.id}"
        for name, left in there.items()
        for each in left
    ]


def _prefix(settings: Settings) -> str:
    return f"understudy {settings.service}: "


def _read(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while len(page := client.read_automations(limit=_PAGE, offset=len(found))) == _PAGE:
        found += page
    return [*found, *page]


def _values(automation: AutomationCore) -> dict[str, Any]:
    """Return what the file says of an automation, in one form for both sides."""
    values = automation.model_dump(mode="json", exclude={"id", "owner_resource", *_KEPT})
    for name in ("after", "expect", "for_each"):  # sets, in any order
        if name in values["trigger"]:
            values["trigger"][name] = sorted(values["trigger"][name])
    return values
