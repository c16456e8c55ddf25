"""`drawdown org`: lists of organisations, the state of one, and the operator's overrides."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.nouns.orders import ORDERED
from drawdown.cli.options import (
    MAX_CONCURRENT,
    Actor,
    DryRun,
    Expect,
    From,
    Later,
    New,
    Org,
    PageSize,
    Reason,
    Undo,
    only_with,
)
from drawdown.cli.rendering import facts, show, show_change, shown, table
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import AnswerLost, Exit, Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import typed, why_unread
from drawdown.schema.typed.parsing import parse_ahead, parse_length, show_credits, show_time
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.engine.runner import run
from drawdown.worker.halts import lists as cells
from drawdown.worker.orders.asked import AskedAssign
from drawdown.worker.orders.orders import place
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments, flips
from drawdown.worker.orgs.lists import SORTS, STATES, OrgFilter, OrgRow, Place, chosen_orgs, list_orgs, scheduled_flips
from drawdown.worker.provider.shadows import in_shadow
from drawdown.worker.seal import stops
from drawdown.worker.status.status import org_status
from drawdown.worker.verdict.effective_balance import VerdictChange
from drawdown.worker.verdict.standing import OrgStatus
from drawdown.worker.verdict.watch_state import is_watched


def word(said: orgs.Override) -> str:
    """What an operator says, in words."""
    if not said.says_something:
        return "no override"
    parts = []
    if said.halted is not None:
        parts.append("halted whatever the balance" if said.halted else "not halted whatever the balance")
    if said.max_concurrent is not None:
        parts.append(f"{said.max_concurrent:,} sandboxes at once whatever the plan")
    return f"{' and '.join(parts)}, {f'until {show_time(said.until_ms)}' if said.until_ms else 'until it is undone'}"


def word_of(row: OrgRow) -> str | None:
    """The same of an organisation in a list; None where it has no override."""
    said = orgs.Override(row.override_max_concurrent, row.override_halted, row.override_until_ms)
    return word(said) if said.says_something else None


def stands(done: orgs.Overridden) -> str:
    most = done.max_concurrent_sandboxes
    return f"{'halted' if done.is_halted else 'runs'}, {'no limit' if most is None else f'{most:,}'} at once"


def halt_lines(done: list[orgs.Halted], *, undo: bool, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    lines = []
    for org in done[:50]:
        before = "halted" if org.was_halted else "running"
        now = f"halted ({org.halt_reason})" if org.is_halted else "running"
        lifted = (
            undo and org.is_halted and (org.before or org.halt_reason == "operator")
        )  # the reason outlives the halt
        if lifted:
            now = "halted no longer by an operator, and until its provider is asked"
        note = "; it was so before" if lifted else "; no operator's halt held it"
        note = note if undo and not org.before else ""
        note = "; an operator's halt held it already" if org.before and not undo else note
        lines.append(f"{org.org_id}: {would}{now}; before: {before}{note}")
    if len(done) > 50:
        lines.append(f"… and {len(done) - 50:,} more")
    if dry_run:
        return [*lines, f"{len(done):,} organisations; nothing was changed; for just these: --expect {len(done)}"]
    if undo:
        return [*lines, f"{len(done):,} organisations; the next tick asks the provider again"]
    lift = f"`drawdown org halt {typed(done[0].org_id, '--undo')}`" if len(done) == 1 else "--undo in the same command"
    return [*lines, f"{len(done):,} organisations; run `drawdown tick` to tell the cells now; {lift} lifts it"]


Names = Annotated[list[str] | None, typer.Argument(metavar="[ORG]...", help="Organisations")]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        help="embedded, autumn, stripe, …; or none or legacy (bill nothing here)",
        show_default="who bills it now; embedded where nobody does",
    ),
]
CustomerOption = Annotated[
    str | None, typer.Option(help="The customer there", show_default="as it is; at first the organisation's id")
]
Unassigned = Annotated[bool, typer.Option("--unassigned", help="All that nobody bills yet")]
FlipFile = Annotated[
    Path | None, typer.Option(help="A CSV file with the columns org_id, customer_id; may be given again")
]
AllowHalt = Annotated[bool, typer.Option("--allow-halt", help="Also where there is no credit, which halts at once")]


def _register(commands: typer.Typer) -> None:
    """Add the command to `drawdown org`."""
    commands.command("assign")(assign)


def assign(
    context: typer.Context,
    names: Names = None,
    provider: ProviderOption = None,
    customer: CustomerOption = None,
    from_: From = None,
    unassigned: Unassigned = False,
    file: FlipFile = None,
    undo: Undo = False,
    cancel: Annotated[bool, typer.Option("--cancel", hidden=True)] = False,
    allow_halt: AllowHalt = False,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Also where the provider cannot say")] = False,
    new: New = False,
    dry_run: DryRun = False,
    later: Later = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Have organisations billed by a provider, from the next window boundary on unless --from is given.

    The provider is asked first: a customer it does not have, or one whose lack of credit would halt a running
    organisation at once, is refused. What was used before the start is not billed; it stays visible as pending. An
    organisation's first assignment may reach back with --from, later ones only to windows that are not sealed yet.
    --undo takes back the latest assignment where it has not begun; with --from, that which begins then and no other.
    """
    app: App = context.obj
    start = app.window(from_, "--from")
    if provider is not None:
        app.require_provider(provider)
    by = app.by(actor, reason)
    _require_choice(names, unassigned, file, None if undo or cancel else customer)
    if undo or cancel:
        only_with(context, "--undo", "cancel", "names", "unassigned", "file", "from_", "dry_run", "actor", "reason")
        listed = names or ([wish.org_id for wish in read_flips(file)] if file is not None else [])
        return _undo(app, listed, start, by, dry_run=dry_run)
    wishes = _wishes(app, names, customer, file)
    if later:
        return _order(app, wishes, AskedAssign("", provider or "", customer, start, allow_halt), by, dry_run=dry_run)
    where, note = _biller(app, provider, wishes, new=new)
    options = flips.FlipOptions(where, start, dry_run, allow_halt, unchecked, each_alone=not names, new=new)
    app.require_clock()
    done = run(flips.flip(app.context(), wishes, options, by), app.world())
    note += [str(one) for one in app.read(lambda c: in_shadow(c, by.now_ms)) if one.provider == where]
    show(app, {"assigned": done, "provider": where, "dry_run": dry_run}, [*note, *_flip_lines(done, options)])
    if any(flip.problem for flip in done):
        raise typer.Exit(Exit.PERSON)
    return None


def _order(app: App, wishes: list[flips.Wish], asked: AskedAssign, by: By, *, dry_run: bool) -> None:
    """Have a tick ask the provider. Errors: UsageError unless one organisation and its provider are named."""
    if dry_run:
        raise UsageError("--dry-run shows it now, --later orders it: give one of them")
    if len(wishes) != 1 or asked.provider in ("", EMBEDDED, *EXEMPT_PROVIDERS):
        raise UsageError("--later: name one organisation, and with --provider one that has to be asked")
    org = wishes[0].org_id

    def work(connection: sa.Connection) -> int:
        ids.require_sampled_org(connection, org, new=False)
        return place(connection, replace(asked, org_id=org), by)

    order_id = app.write(work)
    show(app, {"order": order_id}, [ORDERED.format(order_id)])


def _require_choice(names: list[str] | None, unassigned: bool, file: Path | None, customer: str | None) -> None:
    """Errors: UsageError for organisations that are chosen in no way, or in two, and for a customer that is none."""
    if [bool(names), unassigned, file is not None].count(True) != 1:
        raise UsageError("name the organisations, or give --unassigned, or --file")
    if customer is not None and (not names or len(names) != 1):
        raise UsageError("--customer names one customer, so give exactly one organisation")
    if customer is not None and not is_clean_id(customer):
        raise UsageError("--customer: a customer's id has 1 to 200 characters, none of them control characters")


def _wishes(app: App, names: list[str] | None, customer: str | None, file: Path | None) -> list[flips.Wish]:
    if file is not None:
        return read_flips(file)
    chosen = list(dict.fromkeys(names)) if names else app.read(assignments.unassigned)
    return [flips.Wish(org, customer) for org in chosen]


def _biller(app: App, given: str | None, wishes: list[flips.Wish], *, new: bool) -> tuple[str, list[str]]:
    """The provider that is meant, and a word where nobody named it."""
    if given is not None:
        return given, []
    kept = app.read(lambda c: flips.kept_provider(c, [wish.org_id for wish in wishes], new=new))
    if kept is None:
        return app.require_provider(EMBEDDED), []
    return app.require_provider(kept), [f"billed by {kept} as before; --provider names another"]


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
        raise UsageError(f"{file} cannot be read: {why_unread(error)}") from error
    seen: dict[str, int] = {}
    for wish in found:
        assert wish.line is not None
        if wish.org_id in seen:
            raise UsageError(f"{file}, line {wish.line}: {wish.org_id} stands in line {seen[wish.org_id]} already")
        seen[wish.org_id] = wish.line
    return found


def _wish(file: Path, line: int, row: dict[str, str | None]) -> flips.Wish:
    org, customer = (row.get("org_id") or "").strip(), (row.get("customer_id") or "").strip()
    for name, text in (("org_id", org), ("customer_id", customer or "-")):
        if not is_clean_id(text):
            raise UsageError(f"{file}, line {line}: {name} {text!r} is no id")
    return flips.Wish(org, customer or None, line)


def _flip_lines(done: list[flips.Flip], options: flips.FlipOptions) -> list[str | Table]:
    moved = [flip for flip in done if flip.start_ms is not None]
    already = sum(flip.already for flip in done)
    title = f"{'Would assign' if options.dry_run else 'Assigned'} {len(moved):,} to {options.provider}"
    if already:
        title += f"; {already:,} were so already"
    columns = ("org", "billed before by", "as", "customer now", "from", "#pending, now billed", "#pending before")
    rows = [
        (
            flip.org_id,
            flip.was,
            flip.customer_was or None,
            flip.customer_id or None,
            show_time(flip.start_ms),
            _amount(flip.mended_s, flip.mended_units),
            _amount(flip.before_start_s, flip.before_start_units),
        )
        for flip in moved[:50]
    ]
    lines: list[str | Table] = [table(title, columns, rows)]
    notes = [(flip.org_id, note) for flip in moved[:50] if (note := _notes(flip))]
    lines += [f"{org}: {note}" for org, note in notes]
    problems = [flip for flip in done if flip.problem is not None]
    return lines + [_problem_line(flip) for flip in problems[:50]]


def _amount(seconds: int, units: int) -> str:
    return f"{seconds:,} s, {units:,} units" if units else f"{seconds:,} s"


def _problem_line(flip: flips.Flip) -> str:
    where = "" if flip.line is None else f"line {flip.line}: "
    return f"{where}{flip.org_id}: {(flip.problem or '').removeprefix(f'{flip.org_id}: ')}"


def _notes(flip: flips.Flip) -> str | None:
    parts = [flip.note] if flip.note else []
    if flip.open_pushes:
        held = ", ".join(f"{count:,} {state}" for state, count in flip.open_pushes.items())
        parts.append(f"open with {flip.was}, and settled there: {held}")
    if flip.credit_behind_micro:
        parts.append(f"{show_credits(flip.credit_behind_micro)} credits stay behind")
    if flip.credit_there_micro is not None:
        parts.append(f"a balance of {show_credits(flip.credit_there_micro)} there")
    return "; ".join(parts) or None


def _undo(app: App, names: list[str], start_ms: int | None, by: By, *, dry_run: bool) -> None:
    """Whoever undoes at the same time takes back the same one, and is refused: each is named as it was seen."""
    if not names:
        raise UsageError("--undo: name the organisations, or give --file")

    def look(connection: sa.Connection) -> list[tuple[str, int | None]]:
        return [(org, start_ms or assignments.to_come_ms(connection, org, by.now_ms)) for org in names]

    meant = app.read(look)

    def work(connection: sa.Connection) -> list[assignments.Assigned]:
        return [assignments.cancel(connection, org, by, start) for org, start in meant]

    try:
        done = app.write(work, rollback=dry_run)
    except AnswerLost as error:
        raise AnswerLost(error.why, _again(meant)) from error
    would = "would not be" if dry_run else "not"
    lines = [f"{flip.org_id}: {would} moved to {flip.provider} at {show_time(flip.start_ms)}" for flip in done]
    show(app, {"undone": done, "dry_run": dry_run}, lines)


def _again(meant: Sequence[tuple[str, int | None]]) -> str:
    """What is safe to give again: without a time, it would take back the assignment before the one that was meant."""
    starts = sorted({start for _, start in meant if start is not None})
    if len(starts) == 1:
        return f"give it again with --from {show_time(starts[0])}, which takes back that one alone"
    return "`drawdown org list --scheduled` shows what is left: give it again for those alone"


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


_register(commands)


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
    dry_run: DryRun = False,
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
        ),
        rollback=dry_run,
    )
    lines = [
        f"{org}: {word(done.now)}; before: {word(done.was)}",
        f"{org}: {stands(done)}{'' if says else '; the next tick asks the provider again'}",
    ]
    result = {"org_id": org, "cleared": not says, "was": done.was, "now": done.now, "override": done}
    show_change(app, result, lines, dry_run=dry_run)


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
def release(
    context: typer.Context, org: Org, dry_run: DryRun = False, actor: Actor = None, reason: Reason = "not given"
) -> None:
    """Let a stopped organisation be sealed and pushed again, once its fault is fixed."""
    app: App = context.obj
    by = app.by(actor, reason)
    was = app.write(
        lambda c: stops.release_org(c, org_id=org, reason=by.reason, now_ms=by.now_ms, actor=by.actor, via=by.via),
        rollback=dry_run,
    )
    line = f"{org}: released; it had been stopped: {was}"
    show_change(app, {"org_id": org, "was": was}, [line], dry_run=dry_run)
