"""List wallets, the highest spenders, relations, and figures for Prometheus.

In a list of wallets, the lowest balance comes first. Reads only.

Guarantee: the cost of a page does not depend on the number of wallets, because it begins after the last wallet of the
previous page. The highest spenders are those of the last check (`worker.checks.checks`), with the time of the check,
because a check reads all charges. Each list of a wallet's relations is one statement by indexes of this wallet, with a
bound for each part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger.accounts import read_wallets, wallet_account
from drawdown.ledger.rates import Rate
from drawdown.schema import ids
from drawdown.schema.declare import ID, ORG, TIME, Column, Kind, Listing, Look, Page, Showing
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import escape_like, quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS
from drawdown.worker.wallets import entries
from drawdown.worker.wallets.accounts import LotRow, list_lots, list_rates

SQL = queries(__file__)

MOST_ON_PAGE: Final = 50
"""Wallets on one page."""
MOST_WALLETS_AT_ONCE: Final = 1_000
"""Wallets of a download that Drawdown reads into memory at a time."""
MOST_SPENDERS: Final = 20
"""High spenders that one report names."""
SPENT_DAYS: Final = 30
WHICH: Final = ("", "owed", "low")
"""The filters of a list; '': all wallets.

`owed`: wallets with a negative balance. `low`: other wallets with available credit at or below a limit. The limit is
the higher of two amounts: the wallet's top-up threshold, and its low balance. Without a low balance of its own, the
general low balance counts. An amount that is not set counts as 0.
"""


@dataclass(frozen=True)
class Chosen:
    """A filter of wallets. An empty field matches any wallet.

    `which`: one of WHICH. `search`: a part of the customer's id.
    """

    which: str = ""
    plan: str = ""
    search: str = ""


@dataclass(frozen=True)
class WalletLine:
    """A wallet in the list, in micro-credits.

    The amounts do not include due changes, such as an expiry, until Drawdown books them.

    `mode`, `threshold_micro`: the terms of its automatic top-up (None: it does not have one). `blocked_reason`: the
    reason why its top-ups stopped (None: they have not stopped).
    """

    customer_id: str
    balance_micro: int
    held_micro: int
    available_micro: int
    plan: str | None
    mode: str | None
    threshold_micro: int | None
    blocked_reason: str | None


@dataclass(frozen=True)
class After:
    """The wallet after which a page continues, by its customer and its balance."""

    customer_id: str
    balance_micro: int


@dataclass(frozen=True)
class WalletLines:
    """A page of wallets. `after`: the start of the next page (None: the last page)."""

    lines: list[WalletLine]
    after: After | None


@dataclass(frozen=True)
class Spender:
    """The use of a wallet from `from_ms` on, and its balance and plan.

    `balance_micro` None: the wallet does not exist. `plan` None: without a plan. `place`: the rank by use, from 1.
    `at_ms`: the time of the check, and the end of the use.
    """

    place: int
    customer_id: str
    used_micro: int
    from_ms: int
    at_ms: int
    balance_micro: int | None
    plan: str | None


def page(
    connection: sa.Connection, chosen: Chosen, after: After | None = None, most: int = MOST_ON_PAGE
) -> WalletLines:
    """Return a page of wallets after `after`, the lowest balance first.

    Errors: UsageError for an invalid choice; UnknownId for an unknown plan.
    """
    found = _rows(connection, chosen, after, most + 1)
    shown = found[:most]
    return WalletLines(shown, _end(shown) if len(found) > most else None)


def every(connection: sa.Connection, chosen: Chosen) -> Iterator[WalletLine]:
    """Yield all chosen wallets, the lowest balance first. Errors: as `page`."""
    after: After | None = None
    while rows := _rows(connection, chosen, after, MOST_WALLETS_AT_ONCE):
        yield from rows
        after = _end(rows)


def spenders_now(connection: sa.Connection, now_ms: int, most: int = MOST_SPENDERS) -> list[Spender]:
    """Return the highest spenders of the last SPENT_DAYS days.

    Spending is the sum of the charges of usage and executions, less refunds. It does not include tiers.
    """
    from_ms = now_ms - SPENT_DAYS * DAY_MS
    rows = SQL.run(connection, "spenders_now", {"from_ms": from_ms, "to_ms": now_ms, "at_most": most})
    return [Spender(place=place, from_ms=from_ms, at_ms=now_ms, **row._mapping) for place, row in enumerate(rows, 1)]


def spenders_kept(connection: sa.Connection, most: int = MOST_SPENDERS) -> list[Spender]:
    """Return the highest spenders of the last check; empty before the first check."""
    return [Spender(**row._mapping) for row in SQL.run(connection, "spenders_kept", {"at_most": most})]


def _end(rows: list[WalletLine]) -> After:
    return After(rows[-1].customer_id, rows[-1].balance_micro)


def _rows(connection: sa.Connection, chosen: Chosen, after: After | None, most: int) -> list[WalletLine]:
    if chosen.which not in WHICH:
        raise UsageError(
            f"invalid choice of wallets {quote_value(chosen.which)}: expected one of {', '.join(filter(None, WHICH))}"
        )
    if chosen.plan:
        ids.require(connection, ids.PLAN, chosen.plan)
    values: dict[str, object] = {
        "plan": chosen.plan,
        "search": chosen.search,
        "like": f"%{escape_like(chosen.search)}%",
        "at_most": most,
    }
    slots = {"behind": "from_the_start", "which": f"is_{chosen.which or 'any'}"}
    if after is not None:
        values |= {"after_micro": after.balance_micro, "after_account": wallet_account(after.customer_id)}
        slots["behind"] = "from_there"
    return [WalletLine(**row._mapping) for row in SQL.run(connection, "page", values, **slots)]


HAPPENED_DAYS: Final = 30
CHARGED_DAYS: Final = 7
"""Days for which a page shows charges, day by day."""
MOST_HAPPENED: Final = 50
"""Events of each kind that a wallet's page reads. The page shows at most this number of events in all."""
MOST_TOPUPS: Final = 10
"""Latest top-ups of a wallet that a page shows."""
MOST_RELATED: Final = 25
"""Relations of each kind that a wallet's page shows."""
MOST_OFFERS: Final = 50
"""Plans that a page lists. Tiers have the same limit."""
MOST_LOOKED_AT: Final = 1_000
"""Executions of a wallet that a page searches for suppliers."""
Part: TypeAlias = Literal["biller", "shares", "pays_for_it", "it_pays_for", "pool", "sponsor", "member", "supplier"]
UPSTREAM: Final[tuple[Part, ...]] = ("biller", "shares", "pays_for_it", "pool", "sponsor")
"""Relations from which a wallet's credit comes, or by which others use it.

All other relations are downstream.
"""


@dataclass(frozen=True)
class BillingTerms:
    """The terms of billing of a wallet.

    Amounts are in micro-credits or minor units of money, times in milliseconds.

    `mode` to `blocked_reason`: its automatic top-up (None: it does not have one). `stopped_ms`, `stopped_by`: the time
    since which all top-ups are stopped, and the actor (None: they are not stopped). `low_micro`: the balance at or
    below which Drawdown sends a message (None: never). `org_id` to `balance_read_ms`: the organisation (None: it does
    not exist). `pool`: the name of the pool (None: the wallet does not belong to a pool).
    """

    mode: str | None
    threshold_micro: int | None
    amount_micro: int | None
    fill_to_micro: int | None
    price_minor: int | None
    currency: str | None
    service: str | None
    service_customer: str | None
    most_minor: int | None
    max_day: int | None
    max_month: int | None
    declines: int | None
    wait_until_ms: int | None
    blocked_ms: int | None
    blocked_reason: str | None
    stopped_ms: int | None
    stopped_by: str | None
    stopped_reason: str | None
    low_micro: int | None
    org_id: str | None
    billing_provider: str | None
    is_halted: bool
    halt_reason: str | None
    resume_above_micro: int | None
    read_micro: int | None
    balance_read_ms: int | None
    pool: str | None


@dataclass(frozen=True)
class Relation:
    """A relation of a wallet to `who`.

    `limit_micro`: the limit of a payer, or the credit of a pool's or sponsor's lots (None: unlimited, or without such
    an amount). `spent_micro`: the used part of this amount (None: unknown). `other`: the customer of a biller, the lot
    of a sponsor, or the biller of an organisation that shares the wallet. `since_ms`: the start of the relation (None:
    unknown). `said`: the reason that a person gave for the relation.
    """

    part: Part
    who: str
    other: str
    limit_micro: int | None
    spent_micro: int | None
    since_ms: int | None
    said: str


@dataclass(frozen=True)
class Offer:
    """A plan or a tier, in micro-credits.

    `at_once`: its concurrent sandboxes. `price_micro`: a tier's price for a month (None: a plan). `included_micro`,
    `rollover_max_micro`, `first_micro`: the credit of a plan, as in `Gives`. `hold_factor_ppm`, `most_hold_micro`: the
    terms of its reservations, as in `HoldTerms`. All five are None for a tier. `paid_to_ms`: the end of the time that
    this customer has paid (None: a plan, or the customer never had this tier).
    """

    part: Literal["plan", "tier"]
    name: str
    at_once: int
    price_micro: int | None
    included_micro: int | None
    rollover_max_micro: int | None
    first_micro: int | None
    hold_factor_ppm: int | None
    most_hold_micro: int | None
    paid_to_ms: int | None
    goes_on: bool
    """For a plan: True if reserved credit counts for halts. For a tier: True if it renews."""
    ended_ms: int | None
    ended_reason: str | None

    @property
    def is_held(self) -> bool:
        """Return True if the customer has this tier now."""
        return self.paid_to_ms is not None and self.ended_ms is None


@dataclass(frozen=True)
class Happened:
    """An event of a wallet.

    An event is the sum of a day's charges or refunds, another entry (such as a grant or an expiry), a top-up, a new
    plan, or an ended tier.

    `micro`: the change of the wallet in micro-credits (None: a plan or tier). For a top-up, the change is booked only
    in state `credited`. `minor`: the money in minor units of `currency` (None: not a top-up). `kind`, `key`, `state`,
    `said`: the kind, key, state and reason of the entry, top-up, plan or tier.
    """

    part: Literal["charge", "given back", "entry", "topup", "plan", "tier"]
    at_ms: int
    kind: str
    key: str
    micro: int | None
    entries: int
    """The number of entries of the event. For a top-up, the number of calls."""
    minor: int | None
    currency: str
    state: str
    said: str
    actor: str


def terms_of(connection: sa.Connection, customer_id: str, org_id: str) -> BillingTerms:
    """Return the terms of a wallet, and the state of an organisation that it pays for."""
    row = SQL.run(connection, "terms", {"customer_id": customer_id, "org_id": org_id}).mappings().one()
    return BillingTerms(**{**row, "is_halted": bool(row["is_halted"])})


def related(connection: sa.Connection, customer_id: str, org_id: str, now_ms: int) -> list[Relation]:
    """Return the relations of a customer, those in UPSTREAM first.

    Each kind has at most MOST_RELATED relations, except the suppliers: they are all those of MOST_LOOKED_AT executions.
    """
    values = {"customer_id": customer_id, "org_id": org_id, "now_ms": now_ms}
    rows = SQL.run(connection, "related", {**values, "at_most": MOST_RELATED, "looked_at": MOST_LOOKED_AT}).mappings()
    found = [Relation(**row) for row in rows]
    return sorted(found, key=lambda one: one.part not in UPSTREAM)


def offers(connection: sa.Connection, customer_id: str) -> tuple[list[Offer], list[Offer]]:
    """Return the plans and the tiers.

    Each list is sorted by the limit of concurrent sandboxes, lowest first.
    """
    rows = SQL.run(connection, "offers", {"customer_id": customer_id, "at_most": MOST_OFFERS}).mappings()
    found = [Offer(**{**row, "goes_on": bool(row["goes_on"])}) for row in rows]
    return [one for one in found if one.part == "plan"], [one for one in found if one.part == "tier"]


def happened(connection: sa.Connection, customer_id: str, now_ms: int) -> tuple[list[Happened], list[Happened]]:
    """Return the events of a wallet, and its last top-ups.

    The first list has the events of the last HAPPENED_DAYS days, with charges of the last CHARGED_DAYS days. The second
    list has top-ups of any time. Both lists are sorted newest first.
    """
    values = {
        "customer_id": customer_id,
        "account_id": wallet_account(customer_id),
        "from_ms": now_ms - HAPPENED_DAYS * DAY_MS,
        "charged_from_ms": now_ms - now_ms % DAY_MS - (CHARGED_DAYS - 1) * DAY_MS,
        "at_most": MOST_HAPPENED,
        "topups": MOST_TOPUPS,
    }
    found = [Happened(**row) for row in SQL.run(connection, "happened", values).mappings()]
    topups = [one for one in found if one.part == "topup"]
    recent = [one for one in found if one.part != "topup" or one.at_ms >= now_ms - HAPPENED_DAYS * DAY_MS]
    return _latest(recent)[:MOST_HAPPENED], _latest(topups)


def _latest(found: Sequence[Happened]) -> list[Happened]:
    return sorted(found, key=lambda one: (-one.at_ms, one.key))


@dataclass(frozen=True)
class RunFigures:
    """Numbers of executions.

    `held`: executions with reserved credit. `overdue`: those of them that are past their end. `overdue_since_ms`: the
    earliest of these ends (None: `overdue` is 0). `expired`: executions that expired and were not settled.
    """

    held: int
    overdue: int
    overdue_since_ms: int | None
    expired: int


@dataclass(frozen=True)
class OwedFigures:
    """Credit that suppliers are owed, and open freezes.

    `waiting_micro`: the credit that no payout has released, in micro-credits. `freezes`: the number of open freezes.
    `frozen_since_ms`: the start of the oldest open freeze (None: `freezes` is 0).
    """

    waiting_micro: int
    freezes: int
    frozen_since_ms: int | None


def run_figures(connection: sa.Connection, now_ms: int, since_ms: int) -> RunFigures:
    """Return the present figures of executions. `expired` counts from `since_ms` on."""
    held = SQL.run(connection, "held").scalar_one()
    overdue = SQL.run(connection, "overdue", {"now_ms": now_ms}).one()
    expired = SQL.run(connection, "expired", {"since_ms": since_ms}).scalar_one()
    return RunFigures(int(held), int(overdue.runs), overdue.since_ms, int(expired))


def owed_figures(connection: sa.Connection) -> OwedFigures:
    """Return the figures of credit that suppliers are owed now."""
    waiting = SQL.run(connection, "waiting").scalar_one()
    freezes = SQL.run(connection, "freezes").one()
    return OwedFigures(int(waiting), int(freezes.freezes), freezes.since_ms)


CustomerId = Annotated[str, ORG, "Customer's id; usually the organisation's id"]


def _wallets(
    connection: sa.Connection,
    look: Look,
    *,
    which: Annotated[
        Literal["owed", "low"] | None, "State of the balances: owed for a negative balance, low for a low balance"
    ] = None,
    plan: Annotated[str, ID, "Plan of the customers"] = "",
    search: Annotated[str, ID, "Text in the customers' ids"] = "",
) -> Page[WalletLine]:
    after = None
    if look.after:
        ids.require(connection, ids.CUSTOMER, look.after)
        after = After(look.after, read_wallets(connection, [look.after])[look.after].balance_micro)
    found = page(connection, Chosen(which or "", plan, search), after, look.most)
    return Page(found.lines, None if found.after is None else found.after.customer_id)


@dataclass(frozen=True)
class WalletEntry:
    """An entry of a wallet.

    `moved_micro`: the change of its credit, up or down, in micro-credits. `ts_ms`: the time of use. `at_ms`: the time
    of booking. `key`: for usage, the key of the push. `feature`, `quantity`: the charged base units. `execution`: the
    execution that it charges. `lot`: the lot that it expires or takes back. The last four are null for another kind of
    entry.
    """

    key: str
    kind: str
    moved_micro: int
    feature: str | None
    quantity: int | None
    execution: str | None
    lot: str | None
    ts_ms: int
    at_ms: int
    actor: str
    reason: str


def _amount(text: str, name: str, _now_ms: int) -> str:
    entries.sizes_of(text, name)
    return text


SHOWN_AMOUNT: Final = Kind("text", "CREDITS", _amount, str, example="4.80")
"""The kind of an amount as a page shows it, such as `4.80`.

`entries.sizes_of` returns the sizes that it may mean.
"""


def _entries(
    connection: sa.Connection,
    look: Look,
    customer_id: CustomerId,
    *,
    from_ms: Annotated[int | None, TIME, "Earliest time of booking"] = None,
    to_ms: Annotated[int | None, TIME, "Latest booking time, exclusive"] = None,
    amount: Annotated[str | None, SHOWN_AMOUNT, "Amount in credits, added or deducted; 4.80 also matches 4.803"] = None,
) -> Page[WalletEntry]:
    if from_ms is not None and from_ms > look.now_ms:
        raise UsageError(f"--from is in the future, at {show_time(from_ms)}. For two days ago, pass 2d", at="from_ms")
    ids.require(connection, ids.CUSTOMER, customer_id)
    chosen = entries.Chosen(
        booked_from_ms=from_ms or 0,
        booked_to_ms=entries.NEVER if to_ms is None else to_ms,
        sizes=entries.ALL.sizes if amount is None else entries.sizes_of(amount, "amount"),
    )
    found = entries.page(connection, customer_id, look.after, look.most, chosen=chosen)
    return Page(
        [
            WalletEntry(
                key=one.key, kind=one.kind, moved_micro=one.moved_micro, feature=one.feature, quantity=one.quantity,
                execution=one.reservation, lot=one.lot, ts_ms=one.ts, at_ms=one.at_ms, actor=one.actor,
                reason=one.reason,
            )
            for one in found.entries
        ],
        found.after,
    )  # fmt: skip


@dataclass(frozen=True)
class WalletLots:
    """A wallet's lots in their order of use.

    `order`: the order of use, in words. `more`: the number of lots that are not shown. `owed_micro`: use that lots have
    not paid for. `back_micro`: refunds beyond the use, which pay for later use.
    """

    customer_id: str
    order: str
    owed_micro: int
    back_micro: int
    lots: list[LotRow]
    more: int


def _lots(connection: sa.Connection, look: Look, customer_id: CustomerId) -> WalletLots:
    ids.require(connection, ids.CUSTOMER, customer_id)
    found = list_lots(connection, customer_id, look.now_ms)
    shown = found.lots[: look.most]
    more = len(found.lots) - len(shown)
    return WalletLots(customer_id, found.order, found.owed_micro, found.back_micro, shown, more)


def _rates(
    connection: sa.Connection, look: Look, *, feature: Annotated[str, ID, "Feature of the rates"] = ""
) -> Page[Rate]:
    if feature:
        ids.require(connection, ids.FEATURE, feature)
    found = [one for one in list_rates(connection) if feature in ("", one.feature)]
    return Page(found[: look.most])


def _all(features: Sequence[str] | None) -> str:
    return ", ".join(features or ("all",))


SCOPE: Final = "ledger:read"
LISTS: Final = (
    Listing(
        "ledger wallets",
        "Wallets",
        "List wallets, the lowest balance first. A wallet is low if its available credit is at or below its top-up "
        "threshold, or the low balance set for its organisation or for all. If neither is set, the limit is 0.",
        _wallets,
        (Column("customer_id", "customer"), "balance_micro", Column("held_micro", "#reserved"), "available_micro",
         "plan", Column("mode", "top-up"), Column("threshold_micro", "#threshold"),
         Column("blocked_reason", "stop reason")),
        holds="wallets",
        path="/v1/wallets",
        scope=SCOPE,
        most=MOST_ON_PAGE,
        paged=True,
    ),
    Listing(
        "ledger entries",
        "Entries",
        "List a wallet's entries, newest first. The order is by time of use. Each entry has its execution or "
        "its lot, and its time of booking.",
        _entries,
        (Column("ts_ms", "used"), Column("at_ms", "booked"), "kind", Column("moved_micro", "#credits"), "feature",
         Column("quantity", "#quantity"), "execution", "lot", "key"),
        holds="entries",
        path="/v1/wallets/{customer_id}/entries",
        scope=SCOPE,
        most=entries.MOST_ENTRIES_ON_PAGE,
        paged=True,
    ),
    Showing(
        "ledger lots",
        "Lots of a wallet",
        "List a customer's lots in their order of use. Each lot shows the amounts that are left, due to expire, "
        "used, expired and taken back.",
        _lots,
        path="/v1/lots",
        scope=SCOPE,
        parts={
            "lots": (
                "Lots",
                (Column("place", "#order"), "state", "kind", "amount_micro", "remaining_micro", "waits_micro",
                 "used_micro", "expired_micro", Column("taken_back_micro", "#taken back"),
                 Column("priority", "#priority"),
                 Column("begins_ms", "begins"), Column("expires_ms", "ends"), Column("features", "features", _all),
                 "lot"),
            ),
        },
    ),
    Listing(
        "ledger rates",
        "Rate card",
        "List the rates by feature, each with its start.",
        _rates,
        ("feature", Column("micro_credits", "#micro-credits"), Column("per_quantity", "#per"),
         Column("start_ms", "from")),
        holds="rates",
        path="/v1/rates",
        scope="catalog:read",
        most=1_000,
        open=True,
    ),
)  # fmt: skip
