"""`drawdown push resolve --all-in-doubt`: one command for all pushes in doubt, with a dry run in credits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final, NoReturn

import typer

from drawdown.cli.app import App
from drawdown.cli.rendering import show
from drawdown.schema.errors import Exit, UsageError, worst
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.push.actions import DoubtFilter, Outcome, ResolvedAll, resolve_all
from drawdown.worker.verdict.rates import named_quantities

OUTCOMES: Final[tuple[Outcome, ...]] = ("accepted", "absent")
DONE: Final[Mapping[Outcome, str]] = {"accepted": "accepted", "absent": "voided; their usage is owed again"}


def resolve_doubted(
    app: App,
    chosen: DoubtFilter,
    outcome: Outcome | None,
    evidence: str,
    *,
    dry_run: bool,
    actor: str | None,
    reason: str,
) -> NoReturn:
    """Resolve all pushes in doubt of a filter; a dry run without an outcome shows both.

    Errors: UsageError without an outcome or evidence, unless it is a dry run; whatever a rule refuses.
    """
    if outcome is None and not dry_run:
        raise UsageError("no outcome is given: pass --accepted or --absent, or --dry-run to see both")
    by = app.by(actor, reason)
    done = [
        resolve_all(app.write, chosen, one, by, evidence, dry_run=dry_run)
        for one in (OUTCOMES if outcome is None else [outcome])
    ]
    ends = Exit.SETTLED if outcome is None else worst(one.exit_status for one in done)
    result: dict[str, object] = {"dry_run": dry_run, "outcomes": [asdict(one) for one in done], "exit_status": ends}
    show(app, result, _lines(done, chosen, evidence))
    raise typer.Exit(ends)


def _lines(done: list[ResolvedAll], chosen: DoubtFilter, evidence: str) -> Iterator[str]:
    found = done[0].found
    if not found:
        yield "no push in doubt is like that; nothing was changed"
        return
    for one in done:
        yield from _of_outcome(one)
        if one.dry_run and one.pushes:
            yield f"  {command_of(chosen, one.outcome, evidence, found)}"
    if done[0].dry_run:
        yield "nothing was changed"


def _of_outcome(one: ResolvedAll) -> Iterator[str]:
    """Totals of one outcome, then what stays, by reason."""
    would = "would be " if one.dry_run else ""
    yield f"{one.pushes:,} of {one.found:,} pushes in doubt, of {one.orgs:,} organisations: {would}{DONE[one.outcome]}"
    if one.pushes:
        yield f"  worth {one.worth}"
        yield f"  quantities: {named_quantities(one.worth.quantities, most=len(one.worth.quantities))}"
    for stays in one.stays:
        yield f"  {stays.pushes:,} stay in doubt, {stays.words}"
        yield f"    {stays.example}"


def command_of(chosen: DoubtFilter, outcome: Outcome, evidence: str, found: int) -> str:
    """The command that does what a dry run showed, to no more pushes than it counted."""
    options = {
        "--provider": chosen.provider,
        "--org": chosen.org,
        "--customer": chosen.customer,
        "--feature": chosen.feature,
        "--from": "" if chosen.from_ms is None else show_time(chosen.from_ms),
        "--to": "" if chosen.to_ms is None else show_time(chosen.to_ms),
        "--error": chosen.error,
    }
    words = [word for name, value in options.items() if value for word in (name, value)]
    end = (f"--{outcome}", "--evidence", evidence or "EVIDENCE", "--at-most", str(found))
    return typed("drawdown", "push", "resolve", "--all-in-doubt", *words, *end)
