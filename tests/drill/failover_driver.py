"""Runs failovers in forked children of one small process, and says in JSON how each ended.

``python -m tests.drill.failover_driver FOLDER kill|rivals|frozen|abort|abort_rivals|abort_frozen``
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.drill.failover_world import BRIEF, PACE, Moments, effects, end_state, make, open_world
from understudy.errors import StoppedPartWay, UnderstudyError
from understudy.failover.abort import abort, plan_left
from understudy.failover.engine import prepare, run
from understudy.failover.plans import save_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from understudy.failover.plan import Plan
    from understudy.failover.steps import Pace

_RESUMES_MAX = 20


def forked(body: Callable[[], Any], answer: Path) -> int:
    """Run ``body`` in a child that writes what it returns to a file; returns the pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        answer.write_text(json.dumps(body()))
        code = 0
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; 0, an exit status, or minus a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def one_run(
    folder: Path, plan: Plan, *, moments: Moments | None = None, who: str = "ana", pace: Pace = BRIEF
) -> dict[str, Any]:
    """Run the plan in this process."""
    moments = moments or Moments()
    try:
        outcome = run(plan, open_world(folder, moments), who=who, host="bastion", pace=pace)
    except UnderstudyError as error:
        return {"error": error.kind, "message": error.message, "moments": moments.count}
    return {"verdict": outcome.verdict, "moments": moments.count, "complete": outcome.journal_complete}


def one_abort(folder: Path, *, last: int = 0, how: int = signal.SIGKILL, who: str = "ana") -> dict[str, Any]:
    """Abort whatever is under way, in this process."""
    moments = Moments(last=last, how=how)
    world = open_world(folder, moments)
    try:
        plan = plan_left(world.register, world.vault)
        if plan is None:
            return {"verdict": "none under way", "moments": moments.count}
        outcome = abort(plan, world, who=who, host="bastion", reason="false alarm", pace=BRIEF)
    except UnderstudyError as error:
        return {"error": error.kind, "message": error.message, "next": error.next_command, "moments": moments.count}
    return {"verdict": outcome.verdict, "moments": moments.count, "complete": outcome.journal_complete}


def prepared(folder: Path, *, home_answers: int = 0) -> Plan:
    """Lay out a world and return its plan, kept beside the register."""
    make(folder, home_answers=home_answers)
    world = open_world(folder)
    plan = prepare(world, target="away")
    save_plan(world.register.store, plan)
    return plan


def killed_at(folder: Path, last: int) -> dict[str, Any]:
    """Kill a run at a moment, then give the same command until it is done."""
    plan = prepared(folder)
    answer = folder / "answer"
    pace = BRIEF if last else PACE
    status = ended(forked(lambda: one_run(folder, plan, moments=Moments(last=last), pace=pace), answer))
    runs = 1
    while status != 0 or json.loads(answer.read_text()).get("error") == StoppedPartWay.kind:
        status = ended(forked(lambda: one_run(folder, plan), answer))
        runs += 1
        if runs > _RESUMES_MAX:
            break
    return {
        "runs": runs,
        **json.loads(answer.read_text()),
        "effects": effects(folder),
        "state": _plain(end_state(folder)),
    }


def kill(folder: Path) -> list[dict[str, Any]]:
    """A run to its end, then one killed at each of its moments."""
    whole = killed_at(folder / "whole", 0)
    return [whole, *at_each(folder, range(1, whole["moments"] + 1), killed_at)]


def at_each(folder: Path, moments: Iterable[int], drill: Callable[[Path, int], Any]) -> list[Any]:
    """Run a drill for each moment, in a world of its own, and return what they said in that order."""
    # One process a moment, forked from this thread alone: the world is read again from its files.
    results = {}
    waiting = list(moments)
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < 16:
            last = waiting.pop(0)
            place = folder / f"killed-{last}"
            place.mkdir(parents=True)
            running[forked(lambda place=place, last=last: drill(place / "world", last), place / "result")] = last
        pid, _ = os.wait()
        last = running.pop(pid)
        results[last] = json.loads((folder / f"killed-{last}" / "result").read_text())
    return [results[last] for last in sorted(results)]


def rivals(folder: Path) -> list[dict[str, Any]]:
    """Two commanders press at once."""
    plan = prepared(folder)
    pids = [
        forked(lambda who=who: one_run(folder, plan, who=who, pace=PACE), folder / f"answer-{who}")
        for who in ("ana", "bob")
    ]
    for pid in pids:
        ended(pid)
    answers = [json.loads((folder / f"answer-{who}").read_text()) for who in ("ana", "bob")]
    return [*answers, {"effects": effects(folder), "state": _plain(end_state(folder))}]


def until_verdict(command: Callable[[], dict[str, Any]], answer: Path, *, seconds_max: float = 60) -> dict[str, Any]:
    """Give a command in processes of its own until it comes to a verdict: another one's hold must lapse first."""
    until = time.monotonic() + seconds_max
    while True:
        ended(forked(command, answer))
        said: dict[str, Any] = json.loads(answer.read_text())
        if "verdict" in said:
            return said
        if time.monotonic() > until:
            message = f"no verdict within {seconds_max} s, last said: {said}"
            raise RuntimeError(message)
        time.sleep(0.1)


def frozen(folder: Path) -> list[dict[str, Any]]:
    """A commander freezes just after it journaled an intent; another takes over; the first wakes up again."""
    return [_frozen_at(folder / f"frozen-{last}", last) for last in (8, 12, 16)]


def _frozen_at(folder: Path, last: int) -> dict[str, Any]:
    plan = prepared(folder)
    first = forked(lambda: one_run(folder, plan, moments=Moments(last=last, how=signal.SIGSTOP)), folder / "first")
    os.waitpid(first, os.WUNTRACED)
    second = until_verdict(lambda: one_run(folder, plan, who="bob"), folder / "second")
    os.kill(first, signal.SIGCONT)
    ended(first)
    answers = {"first": json.loads((folder / "first").read_text()), "second": second}
    return {**answers, "effects": effects(folder), "state": _plain(end_state(folder))}


class Once(Moments):
    """Ends this process at the first moment at which something is so: a slow machine shifts the moments' numbers."""

    def __init__(self, when: Callable[[], bool], *, how: int) -> None:
        super().__init__(how=how)
        self._when = when
        self._been = False

    def __call__(self) -> None:
        super().__call__()
        if threading.current_thread() is threading.main_thread() and not self._been and self._when():
            self._been = True
            os.kill(os.getpid(), self._how)


def stopped_at(folder: Path, stop: int | str, *, how: int = signal.SIGKILL) -> tuple[Plan, int]:
    """Stop a failover away from a living site; begin anew where a slow machine made it stop before that.

    Args:
        folder: of its world.
        stop: the number of a moment, the effect after which it is stopped, or ``claimed``.
        how: the signal, SIGKILL or SIGSTOP.

    Returns:
        Its plan and its process, dead or frozen.
    """
    for _ in range(_RESUMES_MAX):
        plan = prepared(folder, home_answers=3)

        def is_there() -> bool:
            claimed = stop == "claimed"
            return _is_claimed(folder, plan) if claimed else effects(folder)[-1:] == [stop]  # noqa: B023

        moments = Moments(last=stop, how=how) if isinstance(stop, int) else Once(is_there, how=how)
        pid = forked(lambda plan=plan, m=moments: one_run(folder, plan, moments=m), folder / "answer")
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSIGNALED(status) or os.WIFSTOPPED(status):
            return plan, pid
        shutil.rmtree(folder)
    message = f"no failover came to {stop}"
    raise RuntimeError(message)


def _is_claimed(folder: Path, plan: Plan) -> bool:
    return open_world(folder).register.read().epoch > plan.epoch


def insisted(command: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give a command again while it says that it stopped part way, as a slow machine makes it do."""
    for _ in range(_RESUMES_MAX):
        answer = command()
        if answer.get("error") != StoppedPartWay.kind:
            break
    return answer


def aborted_after(folder: Path, moment: int) -> dict[str, Any]:
    """Kill a failover at a moment, then abort it; where that is refused, go forward."""
    plan, _ = stopped_at(folder, moment)
    before, claimed = effects(folder), _is_claimed(folder, plan)
    writes = open_world(folder).register.read().active == "away"
    answer = insisted(lambda: one_abort(folder))
    forward = insisted(lambda: one_run(folder, plan))
    return {
        "before": before, "claimed": claimed, "writes": writes, "abort": answer, "again": one_abort(folder),
        "forward": forward,
        "effects": effects(folder), "state": _plain(end_state(folder)),
    }  # fmt: skip


def abort_killed_at(folder: Path, stop: str, last: int) -> dict[str, Any]:
    """Kill a failover somewhere, kill its abort at a moment, then give that command until it is done."""
    plan, _ = stopped_at(folder, stop)
    answer = folder / "answer"
    status = ended(forked(lambda: one_abort(folder, last=last), answer))
    between = one_run(folder, plan, who="bob")
    runs = 1
    while status != 0 or json.loads(answer.read_text()).get("error") == StoppedPartWay.kind:
        status = ended(forked(lambda: one_abort(folder), answer))
        runs += 1
        if runs > _RESUMES_MAX:
            break
    return {
        "runs": runs, **json.loads(answer.read_text()), "between": between, "effects": effects(folder),
        "state": _plain(end_state(folder)),
    }  # fmt: skip


def abort_drill(folder: Path) -> dict[str, Any]:
    """A failover killed at each of its moments and then aborted; and aborts that are killed at each of theirs."""
    world = folder / "whole"
    moments = one_run(world, prepared(world, home_answers=3), pace=PACE)["moments"]
    swept = at_each(folder / "swept", range(1, moments + 1), aborted_after)
    deep = {}
    for stop in ("claimed", "shift-25", "resize-4", "shift-100"):
        whole = abort_killed_at(folder / f"{stop}-whole", stop, 0)
        killed = at_each(
            folder / stop,
            range(1, whole["moments"] + 1),
            lambda place, last, stop=stop: abort_killed_at(place, stop, last),  # type: ignore[misc]
        )
        deep[stop] = [whole, *killed]
    return {"swept": swept, "deep": deep}


def abort_rivals(folder: Path) -> list[dict[str, Any]]:
    """Two commanders abort what a third one left, at once."""
    stopped_at(folder, "shift-25")
    for _ in range(_RESUMES_MAX):  # until the dead one's hold has lapsed
        pids = [forked(lambda who=who: one_abort(folder, who=who), folder / f"answer-{who}") for who in ("bob", "eve")]
        codes = [ended(pid) for pid in pids]
        answers = [json.loads((folder / f"answer-{who}").read_text()) for who in ("bob", "eve")]
        if any("verdict" in answer for answer in answers):
            break
        time.sleep(0.1)
    return [*answers, {"codes": codes, "effects": effects(folder), "state": _plain(end_state(folder))}]


def abort_frozen(folder: Path) -> list[dict[str, Any]]:
    """A failover freezes part way; another commander aborts it; then the first wakes up."""
    return [_abort_frozen_at(folder / stop, stop) for stop in ("claimed", "shift-25", "shift-50")]


def _abort_frozen_at(folder: Path, stop: str) -> dict[str, Any]:
    _, first = stopped_at(folder, stop, how=signal.SIGSTOP)
    early = one_abort(folder, who="bob")
    second = until_verdict(lambda: one_abort(folder, who="bob"), folder / "second")
    before = effects(folder)
    os.kill(first, signal.SIGCONT)
    ended(first)
    return {
        "early": early, "first": json.loads((folder / "answer").read_text()), "second": second, "before": before,
        "effects": effects(folder), "state": _plain(end_state(folder)),
    }  # fmt: skip


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state, default=str))


def main() -> None:
    """Run one kind of drill."""
    folder, what = Path(sys.argv[1]), sys.argv[2]
    drills: dict[str, Callable[[Path], Any]] = {
        "kill": kill, "rivals": rivals, "frozen": frozen,
        "abort": abort_drill, "abort_rivals": abort_rivals, "abort_frozen": abort_frozen,
    }  # fmt: skip
    sys.stdout.write(json.dumps(drills[what](folder)))


if __name__ == "__main__":
    main()
