"""Moments that somebody types: ``--as-of``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from understudy.errors import InvalidConfig

AS_OF = click.option("--as-of", metavar="MOMENT", help="The state at this moment (ISO 8601); else the newest.")


def as_moment(text: str | None) -> datetime | None:
    """Read ``--as-of``: ISO 8601, UTC where no zone is written."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidConfig(f"{text!r} is no moment", hint="write it like 2026-11-21T03:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
