"""Runs failovers in forked children of one small process, and says in JSON how each ended.

``python -m tests.drill.failover_driver FOLDER kill|rivals|frozen``
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.drill.failover_world import PACE, Moments, effects, end_state, make, open_world
from understudy.errors import StoppedPartWay, UnderstudyError
from understudy.failover.engine import prepare, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.failover.plan import Plan

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


def one_run(folder: Path, plan: Plan, *, last: int = 0, how: int = signal.SIGKILL, who: str = "ana") -> dict[str, Any]:
    """Run the plan in this process."""
    moments = Moments(last=last, how=how)
    try:
        outcome = run(plan, open_world(folder, moments), who=who, host="bastion", pace=PACE)
    except UnderstudyError as error:
        return {"error": error.kind, "message": error.message, "moments": moments.count}
    return {"verdict": outcome.verdict, "moments": moments.count, "complete": outcome.journal_complete}


def prepared(folder: Path) -> Plan:
    """Lay out a world and return its plan."""
    make(folder)
    return prepare(open_world(folder), target="away")


def killed_at(folder: Path, last: int) -> dict[str, Any]:
    """Kill a run at a moment, then give the same command until it is done."""
    plan = prepared(folder)
    answer = folder / "answer"
    status = ended(forked(lambda: one_run(folder, plan, last=last), answer))
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
    # One process a moment, forked from this thread alone: the world is read again from its files.
    results = {}
    waiting = list(range(1, whole["moments"] + 1))
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < 16:
            last = waiting.pop(0)
            place = folder / f"killed-{last}"
            place.mkdir()
            running[forked(lambda place=place, last=last: killed_at(place / "world", last), place / "result")] = last
        pid, _ = os.wait()
        last = running.pop(pid)
        results[last] = json.loads((folder / f"killed-{last}" / "result").read_text())
    return [whole, *(results[last] for last in sorted(results))]


def rivals(folder: Path) -> list[dict[str, Any]]:
    """Two commanders press at once."""
    plan = prepared(folder)
    pids = [forked(lambda who=who: one_run(folder, plan, who=who), folder / f"answer-{who}") for who in ("ana", "bob")]
    for pid in pids:
        ended(pid)
    answers = [json.loads((folder / f"answer-{who}").read_text()) for who in ("ana", "bob")]
    return [*answers, {"effects": effects(folder), "state": _plain(end_state(folder))}]


def frozen(folder: Path) -> list[dict[str, Any]]:
    """A commander freezes just after it journaled an intent; another takes over; the first wakes up again."""
    return [_frozen_at(folder / f"frozen-{last}", last) for last in (8, 12, 16)]


def _frozen_at(folder: Path, last: int) -> dict[str, Any]:
    plan = prepared(folder)
    first = forked(lambda: one_run(folder, plan, last=last, how=signal.SIGSTOP), folder / "first")
    os.waitpid(first, os.WUNTRACED)
    while True:
        ended(forked(lambda: one_run(folder, plan, who="bob"), folder / "second"))
        second = json.loads((folder / "second").read_text())
        if "verdict" in second:
            break
        time.sleep(0.1)
    os.kill(first, signal.SIGCONT)
    ended(first)
    answers = {"first": json.loads((folder / "first").read_text()), "second": second}
    return {**answers, "effects": effects(folder), "state": _plain(end_state(folder))}


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state, default=str))


def main() -> None:
    """Run one kind of drill."""
    folder, what = Path(sys.argv[1]), sys.argv[2]
    sys.stdout.write(json.dumps({"kill": kill, "rivals": rivals, "frozen": frozen}[what](folder)))


if __name__ == "__main__":
    main()
