"""The ``understudy`` command: break-glass, works when the Prefect server is what went down."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with the exit code that says what happened."""
    from understudy.command.root import run

    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread still waiting on a dead site's socket must not hold a commander's terminal.
    os._exit(code)


if __name__ == "__main__":
    main()
