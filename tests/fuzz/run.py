"""``python -m tests.fuzz.run [SECONDS]``: every atheris target one after another, that long each; a line a target."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run them all; 1 when any found something."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    failed = False
    for path in sorted(Path(__file__).parent.glob("atheris_*.py")):
        command = [
            sys.executable,
            "-m",
            f"tests.fuzz.{path.stem}",
            f"-max_total_time={seconds}",
            "-print_final_stats=1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = done.stdout + done.stderr
        executed = re.search(r"number_of_executed_units:\s*(\d+)", told)
        covered = re.findall(r"cov: (\d+)", told)
        what = "nothing found" if done.returncode == 0 else "FOUND"
        count = int(executed[1]) if executed else 0
        sys.stdout.write(f"{path.stem}: {count:,} executions, {covered[-1] if covered else 0} edges, {what}\n")
        if done.returncode:
            failed = True
            sys.stdout.write(told[-3000:])
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
