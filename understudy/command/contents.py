"""What the vault holds of models, indexes and features: list, show, pull, diff. Nothing here changes the vault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.command.completion import pairs
from understudy.command.moment import AS_OF, as_moment
from understudy.command.screen import table
from understudy.errors import InvalidConfig
from understudy.report import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.command.root import Context
    from understudy.service import Service
    from understudy.settings import ComponentName, Pair
    from understudy.vectors.interface import Schema

_FOLDER = click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write.",
)


def at_sequence(command: Callable[..., None]) -> Callable[..., None]:
    """Take a pair, or the only one, and one of its sequences, or the newest."""
    with_sequence = click.argument("sequence", required=False, type=int)(command)
    return click.argument("pair", required=False, shell_complete=pairs)(with_sequence)


def between_sequences(command: Callable[..., None]) -> Callable[..., None]:
    """Take a pair and two of its sequences."""
    for name in ("after", "before"):
        command = click.argument(name, type=int)(command)
    return click.argument("pair", shell_complete=pairs)(command)


def open_pair(ctx: Context, component: ComponentName, name: str | None, *, dry: bool = False) -> tuple[Service, Pair]:
    """Open the service, for a dry run or not, and find a pair of it by its name, or the component's only one."""
    from understudy.service import open_service

    service = open_service(ctx.config, dry=dry)
    return service, service.settings.pair(component, name)


# ---------------------------------------------------------------------------------------------------------- artifacts


@click.command("pull")
@click.argument("model")
@click.argument("version", required=False)
@_FOLDER
@AS_OF
@click.option(
    "--tensors",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="Only tensors with such a name, as one safetensors file; may be repeated: 'model.layers.0.*'.",
)
@click.option(
    "--layers",
    metavar="N",
    type=click.IntRange(min=0),
    help="Only the first N layers, and what is in no layer (embeddings, last norm, head), as one safetensors file.",
)
@click.pass_obj
def pull_artifacts(
    ctx: Context,
    model: str,
    version: str | None,
    *,
    folder: Path,
    as_of: str | None,
    patterns: tuple[str, ...],
    layers: int | None,
) -> None:
    """Restore MODEL, of VERSION or what the newest set pins, to FOLDER/MODEL/VERSION, proven by SHA-256.

    With --as-of it is what the set of that moment pinned, else the newest version that the vault held then. With
    --tensors or --layers only these tensors are read, into FOLDER/MODEL/VERSION.subset.safetensors.

    A pull that was stopped is gone on with by the same command.
    """
    moment, revision = as_moment(as_of), None
    if moment is not None and version is not None:
        raise InvalidConfig("VERSION and --as-of both say which version is wanted", hint="give one of the two")
    service, _ = open_pair(ctx, "training", None)
    if moment is not None:
        version, revision = service.version_at(model, moment)
    wanted: Any = {"model": model, "version": version, "revision": revision, "progress": ctx.screen.progress}
    if patterns or layers is not None:
        from understudy.artifacts.subset import pull_tensors

        report = pull_tensors(service.vault, folder, patterns=patterns, layers=layers, **wanted)
    else:
        from understudy.artifacts.pull import pull

        report = pull(service.vault, folder, **wanted)
    ctx.screen.reports([report], empty="")


@click.command("diff")
@click.argument("model")
@click.argument("before")
@click.argument("after")
@click.pass_obj
def diff_artifacts(ctx: Context, model: str, before: str, after: str) -> None:
    """Show which files version AFTER of MODEL changed against BEFORE, and how much of them is new to the vault."""
    from understudy.artifacts.pull import diff_versions

    service, _ = open_pair(ctx, "training", None)
    lines, value = diff_versions(service.vault, model, before, after)
    ctx.screen.result(value, lines)


# ------------------------------------------------------------------------------------------------------------ vectors


@click.command("list")
@click.argument("pair", required=False, shell_complete=pairs)
@click.pass_obj
def list_vectors(ctx: Context, pair: str | None) -> None:
    """List every sequence of an index in the vault."""
    from understudy.vectors import manifest as manifests

    service, chosen = open_pair(ctx, "vector_index", pair)
    found = [manifests.read(service.vault, chosen.name, n) for n in manifests.sequences(service.vault, chosen.name)]
    rows = [
        [
            str(m.sequence),
            f"{m.taken:%Y-%m-%dT%H:%M:%SZ}",
            f"{m.rows:,}",
            str(m.labels.get("model", "-")),
            m.digest[:12],
        ]
        for m in found
    ]
    value = [
        {
            "index": m.index,
            "sequence": m.sequence,
            "taken": m.taken.isoformat(),
            "rows": m.rows,
            "digest": m.digest,
            "labels": m.labels,
        }
        for m in found
    ]
    lines = table(["SEQUENCE", "TAKEN", "ROWS", "MODEL", "DIGEST"], rows)
    ctx.screen.result(value, lines if found else [f"the vault holds no sequence of {chosen.name} yet"])


@click.command("show")
@at_sequence
@click.pass_obj
def show_vectors(ctx: Context, pair: str | None, sequence: int | None) -> None:
    """Show one sequence's schema, indexes, labels and size; the newest when none is named."""
    from understudy.vectors import manifest as manifests

    service, chosen = open_pair(ctx, "vector_index", pair)
    manifest = manifests.wanted(service.vault, chosen.name, sequence)
    size = sum(part.size for part in manifest.parts)
    lines = [
        (
            f"{manifest.index} {manifest.sequence}: {manifest.rows:,} rows, {human_bytes(size)} "
            f"in {len(manifest.parts)} of {manifest.buckets} buckets"
        ),
        f"taken {manifest.taken:%Y-%m-%dT%H:%M:%SZ} from {manifest.source}",
        f"digest {manifest.digest}",
        *(f"label {name}: {value}" for name, value in sorted(manifest.labels.items())),
        *_schema_lines(manifest.schema),
    ]
    value = {
        "index": manifest.index,
        "sequence": manifest.sequence,
        "taken": manifest.taken.isoformat(),
        "source": manifest.source,
        "rows": manifest.rows,
        "bytes": size,
        "digest": manifest.digest,
        "labels": manifest.labels,
        "schema": manifest.schema.as_json(),
    }
    ctx.screen.result(value, lines)


def _schema_lines(schema: Schema) -> list[str]:
    rows = [
        [column.name, column.declared, "" if column.nullable else "not null", _role(schema, column.name)]
        for column in schema.columns
    ]
    lines = table(["COLUMN", "TYPE", "NULL", "ROLE"], rows)
    lines += [f"left behind: {words}" for words in schema.left_behind]
    return lines


def _role(schema: Schema, name: str) -> str:
    if name == schema.id:
        return "id"
    return f"vector, {schema.dimension} x {schema.element}, {schema.metric}" if name == schema.vector else ""


@click.command("pull")
@at_sequence
@_FOLDER
@click.pass_obj
def pull_vectors(ctx: Context, pair: str | None, sequence: int | None, folder: Path) -> None:
    """Write a sequence's rows as Parquet files to FOLDER/INDEX/SEQUENCE, each proven by SHA-256."""
    from understudy.vectors.pull import pull

    service, chosen = open_pair(ctx, "vector_index", pair)
    report = pull(service.vault, folder, index=chosen.name, sequence=sequence, progress=ctx.screen.progress)
    ctx.screen.reports([report], empty="")


@click.command("diff")
@between_sequences
@click.pass_obj
def diff_vectors(ctx: Context, pair: str, before: int, after: int) -> None:
    """Show which rows sequence AFTER added, removed and changed against BEFORE."""
    from understudy.vectors.pull import diff, render_diff

    service, chosen = open_pair(ctx, "vector_index", pair)
    changes = diff(service.vault, chosen.name, before, after)
    ctx.screen.result(changes.as_json(), render_diff(chosen.name, before, after, changes))


# ----------------------------------------------------------------------------------------------------------- features


@click.command("list")
@click.argument("pair", required=False, shell_complete=pairs)
@click.pass_obj
def list_features(ctx: Context, pair: str | None) -> None:
    """List every sequence of a view in the vault."""
    from understudy.features.manifest import manifests_prefix, read_manifest

    service, chosen = open_pair(ctx, "feature_store", pair)
    numbers = service.vault.sequences(manifests_prefix(chosen.name))
    value: list[dict[str, Any]] = []
    for number in numbers:
        m = read_manifest(service.vault, chosen.name, number)
        value.append(
            {
                "view": m.view,
                "sequence": m.sequence,
                "watermark": m.watermark.isoformat(),
                "files": len(m.files),
                "rows": sum(file.rows for file in m.files),
                "bytes": sum(file.size for file in m.files),
                "digest": m.digest,
            }
        )
    rows = [
        [
            str(v["sequence"]),
            v["watermark"],
            str(v["files"]),
            f"{v['rows']:,}",
            human_bytes(v["bytes"]),
            v["digest"][:12],
        ]
        for v in value
    ]
    lines = table(["SEQUENCE", "WATERMARK", "FILES", "ROWS", "SIZE", "DIGEST"], rows)
    ctx.screen.result(value, lines if value else [f"the vault holds no sequence of {chosen.name} yet"])


@click.command("show")
@at_sequence
@click.pass_obj
def show_features(ctx: Context, pair: str | None, sequence: int | None) -> None:
    """Show one sequence's schema, files and watermark; the newest when none is named."""
    from dataclasses import asdict

    from understudy.features.pull import wanted

    service, chosen = open_pair(ctx, "feature_store", pair)
    manifest = wanted(service.vault, chosen.name, sequence)
    rows = sum(file.rows for file in manifest.files)
    lines = [
        (
            f"{manifest.view} {manifest.sequence}: {rows:,} rows in {len(manifest.files)} files, "
            f"{human_bytes(sum(file.size for file in manifest.files))}; watermark {manifest.watermark.isoformat()}"
        ),
        f"digest {manifest.digest}",
        *table(["FEATURE", "TYPE"], [[name, kind] for name, kind in sorted(manifest.schema.items())]),
    ]
    value = {
        "view": manifest.view,
        "sequence": manifest.sequence,
        "watermark": manifest.watermark.isoformat(),
        "digest": manifest.digest,
        "schema": manifest.schema,
        "files": [asdict(file) for file in manifest.files],
        "vanished": list(manifest.vanished),
    }
    ctx.screen.result(value, lines)


@click.command("pull")
@at_sequence
@_FOLDER
@click.pass_obj
def pull_features(ctx: Context, pair: str | None, sequence: int | None, folder: Path) -> None:
    """Write a view's offline Parquet files to FOLDER/VIEW, each proven by BLAKE3."""
    from understudy.features.pull import pull

    service, chosen = open_pair(ctx, "feature_store", pair)
    report = pull(service.vault, folder, view=chosen.name, sequence=sequence, progress=ctx.screen.progress)
    ctx.screen.reports([report], empty="")


@click.command("diff")
@between_sequences
@click.pass_obj
def diff_features(ctx: Context, pair: str, before: int, after: int) -> None:
    """Show which files, rows and features sequence AFTER changed against BEFORE."""
    from understudy.features.pull import diff, render_diff, wanted

    service, chosen = open_pair(ctx, "feature_store", pair)
    old, new = (wanted(service.vault, chosen.name, number) for number in (before, after))
    changes = diff(old, new)
    ctx.screen.result(changes.as_json(), render_diff(old, new, changes))
