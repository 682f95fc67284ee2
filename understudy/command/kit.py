"""``understudy kit``: the offline bundle for a machine without a package index."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy.errors import InvalidConfig, NotReady
from understudy.report import human_bytes

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.group()
def kit() -> None:
    """The break-glass kit: wheels, config and runbook in one tar beside the vault."""


@kit.command("build")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Keep a copy on this machine."
)
@click.option("--local", is_flag=True, help="Only the file of --out; nothing is put beside the vault.")
@click.pass_obj
def build(ctx: Context, out: Path | None, *, local: bool) -> None:
    """Gather this version's wheels, the config and the runbook, and keep them beside the vault. Needs the index."""
    from understudy.kit import build_kit, keep_kit
    from understudy.service import open_service
    from understudy.settings import config_path

    if local and out is None:
        raise click.UsageError("--local keeps the kit nowhere without --out FILE")
    service = open_service(ctx.config)
    if not local and service.vault.signing is not None:
        service.vault.signing.ready()
    with tempfile.TemporaryDirectory(prefix="understudy-kit-") as folder:
        target = out or Path(folder) / "kit.tar"
        try:
            made = build_kit(service.settings, config_path(ctx.config), target, progress=ctx.screen.progress)
        except OSError as error:
            raise InvalidConfig(f"{target} cannot be written: {error.strerror}", hint="name another --out") from error
        if not local:
            made = keep_kit(service.vault, target, made)
    places = [str(out)] if out else []
    places += [f"{service.vault.url.rstrip('/')}/{made.key}"] if made.key else []
    line = f"understudy {made.version} for Python {made.python} on {made.platform}, {human_bytes(made.size)}"
    ctx.screen.result(asdict(made), [f"{line}: {', '.join(places)}", "next: understudy kit check"])


@kit.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--quick", is_flag=True, help="Digests and age alone; nothing is installed.")
@click.pass_obj
def check(ctx: Context, file: Path | None, *, quick: bool) -> None:
    """Check every digest of a kit (else the one beside the vault), install it without an index, and run it.

    Where vault.trust names keys, nothing is installed that none of them signed: a FILE must be the very kit that the
    vault's signed pointer names. Exit code 5 when the version or the config has changed since it was made, 8 when it is
    damaged or not signed, 4 when FILE is another kit.
    """
    from understudy.kit import fetch_kit, read_kit, require_kept, stale, try_kit
    from understudy.service import open_service
    from understudy.settings import config_path, load_settings

    with tempfile.TemporaryDirectory(prefix="understudy-kit-") as folder:
        path = file or Path(folder) / "kit.tar"
        found = read_kit(path) if file else fetch_kit(open_service(ctx.config).vault, path)
        if file and not quick and load_settings(ctx.config).vault.trust:
            require_kept(open_service(ctx.config).vault, path, found)
        ran = "" if quick else try_kit(path, found)
    reasons = stale(found, config_path(ctx.config))
    name = str(file) if file else found.key
    if reasons:
        raise NotReady(f"{name} is out of date: {'; '.join(reasons)}", next_command="understudy kit build")
    words = f"installs without an index and runs {ran}" if ran else "every digest holds"
    ctx.screen.result({**asdict(found), "runs": ran}, [f"{name}: {human_bytes(found.size)}, {words}"])
