"""``understudy completion``: what a shell needs to complete commands, options, pairs and sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from understudy.errors import Unsupported

if TYPE_CHECKING:
    from understudy.settings import ComponentName, Settings

SHELLS = ("bash", "zsh", "fish")
_COMPONENTS: dict[str, ComponentName] = {
    "artifacts": "training",
    "vectors": "vector_index",
    "features": "feature_store",
}
_WHERE = {
    "bash": "understudy completion bash > ~/.local/share/bash-completion/completions/understudy",
    "zsh": 'understudy completion zsh > "${fpath[1]}/_understudy"',
    "fish": "understudy completion fish > ~/.config/fish/completions/understudy.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell; keep it where the shell looks for such scripts.

    \b
    bash: ~/.local/share/bash-completion/completions/understudy
    zsh:  a folder of $fpath, as _understudy
    fish: ~/.config/fish/completions/understudy.fish
    """  # noqa: D301 - click keeps the lines after its own \b
    click.echo(script(shell))


def script(shell: str) -> str:
    """Return the completion script of a shell. Raises Unsupported."""
    from understudy.command.root import root

    found = get_completion_class(shell)
    if found is None:
        raise Unsupported(f"{shell} cannot be completed", hint=f"write one of {', '.join(SHELLS)}")
    source = found(root, {}, "understudy", "_UNDERSTUDY_COMPLETE").source()
    return f"# {_WHERE[shell]}\n{source}"


def pairs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a pair's name from the config, if it can be read."""
    del param
    settings = _settings(ctx)
    component = _COMPONENTS.get((ctx.parent.info_name if ctx.parent else None) or "")
    found = settings.components.get(component) if settings and component else None
    return [CompletionItem(pair.name) for pair in (found.pairs if found else ()) if pair.name.startswith(incomplete)]


def sites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a site's name from the config, if it can be read."""
    del param
    settings = _settings(ctx)
    names = [settings.sites.home.name, settings.sites.away.name] if settings else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _settings(ctx: click.Context) -> Settings | None:
    from understudy.errors import UnderstudyError
    from understudy.settings import load_settings

    try:
        return load_settings(ctx.find_root().params.get("config"))
    except UnderstudyError:
        return None
