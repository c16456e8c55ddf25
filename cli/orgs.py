"""`drawdown org`: who bills an organisation, and what the operator says about it."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
import typer

from drawdown.cli.options import MAX_CONCURRENT, Actor, DryRun, From, Most, Org, Reason
from drawdown.cli.render import show, shown, table
from drawdown.cli.state import State
from drawdown.cli.times import parse_time, parse_window, show_time
from drawdown.schema.errors import UsageError
from drawdown.worker import orgs, stops
from drawdown.worker.status import org_status

app = typer.Typer(help="Organisations: who bills them, limits, halts.", no_args_is_help=True)

LIST = """
SELECT o.org_id, o.billing_provider, o.is_halted, o.halt_reason, o.max_concurrent_sandboxes, o.stopped_reason
FROM orgs o WHERE (:provider = '' OR o.billing_provider = :provider) AND (:halted = 0 OR o.is_halted)
    AND (:unassigned = 0 OR NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id))
ORDER BY o.org_id LIMIT :most
"""


@app.command("list")
def list_(
    context: typer.Context,
    provider: Annotated[str, typer.Option(help="Only those this provider bills now")] = "",
    halted: Annotated[bool, typer.Option("--halted", help="Only halted ones")] = False,
    unassigned: Annotated[bool, typer.Option("--unassigned", help="Only those nobody bills")] = False,
    most: Most = 100,
) -> None:
    """List organisations."""
    state: State = context.obj
    values = {"provider": provider, "halted": int(halted), "unassigned": int(unassigned), "most": most}
    rows = state.read(lambda c: [dict(row._mapping) for row in c.execute(sa.text(LIST), values)])
    columns = ("org", "billed by", "halted", "why", "#at once", "stopped")
    show(state, {"orgs": rows}, [table("Organisations", columns, [tuple(row.values()) for row in rows])])


@app.command("show")
def show_(context: typer.Context, org: Org) -> None:
    """Show how one organisation stands."""
    state: State = context.obj
    found = state.read(lambda c: org_status(c, org, state.clock.now_ms()))
    show_org(state, found)


def show_org(state: State, found: dict[str, object]) -> None:
    """Print what `org_status` found."""
    assignments = found["assignments"]
    assert isinstance(assignments, list)
    facts = [(name, shown(name, value)) for name, value in found.items() if not isinstance(value, list)]
    rows = [(show_time(a["start_ms"]), show_time(a["end_ms"]), a["provider"], a["customer_id"]) for a in assignments]
    show(
        state,
        found,
        [
            table(str(found["org_id"]), ("", ""), facts),
            table("Billed by", ("from", "to", "provider", "customer"), rows),
        ],
    )


@app.command()
def assign(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[ORG]...", help="Organisations")] = None,
    provider: Annotated[str, typer.Option(help="embedded, or none or legacy (bill nothing here)")] = "embedded",
    customer: Annotated[
        str | None, typer.Option(help="The customer there", show_default="the organisation's id")
    ] = None,
    from_: From = None,
    unassigned: Annotated[bool, typer.Option("--unassigned", help="All that nobody bills yet")] = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have organisations billed by a provider, from the next window boundary on unless --from is given.

    What was used before that is not billed; it stays visible as pending. An organisation's first assignment may reach
    back with --from, later ones only to windows that are not sealed yet.
    """
    state: State = context.obj
    state.require_provider(provider)
    start, said = parse_window(from_, "--from"), state.said(actor, reason)
    if bool(names) == unassigned:
        raise UsageError("name the organisations, or give --unassigned")

    def work(connection: sa.Connection) -> list[orgs.Assigned]:
        chosen = orgs.unassigned(connection) if unassigned else list(names or ())
        return orgs.assign(connection, chosen, provider, said, customer_id=customer, from_ms=start)

    made = state.write(work, rollback=dry_run)
    shown = [(a.org_id, a.provider, a.customer_id, show_time(a.start_ms), a.mended_s, a.before_start_s) for a in made]
    columns = ("org", "provider", "customer", "from", "#pending s now billed", "#pending s before that")
    title = f"{'Would assign' if dry_run else 'Assigned'} {len(made):,}"
    show(state, {"assigned": made, "dry_run": dry_run}, [table(title, columns, shown[:50])])


@app.command()
def override(
    context: typer.Context,
    org: Org,
    max_concurrent: Annotated[
        int | None, typer.Option(min=0, max=MAX_CONCURRENT, help="Sandboxes at once, whatever the plan says")
    ] = None,
    never_halt: Annotated[bool, typer.Option("--never-halt", help="Not halted, whatever the balance")] = False,
    until: Annotated[str | None, typer.Option(help="When this ends", show_default="until cleared")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="End the override")] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Let your word win over the provider's."""
    state: State = context.obj
    if clear == (max_concurrent is not None or never_halt):
        raise UsageError("give --max-concurrent, --never-halt, or --clear alone")
    ends = None if until is None else parse_time(until, "--until")
    said, halted = state.said(actor, reason), False if never_halt else None
    state.write(lambda c: orgs.override(c, org, said, max_concurrent=max_concurrent, halted=halted, until_ms=ends))
    show(state, {"org_id": org, "cleared": clear}, [f"{org}: takes effect with the next tick"])


@app.command()
def halt(
    context: typer.Context,
    org: Org,
    lift: Annotated[bool, typer.Option("--lift", help="End it: the provider's verdict counts again")] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Halt an organisation at once; its cells are told by the next tick."""
    state: State = context.obj
    said = state.said(actor, reason)
    halted = state.write(lambda c: orgs.halt(c, org, said, lift=lift))
    what = "halted" if halted else "not halted"
    note = "; the next tick asks the provider again" if lift else "; run `drawdown tick` to tell its cells now"
    show(state, {"org_id": org, "is_halted": halted}, [f"{org}: {what}{note}"])


@app.command()
def release(context: typer.Context, org: Org, actor: Actor = None, reason: Reason = "not given") -> None:
    """Let a stopped organisation be sealed and pushed again, once its fault is mended."""
    state: State = context.obj
    said = state.said(actor, reason)
    was = state.write(
        lambda c: stops.release_org(c, org_id=org, reason=said.reason, now_ms=said.now_ms, actor=said.actor)
    )
    show(state, {"org_id": org, "was": was}, [f"{org}: released; it had been stopped: {was}"])
