"""Assign organisations to billers, for the HTTP API and the console.

If the provider's customers are in this database, the assignment is immediate. Otherwise a job reads the customer at the
provider first. `drawdown org assign` does not need a job, and reads the provider itself.

Guarantee: the HTTP API and the console make the same checks as `drawdown org assign`. Only the check at a remote
provider comes later, in the tick that does the job. An assignment in force is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.declare import FLAG, ID, ORG, WINDOW, Action, Fact, Invocation, New, OrgId, Size, Undo, Values
from drawdown.schema.errors import Refused
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.jobs.job_payloads import AssignJob
from drawdown.worker.jobs.queue import latest_biller, place
from drawdown.worker.orgs import assignments, flips
from drawdown.worker.orgs.assignments import Waited
from drawdown.worker.orgs.flips import FlipCandidate, FlipOptions, Wish
from drawdown.worker.provider.actions import terms_in_force


@dataclass(frozen=True)
class OrgAssigned:
    """The biller of an organisation from `start_ms` on, and its customer there.

    `waited`: the pending usage that the assignment resolves. `customer_id` null: the job chooses it as in `Wish`.
    `start_ms` null: the next window at the time of the job. `already`: the assignment existed before. `undone`:
    the assignment was cancelled, and the earlier biller continues. `job_id`: the job in which a tick reads the provider
    and then assigns the organisation. Until then, the present biller stays. `note`: a warning, such as about top-ups of
    the former wallet that pause.
    """

    org_id: str
    provider: str
    customer_id: str | None
    start_ms: int | None
    waited: Waited
    already: bool = False
    undone: bool = False
    job_id: int | None = None
    note: str | None = None


def _assign(
    connection: sa.Connection,
    asked: Invocation,
    org_id: OrgId,
    *,
    provider: Annotated[
        str | None, ID, "Provider: embedded, autumn, stripe, …; none or legacy to bill nothing; unchanged if omitted"
    ] = None,
    customer_id: Annotated[
        str | None, ORG, "Customer's id at the provider; the organisation's id for a new assignment"
    ] = None,
    from_ms: Annotated[
        int | None, WINDOW, "Window boundary at which the assignment starts; the next if omitted"
    ] = None,
    undo: Undo = False,
    allow_halt: Annotated[bool, FLAG, "Assignment even if it halts the organisation at once"] = False,
    new: New = False,
) -> OrgAssigned:
    if undo:
        gone = assignments.cancel(connection, org_id, asked.by, from_ms, provider=provider, customer_id=customer_id)
        return OrgAssigned(org_id, gone.provider, gone.customer_id, gone.start_ms, gone.waited, undone=True)
    biller = provider or flips.kept_provider(connection, [org_id], new=new) or EMBEDDED
    ids.require_sampled_org(connection, org_id, new=new)
    if biller != EMBEDDED and biller not in EXEMPT_PROVIDERS:
        if terms_in_force(connection, biller) is None:
            ids.require(connection, ids.PROVIDER, biller)
        job = AssignJob(org_id, biller, customer_id, from_ms, allow_halt, new)
        return OrgAssigned(org_id, biller, customer_id, from_ms, Waited(), job_id=place(connection, job, asked.by))
    options = FlipOptions(biller, from_ms, allow_halt=allow_halt, new=new)
    (done,) = assign_here(connection, [Wish(org_id, customer_id)], options, asked.by)
    return done


class WouldHalt(Refused):
    """Raised if an assignment would halt an organisation at once.

    The assignment is to the embedded ledger. `why`: a text about the missing credit.
    """

    def __init__(self, why: str, customer_id: str) -> None:
        grant = f"`drawdown ledger grant {typed(customer_id, 'AMOUNT')}`"
        super().__init__(f"{why}. Grant credit first ({grant}), or pass --allow-halt")
        self.why = why


def assign_here(connection: sa.Connection, wishes: Sequence[Wish], options: FlipOptions, by: By) -> list[OrgAssigned]:
    """Assign organisations to a provider in this database.

    Errors: WouldHalt, unless `options.allow_halt`; Refused for an invalid assignment; UnknownId for an unknown id;
    UsageError for a start that is not a window boundary.
    """
    provider = options.provider
    assignments.lock_for_assignments(connection, [wish.org_id for wish in wishes])  # another call must not assign first
    found = flips.candidates_of(connection, wishes=wishes, options=options, declared=None, by=by)
    customers = {one.wish.org_id: one.customer_id for one in found if not one.already}
    for one in found:
        org, customer = one.wish.org_id, one.customer_id
        checked = provider == EMBEDDED and not options.allow_halt and not one.already
        if checked and flips.would_halt_here(connection, org, customer, by.now_ms):
            why = f"{one.provider} bills {org} now. The customer {customer} does not have credit here"
            raise WouldHalt(f"{why}, so the assignment would halt {org} at once", customer)
    made = assignments.assign_each(connection, customers, provider, by, from_ms=options.from_ms) if customers else []
    done = {
        one.org_id: OrgAssigned(one.org_id, provider, one.customer_id, one.start_ms, one.waited, note=one.note)
        for one in made
    }
    there = {one.wish.org_id: _there(one, provider, by) for one in found if one.already}
    return [{**done, **there}[wish.org_id] for wish in wishes]


def _there(one: FlipCandidate, provider: str, by: By) -> OrgAssigned:
    note = one.to_come(by)
    return OrgAssigned(one.wish.org_id, provider, one.customer_id, one.since_ms, Waited(), already=True, note=note)


def _sentence(done: OrgAssigned) -> str:
    if done.undone:
        return f"{done.org_id}: cancelled its assignment to {done.provider} at {show_time(done.start_ms)}"
    if done.job_id is not None:
        return (
            f"queued as job {done.job_id}. A tick looks up the customer at {done.provider}, and then assigns "
            f"{done.org_id}"
        )
    said = f"{done.org_id}: billed by {done.provider} as {done.customer_id} from {show_time(done.start_ms)} on"
    return assignments.joined(said, "nothing changes" if done.already else None, done.note) or said


def _billed(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    was = latest_biller(connection, values["org_id"])
    latest = "none" if was is None else f"{was.provider} as {was.customer_id}, from {show_time(was.start_ms)} on"
    return [Fact("Latest assignment", latest)]


def _size(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of an assignment.

    The size is unbounded if no provider bills the organisation's usage after the action, because that usage is free.
    This includes an assignment that keeps the usage free, and the cancellation of an assignment that would end the free
    usage.
    """
    if values["undo"]:
        return Size(unbounded=assignments.provider_after_cancel(connection, values["org_id"]) in EXEMPT_PROVIDERS)
    provider = values["provider"] or flips.kept_provider(connection, [values["org_id"]], new=values["new"])
    return Size(unbounded=provider in EXEMPT_PROVIDERS)


ACTIONS: Final = (
    Action(
        "org assign",
        "Assign an organisation",
        "Assign an organisation to a provider. To create the organisation, pass new. If the provider is remote, "
        "the next tick looks up the customer there. The result then has the number of the job.",
        _assign,
        _sentence,
        path="/v1/orgs/{org_id}/assign",
        scope="orgs:write",
        facts=_billed,
        size=_size,
        by_hand=True,
    ),
)
