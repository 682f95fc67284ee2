"""An identity's needs as Google Cloud custom roles, and the bindings that limit them by resource names.

Permissions as in https://cloud.google.com/storage/docs/access-control/iam-json and
https://cloud.google.com/bigtable/docs/access-control; conditions as in
https://cloud.google.com/iam/docs/conditions-attribute-reference. On Cloud Storage an overwrite needs
``storage.objects.delete``, so who may only create cannot change what is there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from understudy.iam.needs import Identity, Need, Verb

#: Logical operators that one condition may have: https://cloud.google.com/iam/quotas
OPERATORS_MAX = 12
#: Bindings of one role to one principal that differ in their conditions alone; the same page.
BINDINGS_MAX = 20
SCHEMES = frozenset({"gs", "bigtable", "gce"})

#: What a listing, or a look at the bucket, is asked of: the bucket itself.
_BUCKET: dict[Verb, tuple[str, ...]] = {
    "list": ("storage.objects.list",),
    "inspect": ("storage.buckets.get",),
    "survey": ("storage.buckets.get",),
}
_OBJECTS: dict[Verb, tuple[str, ...]] = {
    "read": ("storage.objects.get",),
    "create": ("storage.objects.create",),
    "replace": ("storage.objects.create", "storage.objects.delete"),
    "put": ("storage.objects.create", "storage.objects.delete"),
    "tier": ("storage.objects.create", "storage.objects.delete"),
    "delete": ("storage.objects.delete",),
}
_INSTANCE = ("bigtable.instances.ping", "bigtable.tables.create", "bigtable.tables.list")
_TABLES = (
    "bigtable.tables.delete",
    "bigtable.tables.mutateRows",
    "bigtable.tables.readRows",
    "bigtable.tables.sampleRowKeys",
)
_POINTER = ("bigtable.tables.mutateRows", "bigtable.tables.readRows")
#: The data client reports its own latencies to Cloud Monitoring.
_MEASURE = ("monitoring.timeSeries.create",)
_GROUP_LOOK = ("compute.instanceGroupManagers.get",)
_GROUP_WORK = (*_GROUP_LOOK, "compute.instanceGroupManagers.update", "compute.zoneOperations.get")

#: Where a condition cannot say what is meant; shown with the policies.
NOTES = {
    "gs": "a listing is asked of the bucket, so storage.objects.list shows the names of all its objects, whatever the "
    "prefix: give the vault, the register and what is served a bucket each, with uniform bucket-level access",
    "bigtable": "tables are made and listed in the instance, so both are granted for all its tables; reading, writing "
    "and dropping are limited to the pair's own",
    "gce": "Compute Engine knows no condition on a managed instance group's name: the grant is for all groups of the "
    "project; keep the standby's group in a project of its own",
    "deny": "Google Cloud refuses by deny policies of the project, which are not made here: this identity is granted "
    "nothing of production, so give its service account no other role",
}


@dataclass(frozen=True, slots=True)
class Role:
    """A custom role of one project.

    Attributes:
        id: of the role.
        project: where it is made.
        title: for people.
        permissions: sorted.
    """

    id: str
    project: str
    title: str
    permissions: tuple[str, ...]

    @property
    def name(self) -> str:
        """As bindings write it."""
        return f"projects/{self.project}/roles/{self.id}"

    def definition(self) -> dict[str, Any]:
        """Return what ``gcloud iam roles create --file`` reads."""
        return {
            "title": self.title,
            "description": "Made by understudy iam; make it again when the config changes.",
            "stage": "GA",
            "includedPermissions": list(self.permissions),
        }


@dataclass(frozen=True, slots=True)
class Binding:
    """A role given to a service account on one resource, under a condition.

    Attributes:
        resource: ``gs://bucket`` or ``projects/ID``.
        role: its name.
        member: ``serviceAccount:...``.
        title: of the condition; empty without one.
        expression: in CEL; empty is no condition.
    """

    resource: str
    role: str
    member: str
    title: str = ""
    expression: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        condition = {"title": self.title, "expression": self.expression} if self.expression else None
        return {"resource": self.resource, "role": self.role, "member": self.member, "condition": condition}


@dataclass(frozen=True, slots=True)
class Grant:
    """All that Google Cloud grants one identity."""

    member: str
    roles: tuple[Role, ...]
    bindings: tuple[Binding, ...]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "member": self.member,
            "roles": [{"id": role.id, "project": role.project, **role.definition()} for role in self.roles],
            "bindings": [binding.as_json() for binding in self.bindings],
        }


def grant(identity: Identity, needs: Sequence[Need], *, project: str | None) -> Grant | None:
    """Return the roles and bindings for what Google Cloud grants among the needs; None when that is nothing.

    Args:
        identity: whose; its service account is ``understudy-<identity>``.
        needs: see ``understudy.iam.needs``.
        project: where the service account lives.

    Raises:
        InvalidConfig: an endpoint's project is not configured, or one role would need too many conditions.
    """
    mine = [need for need in needs if need.scheme in SCHEMES and not need.deny]
    if not mine:
        return None
    if project is None:
        raise InvalidConfig(
            f"{mine[0].url} is in Google Cloud, but no site names its project", hint="write project: ID under its site"
        )
    made = _Maker(identity, f"serviceAccount:understudy-{identity}@{project}.iam.gserviceaccount.com", project)
    made.buckets([need for need in mine if need.scheme == "gs"])
    for need in sorted({need.url: need for need in mine if need.scheme == "bigtable"}.values(), key=lambda n: n.url):
        made.tables(need)
    for at in sorted({need.access.project or project for need in mine if need.scheme == "gs" and need.payer}):
        made.bind(f"projects/{at}", at, "pay", ("serviceusage.services.use",))
    for need in mine:
        if need.scheme == "gce":
            permissions = _GROUP_WORK if "work" in need.verbs else _GROUP_LOOK
            at = need.access.project or project
            made.bind(f"projects/{at}", at, "scale", permissions)
    return made.grant()


def notes(needs: Iterable[Need]) -> list[str]:
    """Return what the conditions cannot say about these needs, sorted."""
    needs = list(needs)
    keys = sorted({need.kms_key for need in needs if need.scheme == "gs" and need.kms_key})
    encrypted = [
        f"what is written is encrypted with {key} by Cloud Storage itself: grant its service agent "
        "roles/cloudkms.cryptoKeyEncrypterDecrypter on that key"
        for key in keys
    ]
    kinds = {need.scheme for need in needs if not need.deny} | ({"deny"} if any(need.deny for need in needs) else set())
    return [*(NOTES[kind] for kind in sorted(kinds & set(NOTES))), *encrypted]


class _Maker:
    """Collects roles, each once a project, and bindings in order."""

    def __init__(self, identity: Identity, member: str, project: str) -> None:
        self._identity = identity
        self._member = member
        self._project = project
        self._roles: dict[str, Role] = {}
        self._bindings: list[Binding] = []

    def bind(
        self,
        resource: str,
        project: str,
        verb: str,
        permissions: Sequence[str],
        *,
        title: str = "",
        expression: str = "",
    ) -> None:
        role = Role(
            f"understudy_{self._identity}_{verb}",
            project,
            f"Understudy {self._identity}: {verb.replace('_', ' ')}",
            tuple(sorted(permissions)),
        )
        self._roles[role.name] = role
        self._bindings.append(Binding(resource, role.name, self._member, title, expression))

    def buckets(self, needs: Sequence[Need]) -> None:
        keys: dict[tuple[str, str, Verb], set[str]] = defaultdict(set)
        for need in needs:
            # A generation is read by the same permission as an object, and parts are sent by that to create it.
            for verb in need.verbs - {"parts", "read_versions", "list_versions"}:
                keys[need.bucket, need.access.project or self._project, verb] |= set(need.full_keys())
        for (bucket, project, verb), asked in sorted(keys.items()):
            if verb in _BUCKET:
                self.bind(f"gs://{bucket}", project, verb, _BUCKET[verb])
            else:
                # What may be replaced, put or copied onto itself may be created.
                wider = ("replace", "put", "tier") if verb == "create" else ()
                found = asked.difference(*(keys.get((bucket, project, each), ()) for each in wider))  # type: ignore[arg-type]
                expressions = _objects(bucket, found)
                for number, expression in enumerate(expressions, 1):
                    title = f"{verb} these objects" if expression else ""
                    title += f", {number} of {len(expressions)}" if len(expressions) > 1 else ""
                    self.bind(f"gs://{bucket}", project, verb, _OBJECTS[verb], title=title, expression=expression)

    def tables(self, need: Need) -> None:
        if need.verbs != {"work"}:
            raise InvalidConfig(
                f"{need.url} is no place of objects, and nothing else is asked of it",
                hint="name the store of objects that is meant: features have theirs under offline",
            )
        project = need.bucket
        instance_id, _, table = need.path.partition("/")
        instance = f"projects/{project}/instances/{instance_id}"
        of_instance = f'resource.type == "bigtableadmin.googleapis.com/Instance" && resource.name == "{instance}"'
        of_tables = 'resource.type == "bigtableadmin.googleapis.com/Table" && '
        on = f"projects/{project}"
        self.bind(on, project, "make_tables", _INSTANCE, title="in this instance", expression=of_instance)
        self.bind(
            on,
            project,
            "rebuild_tables",
            _TABLES,
            title=f"generations of {table}",
            expression=f'{of_tables}resource.name.startsWith("{instance}/tables/{table}__")',
        )
        self.bind(
            on,
            project,
            "move_pointer",
            _POINTER,
            title=f"the pointer of {table}",
            expression=f'{of_tables}resource.name == "{instance}/tables/{table}"',
        )

        self.bind(on, project, "report_latencies", _MEASURE)

    def grant(self) -> Grant:
        unique = {(b.resource, b.role, b.expression): b for b in self._bindings}
        ordered = sorted(unique.values(), key=lambda b: (b.resource, b.role, b.expression))
        for (resource, role), count in Counter((b.resource, b.role) for b in ordered).items():
            if count > BINDINGS_MAX:
                raise InvalidConfig(
                    f"the identity {self._identity!r} needs {count} conditional bindings of {role} on {resource}, and "
                    f"Google Cloud takes {BINDINGS_MAX}",
                    hint="keep fewer pairs in one config, or put them into another project or bucket",
                )
        return Grant(self._member, tuple(role for _, role in sorted(self._roles.items())), tuple(ordered))


def _objects(bucket: str, keys: set[str]) -> list[str]:
    """Return conditions, one of which holds when an object is one of these keys or below one of these prefixes.

    Each has as many tests as one may have. An empty one: any object. No keys give none.
    """
    if "" in keys:
        return [""]
    stem = f"projects/_/buckets/{bucket}/objects/"
    tests = [
        f'resource.name.startsWith("{stem}{key}")' if key.endswith("/") else f'resource.name == "{stem}{key}"'
        for key in sorted(keys)
    ]
    most = OPERATORS_MAX + 1
    return [" || ".join(tests[at : at + most]) for at in range(0, len(tests), most)]
