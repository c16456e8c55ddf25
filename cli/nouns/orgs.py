"""`drawdown org`: manage organisations and their org overrides.

Written by hand: `assign`, which calls providers, and takes many organisations, also from a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun, org_rows
from drawdown.cli.nouns.jobs import QUEUED
from drawdown.cli.options import (
    Actor,
    DryRun,
    From,
    New,
    Queued,
    Reason,
    Undo,
    only_with,
)
from drawdown.cli.rendering import show, table
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import AnswerLost, Exit, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import counted, quote_value
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.engine.runner import run
from drawdown.worker.jobs.job_payloads import AssignJob
from drawdown.worker.jobs.queue import place
from drawdown.worker.orgs import assignments, flips
from drawdown.worker.orgs.actions import ACTIONS
from drawdown.worker.orgs.lists import LISTS
from drawdown.worker.provider.shadows import in_shadow
from drawdown.worker.status import lists as status_lists
from drawdown.worker.usage import totals

Names = Annotated[list[str] | None, typer.Argument(metavar="[ORG]...", help="Organisations")]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        help="Provider: embedded, autumn, stripe, …; none or legacy if Drawdown must not bill",
        show_default="the present provider, or embedded",
    ),
]
CustomerOption = Annotated[
    str | None,
    typer.Option(help="Customer's id at the provider", show_default="the present customer, or the organisation's id"),
]
Unassigned = Annotated[bool, typer.Option("--unassigned", help="All organisations without a provider")]
FlipFile = Annotated[
    Path | None, typer.Option(help="CSV file with the columns org_id and customer_id; may be repeated")
]
AllowHalt = Annotated[bool, typer.Option("--allow-halt", help="Assignment even if it halts the organisation at once")]


commands = of_noun("org", *ACTIONS, *LISTS, *status_lists.LISTS, *totals.LISTS)


@commands.command()
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
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Assignment even if Drawdown cannot check the provider")
    ] = False,
    new: New = False,
    dry_run: DryRun = False,
    queue: Queued = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Assign organisations to a provider that bills them.

    The assignment starts at the next window boundary unless you pass --from. Drawdown reads the provider first. If the
    customer does not exist there, or does not have credit, Drawdown rejects the assignment, because the assignment
    would halt a running organisation at once. Drawdown does not bill usage before the start. That usage stays visible
    as pending. An organisation's first assignment may start in the past. A later assignment may start only at a window
    that is not sealed yet. Without --from, --customer also applies to an assignment to the provider that has not begun.
    --undo removes the latest assignment if it has not begun. With --from, --undo removes the assignment that begins at
    that time.
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
    if queue:
        if unchecked:
            raise UsageError("--unchecked does not apply to a queued assignment. Omit it, or omit --queue")
        return _queue(app, wishes, AssignJob("", provider or "", None, start, allow_halt, new), by, dry_run=dry_run)
    where, note = _biller(app, provider, wishes, new=new)
    options = flips.FlipOptions(where, start, dry_run, allow_halt, unchecked, each_alone=not names, new=new)
    app.require_clock()
    done = run(flips.flip(app.context(), wishes, options, by), app.world())
    note += [str(one) for one in app.read(lambda c: in_shadow(c, by.now_ms)) if one.provider == where]
    show(app, {"assigned": done, "provider": where, "dry_run": dry_run}, [*note, *_flip_lines(done, options)])
    if any(flip.problem for flip in done):
        raise typer.Exit(Exit.PERSON)
    return None


def _queue(app: App, wishes: list[flips.Wish], asked: AssignJob, by: By, *, dry_run: bool) -> None:
    """Queue an assignment for a tick.

    Errors: UsageError with `--dry-run`, unless the caller names exactly one organisation, or without a provider that
    needs a lookup.
    """
    if dry_run:
        raise UsageError("specify either --dry-run or --queue, not both")
    if len(wishes) != 1 or asked.provider in ("", EMBEDDED, *EXEMPT_PROVIDERS):
        others = ", ".join((EMBEDDED, *EXEMPT_PROVIDERS))
        raise UsageError(
            f"--queue needs exactly one organisation, and a --provider other than {others}. To assign now, omit --queue"
        )
    org = wishes[0].org_id

    def work(connection: sa.Connection) -> int:
        ids.require_sampled_org(connection, org, new=asked.new)
        return place(connection, replace(asked, org_id=org, customer_id=wishes[0].customer_id), by)

    job_id = app.write(work)
    show(app, {"job": job_id}, [QUEUED.format(job_id)])


def _require_choice(names: list[str] | None, unassigned: bool, file: Path | None, customer: str | None) -> None:
    """Check that organisations are chosen in exactly one way.

    Errors: UsageError for another choice, a customer with several organisations, or an invalid customer.
    """
    if [bool(names), unassigned, file is not None].count(True) != 1:
        raise UsageError("specify exactly one of organisations, --unassigned and --file")
    if customer is not None and (not names or len(names) != 1):
        raise UsageError("--customer applies to a single organisation. Name exactly one organisation")
    if customer is not None and not is_clean_id(customer):
        raise UsageError(
            f"invalid --customer {quote_value(customer)}: expected 1 to 200 characters without control characters"
        )


def _wishes(app: App, names: list[str] | None, customer: str | None, file: Path | None) -> list[flips.Wish]:
    if file is not None:
        return read_flips(file)
    chosen = list(dict.fromkeys(names)) if names else app.read(assignments.unassigned)
    return [flips.Wish(org, customer) for org in chosen]


def _biller(app: App, given: str | None, wishes: list[flips.Wish], *, new: bool) -> tuple[str, list[str]]:
    """Return the intended provider, and a note if the caller named none."""
    if given is not None:
        return given, []
    kept = app.read(lambda c: flips.kept_provider(c, [wish.org_id for wish in wishes], new=new))
    if kept is None:
        return app.require_provider(EMBEDDED), []
    return app.require_provider(kept), [f"billed by {kept} as before. For another provider, pass --provider"]


def read_flips(file: Path) -> list[flips.Wish]:
    """Return organisations and their customers from a CSV file.

    Errors: UsageError if the file cannot be read; with its line, if a line is invalid or repeats an organisation.
    """
    found = [_wish(file, line, row) for line, row in org_rows(file)]
    seen: dict[str, int] = {}
    for wish in found:
        assert wish.line is not None
        if wish.org_id in seen:
            raise UsageError(
                f"{file}, line {wish.line}: {wish.org_id} is already in line {seen[wish.org_id]}. "
                "Remove one of the lines"
            )
        seen[wish.org_id] = wish.line
    return found


def _wish(file: Path, line: int, row: dict[str, str | None]) -> flips.Wish:
    org, customer = (row.get("org_id") or "").strip(), (row.get("customer_id") or "").strip()
    for name, text in (("org_id", org), ("customer_id", customer or "-")):
        if not is_clean_id(text):
            raise UsageError(
                f"{file}, line {line}: invalid {name} {text!r}: expected 1 to 200 characters without control characters"
            )
    return flips.Wish(org, customer or None, line)


def _flip_lines(done: list[flips.Flip], options: flips.FlipOptions) -> list[str | Table]:
    moved = [flip for flip in done if flip.start_ms is not None]
    already = sum(flip.already for flip in done)
    title = f"{'Would assign' if options.dry_run else 'Assigned'} {len(moved):,} to {options.provider}"
    if already:
        title += f"; {already:,} {'was' if already == 1 else 'were'} already assigned to it"
    columns = ("org", "billed before by", "as", "customer now", "from", "#pending, now billed", "#pending before")
    rows = [
        (
            flip.org_id,
            flip.was,
            flip.customer_was or None,
            flip.customer_id or None,
            show_time(flip.start_ms),
            _amount(flip.resolved_s, flip.resolved_units),
            _amount(flip.before_start_s, flip.before_start_units),
        )
        for flip in moved[:50]
    ]
    lines: list[str | Table] = [table(title, columns, rows)]
    noted = [*moved[:50], *(flip for flip in moved[50:] if flip.stops), *[flip for flip in done if flip.already][:50]]
    lines += [f"{flip.org_id}: {note}" for flip in noted if (note := _notes(flip))]
    problems = [flip for flip in done if flip.problem is not None]
    return lines + [_problem_line(flip) for flip in problems[:50]]


def _amount(seconds: int, units: int) -> str:
    return f"{seconds:,} s, {counted(units, 'unit')}" if units else f"{seconds:,} s"


def _problem_line(flip: flips.Flip) -> str:
    where = "" if flip.line is None else f"line {flip.line}: "
    return f"{where}{flip.org_id}: {(flip.problem or '').removeprefix(f'{flip.org_id}: ')}"


def _notes(flip: flips.Flip) -> str | None:
    parts = [flip.note] if flip.note else []
    if flip.open_pushes:
        held = ", ".join(f"{count:,} {state}" for state, count in flip.open_pushes.items())
        parts.append(f"open pushes that {flip.was} still settles: {held}")
    if flip.credit_behind_micro:
        parts.append(f"{show_credits(flip.credit_behind_micro)} credits stay behind")
    if flip.credit_there_micro is not None:
        parts.append(f"a balance of {show_credits(flip.credit_there_micro)} there")
    return "; ".join(parts) or None


def _undo(app: App, names: list[str], start_ms: int | None, by: By, *, dry_run: bool) -> None:
    """Cancel assignments that have not begun, each by its start.

    If two people cancel at once, both name the same assignment, so Drawdown refuses the second.
    """
    if not names:
        raise UsageError("--undo needs organisations. Name them, or pass --file")

    def look(connection: sa.Connection) -> list[tuple[str, int | None]]:
        return [(org, start_ms or assignments.to_come_ms(connection, org, by.now_ms)) for org in names]

    meant = app.read(look)

    def work(connection: sa.Connection) -> list[assignments.Assigned]:
        return [assignments.cancel(connection, org, by, start) for org, start in meant]

    try:
        done = app.write(work, rollback=dry_run)
    except AnswerLost as error:
        raise AnswerLost(error.why, _repeat_hint(meant)) from error
    would = "would not be" if dry_run else "not"
    lines = [f"{flip.org_id}: {would} moved to {flip.provider} at {show_time(flip.start_ms)}" for flip in done]
    show(app, {"undone": done, "dry_run": dry_run}, lines)


def _repeat_hint(meant: Sequence[tuple[str, int | None]]) -> str:
    """Return a safe command to repeat.

    Without the start, a repeat would cancel an earlier assignment.
    """
    starts = sorted({start for _, start in meant if start is not None})
    if len(starts) == 1:
        return f"repeat the command with --from {show_time(starts[0])}, which removes only that assignment"
    return "run `drawdown org scheduled`. Repeat the command for your organisations that this list still has"
