"""``understudy vault``: what the vault holds, and whether every byte of it is still what it was."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from understudy.command.screen import table
from understudy.errors import Corrupt, InvalidConfig, NotReady
from understudy.report import human_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.command.root import Context
    from understudy.vault.pruned import Kept, PruneResult


#: Of a comparison's differences, so many are printed.
_DIFFERENCES_SHOWN = 20


@click.group()
def vault() -> None:
    """The vault: stat, verify, compare, keygen, sign, rekey."""


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
@click.option(
    "--sample", metavar="SHARE", help="Also decode a share, such as 1%: the one that follows the last sample's."
)
@click.pass_obj
def verify(ctx: Context, *, deep: bool, sample: str | None) -> None:
    """Find what is missing or truncated; with --sample also flipped bytes in a share; with --deep in all of it.

    Exit code 8 when anything is wrong. What is found is kept in the vault, for `understudy status`.
    """
    from understudy.service import open_service

    if deep and sample is not None:
        raise InvalidConfig("--deep reads everything, --sample a share", hint="give one of the two")
    share = None if sample is None else _share(sample)
    service = open_service(ctx.config)
    result = service.verify_vault(
        "deep" if deep else "quick" if share is None else "sampled", share=share, progress=ctx.screen.progress
    )
    if result.problems:
        first, *more = result.problems
        raise Corrupt(
            "; ".join([first, *more[:9]]) + (f"; and {len(more) - 9} more" if len(more) > 9 else ""),
            hint=(
                "a push sends again what models lost, while the source has it; restore other objects from the bucket's "
                "own versions"
            ),
            next_command="understudy artifacts push",
        )
    ctx.screen.result(result.as_json(), [result.sentence])


def _share(text: str) -> float:
    from understudy.settings import parse_share

    try:
        share = parse_share(text)
    except ValueError as error:
        raise InvalidConfig(f"--sample {error}", hint="write --sample 1%") from error
    if not isinstance(share, float) or not 0 < share <= 1:
        raise InvalidConfig(f"--sample {text} is not between 0% and 100%", hint="write --sample 1%")
    return share


@vault.command("keygen")
@click.option("--out", "path", required=True, type=click.Path(dir_okay=False), help="Where the private key goes.")
@click.option("--encryption", is_flag=True, help="A key to encrypt a vault with, instead of a pair that signs.")
@click.pass_obj
def keygen(ctx: Context, path: str, *, encryption: bool) -> None:
    """Make a key pair that signs manifests: the public line is printed, for Git; the private key goes into a file.

    The file is PEM, readable by its owner alone; one that is there already is never written over. Its text may be
    moved into a Prefect block or an environment variable. With --encryption it is one line, id:base64, for
    vault.encrypt_with; whoever loses it loses the vault.
    """
    if encryption:
        _encryption_key(ctx, path)
        return
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


def _encryption_key(ctx: Context, path: str) -> None:
    from understudy.vault.keys import write_encryption_key

    name = write_encryption_key(path)
    lines = [
        f"key {name}: {path} (mode 0600)",
        "keep a copy of it apart from the vault and from both sites: without it nobody can read the vault, ever",
        f"next: vault: {{encrypt_with: 'file:{path}'}} at every site, and an empty bucket or prefix under vault.url;",
        "      for a vault that is encrypted already: this line before the old one, then understudy vault rekey --yes",
    ]
    ctx.screen.result({"id": name, "key_file": path}, lines)


@vault.command("rekey")
@click.option("--all", "every", is_flag=True, help="Also look at every object, and encrypt anew what is not under it.")
@click.option("--yes", is_flag=True, help="Do it; else only say what would be done.")
@click.pass_obj
def rekey(ctx: Context, *, every: bool, yes: bool) -> None:
    """Make the first key of vault.encrypt_with the one that the vault encrypts with; older ones behind it only read.

    First add the new key's line behind the old one's at every site, then put it first, then run this. With --all
    everything is read, encrypted anew and written, while no copy runs; then the old key's line can go, unless versions
    that the bucket keeps are still wanted.
    """
    from understudy.opening import open_store
    from understudy.service import open_service
    from understudy.vault.rekey import rekey as rekey_vault

    service = open_service(ctx.config)
    store = open_store(service.settings.vault.url, service.settings.sites.away)
    done = rekey_vault(store, service.encryption, write=yes, every=every, progress=ctx.screen.progress)
    again = "" if yes or (done.known and not every) else f"next: understudy vault rekey{' --all' * every} --yes"
    ctx.screen.result(done.as_json(), [done.sentence, *([again] if again else [])])


@vault.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.pass_obj
def compare(ctx: Context, first: str, second: str) -> int:
    """Say whether two vaults hold the same, by their listings, manifests and indexes; packs are not read.

    A and B are sites, whose vaults the config names, or URLs. One may be encrypted and the other not. Exit code 5 when
    they differ.
    """
    from understudy.service import open_service
    from understudy.vault.compare import compare as compare_vaults

    service = open_service(ctx.config)
    found = compare_vaults(service.vault_at(first), service.vault_at(second), progress=ctx.screen.progress)
    rows = [
        [name, f"{tally.first:,}", f"{tally.second:,}", f"{tally.equal:,}", f"{tally.differing:,}"]
        for name, tally in found.kinds.items()
    ]
    lacks = found.first_lacks, found.second_lacks
    rows.append(["chunks lacking", *(f"{one.chunks:,} ({human_bytes(one.bytes)})" for one in lacks), "", ""])
    rows.append(["files lacking", *(f"{one.files:,} ({human_bytes(one.file_bytes)})" for one in lacks), "", ""])
    told = [f"{one.key}: {one.words}" for one in (*found.differences, *found.signatures)]
    lines = [f"first   {found.first}", f"second  {found.second}"]
    lines += table(["", "FIRST", "SECOND", "EQUAL", "DIFFERING"], rows)
    lines += told[:_DIFFERENCES_SHOWN]
    more = len(told) - _DIFFERENCES_SHOWN
    lines += [f"and {more:,} more; --json lists all"] if more > 0 else []
    ctx.screen.result(found.as_json(), [*lines, found.sentence])
    return 0 if found.equal else NotReady.exit_code


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


@vault.command("prune")
@click.option("--yes", is_flag=True, help="Do it; else only say what would go.")
@click.pass_obj
def prune(ctx: Context, *, yes: bool) -> int:
    """Take out what vault.keep does not keep and nothing needs: condemned now, deleted after vault.condemned_for.

    What is served, pinned by a kept set, or newest always stays. Safe beside pushes, and when it is stopped: the next
    one goes on. It refuses (exit code 4) while it cannot read what each site serves. Before a pack is deleted, what is
    needed of it is decoded from where it stays; where that fails the pack stays, and the exit code is 8.
    """
    from understudy.service import open_service

    result = open_service(ctx.config).prune_vault(write=yes, progress=ctx.screen.progress)
    ctx.screen.result(result.as_json(), _lines(result))
    return Corrupt.exit_code if result.problems else 0


def _lines(result: PruneResult) -> list[str]:
    from understudy.vault.pruned import told

    lines = [result.sentence]
    rows = [_row(f"model {each.name}", each) for each in result.models]
    rows += [_row(f"sets of {each.name}", each) for each in result.sets]
    lines += table(["", "KEPT", "CONDEMNED", "WAITING", "DELETED", "FREES", "KEPT BECAUSE"], rows) if rows else []
    amounts = [
        (result.condemned, "condemned" if result.written else "to be condemned"),
        (result.waiting, "condemned earlier, waiting"),
        (result.deleted, "deleted" if result.written else "to be deleted"),
        (result.spared, "needed again, spared"),
        (result.young, "that nothing names yet, left alone while they are young"),
    ]
    packs = [f"{told(amount)} {words}" for amount, words in amounts if amount.packs]
    if result.rewritten.packs:
        size = human_bytes(result.rewritten_bytes)
        packs.append(f"what is needed of {told(result.rewritten)} written anew, {size}, and these condemned")
    if result.cooled.packs:
        moved = "moved" if result.written else "to be moved"
        packs.append(f"{told(result.cooled)} that only old versions need {moved} to colder storage")
    lines += [f"packs: {'; '.join(packs)}"] if packs else []
    lines += [f"damaged: {words}" for words in result.problems]
    lines += [f"refused by the store, tried again by the next prune: {words}" for words in result.refusals]
    lines += [] if result.policy else ["no version is taken out: the config has no vault.keep"]
    lines += [f"never pruned: {', '.join(result.left)}"] if result.left else []
    if result.next_at:
        lines.append(f"what is condemned is deleted by the first prune after {result.next_at:%Y-%m-%d %H:%MZ}")
    if result.keeps_versions and (result.deleted.packs or result.condemned.packs or result.waiting.packs):
        lines.append(
            "the bucket keeps what is deleted as old versions: their bytes are freed when its own rules end them"
        )
    if result.problems:
        lines.append("next: understudy vault verify --deep")
    return lines + ([] if result.written or not result.changes else ["next: understudy vault prune --yes"])


def _row(name: str, kept: Kept) -> list[str]:
    named = [_some(versions) for versions in (kept.condemned, kept.waiting, kept.deleted)]
    return [name, f"{kept.kept:,}", *named, human_bytes(kept.bytes) if kept.bytes else "-", kept.why]


def _some(versions: Sequence[str]) -> str:
    if not versions:
        return "-"
    return versions[0] if len(versions) == 1 else f"{len(versions):,}: {versions[0]} .. {versions[-1]}"
