"""Compute Engine: a zonal managed instance group.

``resize`` is asynchronous: its operation is DONE when the intent is stored, the group is stable when the instances run.
https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers/resize
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, NoReturn

from google.api_core import exceptions as google_errors
from google.auth.exceptions import GoogleAuthError
from google.cloud import compute_v1

from understudy.compute.interface import Group
from understudy.errors import Denied, NotFound, NotReady, Permanent, Refused, Throttled, Transient, Unreachable
from understudy.objects.attempts import persist

if TYPE_CHECKING:
    from collections.abc import Callable

_CALL_SECONDS = 10.0
_RUNNING, _AT_REST = "RUNNING", "NONE"


class GceCompute:
    """One managed instance group in one zone."""

    control_plane = "Compute Engine API"

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "no, the size is read back; who resumes waits first",
        "control plane": "Compute Engine API of the standby's zone",
    }

    def __init__(
        self,
        project: str,
        zone: str,
        group: str,
        *,
        managers: compute_v1.InstanceGroupManagersClient,
        operations: compute_v1.ZoneOperationsClient,
        operation_seconds_max: float = 120.0,
        poll_seconds: float = 1.0,
    ) -> None:
        """Name the group.

        Args:
            project: the cloud project.
            zone: such as ``us-central1-a``.
            group: the managed instance group's name.
            managers: the vendor's client.
            operations: the vendor's client that waits; ``Operation.result()`` would ask the public endpoint.
            operation_seconds_max: how long Compute Engine may take to store the intent of a resize.
            poll_seconds: between two looks at the group.
        """
        self.name = group
        self.project = project
        self.zone = zone
        self._managers = managers
        self._operations = operations
        self._operation_seconds_max = operation_seconds_max
        self._poll_seconds = poll_seconds

    def read(self) -> Group:
        """See the interface."""
        return persist(self._read)

    def resize(self, size: int) -> Group:
        """See the interface."""
        if size < 0:
            message = f"{self.name} cannot have {size} instances"
            raise Refused(message, hint="ask for 0 or more")
        now = self.read()
        if now.size == size:
            return now
        operation = persist(lambda: self._ask_for(size))
        try:
            deadline = time.monotonic() + self._operation_seconds_max
            while operation.status != compute_v1.Operation.Status.DONE:
                if time.monotonic() > deadline:
                    message = (
                        f"Compute Engine has not stored the new size of {self.name} in {self._operation_seconds_max:g}s"
                    )
                    raise Transient(message, hint="the same command resumes")
                # One wait may return while the operation still runs.
                operation = self._operations.wait(
                    operation=operation.name,
                    timeout=self._operation_seconds_max,
                    retry=None,
                    project=self.project,
                    zone=self.zone,
                )
        except (google_errors.GoogleAPIError, GoogleAuthError, OSError) as error:
            _translate(error, self.name)
        problems = [f"{problem.code}: {problem.message}" for problem in operation.error.errors]
        if problems:
            message = f"Compute Engine refused {size} instances of {self.name}: {'; '.join(problems)}"
            raise Refused(message, hint="ask for fewer, or for another type or zone")
        return self.read()

    def await_running(self, size: int, *, seconds_max: float, tell: Callable[[Group], None] | None = None) -> Group:
        """See the interface."""
        deadline = time.monotonic() + seconds_max
        seen: Group | None = None
        while True:
            try:
                group = self.read()
            except Transient:
                if time.monotonic() > deadline:
                    raise
                time.sleep(self._poll_seconds)
                continue
            if tell is not None and group != seen:
                tell(group)
            seen = group
            if group.stable and group.running >= size:
                return group
            if time.monotonic() > deadline:
                message = f"{group.running} of {size} instances of {self.name} run after {seconds_max:g}s"
                raise NotReady(message, hint="ask for fewer, or for another type or zone")
            time.sleep(self._poll_seconds)

    def _read(self) -> Group:
        try:
            manager = self._managers.get(
                project=self.project,
                zone=self.zone,
                instance_group_manager=self.name,
                timeout=_CALL_SECONDS,
                retry=None,
            )
            instances = self._managers.list_managed_instances(
                project=self.project,
                zone=self.zone,
                instance_group_manager=self.name,
                timeout=_CALL_SECONDS,
                retry=None,
            )
            running = sum(each.instance_status == _RUNNING and each.current_action == _AT_REST for each in instances)
        except (google_errors.GoogleAPIError, GoogleAuthError, OSError) as error:
            _translate(error, self.name)
        return Group(self.name, int(manager.target_size), running, stable=bool(manager.status.is_stable))

    def _ask_for(self, size: int) -> compute_v1.Operation:
        """Send the resize; an absolute size may be asked for twice."""
        try:
            return self._managers.resize_unary(
                project=self.project,
                zone=self.zone,
                instance_group_manager=self.name,
                size=size,
                timeout=_CALL_SECONDS,
                retry=None,
            )
        except (google_errors.GoogleAPIError, GoogleAuthError, OSError) as error:
            _translate(error, self.name)


def _translate(error: Exception, group: str) -> NoReturn:
    if not isinstance(error, google_errors.GoogleAPICallError):
        message = f"Compute Engine did not answer about {group}"
        raise Unreachable(message, hint=str(error)) from error
    message = f"Compute Engine refused {group}: {error.message}"
    match error:
        case google_errors.NotFound():
            raise NotFound(message, hint="correct capacity.away in the config") from error
        case google_errors.Forbidden() | google_errors.Unauthorized():
            raise Denied(message, hint="grant compute.instanceGroupManagers.get and update") from error
        case google_errors.TooManyRequests():
            raise Throttled(message, hint="try again in a moment") from error
        case google_errors.ServerError():
            raise Unreachable(message, hint="try again in a moment") from error
        case _:
            raise Permanent(message) from error
