"""Queue jobs for actions that call a payment service or a provider.

A tick does the jobs. The actions resume a top-up with another card, start a top-up, and correct the differences of a
comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.database import Transact
from drawdown.schema.declare import Fact, WrongField
from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Table
from drawdown.server.console.screens.money import cells
from drawdown.server.console.screens.money.reconcile import HEADS, row
from drawdown.server.console.screens.money.topups import WALLET
from drawdown.worker.engine.context import Context
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import Asked, CorrectJob, TopupJob
from drawdown.worker.reconcile import lists as reconciliations
from drawdown.worker.reconcile.lists import Compared, ComparedFilter
from drawdown.worker.topup.lists import show_wallet, switched

PLACE: Final = "/console/jobs"
QUEUED: Final = "queued. The next tick does the job"


def _queued(connection: sa.Connection, asked: Asked) -> Fact:
    return Fact("Already queued", "no" if queue.same_as(connection, asked) is None else "yes")


def _topup(name: str, title: str, said: str, what: Literal["resume", "start"]) -> Action:
    def make_job(doing: Doing) -> TopupJob:
        return TopupJob(doing.text("id"), what)

    def job(connection: sa.Connection, doing: Doing) -> ActionResult:
        queue.place(connection, make_job(doing), doing.by)
        return ActionResult(QUEUED)

    def look(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
        wallet = doing.text("id")
        ids.require(connection, ids.TOPPED_UP, wallet)
        terms, _ = show_wallet(connection, wallet, 1)
        all_ = switched(connection)
        return [
            Fact("Mode", terms.mode),
            Fact("Stopped automatically", terms.blocked_reason or "no"),
            Fact("Successive declines", figures.count(terms.declines)),
            Fact("Threshold, credits", figures.exact(terms.threshold_micro)),
            Fact("Available now", figures.exact(terms.available_micro), fixed=False),
            Fact("Payment service", f"{terms.service} as {terms.service_customer}"),
            Fact("All top-ups", "on" if all_ is None else f"stopped by {all_.actor}: {all_.reason}"),
            _queued(connection, make_job(doing)),
        ]

    return Action(
        name,
        title,
        (WALLET,),
        job,
        look,
        lambda doing: [*make_job(doing).command(), "--queue"],
        lambda _doing: PLACE,
        said,
    )


RESUME: Final = _topup(
    "topup-resume",
    "Resume with another card",
    "A tick checks whether the payment service itself fills the wallet. If not, Drawdown clears the "
    "declines, and charges a low wallet once.",
    "resume",
)
START: Final = _topup(
    "topup-start",
    "Start top-up",
    "A tick checks whether the payment service itself fills the wallet. If not, Drawdown charges the wallet "
    "from then on whenever its credit is low.",
    "start",
)


def _correction(doing: Doing) -> CorrectJob:
    """Return the job for the days to correct.

    Errors: WrongField unless the range consists of whole days that have begun.
    """
    start, end = doing.time("from"), doing.time("to")
    if start is not None and start > doing.by.now_ms:
        raise WrongField(
            "from",
            f"invalid day {quote_value(doing.values.get('from', ''))}: it has not begun yet. Enter an earlier day",
        )
    try:
        return CorrectJob(doing.text("org"), doing.text("provider"), start, end)
    except UsageError as error:
        raise WrongField("from", str(error)) from None


def _there(connection: sa.Connection, doing: Doing) -> CorrectJob:
    """Return the job if its organisation and provider exist.

    Errors: the errors of `_correction`; UnknownId.
    """
    asked = _correction(doing)
    if asked.org_id:
        require_org(connection, asked.org_id)
    if asked.provider:
        ids.require(connection, ids.PROVIDER, asked.provider, new=True if asked.provider in doing.declared else None)
    return asked


def _correct(connection: sa.Connection, doing: Doing) -> ActionResult:
    queue.place(connection, _there(connection, doing), doing.by)
    return ActionResult(QUEUED)


def _compared_days(connection: sa.Connection, asked: CorrectJob) -> list[Compared]:
    chosen = ComparedFilter(asked.provider, asked.org_id)
    return reconciliations.of_days(connection, chosen, asked.from_ms or 0, asked.to_ms or 2**53)


def _apart(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    asked = _there(connection, doing)
    apart = [one for one in _compared_days(connection, asked) if one.verdict in ("short", "over")]
    more = " or more" if len(apart) >= reconciliations.MOST_DIFFERING else ""
    short = sum(one.ours_qty - one.theirs_qty for one in apart if one.verdict == "short")
    over = sum(one.theirs_qty - one.ours_qty for one in apart if one.verdict == "over")
    return [
        Fact("Differing lines, last comparison", f"{len(apart):,}{more}"),
        Fact("Missing at providers, base units", f"{short:,}{more}"),
        Fact("Excess at providers, base units", f"{over:,}{more}"),
        _queued(connection, asked),
    ]


def _preview(transact: Transact, _context: Context, doing: Doing) -> Sequence[Table]:
    """Return the stored lines of the last comparison. The tick compares again."""
    found = transact(lambda c: _compared_days(c, _there(c, doing)), rollback=True)
    note = "The tick repeats the comparison, and looks up each differing push at its provider."
    first = f" This table shows the first {len(found)} lines." if len(found) >= reconciliations.MOST_DIFFERING else ""
    command = cells.command(*_correction(doing).command())
    return [
        Table(
            "Last comparison",
            HEADS,
            [row(one) for one in found],
            f"Drawdown has not compared this range yet. {note}",
            command,
            note=note + first,
        )
    ]


CORRECT: Final = Action(
    "reconcile-correct",
    "Correct differences",
    (
        Field("org", "Organisation", hint="All organisations if left empty.", optional=True),
        Field("provider", "Provider", hint="All providers if left empty.", optional=True),
        Field(
            "from", "First day", "time", "UTC, such as 2026-01-31; recently settled days if left empty.", optional=True
        ),
        Field("to", "End day", "time", "Day after the last day.", optional=True),
    ),
    _correct,
    _apart,
    lambda doing: [*_correction(doing).command(), "--queue"],
    lambda _doing: PLACE,
    "If the provider proves that it does not have a push, Drawdown voids it and seals its usage "
    "again. Drawdown refunds charges above accepted pushes. It reports unproven differences and does "
    "not change them.",
    role="admin",  # only admins, because the tick compares again, and no credit limit bounds its corrections
    tell=_preview,
)
ACTIONS: Final = (RESUME, START, CORRECT)
