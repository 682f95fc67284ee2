"""``understudy report``: what a failover did, beside what was meant; it works with the old site and Prefect dead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy.errors import InvalidConfig

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.command()
@click.argument("epoch", type=click.IntRange(min=2), required=False)
@click.option("--format", "form", type=click.Choice(["md", "json", "html"]), help="md, or json under --json.")
@click.option("--out", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write it there.")
@click.pass_obj
def report(ctx: Context, epoch: int | None, form: str | None, out: Path | None) -> None:
    """Show the failover that claimed EPOCH (the newest, if not named): timeline, targets, losses, proofs, incidents.

    Reads the journal, its copies and the register; changes nothing.
    """
    from understudy.failover.report import read_report
    from understudy.failover.report_pages import to_html, to_markdown
    from understudy.service import open_service, state_directory

    service = open_service(ctx.config)
    found = read_report(
        service.register,
        service.journal_vault(),
        service.settings,
        epoch=epoch,
        directory=state_directory() / "journal" / service.name,
    )
    form = form or ("json" if ctx.screen.as_json else "md")
    if form == "json":
        text = json.dumps(found.as_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    else:
        text = to_html(found) if form == "html" else to_markdown(found)
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidConfig(f"{out} cannot be written: {error.strerror}", hint="name another FILE") from error
        value = {"written": str(out), "epoch": found.epoch, "verdict": found.verdict, "next": found.next_command}
        ctx.screen.result(value, [f"{found.sentence}; written to {out}", f"next: {found.next_command}"])
    elif not ctx.screen.as_json:
        click.echo(text, nl=False)
    else:
        ctx.screen.result(found.as_json() if form == "json" else {"format": form, "text": text}, [])
