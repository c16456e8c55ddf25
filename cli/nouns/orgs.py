"""`drawdown org`: lists of organisations, the state of one, and the operator's overrides."""

from __future__ import annotations

import csv
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.nouns import org_assign
from drawdown.cli.nouns.org_words import halt_lines, stands, word, word_of
from drawdown.cli.options import MAX_CONCURRENT, Actor, DryRun, Expect, Org, PageSize, Reason, Undo, only_with
from drawdown.cli.rendering import facts, show, shown, table
from drawdown.schema import ids
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.text import typed, why_unread
from drawdown.schema.typed.parsing import parse_ahead, parse_length, show_credits, show_time
from drawdown.worker.halts import lists as cells
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.lists import SORTS, STATES, OrgFilter, OrgRow, Place, chosen_orgs, list_orgs, scheduled_flips
from drawdown.worker.seal import stops
from drawdown.worker.status.status import org_status
from drawdown.worker.verdict.effective_balance import VerdictChange
from drawdown.worker.verdict.standing import OrgStatus
from drawdown.worker.verdict.watch_state import is_watched

commands = typer.Typer()

OfProvider = Annotated[str, typer.Option("--provider", help="Only those this provider bills now")]
OfPlan = Annotated[str, typer.Option("--plan", help="Only those on this plan")]


@commands.command("list")
def list_(
    context: typer.Context,
    provider: OfProvider = "",
    plan: OfPlan = "",
    search: Annotated[str, typer.Option(help="Only those with this text in their id")] = "",
    state: Annotated[str, typer.Option(help=f"Only those that are {', '.join(STATES)}")] = "",
    overridden: Annotated[bool, typer.Option("--overridden", help="Only those with an override of yours")] = False,
    scheduled: Annotated[bool, typer.Option("--scheduled", help="Assignments that begin later, instead")] = False,
    runs_out_within: Annotated[
        str | None, typer.Option(help="Only those with credit that ends by then, as the watch last estimated: 6h, 7d")
    ] = None,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(SORTS)}")] = "name",
    after: Annotated[str, typer.Option(help="Go on after this organisation: the last one of a page")] = "",
    most: PageSize = 100,
) -> None:
    """List organisations, or the flips that are still to come."""
    app: App = context.obj
    app.require_any_provider(provider)
    if scheduled:
        only_with(context, "--scheduled", "provider", "most")
        now = app.clock.now_ms()
        coming = app.read(lambda c: scheduled_flips(c, provider, now, most))
        for_people = [tuple(shown(name, value) for name, value in vars(row).items()) for row in coming]
        headings = ("org", "billed by", "then by", "as", "from", "who", "why")
        return show(app, {"scheduled": coming}, [table("Flips to come", headings, for_people)])

    by_ms, now_ms = None, app.clock.now_ms()
    if runs_out_within is not None:
        by_ms = now_ms + parse_length(runs_out_within, "--runs-out-within")
    chosen = OrgFilter(provider, plan, search, state, by_ms, overridden)
    place = _place(after, sort)
    if after:
        app.read(lambda c: ids.require(c, ids.ORG, place.org_id))
    page = app.read(lambda c: list_orgs(c, chosen, now_ms, sort=sort, after=place, most=most))
    next_after = None if page.following is None else page.following.org_id
    if page.following is not None and sort == "end" and by_ms is not None:  # who tops up is not the end of the list
        next_after = f"{page.following.ends_ms}:{next_after}"
    more = [] if next_after is None else [f"there are more: --after {typed(next_after)}"]
    if by_ms is not None and not app.read(lambda c: is_watched(c, now_ms)):
        more.append("no watch goes round, so nobody estimates: start drawdown watch, run or worker")
    return show(
        app,
        {"orgs": [row._asdict() for row in page.orgs], "next_after": next_after},
        [_table(page.orgs, ends=by_ms is not None, overridden=overridden), *more],
    )


def _place(after: str, sort: str) -> Place:
    """Behind an organisation; by `end` a page says when that one's credit ended, too."""
    ends = re.fullmatch(r"([0-9]{1,16}):(.+)", after, re.DOTALL) if sort == "end" else None
    return Place(after) if ends is None else Place(ends[2], int(ends[1]))


def _table(found: list[OrgRow], *, ends: bool, overridden: bool) -> Table:
    """With when credit ends, where that is asked for; with overrides, where there are any."""
    told = overridden or any(map(word_of, found))
    rows = [
        (row.org_id, row.billing_provider, row.plan, row.state, show_time(row.since_ms), row.why, row.running,
         row.max_concurrent_sandboxes, *map(_credits, (row.balance_micro, row.left_now_micro, row.used_a_minute_micro)),
         *((show_time(row.runs_out_ms),) if ends else ()), *((word_of(row),) if told else ()))
        for row in found
    ]  # fmt: skip
    figures = ("#balance", "#left now", "#used a minute")
    last = (*(("runs out",) if ends else ()), *(("override",) if told else ()))
    columns = ("org", "billed by", "plan", "state", "since", "why", "#running", "#at once", *figures, *last)
    return table("Organisations", columns, rows)


@commands.command("show")
def show_(context: typer.Context, org: Org) -> None:
    """Show how one organisation stands."""
    app: App = context.obj
    found = app.read(lambda c: org_status(c, org, app.clock.now_ms()))
    show_org(app, found)


def show_org(app: App, found: OrgStatus) -> None:
    """Print what `org_status` found."""
    whole = asdict(found)
    own = {name: value for name, value in whole.items() if not isinstance(value, list | dict)}
    rows = [(show_time(a.start_ms), show_time(a.end_ms), a.provider, a.customer_id) for a in found.assignments]
    show(
        app,
        whole,
        [
            table(found.org_id, ("", ""), facts(own)),
            table("Billed by", ("from", "to", "provider", "customer"), rows),
            *_credit_tables(found),
        ],
    )


def _credit_tables(found: OrgStatus) -> list[Table]:
    """The effective balance with its parts, who holds it, and the last changes of the verdict."""
    made: list[Table] = []
    if found.credit is not None:
        own = {name: value for name, value in vars(found.credit).items() if name != "holders"}
        made.append(table("Credit", ("", ""), facts(own)))
        holders = found.credit.holders
        held = [(one.reservation, show_credits(one.left_micro), show_time(one.expires_ms)) for one in holders]
        made += [table("Reserved, the most first", ("run", "#credits", "until"), held)] if held else []
    if found.verdicts:
        rows = [_verdict(change) for change in found.verdicts]
        columns = ("at", "", "why", "#at once", "#balance", "#unaccepted", "#unsealed", "#held")
        made.append(table("Verdicts, newest first", columns, rows))
    return made


def _verdict(change: VerdictChange) -> tuple[object, ...]:
    parts = (change.balance_micro, change.unaccepted_micro, change.unsealed_micro, change.held_micro)
    verdict = "halted" if change.is_halted else "runs"
    return (show_time(change.at_ms), verdict, change.reason, change.max_concurrent_sandboxes, *map(_credits, parts))


def _credits(micro: int | None) -> str | None:
    return None if micro is None else show_credits(micro)


org_assign.register(commands)


@commands.command()
def override(
    context: typer.Context,
    org: Org,
    max_concurrent: Annotated[
        int | None, typer.Option(min=0, max=MAX_CONCURRENT, help="Sandboxes at once, whatever the plan says")
    ] = None,
    never_halt: Annotated[bool, typer.Option("--never-halt", help="Not halted, whatever the balance")] = False,
    until: Annotated[str | None, typer.Option(help="When all of it ends", show_default="until it is undone")] = None,
    undo: Undo = False,
    clear: Annotated[bool, typer.Option("--clear", hidden=True)] = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Let your word win over the provider's. What a second one does not name stays as the first one said.

    --undo ends all of it: the provider's word counts again.
    """
    app: App = context.obj
    says = max_concurrent is not None or never_halt or until is not None
    if (undo or clear) == says:
        raise UsageError("give --max-concurrent, --never-halt, --until, or --undo alone")
    ends = None if until is None else parse_ahead(until, "--until", app.clock.now_ms())
    by, halted = app.by(actor, reason), False if never_halt else None
    done = app.write(
        lambda c: (
            orgs.override(c, org, by, max_concurrent=max_concurrent, halted=halted, until_ms=ends)
            if says
            else orgs.end_override(c, org, by)
        )
    )
    lines = [
        f"{org}: {word(done.now)}; before: {word(done.was)}",
        f"{org}: {stands(done)}{'' if says else '; the next tick asks the provider again'}",
    ]
    show(app, {"org_id": org, "cleared": not says, "was": done.was, "now": done.now, "override": done}, lines)


@commands.command()
def halt(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[ORG]...", help="Organisations")] = None,
    file: Annotated[Path | None, typer.Option(help="A CSV file with the column org_id")] = None,
    provider: OfProvider = "",
    plan: OfPlan = "",
    search: Annotated[str, typer.Option(help="All with this text in their id")] = "",
    undo: Undo = False,
    lift: Annotated[bool, typer.Option("--lift", hidden=True)] = False,
    expect: Expect = None,
    dry_run: DryRun = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Halt organisations at once; their cells are told by the next round of the watch, or tick.

    --undo ends it: the provider's verdict counts again. Of many, chosen by a file or a filter, see first with --dry-run
    whom it would be, and say their number with --expect.
    """
    app: App = context.obj
    app.require_any_provider(provider)
    by, undoing = app.by(actor, reason), undo or lift
    chosen = OrgFilter(provider, plan, search)
    if [bool(names), file is not None, chosen != OrgFilter()].count(True) != 1:
        raise UsageError("name organisations, or give --file, or choose them by --provider, --plan, --search")
    listed = list(names or ()) or ([] if file is None else read_orgs(file))

    def work(connection: sa.Connection) -> tuple[list[orgs.Halted], dict[str, int]]:
        if plan:
            ids.require(connection, ids.ANY_PLAN, plan)
        found = listed or chosen_orgs(connection, chosen, orgs.MAX_HALTED, by.now_ms)
        if expect not in (None, len(found)):
            raise Refused(f"they are {len(found):,} by now, and not {expect:,}: look again with --dry-run")
        told = {} if undoing else cells.running_of(connection, found)
        return orgs.halt(connection, found, by, undo=undoing), told

    done, told = app.write(work, rollback=dry_run)
    of_one = {"org_id": done[0].org_id, "is_halted": done[0].is_halted} if len(done) == 1 else {}
    lines = halt_lines(done, undo=undoing, dry_run=dry_run)
    whose = "that would be told" if dry_run else "to be told"
    lines += [] if undoing else [f"cells {whose}: {cells.told_in_words(told)}"]
    show(app, {**of_one, "halts": done, "cells": told, "dry_run": dry_run}, lines)


def read_orgs(file: Path) -> list[str]:
    """Organisations from a CSV file with the column org_id. Errors: UsageError naming what is wrong."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            if "org_id" not in (rows.fieldnames or ()):
                raise UsageError(f"{file}: the first line names the column: org_id")
            found = [(row.get("org_id") or "").strip() for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read: {why_unread(error)}") from error
    if not found or not all(found):
        raise UsageError(f"{file}: {'a line has no org_id' if found else 'it names nobody'}")
    return list(dict.fromkeys(found))


@commands.command()
def release(context: typer.Context, org: Org, actor: Actor = None, reason: Reason = "not given") -> None:
    """Let a stopped organisation be sealed and pushed again, once its fault is fixed."""
    app: App = context.obj
    by = app.by(actor, reason)
    was = app.write(
        lambda c: stops.release_org(c, org_id=org, reason=by.reason, now_ms=by.now_ms, actor=by.actor, via=by.via)
    )
    show(app, {"org_id": org, "was": was}, [f"{org}: released; it had been stopped: {was}"])
