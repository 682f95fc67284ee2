"""The root command: the config, the output mode, and the exit code of every error."""

from __future__ import annotations

import os
import sys
import traceback

import click

from understudy import __version__
from understudy.command.screen import Screen
from understudy.errors import UnderstudyError

_LAZY = {
    "artifacts": "understudy.command.replication:artifacts",
    "vectors": "understudy.command.replication:vectors",
    "features": "understudy.command.replication:features",
    "vault": "understudy.command.vault:vault",
    "failover": "understudy.command.failover:failover",
    "status": "understudy.command.status:status",
    "report": "understudy.command.report:report",
    "kit": "understudy.command.kit:kit",
    "debug": "understudy.command.debug:debug",
    "completion": "understudy.command.completion:completion",
    "metrics": "understudy.command.metrics:metrics",
    "config": "understudy.command.config:config",
    "init": "understudy.command.init:init",
    "register": "understudy.command.register:register",
    "iam": "understudy.command.iam:iam",
}


class _LazyGroup(click.Group):
    """Loads a command's module when it is called: break-glass starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_LAZY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _LAZY:
            return None
        from importlib import import_module

        module, name = _LAZY[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


class Context:
    """What every command gets: the screen and the config's path."""

    def __init__(self, screen: Screen, config: str | None) -> None:
        self.screen = screen
        self.config = config


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="understudy", message="%(prog)s %(version)s")
@click.option("-c", "--config", metavar="FILE", help="Else $UNDERSTUDY_CONFIG, else config/production.yaml.")
@click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout, errors too.")
@click.option("-q", "--quiet", is_flag=True, help="Results and errors alone.")
@click.pass_context
def root(ctx: click.Context, config: str | None, *, as_json: bool, quiet: bool) -> None:
    """Keep a standby of an AI service ready in another region or cloud, and put it on stage when the primary falls.

    Exit codes: 0 done or nothing to do, 1 unexpected, 2 usage, 3 config or secret, 4 refused by a gate and nothing
    changed, 5 target missed or not ready, 6 another commander holds the epoch, 7 stopped part way and the same command
    resumes, 8 corrupt data, 9 unreachable, 130 interrupted.
    """
    screen = Screen(as_json=as_json, quiet=quiet)
    screen.log_warnings()
    ctx.obj = Context(screen, config)


def run(arguments: list[str]) -> int:
    """Run the command line; return its exit code. Never lets a traceback reach a user unasked."""
    screen = Screen(as_json="--json" in arguments, quiet=False)
    try:
        outcome = root.main(args=arguments, prog_name="understudy", standalone_mode=False)
    except UnderstudyError as error:
        screen.error(error)
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        helped = isinstance(error, click.exceptions.NoArgsIsHelpError)
        words = "a command is missing" if helped else error.format_message()
        usage = UnderstudyError(words, hint="see understudy --help")
        usage.exit_code, usage.kind = 2, "usage"
        if helped and not screen.as_json:
            sys.stderr.write(error.format_message() + "\n")
        else:
            screen.error(usage)
        return 2
    except (KeyboardInterrupt, click.Abort):
        stopped = UnderstudyError("interrupted; the same command goes on where this one stopped")
        stopped.exit_code, stopped.kind = 130, "interrupted"
        screen.error(stopped)
        return stopped.exit_code
    except Exception as error:  # noqa: BLE001 - the last place where an error can become a sentence
        if os.environ.get("UNDERSTUDY_DEBUG"):
            traceback.print_exc()
        screen.error(
            UnderstudyError(
                f"unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}",
                hint="run it again with UNDERSTUDY_DEBUG=1 for the traceback, and report it",
            )
        )
        return 1
    return outcome if isinstance(outcome, int) else 0
