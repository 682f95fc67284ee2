"""``understudy artifacts | vectors | features``: what the schedules run, by hand."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from understudy.command.screen import table
from understudy.errors import InvalidConfig
from understudy.report import human_bytes

if TYPE_CHECKING:
    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.command.root import Context
    from understudy.service import Service
    from understudy.settings import ComponentName, Pair


def _open(ctx: Context, component: ComponentName, name: str | None) -> tuple[Service, Pair]:
    from understudy.service import open_service

    service = open_service(ctx.config)
    return service, service.settings.pair(component, name)


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
    """Model files: push, hydrate, list, show, verify."""


@artifacts.command("push")
@click.argument("pair", required=False)
@click.option("--model", help="Only this model.")
@click.pass_obj
def push_artifacts(ctx: Context, pair: str | None, model: str | None) -> None:
    """Send new and changed model versions of PAIR into the vault."""
    service, chosen = _open(ctx, "training", pair)
    reports = service.push_artifacts(chosen, model=model, progress=ctx.screen.progress)
    ctx.screen.reports(reports, empty=f"{chosen.name}: no model at the source")


@artifacts.command("hydrate")
@click.argument("pair", required=False)
@click.option("--site", help="The site to fill; else the standby.")
@click.option("--full", is_flag=True, help="Read back every file that is there: after damage.")
@click.pass_obj
def hydrate_artifacts(ctx: Context, /, pair: str | None, site: str | None, *, full: bool) -> None:
    """Bring a site's serving bucket to the model that the newest set pins."""
    service, chosen = _open(ctx, "training", pair)
    role = service.settings.role_of(site) if site else None
    ctx.screen.reports(
        service.hydrate(chosen, role=role, full=full, progress=ctx.screen.progress),
        empty=f"{chosen.name}: the vault holds no model yet",
    )


def _summary(manifest: ArtifactManifest) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "version": manifest.version,
        "revision": manifest.revision,
        "digest": manifest.digest,
        "parent": asdict(manifest.parent) if manifest.parent else None,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
    }


@artifacts.command("list")
@click.pass_obj
def list_artifacts(ctx: Context) -> None:
    """List every model version in the vault."""
    from understudy.artifacts.catalog import all_manifests

    service, _ = _open(ctx, "training", None)
    manifests = all_manifests(service.vault)
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

    service, _ = _open(ctx, "training", None)
    manifest = find_manifest(service.vault, model, version)
    parent = f"{manifest.parent.version} r{manifest.parent.revision}" if manifest.parent else "none"
    lines = [f"{manifest.model} {manifest.version} r{manifest.revision}  digest {manifest.digest}  parent {parent}"]
    lines += table(
        ["FILE", "SIZE", "SHA-256"], [[file.path, human_bytes(file.size), file.sha256] for file in manifest.files]
    )
    ctx.screen.result(_summary(manifest), lines)


@artifacts.command("verify")
@click.argument("pair", required=False)
@click.option("--site", help="The site to check; else the standby.")
@click.pass_obj
def verify_artifacts(ctx: Context, pair: str | None, site: str | None) -> None:
    """Read a site's served model back and compare every file's SHA-256."""
    service, chosen = _open(ctx, "training", pair)
    role = service.settings.role_of(site) if site else None
    reports = service.verify_models(chosen, role=role)
    ctx.screen.reports(reports, empty=f"{chosen.name}: nothing is served there yet")


@click.group()
def vectors() -> None:
    """Vector indexes: export, rebuild, verify."""


@vectors.command("export")
@click.argument("pair", required=False)
@click.pass_obj
def export_vectors(ctx: Context, pair: str | None) -> None:
    """Export the active site's index into the vault as Parquet."""
    service, chosen = _open(ctx, "vector_index", pair)
    ctx.screen.reports([service.export_vectors(chosen, progress=ctx.screen.progress)], empty="")


@vectors.command("rebuild")
@click.argument("pair", required=False)
@click.option("--site", help="The site to rebuild; else the standby.")
@click.option("--full", is_flag=True, help="Also where nothing seems to have changed: after damage.")
@click.pass_obj
def rebuild_vectors(ctx: Context, /, pair: str | None, site: str | None, *, full: bool) -> None:
    """Rebuild a site's index from the vault, prove it, then swap it in."""
    service, chosen = _open(ctx, "vector_index", pair)
    role = service.settings.role_of(site) if site else None
    ctx.screen.reports([service.rebuild_index(chosen, role=role, full=full, progress=ctx.screen.progress)], empty="")


@vectors.command("verify")
@click.argument("pair", required=False)
@click.option("--site", help="The site to check; else the standby.")
@click.pass_obj
def verify_vectors(ctx: Context, pair: str | None, site: str | None) -> None:
    """Read a site's index back and compare its digest with the vault's."""
    service, chosen = _open(ctx, "vector_index", pair)
    role = service.settings.role_of(site) if site else None
    ctx.screen.reports([service.verify_index(chosen, role=role)], empty="")


@click.group()
def features() -> None:
    """Features: push the offline store, rebuild the online one, verify, retire a dead writer."""


@features.command("push")
@click.argument("pair", required=False)
@click.pass_obj
def push_features(ctx: Context, pair: str | None) -> None:
    """Copy the active site's offline store into the vault and move the watermark."""
    service, chosen = _open(ctx, "feature_store", pair)
    ctx.screen.reports([service.replicate_offline(chosen)], empty="")


@features.command("rebuild")
@click.argument("pair", required=False)
@click.option("--site", help="The site to rebuild; else the standby.")
@click.option("--as-of", metavar="MOMENT", help="The state at this moment (ISO 8601); else the newest.")
@click.option("--full", is_flag=True, help="A fresh table even where nothing seems to have changed: after damage.")
@click.pass_obj
def rebuild_features(ctx: Context, /, pair: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Rebuild a site's online store from the vault's offline store, proven by digest."""
    service, chosen = _open(ctx, "feature_store", pair)
    role = service.settings.role_of(options["site"]) if options["site"] else None
    report = service.rebuild_features(
        chosen, role=role, as_of=as_moment(options["as_of"]), full=options["full"], progress=ctx.screen.progress
    )
    ctx.screen.reports([report], empty="")


@features.command("verify")
@click.argument("pair", required=False)
@click.option("--site", help="The site to check; else the standby.")
@click.pass_obj
def verify_features(ctx: Context, pair: str | None, site: str | None) -> None:
    """Read a site's online store back and compare it with the offline truth."""
    service, chosen = _open(ctx, "feature_store", pair)
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

    service, chosen = _open(ctx, "feature_store", pair)
    ctx.screen.reports([retire(service.offline(chosen, service.active()), writer)], empty="")
