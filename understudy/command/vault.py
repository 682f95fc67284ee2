"""``understudy vault``: what the vault holds, and whether every byte of it is still what it was."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from understudy.command.screen import table
from understudy.errors import Corrupt
from understudy.report import human_bytes

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.group()
def vault() -> None:
    """The vault: stat, verify, keygen, sign."""


@vault.command("stat")
@click.pass_obj
def stat(ctx: Context) -> None:
    """Count the objects and bytes below each part of the vault."""
    from understudy.service import open_service
    from understudy.vault.holdings import count_parts, holdings

    service = open_service(ctx.config)
    parts, pinned = count_parts(service.vault), service.newest_set()
    rows = [[name, f"{objects:,}", human_bytes(size)] for name, (objects, size) in parts.items()]
    lines = [service.vault.url, *table(["PART", "OBJECTS", "SIZE"], rows)]
    lines.append(pinned.sentence if pinned else "no complete set yet")
    ctx.screen.result(holdings(service.vault, parts, pinned), lines)


@vault.command("verify")
@click.option("--deep", is_flag=True, help="Decode every chunk and compare every digest; else listings and lengths.")
@click.pass_obj
def verify(ctx: Context, *, deep: bool) -> None:
    """Find what is missing or truncated; with --deep also every flipped byte. Exit code 8 when anything is wrong."""
    from understudy.service import open_service
    from understudy.vault.verify import verify as verify_vault

    service = open_service(ctx.config)
    result = verify_vault(service.vault, deep=deep, progress=ctx.screen.progress)
    if result.problems:
        first, *more = result.problems
        raise Corrupt(
            "; ".join([first, *more[:9]]) + (f"; and {len(more) - 9} more" if len(more) > 9 else ""),
            hint="restore the named objects from the bucket's own versions, or push again from the source",
            next_command="understudy artifacts push",
        )
    ctx.screen.result(result.as_json(), [result.sentence])


@vault.command("keygen")
@click.option("--out", "path", required=True, type=click.Path(dir_okay=False), help="Where the private key goes.")
@click.pass_obj
def keygen(ctx: Context, path: str) -> None:
    """Make a key pair that signs manifests: the public line is printed, for Git; the private key goes into a file.

    The file is PEM, readable by its owner alone; one that is there already is never written over. Its text may be
    moved into a Prefect block or an environment variable.
    """
    from understudy.vault.keys import write_private_key

    line = write_private_key(path)
    lines = [
        line,
        f"private key: {path} (mode 0600); keep it out of Git, where the replicator runs alone",
        "next: write this line under vault.trust at every site, then",
        f"      vault: {{sign_with: 'file:{path}'}} where models are pushed; what is in a vault already:",
        "      understudy vault verify --deep, then understudy vault sign --yes",
    ]
    ctx.screen.result({"public": line, "private_key_file": path}, lines)


@vault.command("sign")
@click.option(
    "--key",
    "keys",
    metavar="KEY",
    multiple=True,
    help="Also this manifest, unsigned beside signed ones (all below it when it ends in /); may be repeated.",
)
@click.option("--yes", is_flag=True, help="Do it; else only say what would be signed.")
@click.pass_obj
def sign(ctx: Context, keys: tuple[str, ...], *, yes: bool) -> None:
    """Sign the manifests that the key of vault.sign_with has not signed: when signing begins, or a key is replaced.

    Content stays as it is. A signature says that you trust what is there: run understudy vault verify --deep before,
    and look at who could write into the vault until now. Once some manifests are signed, one without a signature is
    refused (exit code 4) unless you name it: somebody may have taken its signature off.
    """
    from understudy.service import open_service
    from understudy.vault.countersign import countersign

    done = countersign(open_service(ctx.config).vault, write=yes, keys=keys)
    lines = [done.sentence]
    if not done.written and (done.unsigned or done.others):
        unnamed = set(done.unnamed)
        lines += [f"  {key}" for key in (*done.unsigned, *done.others) if key not in unnamed]
        lines += [f"  refused: {key}" for key in done.unnamed]
        named = "".join(f" --key {shlex.quote(key)}" for key in keys)
        lines += [] if unnamed else [f"next: understudy vault sign{named} --yes"]
    ctx.screen.result(done.as_json(), lines)
