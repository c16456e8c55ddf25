"""`drawdown worker`: run ticks, watch rounds and nightly comparisons.

Any number of machines can run workers on the same database.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError

from drawdown.cli.app import App, worker_name
from drawdown.cli.nouns.tick import NewOrgProvider
from drawdown.cli.processes import Stopping
from drawdown.cli.rendering import show
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import DatabaseNotReady, UsageError
from drawdown.schema.text import counted
from drawdown.worker.cluster import install
from drawdown.worker.cluster.membership import MAX_SHARDS, NOBODY, Member, Membership, RequestedTerms, take_part


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("worker")(worker_)


def worker_(
    context: typer.Context,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_SHARDS, help="Number of parts of a tick", show_default="as the first worker set, or 4"
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, max=3_600, help="Seconds between ticks", show_default="as the first worker set, or 300"),
    ] = None,
    new_org_provider: NewOrgProvider = None,
) -> None:
    """Run a cluster worker until SIGTERM or Ctrl-C.

    The workers share the ticks of each shard, the rounds of the watch, and the nightly `reconcile --correct`. The
    command needs PostgreSQL and the extra `cluster`.
    """
    app: App = context.obj
    if new_org_provider is not None and new_org_provider != NOBODY:
        app.require_provider(new_org_provider)
    if isinstance(app.clock, FixedClock):
        raise UsageError("--at does not apply: a worker uses the current time. Omit --at")
    install.require_postgresql(app.engine)
    install.require_engine()
    from drawdown.cli import cluster  # the engine is installed only with the extra

    if every is not None:
        cluster.cron(every)
    _prepare(app)
    stopping = Stopping()
    stopping.on_signals()
    member = Member(worker_name(), metadata.version("drawdown"))
    ready = tuple(sorted(name for name, one in app.registry.providers.items() if one.dormant is None))
    wanted = RequestedTerms(shards, every, new_org_provider, ready)
    taken: Membership = app.write(lambda c: take_part(c, member, wanted))
    terms = taken.terms
    made = cluster.Jobs(app, terms, member, stopping)
    living = counted(taken.living - 1, "other worker is", "other workers are")
    others = f"{living} live" if taken.living > 1 else "no other worker is live"
    shards_ = counted(terms.shards, "shard")
    told = f"{member.name}: {shards_}, a tick every {terms.every_s:,} s; {others}; SIGTERM or Ctrl-C ends"
    found = {"worker": member.name, "shards": terms.shards, "tick_every_s": terms.every_s, "living": taken.living}
    show(app, found, [told])
    sys.stdout.flush()
    try:
        cluster.work(made)
    finally:
        made.close()


def _prepare(app: App) -> None:
    """Install the workers' schema if it is missing.

    Errors: DatabaseNotReady if it is missing and this user may not install it.
    """
    app.ready()
    install.require_direct(app.engine)
    try:
        install.require_installed(app.engine)
    except DatabaseNotReady as missing:
        try:
            install.install(app.engine)
        except (DatabaseNotReady, DBAPIError) as error:
            raise missing from error
