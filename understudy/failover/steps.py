"""What each action of a plan does: asks whether it is done, does it, reads it back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from understudy.errors import Conflict, NotReady, Refused, Transient
from understudy.failover.register import old_site
from understudy.report import Report, human_seconds
from understudy.settings import other

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from understudy.compute.interface import Group
    from understudy.failover.decide import Acceptances
    from understudy.failover.hold import Hold
    from understudy.failover.plan import Action, Kind, Plan
    from understudy.failover.world import World
    from understudy.settings import SiteRole

_ALL = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things may take, and how often to look.

    Attributes:
        hold_seconds: without a sign of life for so long, a commander may be taken over from.
        effect_seconds: in which a call to a vendor that was sent is answered, or never arrives.
        poll_seconds: between two looks.
        door_seconds: in which the target's front door must answer before it gets traffic.
        watch_times: good rounds in a row that confirm the cutover.
        watch_seconds: beyond the records' TTL, in which the cutover must be confirmed.
        catch_up_seconds: in which a catch-up that meets another rebuild, or a store that does not answer, must get on.
    """

    hold_seconds: float = 15.0
    effect_seconds: float = 30.0
    poll_seconds: float = 0.25
    door_seconds: float = 60.0
    watch_times: int = 5
    watch_seconds: float = 120.0
    catch_up_seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a plan: what every step is given.

    Attributes:
        tell: says a sentence about the action under way.
    """

    plan: Plan
    world: World
    hold: Hold
    acceptances: Acceptances
    pace: Pace
    tell: Callable[[str], None]


_TELL_SECONDS = 5.0  # between two lines about the same wait
_RETRY_SECONDS_MAX = 5.0  # between two tries of a catch-up


class Step(Protocol):
    """One kind of action. ``do`` may be called again after a kill, at any point of the call before.

    Attributes:
        waits_out: an effect sent by a killed process may still arrive and undo what came after it, because the vendor
            compares nothing: whoever resumes waits first.
    """

    def waits_out(self, run: Run) -> bool:
        """Whether whoever resumes must wait until an earlier call can no longer arrive."""

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:
        """Return what shows that the effect is there, None when it is not."""

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Bring the effect about and return what the vendor answered."""

    def read_back(self, run: Run, action: Action, effect: dict[str, Any]) -> dict[str, Any]:
        """Return what shows that the effect is there. Raises Conflict when it is not."""


class _Step:
    """What most steps share."""

    def waits_out(self, run: Run) -> bool:  # noqa: ARG002
        """Most effects are compared by whoever takes them."""
        return False

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:  # noqa: ARG002
        """Unknown from outside: the step finds what is done already by itself."""
        return None

    def read_back(self, run: Run, action: Action, effect: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What the effect returned was proven before it returned."""
        return effect


class _Seen(_Step):
    """A step whose effect can be looked at."""

    def read_back(self, run: Run, action: Action, effect: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Look again."""
        found = self.done(run, action)
        if found is None:
            message = f"{action.id} was done, but is not so when read back"
            raise Conflict(message, hint="someone else changes it; find out who, then resume")
        return found


class FenceStep(_Step):
    """Waits until every lease that the old site's writers can still hold has lapsed, by the register's clock."""

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:  # noqa: ARG002
        """The proof stands in the register."""
        fence = run.world.register.read().fence
        if fence is None or fence.epoch != run.hold.claim.epoch:
            return None
        return {"by": fence.by, **fence.proof}

    def do(self, run: Run, action: Action) -> dict[str, Any]:  # noqa: ARG002
        """Wait and record the proof; without a known lease only a recorded acceptance lets pass."""
        register, claim = run.world.register, run.hold.claim
        site = old_site(claim)
        leases = register.read().leases_of(site)
        if not leases:
            if not run.acceptances.unfenced:
                message = (
                    f"no lease of a writer at {run.plan.names[site]} is known, so nothing proves that it has stopped"
                )
                raise Refused(
                    message, hint="a dead site proves nothing; or accept the risk with --accept-unfenced REASON"
                )
            proof: dict[str, Any] = {"reason": run.acceptances.unfenced, "ticket": run.acceptances.reason}
            register.record_fence(claim, "acceptance", proof)
            return {"by": "acceptance", **proof}
        wait = max(lease.seconds for lease in leases.values()) + register.margin
        told = float("inf")
        while True:
            now = register.now()
            left = wait - (now - claim.claimed_at).total_seconds()
            if left <= 0:
                break
            run.hold.check()
            if left <= told - _TELL_SECONDS:
                run.tell(f"{len(leases)} leases of {run.plan.names[site]} lapse in {human_seconds(left)}")
                told = left
            time.sleep(min(left, max(run.pace.poll_seconds, left / 4)))
        proof = {
            "site": site,
            "leases": {name: lease.model_dump(mode="json") for name, lease in leases.items()},
            "claimed_at": claim.claimed_at.isoformat(),
            "read_at": now.isoformat(),
            "waited_seconds": round((now - claim.claimed_at).total_seconds(), 3),
            "needed_seconds": wait,
            "margin_seconds": register.margin,
        }
        register.record_fence(claim, "leases", proof)
        return {"by": "leases", **proof}


class CatchUpStep(_Step):
    """Runs one of the caller's catch-up functions; what it returns was verified by itself.

    A scheduled rebuild that was under way at the claim may still hold its lock: it ends by itself, and is waited for.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Call it with the plan's set and keep its reports."""
        result = self._call(run, int(action.parameters["set"]))
        reports = [result] if isinstance(result, Report) else list(result)
        for report in reports:
            run.tell(report.sentence)
        return {"reports": [report.as_json() for report in reports]}

    def _call(self, run: Run, sequence: int) -> Report | Sequence[Report]:
        called: Callable[[int], Report | Sequence[Report]] = getattr(run.world.catch_up, self._name)
        deadline, wait = time.monotonic() + run.pace.catch_up_seconds, run.pace.poll_seconds
        while True:
            try:
                return called(sequence)
            except (Conflict, Transient) as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                run.tell(f"{error.message}; tried again for {human_seconds(left)} at most")
            time.sleep(min(wait, left))
            wait = min(wait * 2, _RETRY_SECONDS_MAX)
            run.hold.check()


class ShiftStep(_Seen):
    """Gives the target a share of the traffic, once its front door answers."""

    def waits_out(self, run: Run) -> bool:
        """A late call could bring back an earlier share, unless the vendor compares."""
        return not run.world.traffic.compare_and_set

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:
        """The records say so."""
        routing = run.world.traffic.read()
        if routing.share(run.plan.target) != action.parameters["share"]:
            return None
        return {"routing": str(routing), "ttl": routing.ttl}

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Ask the front door, then change both records at once."""
        target, share = run.plan.target, int(action.parameters["share"])
        self._await_door(run, str(action.parameters["address"]))
        run.hold.look()
        shares: dict[SiteRole, int] = {target: share, other(target): _ALL - share}
        traffic = run.world.traffic
        return {"routing": str(traffic.shift(shares, expected=traffic.read()))}

    def _await_door(self, run: Run, address: str) -> None:
        deadline = time.monotonic() + run.pace.door_seconds
        while True:
            health = run.world.outside.health(address)
            if health.asked and health.answered == health.asked:
                return
            name = run.plan.names[run.plan.target]
            if time.monotonic() > deadline:
                message = f"{name} answers {health.answered} of {health.asked} probes at {address}: {health.detail}"
                raise NotReady(message, hint="it gets no traffic before it answers; look at its instances")
            run.tell(f"{name} does not answer yet: {health.detail}")
            time.sleep(run.pace.poll_seconds)


class ScaleStep(_Seen):
    """Resizes the target's group and waits until the instances run."""

    def waits_out(self, run: Run) -> bool:  # noqa: ARG002
        """A late resize would bring back an earlier size."""
        return True

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:
        """All run and the vendor changes nothing more."""
        group = run.world.compute.read()
        wanted = int(action.parameters["to"])
        if group.size < wanted or group.running < wanted or not group.stable:
            return None
        return {"size": group.size, "running": group.running}

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Ask for the size if it is not asked for already, and wait."""
        compute, wanted = run.world.compute, int(action.parameters["to"])

        def tell(group: Group) -> None:
            run.tell(f"{group.running} of {wanted} instances run")

        if compute.read().size < wanted:
            compute.resize(wanted)
        seconds = run.world.settings.capacity.wait.total_seconds()
        group = compute.await_running(wanted, seconds_max=seconds, tell=tell)
        return {"size": group.size, "running": group.running}


class WritesStep(_Seen):
    """Makes the target active; the register refuses without the fence's proof at this very epoch."""

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:  # noqa: ARG002
        """The register says so."""
        state = run.world.register.read()
        if state.epoch != run.hold.claim.epoch or state.active != run.plan.target or not state.writes:
            return None
        return {"active": state.active, "epoch": state.epoch, "since": state.since.isoformat()}

    def do(self, run: Run, action: Action) -> dict[str, Any]:  # noqa: ARG002
        """Change the register."""
        state = run.world.register.enable_writes(run.hold.claim)
        return {"active": state.active, "epoch": state.epoch}


class WatchStep(_Step):
    """Watches the cutover from outside, through DNS, up to an accepted write."""

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Watch until it is confirmed."""
        ttl = run.world.traffic.read().ttl
        seen = run.world.outside.watch(
            str(action.parameters["address"]),
            times=run.pace.watch_times,
            seconds_max=ttl + run.pace.watch_seconds,
            tell=run.tell,
        )
        return {
            "resolvers": seen.resolvers,
            "good_in_a_row": seen.good,
            "slowest_seconds": round(seen.slowest, 4),
            "canary_write": seen.canary,
        }


class AlertsStep(_Seen):
    """Points the monitoring at the site that now serves."""

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:
        """The health check says so."""
        alerts = run.world.alerts
        if alerts is None:
            return {"watching": "nothing: no alerts are configured"}
        watched = alerts.read()
        if (watched.address, watched.port) != (action.parameters["address"], action.parameters["port"]):
            return None
        return {"watching": f"{watched.address}:{watched.port}"}

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Change it, compared by its version."""
        alerts = run.world.alerts
        if alerts is None:  # pragma: no cover - then it is done already
            message = "no alerts are configured"
            raise Transient(message)
        watched = alerts.point(action.parameters["address"], action.parameters["port"], expected=alerts.read())
        return {"watching": f"{watched.address}:{watched.port}"}


class UndoTrafficStep(_Seen):
    """Gives the old site all traffic again: one call, so that the name always leads somewhere."""

    def waits_out(self, run: Run) -> bool:
        """A late call could bring back a share of the target, unless the vendor compares."""
        return not run.world.traffic.compare_and_set

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:  # noqa: ARG002
        """The records say so."""
        routing = run.world.traffic.read()
        if routing.share(run.plan.source) != _ALL:
            return None
        return {"routing": str(routing), "ttl": routing.ttl}

    def do(self, run: Run, action: Action) -> dict[str, Any]:  # noqa: ARG002
        """Change both records at once."""
        traffic = run.world.traffic
        shares: dict[SiteRole, int] = {run.plan.source: _ALL, run.plan.target: 0}
        return {"routing": str(traffic.shift(shares, expected=traffic.read()))}


class UndoScaleStep(_Seen):
    """Brings the target's group back to the size it had."""

    def waits_out(self, run: Run) -> bool:  # noqa: ARG002
        """A late resize would bring back the size of the failover."""
        return True

    def done(self, run: Run, action: Action) -> dict[str, Any] | None:
        """There are no more than there were, and the vendor changes nothing more."""
        group = run.world.compute.read()
        if group.size > int(action.parameters["to"]) or not group.stable:
            return None
        return {"size": group.size, "running": group.running}

    def do(self, run: Run, action: Action) -> dict[str, Any]:
        """Ask for the size if more are asked for, and wait."""
        compute, wanted = run.world.compute, int(action.parameters["to"])
        if compute.read().size > wanted:
            compute.resize(wanted)
        seconds = run.world.settings.capacity.wait.total_seconds()
        group = compute.await_running(compute.read().size, seconds_max=seconds)
        return {"size": group.size, "running": group.running}


STEPS: dict[Kind, Step] = {
    "fence": FenceStep(),
    "model": CatchUpStep("hydrate_model"),
    "index": CatchUpStep("rebuild_index"),
    "features": CatchUpStep("rebuild_features"),
    "shift": ShiftStep(),
    "scale": ScaleStep(),
    "writes": WritesStep(),
    "watch": WatchStep(),
    "alerts": AlertsStep(),
}

#: What undoes an action, by its kind; what is not here leaves nothing behind but verified data at the target.
UNDO_STEPS: dict[Kind, Step] = {"shift": UndoTrafficStep(), "scale": UndoScaleStep()}
