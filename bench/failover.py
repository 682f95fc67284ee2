"""The failover of the demo, from the button to the proof: ``python -m bench.failover``. Runs the whole demo once.

The figures are the demo's own, on its screen and in ``.sandbox/proof.json``; the bar is 90 s from button to proof.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
BAR_SECONDS = 90.0


def main() -> int:
    """Run the demo, print the table, and return 1 when the bar is missed or a proof did not hold."""
    command = [sys.executable, "-m", "sandbox.demo"]
    done = subprocess.run(command, cwd=CHECKOUT, check=False, stdout=subprocess.PIPE, text=True)
    print(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        return 1
    proof = json.loads((CHECKOUT / ".sandbox" / "proof.json").read_text(encoding="utf-8"))
    seconds = proof["button_to_proof_seconds"]
    holds = seconds <= BAR_SECONDS
    rows = [("button to proof", seconds, BAR_SECONDS, "ok" if holds else "MISSED")]
    rows += [(f"RTO {row['component']}", row["rto_achieved"] or 0.0, row["rto_target"], "") for row in proof["targets"]]
    for name, value, bar, verdict in rows:
        print(f"{name:<24}{value:>8.1f} s   <= {bar:>7.0f} s   {verdict}".rstrip())
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
