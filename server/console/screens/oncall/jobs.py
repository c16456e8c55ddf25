"""Show queued jobs with their progress and results.

If work may take longer than a form allows, it becomes a job. Examples are a replay, a provider's changed settings, and
the assignment of an organisation to a provider. A person can cancel a queued job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import join
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema import ids
from drawdown.schema.database import Transact
from drawdown.schema.declare import Fact, WrongField
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.text import counted
from drawdown.schema.units import EXEMPT_PROVIDERS, SECOND_MS
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.server.console.screens.oncall.pending import EMBEDDED, FROM, YES, start_of_window
from drawdown.worker.engine.context import Context
from drawdown.worker.jobs import lists, queue
from drawdown.worker.jobs.job_payloads import AcceptJob, Asked, AssignJob, ReplayJob
from drawdown.worker.jobs.lists import JobRow, count_open, list_jobs
from drawdown.worker.orgs import assignments
from drawdown.worker.provider import actions as providers
from drawdown.worker.replay.plan import ReplayPlan, ReplayScope, notes, plan
from drawdown.worker.replay.replay import Replayed, rehearse

PATH: Final = "/console/jobs"
PAGE_ROWS: Final = 50
TONES: Final = {"waiting": "warn", "under way": "warn", "failed": "bad"}
SAID: Final = "Ticks do queued jobs one after the other, the oldest first. A repeated job does not bill usage twice."


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    before = ask.whole("before")
    found = list_jobs(connection, most=PAGE_ROWS + 1, before=before)
    rows = [_row(one, ask.now_ms) for one in found[:PAGE_ROWS]]
    following = url(PATH, before=found[PAGE_ROWS - 1].job_id) if len(found) > PAGE_ROWS else ""
    waiting = count_open(connection)
    heads = ("#Job", "Kind", "State", "Task", "Actor", "Reason", "Since, UTC", "Progress", "Result", "Command")
    none, command = "No job exists yet.", "drawdown job list"
    if not rows:
        command = "drawdown replay --all --from 2026-06-01 --to 2026-06-02 --queue --reason 'provider outage'"
    first = "" if before is None else PATH
    page = PageContent(
        PATH,
        [Table("Jobs, the latest first", heads, rows, none, command, following, first=first)],
        tiles=[Tile("Open jobs", figures.count(waiting), "queued or running", "warn" if waiting else "")],
        acts=[act("Queue a replay", "replay")],
        query={} if before is None else {"before": before},
        note=SAID,
    )
    return to_context(page)


def _row(one: JobRow, now_ms: int) -> tuple[Cell, ...]:
    state = one.state_in_words
    links = (act("Cancel", "job-cancel", job=one.job_id),) if one.state == "waiting" else ()
    since = one.ended_ms or one.began_ms or one.at_ms
    sealed = f", {one.pushes:,} sealed" if one.pushes else ""
    return (
        Cell(figures.count(one.job_id), "number", links=links),
        Cell(one.kind, narrow=False),
        Cell(state, "state", TONES.get(state, "")),
        cells_of.text_cell(one.what, narrow=True),
        Cell(one.actor, "id", narrow=False),
        cells_of.text_cell(one.reason),
        Cell(figures.time(since), "time", narrow=False, under=figures.ago(since, now_ms)),
        Cell(f"{one.progress}{sealed}" or figures.UNKNOWN, narrow=False),
        cells_of.text_cell(one.result),
        cells_of.text_cell(join(["drawdown", *one.command])),
    )


PLACE: Final = "/console/jobs"
TRIED_MS: Final = 4 * SECOND_MS
"""Time for which the dry run of a replay continues while a page waits."""
MOST_LISTED: Final = 20
"""Sums of a replay that its dry run names. The command line lists all."""
ALL: Final = (("no", "no"), ("yes", "yes"))


def _replay_job(doing: Doing) -> ReplayJob:
    """Return the job of a form.

    Errors: WrongField unless the form has exactly one of organisations, a provider and all.
    """
    names, provider, all_ = doing.texts("id"), doing.text("provider"), doing.values["all"] == "yes"
    if bool(names) + bool(provider) + all_ != 1:
        raise WrongField("id", "specify exactly one of organisations, a provider and all")
    start, end = doing.time("from"), doing.time("to")
    assert start is not None and end is not None  # the form requires both
    return ReplayJob(ReplayScope(tuple(names), provider or None), start, end)


def _job(connection: sa.Connection, doing: Doing) -> ActionResult:
    # Omit the job's number, because a dry run would show another number.
    queue.place(connection, _replay_job(doing), doing.by)
    return ActionResult("queued. The next tick does or begins the job")


def _standing(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    same = queue.same_as(connection, _replay_job(doing))
    waiting = lists.count_open(connection)
    return [
        Fact("Already queued", "no" if same is None else "yes"),
        Fact("Open jobs", figures.count(waiting), fixed=False),
    ]


def _command(doing: Doing) -> list[str]:
    return [*_replay_job(doing).command(), "--queue"]


def _preview(transact: Transact, context: Context, doing: Doing) -> Sequence[Table]:
    """Return the first results of the dry run of `drawdown replay`, within TRIED_MS."""
    asked = _replay_job(doing)
    made = transact(lambda c: plan(c, asked.scope, asked.from_ms, asked.to_ms, doing.by.now_ms), rollback=True)
    command = join(["drawdown", *asked.command(), "--dry-run"])
    try:
        found = rehearse(transact, context.within(TRIED_MS), made, doing.by)
    except DatabaseBusy as error:
        none = (
            f"The dry run could not end in time ({error}). You can still queue the replay. To see its effect, run the "
            "command."
        )
        return [_range(made, command, ""), Table("Windows to seal", ("Window",), [], none, command)]
    short = ""
    if found.unfinished:
        short = "The replay is too large for a page, so the table shows a part. The command shows the whole replay."
    return [
        _range(made, command, short),
        _pushes_table(found, command),
        *([_left_out_table(found, command)] if found.left_out else []),
    ]


def _range(made: ReplayPlan, command: str, note: str) -> Table:
    rows = [
        (Cell("From, UTC"), Cell(figures.time(made.from_ms), "time")),
        (Cell("To, UTC"), Cell(figures.time(made.to_ms), "time")),
        (Cell("Scope"), Cell(str(made.scope), "id")),
        *((Cell(what.capitalize() or "Note"), Cell(text, "id")) for what, text in notes(made)),
    ]
    return Table("Replay", ("Field", "Value"), rows, "", command, note=note)


def _pushes_table(found: Replayed, command: str) -> Table:
    rows = [
        (
            cells_of.org(one.org_id),
            Cell(one.provider, "id"),
            Cell(one.feature, "id", narrow=False),
            cells_of.number(one.pushes),
            cells_of.number(one.quantity),
            Cell(figures.exact(one.price_micro), "number", narrow=False),
        )
        for one in found.totals[:MOST_LISTED]
    ]
    heads = ("Organisation", "Provider", "Feature", "#Pushes", "#Quantity", "#Estimated credits")
    pushes = counted(found.pushes, "push", "pushes")
    all_ = f"In total {pushes}, {counted(found.quantity, 'unit')}" if found.pushes else ""
    more = f". The first {MOST_LISTED} of {len(found.totals):,} sums" if len(found.totals) > MOST_LISTED else ""
    stopped = "".join(f" Drawdown skipped {bad.org_id}: {bad.reason}." for bad in found.stopped[:MOST_LISTED])
    still = f" From earlier seals, {found.to_settle}." if found.to_settle else ""
    none = f"{'No more usage to seal' if still else 'No more usage is owed in this range'}.{still}{stopped}"
    return Table("Windows to seal", heads, rows, none, command, note=f"{all_}{more}.{still}{stopped}" if all_ else "")


def _left_out_table(found: Replayed, command: str) -> Table:
    rows = [
        (Cell(one.why), cells_of.number(one.quantity), Cell(one.unit), cells_of.number(one.windows, narrow=False))
        for one in found.left_out
    ]
    return Table("Excluded usage", ("Reason", "#Quantity", "Unit", "#Windows"), rows, "", command)


def _number(doing: Doing) -> int:
    found = doing.number("job")
    assert found is not None  # the form requires it
    return found


ORDER: Final = Action(
    "replay",
    "Queue a replay",
    (
        Field("id", "Organisations", hint="Organisation ids, one on each line.", optional=True, many=True),
        Field("provider", "Provider of the organisations", hint="Provider's name.", optional=True),
        Field("all", "All organisations", "choice", choices=ALL),
        Field("from", "From", "time", "UTC, such as 2026-01-31, 2026-01-31T10:00 or -2d."),
        Field("to", "To", "time", "Time in the same format, after the start."),
    ),
    _job,
    _standing,
    _command,
    lambda _doing: PLACE,
    "Drawdown seals a past range again, and sends the usage that is still owed. It does not bill usage twice.",
    tell=_preview,
)
ACTIONS: Final = (ORDER,)


AT_ONCE: Final = "Use the form on the organisation's Assignment tab, which takes effect immediately"
QUEUED: Final = "queued. The next tick does or begins the job"


def _declared(connection: sa.Connection, doing: Doing) -> Capabilities:
    """Return the declaration of the form's provider.

    Errors: UnknownId; Refused if the provider never has settings, or this server does not have its settings.
    """
    name = doing.text("provider")
    ids.require(connection, ids.PROVIDER, name, new=True if name in doing.declared else None)
    if name in EXEMPT_PROVIDERS:
        raise Refused(f"{name} does not bill usage here, so it does not have settings. Name another provider")
    if name not in doing.declared:
        raise Refused(
            f"this server does not have the settings of {name}. Run `drawdown provider accept {name}` on a server "
            "that has them"
        )
    return doing.declared[name]


def _terms(connection: sa.Connection, doing: Doing) -> AcceptJob:
    return AcceptJob(doing.text("provider"), providers.terms_of(_declared(connection, doing)))


def _changes(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    asked, declared = _terms(connection, doing), _declared(connection, doing)
    moved = providers.changes(connection, asked.provider, declared)
    unsent, sent = providers.open_at(connection, asked.provider)
    return [
        *(Fact(part, f"{was}; with this server's settings: {now}") for part, (was, now) in moved.items()),
        Fact("Unsent pushes to seal again", figures.count(unsent), fixed=False),
        Fact("Sent pushes that are not settled (must be 0)", figures.count(sent), fixed=False),
        _queued(connection, asked),
    ]


def _queued(connection: sa.Connection, asked: Asked) -> Fact:
    return Fact("Already queued", "no" if queue.same_as(connection, asked) is None else "yes")


def _accept(connection: sa.Connection, doing: Doing) -> ActionResult:
    queue.place(connection, _terms(connection, doing), doing.by)
    return ActionResult(QUEUED)


def _assignment(connection: sa.Connection, doing: Doing) -> AssignJob:
    """Return the job of an assignment.

    Errors: UnknownId; WrongField for a provider that does not need a lookup of the customer.
    """
    org, provider = doing.text("id"), doing.text("provider")
    ids.require_sampled_org(connection, org, new=False)
    if provider == EMBEDDED or provider in EXEMPT_PROVIDERS:
        raise WrongField("provider", f"{provider} does not need a lookup. {AT_ONCE}")
    ids.require(connection, ids.PROVIDER, provider, new=True if provider in doing.declared else None)
    return AssignJob(
        org, provider, doing.maybe("customer"), start_of_window(doing), allow_halt=doing.values["halts"] == "yes"
    )


def _assign(connection: sa.Connection, doing: Doing) -> ActionResult:
    queue.place(connection, _assignment(connection, doing), doing.by)
    return ActionResult(QUEUED)


def _billed(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    asked = _assignment(connection, doing)
    was = queue.latest_biller(connection, asked.org_id)
    latest = "none" if was is None else f"{was.provider} as {was.customer_id}, from {figures.time(was.start_ms)} on"
    return [
        Fact("Latest assignment", latest),
        Fact("Earliest start, UTC", figures.time(assignments.start_of(asked.from_ms, doing.by)), fixed=False),
        _queued(connection, asked),
    ]


def _assign_command(doing: Doing) -> list[str]:
    halts = doing.values["halts"] == "yes"
    customer, start = doing.maybe("customer"), start_of_window(doing)
    return [*AssignJob(doing.text("id"), doing.text("provider"), customer, start, halts).command(), "--queue"]


def _told_of_assignment(transact: Transact, context: Context, doing: Doing) -> Sequence[Table]:
    """Return the usage that an assignment would bill, and would skip.

    The tick checks whether the customer exists.
    """
    in_ledger = [name for name, declared in context.declared().items() if declared.balance_in_ledger]

    def assign(connection: sa.Connection) -> assignments.Assigned:
        asked = _assignment(connection, doing)
        customer = asked.customer_id or ""  # the dry run does not call a provider; the tick looks up the customer
        (made,) = assignments.assign_each(
            connection, {asked.org_id: customer}, asked.provider, doing.by, from_ms=asked.from_ms, in_ledger=in_ledger
        )
        return made

    made = transact(assign, rollback=True)
    found, said = made.waited, f" {made.org_id}: {made.note}." if made.note else ""
    rows = [
        (Cell("From the start on, billed"), *_amounts(found.resolved_s, found.resolved_units)),
        (Cell("Before the start, not billed"), *_amounts(found.before_start_s, found.before_start_units)),
    ]
    note = f"The tick looks up the customer. If the customer does not exist, the job fails without changes.{said}"
    return [Table("Usage", ("Usage", "#Seconds", "#Units"), rows, "", "drawdown job list", note=note)]


def _amounts(seconds: int, units: int) -> tuple[Cell, Cell]:
    return Cell(figures.count(seconds), "number"), Cell(figures.count(units), "number")


ACCEPT: Final = Action(
    "provider-accept",
    "Accept changed settings",
    (Field("provider", "Provider", hint="Provider's name, as in assignments."),),
    _accept,
    _changes,
    lambda doing: ["provider", "accept", doing.text("provider"), "--queue"],
    lambda _doing: PLACE,
    "Drawdown seals unsent usage again with the new settings. Billed usage does not change.",
)
ASSIGN: Final = Action(
    "assign-remote",
    "Assign to another provider",
    (
        Field("id", "Organisation"),
        Field("provider", "Billed by", hint="Provider that Drawdown looks up first, such as autumn or stripe."),
        Field(
            "customer",
            "Customer at the provider",
            hint="If left empty, the latest customer if the provider stays the same, or else the organisation's id. "
            "Stripe and Lago need the id.",
            optional=True,
        ),
        FROM,
        Field("halts", "Assign even if the organisation then halts for lack of credit", "choice", choices=YES),
    ),
    _assign,
    _billed,
    _assign_command,
    lambda _doing: PLACE,
    "A tick looks up the customer at the provider. If the customer exists, the tick assigns the organisation.",
    tell=_told_of_assignment,
)
PROVIDER_ACTIONS: Final = (ACCEPT, ASSIGN)
