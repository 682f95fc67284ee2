"""``understudy artifacts | vectors | features``: what the schedules run, by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from understudy.command import contents
from understudy.command.completion import pairs, sites
from understudy.command.contents import open_pair
from understudy.command.moment import AS_OF, as_moment
from understudy.command.screen import table
from understudy.errors import Corrupt, InvalidConfig, NotFound, Refused
from understudy.report import human_bytes

if TYPE_CHECKING:
    from understudy.artifacts.catalog import Outline, Unreadable
    from understudy.command.root import Context
    from understudy.report import Report
    from understudy.service import Service


#: So many manifests that cannot be read are named in one sentence; the others are counted.
_NAMED_MAX = 3
_DRY = click.option("--dry-run", "dry", is_flag=True, help="Say what a run would do; write nothing.")


def _set_at(service: Service, text: str | None) -> int | None:
    """Return which set was the newest at a moment that somebody typed; None for now."""
    moment = as_moment(text)
    return service.set_as_of(moment).sequence if moment else None


@click.group()
def artifacts() -> None:
    """Model files: push, hydrate, list, show, tag, pull, diff, verify."""


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


def _tell_damaged(ctx: Context, reports: list[Report], words: str = "was left as it is") -> int:
    """Name the models that were passed over, once the others are done; return the exit code."""
    damaged = [report for report in reports if report.details.get("action") == "damaged"]
    if not damaged:
        return 0
    absent = all(report.details["kind"] == NotFound.kind for report in damaged)
    told = (NotFound if absent else Corrupt)(
        "; ".join(f"{_label(report)} {words}: {report.details['reason']}" for report in damaged),
        hint=damaged[0].details["hint"],
        next_command="understudy artifacts hydrate" if absent else "understudy vault verify",
    )
    if not ctx.screen.as_json:  # there each report says it
        ctx.screen.error(told)
    return told.exit_code


def _label(report: Report) -> str:
    return f"{report.name} {report.version}".rstrip()


@artifacts.command("hydrate")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to fill; else the standby.")
@AS_OF
@click.option("--full", is_flag=True, help="Read back every file that is there: after damage.")
@_DRY
@click.pass_obj
def hydrate_artifacts(ctx: Context, /, pair: str | None, **options: Any) -> int:  # noqa: ANN401 - click's own
    """Bring a site's serving bucket to the model that the newest set pins, or to what the vault held at a moment.

    What the config's `serving` asks for follows: the CDN is warmed, and the loading of the model is timed.

    A model that is damaged is left as it is (exit code 8); the others go on.
    """
    service, chosen = open_pair(ctx, "training", pair, dry=options["dry"])
    reports = service.hydrate(
        chosen,
        role=service.settings.role_of(options["site"]) if options["site"] else None,
        as_of=as_moment(options["as_of"]),
        full=options["full"],
        follow=not options["dry"],
        progress=ctx.screen.progress,
    )
    ctx.screen.reports(reports, empty=f"{chosen.name}: the vault holds no model yet", dry=options["dry"])
    return _tell_damaged(ctx, reports)


def _unread(found: Unreadable) -> dict[str, Any]:
    names = {"model": found.model, "version": found.version, "revision": found.revision}
    return {**names, "digest": "", "parent": None, "tags": {}, "files": [], "damage": found.damage.message}


def _summary(found: Outline) -> dict[str, Any]:
    return {
        "model": found.model,
        "version": found.version,
        "revision": found.revision,
        "digest": found.digest,
        "parent": asdict(found.parent) if found.parent else None,
        "tags": found.tags,
        "files": [{"path": path, "size": size, "sha256": sha256} for path, size, sha256 in found.files],
        "damage": "",
    }


@artifacts.command("list")
@click.argument("model", required=False)
@click.pass_obj
def list_artifacts(ctx: Context, model: str | None) -> int:
    """List every version in the vault, of MODEL or of all.

    What cannot be read is named, after the others are listed (exit code 8).
    """
    from understudy.artifacts.catalog import Unreadable, outlines

    service, _ = open_pair(ctx, "training", None)
    rows, value, damaged = [], [], []
    for found in outlines(service.vault, model, files=ctx.screen.as_json):
        if isinstance(found, Unreadable):
            damaged.append(found)
            rows.append([found.model, found.version, str(found.revision), "-", "-", "cannot be read"])
        else:
            size, digest = human_bytes(found.size), found.digest[:12]
            rows.append([found.model, found.version, str(found.revision), str(found.count), size, digest])
        if ctx.screen.as_json:
            value.append(_unread(found) if isinstance(found, Unreadable) else _summary(found))
    ctx.screen.result(value, table(["MODEL", "VERSION", "REVISION", "FILES", "SIZE", "DIGEST"], rows))
    if not damaged:
        return 0
    more = f"; and {len(damaged) - _NAMED_MAX} more" if len(damaged) > _NAMED_MAX else ""
    told = Corrupt(
        "; ".join(found.damage.message for found in damaged[:_NAMED_MAX]) + more,
        hint=damaged[0].damage.hint,
        next_command="understudy vault verify",
    )
    if not ctx.screen.as_json:  # there each of them says it
        ctx.screen.error(told)
    return told.exit_code


@artifacts.command("show")
@click.argument("model")
@click.argument("version", required=False)
@click.pass_obj
def show_artifact(ctx: Context, model: str, version: str | None) -> None:
    """Show one version's files, digests and lineage, and what restoring it would read."""
    from understudy.artifacts.catalog import find_manifest, outline
    from understudy.artifacts.tags import read_tags, shown

    service, _ = open_pair(ctx, "training", None)
    manifest = find_manifest(service.vault, model, version)
    cost = service.restore_cost(manifest)
    tags = manifest.tags | shown(read_tags(service.vault, model), manifest.version, manifest.revision)
    parent = f"{manifest.parent.version} r{manifest.parent.revision}" if manifest.parent else "none"
    lines = [f"{manifest.model} {manifest.version} r{manifest.revision}  digest {manifest.digest}  parent {parent}"]
    lines += [f"{name}: {text!r}" for name, text in sorted(tags.items())]
    lines += table(
        ["FILE", "SIZE", "SHA-256"], [[file.path, human_bytes(file.size), file.sha256] for file in manifest.files]
    )
    lines.append(cost.sentence)
    ctx.screen.result(_summary(outline(manifest)) | {"tags": tags, "restore": cost.as_json()}, lines)


@artifacts.command("tag")
@click.argument("model")
@click.argument("version")
@click.argument("name")
@click.option("--remove", is_flag=True, help="Take the tag away; the version stays until vault.keep lets it go.")
@click.pass_obj
def tag_artifact(ctx: Context, model: str, version: str, name: str, *, remove: bool) -> None:
    """Give VERSION of MODEL a tag, NAME: with vault.keep.tagged a prune keeps it for that."""
    from understudy.artifacts.tags import give, take

    service, _ = open_pair(ctx, "training", None)
    done = (take if remove else give)(service.vault, model, version, name)
    keep = service.settings.vault.keep
    tagged = keep.tagged if keep else True
    lines = [done.sentence]
    if not remove and keep and not (tagged is True or (tagged and name in tagged)):
        lines.append(f"next: vault: {{keep: {{tagged: [{name}]}}}}, else no prune keeps a version for this tag")
    ctx.screen.result(done.as_json(), lines)


@artifacts.command("verify")
@click.argument("pair", required=False, shell_complete=pairs)
@click.option("--site", shell_complete=sites, help="The site to check; else the standby.")
@click.pass_obj
def verify_artifacts(ctx: Context, pair: str | None, site: str | None) -> int:
    """Read a site's served models back and compare every file's SHA-256.

    A model that is damaged is named (exit code 8); the others are read all the same.
    """
    service, chosen = open_pair(ctx, "training", pair)
    role = service.settings.role_of(site) if site else None
    reports = service.verify_models(chosen, role=role)
    ctx.screen.reports(reports, empty=f"{chosen.name}: nothing is served there yet")
    return _tell_damaged(ctx, reports, "was not proven")


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
@AS_OF
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
@AS_OF
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
