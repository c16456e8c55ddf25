"""`drawdown demo`: meter a small fleet, from samples to a halt.

The database's file stays after the demo. With --serve, the demo shows a month of data in a console, and the database
stays only with --file.
"""

from __future__ import annotations

import logging
import random
import secrets
import shutil
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Annotated, Final

import sqlalchemy as sa
import structlog
import typer
from pydantic import SecretStr

from drawdown.cli.app import App
from drawdown.cli.nouns.demo_cell import DemoCell
from drawdown.cli.nouns.tick import report_lines, run_tick
from drawdown.cli.rendering import table
from drawdown.cli.settings import Settings
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.errors import UsageError
from drawdown.schema.migrate import upgrade
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.schema.units import GRACE_MS, MICRO, MINUTE_MS, WINDOW_MS, window_of
from drawdown.worker.engine import runner
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.halts import cells
from drawdown.worker.orgs import assignments
from drawdown.worker.replay.plan import ReplayScope, plan
from drawdown.worker.replay.replay import replay
from drawdown.worker.sources.demo_host import Sandbox, SandboxSample, start_sandboxes, stop_sandboxes, write_samples
from drawdown.worker.status.demo import fleet, revised_pushes, totals
from drawdown.worker.status.ticks import Report
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit

FILE: Final = "drawdown-demo.db"
WINDOWS: Final = 6
SEED: Final = 7


@dataclass(frozen=True)
class DemoOrg:
    """An organisation of the demo.

    `sandboxes`: the number of its sandboxes. `memory_mb`: the memory of each sandbox in MB. `credit_micro`: its first
    credit, in micro-credits.
    """

    name: str
    sandboxes: int
    memory_mb: int
    credit_micro: int
    plan: str


ORGS: Final = (
    DemoOrg("acme", 40, 4096, 100 * MICRO, "team"),
    DemoOrg("globex", 25, 8192, 200 * MICRO, "team"),
    DemoOrg("initech", 10, 1024, MICRO, "hobby"),  # this organisation uses up its credit in 1,000 seconds
    DemoOrg("hooli", 15, 16384, 500 * MICRO, "team"),
)


@dataclass
class Demo:
    """The state of the demo: its fleet and its clock."""

    app: App
    clock: FixedClock
    cells: list[DemoCell] = field(default_factory=list)
    samples: int = 0

    def host_writes(self, samples: list[SandboxSample]) -> None:
        """Write samples as a host does, without a command."""
        write(self.app.engine, lambda connection: write_samples(connection, samples, self.clock.at_ms))

    def say(self, text: str) -> None:
        self.app.out.print(f"\n[bold]{text}[/bold]", highlight=False)

    def tick(self) -> Report:
        report = run_tick(self.app, self.app.context(), always=True)
        for line in report_lines(report):
            self.app.out.print(line, highlight=False)
        return report


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("demo")(demo)


def demo(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Database file, created again at each start", show_default=f"{FILE}; with --serve, a temporary file"
        ),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Console with a month of data, until Ctrl-C")] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port of the console, for --serve", show_default="a free port")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Browser opened on the console, for --serve")
    ] = True,
) -> None:
    """Run a demonstration on this machine.

    Drawdown meters a small fleet with two cells, and one organisation runs out of credit. The command then proves the
    result. With --serve, it shows a month of a small product's life in the console.
    """
    given: App = context.obj
    if context.find_root().params.get("database_url") is not None:
        raise UsageError("--database-url does not apply: the demo creates its own file. Use --file")
    if port is not None and not serve:
        raise UsageError("--port applies only to --serve. Pass --serve, too")
    if serve:
        _serve(given, file, port or 0, browser=browser)
    else:
        _fleet(given, file or Path(FILE))


def _clear(file: Path) -> None:
    """Delete an old demo's file, and the files beside it.

    Errors: UsageError if the file's name is not of a demo.
    """
    its = [Path(f"{file}{suffix}") for suffix in ("", "-wal", "-shm", "-state")]
    there = next((one for one in its if one.exists()), None)
    if there is not None and not file.name.startswith("drawdown-demo"):
        raise UsageError(
            f"cannot overwrite {there}: the demo overwrites only files with names that begin with drawdown-demo. Pass "
            "another --file"
        )
    *files, state = its
    for one in files:
        one.unlink(missing_ok=True)
    shutil.rmtree(state, ignore_errors=True)


def _serve(given: App, file: Path | None, port: int, *, browser: bool) -> None:
    from drawdown.cli.demo.serve import serve  # this imports the server, which the small fleet does not need

    if file is not None:
        _clear(file)
    # The month's outages cause warnings, which the demo's pages show.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    serve(given, file, port, browser=browser)


def _fleet(given: App, file: Path) -> None:
    """Run the small fleet, step by step."""
    _clear(file)
    # The tables show the progress.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = FixedClock(window_of(given.clock.now_ms()) - (WINDOWS + 2) * WINDOW_MS)
    secret = secrets.token_hex(16)
    settings = Settings(database_url=f"sqlite:///{file}", cell_secret=SecretStr(secret), state_dir=f"{file}-state")
    made = Demo(App(settings, clock, out=given.out, err=given.err), clock)
    try:
        for step in STEPS:
            step(made)
    finally:
        for cell in made.cells:
            cell.close()
        made.app.engine.dispose()  # closing writes SQLite's log into the file, so a copy of the file is complete


def build_fleet(demo: Demo) -> None:
    """Create a database, two cells on loopback, and four organisations with credit."""
    demo.say("1. A database, two cells (HTTP servers on loopback), four organisations with prepaid credit")
    upgrade(demo.app.engine)
    by = demo.app.by("demo", "the demo's fleet")
    secrets_of = demo.app.settings.cells().secrets_of

    def stop(cell: str, org: str) -> None:
        write(demo.app.engine, lambda connection: stop_sandboxes(connection, cell, org))

    demo.cells = [DemoCell(name, secrets_of(name)[0], demo.clock, stop) for name in ("cell-1", "cell-2")]
    demo.app.settings.cell_origins = ",".join(cell.url for cell in demo.cells)

    def fill(connection: sa.Connection) -> None:
        install_defaults(connection, by)
        credit.set_plan_limit(connection, "team", 100, by)
        credit.set_plan_limit(connection, "hobby", 10, by)
        assignments.assign(connection, [org.name for org in ORGS], "embedded", by, from_ms=demo.clock.at_ms)
        for org in ORGS:
            name, amount = org.name, org.credit_micro
            credit.grant(connection, name, amount, by, key=f"demo-{name}", plan=org.plan)
        for cell in demo.cells:
            cells.set_cell(connection, cell.cell_id, cell.url, by, new=True)

    demo.app.write(fill)
    write(demo.app.engine, lambda connection: start_sandboxes(connection, sandboxes()))
    show_balances(demo)


def sandboxes() -> list[Sandbox]:
    """Return every sandbox of the fleet, spread over both cells."""
    return [
        Sandbox(f"{org.name}-{n}", org.name, f"cell-{n % 2 + 1}", org.memory_mb)
        for org in ORGS
        for n in range(org.sandboxes)
    ]


def use(demo: Demo) -> None:
    """Write a sample for each minute and sandbox, as hosts do."""
    chance = random.Random(SEED)  # noqa: S311, a demo's jitter
    start = demo.clock.at_ms
    rows = [
        SandboxSample(
            f"{sandbox.sandbox_id}@{minute}", sandbox, 60, start + minute * MINUTE_MS + chance.randrange(MINUTE_MS)
        )
        for minute in range(WINDOWS * 5)
        for sandbox in sandboxes()
    ]
    demo.clock.at_ms = start + WINDOWS * WINDOW_MS
    demo.samples = len(rows)
    demo.say(f"2. Half an hour of usage: the hosts insert {len(rows):,} samples, one a minute and sandbox")
    demo.host_writes(rows)


def drain(demo: Demo) -> None:
    """Run one tick: seal, push, project and dispatch."""
    demo.say("3. `drawdown tick`: usage is sealed, pushed to the ledger, and verdicts reach the cells")
    demo.clock.at_ms += GRACE_MS
    demo.tick()
    show_balances(demo)
    told = [(c.cell_id, org, "signature verified, sandboxes stopped") for c in demo.cells for org, _ in c.received]
    demo.app.out.print(table("Halts that cells received", ("cell", "halt", "answer"), told))


def late(demo: Demo) -> None:
    """Write a late sample, as a disconnected host does, and bill it with a tick."""
    demo.say("4. A sample arrives late, for a window that is sealed already")
    ts = demo.clock.at_ms - WINDOWS * WINDOW_MS
    demo.host_writes([SandboxSample("late-1", sandboxes()[0], 42, ts)])
    demo.clock.at_ms += WINDOW_MS
    demo.tick()
    found = [astuple(push) for push in demo.app.read(revised_pushes)]
    demo.app.out.print(table("The window's difference, as its first revision", ("key", "#seconds", "state"), found))


def replay_everything(demo: Demo) -> None:
    """Replay everything, as an on-call engineer would."""
    demo.say("5. `drawdown replay --all`: the whole range again")
    begin = demo.clock.at_ms - (WINDOWS + 3) * WINDOW_MS
    now = demo.clock.now_ms()
    planned = demo.app.read(lambda c: plan(c, ReplayScope(), begin, now - WINDOW_MS, now))
    steps = replay(demo.app.context(), planned, demo.app.by("demo", "the demo"), dry_run=False)
    found = runner.run(steps, demo.app.world())
    demo.app.out.print(
        f"{counted(found.pushes, 'push', 'pushes')}: a replay bills only usage that is still owed, and all is billed",
        highlight=False,
    )


def prove(demo: Demo) -> None:
    """Verify the invariants from the raw tables. Errors: AssertionError for a breach."""
    demo.say("6. `drawdown verify`: the invariants, from the raw tables")
    found = demo.app.read(verify)
    if found.breaches:
        raise AssertionError(f"the demo broke an invariant: {found.breaches[0]}")
    both = demo.app.read(totals)
    demo.app.out.print(
        f"all hold; {both.used_s:,} seconds used in {demo.samples + 1:,} samples, {both.billed_s:,} seconds billed",
        highlight=False,
    )


def next_steps(demo: Demo) -> None:
    """Print the next steps with the demo's database."""
    url = demo.app.settings.database_url
    demo.say(f"The database stays in {url.removeprefix('sqlite:///')}. Try (in .venv/bin if it is not on your PATH):")
    demo.app.out.print(f"  export DRAWDOWN_DATABASE_URL={url}", highlight=False)
    key = demo.app.read(revised_pushes)[0].key
    for what, command in (
        ("the open work", "tick && drawdown status"),
        ("one organisation", "org show initech"),
        ("one push, from its samples to its charge", f"push show {key}"),
        ("pay, and the organisation resumes", "ledger grant initech 5 --reason paid && drawdown tick"),
        ("withdraw a sample", "sample withdraw late-1 --reason 'wrong host' && drawdown tick"),
        ("all commands", "--help"),
    ):
        demo.app.out.print(f"  drawdown {command:60} # {what}", highlight=False, markup=False)
    demo.app.out.print("A month of life in a console: drawdown demo --serve", highlight=False)


def show_balances(demo: Demo) -> None:
    """Print the fleet as a table."""
    rows = [
        (o.org_id, o.plan, o.running, o.billed_s, show_credits(o.balance_micro), o.is_halted, show_time(o.halted_at))
        for o in demo.app.read(fleet)
    ]
    columns = ("org", "plan", "#running", "#seconds billed", "#credits left", "halted", "since")
    demo.app.out.print(table("", columns, rows))


STEPS: Final[tuple[Callable[[Demo], None], ...]] = (build_fleet, use, drain, late, replay_everything, prove, next_steps)
