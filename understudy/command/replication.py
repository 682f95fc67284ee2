"""``understudy artifacts | vectors | features``: what the schedules run, by hand."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from understudy.command import contents
from understudy.command.completion import pairs, sites
from understudy.command.contents import open_pair
from understudy.command.screen import table
from understudy.errors import Corrupt, InvalidConfig, Refused
from understudy.report import human_bytes

if TYPE_CHECKING:
    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.command.root import Context
    from understudy.report import Report
    from understudy.service import Service


_DRY = click.option("--dry-run", "dry", is_flag=True, help="Say what a run would do; write nothing.")
_AS_OF = click.option("--as-of", metavar="MOMENT", help="The state at this moment (ISO 8601); else the newest.")


def _set_at(service: Service, text: str | None) -> int | None:
    """Return which set was the newest at a moment that somebody typed; None for now."""
    moment = as_moment(text)
    return service.set_as_of(moment).sequence if moment else None


def as_moment(text: str | None) -> datetime | None:
    """Read ``--as-of``: ISO 8601, UTC where no zone is written."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidConfig(f"{text!r} is no moment", hint="write it like 2026-11-21T03:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group()
def artifacts() -> None:
    """Model files: push, hydrate, list, show, pull, diff, verify."""


@artifacts.command("push")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--model", help="Only this model.")
@click.option(
    "--accept-change",
    metavar="REASON",
    help="Take versions that would be refused for their tensors or files; the manifest keeps REASON and what it was.",
)
@_DRY
@click.pass_obj
def push_artifacts(ctx: Context, /, pair: str | None, **options: Any) -> int:  # noqa: ANN401 - click's own
    """Send new and changed model versions of PAIR into the vault.

    A version that contradicts its own files, or its parent's tensors, is refused (exit code 4); a model that is damaged
    in the vault is left as it is (exit code 8); the others go on.
    """
    accept_change, dry = options["accept_change"], options["dry"]
    if accept_change is not None and not accept_change.strip():
        raise InvalidConfig("--accept-change needs a reason", hint="say who accepts what, and why")
    service, chosen = open_pair(ctx, "training", pair, dry=dry)
    reports = service.push_artifacts(
        chosen, model=options["model"], accept_change=accept_change, progress=ctx.screen.progress
    )
    ctx.screen.reports(reports, empty=f"{chosen.name}: no model at the source", dry=dry)
    failed = _tell_damaged(ctx, reports)
    refused = [report for report in reports if report.details.get("action") == "refused"]
    if not refused:
        return failed
    told = Refused(
        "; ".join(f"{report.name} {report.version} was not taken, {report.details['reason']}" for report in refused),
        hint="what was served stays served; if the change is meant, say why",
        next_command=refused[0].details["next"],
    )
    if not ctx.screen.as_json:  # there each report says it
        ctx.screen.error(told)
    return failed or told.exit_code


def _tell_damaged(ctx: Context, reports: list[Report]) -> int:
    """Name the models that were left as they are, once the others are done; return the exit code."""
    damaged = [report for report in reports if report.details.get("action") == "damaged"]
    if not damaged:
        return 0
    told = Corrupt(
        "; ".join(f"{report.name} was left as it is: {report.details['reason']}" for report in damaged),
        hint=damaged[0].details["hint"],
        next_command="understudy vault verify",
    )
    if not ctx.screen.as_json:  # there each report says it
        ctx.screen.error(told)
    return told.exit_code


@artifacts.command("hydrate")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to fill; else the standby.")
@_AS_OF
@click.option("--full", is_flag=True, help="Read back every file that is there: after damage.")
@_DRY
@click.pass_obj
def hydrate_artifacts(ctx: Context, /, pair: str | None, **options: Any) -> int:  # noqa: ANN401 - click's own
    """Bring a site's serving bucket to the model that the newest set pins, or the set of a moment.

    A model that is damaged is left as it is (exit code 8); the others go on.
    """
    service, chosen = open_pair(ctx, "training", pair, dry=options["dry"])
    reports = service.hydrate(
        chosen,
        role=service.settings.role_of(options["site"]) if options["site"] else None,
        set_sequence=_set_at(service, options["as_of"]),
        full=options["full"],
        progress=ctx.screen.progress,
    )
    ctx.screen.reports(reports, empty=f"{chosen.name}: the vault holds no model yet", dry=options["dry"])
    return _tell_damaged(ctx, reports)


def _summary(manifest: ArtifactManifest) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "revision": manifest.revision,
        "digest": manifest.digest,
        "parent": asdict(manifest.parent) if manifest.parent else None,
        "tags": manifest.tags,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
    }


@artifacts.command("list")
@click.argument("model", required=False)
@click.pass_obj
def list_artifacts(ctx: Context, model: str | None) -> None:
    """List every version in the vault, of MODEL or of all."""
    from understudy.artifacts.catalog import all_manifests

    service, _ = open_pair(ctx, "training", None)
    manifests = all_manifests(service.vault, model)
    rows = [
        [
            m.model,
            m.version,
            str(m.revision),
            str(len(m.files)),
            human_bytes(sum(f.size for f in m.files)),
            m.digest[:12],
        ]
        for m in manifests
    ]
    ctx.screen.result(
        [_summary(m) for m in manifests], table(["MODEL", "VERSION", "REVISION", "FILES", "SIZE", "DIGEST"], rows)
    )


@artifacts.command("show")
@click.argument("model")
@click.argument("version", required=False)
@click.pass_obj
def show_artifact(ctx: Context, model: str, version: str | None) -> None:
    """Show one version's files, digests and lineage."""
    from understudy.artifacts.catalog import find_manifest

    service, _ = open_pair(ctx, "training", None)
    manifest = find_manifest(service.vault, model, version)
    parent = f"{manifest.parent.version} r{manifest.parent.revision}" if manifest.parent else "none"
    lines = [f"{manifest.model} {manifest.version} r{manifest.revision}  digest {manifest.digest}  parent {parent}"]
    lines += [f"{name}: {text!r}" for name, text in sorted(manifest.tags.items())]
    lines += table(
        ["FILE", "SIZE", "SHA-256"], [[file.path, human_bytes(file.size), file.sha256] for file in manifest.files]
    )
    ctx.screen.result(_summary(manifest), lines)


@artifacts.command("verify")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to check; else the standby.")
@click.pass_obj
def verify_artifacts(ctx: Context, pair: str | None, site: str | None) -> None:
    """Read a site's served model back and compare every file's SHA-256."""
    service, chosen = open_pair(ctx, "training", pair)
    role = service.settings.role_of(site) if site else None
    reports = service.verify_models(chosen, role=role)
    ctx.screen.reports(reports, empty=f"{chosen.name}: nothing is served there yet")


@click.group()
def vectors() -> None:
    """Vector indexes: export, rebuild, list, show, pull, diff, verify."""


@vectors.command("export")
@click.argument("pair", required=False, shell_complete=pairs)
@_DRY
@click.pass_obj
def export_vectors(ctx: Context, pair: str | None, *, dry: bool) -> None:
    """Export the active site's index into the vault as Parquet."""
    service, chosen = open_pair(ctx, "vector_index", pair, dry=dry)
    ctx.screen.reports([service.export_vectors(chosen, progress=ctx.screen.progress)], empty="", dry=dry)


@vectors.command("rebuild")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to rebuild; else the standby.")
@_AS_OF
@click.option("--full", is_flag=True, help="Also where nothing seems to have changed: after damage.")
@_DRY
@click.pass_obj
def rebuild_vectors(ctx: Context, /, pair: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Rebuild a site's index from the vault as the newest set pins it, or that of a moment; prove it, swap it in."""
    service, chosen = open_pair(ctx, "vector_index", pair, dry=options["dry"])
    role = service.settings.role_of(options["site"]) if options["site"] else None
    sequence = _set_at(service, options["as_of"])
    if options["dry"]:
        report = service.preview_index(chosen, role=role, set_sequence=sequence, full=options["full"])
    else:
        report = service.rebuild_index(
            chosen, role=role, set_sequence=sequence, full=options["full"], progress=ctx.screen.progress
        )
    ctx.screen.reports([report], empty="", dry=options["dry"])


@vectors.command("verify")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to check; else the standby.")
@click.pass_obj
def verify_vectors(ctx: Context, pair: str | None, site: str | None) -> None:
    """Read a site's index back and compare its digest with the vault's."""
    service, chosen = open_pair(ctx, "vector_index", pair)
    role = service.settings.role_of(site) if site else None
    ctx.screen.reports([service.verify_index(chosen, role=role)], empty="")


@click.group()
def features() -> None:
    """Features: push the offline store, rebuild the online one, list, show, pull, diff, verify, retire a writer."""


@features.command("push")
@click.argument("pair", required=False, shell_complete=pairs)
@_DRY
@click.pass_obj
def push_features(ctx: Context, pair: str | None, *, dry: bool) -> None:
    """Copy the active site's offline store into the vault and move the watermark."""
    service, chosen = open_pair(ctx, "feature_store", pair, dry=dry)
    ctx.screen.reports([service.replicate_offline(chosen)], empty="", dry=dry)


@features.command("rebuild")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to rebuild; else the standby.")
@_AS_OF
@click.option("--full", is_flag=True, help="A fresh table even where nothing seems to have changed: after damage.")
@_DRY
@click.pass_obj
def rebuild_features(ctx: Context, /, pair: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Rebuild a site's online store from the vault's offline store, proven by digest."""
    service, chosen = open_pair(ctx, "feature_store", pair, dry=options["dry"])
    role = service.settings.role_of(options["site"]) if options["site"] else None
    moment = as_moment(options["as_of"])
    if options["dry"]:
        report = service.preview_features(chosen, role=role, as_of=moment, full=options["full"])
    else:
        report = service.rebuild_features(
            chosen, role=role, as_of=moment, full=options["full"], progress=ctx.screen.progress
        )
    ctx.screen.reports([report], empty="", dry=options["dry"])


@features.command("verify")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to check; else the standby.")
@click.pass_obj
def verify_features(ctx: Context, pair: str | None, site: str | None) -> None:
    """Read a site's online store back and compare it with the offline truth."""
    service, chosen = open_pair(ctx, "feature_store", pair)
    role = service.settings.role_of(site) if site else None
    ctx.screen.reports([service.verify_features(chosen, role=role)], empty="")


@features.command("retire")
@click.argument("pair")
@click.argument("writer")
@click.pass_obj
def retire_writer(ctx: Context, pair: str, writer: str) -> None:
    """Say that WRITER of PAIR's event log is gone for good: it no longer holds the watermark back.

    Refused while it gives signs of life. Its rows stay. One that comes back after all counts as open again.
    """
    from understudy.features.log import retire

    service, chosen = open_pair(ctx, "feature_store", pair)
    ctx.screen.reports([retire(service.offline(chosen, service.active()), writer)], empty="")


for _group, _commands in (
    (artifacts, (contents.pull_artifacts, contents.diff_artifacts)),
    (vectors, (contents.list_vectors, contents.show_vectors, contents.pull_vectors, contents.diff_vectors)),
    (features, (contents.list_features, contents.show_features, contents.pull_features, contents.diff_features)),
):
    for _command in _commands:
        _group.add_command(_command)
