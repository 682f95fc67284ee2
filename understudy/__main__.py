"""The ``understudy`` command: break-glass, works when the Prefect server is what went down."""

from __future__ import annotations

import gc
import os
import sys

#: Objects made between two collections. Nearly all that a start makes stays; to look through it for garbage as often as
#: Python does by itself is a tenth of the start's time.
_COLLECT_AFTER = 200_000


def main() -> None:
    """Run the command line and leave with the exit code that says what happened."""
    gc.set_threshold(_COLLECT_AFTER)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else every package installed here is asked for some
    from understudy.command.root import run
    from understudy.process import settle

    settle()
    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread still waiting on a dead site's socket must not hold a commander's terminal.
    os._exit(code)


if __name__ == "__main__":
    main()
