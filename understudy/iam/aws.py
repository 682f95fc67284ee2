"""An identity's needs as one AWS IAM policy document.

Actions, resources and condition keys as in the Service Authorization Reference:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html. A PUT that must carry
``If-None-Match`` or ``If-Match`` is granted by ``s3:if-none-match`` and ``s3:if-match``, and so is the request that
completes an upload in parts; those that begin it and send the parts create no object (``s3:ObjectCreationOperation``):
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes-enforce.html
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from understudy.errors import InvalidConfig
from understudy.settings import split_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from understudy.iam.needs import Identity, Need, Verb

#: Characters without white space that a managed policy may have.
POLICY_CHARACTERS_MAX = 6144
#: Managed policies that a role may have before AWS is asked for more.
POLICIES_MAX = 10
SCHEMES = frozenset({"s3", "dynamodb", "route53", "route53-health-check"})

_PRESENT = "false"  # of the operator Null: the key is not absent
_OBJECT_ACTIONS: tuple[tuple[Verb, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("read", "ReadObjects", ("s3:GetObject",), {}),
    ("read_versions", "ReadVersions", ("s3:GetObjectVersion",), {}),
    ("create", "CreateObjects", ("s3:PutObject",), {"Null": {"s3:if-none-match": _PRESENT}}),
    ("parts", "SendParts", ("s3:PutObject",), {"Bool": {"s3:ObjectCreationOperation": "false"}}),
    ("parts", "GiveUpParts", ("s3:AbortMultipartUpload",), {}),
    ("replace", "ReplaceByCompareAndSet", ("s3:PutObject",), {"Null": {"s3:if-match": _PRESENT}}),
    ("put", "WriteObjects", ("s3:AbortMultipartUpload", "s3:PutObject"), {}),
    ("tier", "CopyOntoThemselves", ("s3:PutObject",), {"Null": {"s3:x-amz-copy-source": _PRESENT}}),
    ("delete", "DeleteObjects", ("s3:DeleteObject",), {}),
)
_TABLE_ACTIONS = (
    "dynamodb:BatchGetItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:CreateTable",
    "dynamodb:DeleteTable",
    "dynamodb:DescribeTable",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Scan",
)
#: The pointer's table is never dropped nor filled in bulk.
_POINTER_ACTIONS = ("dynamodb:CreateTable", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:PutItem")


def policy(needs: Sequence[Need], *, account: str = "*", kms_keys: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return the policy document for what AWS grants among the needs; None when that is nothing.

    Args:
        needs: see ``understudy.iam.needs``.
        account: the account of the tables, in their ARNs; ``*`` stands for whichever the role is in.
        kms_keys: ARNs of keys that encrypt the buckets (SSE-KMS); without one nothing of KMS is granted.
    """
    mine = [need for need in needs if need.scheme in SCHEMES]
    buckets = [need for need in mine if need.scheme == "s3"]
    granted = [need for need in buckets if not need.deny]
    statements = [
        *_listings(granted),
        *_objects(granted),
        *_keys(granted, kms_keys),
        *_tables([need for need in mine if need.scheme == "dynamodb"], account),
        *_route53([need for need in mine if need.scheme.startswith("route53") and not need.deny]),
        *_denials([need for need in mine if need.deny]),
    ]
    return {"Version": "2012-10-17", "Statement": statements} if statements else None


def split(document: dict[str, Any], *, identity: Identity) -> tuple[dict[str, Any], ...]:
    """Return a policy as one document or several that say the same, each within what a managed policy may have.

    Raises:
        InvalidConfig: a role cannot have so many, or one statement cannot be made shorter.
    """
    parts: list[list[dict[str, Any]]] = [[]]
    for statement in (piece for each in document["Statement"] for piece in _pieces(each, identity)):
        if parts[-1] and not _fits([*parts[-1], statement]):
            parts.append([])
        parts[-1].append(statement)
    if len(parts) > POLICIES_MAX:
        raise InvalidConfig(
            f"the identity {identity!r} needs {len(parts)} policies in AWS, and a role takes {POLICIES_MAX}",
            hint="keep fewer pairs in one config, or put them below fewer buckets",
        )
    return tuple({**document, "Statement": part} for part in parts)


def _pieces(statement: dict[str, Any], identity: Identity) -> list[dict[str, Any]]:
    """Return a statement, or as many of the same with a part of its resources each as are needed to fit."""
    resources = statement["Resource"]
    for count in range(1, len(resources) + 1):
        cut = [resources[len(resources) * i // count : len(resources) * (i + 1) // count] for i in range(count)]
        pieces = [
            {**statement, "Sid": f"{statement['Sid']}{i if count > 1 else ''}", "Resource": part}
            for i, part in enumerate(cut, 1)
        ]
        if all(_fits([piece]) for piece in pieces):
            return pieces
    raise InvalidConfig(
        f"the identity {identity!r} needs a statement {statement['Sid']} in AWS that is longer than a policy may be "
        f"({POLICY_CHARACTERS_MAX} characters)",
        hint="keep fewer pairs in one config, or put them below fewer prefixes of a bucket",
    )


def _fits(statements: Sequence[dict[str, Any]]) -> bool:
    whole = {"Version": "2012-10-17", "Statement": statements}
    return len(json.dumps(whole, separators=(",", ":"))) <= POLICY_CHARACTERS_MAX


def partition_of(region: str) -> str:
    """Return the partition that stands in the ARNs of a region."""
    return {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(region.rpartition("-")[0].rpartition("-")[0], "aws")


def _listings(needs: Sequence[Need]) -> list[dict[str, Any]]:
    """Grant listings below the prefixes alone, bucket by bucket.

    IfExists, because two questions carry no prefix: HeadBucket, which tells the bucket's clock, and the one behind a
    missing object: S3 answers 404 instead of 403 only to who may list.
    """
    prefixes: dict[str, set[str]] = defaultdict(set)
    pinned = {_bucket_arn(need) for need in needs if "list_versions" in need.verbs}
    inspected = sorted({_bucket_arn(need) for need in needs if "inspect" in need.verbs})
    surveyed = sorted({_bucket_arn(need) for need in needs if "survey" in need.verbs})
    for need in needs:
        if "list" in need.verbs:
            prefixes[_bucket_arn(need)] |= set(need.full_keys())
    statements = []
    for number, (arn, found) in enumerate(sorted(prefixes.items()), 1):
        actions = ("s3:ListBucket", "s3:ListBucketVersions") if arn in pinned else ("s3:ListBucket",)
        statement = _statement(f"List{number}", actions, [arn])
        if "" not in found:
            asked = [f"{prefix}*" if prefix.endswith("/") else prefix for prefix in _outermost(found)]
            statement["Condition"] = {"StringLikeIfExists": {"s3:prefix": asked}}
        statements.append(statement)
    if inspected:
        statements.append(_statement("SeeWhetherVersionsAreKept", ("s3:GetBucketVersioning",), inspected))
    if surveyed:
        looks = ("s3:GetBucketVersioning", "s3:GetReplicationConfiguration")
        statements.append(_statement("SeeHowBucketsAreKept", looks, surveyed))
    return statements


def _objects(needs: Sequence[Need]) -> list[dict[str, Any]]:
    statements = []
    for verb, sid, actions, condition in _OBJECT_ACTIONS:
        arns = sorted({arn for need in needs if verb in need.verbs for arn in _object_arns(need)})
        if arns:
            statements.append(_statement(sid, actions, _without_covered(arns), condition))
    return statements


def _keys(needs: Sequence[Need], kms_keys: Sequence[str]) -> list[dict[str, Any]]:
    keys = {*kms_keys, *(key for need in needs if (key := need.kms_key).startswith("arn:"))}
    if not keys or not needs:
        return []
    writes = any(need.verbs & {"create", "replace", "put", "tier"} for need in needs)
    # Decrypt also for writing in parts: https://repost.aws/knowledge-center/s3-large-file-encryption-kms-key
    actions = ("kms:Decrypt", "kms:GenerateDataKey") if writes else ("kms:Decrypt",)
    through = sorted({f"s3.{need.access.region}.amazonaws.com" for need in needs})
    condition = {"StringEquals": {"kms:ViaService": through}}
    return [_statement("UseKeysThroughS3", actions, sorted(keys), condition)]


def _tables(needs: Sequence[Need], account: str) -> list[dict[str, Any]]:
    pointers, data, regions = set(), set(), set()
    for need in needs:
        if need.verbs != {"work"}:
            raise InvalidConfig(
                f"{need.url} is no place of objects, and nothing else is asked of it",
                hint="name the store of objects that is meant: features have theirs under offline",
            )
        stem = f"arn:{partition_of(need.access.region)}:dynamodb:{need.access.region}:{account}:table/{need.bucket}"
        pointers.add(stem)
        data.add(f"{stem}__*")
        regions.add(need.access.region)
    if not needs:
        return []
    # ListTables knows no resource: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazondynamodb.html
    listing = _statement("ListTables", ("dynamodb:ListTables",), ["*"])
    listing["Condition"] = {"StringEquals": {"aws:RequestedRegion": sorted(regions)}}
    return [
        listing,
        _statement("RebuildTables", _TABLE_ACTIONS, sorted(data)),
        _statement("MovePointers", _POINTER_ACTIONS, sorted(pointers)),
    ]


def _route53(needs: Sequence[Need]) -> list[dict[str, Any]]:
    statements = []
    for need in needs:
        partition = partition_of(need.access.region)
        if need.scheme == "route53-health-check":
            check = f"arn:{partition}:route53:::healthcheck/{need.bucket}"
            statements.append(
                _statement("MoveTheAlarm", ("route53:GetHealthCheck", "route53:UpdateHealthCheck"), [check])
            )
            continue
        zone = f"arn:{partition}:route53:::hostedzone/{need.bucket.rpartition('/')[2]}"
        statements.append(_statement("ReadTheZone", ("route53:ListResourceRecordSets",), [zone]))
        if "work" in need.verbs:
            statements.append(
                _statement("MoveTheName", ("route53:ChangeResourceRecordSets",), [zone], _of_the_name(need))
            )
            change = f"arn:{partition}:route53:::change/*"
            statements.append(_statement("AwaitTheChange", ("route53:GetChange",), [change]))
    return statements


def _of_the_name(need: Need) -> dict[str, Any]:
    """Allow upserts of A records of that one name; Null, because of an empty set ForAllValues says yes."""
    keys = {
        "route53:ChangeResourceRecordSetsNormalizedRecordNames": [split_url(need.url)[2].rstrip(".").lower()],
        "route53:ChangeResourceRecordSetsRecordTypes": ["A"],
        "route53:ChangeResourceRecordSetsActions": ["UPSERT"],
    }
    return {"ForAllValues:StringEquals": keys, "Null": dict.fromkeys(keys, _PRESENT)}


def _denials(needs: Sequence[Need]) -> list[dict[str, Any]]:
    """Refuse, also where another policy of the same role grants it."""
    objects = sorted({arn for need in needs if need.scheme == "s3" for arn in _object_arns(need)})
    zones = any(need.scheme.startswith("route53") for need in needs)
    statements = []
    if objects:
        writes = ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObject")
        statements.append(_statement("NeverTouchProduction", writes, _without_covered(objects), effect="Deny"))
    if zones:
        moves = ("route53:ChangeResourceRecordSets", "route53:UpdateHealthCheck")
        statements.append(_statement("NeverMoveTraffic", moves, ["*"], effect="Deny"))
    return statements


def _statement(
    sid: str,
    actions: Sequence[str],
    resources: Sequence[str],
    condition: dict[str, Any] | None = None,
    *,
    effect: str = "Allow",
) -> dict[str, Any]:
    statement = {"Sid": sid, "Effect": effect, "Action": sorted(actions), "Resource": list(resources)}
    return statement | ({"Condition": condition} if condition else {})


def _bucket_arn(need: Need) -> str:
    return f"arn:{partition_of(need.access.region)}:s3:::{need.bucket}"


def _object_arns(need: Need) -> list[str]:
    arn = _bucket_arn(need)
    return [f"{arn}/{key}*" if not key or key.endswith("/") else f"{arn}/{key}" for key in need.full_keys()]


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Return the prefixes that no other one of them covers, sorted."""
    kept: list[str] = []
    for prefix in sorted(prefixes):
        if not any(prefix.startswith(outer) for outer in kept if outer == "" or outer.endswith("/")):
            kept.append(prefix)
    return kept


def _without_covered(arns: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for arn in sorted(arns, key=lambda each: (len(each), each)):
        if not any(outer.endswith("*") and arn.startswith(outer[:-1]) for outer in kept):
            kept.append(arn)
    return sorted(kept)
