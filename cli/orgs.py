"""`drawdown org`: who bills an organisation, and what the operator says about it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.options import MAX_CONCURRENT, Actor, DryRun, From, Most, Org, Reason
from drawdown.cli.render import facts, show, shown, table
from drawdown.cli.state import State
from drawdown.cli.times import parse_time, parse_window, show_credits, show_time
from drawdown.schema.errors import UsageError
from drawdown.worker import assignments, flips, orgs, stops
from drawdown.worker.runner import run
from drawdown.worker.sample_values import is_clean_id
from drawdown.worker.status import org_status

app = typer.Typer(help="Organisations: who bills them, limits, halts.", no_args_is_help=True)

SCHEDULED = """
SELECT a.org_id, o.billing_provider, a.provider, a.customer_id, a.start_ms, a.actor, a.reason
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
WHERE a.start_ms > :now AND (:provider = '' OR a.provider = :provider) ORDER BY a.start_ms, a.org_id LIMIT :most
"""
LIST = """
SELECT o.org_id, o.billing_provider, o.is_halted, o.halt_reason, o.max_concurrent_sandboxes, o.stopped_reason
FROM orgs o WHERE (:provider = '' OR o.billing_provider = :provider) AND (:halted = 0 OR o.is_halted)
    AND (:unassigned = 0 OR NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id))
ORDER BY o.org_id LIMIT :most
"""


FIGURES = ("balance_micro", "unaccepted_micro", "unsealed_micro")


@app.command("list")
def list_(
    context: typer.Context,
    provider: Annotated[str, typer.Option(help="Only those this provider bills now")] = "",
    halted: Annotated[bool, typer.Option("--halted", help="Only halted ones")] = False,
    unassigned: Annotated[bool, typer.Option("--unassigned", help="Only those nobody bills")] = False,
    scheduled: Annotated[bool, typer.Option("--scheduled", help="Assignments that begin later, instead")] = False,
    most: Most = 100,
) -> None:
    """List organisations, or the flips that are still to come."""
    state: State = context.obj
    if scheduled:
        later = {"now": state.clock.now_ms(), "provider": provider, "most": most}
        coming = state.read(lambda c: [dict(row._mapping) for row in c.execute(sa.text(SCHEDULED), later)])
        for_people = [tuple(shown(name, value) for name, value in row.items()) for row in coming]
        headings = ("org", "billed by", "then by", "as", "from", "who", "why")
        return show(state, {"scheduled": coming}, [table("Flips to come", headings, for_people)])
    values = {"provider": provider, "halted": int(halted), "unassigned": int(unassigned), "most": most}
    rows = state.read(lambda c: [dict(row._mapping) for row in c.execute(sa.text(LIST), values)])
    columns = ("org", "billed by", "halted", "why", "#at once", "stopped")
    return show(state, {"orgs": rows}, [table("Organisations", columns, [tuple(row.values()) for row in rows])])


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
    own = {name: value for name, value in found.items() if not isinstance(value, list | dict)}
    rows = [(show_time(a["start_ms"]), show_time(a["end_ms"]), a["provider"], a["customer_id"]) for a in assignments]
    show(
        state,
        found,
        [
            table(str(found["org_id"]), ("", ""), facts(own)),
            table("Billed by", ("from", "to", "provider", "customer"), rows),
            *_credit_tables(found),
        ],
    )


def _credit_tables(found: dict[str, object]) -> list[Table]:
    """The effective balance with its parts, and the last changes of the verdict."""
    credit, verdicts = found["credit"], found["verdicts"]
    assert isinstance(verdicts, list)
    made = []
    if isinstance(credit, dict):
        made.append(table("Credit", ("", ""), facts(credit)))
    if verdicts:
        rows = [
            (
                show_time(one["at_ms"]),
                "halted" if one["is_halted"] else "runs",
                one["reason"],
                one["max_concurrent_sandboxes"],
                *(show_credits(one[name]) if one[name] is not None else None for name in FIGURES),
            )
            for one in verdicts
        ]
        columns = ("at", "", "why", "#at once", "#balance", "#unaccepted", "#unsealed")
        made.append(table("Verdicts, newest first", columns, rows))
    return made


@app.command()
def assign(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[ORG]...", help="Organisations")] = None,
    provider: Annotated[
        str, typer.Option(help="embedded, autumn, stripe, …; or none or legacy (bill nothing here)")
    ] = "embedded",
    customer: Annotated[
        str | None, typer.Option(help="The customer there", show_default="the organisation's id, where that will do")
    ] = None,
    from_: From = None,
    unassigned: Annotated[bool, typer.Option("--unassigned", help="All that nobody bills yet")] = False,
    file: Annotated[
        Path | None, typer.Option(help="A CSV file with the columns org_id, customer_id; may be given again")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take back an assignment that has not begun")] = False,
    allow_halt: Annotated[
        bool, typer.Option("--allow-halt", help="Also where there is no credit, which halts at once")
    ] = False,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Also where the provider cannot say")] = False,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have organisations billed by a provider, from the next window boundary on unless --from is given.

    The provider is asked first: a customer it does not have, or one whose lack of credit would halt a running
    organisation at once, is refused. What was used before the start is not billed; it stays visible as pending. An
    organisation's first assignment may reach back with --from, later ones only to windows that are not sealed yet.
    """
    state: State = context.obj
    state.require_provider(provider)
    said = state.said(actor, reason)
    if [bool(names), unassigned, file is not None].count(True) != 1:
        raise UsageError("name the organisations, or give --unassigned, or --file")
    if cancel:
        listed = names or ([one.org_id for one in read_flips(file)] if file is not None else [])
        return _cancel(state, listed, said, dry_run=dry_run)
    if customer is not None and (not names or len(names) != 1):
        raise UsageError("--customer names one customer, so give exactly one organisation")
    if customer is not None and not is_clean_id(customer):
        raise UsageError("--customer: a customer's id has 1 to 200 characters, none of them control characters")
    wishes = _wishes(state, names, customer, file)
    terms = flips.Terms(
        provider, parse_window(from_, "--from"), dry_run, allow_halt, unchecked, each_alone=file is not None
    )
    done = run(flips.flip(state.context(), wishes, terms, said), state.world())
    show(state, {"assigned": done, "provider": provider, "dry_run": dry_run}, _flip_lines(done, terms))
    if any(one.problem for one in done):
        raise typer.Exit(1)
    return None


def _wishes(state: State, names: list[str] | None, customer: str | None, file: Path | None) -> list[flips.Wish]:
    if file is not None:
        return read_flips(file)
    chosen = list(dict.fromkeys(names)) if names else state.read(assignments.unassigned)
    return [flips.Wish(org, customer) for org in chosen]


def read_flips(file: Path) -> list[flips.Wish]:
    """Organisations and customers from a CSV file.

    Errors: UsageError naming the line, and nothing is assigned.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            if not rows.fieldnames or "org_id" not in rows.fieldnames:
                raise UsageError(f"{file}: the first line names the columns: org_id, customer_id")
            found = [_wish(file, rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    seen: dict[str, int] = {}
    for one in found:
        assert one.line is not None
        if one.org_id in seen:
            raise UsageError(f"{file}, line {one.line}: {one.org_id} stands in line {seen[one.org_id]} already")
        seen[one.org_id] = one.line
    return found


def _wish(file: Path, line: int, row: dict[str, str | None]) -> flips.Wish:
    org, customer = (row.get("org_id") or "").strip(), (row.get("customer_id") or "").strip()
    for name, text in (("org_id", org), ("customer_id", customer or "-")):
        if not is_clean_id(text):
            raise UsageError(f"{file}, line {line}: {name} {text!r} is no id")
    return flips.Wish(org, customer or None, line)


def _flip_lines(done: list[flips.Flip], terms: flips.Terms) -> list[str | Table]:
    moved = [one for one in done if one.start_ms is not None]
    already = sum(one.already for one in done)
    title = f"{'Would assign' if terms.dry_run else 'Assigned'} {len(moved):,} to {terms.provider}"
    if already:
        title += f"; {already:,} were so already"
    columns = ("org", "billed by", "customer", "from", "#pending s now billed", "#pending s before")
    rows = [
        (
            one.org_id,
            one.was,
            one.customer_id or None,
            show_time(one.start_ms),
            one.mended_s,
            one.before_start_s,
        )
        for one in moved[:50]
    ]
    lines: list[str | Table] = [table(title, columns, rows)]
    notes = [(one.org_id, note) for one in moved[:50] if (note := _notes(one))]
    lines += [f"{org}: {note}" for org, note in notes]
    problems = [one for one in done if one.problem is not None]
    return lines + [_problem_line(one) for one in problems[:50]]


def _problem_line(one: flips.Flip) -> str:
    where = "" if one.line is None else f"line {one.line}: "
    return f"{where}{one.org_id}: {(one.problem or '').removeprefix(f'{one.org_id}: ')}"


def _notes(one: flips.Flip) -> str | None:
    parts = [one.note] if one.note else []
    if one.open_pushes:
        held = ", ".join(f"{count:,} {state}" for state, count in one.open_pushes.items())
        parts.append(f"open with {one.was}, and settled there: {held}")
    if one.credit_behind_micro:
        parts.append(f"{show_credits(one.credit_behind_micro)} credits stay behind")
    if one.credit_there_micro is not None:
        parts.append(f"{show_credits(one.credit_there_micro)} credits there")
    return "; ".join(parts) or None


def _cancel(state: State, names: list[str], said: orgs.Said, *, dry_run: bool) -> None:
    if not names:
        raise UsageError("--cancel: name the organisations, or give --file")

    def work(connection: sa.Connection) -> list[assignments.Assigned]:
        return [assignments.cancel(connection, org, said) for org in names]

    done = state.write(work, rollback=dry_run)
    lines = [f"{one.org_id}: not moved to {one.provider} at {show_time(one.start_ms)}" for one in done]
    show(state, {"cancelled": done, "dry_run": dry_run}, lines)


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
    show(state, {"org_id": org, "cleared": clear}, [f"{org}: holds from now on"])


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
