"""Every call that the vendors' clients make, as the permission that the cloud asks for it, and a cloud that refuses.

``Gate`` stands between the vendors' own clients and their servers, at the last moment before a request is sent. Each
request becomes an action on a resource with the keys of its condition; one that the generated policy does not allow is
answered as the cloud answers it (403), without reaching the server. Two things a cloud does beyond that are done too:
who may not list is told 403 about a missing object, not 404; and on Cloud Storage whoever may only create is refused
an object that is there already before its precondition is looked at, which is the less friendly of the two orders.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import requests
from botocore.awsrequest import AWSResponse
from google.api_core.exceptions import PermissionDenied
from google.cloud.bigtable.data._sync_autogen import client as data_client
from requests.adapters import HTTPAdapter

from understudy.clouds import aws, gcp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from understudy.iam.policies import Policies

_TEST = re.compile(r'resource\.(name|type)(?:\.startsWith\("([^"]*)"\)| == "([^"]*)")')
_NAME = re.compile(rb'"name": ?("(?:[^"\\\\]|\\\\.)*")')


@dataclass(frozen=True)
class Call:
    """One permission that one request needs."""

    action: str
    resource: str
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def of(cls, action: str, resource: str, **keys: str | list[str] | None) -> Call:
        """Return a call; a key that is None is not in the request."""
        present = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in keys.items() if value}
        return cls(action, resource, tuple(sorted(present.items())))

    def __str__(self) -> str:
        return f"{self.action} on {self.resource}"


def aws_allows(document: dict[str, Any] | None, call: Call) -> bool:
    """Evaluate an identity policy as IAM does: a Deny that matches wins, else one Allow must match."""
    matching = [each["Effect"] for each in (document or {"Statement": []})["Statement"] if _matches(each, call)]
    return "Allow" in matching and "Deny" not in matching


def _matches(statement: dict[str, Any], call: Call) -> bool:
    return (
        call.action in statement["Action"]
        and any(_like(call.resource, pattern) for pattern in statement["Resource"])
        and all(
            _holds(operator, key, wanted if isinstance(wanted, list) else [wanted], dict(call.keys).get(key))
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    )


def _holds(operator: str, key: str, wanted: list[str], found: tuple[str, ...] | None) -> bool:
    match operator:
        case "Null":
            return wanted == ["true" if found is None else "false"]
        case "ForAllValues:StringEquals":
            return all(value in wanted for value in found or ())
        case "StringEquals" | "Bool":
            return found is not None and found[0] in wanted
        case "StringLikeIfExists":
            return found is None or any(_like(found[0], pattern) for pattern in wanted)
    message = f"this evaluator does not know {operator} of {key}"
    raise AssertionError(message)


def _like(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def gcp_allows(bindings: list[dict[str, Any]], roles: dict[str, list[str]], call: Call) -> bool:
    """Evaluate bindings as Google Cloud does: one must give the permission on the resource, its condition holding."""
    keys = dict(call.keys)
    return any(
        binding["resource"] in keys["on"]
        and call.action in roles[binding["role"]]
        and (binding["condition"] is None or _true(binding["condition"]["expression"], call.resource, keys["type"][0]))
        for binding in bindings
    )


def _true(expression: str, name: str, kind: str) -> bool:
    """Evaluate the few forms of CEL that are generated; any other one is an error."""

    def test(text: str) -> bool:
        match = _TEST.fullmatch(text)
        assert match, f"this evaluator does not know {text}"
        value = name if match[1] == "name" else kind
        return value.startswith(match[2]) if match[2] is not None else value == match[3]

    return any(all(test(each) for each in part.split(" && ")) for part in expression.split(" || "))


@dataclass
class Gate:
    """What was asked, and whether it was allowed.

    Attributes:
        policies: of the identity that runs; None allows all, and only records.
        calls: every permission that was asked for, in order.
        refused: those that were not allowed.
        before: called with each call just before it is decided, in the thread that makes it.
    """

    policies: Policies | None = None
    calls: list[Call] = field(default_factory=list)
    refused: list[Call] = field(default_factory=list)
    before: Callable[[Call], None] = lambda _call: None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _aside: bool = False

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let the owner of both sites pass, whom no policy binds; nothing else may run meanwhile."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def allows(self, call: Call) -> bool:
        """Whether the policies allow a call."""
        if self.policies is None:
            return True
        if "on" in dict(call.keys):
            granted = self.policies.gcp.as_json() if self.policies.gcp else {"roles": [], "bindings": []}
            roles = {
                f"projects/{each['project']}/roles/{each['id']}": each["includedPermissions"]
                for each in granted["roles"]
            }
            return gcp_allows(granted["bindings"], roles, call)
        return aws_allows(self.policies.aws, call)

    def ask(self, calls: Iterable[Call]) -> Call | None:
        """Record calls and return the first one that is not allowed."""
        if self._aside:
            return None
        for call in calls:
            self.before(call)
            allowed = self.allows(call)
            with self._lock:
                self.calls.append(call)
                if not allowed:
                    self.refused.append(call)
            if not allowed:
                return call
        return None

    def actions(self) -> set[str]:
        """Return what was asked for, by name."""
        return {call.action for call in self.calls}

    def stand_before_clients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand before every client that the product opens from now on."""
        make_aws, make_storage = aws.client, gcp.storage_client

        def client(service: str, access: Any) -> Any:
            made = make_aws(service, access)
            made.meta.events.register("before-parameter-build", _keep_parameters)
            made.meta.events.register("before-call", self._before_aws)
            made.meta.events.register("after-call", self._after_aws)
            made.meta.events.register_last("before-parameter-build", _keep_region(access.region))
            return made

        def storage_client(access: Any) -> Any:
            made = make_storage(access)
            for scheme in ("http://", "https://"):
                made._http.mount(scheme, _GateAdapter(self, made._http.get_adapter(scheme)))
            return made

        def managers(access: Any) -> Any:
            return self._before_compute(make_managers(access))

        def operations(access: Any) -> Any:
            return self._before_compute(make_operations(access))

        make_managers, make_operations = gcp.instance_group_managers_client, gcp.zone_operations_client
        monkeypatch.setattr(aws, "client", client)
        monkeypatch.setattr(gcp, "storage_client", storage_client)
        monkeypatch.setattr(gcp, "instance_group_managers_client", managers)
        monkeypatch.setattr(gcp, "zone_operations_client", operations)
        make_channel = grpc.insecure_channel

        def channel(*arguments: Any, **options: Any) -> grpc.Channel:
            return grpc.intercept_channel(make_channel(*arguments, **options), _GateInterceptor(self))

        monkeypatch.setattr(grpc, "insecure_channel", channel)
        monkeypatch.setattr(data_client, "insecure_channel", channel)

    def _before_compute(self, made: Any) -> Any:
        session = made._transport._session
        session.mount("http://", _GateAdapter(self, session.get_adapter("http://"), compute_calls))
        return made

    # ------------------------------------------------------------------ AWS

    def _before_aws(self, model: Any, context: dict[str, Any], **_: Any) -> tuple[AWSResponse, dict[str, Any]] | None:
        refused = self.ask(aws_calls(model.service_model.service_name, model.name, context))
        if refused is None:
            return None
        who = self.policies.identity if self.policies else ""
        message = f"understudy-{who} is not authorized to perform: {refused.action} on resource: {refused.resource}"
        code = "AccessDenied" if model.service_model.service_name != "dynamodb" else "AccessDeniedException"
        parsed = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        return AWSResponse("", 403, {}, None), parsed

    def _after_aws(self, model: Any, parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        missing = parsed.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404
        if missing and model.name in ("HeadObject", "GetObject"):
            bucket = context["parameters"]["Bucket"]
            if self.ask([Call.of("s3:ListBucket", f"arn:aws:s3:::{bucket}")]) is not None:
                parsed["Error"] = {"Code": "AccessDenied", "Message": "Access Denied"}
                parsed["ResponseMetadata"]["HTTPStatusCode"] = 403


def _keep_parameters(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["parameters"] = dict(params)


def _keep_region(region: str) -> Callable[..., None]:
    def keep(context: dict[str, Any], **_: Any) -> None:
        context["region"] = region

    return keep


def aws_calls(service: str, operation: str, context: dict[str, Any]) -> list[Call]:
    """Return the permissions that one operation needs; one that is not known here needs what nobody is granted."""
    given, region = context["parameters"], context["region"]
    match service:
        case "s3":
            return _s3_calls(operation, given)
        case "dynamodb":
            if operation == "ListTables":
                return [Call.of("dynamodb:ListTables", "*", **{"aws:RequestedRegion": region})]
            tables = [given["TableName"]] if "TableName" in given else list(given.get("RequestItems", ()))
            stem = f"arn:aws:dynamodb:{region}:123456789012:table"
            return [Call.of(f"dynamodb:{operation}", f"{stem}/{table}") for table in tables]
        case "route53":
            return _route53_calls(operation, given)
    return [Call.of(f"{service}:{operation}", "*")]


def _s3_calls(operation: str, given: dict[str, Any]) -> list[Call]:  # noqa: PLR0911 - one list
    bucket = f"arn:aws:s3:::{given['Bucket']}"
    thing = f"{bucket}/{given.get('Key')}"
    match operation:
        case "ListObjectsV2" | "HeadBucket":
            return [Call.of("s3:ListBucket", bucket, **{"s3:prefix": given.get("Prefix")})]
        case "ListObjectVersions":
            return [Call.of("s3:ListBucketVersions", bucket, **{"s3:prefix": given.get("Prefix")})]
        case "HeadObject" | "GetObject":
            return [Call.of("s3:GetObjectVersion" if "VersionId" in given else "s3:GetObject", thing)]
        case "PutObject" | "CompleteMultipartUpload":
            conditions = {"s3:if-none-match": given.get("IfNoneMatch"), "s3:if-match": given.get("IfMatch")}
            return [Call.of("s3:PutObject", thing, **conditions, **{"s3:ObjectCreationOperation": "true"})]
        case "CreateMultipartUpload" | "UploadPart":
            return [Call.of("s3:PutObject", thing, **{"s3:ObjectCreationOperation": "false"})]
        case "AbortMultipartUpload" | "DeleteObject":
            return [Call.of(f"s3:{operation}", thing)]
        case "GetBucketVersioning":
            return [Call.of("s3:GetBucketVersioning", bucket)]
        case "GetBucketReplication":
            return [Call.of("s3:GetReplicationConfiguration", bucket)]
    return [Call.of(f"s3:{operation}", bucket)]


def _route53_calls(operation: str, given: dict[str, Any]) -> list[Call]:
    if operation in ("ListResourceRecordSets", "ChangeResourceRecordSets"):
        zone = f"arn:aws:route53:::hostedzone/{given['HostedZoneId'].rpartition('/')[2]}"
        changes = given.get("ChangeBatch", {}).get("Changes", [])
        records = [change["ResourceRecordSet"] for change in changes]
        keys = {
            "route53:ChangeResourceRecordSetsNormalizedRecordNames": [
                each["Name"].lower().rstrip(".") for each in records
            ],
            "route53:ChangeResourceRecordSetsRecordTypes": [each["Type"] for each in records],
            "route53:ChangeResourceRecordSetsActions": [change["Action"] for change in changes],
        }
        return [Call.of(f"route53:{operation}", zone, **keys)]
    if operation == "GetChange":
        return [Call.of("route53:GetChange", f"arn:aws:route53:::change/{given['Id'].rpartition('/')[2]}")]
    return [Call.of(f"route53:{operation}", f"arn:aws:route53:::healthcheck/{given.get('HealthCheckId')}")]


# ---------------------------------------------------------------------- Google Cloud


def on_bucket(permission: str, bucket: str) -> Call:
    """Return a call that is asked of a bucket itself."""
    keys = {"on": f"gs://{bucket}", "type": "storage.googleapis.com/Bucket"}
    return Call.of(permission, f"projects/_/buckets/{bucket}", **keys)


def on_object(permission: str, bucket: str, name: str) -> Call:
    """Return a call that is asked of one object."""
    keys = {"on": f"gs://{bucket}", "type": "storage.googleapis.com/Object"}
    return Call.of(permission, f"projects/_/buckets/{bucket}/objects/{name}", **keys)


def on_table(permission: str, table: str) -> Call:
    """Return a call that is asked of a table, by its full name."""
    keys = {"on": "/".join(table.split("/")[:2]), "type": "bigtableadmin.googleapis.com/Table"}
    return Call.of(permission, table, **keys)


def on_instance(permission: str, instance: str) -> Call:
    """Return a call that is asked of a Bigtable instance, by its full name."""
    keys = {"on": "/".join(instance.split("/")[:2]), "type": "bigtableadmin.googleapis.com/Instance"}
    return Call.of(permission, instance, **keys)


class _GateAdapter(HTTPAdapter):
    """Asks the gate before a request goes on to the adapter that the product mounted."""

    def __init__(self, gate: Gate, below: Any, calls_of: Callable[..., Iterator[Call]] | None = None) -> None:
        super().__init__()
        self._gate = gate
        self._below = below
        self._calls_of = calls_of or gcs_calls

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        calls = list(self._calls_of(str(request.method), str(request.url), request.body))
        refused = self._gate.ask(calls)
        if refused is not None:
            return self._forbidden(request, refused)
        answer: requests.Response = self._below.send(request, *args, **kwargs)
        if answer.status_code == 404 and calls and calls[0].action == "storage.objects.get":
            bucket = calls[0].resource.split("/")[3]
            if refused := self._gate.ask([on_bucket("storage.objects.list", bucket)]):
                return self._forbidden(request, refused)
        return answer

    def _forbidden(self, request: requests.PreparedRequest, call: Call) -> requests.Response:
        if hasattr(request.body, "read"):
            request.body.read()
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = 403, request, str(request.url)
        message = f"the caller does not have {call.action} access to {call.resource}"
        answer._content = json.dumps({"error": {"code": 403, "message": message}}).encode()
        answer.headers["Content-Type"] = "application/json"
        return answer


def gcs_calls(method: str, url: str, body: Any = None) -> Iterator[Call]:
    """Yield the permissions that one request of the JSON API needs; an unknown one needs what nobody is granted."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    match = re.fullmatch(r"(/upload|/download|)/storage/v1/b/([^/]+)(?:/o(?:/([^/]+))?)?/?", parts.path)
    if match is None:
        yield on_bucket(f"unknown {method} {parts.path}", "")
        return
    kind, bucket, name = match[1], unquote(match[2]), unquote(match[3]) if match[3] else None
    listing = parts.path.rstrip("/").endswith("/o")
    if kind == "/upload" and method == "POST":
        wanted = query["name"] if "name" in query else _name_in(body)
        yield on_object("storage.objects.create", bucket, wanted)
        if _exists(parts.scheme, parts.netloc, bucket, wanted):
            yield on_object("storage.objects.delete", bucket, wanted)
    elif kind == "/upload" and method == "PUT" and "upload_id" in query:
        return  # the session's address is the right to it
    elif method == "GET" and name is not None:
        yield on_object("storage.objects.get", bucket, name)
    elif method == "DELETE" and name is not None:
        yield on_object("storage.objects.delete", bucket, name)
    elif method == "GET" and listing:
        yield on_bucket("storage.objects.list", bucket)
    elif method == "GET":
        yield on_bucket("storage.buckets.get", bucket)
    else:
        yield on_bucket(f"unknown {method} {parts.path}", bucket)


def compute_calls(method: str, url: str, body: Any = None) -> Iterator[Call]:
    """Yield the permissions that one request of Compute Engine's API needs."""
    del body
    path = urlsplit(url).path.split("/compute/v1/")[-1]
    project = "/".join(path.split("/")[:2])
    action = {
        ("GET", "instanceGroupManagers"): "compute.instanceGroupManagers.get",
        ("POST", "listManagedInstances"): "compute.instanceGroupManagers.get",
        ("POST", "resize"): "compute.instanceGroupManagers.update",
        ("POST", "wait"): "compute.zoneOperations.get",
    }
    last = path.rsplit("/", 1)[-1]
    kind = path.split("/")[-2] if method == "GET" else last
    yield Call.of(action.get((method, kind), f"unknown {method} {path}"), path, on=project, type="compute")


def bigtable_calls(method: str, request: Any) -> list[Call]:  # noqa: PLR0911 - one list
    """Return the permissions that one call of Bigtable's two services needs."""
    match method:
        case "/google.bigtable.v2.Bigtable/ReadRows":
            return [on_table("bigtable.tables.readRows", request.table_name)]
        case "/google.bigtable.v2.Bigtable/SampleRowKeys":
            return [on_table("bigtable.tables.sampleRowKeys", request.table_name)]
        case "/google.bigtable.v2.Bigtable/MutateRow" | "/google.bigtable.v2.Bigtable/MutateRows":
            return [on_table("bigtable.tables.mutateRows", request.table_name)]
        case "/google.bigtable.v2.Bigtable/CheckAndMutateRow":
            return [on_table(f"bigtable.tables.{verb}Rows", request.table_name) for verb in ("read", "mutate")]
        case "/google.bigtable.v2.Bigtable/PingAndWarm":
            return [on_instance("bigtable.instances.ping", request.name)]
        case "/google.bigtable.admin.v2.BigtableTableAdmin/CreateTable":
            return [on_instance("bigtable.tables.create", request.parent)]
        case "/google.bigtable.admin.v2.BigtableTableAdmin/ListTables":
            return [on_instance("bigtable.tables.list", request.parent)]
        case "/google.bigtable.admin.v2.BigtableTableAdmin/DeleteTable":
            return [on_table("bigtable.tables.delete", request.name)]
    return [on_instance(f"unknown {method}", "")]


class _GateInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Asks the gate before a call of gRPC is sent."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def _pass(self, proceed: Callable[..., Any], details: Any, request: Any) -> Any:
        method = details.method if isinstance(details.method, str) else details.method.decode()
        refused = self._gate.ask(bigtable_calls(method, request))
        if refused is not None:
            raise PermissionDenied(f"the caller does not have {refused.action} access to {refused.resource}")
        return proceed(details, request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._pass(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._pass(continuation, client_call_details, request)


def _name_in(body: Any) -> str:
    """Return the object's name from the metadata that begins an upload's body."""
    head = body if isinstance(body, bytes) else str(body).encode()
    match = _NAME.search(head[:4096])
    assert match, "an upload that names no object"
    return str(json.loads(match[1]))


def _exists(scheme: str, netloc: str, bucket: str, name: str) -> bool:
    url = f"{scheme}://{netloc}/storage/v1/b/{bucket}/o/{requests.utils.quote(name, safe='')}"
    return requests.get(url, timeout=10).ok
