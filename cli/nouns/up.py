"""`drawdown up`: run ticks, watch, nightly checks and server as one command.

Guarantee: a tick does not delay a response, because the server is a separate process. If one part ends, the other part
and the command end, too. A supervisor then restarts both.
"""

from __future__ import annotations

import sys
from typing import Annotated, Final

import structlog
import typer

from drawdown.cli.app import App
from drawdown.cli.nouns.serve import open_door, services_of
from drawdown.cli.nouns.tick import Every, NewOrgFrom, NewOrgProvider, new_orgs, parse_nightly
from drawdown.cli.processes import Stopping, in_processes
from drawdown.cli.rendering import show
from drawdown.cli.streams import Fault
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import Exit, UsageError, worst
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.watch import ROUND_MS

log = structlog.get_logger()

SERVER: Final = "server"
WORKER: Final = "ticks, watch and nightly"
NIGHTLY_AT: Final = "02:17"
"""Default time of day of `drawdown nightly`. It is in UTC, which never skips or repeats an hour."""


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("up")(up_)


def up_(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for a free port")] = 8080,
    every: Every = 300,
    nightly_at: Annotated[
        str, typer.Option(help="Time of day of `drawdown nightly`, in UTC; off to disable it")
    ] = NIGHTLY_AT,
    new_org_provider: NewOrgProvider = None,
    new_org_from: NewOrgFrom = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="Acceptance of a clock that jumped")] = False,
) -> None:
    """Run ticks, watch, nightly checks and server as one command.

    The command ends with SIGTERM or Ctrl-C. To run the parts in separate processes, use `drawdown run`, `watch`,
    `nightly` and `serve`.
    """
    from drawdown.cli import scheduler
    from drawdown.server.app import Server  # import it before the fork, so that both processes share it
    from drawdown.server.http import listen

    app: App = context.obj
    appearing = new_orgs(app, new_org_provider, new_org_from)
    if isinstance(app.clock, FixedClock):
        raise UsageError("--at does not apply: `drawdown up` uses the current time. Omit --at")
    night = None if nightly_at == "off" else parse_nightly(nightly_at, ", or off")
    app.ready()
    options = scheduler.Options(Shard(), appearing, accept_clock, every, ROUND_MS // SECOND_MS, nightly_at=night)
    listening, url = open_door(app, host, port)
    stopping = Stopping()
    stopping.on_signals()  # before the first line of output, so that no signal is lost
    when = "no nightly" if night is None else f"nightly at {night:%H:%M} UTC"
    told = (
        f"listening on {url}; a tick now and every {every:,} s, a watch round every {options.watch_every_s} s between"
    )
    show(
        app,
        {"url": url, "tick_every_s": every, "watch_every_s": options.watch_every_s,
         "nightly_at": None if night is None else f"{night:%H:%M}"},
        [f"{told} them; {when}; SIGTERM or Ctrl-C ends the command"],
    )  # fmt: skip
    sys.stdout.flush()
    log.info("serving", url=url)

    def one(part: str, ending: Stopping) -> int:
        own = app.apart()
        try:
            if part == WORKER:
                listening.close()
                return scheduler.run(own, options, ending)
            listen.serve(Server(services_of(own)), listening, own.settings.trusted_proxies, ending.is_set)
            return Exit.SETTLED
        finally:
            own.close()

    app.close()  # a forked process must not share a connection
    ended = in_processes((WORKER, SERVER), one, together=True, before=stopping)
    raise typer.Exit(worst(result.status if isinstance(result, Fault) else result for _, result in ended))
