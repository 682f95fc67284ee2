"""All servers at once: ``python -m sandbox.servers start|stop|status|reset [NAME ...]``, or around a command.

``python -m sandbox.servers run -- COMMAND`` starts servers of its own with empty data, gives the command the variables
that clients need, stops them when it has ended, and returns its exit code. Servers that run already are left alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from sandbox.process import ServerDidNotStart
from sandbox.servers import servers
from sandbox.servers.server import MISSING, MissingTool, NotInstallable, Running, main, state


def run_with_servers(command: list[str]) -> int:
    """Run a command among servers of its own and return its exit code.

    What cannot be started is said and left out, or ends it with ``REQUIRE_SERVERS=1``.
    """
    required = os.environ.get("REQUIRE_SERVERS") == "1"
    below = state() / f"run-{os.getpid()}"
    variables: dict[str, str] = {}
    try:
        for name, server in servers().items():
            try:
                variables |= Running(server, below).start(_say)
                _say(f"{name}: running")
            except (MissingTool, NotInstallable, ServerDidNotStart) as error:
                _say(f"{name}: {error}")
                if required:
                    return MISSING if isinstance(error, MissingTool) else 1
        return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        for server in servers().values():
            Running(server, below).stop()
        shutil.rmtree(below, ignore_errors=True)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:3] == ["run", "--"] and sys.argv[3:]:
        sys.exit(run_with_servers(sys.argv[3:]))
    sys.exit(main(servers(), program="sandbox.servers"))
