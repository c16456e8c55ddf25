"""`drawdown watch`: halt organisations within seconds, beside a cron tick."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import structlog
import typer

from drawdown.cli.app import App
from drawdown.cli.nouns.tick import parse_shard
from drawdown.cli.options import only_with
from drawdown.cli.processes import Stopping
from drawdown.cli.rendering import show
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import Exit, UsageError
from drawdown.worker.watch import Watcher

log = structlog.get_logger()


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("watch")(watch_)


def watch_(
    context: typer.Context,
    shard: Annotated[str | None, typer.Option(help="Part of the organisations, as I/N with I from 0")] = None,
    every: Annotated[int, typer.Option(help="Seconds between rounds", min=1, max=60)] = 5,
    once: Annotated[bool, typer.Option("--once", help="A single round")] = False,
) -> None:
    """Halt and resume organisations within seconds.

    The watch halts organisations without credit, and resumes organisations that paid, until SIGTERM or Ctrl-C. Ticks
    bill usage, and the watch does not. `drawdown run` watches, too. With --once, the exit status is 75 if a halt or a
    read failed.
    """
    from drawdown.cli.scheduler import WatchLoop  # this imports the scheduler of ticks

    app: App = context.obj
    if once:
        only_with(context, "--once", "shard")
    app.ready()
    if isinstance(app.clock, FixedClock) and not once:
        raise UsageError("--at applies only to a single round. Pass --once, too")
    stopping = Stopping()
    watch_loop = WatchLoop(app, parse_shard(shard), stopping, Watcher(once=once))
    if once:
        done = watch_loop.round()
        text = (
            f"organisations: {done.estimates:,} checked, {done.read:,} read; {done.halted:,} halted, "
            f"{done.resumed:,} resumed"
        )
        show(app, {"watch": asdict(done)}, [text])
        raise typer.Exit(Exit.LEFT if done.halts_failed or done.failures else Exit.SETTLED)
    stopping.on_signals()
    told = (
        f"a watch round every {every} s, which halts organisations without credit; SIGTERM or Ctrl-C ends the command"
    )
    show(app, {"watch_every_s": every}, [told])
    sys.stdout.flush()
    while not stopping.is_set():
        watch_loop.try_round()
        stopping.wait(every)
