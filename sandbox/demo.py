"""``make demo``: two sites, a real service, backup through Prefect, a lost site, a failover, and the proof.

Exit codes: 0 when every proof held; 8 when a proof did not; 4 when a gate refused; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from understudy import opening
from understudy.errors import Corrupt, Refused, StoppedPartWay, UnderstudyError
from understudy.failover.decide import refused
from understudy.failover.plans import newest_plan
from understudy.report import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.client import Watch, Writer
    from sandbox.prefect_runs import Ended, Runs
    from sandbox.proof import Recorded
    from sandbox.sabotage import Sabotage
    from sandbox.stage import Stage

STEPS = 6
WRITING_SECONDS = 4.0
COPIES = ("replicate-artifacts", "replicate-vectors", "replicate-offline")


class Demo:
    """One run of the road. Each step is a method that says what it did, with its figures."""

    recorded: Recorded
    runs: Runs
    writer: Writer
    watch: Watch
    killed_at: datetime
    pressed: float
    failed: set[str]

    def __init__(self, stage: Stage, sabotage: Sabotage | None) -> None:
        self.stage = stage
        self.sabotage = sabotage
        self.step = 0
        self.failed = set()
        self.closing: list[Callable[[], None]] = []

    def say(self, text: str) -> None:
        """Print one line below the current step."""
        print(f"      {text}", flush=True)

    def head(self, text: str) -> None:
        """Print the line that opens a step."""
        self.step += 1
        print(f"[{self.step}/{STEPS}] {text}", flush=True)

    def strike(self, point: str) -> None:
        """Break what the sabotage breaks, when its moment has come."""
        if self.sabotage is not None and self.sabotage.point == point:
            self.sabotage.strike(self.stage)
            self.say(f"SABOTAGE {self.sabotage.name}: {self.sabotage.says}")

    def run(self) -> int:
        """Go the whole road; return the exit code."""
        from sandbox.proof import record

        began = time.monotonic()
        self.raise_the_stage()
        self.seed()
        self.recorded = record(self.stage)
        home = self.stage.settings.sites.home.name
        self.say(f"{len(self.recorded.answers)} questions asked at {home}, answers recorded")
        self.back_up()
        self.strike("backed_up")
        self.lose_home()
        self.strike("before_failover")
        ended = self.fail_over()
        self.strike("failed_over")
        failed = self.prove(ended)
        took = human_seconds(time.monotonic() - began)
        button = human_seconds(time.monotonic() - self.pressed)
        if failed:
            print(f"NOT PROVED: {', '.join(failed)}.", flush=True)
            return Corrupt.exit_code
        print(f"ALL PROVED in {took}; from the button to the proof {button}.", flush=True)
        return 0

    def raise_the_stage(self) -> None:
        """Step 1: every server a process on loopback, one address a site."""
        self.head("two sites")
        began = time.monotonic()
        self.stage.start_servers(self.say)
        self.say(f"{len(self.stage.processes)} processes up in {human_seconds(time.monotonic() - began)}")

    def seed(self) -> None:
        """Step 2: a real model, real passages embedded by it, features with a history."""
        from sandbox.seed import seed

        self.head("a real service at home")
        began = time.monotonic()
        seeded = seed(self.stage, progress=self.say)
        self.stage.start_service(self.say)
        self.say(
            f"{human_bytes(seeded.model_bytes)} model, {seeded.passages:,} passages, {seeded.entities:,} entities, "
            f"{seeded.values:,} feature values; "
            f"{human_seconds(time.monotonic() - began)}"
        )

    def back_up(self) -> None:
        """Step 3: the scheduled flows as deployments: first all, then nothing new, then a model that must wait."""
        from deployments.deploy import deploy
        from sandbox.prefect_runs import Runs
        from sandbox.seed import add_version_2

        self.head("backed up through Prefect")
        deploy(self.stage.config)
        self.stage.start_workers()
        runs = self.runs = Runs(self.stage.settings.service)
        self.closing.append(runs.close)
        self.say(f"deployed; {runs.pause_schedules()} schedules set, paused while the demo runs them by hand")
        self._copies("first", runs.run_all(COPIES))
        self._copies("first", runs.run_all(["rebuild-features"]))
        again = [*runs.run_all(COPIES), *runs.run_all(["rebuild-features"])]
        self._copies("again", again)
        if {ended.state for ended in again} != {"Unchanged"}:
            raise Refused("a second run found something to send", hint="open the runs in the Prefect UI")
        sent = add_version_2(self.stage)
        self.say(f"version 2 of the model uploaded at home: {human_bytes(sent)}, one layer fine-tuned")
        held = runs.run_all(["replicate-artifacts"])
        self._copies("version 2", held)
        if held[0].state != "Held":
            raise Refused(f"version 2 was not held but {held[0].state}", hint="its index does not exist")

    def _copies(self, which: str, ended: list[Ended]) -> None:
        for run in ended:
            if not run.completed:
                raise StoppedPartWay(
                    f"{run.name} ended as {run.state}: {run.message}", hint="open it in the Prefect UI"
                )
            for sentence in run.message.split(" | "):
                self.say(f"{which}: {sentence}")

    def lose_home(self) -> None:
        """Step 4: a client writes on while every process of home is killed and its disks are removed."""
        from sandbox.client import Watch, Writer

        home = self.stage.settings.sites.home.name
        self.head(f"disaster: {home} is lost while a client writes")
        writer = self.writer = Writer(self.stage)
        writer.start()
        time.sleep(WRITING_SECONDS)
        self._copies("schedule", self.runs.run_all(["replicate-offline"]))
        time.sleep(WRITING_SECONDS / 2)
        self.killed_at = datetime.now(UTC)
        killed = self.stage.kill_home()
        watch = self.watch = Watch(self.stage, self.recorded)
        watch.start()
        self.say(f"{home}: {killed} processes ended by SIGKILL, its disks removed")
        self.say(f"{len(writer.acknowledged):,} writes acknowledged; the next one: {watch.first_failure()}")

    def fail_over(self) -> Ended:
        """Step 5: the plan, then the failover deployment, followed on the screen."""
        away = self.stage.settings.sites.away.name
        self.head(f"failover to {away}")
        runs = self.runs
        planned = runs.follow(runs.start("plan-failover"), say=self.say)
        service = self.stage.settings.service
        register = opening.open_register(self.stage.settings)
        plan = newest_plan(register.store, service=service, now=register.now())
        if not planned.completed:
            gates = refused(plan.gates)
            self.failed = {gate.name for gate in gates}
            raise Refused(f"the plan was refused: {'; '.join(gate.sentence for gate in gates)}")
        self.pressed = time.monotonic()
        run = runs.start("failover", plan=plan.id, confirm=service, reason="make demo")
        ended = runs.follow(run, say=self.say)
        if not ended.completed:
            raise StoppedPartWay(f"{ended.name} ended as {ended.state}: {ended.message}")
        self.say(f"{ended.name}: {ended.state} {human_seconds(time.monotonic() - self.pressed)} after the button")
        return ended

    def prove(self, ended: Ended) -> list[str]:
        """Step 6: what was recorded at home, compared with what the other site says; return the proofs that failed."""
        from sandbox.proof import prove

        self.head("proof")
        self.watch.stop()
        self.writer.stop()
        acknowledged = self.writer.acknowledged
        proof = prove(self.stage, self.recorded, killed_at=self.killed_at, acknowledged=acknowledged, watch=self.watch)
        for row in proof.rows:
            self.say(f"{'held  ' if row.held else 'FAILED'}  {row.name}: {row.sentence}")
        print(proof.text(), flush=True)
        value = {**proof.json(), "button_to_proof_seconds": round(time.monotonic() - self.pressed, 1)}
        (self.stage.directory / "proof.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
        service = self.stage.settings.service
        self.runs.publish(f"failover-proof-{service}", f"# {ended.name}\n\n{proof.markdown()}")
        self.failed = {row.name for row in proof.rows if not row.held}
        missed = [f"the target of {row.component}" for row in proof.targets if not row.held]
        return [*sorted(self.failed), *missed]


def main(arguments: list[str] | None = None) -> int:
    """Run the demo from the command line."""
    from sandbox.client import NotAnswered
    from sandbox.process import ServerDidNotStart, down
    from sandbox.sabotage import SABOTAGES
    from sandbox.stage import DIRECTORY, AlreadyRunning, Stage

    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    parser.add_argument("--sabotage", choices=sorted(SABOTAGES), help="break one thing; the demo must catch it")
    parser.add_argument("--down", action="store_true", help="stop what --keep left running, and nothing else")
    options = parser.parse_args(arguments)
    if options.down:
        print(f"{down(DIRECTORY)} processes stopped")
        return 0
    sabotage = SABOTAGES[options.sabotage] if options.sabotage else None

    stage = Stage(home_lease=not (sabotage is not None and sabotage.point == "stage"))
    demo = Demo(stage, sabotage)
    code = 1
    try:
        if sabotage is not None and sabotage.point == "stage":
            print(f"SABOTAGE {sabotage.name}: {sabotage.says}", flush=True)
        code = demo.run()
    except UnderstudyError as error:
        print(f"NOT PROVED: {error}", flush=True)
        code = error.exit_code
    except (ServerDidNotStart, AlreadyRunning, NotAnswered) as error:
        print(f"NOT PROVED: {error}", flush=True)
        code = UnderstudyError.exit_code
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        code = 130
    finally:
        for close in demo.closing:
            close()
        if options.keep:
            stage.keep()
            for what, url in stage.urls.items():
                print(f"{what}: {url}")
            print("all is left running; next: make down")
        else:
            stage.stop()
    return code if sabotage is None or code == 130 else judge_sabotage(sabotage, demo.failed, code)


def judge_sabotage(sabotage: Sabotage, failed: set[str], code: int) -> int:
    """Say whether a sabotage turned the proofs, or the gate, that it should; the exit code is never 0."""
    wanted = ", ".join(sorted(sabotage.breaks))
    if failed == sabotage.breaks:
        print(f"CAUGHT: {sabotage.name} turned {wanted}, and nothing else", flush=True)
        return code
    found = ", ".join(sorted(failed)) or "nothing"
    print(f"NOT CAUGHT AS IT SHOULD BE: {sabotage.name} turned {found}, expected {wanted}", flush=True)
    return UnderstudyError.exit_code


if __name__ == "__main__":
    sys.exit(main())
