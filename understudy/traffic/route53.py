"""Route 53: weighted A records, one a site.

ChangeResourceRecordSets applies a batch whole or not at all, but has no compare-and-set: UPSERT takes any earlier
value. So ``shift`` reads, changes, waits until the change is INSYNC and reads back; absolute weights make a repeated
call harmless. https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from understudy.errors import (
    Conflict,
    Denied,
    NotFound,
    NotReady,
    Permanent,
    Throttled,
    Transient,
    Unreachable,
    Unsupported,
)
from understudy.objects.attempts import persist
from understudy.traffic.interface import SHARE_MAX, Routing, Way, shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_route53.client import Route53Client
    from mypy_boto3_route53.type_defs import ChangeTypeDef

    from understudy.settings import SiteRole

_Result = TypeVar("_Result")

_POLL_SECONDS = 1.0
_ROLES: tuple[SiteRole, ...] = ("home", "away")


class Route53Traffic:
    """The weighted records of one name in one hosted zone; the set identifier is the site's role."""

    control_plane = "Route 53 API (us-east-1)"
    compare_and_set = False

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "no, the records are read back; who resumes waits first",
        "control plane": "Route 53 API, in us-east-1 wherever the service is",
    }

    def __init__(self, zone: str, name: str, *, client: Route53Client, insync_seconds_max: float = 60.0) -> None:
        """Name the records.

        Args:
            zone: the hosted zone's id.
            name: of the service.
            client: of boto3.
            insync_seconds_max: how long a change may take to reach all of Route 53's name servers.
        """
        self.zone = zone
        self.name = name.rstrip(".")
        self._client = client
        self._insync_seconds_max = insync_seconds_max

    def read(self) -> Routing:
        """See the interface."""
        ways: dict[SiteRole, Way] = {}
        ttl = 0
        page = self._ask(
            lambda: self._client.list_resource_record_sets(
                HostedZoneId=self.zone, StartRecordName=f"{self.name}.", StartRecordType="A", MaxItems="100"
            )
        )
        for record in page["ResourceRecordSets"]:
            if record["Name"].rstrip(".") != self.name or record["Type"] != "A":
                continue
            site = next((role for role in _ROLES if role == record.get("SetIdentifier")), None)
            if site is None or "Weight" not in record or len(record.get("ResourceRecords", [])) != 1:
                message = f"{self.name} has an A record that is not weighted, or of neither site"
                raise Unsupported(message, hint="keep one weighted record with one address a site: home and away")
            ways[site] = Way(record["ResourceRecords"][0]["Value"], int(record["Weight"]))
            ttl = max(ttl, int(record.get("TTL", 0)))
        if not ways:
            message = f"{self.name} has no records in zone {self.zone}"
            raise NotReady(message, hint="write them once while the home site serves")
        return Routing(self.name, ways, ttl)

    def prepare(self, addresses: Mapping[SiteRole, str], *, active: SiteRole, ttl: int) -> Routing:
        """See the interface."""
        ways = {site: Way(address, SHARE_MAX if site == active else 0) for site, address in addresses.items()}
        return self._write(Routing(self.name, ways, ttl))

    def shift(self, shares: Mapping[SiteRole, int], *, expected: Routing) -> Routing:
        """See the interface."""
        now = self.read()
        meant = shifted(now, shares, expected=expected)
        return now if meant == now else self._write(meant)

    def _write(self, meant: Routing) -> Routing:
        changes: list[ChangeTypeDef] = [
            {
                "Action": "UPSERT",
                "ResourceRecordSet": {
                    "Name": f"{self.name}.",
                    "Type": "A",
                    "SetIdentifier": site,
                    "Weight": way.share,
                    "TTL": meant.ttl,
                    "ResourceRecords": [{"Value": way.address}],
                },
            }
            for site, way in sorted(meant.ways.items())
        ]
        answer = self._ask(
            lambda: self._client.change_resource_record_sets(
                HostedZoneId=self.zone, ChangeBatch={"Comment": "understudy", "Changes": changes}
            )
        )
        self._await(answer["ChangeInfo"]["Id"], answer["ChangeInfo"]["Status"])
        found = self.read()
        if found != meant:
            message = f"{self.name} was to lead to {meant}, but leads to {found}"
            raise Conflict(message, hint="someone else moved it; read it again")
        return found

    def _await(self, change: str, status: str) -> None:
        """Wait until every name server of Route 53 has the change."""
        deadline = time.monotonic() + self._insync_seconds_max
        while status != "INSYNC":
            if time.monotonic() > deadline:
                message = f"Route 53 has not spread the change of {self.name} within {self._insync_seconds_max:g}s"
                raise Transient(message, hint="the same command resumes")
            time.sleep(_POLL_SECONDS)
            status = self._ask(lambda: self._client.get_change(Id=change))["ChangeInfo"]["Status"]

    def _ask(self, call: Callable[[], _Result]) -> _Result:
        """Call, a few times when there is no answer: absolute weights may be written twice."""

        def once() -> _Result:
            try:
                return call()
            except (ClientError, BotoCoreError) as error:
                _translate(error, f"{self.name} in zone {self.zone}")

        return persist(once)


def _translate(error: ClientError | BotoCoreError, what: str) -> NoReturn:
    if isinstance(error, BotoCoreError):
        message = f"Route 53 did not answer about {what}"
        raise Unreachable(message, hint=str(error)) from error
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = error.response.get("Error", {}).get("Message", code)
    message = f"Route 53 refused {what}: {text}"
    if code in ("Throttling", "ThrottlingException", "PriorRequestNotComplete"):
        raise Throttled(message, hint="try again in a moment") from error
    if code == "NoSuchHostedZone":
        raise NotFound(message, hint="correct traffic.url in the config") from error
    if code in ("AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch"):
        raise Denied(
            message, hint="grant route53:ChangeResourceRecordSets, ListResourceRecordSets and GetChange"
        ) from error
    if status >= 500:
        raise Unreachable(message, hint="try again in a moment") from error
    raise Permanent(message) from error
