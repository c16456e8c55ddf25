"""Flip: move organisations to another biller, or give them their first one, after asking what they would meet there.

Guarantee: nothing is assigned that a preflight shows to be wrong (no such customer, a balance that would halt at once),
unless a person says so; with one problem among organisations named by hand nothing changes, and from a file each line
stands for itself, so that the same file can be given again until all of it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import CustomerRead, CustomerState, NoCustomer, ReadFailed
from drawdown.schema import ids
from drawdown.schema.audit import Said
from drawdown.schema.errors import DrawdownError, Refused, UnknownId, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.commands.assignments import assign_one, start_of
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import CheckCustomers, ReadCustomers, Steps, Transaction

CHUNK: Final = 200
"""Organisations a transaction: whoever seals waits for it meanwhile."""


@dataclass(frozen=True)
class Wish:
    """One organisation to assign. A customer of None stands for the organisation's own id, or for none yet where the
    provider has ids of its own. `line` is where it stands in a file."""

    org_id: str
    customer_id: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Terms:
    """What holds for all organisations of one command."""

    provider: str
    from_ms: int | None = None
    dry_run: bool = False
    allow_halt: bool = False
    unchecked: bool = False
    each_alone: bool = False
    """A problem stops only its own organisation (of a file, or of all that nobody bills), not all of them."""
    new: bool = False
    """Also organisations, and customers of the embedded ledger, of which nothing is known yet."""


@dataclass(frozen=True)
class Flip:
    """What moved, or would: `open_pushes` of the old biller stay with it, and so does `credit_behind_micro`."""

    org_id: str
    customer_id: str
    was: str | None = None
    customer_was: str | None = None
    open_pushes: Mapping[str, int] = field(default_factory=dict)
    credit_behind_micro: int | None = None
    credit_there_micro: int | None = None
    start_ms: int | None = None
    mended_s: int = 0
    before_start_s: int = 0
    already: bool = False
    problem: str | None = None
    note: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class _Standing:
    """How one organisation stands before the flip."""

    wish: Wish
    customer_id: str
    provider: str | None
    customer_before: str | None
    is_halted: bool
    already: bool
    open_pushes: Mapping[str, int]
    unknown: str | None = None


def flip(context: Context, wishes: Sequence[Wish], terms: Terms, said: Said) -> Steps[list[Flip]]:
    """Assign organisations, a chunk at a time; each chunk is one transaction.

    Errors: Refused, and nothing changed, for a problem with an organisation that was named by hand; UnknownId where it,
    its customer in the embedded ledger or the provider is mistyped.
    """
    done: list[Flip] = []
    ids.require_among(ids.PROVIDER, terms.provider, {*context.capabilities, *EXEMPT_PROVIDERS})
    if len(wishes) > CHUNK and not terms.each_alone:
        raise UsageError(
            f"at most {CHUNK} organisations can be named at once, all or none of them: give a --file of them"
        )
    for at in range(0, len(wishes), CHUNK):
        done += yield from _chunk(context, wishes[at : at + CHUNK], terms, said)
    return done


def _chunk(context: Context, wishes: Sequence[Wish], terms: Terms, said: Said) -> Steps[list[Flip]]:
    own_ids = terms.provider in context.capabilities and context.capabilities[terms.provider].own_customer_ids
    standing: list[_Standing] = yield Transaction(
        "flip_standing", partial(_standing, wishes=wishes, terms=terms, own_ids=own_ids), rollback=True
    )
    there = yield from _read(context, {terms.provider: [one.customer_id for one in standing if not one.already]})
    behind: Mapping[tuple[str, str], CustomerRead] = {}
    if terms.dry_run:
        behind = yield from _read(context, _old_customers(standing))
    planned = [_judge(one, terms, there, behind, context) for one in standing]
    if own_ids and not terms.unchecked:
        planned = yield from _checked(context, terms.provider, planned)
    problems = [one for one in planned if one.problem is not None]
    if problems and not terms.each_alone and not terms.dry_run:
        raise Refused("; ".join(f"{one.org_id}: {one.problem}" for one in problems[:5]) + "; nothing was changed")
    in_ledger = [name for name, can in context.capabilities.items() if can.balance_in_ledger]
    made: list[Flip] = yield Transaction(
        "assign",
        partial(_assign, in_ledger=in_ledger, planned=planned, terms=terms, said=said),
        rollback=terms.dry_run,
    )
    return made


def _checked(context: Context, provider: str, planned: Sequence[Flip]) -> Steps[list[Flip]]:
    """Where customers have ids of the provider's own, whether it knows them is asked one by one: their state does not
    tell, as it may come from a wallet here."""
    asked = [one.customer_id for one in planned if one.customer_id and not one.already and one.problem is None]
    if provider not in context.ready() or not asked:
        return list(planned)
    found: Sequence[Sequence[str] | ReadFailed] = yield CheckCustomers(provider, asked)
    wrong = {name: one for name, one in zip(asked, found, strict=True) if isinstance(one, ReadFailed) or one}
    return [replace(one, problem=_said(wrong[one.customer_id])) if one.customer_id in wrong else one for one in planned]


def _said(wrong: Sequence[str] | ReadFailed) -> str:
    return f"could not be checked: {wrong.reason}" if isinstance(wrong, ReadFailed) else "; ".join(wrong)


def _standing(connection: sa.Connection, *, wishes: Sequence[Wish], terms: Terms, own_ids: bool) -> list[_Standing]:
    found = []
    for wish in wishes:
        unknown = _unknown(connection, wish, terms)
        latest = connection.execute(
            sa.text(
                "SELECT a.provider, a.customer_id, a.start_ms, o.is_halted FROM assignments a "
                "JOIN orgs o ON o.org_id = a.org_id WHERE a.org_id = :org ORDER BY a.start_ms DESC LIMIT 1"
            ),
            {"org": wish.org_id},
        ).one_or_none()
        customer = "" if own_ids else wish.org_id
        if wish.customer_id is not None:
            customer = wish.customer_id
        elif latest is not None and latest.provider == terms.provider:
            customer = latest.customer_id  # whom nobody names stays the same
        same = latest is not None and (latest.provider, latest.customer_id) == (terms.provider, customer)
        if same and terms.from_ms is not None:
            same = latest is not None and latest.start_ms == terms.from_ms
        found.append(
            _Standing(
                wish,
                customer,
                None if latest is None else latest.provider,
                None if latest is None else latest.customer_id,
                latest is not None and bool(latest.is_halted),
                same,
                {} if latest is None or same else _open(connection, wish.org_id),
                unknown,
            )
        )
    return found


def _unknown(connection: sa.Connection, wish: Wish, terms: Terms) -> str | None:
    """What is mistyped, where each organisation stands for itself. Errors: UnknownId, where all stand together."""
    try:
        ids.require_sampled_org(connection, wish.org_id, new=terms.new)
        if terms.provider == EMBEDDED and wish.customer_id not in (None, wish.org_id):
            ids.require(connection, ids.CUSTOMER, str(wish.customer_id), new=terms.new)
    except UnknownId as error:
        if not terms.each_alone:
            raise
        return str(error)
    return None


def kept_provider(connection: sa.Connection, org_ids: Sequence[str], *, new: bool) -> str | None:
    """Who bills these organisations by their latest assignments; None where nobody was ever assigned. Unless `new`,
    unknown ones are left out: the flip refuses them.

    Errors: UsageError where they do not have one biller.
    """
    found: dict[str | None, str] = {}
    for org_id in org_ids:
        if not (new or ids.is_known(connection, ids.ORG, org_id) or ids.has_samples(connection, org_id)):
            continue
        latest = connection.execute(
            sa.text("SELECT provider FROM assignments WHERE org_id = :org ORDER BY start_ms DESC LIMIT 1"),
            {"org": org_id},
        ).scalar()
        found.setdefault(latest, org_id)
    if len(found) > 1:
        who = " and ".join(f"{org} by {name or 'nobody yet'}" for name, org in list(found.items())[:2])
        raise UsageError(f"--provider: give it, since these are not billed alike: {who}")
    return next(iter(found), None)


def _open(connection: sa.Connection, org_id: str) -> dict[str, int]:
    rows = connection.execute(
        sa.text(
            "SELECT state, COUNT(*) FROM pushes WHERE state IN ('due', 'queued', 'in_doubt', 'rejected') "
            "AND org_id = :org GROUP BY state"
        ),
        {"org": org_id},
    )
    return {state: int(count) for state, count in rows}


def _old_customers(standing: Sequence[_Standing]) -> dict[str, list[str]]:
    old: dict[str, list[str]] = {}
    for one in standing:
        if one.provider is not None and one.customer_before and not one.already:
            old.setdefault(one.provider, []).append(one.customer_before)
    return old


def _read(context: Context, wanted: Mapping[str, Sequence[str]]) -> Steps[Mapping[tuple[str, str], CustomerRead]]:
    """The state of customers at each provider that can be asked; those it cannot ask are left out."""
    found: dict[tuple[str, str], CustomerRead] = {}
    for provider, customers in wanted.items():
        named = [one for one in dict.fromkeys(customers) if one]
        if provider not in context.ready() or not named:
            continue
        try:
            states: Mapping[str, CustomerRead] = yield ReadCustomers(provider, named)
        except Exception as error:
            states = {one: ReadFailed(type(error).__name__) for one in named}
        found.update({(provider, one): states.get(one, ReadFailed("no answer")) for one in named})
    return found


def _judge(
    one: _Standing,
    terms: Terms,
    there: Mapping[tuple[str, str], CustomerRead],
    behind: Mapping[tuple[str, str], CustomerRead],
    context: Context,
) -> Flip:
    state = there.get((terms.provider, one.customer_id))
    left = behind.get((one.provider or "", one.customer_before or ""))
    problem, note = (one.unknown, None) if one.unknown else _problem(one, terms, state, context)
    return Flip(
        org_id=one.wish.org_id,
        customer_id=one.customer_id,
        was=one.provider,
        customer_was=one.customer_before,
        open_pushes=one.open_pushes,
        credit_behind_micro=left.balance_micro if isinstance(left, CustomerState) else None,
        credit_there_micro=state.balance_micro if isinstance(state, CustomerState) else None,
        already=one.already,
        problem=None if one.already else problem,
        note=note,
        line=one.wish.line,
    )


def _problem(
    one: _Standing, terms: Terms, state: CustomerRead | None, context: Context
) -> tuple[str | None, str | None]:
    """What speaks against it, and what is worth knowing."""
    if terms.provider in EXEMPT_PROVIDERS:
        return None, "its usage is billed by nobody here from then on"
    if one.customer_id == "":
        return None, f"it has no customer at {terms.provider} yet: its usage waits until one is given"
    match state:
        case None:
            return None, f"{terms.provider} was not asked: it cannot be called yet"
        case NoCustomer() if not terms.unchecked:
            return f"{terms.provider} has no customer {one.customer_id}: make it there first, or give --customer", None
        case ReadFailed(reason) if not terms.unchecked:
            return (
                f"{terms.provider} did not say how {one.customer_id} stands ({reason}): try again, or --unchecked",
                None,
            )
        case CustomerState(balance) if balance is not None and balance <= 0 and _would_newly_halt(one, terms):
            if not terms.allow_halt:
                text = (
                    f"the customer {one.customer_id} has no credit at {terms.provider}: the flip would halt it at once"
                )
                return f"{text}; give credit there first, or --allow-halt", None
            return None, "it is halted once the flip is in force: no credit there"
    return None, None


def _would_newly_halt(one: _Standing, terms: Terms) -> bool:
    """Whether it runs now, under another biller."""
    return one.provider is not None and one.provider != terms.provider and not one.is_halted


def _assign(
    connection: sa.Connection, *, in_ledger: Sequence[str], planned: Sequence[Flip], terms: Terms, said: Said
) -> list[Flip]:
    start = start_of(terms.from_ms, said)
    lock_buckets(connection)
    return [
        one if one.already or one.problem else _assign_one(connection, one, terms, start, said, in_ledger)
        for one in planned
    ]


def _assign_one(
    connection: sa.Connection, one: Flip, terms: Terms, start: int, said: Said, in_ledger: Sequence[str]
) -> Flip:
    try:
        with connection.begin_nested():
            made = assign_one(connection, one.org_id, terms.provider, one.customer_id, start, said, in_ledger=in_ledger)
    except DrawdownError as error:
        if not (terms.each_alone or terms.dry_run):
            raise
        return replace(one, problem=str(error))
    return replace(one, start_ms=made.start_ms, mended_s=made.mended_s, before_start_s=made.before_start_s)
