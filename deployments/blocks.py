"""Prefect's notification blocks that the config's ``notify`` names, made from the environment of whoever deploys.

``block:slack-webhook/incidents`` is made from ``UNDERSTUDY_SLACK_WEBHOOK_INCIDENTS``. What is in a variable is the
secret, or ``file:/path`` of it. Without the variable a block that is there stays as it is.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock, PagerDutyWebHook, SlackWebhook
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from understudy.errors import InvalidConfig
from understudy.secrets import Secret, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect.blocks.core import Block
    from prefect.client.orchestration import SyncPrefectClient

    from understudy.settings import Settings


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block that the config names.

    Attributes:
        slug: its type, such as slack-webhook.
        name: within the type.
        variable: of the environment, from which it is made.
    """

    slug: str
    name: str
    variable: str

    def __str__(self) -> str:
        """Name it as the config does."""
        return f"block:{self.slug}/{self.name}"


def wanted_blocks(settings: Settings) -> list[Wanted]:
    """Return the blocks that ``notify`` names, each once. Raises InvalidConfig for what is no block."""
    found = []
    for reference in dict.fromkeys(settings.notify):
        kind, _, path = reference.partition(":")
        slug, slash, name = path.partition("/")
        if kind != "block" or not slash or not name:
            raise InvalidConfig(f"notify: {reference} names no block", hint="write block:slack-webhook/NAME")
        found.append(Wanted(slug, name, "UNDERSTUDY_" + re.sub(r"[^A-Z0-9]+", "_", f"{slug}_{name}".upper())))
    return found


def put_blocks(client: SyncPrefectClient, settings: Settings, said: list[str]) -> dict[Wanted, UUID]:
    """Create the blocks, or update them in place; return their ids. ``said`` gets a line for each that changed.

    Raises:
        InvalidConfig: one is not there and there is nothing to make it from; then none was changed.
    """
    blocks = wanted_blocks(settings)
    there = {each: _find(client, each) for each in blocks}
    made = {each: made for each in blocks if (made := _made(each, os.environ))}
    for each in blocks:
        if each not in made and there[each] is None:
            raise InvalidConfig(
                f"notify names {each}, and Prefect has no such block",
                hint=f"set {each.variable} to {_HINTS.get(each.slug, 'nothing: this kind is made by hand')} and deploy "
                "again, or make it under Blocks in the Prefect UI",
            )
    ids: dict[Wanted, UUID] = {}
    for each in blocks:
        found = there[each]
        if each in made and (found is None or _values(made[each]) != found[1]):
            made[each].save(each.name, overwrite=True)
            said.append(f"{each}: {'created' if found is None else 'updated'} from {each.variable}")
            found = _find(client, each)
        if found is not None:
            ids[each] = found[0]
    return ids


_HINTS = {
    "slack-webhook": "the incoming webhook's URL",
    "pager-duty-webhook": "the integration key (and ..._API_KEY to the API key)",
    "custom-webhook": "the URL that takes a POST",
}


def _find(client: SyncPrefectClient, wanted: Wanted) -> tuple[UUID, dict[str, Any]] | None:
    try:
        document = client.read_block_document_by_name(wanted.name, wanted.slug, include_secrets=True)
    except ObjectNotFound:
        return None
    return document.id, dict(document.data)


def _made(wanted: Wanted, environment: Mapping[str, str]) -> Block | None:
    """Return the block that the environment describes; None where it does not."""
    if wanted.variable not in environment:
        return None
    secret = _secret(environment[wanted.variable])
    if wanted.slug == "slack-webhook":
        return SlackWebhook(url=SecretStr(secret))
    if wanted.slug == "pager-duty-webhook":
        key = f"{wanted.variable}_API_KEY"
        if key not in environment:
            raise InvalidConfig(f"{wanted.variable} is set and {key} is not", hint="Prefect's block needs both")
        return PagerDutyWebHook(
            integration_key=SecretStr(secret),
            api_key=SecretStr(_secret(environment[key])),
            source="understudy",
            notify_type="failure",
        )
    if wanted.slug == "custom-webhook":
        # The URL is a secret too, and only what stands under `secrets` is kept as one.
        return CustomWebhookNotificationBlock(
            name=wanted.name,
            url="{{url}}",
            json_data={"dedup_key": "{{subject}}", "text": "{{body}}"},
            secrets=SecretDict({"url": secret}),
            timeout=2,
            headers=None,
            cookies=None,
        )
    raise InvalidConfig(f"{wanted}: a block of this kind is made by hand", hint=f"unset {wanted.variable}")


def _secret(value: str) -> str:
    # Also what stands in the variable itself: from here on no error, log or journal shows it.
    return (resolve(value) if value.startswith(("file:", "env:")) else Secret(value)).reveal()


def _values(block: Block) -> dict[str, Any]:
    """Return a block's values as its document holds them, secrets too: to compare, never to show."""
    document = block._to_block_document("compare", block_schema_id=_NOWHERE, block_type_id=_NOWHERE)  # noqa: SLF001
    values: dict[str, Any] = document.model_dump(mode="json", context={"include_secrets": True})["data"]
    return values


_NOWHERE = UUID(int=0)
