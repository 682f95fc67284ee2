"""All policies of a config: what ``understudy iam`` prints and writes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import yaml

from understudy.errors import InvalidConfig
from understudy.iam import aws, gcp
from understudy.iam.needs import needs_of, outside_the_clouds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from understudy.iam.gcp import Grant
    from understudy.iam.needs import Identity
    from understudy.settings import Settings, SiteRole

Cloud = Literal["aws", "gcp"]
S3_NOTE = (
    "S3 asks whether a missing object may be known about without a prefix, so a listing that names no prefix shows all "
    "names of the bucket: give the vault and the register a bucket each"
)


@dataclass(frozen=True, slots=True)
class Policies:
    """What one identity is granted.

    Attributes:
        identity: whose.
        aws: the policy document, however long; None when nothing of it is in AWS, or it was not asked for.
        gcp: roles and bindings; None likewise.
        notes: what the policies cannot say.
    """

    identity: Identity
    aws: dict[str, Any] | None
    gcp: Grant | None
    notes: tuple[str, ...]

    def documents(self) -> tuple[dict[str, Any], ...]:
        """Return the policies of AWS, each within its limit. Raises InvalidConfig when a role cannot have so many."""
        return aws.split(self.aws, identity=self.identity) if self.aws else ()

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        granted = self.gcp.as_json() if self.gcp else None
        return {"aws": list(self.documents()) or None, "gcp": granted, "notes": list(self.notes)}

    def render(self) -> list[str]:
        """Return lines for people: the documents as they are pasted, then the notes."""
        lines = []
        documents = self.documents()
        for number, document in enumerate(documents, 1):
            which = f", {number} of {len(documents)}" if len(documents) > 1 else ""
            lines += [f"# {self.identity}, AWS{which}", _json(document)]
        if self.gcp:
            lines += [f"# {self.identity}, Google Cloud", _yaml(self.gcp.as_json())]
        if not lines:
            lines.append(f"# {self.identity}: nothing here")
        return [*lines, *(f"# note: {note}" for note in self.notes)]

    def files(self) -> dict[str, str]:
        """Return the text of every file, by its path below the chosen folder."""
        found = {}
        for number, document in enumerate(self.documents(), 1):
            found[f"aws/{self.identity}{f'-{number}' if number > 1 else ''}.json"] = _json(document) + "\n"
        if self.gcp:
            found[f"gcp/{self.identity}.json"] = _json(self.gcp.as_json()) + "\n"
            for role in self.gcp.roles:
                found[f"gcp/roles/{role.project}/{role.id}.yaml"] = _yaml(role.definition())
        return found


def policies_of(
    identity: Identity,
    settings: Settings,
    *,
    clouds: Sequence[Cloud] = ("aws", "gcp"),
    standby: SiteRole = "away",
    account: str = "*",
    kms_keys: Sequence[str] = (),
) -> Policies:
    """Return what an identity is granted by each cloud, and nothing beyond.

    Args:
        identity: whose.
        settings: the config.
        clouds: whose policies are wanted.
        standby: the site that is filled.
        account: the AWS account in ARNs; ``*`` is whichever the role is in.
        kms_keys: ARNs of the keys that encrypt buckets in AWS.

    Raises:
        InvalidConfig: an endpoint is in Google Cloud and no project is configured; or what is needed is more than a
            cloud lets one identity have.
    """
    needs = needs_of(identity, settings, standby=standby)
    sites = (settings.sites.away, settings.sites.home, settings.register_)
    project = next((site.project for site in sites if site.project), None)
    notes: list[str] = []
    document = aws.policy(needs, account=account, kms_keys=kms_keys) if "aws" in clouds else None
    granted = gcp.grant(identity, needs, project=project) if "gcp" in clouds else None
    if document and '"s3:prefix"' in _json(document):
        notes.append(S3_NOTE)
    notes += [
        f"{key} is no ARN, which a policy needs: name the key by its ARN under storage.kms_key, or with --kms-key"
        for key in sorted({need.kms_key for need in needs if document and need.scheme == "s3" and need.kms_key})
        if not key.startswith("arn:")
    ]
    if granted:
        notes += gcp.notes(needs)
    made = Policies(identity, document, granted, (*notes, *outside_the_clouds(settings)))
    made.documents()
    return made


def write_files(chosen: Sequence[Policies], folder: Path) -> list[Path]:
    """Write all files and return their paths, sorted. Raises InvalidConfig when the folder cannot be written."""
    written = []
    for path, text in sorted(item for each in chosen for item in each.files().items()):
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidConfig(
                f"{target} cannot be written: {error.strerror}", hint="name another folder with --out"
            ) from error
        written.append(target)
    return sorted(written)


def remove_stale(chosen: Sequence[Policies], folder: Path, *, clouds: Sequence[Cloud]) -> list[Path]:
    """Remove what an earlier config left for these identities and clouds, which Terraform would go on applying.

    Files of other names are nobody's business here. Returns the removed paths, sorted.

    Raises:
        InvalidConfig: a file cannot be removed.
    """
    kept = {folder / path for each in chosen for path in each.files()}
    names = "|".join(re.escape(each.identity) for each in chosen)
    patterns: dict[Cloud, str] = {
        "aws": rf"aws/({names})(-\d+)?\.json",
        "gcp": rf"gcp/({names})\.json|gcp/roles/[^/]+/understudy_({names})_\w+\.yaml",
    }
    known = re.compile("|".join(patterns[cloud] for cloud in clouds))
    found = [path for cloud in clouds for path in (folder / cloud).rglob("*") if path.is_file()]
    stale = sorted(path for path in found if path not in kept and known.fullmatch(path.relative_to(folder).as_posix()))
    for path in stale:
        try:
            path.unlink()
        except OSError as error:
            raise InvalidConfig(
                f"{path} is of an earlier config and cannot be removed: {error.strerror}", hint="remove it by hand"
            ) from error
    return stale


def _json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(value, indent=2)


def _yaml(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text: str = yaml.safe_dump(value, sort_keys=False, width=1000)
    return text
