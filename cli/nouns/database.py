"""`drawdown init`, `doctor`, `verify` and `proof`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.nouns import doctor
from drawdown.cli.options import Actor, Most, only_with
from drawdown.cli.rendering import show, table
from drawdown.schema.audit import By, require_org
from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError, Exit, UsageError
from drawdown.schema.migrate import upgrade
from drawdown.schema.roles import HOST, READ, WORKER, require_roles, script
from drawdown.schema.roles import apply as apply_roles
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.checks import proofs
from drawdown.worker.checks import proofs as proof_lists
from drawdown.worker.checks.proofs import stop_breached
from drawdown.worker.cluster import install
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.verify.verify import Verification, verify


def proof(
    context: typer.Context,
    before: Annotated[int, typer.Option(min=0, help="Number of the run before which the page starts")] = 0,
    most: Most = 20,
) -> None:
    """Show when each invariant last held.

    The command lists each invariant with the run of `verify` that last proved it, and the latest runs with their
    breaches. To prove the invariants again, run `drawdown verify`.
    """
    app: App = context.obj
    held = app.read(proof_lists.standing)
    page = app.read(lambda c: proof_lists.list_runs(c, before=before, most=most))
    words = {True: "holds", False: "BROKEN", None: "not proven"}
    standing = [
        (one.invariant, one.name, words[one.holds], show_time(one.held_ms), one.held_by, show_time(one.broken_ms))
        for one in held
    ]
    runs = [
        (run.number, show_time(run.at_ms), "all" if run.orgs is None else run.orgs,
         "all" if run.from_ms is None else f"from {show_time(run.from_ms)}, after run {run.follows}",
         run.breaches, run.doubted or "",
         ", ".join(f"{count:,} {name}" for name, count in run.checked.items()), f"{run.took_ms / 1000:.1f} s",
         run.actor)
        for run in page.runs
    ]  # fmt: skip
    columns = ("#", "invariant", "", "last held", "#by run", "last broken")
    heads = ("#run", "at", "organisations", "windows", "#breaches", "doubted", "rows read", "duration", "actor")
    more = [f"older runs exist: --before {page.next_before}"] if page.next_before is not None else []
    last = app.read(lambda c: proof_lists.last_held(c, app.clock.now_ms()))
    held_last = [
        f"last proof of all invariants: of everything {show_time(last.whole_ms) or 'never on record'}, "
        f"of the changes since the last run {show_time(last.continued_ms) or 'never on record'}"
    ]
    tables: list[str | Table] = [
        *held_last,
        table("Invariants", columns, standing),
        table("Runs of verify", heads, runs),
        *more,
    ]
    result = {"invariants": held, "runs": page.runs, "next_before": page.next_before, "last_held": last}
    show(app, result, tables)


def register(commands: typer.Typer) -> None:
    """Add the commands."""
    commands.command("init")(init)
    commands.command("doctor")(doctor_)
    commands.command("verify")(verify_)
    commands.command("proof")(proof)


def init(
    context: typer.Context,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles", help="SQL of the PostgreSQL roles of hosts, readers and workers, printed without running it"
        ),
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Creation of the roles in the database, for --roles")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Schema of `drawdown worker` included; PostgreSQL only")
    ] = False,
    actor: Actor = None,
) -> None:
    """Create the database or bring it up to date.

    You can safely repeat the command.
    """
    app: App = context.obj
    if apply and not roles:
        raise UsageError("--apply applies only to roles. Pass --roles, too")
    if roles:
        only_with(context, "--roles", "apply")
        _roles(app, apply)
        return
    if cluster:
        install.require_postgresql(app.engine)
        install.require_engine()
    before = upgrade(app.engine)
    if cluster or read(app.engine, install.is_there):
        install.install(app.engine)
    app.require_clock()
    by = app.by(actor, "drawdown init")
    write(app.engine, lambda connection: install_defaults(connection, by))
    what = "created" if before.current is None else ("is up to date" if before.ready else "upgraded")
    where = app.engine.url.set(query={}).render_as_string(hide_password=True)  # a query may contain secrets
    lines = [f"{where}: {what}, schema {before.head}"]
    if before.current is None:
        lines += [
            "Billed by default: memory of exactly 1, 4, 8, 16, 32 or 64 GB, in seconds (`drawdown feature list`).",
            "Next: `drawdown import FILE`, `drawdown org assign --unassigned --from TIME`, `drawdown tick`.",
        ]
    show(app, {"database": where, "was": before.current, "schema": before.head}, lines)


def _roles(app: App, apply: bool) -> None:
    """Create the roles, or print their statements.

    `apply`: True to create the roles. Otherwise the database's administrator can run the printed statements.
    """
    require_roles(app.engine)
    if apply:
        apply_roles(app.engine)
        names = [HOST, READ, WORKER]
        show(
            app,
            {"roles": names},
            [f"created or updated the roles {', '.join(names)}. Make your logins members of them"],
        )
    else:
        show(app, {"sql": script()}, script().splitlines())


def doctor_(context: typer.Context) -> None:
    """Check the set-up and show how to fix each fault.

    The exit status is 1 if a check finds a fault.
    """
    app: App = context.obj
    findings = doctor.examine(app)
    rows = [(f.mark, f.what, "" if f.ok else f.fix) for f in findings]
    show(app, {"findings": findings}, [table("Set-up", ("", "problem", "next step"), rows)])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(Exit.PERSON)


def verify_(
    context: typer.Context,
    org: Annotated[list[str] | None, typer.Option(help="Organisation to verify")] = None,
    stop: Annotated[bool, typer.Option(help="Stop of the pushes of organisations with a breach")] = True,
    deep: Annotated[
        bool, typer.Option("--deep", help="Comparison of each batch with its file, which is read again")
    ] = False,
    since_last: Annotated[
        bool,
        typer.Option("--since-last", help="Windows and records since the last run; everything once a week"),
    ] = False,
    actor: Actor = None,
) -> None:
    """Prove the invariants from the raw tables.

    If an organisation breaches an invariant, Drawdown stops the pushes of this organisation only, unless you pass
    --no-stop. The exit status is 1 if an invariant is breached. It is also 1 if the database lost history, because
    Drawdown cannot prove lost rows.
    """
    app: App = context.obj
    if since_last and (deep or org):
        raise UsageError("--since-last covers all organisations, and does not read files. Omit --org and --deep")
    if since_last:
        only_with(context, "--since-last", "stop", "actor")
    for name in org or ():
        app.read(partial(require_org, org_id=name))
    by = app.by(actor, "verify")
    since_last = since_last and app.doubt() is None
    found = app.read(lambda c: _verify(c, app, org, deep=deep, since_last=since_last))
    stopped: list[str] = []
    if found.breaches and stop:
        stopped = list(app.write(lambda c: stop_breached(c, found, by.now_ms, by.actor)))
    lines, doubted = _report(found, stopped, since_last), app.doubt()
    lines += _keep_proof(app, found, by, len(set(org)) if org else None, doubted)
    if doubted is not None:
        lines.append(
            f"but this database lost history: {doubted}. Drawdown cannot verify the lost part. Run `drawdown recover`"
        )
    result = {"breaches": found.breaches, "count": found.count, "checked": found.checked, "open": found.open}
    result |= {"newest_action": found.newest_action, "doubted": doubted, "point": found.point}
    show(app, {**result, "stopped": stopped}, lines)
    if found.breaches or doubted is not None:
        raise typer.Exit(Exit.PERSON)


def _verify(
    connection: sa.Connection, app: App, orgs: list[str] | None, *, deep: bool, since_last: bool
) -> Verification:
    now_ms = app.clock.now_ms()
    held = proofs.to_continue(connection, now_ms) if since_last else None
    found = verify(connection, orgs=orgs, now_ms=now_ms, held=held)
    if deep:
        from drawdown.worker.verify.batch_files import verify_files  # only --deep needs it

        verify_files(connection, found, orgs, partial(_bring, app))
    return found


def _bring(app: App, place: str, folder: Path) -> Path | None:
    """Download the object of a batch, so that `verify --deep` can read it again."""
    from drawdown.worker.batches.duck import READING_TIME_S, time_limit
    from drawdown.worker.batches.objects import brought

    with time_limit(READING_TIME_S) as over:
        return brought(app.settings.objects(), place, folder, over)


def _report(found: Verification, stopped: list[str], since_last: bool) -> list[str | Table]:
    rows = [(b.invariant, b.org_id, show_time(b.window_ms), b.feature, b.text) for b in found.breaches]
    lines: list[str | Table] = [
        "verified: " + ", ".join(f"{count:,} {what}" for what, count in found.checked.items()),
        *(f"open, but not a breach: {count:,} {what}" for what, count in found.open.items() if count),
        *(_from(found) if since_last else ()),
    ]
    if not rows:
        whole = found.point is None or found.point.window_ms <= 0
        lines.append("all invariants hold" if whole else "all invariants hold in the later windows")
        return lines
    title = f"BREACHES: {found.count:,}" + (f", the first {len(rows):,}" if found.count > len(rows) else "")
    lines.append(table(title, ("#invariant", "org", "window", "feature", "what"), rows))
    return [
        *lines,
        *(
            f"stopped: {one}. Fix the breach, then run `drawdown org resume --reason TEXT {typed(one)}`"
            for one in stopped
        ),
    ]


def _from(found: Verification) -> list[str]:
    """Return a line about the windows that `verify --since-last` skipped."""
    begins = found.point
    if begins is None:
        return [
            "verified everything. Verify continues an earlier run only if all invariants held, and a full run is at "
            "most a week old"
        ]
    if begins.window_ms <= 0:
        return [f"verified everything, because {begins.why} changed the first window since run {begins.run}"]
    touched = f"since then {begins.why} changed this window" if begins.why else "no earlier window changed since then"
    return [
        f"skipped the windows before {show_time(begins.window_ms)}: proven by run {begins.run} at "
        f"{show_time(begins.at_ms)} and by the runs that it continued; {touched}"
    ]


def _keep_proof(app: App, found: Verification, by: By, orgs: int | None, doubted: str | None) -> list[str]:
    """Store a result for `drawdown proof`.

    If the database cannot store the result, return a warning, because the proof is still valid.
    """
    took_ms = max(app.clock.now_ms() - by.now_ms, 0)
    try:
        app.write(lambda c: proofs.keep(c, found, by, took_ms=took_ms, orgs=orgs, doubted=doubted))
    except DrawdownError as error:
        return [f"this run is not stored for `drawdown proof`: {error}"]
    return []
