"""An operator's changes of the embedded ledger.

Guarantee: organisations whose verdict may change by one are marked, so that the next tick asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import accounts, lots, wallet
from drawdown.ledger.accounts import ONE_PPM, HoldTerms
from drawdown.ledger.allocation import KINDS
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.grants import Gives, newest, set_gives
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.ledger.rates import Rate, read_rate_card
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import FEATURE_NAME, is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, EARLIEST_TS, next_window
from drawdown.worker.catalog.wallets import customers_on, orgs_of, wallets_at
from drawdown.worker.topup.actions import rearm_paid
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)

MAX_PRIORITY: Final = 1_000
MOST_FEATURES: Final = 100
"""Of one lot."""
MOST_FACTOR_PPM: Final = 1_000 * ONE_PPM
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
    """Give credit, in micro-credits, as a lot on these terms. The same grant under the same key again adds nothing, so
    whoever lost the answer may repeat it; the record tells of it once, and of a repetition only the plan that it
    changed.

    Errors: Refused for a key used before with other content; UsageError for terms that make no sense; UnknownId for a
    plan there is not, and unless `new` for a feature that nothing makes and for an unknown customer whose id is like
    one there is.
    """
    if not is_clean_id(customer_id):
        raise UsageError("a customer's id has 1 to 200 characters, none of them control characters")
    ids.require_meant(connection, customer_id, new=new)
    _require_sane(terms, amount_micro, by.now_ms)
    for feature in terms.features or ():
        ids.require(connection, ids.FEATURE, feature, new=new)
    if plan is not None:
        ids.require(connection, ids.PLAN, plan)
    name = f"grant:{key}"
    was = wallet_of(connection, customer_id).plan
    if amount_micro > 0:
        rearm_paid(connection, customer_id, name)
    if plan is not None:
        wallet.change_plan(connection, customer_id, plan, by)
    granted = wallet.grant(
        connection, customer_id, amount_micro, key=name, now_ms=by.now_ms, actor=by.actor, reason=by.reason, terms=terms
    )
    if not granted.repeated:
        asked = {name: value for name, value in vars(terms).items() if value != getattr(PLAIN, name)}
        details = {"amount_micro": amount_micro, "key": name, "plan": plan, **asked}
        record(connection, "ledger_grant", customer_id, details, by)
    elif plan not in (None, was):
        record(connection, "ledger_customer_plan", customer_id, {"plan": plan, "was": was}, by)
    mark_for_projection(connection, orgs_of(connection, [customer_id]), by.now_ms)
    return granted


def _require_sane(terms: Terms, amount_micro: int, now_ms: int) -> None:
    if amount_micro <= 0 and terms != PLAIN:
        raise UsageError("kind, begin, end, priority and features are of credit that is given, and none is given here")
    if not 0 <= terms.priority <= MAX_PRIORITY:
        raise UsageError(f"a priority lies between 0, which is used first, and {MAX_PRIORITY}")
    if terms.kind not in KINDS:
        raise UsageError(f"credit is of a kind: {', '.join(KINDS)}")
    begins_ms = now_ms if terms.begins_ms is None else terms.begins_ms
    if begins_ms < EARLIEST_TS:
        raise UsageError("credit begins in the year 2000 or later")
    if terms.expires_ms is not None and terms.expires_ms <= max(begins_ms, now_ms):
        raise UsageError("credit expires after it began, and later than now: this would be over already")
    features = terms.features
    if features is not None and (not 0 < len(features) <= MOST_FEATURES or sorted(set(features)) != list(features)):
        raise UsageError(f"credit is for one feature at least and {MOST_FEATURES} at most, each named once, by name")


@dataclass(frozen=True)
class TakenBack:
    """The lot, what was taken back of it now, what of it runs have reserved, the balance after it, and the pool (None:
    none) that has it again."""

    lot: str
    customer_id: str
    taken_micro: int
    reserved_micro: int
    balance_micro: int
    pool: str | None = None


def take_back(connection: sa.Connection, lot: str, by: By, *, whole: bool) -> TakenBack:
    """Take back what nobody used of a lot, nor reserved; `whole`: all of it. What was taken before is not taken again,
    so whoever lost the answer may repeat it.

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
    reserved, balance = taken.promised_micro, taken.balance_micro
    return TakenBack(found.lot, found.customer_id, taken.amount_micro, reserved, balance, found.pool)


def wallet_of(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    """A customer's wallet; empty where it was never used."""
    return accounts.read_wallets(connection, [customer_id])[customer_id]


def require_wallet(connection: sa.Connection, customer_id: str) -> accounts.Wallet:
    """The wallet of a customer who is an organisation, was assigned or has credit. Errors: UnknownId."""
    ids.require(connection, ids.CUSTOMER, customer_id)
    return wallet_of(connection, customer_id)


def rate_at(connection: sa.Connection, feature: str, moment_ms: int) -> Rate | None:
    """What a feature costs at a moment, by the rate card; None where it has no rate."""
    return read_rate_card(connection).rate(feature, moment_ms)


@dataclass(frozen=True)
class RateEffect:
    """What the usage of the last day costs by the price before and by another one, and of how many organisations."""

    quantity: int
    orgs: int
    was_micro: int
    micro: int


def rate_effect(
    connection: sa.Connection, feature: str, was: Rate | None, micro: int, per: int, now_ms: int
) -> RateEffect:
    """By pushes of the last day at providers whose balances are wallets here."""
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
    """Set what `per_quantity` base units of a feature cost, for usage from a window on; returns that window.

    A feature's first rate counts for all its usage, later ones from the next window boundary on. The rate that holds
    then anyway changes nothing: who was not told that it was kept says it again, and is told from when it has held.
    Errors: UsageError for a name no feature has; Refused for a second rate from the same window on; UnknownId, unless
    `new`, for a feature that nothing makes.
    """
    if not FEATURE_NAME.fullmatch(feature):
        raise UsageError(
            "a feature's name is made of a-z, 0-9 and _, at most 64 of them, and is no number or r and a number"
        )
    ids.require(connection, ids.FEATURE, feature, new=new)
    card = read_rate_card(connection)
    known = any(rate.feature == feature for rate in card.rates)
    start = from_ms if from_ms is not None else (next_window(by.now_ms) if known else 0)
    holds = card.rate(feature, start)
    if holds is not None and (holds.micro_credits, holds.per_quantity) == (micro_credits, per_quantity):
        return holds.start_ms
    details = {"micro_credits": micro_credits, "per_quantity": per_quantity, "start_ms": start}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    # By the row itself: of two people who say it in one moment, the second is told.
    if SQL.run(connection, "insert_rate", {**details, "feature": feature, **person}).first() is None:
        raise Refused(f"{feature} has a rate {read_rate_card(connection).taken(feature, start, by.now_ms)}")
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
    """Change how many sandboxes at once a plan allows (None: as it is), of what its runs hold what is named (fields of
    `HoldTerms`), and of what it gives from now on (fields of `Gives`), or make one; returns how many it allowed before,
    None where it was not there. Errors: UsageError for a name that is none, terms that make no sense, or a new plan
    without a number; UnknownId, unless `new`."""
    if not is_clean_id(plan):
        raise UsageError("a plan's name has 1 to 200 characters, none of them control characters")
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
    """Have a plan allow so many (None: as it is), or make it, and let nobody else change it until this transaction is
    over: what it is by then is read afterwards. How many it allowed before, None for a new one."""
    values = {"plan": plan, "max_concurrent_sandboxes": max_concurrent}
    if max_concurrent is not None and SQL.run(connection, "make_plan", values).first() is not None:
        return None
    was: int | None = SQL.run(connection, "hold_plan", values).scalar()
    if was is None:
        raise UsageError(f"the plan {plan} is new: say how many sandboxes at once it allows with --max-concurrent")
    if max_concurrent is not None:
        SQL.run(connection, "set_plan_limit", values)
    return was


def require_sane_gives(plan: str, gives: Gives) -> None:
    """Errors: UsageError for what no plan can give."""
    if any(not 0 <= amount <= MAX_ENTRY_MICRO for amount in vars(gives).values()):
        raise UsageError("what a plan gives lies between nothing and a thousand million credits")
    if gives.rollover_min_micro > gives.rollover_max_micro:
        raise UsageError("what rolls over at least is more than what rolls over at most: give a --rollover-max, too")
    if ":" in plan and gives.included_micro:
        raise UsageError("a plan that includes credit has no colon in its name: it stands in the keys of what it gives")


def _require_sane_terms(holds: HoldTerms) -> None:
    amounts = (holds.unknown_hold_micro, holds.most_hold_micro, holds.most_held_micro)
    if any(amount is not None and not 0 < amount <= MAX_ENTRY_MICRO for amount in amounts):
        raise UsageError("what a plan's runs hold is more than nothing, and at most a thousand million credits")
    if not 0 < holds.hold_factor_ppm <= MOST_FACTOR_PPM:
        raise UsageError("a plan's factor lies above 0, and is 1,000 at most")
    most = holds.most_hold_micro
    if most is not None and (holds.unknown_hold_micro or 0) > most:
        raise UsageError("what is held without an estimate is more than one run may hold")


@dataclass(frozen=True)
class Plan:
    """A plan of the embedded ledger: sandboxes at once, how many customers are on it, what its runs hold
    (`ledger.plans.HoldTerms`) and what it gives (`ledger.monthly.terms.Gives`)."""

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
    """All plans, by name."""
    return [Plan(**{**row, "holds_halt": bool(row["holds_halt"])}) for row in SQL.run(connection, "plans").mappings()]
