"""A Route 53 health check: what CloudWatch's alarms on HealthCheckStatus look at.

UpdateHealthCheck compares HealthCheckVersion, so it is a compare-and-set.
https://docs.aws.amazon.com/Route53/latest/APIReference/API_UpdateHealthCheck.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn

from botocore.exceptions import BotoCoreError, ClientError

from understudy.alerts.interface import Watched
from understudy.errors import Conflict, Denied, NotFound, Permanent, Throttled, Unreachable
from understudy.objects.attempts import persist

if TYPE_CHECKING:
    from mypy_boto3_route53.client import Route53Client
    from mypy_boto3_route53.type_defs import HealthCheckTypeDef


class Route53Alerts:
    """One health check by its id."""

    control_plane = "Route 53 API (us-east-1)"

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "HealthCheckVersion",
        "control plane": "Route 53 API, in us-east-1 wherever the service is",
    }

    def __init__(self, health_check: str, *, client: Route53Client) -> None:
        """Name the health check."""
        self.health_check = health_check
        self._client = client

    def read(self) -> Watched:
        """See the interface."""
        found = persist(self._get)
        config = found["HealthCheckConfig"]
        return Watched(config.get("IPAddress", ""), int(config.get("Port", 80)), str(found["HealthCheckVersion"]))

    def _get(self) -> HealthCheckTypeDef:
        try:
            return self._client.get_health_check(HealthCheckId=self.health_check)["HealthCheck"]
        except (ClientError, BotoCoreError) as error:
            _translate(error, self.health_check)

    def point(self, address: str, port: int, *, expected: Watched) -> Watched:
        """See the interface."""
        if self.read() != expected:
            message = f"the health check {self.health_check} was changed by someone else"
            raise Conflict(message, hint="read it again")
        if (address, port) == (expected.address, expected.port):
            return expected
        try:
            self._client.update_health_check(
                HealthCheckId=self.health_check,
                HealthCheckVersion=int(expected.token),
                IPAddress=address,
                Port=port,
            )
        except (ClientError, BotoCoreError) as error:
            _translate(error, self.health_check)
        found = self.read()
        if (found.address, found.port) != (address, port):
            message = f"the health check {self.health_check} was to watch {address}, but watches {found.address}"
            raise Conflict(message, hint="someone else changed it; read it again")
        return found


def _translate(error: ClientError | BotoCoreError, health_check: str) -> NoReturn:
    if isinstance(error, BotoCoreError):
        message = f"Route 53 did not answer about the health check {health_check}"
        raise Unreachable(message, hint=str(error)) from error
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = error.response.get("Error", {}).get("Message", code)
    message = f"Route 53 refused the health check {health_check}: {text}"
    if code == "HealthCheckVersionMismatch":
        raise Conflict(message, hint="someone else changed it; read it again") from error
    if code == "NoSuchHealthCheck":
        raise NotFound(message, hint="correct alerts.url in the config") from error
    if code in ("Throttling", "ThrottlingException"):
        raise Throttled(message, hint="try again in a moment") from error
    if code in ("AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch"):
        raise Denied(message, hint="grant route53:GetHealthCheck and UpdateHealthCheck") from error
    if status >= 500:
        raise Unreachable(message, hint="try again in a moment") from error
    raise Permanent(message) from error
