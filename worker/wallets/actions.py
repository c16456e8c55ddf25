"""Change the embedded ledger for an operator.

Guarantee: if a change may alter the verdict of an organisation, the organisation is marked, so that the next tick
refreshes the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, Final

import sqlalchemy as sa

from drawdown.ledger import accounts, lots, wallet
from drawdown.ledger.accounts import ONE_PPM, HoldTerms, has_wallet, open_accounts, wallet_account
from drawdown.ledger.allocation import DEFAULT_PRIORITY, KINDS, Kind, Lot
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.grants import Gives, newest, set_gives
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.ledger.rates import Rate, read_rate_card
from drawdown.ledger.reservations import Denied
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    AHEAD,
    AT_ONCE,
    CREDITS,
    CREDITS_OR_NONE,
    FLAG,
    ID,
    KEY,
    ORG,
    TIME,
    WINDOW,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    New,
    Page,
    Size,
    Values,
    WrongField,
    whole,
)
from drawdown.schema.declare import Kind as ValueKind
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.locks import lock_rates
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import parse_credits, show_credits, show_time
from drawdown.schema.units import DAY_MS, EARLIEST_TS, EVER_MS, as_credits, next_window
from drawdown.worker.catalog.wallets import (
    billed_as,
    billed_elsewhere,
    customers_on,
    keeper_of,
    orgs_of,
    wallets_at,
)
from drawdown.worker.topup.actions import rearm_paid
from drawdown.worker.topup.fill import is_wanted
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.wallets.accounts import PaidFrom, account_of, list_lots, paid_from

SQL = queries(__file__)

MAX_PRIORITY: Final = 1_000
"""Highest priority number of a lot. Drawdown uses lots with lower numbers first."""
MOST_FEATURES: Final = 100
"""Most features to which a grant may restrict one lot."""
MOST_FACTOR_PPM: Final = 1_000 * ONE_PPM
"""Highest factor by which a plan multiplies an estimate, in parts per million."""
MOST_NAMED: Final = 3
"""Organisations of a wallet that a message names."""
MAX_RATE: Final = 10**12
"""Highest number in a rate: 10**12 micro-credits (a million credits), or 10**12 base units.

A higher number is probably a typing error.
"""
UNCHANGED: Final[Mapping[str, Any]] = MappingProxyType({})


def grant(
    connection: sa.Connection,
    customer_id: str,
    amount_micro: int,
    by: By,
    *,
    key: str,
    plan: str | None,
    new: bool = True,
    terms: Terms = PLAIN,
) -> wallet.Granted:
    """Grant credit, in micro-credits, as a lot on these terms.

    A negative amount takes credit back without naming a lot. `plan`: also put the customer on this plan.

    If the key was used before, the call does not change anything. So a caller that lost the response can repeat the
    call, even after the end of the credit or a change of the plan. The audit log records the grant once.

    Errors: Refused for a key that was used before with different content; UsageError for an invalid id or terms;
    UnknownId for an unknown plan. Unless `new`, UnknownId also for an unknown feature, and for an unknown customer with
    an id like an existing id. DatabaseBusy, with `plan` only.
    """
    if not is_clean_id(customer_id):
        raise UsageError(
            f"invalid customer id {quote_value(customer_id)}: expected 1 to 200 characters without control characters"
        )
    ids.require_meant(connection, customer_id, new=new)
    name = f"grant:{key}"
    _require_sane(terms, amount_micro, by.now_ms, is_new=lots.read(connection, name) is None)
    for feature in terms.features or ():
        ids.require(connection, ids.FEATURE, feature, new=new)
    if plan is not None:
        ids.require(connection, ids.PLAN, plan)
    if amount_micro > 0 and not wallet.is_granted(connection, name):
        rearm_paid(connection, customer_id)
    if plan is not None:
        # Lock the wallet, so that a concurrent call with the same key waits.
        open_accounts(connection, [wallet_account(customer_id)])
        wallet.make_true(connection, [customer_id], by.now_ms)
        if not wallet.is_granted(connection, name):
            wallet.change_plan(connection, customer_id, plan, by)
    granted = wallet.grant(
        connection, customer_id, amount_micro, key=name, now_ms=by.now_ms, actor=by.actor, reason=by.reason, terms=terms
    )
    if not granted.repeated:
        asked = {name: value for name, value in vars(terms).items() if value != getattr(PLAIN, name)}
        details = {"amount_micro": amount_micro, "key": name, "plan": plan, **asked}
        record(connection, "ledger_grant", customer_id, details, by)
    mark_for_projection(connection, orgs_of(connection, [customer_id]), by.now_ms)
    return granted


def _require_sane(terms: Terms, amount_micro: int, now_ms: int, *, is_new: bool) -> None:
    if amount_micro <= 0 and terms != PLAIN:
        raise UsageError(
            f"invalid amount {as_credits(amount_micro)}: kind, start, end, priority and features need a positive "
            "amount. Omit these terms, or pass a positive amount"
        )
    if not 0 <= terms.priority <= MAX_PRIORITY:
        raise UsageError(f"invalid priority {terms.priority}: expected 0 (used first) to {MAX_PRIORITY}")
    if terms.kind not in KINDS:
        raise UsageError(f"invalid kind of credit {quote_value(terms.kind)}: expected one of {', '.join(KINDS)}")
    begins_ms = now_ms if terms.begins_ms is None else terms.begins_ms
    if begins_ms < EARLIEST_TS:
        raise UsageError(f"invalid start of credit {show_time(begins_ms)}: expected a time in the year 2000 or later")
    if is_new and terms.expires_ms is not None and terms.expires_ms <= max(begins_ms, now_ms):
        raise UsageError(
            f"invalid end of credit {show_time(terms.expires_ms)}: expected a time in the future, after the credit "
            "begins"
        )
    features = terms.features
    if features is not None and (not 0 < len(features) <= MOST_FEATURES or sorted(set(features)) != list(features)):
        raise UsageError(
            f"invalid features {quote_value(', '.join(features))}: expected 1 to {MOST_FEATURES}, each once, in the "
            "order of their names"
        )


@dataclass(frozen=True)
class TakenBack:
    """The result of taking back a lot.

    `taken_back_micro`: the credit that this call took back. `reserved_micro`: the part of the lot that it left, because
    executions have reserved it (0 for `whole`). `balance_micro`: the balance after the call. `pool`: the pool that got
    the credit (null: the lot is not an allotment). `orgs`: the organisations for which the wallet pays, has paid or
    will pay. If the wallet is empty, the next tick halts those for which it pays now. `is_refilled`: automatic top-ups
    will fill the wallet again.
    """

    lot: str
    customer_id: str
    taken_back_micro: int
    reserved_micro: int
    balance_micro: int
    pool: str | None
    orgs: list[str]
    is_refilled: bool


def take_back(connection: sa.Connection, lot: str, by: By, *, whole: bool) -> TakenBack:
    """Take back the part of a lot that is neither used nor reserved.

    `whole`: take back the whole lot, including used and reserved credit. Credit that was taken back before is not taken
    back again, so a caller that lost the response can repeat the call.

    Errors: UnknownId; DatabaseBusy.
    """
    ids.require(connection, ids.LOT, lot)
    found = lots.read(connection, lot) or lots.read(connection, f"grant:{lot}")
    assert found is not None
    taken = wallet.take_back(connection, found, by, whole=whole)
    if taken.key is not None:
        details = {"amount_micro": -taken.amount_micro, "key": taken.key, "lot": found.lot, "whole": whole}
        record(connection, "ledger_grant", found.customer_id, details, by)
    mark_for_projection(connection, orgs_of(connection, [found.customer_id]), by.now_ms)
    orgs = [org for org, _ in billed_as(connection, found.customer_id, by.now_ms)]
    reserved, balance = taken.promised_micro, taken.balance_micro
    return TakenBack(
        found.lot, found.customer_id, taken.amount_micro, reserved, balance, found.pool, orgs,
        is_refilled=is_wanted(connection, found.customer_id, by.now_ms),
    )  # fmt: skip


def wallet_of(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    """Return a customer's wallet; empty if it was never used."""
    return accounts.read_wallets(connection, [customer_id])[customer_id]


def require_wallet(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    """Return the wallet of a known customer. Errors: UnknownId.

    A customer is known if it is an organisation, was ever assigned, or has ever had credit.
    """
    ids.require(connection, ids.CUSTOMER, customer_id)
    return wallet_of(connection, customer_id)


def rate_at(connection: sa.Connection, feature: str, moment_ms: int) -> Rate | None:
    """Return the cost of a feature at a moment, by the rate card.

    Returns None if the feature does not have a rate.
    """
    return read_rate_card(connection).rate(feature, moment_ms)


@dataclass(frozen=True)
class RateEffect:
    """The cost of the last day's usage at the former and the new rate.

    `was_micro`: the cost at the former rate. `now_micro`: the cost at the new rate. Both are in micro-credits.
    `quantity`: the usage in base units. `orgs`: the number of organisations with this usage.
    """

    quantity: int
    orgs: int
    was_micro: int
    now_micro: int


def rate_effect(
    connection: sa.Connection, feature: str, was: Rate | None, micro: int, per: int, now_ms: int
) -> RateEffect:
    """Return the effect of a rate on the pushes of the last day.

    Only pushes to providers that keep wallets in this database count. `was`: the former rate (None: the feature did not
    have a rate). `micro`, `per`: the new rate, in micro-credits for base units.
    """
    values = {"feature": feature, "from_ms": now_ms - DAY_MS, "providers": sorted(wallets_at(connection))}
    row = SQL.run(connection, "used_since", values).one()
    quantity = int(row.quantity)
    before = 0 if was is None else int(was.price(quantity))
    return RateEffect(quantity, int(row.orgs), before, int(Rate(feature, now_ms, micro, per).price(quantity)))


def set_rate(
    connection: sa.Connection,
    feature: str,
    micro_credits: int,
    per_quantity: int,
    by: By,
    *,
    from_ms: int | None,
    new: bool = True,
) -> int:
    """Set the price of a feature from a window on.

    The price is `micro_credits` for `per_quantity` base units. Return the start of the window, in milliseconds.

    Without `from_ms`, a feature's first rate counts for all its usage, and a later rate from the next window on. If the
    same rate is already in force at that window, a call without `from_ms` changes nothing. So a caller that lost the
    response can repeat the call, and gets the same window.

    Errors: UsageError for an invalid feature name; Refused for a second rate from the same window on; UnknownId for an
    unknown feature unless `new`.
    """
    ids.require_feature_name(feature)
    ids.require(connection, ids.FEATURE, feature, new=new)
    card = read_rate_card(connection)
    known = any(rate.feature == feature for rate in card.rates)
    start = from_ms if from_ms is not None else (next_window(by.now_ms) if known else 0)
    holds = card.rate(feature, start)
    is_so = holds is not None and (holds.micro_credits, holds.per_quantity) == (micro_credits, per_quantity)
    # The rate in force may still change before `from_ms`, so only a row with this start is a repetition.
    if holds is not None and is_so and from_ms in (None, holds.start_ms):
        return holds.start_ms
    details = {"micro_credits": micro_credits, "per_quantity": per_quantity, "start_ms": start}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    if start < next_window(by.now_ms):
        # Wait for charges in progress, so that later charges of the same windows use the rate of the first charge
        # (S11).
        lock_rates(connection)
    # The insert decides: if two people set a rate at the same moment, the second one gets the error.
    if SQL.run(connection, "insert_rate", {**details, "feature": feature, **person}).first() is None:
        taken = read_rate_card(connection).explain_taken_start(feature, start, by.now_ms)
        raise Refused(f"cannot set the rate of {feature}: {taken}")
    record(connection, "ledger_rate", feature, details, by)
    return start


def set_plan_limit(
    connection: sa.Connection,
    plan: str,
    max_concurrent: int | None,
    by: By,
    *,
    new: bool = True,
    holds: Mapping[str, Any] = UNCHANGED,
    gives: Mapping[str, Any] = UNCHANGED,
) -> int | None:
    """Change or create a plan.

    Return the plan's former limit of concurrent sandboxes; None if the plan is new.

    `max_concurrent`: the limit of concurrent sandboxes (None: unchanged). `holds`: changed fields of `HoldTerms`, for
    reservations of executions. `gives`: changed fields of `Gives`, for grants from now on.

    Errors: UsageError for an invalid name or terms, or a new plan without `max_concurrent`. Unless `new`, UnknownId for
    an unknown plan.
    """
    if not is_clean_id(plan):
        raise UsageError(
            f"invalid plan name {quote_value(plan)}: expected 1 to 200 characters without control characters"
        )
    ids.require(connection, ids.PLAN, plan, new=new)
    was = _hold_plan(connection, plan, max_concurrent)
    details: dict[str, object] = {"max_concurrent": was if max_concurrent is None else max_concurrent, "was": was}
    if holds:
        held = accounts.read_hold_terms(connection, plan) or HoldTerms()
        holds_now = replace(held, **holds)
        _require_sane_terms(holds_now)
        details |= {"holds": vars(holds_now), "held_before": vars(held)}
        accounts.set_hold_terms(connection, plan, holds_now)
    if gives:
        gave = newest(connection, plan)
        gives_now = replace(gave, **gives)
        require_sane_gives(plan, gives_now)
        details |= {"gives": vars(gives_now), "gave_before": vars(gave)}
        from_ms = set_gives(connection, plan, gives_now, by)
        details |= {} if from_ms is None else {"from_ms": from_ms}
    record(connection, "ledger_plan", plan, details, by)
    mark_for_projection(connection, orgs_of(connection, customers_on(connection, plan)), by.now_ms)
    return was


def _hold_plan(connection: sa.Connection, plan: str, max_concurrent: int | None) -> int | None:
    """Create a plan, or lock it until this transaction is over.

    Return its former limit; None for a new plan.

    `max_concurrent`: the limit of concurrent sandboxes from now on (None: unchanged). Read other terms after this call.
    """
    values = {"plan": plan, "max_concurrent_sandboxes": max_concurrent}
    if max_concurrent is not None and SQL.run(connection, "make_plan", values).first() is not None:
        return None
    was: int | None = SQL.run(connection, "hold_plan", values).scalar()
    if was is None:
        raise UsageError(f"the plan {plan} is new. Pass --max-concurrent with its number of concurrent sandboxes")
    if max_concurrent is not None:
        SQL.run(connection, "set_plan_limit", values)
    return was


def require_sane_gives(plan: str, gives: Gives) -> None:
    """Refuse invalid credit of a plan. Errors: UsageError."""
    for name, amount in vars(gives).items():
        if not 0 <= amount <= MAX_ENTRY_MICRO:
            option = name.removesuffix("_micro").replace("_", "-")
            raise UsageError(f"invalid --{option} {as_credits(amount)}: expected 0 to 1,000,000,000 credits")
    if gives.rollover_min_micro > gives.rollover_max_micro:
        raise UsageError(
            f"the minimum rollover {as_credits(gives.rollover_min_micro)} is above the maximum rollover "
            f"{as_credits(gives.rollover_max_micro)}. Pass a lower --rollover-min, or a higher --rollover-max"
        )
    if ":" in plan and gives.included_micro:
        raise UsageError(
            f"invalid plan name {quote_value(plan)}: the name of a plan with monthly credit is part of keys, so it "
            "must not have a colon. Choose another name"
        )


def _require_sane_terms(holds: HoldTerms) -> None:
    amounts = {
        "--unknown-hold": holds.unknown_hold_micro,
        "--most-hold": holds.most_hold_micro,
        "--most-held": holds.most_held_micro,
    }
    for option, amount in amounts.items():
        if amount is not None and not 0 < amount <= MAX_ENTRY_MICRO:
            raise UsageError(f"invalid {option} {as_credits(amount)}: expected 0 to 1,000,000,000 credits")
    if not 0 < holds.hold_factor_ppm <= MOST_FACTOR_PPM:
        raise UsageError(
            f"invalid --hold-factor {as_credits(holds.hold_factor_ppm)}: expected more than 0, and at most "
            f"{MOST_FACTOR_PPM // ONE_PPM:,}"
        )
    most = holds.most_hold_micro
    if most is not None and (holds.unknown_hold_micro or 0) > most:
        raise UsageError(
            f"the credit reserved without an estimate, {as_credits(holds.unknown_hold_micro or 0)}, is more than one "
            f"execution may reserve, {as_credits(most)}. Pass a lower --unknown-hold, or a higher --most-hold"
        )


def put_on_plan(connection: sa.Connection, customer_id: str, plan: str, by: By, *, new: bool = True) -> str | None:
    """Put a customer on a plan, and grant the plan's credit.

    Return the former plan; None if the customer did not have a plan.

    A repeated call has no further effect. Errors: UsageError for an invalid id; UnknownId for an unknown plan;
    DatabaseBusy. Unless `new`, UnknownId also for an unknown customer with an id like an existing id.
    """
    if not is_clean_id(customer_id):
        raise UsageError(
            f"invalid customer id {quote_value(customer_id)}: expected 1 to 200 characters without control characters"
        )
    ids.require_meant(connection, customer_id, new=new)
    ids.require(connection, ids.PLAN, plan)
    was = wallet_of(connection, customer_id).plan
    if wallet.change_plan(connection, customer_id, plan, by):
        record(connection, "ledger_customer_plan", customer_id, {"plan": plan, "was": was}, by)
    mark_for_projection(connection, orgs_of(connection, [customer_id]), by.now_ms)
    return was


@dataclass(frozen=True)
class Plan:
    """A plan of the embedded ledger.

    `max_concurrent`: the limit of concurrent sandboxes. `customers`: the number of its customers. `hold_factor_ppm` to
    `holds_halt`: the terms of reservations, as in `HoldTerms`. The other fields are the plan's credit in micro-credits,
    as in `ledger.grants.Gives`.
    """

    plan: str
    max_concurrent: int
    customers: int
    hold_factor_ppm: int
    unknown_hold_micro: int | None
    most_hold_micro: int | None
    most_held_micro: int | None
    holds_halt: bool
    included_micro: int
    rollover_min_micro: int
    rollover_max_micro: int
    first_micro: int


def list_plans(connection: sa.Connection) -> list[Plan]:
    """Return all plans, sorted by name."""
    return [Plan(**{**row, "holds_halt": bool(row["holds_halt"])}) for row in SQL.run(connection, "plans").mappings()]


CustomerId = Annotated[str, ORG, "Customer's id; usually the organisation's id"]
PlanName = Annotated[str, ID, "Name of the plan"]


@dataclass(frozen=True)
class CreditGiven:
    """A customer's credit after a grant.

    `granted_micro`: the credit that this call added (0 for a `repeated` grant). `before_micro`: the balance before the
    call (null: the customer `is_new`). `begins_ms`: the time from which the credit counts (null: immediately). `lot`:
    the lot by which you can take the credit back (null: the grant did not add a lot).
    """

    customer_id: str
    key: str
    lot: str | None
    granted_micro: int
    balance_micro: int
    before_micro: int | None
    begins_ms: int | None
    plan: str | None
    repeated: bool
    is_new: bool


def _grant(
    connection: sa.Connection,
    asked: Invocation,
    customer_id: CustomerId,
    amount_micro: Annotated[
        int, CREDITS, "Amount in credits, such as 12.50; a negative amount after -- takes credit back", Label("Credits")
    ],
    *,
    plan: Annotated[str | None, ID, "Plan to put the customer on"] = None,
    kind: Annotated[Kind, "Kind of the credit; a gift is a bonus"] = "purchased",
    begins_ms: Annotated[int | None, TIME, "Time from which the credit is usable; now if omitted"] = None,
    expires_ms: Annotated[int | None, AHEAD, "Time at which the credit expires; never if omitted"] = None,
    priority: Annotated[
        int, whole(0, MAX_PRIORITY, DEFAULT_PRIORITY), "Order of use: lots with lower numbers first"
    ] = DEFAULT_PRIORITY,
    features: Annotated[list[str] | None, ID, "Feature that the credit pays for; all if omitted"] = None,
    new: New = False,
) -> CreditGiven:
    if asked.key != (asked.key.strip() or None):
        said = f"invalid --key {quote_value(asked.key)}: it is empty, or has blanks at its ends. Pass a key for only "
        said += "this grant"
        raise UsageError(said)
    if plan is not None and asked.reach is not None and asked.reach.org_id is not None:
        raise Denied(
            "foreign_org", f"this key is bound to {asked.reach.org_id}, and cannot choose a plan. Use another key"
        )
    if asked.by.via == HTTP:
        require_drawn_on(connection, customer_id, asked.by.now_ms)
    terms = Terms(kind, priority, begins_ms, expires_ms, tuple(sorted(set(features))) if features else None)
    known = ids.is_known(connection, ids.CUSTOMER, customer_id)
    before = wallet_of(connection, customer_id).balance_micro if known else None
    done = grant(connection, customer_id, amount_micro, asked.by, key=asked.key, plan=plan, new=new, terms=terms)
    return CreditGiven(
        customer_id=customer_id,
        key=asked.key,
        lot=f"grant:{asked.key}" if amount_micro > 0 else None,
        granted_micro=0 if done.repeated else amount_micro,
        balance_micro=done.balance_micro,
        before_micro=before,
        begins_ms=begins_ms if begins_ms is not None and begins_ms > asked.by.now_ms else None,
        plan=wallet_of(connection, customer_id).plan,
        repeated=done.repeated,
        is_new=before is None,
    )


HTTP: Final = "http"


def require_drawn_on(connection: sa.Connection, customer_id: str, now_ms: int) -> None:
    """Refuse a wallet if a grant to it would not have an effect.

    A grant has no effect if a provider keeps the balance, or if another wallet pays for the organisation. An unknown
    customer is not refused. To fill such a wallet before the organisation moves to it, an operator uses the command
    line. Errors: WrongField.
    """
    if not ids.is_known(connection, ids.CUSTOMER, customer_id):
        return
    paid = paid_from(connection, customer_id, now_ms)
    if (keeper := _keeper(connection, paid, customer_id, now_ms)) is not None:
        said = f"{customer_id} is billed at {keeper}, which keeps the balance. Grant the credit at {keeper}"
        raise WrongField(
            "customer_id",
            f"{said}. To fill the wallet here before the organisation moves to this wallet, ask an operator to use the "
            "command line",
        )
    if paid.customer_id != customer_id and not billed_as(connection, customer_id, now_ms):
        raise WrongField(
            "customer_id",
            f"the wallet of {paid.customer_id} pays for {customer_id}. Grant the credit to {paid.customer_id}",
        )


def _keeper(connection: sa.Connection, paid: PaidFrom, customer_id: str, now_ms: int) -> str | None:
    """Return the provider that keeps the balance of a customer or organisation.

    The customer or organisation must be known. Return None if this database keeps the balance.
    """
    return paid.keeper or keeper_of(connection, customer_id, now_ms)


def _grant_sentence(done: CreditGiven) -> str:
    line = f"{done.customer_id}: {show_credits(done.balance_micro)} credits, plan {done.plan or '-'}; "
    if done.repeated:
        return f"{line}the grant {done.key} was made before. This call did not add credit or change the plan"
    if done.begins_ms is not None:
        line += f"{show_credits(done.granted_micro)} more from {show_time(done.begins_ms)} on"
    else:
        line += "a new customer" if done.before_micro is None else f"before: {show_credits(done.before_micro)}"
    verb = "granted" if done.granted_micro > 0 else "booked"
    return f"{line}; {verb} {show_credits(done.granted_micro)} as grant:{done.key}"


def facts_of_wallet(connection: sa.Connection, customer_id: str, now_ms: int) -> Sequence[Fact]:
    """Return the facts of a wallet for a dry run.

    Facts that can change between two calls, such as a balance, are not `fixed`.
    """
    account = account_of(connection, customer_id, now_ms)
    given = list_lots(connection, customer_id, now_ms).lots
    known = ids.is_known(connection, ids.CUSTOMER, customer_id)
    paid = paid_from(connection, customer_id, now_ms) if known else None
    keeper = _keeper(connection, paid, customer_id, now_ms) if paid is not None else None
    elsewhere = f"{customer_id}, which does not pay for an organisation now, because {keeper} keeps the balance"
    halts = keeper is None and _halts(connection, customer_id, now_ms)
    return [
        Fact("Wallet", _whose(connection, customer_id, now_ms) if keeper is None else elsewhere),
        Fact("Halts its organisations", "when it is used up" if halts else "never"),
        Fact("Plan", account.plan or ""),
        Fact("Available", show_credits(account.available_micro), fixed=False),
        Fact("Balance", show_credits(account.balance_micro), fixed=False),
        Fact("Lots", f"{len(given):,}"),
    ]


def _whose(connection: sa.Connection, customer_id: str, now_ms: int) -> str:
    """Return a phrase that names a wallet and the organisations for which it pays."""
    found = sorted(billed_as(connection, customer_id, now_ms))
    named = ", ".join(f"{org} (billed at {provider})" for org, provider in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
    return (
        f"{customer_id}, which pays for {named}{more}"
        if found
        else f"{customer_id}, which does not pay for an organisation"
    )


def _halts(connection: sa.Connection, customer_id: str, now_ms: int) -> bool:
    """Return True if the end of credit halts a customer.

    A customer that is billed in arrears is halted only after it has had credit.
    """
    return has_wallet(connection, customer_id) or not billed_elsewhere(connection, customer_id, now_ms)


def _size_of_grant(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    amount, plan = values["amount_micro"], values["plan"]
    given = max(amount, 0) + (0 if plan is None else _given_by(newest(connection, plan)))
    return Size(micro=given, taken_micro=max(-amount, 0))


def _given_by(gives: Gives) -> int:
    """Return the credit that a plan grants to a new customer in the first month.

    The credit is in micro-credits.
    """
    return gives.included_micro + gives.first_micro


def _take_back(
    connection: sa.Connection,
    asked: Invocation,
    lot: Annotated[str, KEY, "Lot, as `ledger lots` and `pool show` list it, or the key of its grant"],
    *,
    whole: Annotated[bool, FLAG, "Whole lot, used credit included", Label("Whole lot")] = False,
) -> TakenBack:
    return take_back(connection, lot, asked.by, whole=whole)


def _take_back_sentences(done: TakenBack) -> list[str]:
    did = (
        f"took back {show_credits(done.taken_back_micro)} credits"
        if done.taken_back_micro
        else "0 credits are left to take back"
    )
    back = f", which returned to the pool {done.pool}" if done.pool and done.taken_back_micro else ""
    line = f"{done.customer_id}: {did} of {done.lot}{back}; {show_credits(done.balance_micro)} credits now"
    if done.reserved_micro:
        line += (
            f"; {show_credits(done.reserved_micro)} of it is reserved. When the executions have ended, repeat "
            "the command"
        )
    lines = [line]
    if done.is_refilled:
        stop = f"drawdown topup stop {typed(done.customer_id)}"
        lines.append(
            f"{done.customer_id}: the next automatic top-up charges the customer's card again. To prevent "
            f"that, run `{stop}`"
        )
    if not done.orgs:
        return lines
    more = f" and {len(done.orgs) - MOST_NAMED:,} more" if len(done.orgs) > MOST_NAMED else ""
    halts = ", which the next tick halts" if done.taken_back_micro and done.balance_micro <= 0 else ""
    return [*lines, f"{done.customer_id}: the wallet pays for {', '.join(done.orgs[:MOST_NAMED])}{more}{halts}"]


def _lot_named(connection: sa.Connection, lot: str) -> Lot | None:
    return lots.read(connection, lot) or lots.read(connection, f"grant:{lot}")


def _facts_of_lot(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the facts of a lot for a dry run.

    The rest is not `fixed`, because each charge reduces it.
    """
    ids.require(connection, ids.LOT, values["lot"])
    found = _lot_named(connection, values["lot"])
    assert found is not None
    view = list_lots(connection, found.customer_id, asked.by.now_ms)
    row = next((one for one in view.lots if one.lot == found.lot), None)
    facts = [Fact("Wallet", found.customer_id), Fact("Amount", show_credits(found.amount_micro))]
    if row is not None:
        facts += [
            Fact("Remaining", show_credits(row.remaining_micro), fixed=False),
            Fact("Taken back", show_credits(row.taken_back_micro)),
        ]
    balance = wallet_of(connection, found.customer_id).balance_micro
    return [*facts, Fact("Balance", show_credits(balance), fixed=False)]


def _size_of_lot(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    found = _lot_named(connection, values["lot"])
    return Size() if found is None else Size(taken_micro=found.amount_micro)


@dataclass(frozen=True)
class RateSet:
    """The rate of a feature from `start_ms` on.

    `micro_credits` is the price of `per_quantity` base units. `was`: the former rate at that time (null: the feature
    did not have a rate). `is_past`: the caller set a start in the past. Usage that is already charged keeps its price.
    `effect`: the effect of the rate on the usage of the last day.
    """

    feature: str
    micro_credits: int
    per_quantity: int
    start_ms: int
    was: Rate | None
    is_past: bool
    effect: RateEffect


def _rate(
    connection: sa.Connection,
    asked: Invocation,
    feature: Annotated[str, ID, "Feature's name"],
    *,
    micro_credits: Annotated[
        int, whole(0, MAX_RATE, 100), "Price in micro-credits (a credit is 1,000,000)", Label("Micro-credits")
    ],
    per: Annotated[
        int,
        whole(1, MAX_RATE, 1),
        "Number of base units for this price: seconds, MB-seconds, or units of an event",
        Label("Base units"),
    ] = 1,
    from_ms: Annotated[int | None, WINDOW, "First window at this price; the next if omitted"] = None,
    new: New = False,
) -> RateSet:
    now_ms = asked.by.now_ms
    was = rate_at(connection, feature, now_ms if from_ms is None else from_ms)
    start_ms = set_rate(connection, feature, micro_credits, per, asked.by, from_ms=from_ms, new=new)
    is_past = from_ms is not None and from_ms < now_ms
    effect = rate_effect(connection, feature, was, micro_credits, per, now_ms)
    return RateSet(feature, micro_credits, per, start_ms, was, is_past, effect)


def _rated(done: RateSet) -> list[str]:
    before = "no rate" if done.was is None else f"{done.was.micro_credits:,} per {done.was.per_quantity:,}"
    now = f"{counted(done.micro_credits, 'micro-credit')} per {done.per_quantity:,} from {show_time(done.start_ms)} on"
    used = done.effect
    orgs = counted(used.orgs, "organisation")
    lines = [
        f"{done.feature}: {now}; before: {before}",
        f"the last day's usage, {counted(used.quantity, 'base unit')} of {orgs}, costs "
        f"{show_credits(used.now_micro)} credits at this rate, and {show_credits(used.was_micro)} before",
    ]
    if done.is_past:
        lines.append(
            "the start is in the past. Usage that is already charged keeps its price, and later charges use this rate. "
            "Accepted executions keep their price"
        )
    return lines


def _facts_of_rate(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    start_ms = values["from_ms"]
    found = rate_at(connection, values["feature"], asked.by.now_ms if start_ms is None else start_ms)
    said = "" if found is None else f"{counted(found.micro_credits, 'micro-credit')} per {found.per_quantity:,}"
    ever = rate_at(connection, values["feature"], EVER_MS)
    last = "" if ever is None else f"{ever.micro_credits:,} per {ever.per_quantity:,}, {show_time(ever.start_ms)}"
    return [Fact("Rate at the start", said), Fact("Latest rate", last)]


def _factor(text: str, name: str, _now_ms: int) -> int:
    try:
        found = parse_credits(text)  # a factor has the same decimals as an amount
    except UsageError:
        found = 0
    if not 0 < found <= MOST_FACTOR_PPM:
        raise UsageError(
            f"invalid {name} {quote_value(text)}: expected a number above 0, with at most six decimals, and at most "
            f"{MOST_FACTOR_PPM // ONE_PPM:,}, such as 1.5"
        )
    return found


def show_factor(ppm: int) -> str:
    """Return a factor in parts per million as a decimal number, such as `1.5`."""
    return f"{Decimal(ppm) / ONE_PPM:f}"


FACTOR: Final = ValueKind("number", "N", _factor, show_factor, "_ppm", least=1, most=MOST_FACTOR_PPM, example=2)


@dataclass(frozen=True)
class PlanSet(Plan):
    """A plan as it is now. `was`: its former limit of sandboxes (null: a new plan)."""

    was: int | None


def _set_plan(
    connection: sa.Connection,
    asked: Invocation,
    plan: PlanName,
    *,
    max_concurrent: Annotated[
        int | None, AT_ONCE, "Maximum number of concurrent sandboxes", Label("Maximum concurrent sandboxes")
    ] = None,
    included_micro: Annotated[int | None, CREDITS_OR_NONE, "Monthly credit"] = None,
    rollover_min_micro: Annotated[
        int | None, CREDITS_OR_NONE, "Minimum unused credit that rolls over", Label("Minimum rollover")
    ] = None,
    rollover_max_micro: Annotated[
        int | None, CREDITS_OR_NONE, "Maximum credit that rolls over; none for no rollover", Label("Maximum rollover")
    ] = None,
    first_micro: Annotated[
        int | None, CREDITS_OR_NONE, "Credit for a new customer, granted once; none for no credit"
    ] = None,
    hold_factor_ppm: Annotated[int | None, FACTOR, "Reserved credit, as a factor of an execution's estimate"] = None,
    unknown_hold_micro: Annotated[
        int | None,
        CREDITS_OR_NONE,
        "Credit reserved without an estimate; 0 rejects the execution",
        Label("Reserved without an estimate"),
    ] = None,
    most_hold_micro: Annotated[
        int | None,
        CREDITS_OR_NONE,
        "Maximum credit that one execution reserves; none or 0 for no maximum",
        Label("Maximum reserved by an execution"),
    ] = None,
    most_held_micro: Annotated[
        int | None,
        CREDITS_OR_NONE,
        "Maximum credit that all executions of a wallet reserve; none or 0 for no maximum",
        Label("Maximum reserved by a wallet"),
    ] = None,
    holds_halt: Annotated[
        bool | None, FLAG, "Reserved credit counted for halts", Label("Count reserved credit for halts")
    ] = None,
    new: New = False,
) -> PlanSet:
    limits = {"unknown_hold_micro": unknown_hold_micro, "most_hold_micro": most_hold_micro,
              "most_held_micro": most_held_micro}  # fmt: skip
    holds: dict[str, Any] = {name: micro or None for name, micro in limits.items() if micro is not None}
    others = {"hold_factor_ppm": hold_factor_ppm, "holds_halt": holds_halt}
    holds |= {name: value for name, value in others.items() if value is not None}
    given = {"included_micro": included_micro, "rollover_min_micro": rollover_min_micro,
             "rollover_max_micro": rollover_max_micro, "first_micro": first_micro}  # fmt: skip
    gives = {name: micro for name, micro in given.items() if micro is not None}
    was = set_plan_limit(connection, plan, max_concurrent, asked.by, new=new, holds=holds, gives=gives)
    return PlanSet(**vars(_plan_named(connection, plan)), was=was)


def _plan_named(connection: sa.Connection, plan: str) -> Plan:
    return next(one for one in list_plans(connection) if one.plan == plan)


def _terms_of_plan(done: Plan) -> list[tuple[str, str]]:
    """Return the terms of a plan's reservations and credit that are set.

    Each is a pair of a name and a text.
    """
    amounts = {name: getattr(done, f"{name}_micro") for name in _AMOUNTS}
    factor = [("hold-factor", show_factor(done.hold_factor_ppm))] if done.hold_factor_ppm != ONE_PPM else []
    halts = [("holds-halt", str(done.holds_halt).lower())] if not done.holds_halt else []
    return [
        *factor,
        *halts,
        *((name.replace("_", "-"), show_credits(micro)) for name, micro in amounts.items() if micro),
    ]


_AMOUNTS: Final = (
    "unknown_hold", "most_hold", "most_held", "included", "rollover_min", "rollover_max", "first",
)  # fmt: skip


def _plan_said(done: PlanSet) -> list[str]:
    before = "none" if done.was is None else f"{done.was:,}"
    terms = [f"{name}: {value}" for name, value in _terms_of_plan(done)]
    return [f"plan {done.plan}: {done.max_concurrent:,} at once; before: {before}", *terms]


def _facts_of_plan(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = next((one for one in list_plans(connection) if one.plan == values["plan"]), None)
    if found is None:
        return [Fact("Plan", "none yet")]
    return [Fact("Concurrent sandboxes", f"{found.max_concurrent:,}"), Fact("Customers", f"{found.customers:,}"),
            *(Fact(name, value) for name, value in _terms_of_plan(found))]  # fmt: skip


def _size_of_plan(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    """Return the size of a change of a plan.

    The size is the credit of one month for all customers of the plan. A plan without customers counts as a plan with
    one customer.
    """
    found = next((one for one in list_plans(connection) if one.plan == values["plan"]), None)
    customers = 1 if found is None else max(found.customers, 1)
    gives = [values["included_micro"], values["rollover_max_micro"], values["first_micro"]]
    least = values["rollover_min_micro"]
    if found is not None and least is not None and least < (found.rollover_min_micro or 0) and not gives[1]:
        gives.append(found.rollover_max_micro)  # amounts below the former minimum now roll over
    return Size(rows=customers, micro=customers * sum(micro or 0 for micro in gives))


@dataclass(frozen=True)
class OnPlan:
    """A customer's plan, limit of sandboxes and balance.

    `was`: the former plan (null: the customer did not have a plan). `max_concurrent`: the limit of concurrent
    sandboxes. `balance_micro`: the balance in micro-credits. `changed`: `plan` and `was` differ.
    """

    customer_id: str
    plan: str
    was: str | None
    max_concurrent: int | None
    balance_micro: int
    changed: bool


def _put_on_plan(
    connection: sa.Connection,
    asked: Invocation,
    # The kind is ID, not ORG, so that a key that is bound to an organisation cannot choose its plan.
    customer_id: Annotated[str, ID, "Customer's id; usually the organisation's id"],
    plan: PlanName,
    *,
    new: New = False,
) -> OnPlan:
    was = put_on_plan(connection, customer_id, plan, asked.by, new=new)
    found = wallet_of(connection, customer_id)
    return OnPlan(customer_id, plan, was, found.max_concurrent, found.balance_micro, changed=was != plan)


def _on_plan(done: OnPlan) -> str:
    before = f"before: {done.was or 'none'}" if done.changed else "nothing changes"
    at_once = done.max_concurrent
    most = "any number of sandboxes" if at_once is None else counted(at_once, "sandbox", "sandboxes")
    balance = show_credits(done.balance_micro)
    return f"{done.customer_id} is on the plan {done.plan}: {most} at once, {balance} credits; {before}"


def _facts_of_customer(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = wallet_of(connection, values["customer_id"])
    at_once = "any number" if found.max_concurrent is None else f"{found.max_concurrent:,}"
    return [
        Fact("Plan", found.plan or ""),
        Fact("Concurrent sandboxes", at_once),
        Fact("Balance", show_credits(found.balance_micro), fixed=False),
    ]


def _size_of_move(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    if wallet_of(connection, values["customer_id"]).plan == values["plan"]:
        return Size()
    return Size(micro=_given_by(newest(connection, values["plan"])))


def _plans(connection: sa.Connection, look: Look) -> Page[Plan]:
    return Page(list_plans(connection)[: look.most])


LEDGER: Final = "ledger:write"
CATALOG: Final = "catalog:write"
ACTIONS: Final = (
    Action(
        "ledger grant",
        "Give credit",
        "Grant credit to a customer as a lot. The next tick checks the halts of the organisations that the customer"
        " pays for. Without --kind, the credit counts as purchased. A negative amount takes from the lots in the order"
        " of use. To undo a single grant, run `drawdown ledger take-back`. If a provider keeps the customer's "
        "balance, this"
        " credit is unused until the customer moves to the ledger. If the customer is unknown, Drawdown creates a"
        " wallet. If the id resembles an existing id, you must pass --new.",
        _grant,
        _grant_sentence,
        path="/v1/wallets/{customer_id}/grants",
        scope=LEDGER,
        facts=lambda connection, asked, values: facts_of_wallet(connection, values["customer_id"], asked.by.now_ms),
        size=_size_of_grant,
        keyed=True,
    ),
    Action(
        "ledger take-back",
        "Take back a lot",
        "Take back the unused credit of a lot. Reserved credit stays. If you repeat the command, it does not take "
        "credit twice. The credit of an allotment returns to its pool.",
        _take_back,
        _take_back_sentences,
        path="/v1/lots/{lot}/take-back",
        scope=LEDGER,
        facts=_facts_of_lot,
        size=_size_of_lot,
        place="/console/ledger",
    ),
    Action(
        "ledger rate",
        "Set a rate",
        "Set the price of a feature. Past charges keep their price. Late usage and refunds have the price of their "
        "window. The first rate of a feature applies to all earlier usage. Each push is charged separately, rounded"
        " half away from zero to a whole micro-credit.",
        _rate,
        _rated,
        path="/v1/rates/{feature}",
        scope=CATALOG,
        role="admin",
        facts=_facts_of_rate,
        place="/console/ledger",
    ),
    Action(
        "plan set",
        "Set a plan",
        "Create or change a plan. To create it, pass --new. A changed credit applies to later months, and to "
        "customers who get the plan from now on.",
        _set_plan,
        _plan_said,
        path="/v1/plans/{plan}",
        scope=CATALOG,
        role="admin",
        facts=_facts_of_plan,
        size=_size_of_plan,
    ),
    Action(
        "plan put",
        "Put a customer on a plan",
        "Put a customer on a plan. The plan's limits apply at once, and Drawdown grants the plan's credit.",
        _put_on_plan,
        _on_plan,
        path="/v1/wallets/{customer_id}/plan",
        scope=LEDGER,
        role="admin",
        facts=_facts_of_customer,
        size=_size_of_move,
        place="/console/billing?id={customer_id}",
    ),
)


LISTS: Final = (
    Listing(
        "plan list",
        "Plans",
        "List plans with their limits, credit and customers.",
        _plans,
        ("plan", Column("max_concurrent", "#at once"), Column("customers", "#customers"),
         Column("hold_factor_ppm", "#factor", show_factor), Column("unknown_hold_micro", "#without estimate"),
         Column("most_hold_micro", "#one execution"), Column("most_held_micro", "#all executions"),
         Column("holds_halt", "holds halt"), Column("included_micro", "#included"),
         Column("rollover_min_micro", "#rolls over from"), Column("rollover_max_micro", "#up to"),
         Column("first_micro", "#first")),
        holds="plans",
        path="/v1/plans",
        scope="catalog:read",
        most=1_000,
        open=True,
    ),
)  # fmt: skip
