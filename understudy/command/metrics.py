"""``understudy metrics``: the standby's state as Prometheus reads it, printed once or served."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from understudy.command.root import Context

DEFAULT_ADDRESS = "127.0.0.1:9464"


@click.command()
@click.option(
    "--serve",
    "address",
    is_flag=False,
    flag_value=DEFAULT_ADDRESS,
    metavar="[HOST:PORT]",
    help=f"Serve /metrics instead of printing it; {DEFAULT_ADDRESS} when nothing is named.",
)
@click.pass_obj
def metrics(ctx: Context, address: str | None) -> None:
    """Print the standby's state for Prometheus, read from the vault and the register just now.

    Exit code 0 also when they cannot be read: then understudy_up is 0 and nothing older is shown, so that what
    collects the output does not keep yesterday's.
    """
    from understudy.metrics.exposition import StoreCollector, exposition, serve
    from understudy.service import open_service

    service = open_service(ctx.config)
    if address is None:
        if ctx.screen.as_json:
            values = [
                {"name": sample.instrument.prometheus, "labels": sample.labels, "value": sample.value}
                for sample in StoreCollector(service).read()
            ]
            ctx.screen.result(values, [])
        else:
            ctx.screen.result(None, exposition(service).splitlines())
        return
    server, thread = serve(service, address)
    host, port = server.server_address[:2]
    shown = host.decode() if isinstance(host, bytes) else host
    where = f"[{shown}]" if ":" in shown else shown
    ctx.screen.say(f"http://{where}:{port}/metrics, read from the stores at each scrape; Ctrl-C ends it")
    # A supervisor ends a service with SIGTERM; that is no error.
    signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
    try:
        thread.join()
    finally:
        server.server_close()
