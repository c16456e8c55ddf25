"""Return an account: a wallet's parts and entries, and the rate card.

Reads only.

Guarantee: in an account and its lots, due changes of the wallet count as done, as they do for a reservation. For
example, an expired reservation is available again, and the credit of a month that began is granted. The available
credit excludes use that is not charged yet.

The balance is the rest of the lots minus `owed_micro`. Until Drawdown books the end of a lot, the balance includes the
rest of this lot, but the lots do not. The balance is also the sum of `available_micro`, `reserved_micro`,
`unbilled_micro` and `over_micro`. A due charge of a tier reduces the balance before it reduces the lots.

An organisation's users see the wallet that pays for it, without an operator's name or reason. If a wallet pays, or ever
paid, for the metered usage of several organisations, their users cannot see the wallet. Its credit and its entries
would reveal the use of another organisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.ledger import due_changes, lots
from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.allocation import KINDS, ORDER, Lot
from drawdown.ledger.due_changes import look_ahead_with_lots
from drawdown.ledger.rates import Rate, read_rate_card
from drawdown.ledger.reservations import Denied
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries, read_together
from drawdown.schema.text import quote_value, typed
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, in_credits
from drawdown.worker.catalog.wallets import billers_part, terms_part, with_wallets
from drawdown.worker.verdict.effective_balance import unbilled_micro

SQL = queries(__file__)


@dataclass(frozen=True)
class Account:
    """A customer's wallet, in micro-credits.

    `unbilled_micro`: the cost of use that is not charged yet. `over_micro`: the rest of ended lots that is not
    reserved, which a later booking deducts from the balance. `plan` None: the customer does not have a plan.
    `included_micro` to `refund_micro`: the rest of the lots in use, by kind. `owed_micro`: use that lots have not paid
    for, less refunds beyond the use. `hold_micro`: the part of its executions' cost that suppliers wait for. This part
    is already charged, so the other fields do not include it.
    """

    customer_id: str
    plan: str | None
    available_micro: int
    reserved_micro: int
    unbilled_micro: int
    over_micro: int
    balance_micro: int
    included_micro: int
    bonus_micro: int
    purchased_micro: int
    sponsor_micro: int
    refund_micro: int
    owed_micro: int
    hold_micro: int

    def in_credits(self) -> dict[str, int | float]:
        """Return each amount in credits, by the name of its field without `_micro`."""
        suffix = "_micro"
        return {
            name.removesuffix(suffix): in_credits(value) for name, value in vars(self).items() if name.endswith(suffix)
        }


def account_of(connection: sa.Connection, customer_id: str, now_ms: int) -> Account:
    """Return a customer's account, even if the wallet was never used."""
    hold = SQL.part("hold", {"customer_id": customer_id, "now_ms": now_ms}, of_settlements="of_customer")
    look = due_changes.look_part(customer_id, now_ms)
    read = read_together(connection, look=look, lots=lots.wallets_part([customer_id]), hold=hold)
    found, given = due_changes.look_ahead_by(connection, customer_id, read["look"], now_ms)
    kept = lots.lots_of([customer_id], [vars(row) for row in read["lots"]])[customer_id]
    in_lots = view_lots(connection, kept, given, customer_id, now_ms)
    kinds = {f"{kind}_micro": micro for kind, micro in in_lots.left_by_kind().items()}
    unbilled = unbilled_micro(connection, customer_id, now_ms)
    return Account(
        customer_id=customer_id,
        plan=found.plan,
        available_micro=found.available_micro - unbilled,
        reserved_micro=found.held_micro,
        unbilled_micro=unbilled,
        over_micro=found.lapsed_micro,
        balance_micro=found.balance_micro,
        owed_micro=in_lots.owed_micro - in_lots.back_micro,
        hold_micro=int(read["hold"][0].hold_micro),
        **kinds,
    )


@dataclass(frozen=True)
class PaidFrom:
    """The wallet that pays for an organisation's executions.

    `provider`: the provider that bills the organisation now (None: it is not assigned). `keeper`: that provider, if it
    keeps the balance outside this database (None: it does not). `has_wallet`: the wallet was used at least once.
    `begins_ms`: the start of the organisation's first assignment (None: it was never assigned).
    """

    customer_id: str
    provider: str | None
    keeper: str | None
    has_wallet: bool
    begins_ms: int | None

    @property
    def is_here(self) -> bool:
        """Return True if this database keeps the balance.

        If the embedded ledger does not bill the organisation, the result is True only if the wallet was ever used.
        """
        return self.keeper is None and (self.has_wallet or self.provider == EMBEDDED)

    @property
    def takes_credit(self) -> bool:
        """Return True if you can grant credit to this wallet.

        Returns False if a provider keeps the balance outside this database. Also returns False for an unused wallet of
        a customer that is billed in arrears, because Drawdown would halt the customer at the end of the credit.
        """
        return self.is_here or (self.keeper is None and self.provider in (None, *EXEMPT_PROVIDERS))


def payer_of(connection: sa.Connection, org_id: str, now_ms: int) -> str:
    """Return the id of the wallet that pays for an organisation's executions.

    If the organisation's provider keeps wallets in this database, its customer's wallet pays. Otherwise, the
    organisation's own wallet pays. Errors: UnknownId.
    """
    return paid_from(connection, org_id, now_ms).customer_id


def require_paying(connection: sa.Connection, org_id: str, now_ms: int, *, past: bool) -> str:
    """Return the id of the wallet that pays for an organisation.

    `past`: also return a used wallet if another provider bills the organisation now.

    Errors: UnknownId; Denied `billed_elsewhere` if a provider keeps the balance, or bills without a used wallet here.
    """
    paid = paid_from(connection, org_id, now_ms)
    if paid.is_here or paid.provider in (None, *EXEMPT_PROVIDERS) or (past and paid.has_wallet):
        return paid.customer_id
    text = f"{org_id} is billed by {paid.provider}"
    if paid.keeper is None:
        org = typed("--org", org_id)
        raise Denied(
            "billed_elsewhere",
            f"{text}, and does not have a wallet here. To see its usage, run `drawdown org usage {org}`",
        )
    show = typed("drawdown", "org", "show", org_id)
    raise Denied("billed_elsewhere", f"{text}, which keeps its balance. To see the balance, run `{show}`")


def paid_from(connection: sa.Connection, org_id: str, now_ms: int) -> PaidFrom:
    """Return the wallet that pays for an organisation or customer.

    The result names the provider that bills the organisation or customer now. Errors: UnknownId.
    """
    values = {"org_id": org_id, "own": wallet_account(org_id), "now_ms": now_ms}
    found = read_together(
        connection,
        biller=SQL.part("biller", values),
        customer=billers_part(org_id, now_ms),
        terms=terms_part(),
    )
    row, here = found["biller"][0], with_wallets(found["terms"])
    if row.customer_id and row.provider in here:
        return PaidFrom(str(row.customer_id), row.provider, None, bool(row.has_theirs), row.begins_ms)
    provider = row.provider
    if provider is None:
        ids.require(connection, ids.CUSTOMER, org_id)
        provider = min(
            (one.provider for one in found["customer"]), key=lambda one: (one not in here, one), default=None
        )
    keeper = None if provider is None or provider in {*here, *EXEMPT_PROVIDERS} else provider
    return PaidFrom(org_id, provider, keeper, bool(row.has_own), row.begins_ms)


STATES: Final = {"in use": 0, "to come": 1, "over": 2}
"""The states of lots, in the order in which they are shown."""


@dataclass(frozen=True)
class WalletRow:
    """One wallet. `account_id`: `wallet:` and the customer's id."""

    account_id: str
    balance_micro: int
    plan: str | None


@dataclass(frozen=True)
class EntryRow:
    """One entry of a wallet.

    `feature`, `quantity`: the charged base units (None: the entry does not charge a quantity). `amount_micro`: the
    amount of the charge or grant. `moved_micro`: the change of the wallet, up or down. `ts`: the time of use, in
    milliseconds. `at_ms`: the time of booking, by which statements select entries.
    """

    key: str
    kind: str
    amount_micro: int
    moved_micro: int
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str


LotState: TypeAlias = Literal["in use", "to come", "over"]


@dataclass(frozen=True)
class LotRow:
    """A lot, in micro-credits.

    `amount_micro = remaining_micro + waits_micro + used_micro + expired_micro + taken_back_micro`. `waits_micro`: the
    rest of an ended lot that is not booked yet. `taken_back_micro`: the credit that was taken back from this lot, and
    the lot's share of credit that was taken back without naming a lot. `expires_ms` None: it does not end. `features`
    None: it pays for all features. A lower `priority` is used first. `place`: its place in the order of use (None: not
    in use).
    """

    lot: str
    kind: str
    state: LotState
    place: int | None
    amount_micro: int
    remaining_micro: int
    waits_micro: int
    used_micro: int
    expired_micro: int
    taken_back_micro: int
    priority: int
    begins_ms: int
    expires_ms: int | None
    features: tuple[str, ...] | None
    actor: str
    reason: str


@dataclass(frozen=True)
class LotsView:
    """A wallet's lots.

    Lots in use come first in their order of use, then lots to come, then ended lots, the latest end first.

    `order`: the order of use, in words. `owed_micro`: use that lots have not paid for. `back_micro`: refunds beyond the
    use, which pay for later use.
    """

    order: str
    lots: list[LotRow]
    owed_micro: int
    back_micro: int

    def left_by_kind(self) -> dict[str, int]:
        """Return the rest of the lots in use, in micro-credits, by kind."""
        return {
            kind: sum(row.remaining_micro for row in self.lots if row.kind == kind and row.state == "in use")
            for kind in KINDS
        }


def list_lots(connection: sa.Connection, customer_id: str, now_ms: int) -> LotsView:
    """Return all lots of a customer as they are now.

    The lots include credit of plans that is due and not booked yet.
    """
    kept = lots.read_all(connection, [customer_id])[customer_id]
    return view_lots(connection, kept, look_ahead_with_lots(connection, customer_id, now_ms)[1], customer_id, now_ms)


def view_lots(
    connection: sa.Connection, kept: Sequence[Lot], given: Sequence[Lot], customer_id: str, now_ms: int
) -> LotsView:
    """Return a view of a wallet's lots.

    `kept`: the stored lots. `given`: due lots of plans that are not stored yet.
    """
    found = {customer_id: sorted((*kept, *given), key=lambda lot: lot.turn)}
    allocation = lots.allocations(connection, found, now_ms)[customer_id]
    rows, places = [], itertools.count(1)
    for lot in found[customer_id]:
        over, to_come = lot.is_over(now_ms), lot.begins_ms > now_ms
        left = lots.unused_micro(lot, allocation)
        place = None if over or to_come else next(places)
        row = LotRow(
            lot=lot.lot,
            kind=lot.kind,
            state="over" if over else "to come" if to_come else "in use",
            place=place,
            amount_micro=lot.amount_micro,
            remaining_micro=0 if over else left,
            waits_micro=left if over else 0,
            used_micro=allocation.used[lot.lot] - allocation.taken_back[lot.lot],
            expired_micro=lot.expired_micro,
            taken_back_micro=lot.taken_micro + allocation.taken_back[lot.lot],
            priority=lot.priority,
            begins_ms=lot.begins_ms,
            expires_ms=lot.expires_ms,
            features=lot.features,
            actor=lot.actor,
            reason=lot.reason,
        )
        rows.append(row)
    rows.sort(key=lambda row: (STATES[row.state], row.place or 0, -(row.expires_ms or 0) if row.state == "over" else 0))
    return LotsView(ORDER, rows, sum(allocation.unpaid.values()), allocation.back)


def list_wallets(connection: sa.Connection, most: int) -> list[WalletRow]:
    """Return wallets, the lowest balance first."""
    return [WalletRow(**row._mapping) for row in SQL.run(connection, "wallets", {"at_most": most})]


def list_rates(connection: sa.Connection) -> list[Rate]:
    """Return the rate card, sorted by feature and start."""
    return read_rate_card(connection).rates


def list_entries(connection: sa.Connection, customer_id: str, most: int, after: str = "") -> list[EntryRow]:
    """Return a customer's entries, newest first.

    `after`: the key of the entry after which the list begins. Errors: UsageError if the wallet does not have an entry
    with that key.
    """
    values = {"account_id": wallet_account(customer_id), "at_most": most, "after": after}
    if after and SQL.run(connection, "is_entry", values).first() is None:
        raise UsageError(
            f"invalid `after` {quote_value(after)}: this wallet does not have an entry with this key. Start at the "
            "first page",
            at="after",
        )
    return [EntryRow(**row._mapping) for row in SQL.run(connection, "entries", values)]


MOST_BLOCKED: Final = 20
"""Metrics with blocked uses that one list shows."""
BLOCKED_DAYS: Final = 30
MOST_OVERRIDES: Final = 20
"""Limit overrides of one metric that `/my` lists.

All waiting requests fit (`overrides.MOST_ASKED`).
"""


@dataclass(frozen=True)
class Blocked:
    """A metric with blocked uses.

    `times`: the number of these uses. `amount`: their base units. `last_ms`: the time of the last use.
    """

    metric: str
    times: int
    amount: int
    last_ms: int


def blocked(connection: sa.Connection, org_id: str, now_ms: int) -> list[Blocked]:
    """Return the metrics with blocked uses of the last BLOCKED_DAYS days.

    The metric with the latest blocked use comes first. Uses that exceeded a limit, but that its phase did not block, do
    not count.
    """
    values = {"org_id": org_id, "since_ms": now_ms - BLOCKED_DAYS * DAY_MS, "at_most": MOST_BLOCKED}
    rows = SQL.run(connection, "blocked", values)
    return [Blocked(row.metric, int(row.times), int(row.amount), int(row.last_ms)) for row in rows]


@dataclass(frozen=True)
class Card:
    """A wallet's automatic top-up.

    A top-up charges a card of `service_customer` at a payment service. It begins if the credit is at or below
    `threshold_micro`, and adds `amount_micro` (None: it fills up to a level). `stopped`: charges failed, so top-ups
    wait until a person resumes them.
    """

    service: str
    service_customer: str
    threshold_micro: int
    amount_micro: int | None
    stopped: bool


@dataclass(frozen=True)
class WalletView:
    """A customer's wallet.

    `is_shared`: other organisations use the wallet, or used it before. `card`: its automatic top-up (None: the wallet
    is shared, or does not have one).
    """

    paid: PaidFrom
    is_shared: bool
    card: Card | None


@dataclass(frozen=True)
class Org:
    """An organisation's halt, with its start and reason, and its balance.

    `halted_at`: the start of the halt, in milliseconds. `unconfirmed_micro`: sent use that the balance does not show
    yet. `balance_micro`: the balance in the provider's micro-credits, as read at `balance_read_ms`. `runs_out_ms`: the
    end of the credit, as the watch estimates it.
    """

    billing_provider: str | None
    is_halted: bool
    halted_at: int | None
    halt_reason: str | None
    balance_micro: int | None
    unconfirmed_micro: int | None
    balance_read_ms: int | None
    runs_out_ms: int | None


@dataclass(frozen=True)
class Standing:
    """The credit of a wallet, in micro-credits."""

    available_micro: int
    reserved_micro: int
    balance_micro: int


@dataclass(frozen=True)
class OrgOverride:
    """A limit override of one organisation. `amount`: base units (None: unlimited).

    `number`: its id. `ends_ms` None: it is permanent. `state`: `asked` (it waits for a decision) or `in_force`.
    """

    number: int
    period: str
    amount: int | None
    ends_ms: int | None
    state: str
    at_ms: int


def told_of(connection: sa.Connection, org_id: str, now_ms: int) -> WalletView:
    """Return the paying wallet, and the facts about it that the organisation may see.

    Errors: UnknownId.
    """
    paid = paid_from(connection, org_id, now_ms)
    row = SQL.run(connection, "told", {"customer_id": paid.customer_id, "org_id": org_id}).one()
    if row.is_shared:
        return WalletView(paid, True, None)
    if row.service is None:
        return WalletView(paid, False, None)
    card = Card(row.service, row.service_customer, row.threshold_micro, row.amount_micro, row.blocked_ms is not None)
    return WalletView(paid, False, card)


def org_of(connection: sa.Connection, org_id: str) -> Org | None:
    """Return an organisation; None if it is not registered yet."""
    row = SQL.run(connection, "org", {"org_id": org_id}).mappings().one_or_none()
    return None if row is None else Org(**{**row, "is_halted": bool(row["is_halted"])})


def standing(connection: sa.Connection, customer_id: str, now_ms: int) -> Standing:
    """Return the credit of a wallet, with due changes counted as done."""
    found = due_changes.look_ahead(connection, customer_id, now_ms)
    unbilled = unbilled_micro(connection, customer_id, now_ms)
    return Standing(found.available_micro - unbilled, found.held_micro, found.balance_micro)


def overrides(connection: sa.Connection, org_id: str, metric: str, now_ms: int) -> list[OrgOverride]:
    """Return an organisation's limit overrides of a metric that have not ended.

    Overrides that wait for a decision come first, and then the newest.
    """
    values = {"org_id": org_id, "metric": metric, "now_ms": now_ms, "at_most": MOST_OVERRIDES}
    return [OrgOverride(**row._mapping) for row in SQL.run(connection, "overrides", values)]
