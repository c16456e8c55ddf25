"""Assign organisations to their first or another provider, after a preflight.

The preflight checks the customers at that provider.

Guarantee: if the preflight finds a problem, the organisation is not assigned, unless a person allows it. A problem is,
for example, a missing customer, or a balance that would immediately halt the organisation. If one organisation that a
person named has a problem, no organisation is assigned. Each line of a file is independent, so you can use the same
file again until all lines are done. The rules decide by the facts about both providers, and are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import Capabilities, CustomerRead, CustomerState, NoCustomer, ReadFailed
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.errors import DrawdownError, Refused, UnknownId, UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.catalog.balance_parts import note_parts
from drawdown.worker.catalog.wallets import payable_micro
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import CheckCustomers, ReadCustomers, Steps, Transaction
from drawdown.worker.orgs.assignments import (
    Unseen,
    assign_one,
    joined,
    lock_for_assignments,
    start_of,
    stops_of,
    unseen_windows,
)

SQL = queries(__file__)

CHUNK: Final = 200
"""Organisations that one transaction assigns. Seals wait for that transaction."""


def _nothing(_connection: sa.Connection) -> None:
    return


def flip(
    context: Context,
    wishes: Sequence[Wish],
    options: FlipOptions,
    by: By,
    first: Callable[[sa.Connection], None] = _nothing,
) -> Steps[list[Flip]]:
    """Assign organisations in chunks.

    Each chunk is one transaction, which begins with `first`.

    Errors: Refused for a problem with an organisation that a person named, without any change. UnknownId for an unknown
    organisation, customer of the embedded ledger, or provider. UsageError for an invalid start, or for more than CHUNK
    organisations that a person named.
    """
    done: list[Flip] = []
    ids.require_among(ids.PROVIDER, options.provider, {*context.capabilities, *EXEMPT_PROVIDERS})
    if len(wishes) > CHUNK and not options.each_alone:
        raise UsageError(f"too many organisations: {len(wishes):,}. Name at most {CHUNK}, or pass --file")
    for at in range(0, len(wishes), CHUNK):
        done += yield from _chunk(context, wishes[at : at + CHUNK], options, by, first)
    return done


def _chunk(
    context: Context,
    wishes: Sequence[Wish],
    options: FlipOptions,
    by: By,
    first: Callable[[sa.Connection], None],
) -> Steps[list[Flip]]:
    declared = context.capabilities.get(options.provider)
    candidates: list[FlipCandidate] = yield Transaction(
        "flip_candidates",
        partial(candidates_of, wishes=wishes, options=options, declared=declared, by=by),
        rollback=True,
    )
    moving = [candidate.customer_id for candidate in candidates if not candidate.already]
    there = yield from _read(context, {options.provider: moving})
    behind: Mapping[tuple[str, str], CustomerRead] = {}
    if options.dry_run:
        behind = yield from _read(context, _old_customers(candidates))
    planned = [judge(candidate, options, there, behind, context, by) for candidate in candidates]
    if declared is not None and declared.own_customer_ids and not options.unchecked:
        planned = yield from _checked(context, options.provider, planned)
    problems = [flip for flip in planned if flip.problem is not None]
    if problems and not options.each_alone and not options.dry_run:
        why = "; ".join(f"{flip.org_id}: {flip.problem}" for flip in problems[:5])
        raise Refused(f"{why}. Drawdown did not change the assignments")
    in_ledger = [name for name, declared in context.capabilities.items() if declared.balance_in_ledger]
    made: list[Flip] = yield Transaction(
        "assign",
        partial(
            _assign,
            in_ledger=in_ledger,
            wishes=wishes,
            planned=planned,
            options=options,
            by=by,
            first=first,
            shown=_preflight_states(context, options.provider, there),
        ),
        rollback=options.dry_run,
    )
    return made


def _checked(context: Context, provider: str, planned: Sequence[Flip]) -> Steps[list[Flip]]:
    """Check customers one by one at a provider that has its own ids of customers.

    Return the flips with problems added. A customer's state may come from a wallet in this database. Such a state does
    not show whether the provider knows the customer.
    """
    asked = [flip.customer_id for flip in planned if flip.customer_id and not flip.already and flip.problem is None]
    if provider not in context.ready() or not asked:
        return list(planned)
    found: Sequence[Sequence[str] | ReadFailed] = yield CheckCustomers(provider, asked)
    wrong = {name: said for name, said in zip(asked, found, strict=True) if isinstance(said, ReadFailed) or said}
    return [_with_problem(flip, wrong[flip.customer_id]) if flip.customer_id in wrong else flip for flip in planned]


def _with_problem(flip: Flip, wrong: Sequence[str] | ReadFailed) -> Flip:
    if isinstance(wrong, ReadFailed):
        return replace(flip, problem=f"could not be checked: {wrong.reason}. Try again, or pass --unchecked", away=True)
    return replace(flip, problem=f"{'; '.join(wrong)}. To assign it without this check, pass --unchecked", away=False)


def candidates_of(
    connection: sa.Connection, *, wishes: Sequence[Wish], options: FlipOptions, declared: Capabilities | None, by: By
) -> list[FlipCandidate]:
    """Return the state of each organisation before the flip.

    Errors: UnknownId, unless `options.each_alone`; UsageError for an invalid start.
    """
    start, found = start_of(options.from_ms, by), []
    for wish in wishes:
        unknown = _unknown(connection, wish, options)
        latest = SQL.run(connection, "latest_assignment", {"org_id": wish.org_id}).one_or_none()
        customer = wish.org_id if declared is None else declared.customer_of(wish.org_id)
        if wish.customer_id is not None:
            customer = wish.customer_id
        elif latest is not None and latest.provider == options.provider:
            customer = latest.customer_id  # a customer that is not named stays the same
        named = wish.customer_id is not None
        since_ms = _so_since(latest, options.provider, customer, start, to_come=named and options.from_ms is None)
        already = since_ms is not None
        found.append(
            FlipCandidate(
                wish,
                customer,
                None if latest is None else latest.provider,
                None if latest is None else latest.customer_id,
                latest is not None and bool(latest.is_halted),
                already,
                {} if latest is None or already else _open(connection, wish.org_id),
                unknown,
                since_ms,
            )
        )
    return found


def so_since(connection: sa.Connection, wish: Wish, provider: str, from_ms: int | None, by: By) -> int | None:
    """Return the time since which an organisation is assigned as requested.

    The time may be in the future. Returns None if the organisation is not assigned as requested.

    All assignments from that time on name the provider and the customer, and the first of them starts no later than
    requested. If `wish` names a customer and `from_ms` is None, an assignment that has not begun also counts.
    """
    found = _as_wished(connection, wish, provider, from_ms, by)
    return None if found is None else found[0]


def _as_wished(
    connection: sa.Connection, wish: Wish, provider: str, from_ms: int | None, by: By
) -> tuple[int, str] | None:
    """Return the result of `so_since` with the customer.

    Return None if the organisation is not assigned as requested.
    """
    latest = SQL.run(connection, "latest_assignment", {"org_id": wish.org_id}).one_or_none()
    to_come = from_ms is None and wish.customer_id is not None
    since_ms = _so_since(latest, provider, wish.customer_id, start_of(from_ms, by), to_come=to_come)
    return None if latest is None or since_ms is None else (since_ms, str(latest.customer_id))


def _so_since(
    latest: sa.Row[Any] | None, provider: str, customer_id: str | None, start: int, *, to_come: bool
) -> int | None:
    if latest is None or latest.provider != provider or customer_id not in (None, latest.customer_id):
        return None
    return int(latest.since_ms) if to_come or latest.since_ms <= start else None


def _unknown(connection: sa.Connection, wish: Wish, options: FlipOptions) -> str | None:
    """Return the error text of an unknown organisation or customer.

    Return None if both are known. Unless `options.each_alone`, raise UnknownId instead of returning the text.
    """
    try:
        ids.require_sampled_org(connection, wish.org_id, new=options.new)
        if options.provider == EMBEDDED and wish.customer_id not in (None, wish.org_id):
            ids.require(connection, ids.CUSTOMER, str(wish.customer_id), new=options.new)
    except UnknownId as error:
        if not options.each_alone:
            raise
        return str(error)
    return None


def kept_provider(connection: sa.Connection, org_ids: Sequence[str], *, new: bool) -> str | None:
    """Return the provider of these organisations by their latest assignments.

    Returns None if they were never assigned. Unless `new`, ignore unknown organisations here, because the flip refuses
    them.

    Errors: UsageError if they have different providers.
    """
    found: dict[str | None, str] = {}
    for org_id in org_ids:
        if not (new or ids.is_known(connection, ids.ORG, org_id) or ids.has_samples(connection, org_id)):
            continue
        latest = SQL.run(connection, "latest_provider", {"org_id": org_id}).scalar()
        found.setdefault(latest, org_id)
    if len(found) > 1:
        who = ", ".join(f"{org} ({name or 'no provider yet'})" for name, org in list(found.items())[:2])
        raise UsageError(f"pass --provider, because the organisations have different providers: {who}")
    return next(iter(found), None)


def _open(connection: sa.Connection, org_id: str) -> dict[str, int]:
    return {row.state: int(row.pushes) for row in SQL.run(connection, "open_pushes", {"org_id": org_id})}


def _old_customers(candidates: Sequence[FlipCandidate]) -> dict[str, list[str]]:
    old: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.provider is not None and candidate.customer_before and not candidate.already:
            old.setdefault(candidate.provider, []).append(candidate.customer_before)
    return old


def _read(context: Context, wanted: Mapping[str, Sequence[str]]) -> Steps[Mapping[tuple[str, str], CustomerRead]]:
    """Read and return the states of customers, by provider and customer.

    The call reads only providers that are ready.
    """
    found: dict[tuple[str, str], CustomerRead] = {}
    for provider, customers in wanted.items():
        named = [customer for customer in dict.fromkeys(customers) if customer]
        if provider not in context.ready() or not named:
            continue
        try:
            states: Mapping[str, CustomerRead] = yield ReadCustomers(provider, named)
        except Exception as error:
            states = {customer: ReadFailed(type(error).__name__) for customer in named}
        found.update({(provider, customer): states.get(customer, ReadFailed("no response")) for customer in named})
    return found


def _preflight_states(
    context: Context, provider: str, there: Mapping[tuple[str, str], CustomerRead]
) -> Mapping[str, CustomerState]:
    """Return the states that the preflight read, by customer.

    Drawdown records these states, because the first pushes may use up a one-time grant before a tick reads the
    customer.
    """
    if provider not in context.capabilities or not context.capabilities[provider].costs:
        return {}
    return {customer: state for (_, customer), state in there.items() if isinstance(state, CustomerState)}


def _assign(
    connection: sa.Connection,
    *,
    in_ledger: Sequence[str],
    wishes: Sequence[Wish],
    planned: Sequence[Flip],
    options: FlipOptions,
    by: By,
    first: Callable[[sa.Connection], None] = _nothing,
    shown: Mapping[str, CustomerState],
) -> list[Flip]:
    first(connection)
    org_ids = [flip.org_id for flip in planned]
    lock_for_assignments(connection, org_ids)
    late = unseen_windows(connection, org_ids)
    assigner = partial(_assign_one, connection, options=options, by=by, in_ledger=in_ledger, unseen=late)
    both = zip(planned, wishes, strict=True)
    done = [flip if flip.already or flip.problem else assigner(flip, wish) for flip, wish in both]
    moved = {flip.customer_id for flip in done if flip.start_ms is not None}
    read = {customer: state for customer, state in shown.items() if customer in moved}
    note_parts(connection, options.provider, read, by.now_ms)
    stops = stops_of(connection, {flip.org_id: flip.start_ms for flip in done if flip.start_ms is not None})
    return [
        replace(flip, note=joined(flip.note, stops[flip.org_id]), stops=True) if flip.org_id in stops else flip
        for flip in done
    ]


def _assign_one(
    connection: sa.Connection,
    flip: Flip,
    wish: Wish,
    *,
    options: FlipOptions,
    by: By,
    in_ledger: Sequence[str],
    unseen: Unseen,
) -> Flip:
    org, customer = flip.org_id, flip.customer_id
    found = _as_wished(connection, wish, options.provider, options.from_ms, by)
    if found is not None:  # another command or a tick has made this flip since
        since_ms, customer = found
        return replace(flip, customer_id=customer, already=True, note=joined(flip.note, _to_come(org, since_ms, by)))
    try:
        with connection.begin_nested():
            made = assign_one(
                connection, org, options.provider, customer, options.from_ms, by, in_ledger=in_ledger, unseen=unseen
            )
    except DrawdownError as error:
        if not (options.each_alone or options.dry_run):
            raise
        return replace(flip, problem=str(error))
    return replace(flip, start_ms=made.start_ms, note=joined(flip.note, made.note), **vars(made.waited))


@dataclass(frozen=True)
class Wish:
    """One organisation to assign.

    `customer_id` None: keep the customer of its latest assignment, if that is to this provider. Otherwise, use the
    organisation's own id, or if the provider has its own ids, assign without a customer. `line`: the number of its line
    in a file (None: a person named it).
    """

    org_id: str
    customer_id: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class FlipOptions:
    """The options for all organisations of one command.

    `from_ms`: the start (None: the next window). `allow_halt`: assign an organisation even if this halts it.
    `unchecked`: omit the check of customers at the provider.
    """

    provider: str
    from_ms: int | None = None
    dry_run: bool = False
    allow_halt: bool = False
    unchecked: bool = False
    each_alone: bool = False
    """True: a problem with an organisation prevents only its own flip.

    The value is True for a file, and for all unassigned organisations.
    """
    new: bool = False
    """True: accept unknown organisations, and unknown customers of the embedded ledger."""


@dataclass(frozen=True)
class Flip:
    """A flip of one organisation, done or planned.

    `open_pushes` (by state) and `credit_behind_micro` stay at the former provider. `was`, `customer_was`: the former
    provider and customer (None: never assigned). `credit_there_micro`: the credit at the new provider. Both credits are
    in micro-credits (None: unknown). `start_ms`: the start of the assignment (None: it was not made). `resolved_s` to
    `before_start_units`: as in `Waited`. `already`: it is already assigned as requested. `problem`: the reason why the
    flip is not made. `note`: a warning about the flip. `line`: its line in the file. `problem`, `note` and `line` are
    None if absent.
    """

    org_id: str
    customer_id: str
    was: str | None = None
    customer_was: str | None = None
    open_pushes: Mapping[str, int] = field(default_factory=dict)
    credit_behind_micro: int | None = None
    credit_there_micro: int | None = None
    start_ms: int | None = None
    resolved_s: int = 0
    resolved_units: int = 0
    before_start_s: int = 0
    before_start_units: int = 0
    already: bool = False
    problem: str | None = None
    away: bool = False
    """True if the problem is that the provider did not answer, so a retry may succeed."""
    note: str | None = None
    line: int | None = None
    stops: bool = False
    """True if the note names tiers or automatic top-ups that stop at a former wallet."""


@dataclass(frozen=True)
class FlipCandidate:
    """The state of one organisation before the flip.

    `customer_id`: the customer to assign. `provider`, `customer_before`: those of its latest assignment (None: never
    assigned). `open_pushes`: the number of its open pushes, by state. `unknown`: the error for an unknown id (None: the
    ids are known). `since_ms`: the start of the requested assignment if it exists already (None: it does not).
    """

    wish: Wish
    customer_id: str
    provider: str | None
    customer_before: str | None
    is_halted: bool
    already: bool
    open_pushes: Mapping[str, int]
    unknown: str | None = None
    since_ms: int | None = None

    def to_come(self, by: By) -> str | None:
        """Return a note if the assignment already exists and has not begun, else None."""
        return None if self.since_ms is None else _to_come(self.wish.org_id, self.since_ms, by)


def _to_come(org_id: str, since_ms: int, by: By) -> str | None:
    if since_ms <= by.now_ms:
        return None
    undo = f"`drawdown org assign {typed(org_id, '--undo')}`"
    return f"it is assigned so from {utc(since_ms)} on. To begin at another time, first cancel that with {undo}"


def judge(
    candidate: FlipCandidate,
    options: FlipOptions,
    there: Mapping[tuple[str, str], CustomerRead],
    behind: Mapping[tuple[str, str], CustomerRead],
    context: Context,
    by: By,
) -> Flip:
    """Return the flip that would be made for an organisation, with its problem.

    `there`: the states of customers at the new provider. `behind`: their states at the former provider.
    """
    state = there.get((options.provider, candidate.customer_id))
    left = behind.get((candidate.provider or "", candidate.customer_before or ""))
    problem, note = (candidate.unknown, None) if candidate.unknown else problem_of(candidate, options, state, context)
    return Flip(
        org_id=candidate.wish.org_id,
        customer_id=candidate.customer_id,
        was=candidate.provider,
        customer_was=candidate.customer_before,
        open_pushes=candidate.open_pushes,
        credit_behind_micro=left.balance_micro if isinstance(left, CustomerState) else None,
        credit_there_micro=state.balance_micro if isinstance(state, CustomerState) else None,
        already=candidate.already,
        problem=None if candidate.already else problem,
        away=problem is not None and candidate.unknown is None and isinstance(state, ReadFailed),
        note=joined(candidate.to_come(by), note),
        line=candidate.wish.line,
    )


def problem_of(
    candidate: FlipCandidate, options: FlipOptions, state: CustomerRead | None, context: Context
) -> tuple[str | None, str | None]:
    """Return the problem that prevents the flip, and a note about the flip.

    Each is None if absent.
    """
    customer = candidate.customer_id
    if options.provider in EXEMPT_PROVIDERS:
        return None, "Drawdown does not bill the organisation from then on"
    if customer == "":
        return None, (
            f"the organisation does not have a customer at {options.provider} yet, so its usage waits "
            "until you name one"
        )
    match state:
        case None if not candidate.already:
            return None, f"Drawdown did not look up the customer, because it cannot call {options.provider} yet"
        case NoCustomer() if not options.unchecked:
            text = (
                f"the customer {customer} does not exist at {options.provider}. Create the customer there "
                "first, or pass --customer"
            )
            return f"{text}. To assign it before it exists, pass --unchecked", None
        case ReadFailed(reason) if not options.unchecked:
            return f"cannot read {customer} at {options.provider} ({reason}). Try again, or pass --unchecked", None
        case CustomerState(balance) if _halts(
            (candidate.provider, candidate.customer_before), (options.provider, customer), candidate.is_halted, balance
        ):
            if not options.allow_halt:
                text = (
                    f"the customer {customer} does not have credit at {options.provider}, so the assignment would halt "
                    "the organisation at once"
                )
                return f"{text}. Grant credit there first, or pass --allow-halt", None
            return None, (
                "the customer does not have credit there, so the assignment halts the organisation when it takes effect"
            )
    return None, None


def _halts(
    was: tuple[str | None, str | None], biller: tuple[str, str], is_halted: bool, balance_micro: int | None
) -> bool:
    """Return True if a move to another provider or customer halts an organisation.

    The move halts the organisation if it is not halted now, and the new customer lacks credit. `was`, `biller`:
    provider and customer. A first assignment is not a move, nor is the first customer of an organisation at its
    provider.
    """
    is_moved = was[0] is not None and (was[0] != biller[0] or was[1] not in ("", biller[1]))
    return is_moved and not is_halted and balance_micro is not None and balance_micro <= 0


def would_halt_here(connection: sa.Connection, org_id: str, customer_id: str, now_ms: int) -> bool:
    """Return True if the embedded ledger would immediately halt an organisation.

    It would if another provider or customer pays for the organisation now, it is not halted, and this customer lacks
    credit.
    """
    latest = SQL.run(connection, "latest_assignment", {"org_id": org_id}).one_or_none()
    if latest is None:
        return False
    credit_micro = payable_micro(connection, customer_id, now_ms)
    was = str(latest.provider), str(latest.customer_id)
    return _halts(was, (EMBEDDED, customer_id), bool(latest.is_halted), credit_micro)
