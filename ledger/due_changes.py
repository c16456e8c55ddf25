"""Changes of a wallet that are due by time. Book them before you use its balance.

The changes are reservations that expire, lots that begin or expire, credit of plans, and tiers. If an execution
expires, the same transaction queues a webhook to the operator's product.

Guarantee: a transaction that decides by a balance matures its wallet first, under its lock. The sweep matures wallets
before a transaction needs them. All code takes locks in one order: reservations by their keys, then wallets by their
ids, then plans by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import grants, lots, tiers
from drawdown.ledger.accounts import WALLET, Wallet, wallet_account
from drawdown.ledger.allocation import Lot
from drawdown.ledger.calendar import next_start
from drawdown.ledger.entries import moves
from drawdown.ledger.own_keys import strip_own_prefix
from drawdown.schema.messages import RESERVATION_EXPIRED, Message, amount, tell
from drawdown.schema.sql import Part, queries, read_together

SQL = queries(__file__)

MATURE_AT_ONCE: Final = 20_000
"""Reservations that one transaction expires."""
SWEPT_AT_ONCE: Final = 1_000
"""Wallets to which one transaction of the sweep applies due changes."""
LOOK_AGAIN: Final = 0
"""The due time of a wallet that must be checked again immediately."""
TO_TELL: Final = 1
"""The due time of a wallet that changed with another wallet. The sweep only has to report it."""


@dataclass(frozen=True)
class Matured:
    """The result of maturing wallets.

    `moved`: customers with a changed balance, or with a changed amount to pay with. `more`: True if more changes are
    due than one call books.
    """

    moved: list[str]
    more: bool


def look_ahead(connection: sa.Connection, customer_id: str, now_ms: int) -> Wallet:
    """Return a wallet as if all its due changes were booked, without booking them."""
    return look_ahead_with_lots(connection, customer_id, now_ms)[0]


def look_ahead_with_lots(connection: sa.Connection, customer_id: str, now_ms: int) -> tuple[Wallet, list[Lot]]:
    """Return a wallet as `look_ahead` does, and its lots that are not stored yet.

    Plans grant these lots, or credit of a plan rolls over into them.
    """
    part = look_part(customer_id, now_ms)
    return look_ahead_by(connection, customer_id, SQL.run(connection, part.name, part.values).all(), now_ms)


def look_part(customer_id: str, now_ms: int) -> Part:
    """Return the query of a wallet, to run together with other queries.

    Pass its rows to `look_ahead_by`.
    """
    return SQL.part("look", {"customer_id": customer_id, "now_ms": now_ms})


def look_ahead_by(
    connection: sa.Connection, customer_id: str, wallet: Sequence[Any], now_ms: int
) -> tuple[Wallet, list[Lot]]:
    """Return the result of `look_ahead_with_lots` for a wallet that was already read.

    The function reads more rows only if a change is due in the wallet.
    """
    if not wallet:
        return Wallet(0, None, None), []
    row = wallet[0]
    amounts = (row.held_micro, row.overdraft_micro, row.over_micro)
    found = Wallet(int(row.balance_micro), row.plan, row.max_concurrent_sandboxes, *amounts)
    if not row.is_due:
        return found, []
    freed = _freed(connection, customer_id, now_ms)
    of_lots, own = lots.due(connection, freed, now_ms), wallet_account(customer_id)
    moved = sum(amount for entry in of_lots.entries for account, amount in moves(entry) if account == own)
    then = replace(
        found,
        balance_micro=found.balance_micro + moved,
        held_micro=found.held_micro - freed[customer_id],
        over_micro=of_lots.over.get(customer_id, found.over_micro),
    )
    charged, ended = tiers.look_ahead(connection, customer_id, then.available_micro, now_ms)
    then = replace(then, balance_micro=then.balance_micro - charged)
    if ended and row.plan_sandboxes is not None:
        then = replace(then, max_concurrent=tiers.largest(connection, customer_id, row.plan_sandboxes, without=ended))
    return then, [one for one in of_lots.new_lots if one.customer_id == customer_id]


def _freed(connection: sa.Connection, customer_id: str, now_ms: int) -> dict[str, int]:
    """Return the reserved micro-credits that are due to be freed, by customer.

    The result covers the customer's wallet, and the wallets from which allotments return to it.
    """
    returning = lots.borrowers_part([customer_id], now_ms)
    read = read_together(connection, own=_due_left([customer_id], now_ms), returning=returning)
    found, rows = {customer_id: 0}, read["own"]
    if others := [row.customer_id for row in read["returning"]]:
        found |= dict.fromkeys(others, 0)
        rows += read_together(connection, theirs=_due_left(others, now_ms))["theirs"]
    return found | {row.customer_id: int(row.left_micro) for row in rows}


def _due_left(customers: Sequence[str], now_ms: int) -> Part:
    return SQL.part("due_left", {"customers": list(customers), "now_ms": now_ms})


def mature(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> bool:
    """Book all due changes of these wallets. Return True if all are booked.

    The changes are reservations that expire (a bounded number at once), lots that begin or expire, credit of plans, and
    tiers. For pools, they include the allotments that return. The function locks the reservations, then the wallets,
    including those of the pools to which allotments return.

    If a wallet is still marked as due although the cause has ended, only the mark is corrected.
    """
    return not _mature(connection, customer_ids, now_ms).more


def touched(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> tuple[list[str], list[str]]:
    """Return the customers of the reservations and of the wallets that `mature` locks.

    A caller that needs further locks must take all locks together, in order.
    """
    customers = sorted({*customer_ids, *lots.borrowers(connection, customer_ids, now_ms)})
    return customers, sorted({*customers, *lots.lenders(connection, customers, now_ms)})


def _mature(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> Matured:
    returning = lots.borrowers(connection, customer_ids, now_ms)
    customers = sorted({*customer_ids, *returning})
    values = {"customers": customers, "now_ms": now_ms, "at_most": MATURE_AT_ONCE}
    due = SQL.run(connection, "hold_due", values).scalars().all()
    touched = sorted({*customers, *lots.lenders(connection, customers, now_ms)})
    SQL.run(connection, "hold_wallets", {"accounts": [wallet_account(one) for one in touched]}).all()
    grants.hold_plans(connection, customers, now_ms)
    freed = dict.fromkeys(customers, 0)
    if due:
        for row in expire(connection, due, now_ms):
            freed[row.customer_id] += row.left_micro
    of_lots = lots.due(connection, freed, now_ms)
    if due:
        unheld = [{"account_id": wallet_account(one), "freed": freed[one]} for one in customers]
        SQL.run(connection, "unhold", {"wallets": unheld})
    lots.keep(connection, of_lots, now_ms)
    settled = [one for one in customers if one not in of_lots.unfinished]
    turned = tiers.turn(connection, settled, now_ms)
    # The price of a tier may change the amount that lots expired with. So may credit that returns to a pool.
    again = of_lots.unfinished | turned | lots.returned_to(of_lots)
    again |= set(customer_ids) if len(returning) == lots.RETURNED_AT_ONCE else set()
    moved = turned | of_lots.moved | {one for one in customers if freed[one]}
    moved |= {account.removeprefix(WALLET) for entry in of_lots.entries for account, _ in moves(entry)}
    # The caller reports the wallets that it named. The sweep reports the others, which are due at once.
    others = moved.difference(customer_ids, again)
    due_ms = {**dict.fromkeys(others, TO_TELL), **dict.fromkeys(again, LOOK_AGAIN)}
    wallets = [{"account_id": wallet_account(one), "customer_id": one, "due_ms": due_ms.get(one)} for one in customers]
    times = {"now_ms": now_ms, "wait_ms": lots.EXPIRY_WAIT_MS, "month_ms": next_start(now_ms)}
    next_due = SQL.run(connection, "next_due", {"wallets": wallets, **times}).all()
    still = {
        row.account_id.removeprefix(WALLET)
        for row in next_due
        if row.next_due_ms is not None and row.next_due_ms <= now_ms
    }
    return Matured(sorted(moved), not still <= others)


def expire(connection: sa.Connection, reservations: Sequence[str], now_ms: int) -> Sequence[sa.Row[Any]]:
    """Expire due reservations that this transaction has locked. Return their rows.

    The call queues their webhooks, and does not free their credit in the wallets. `left_micro` of a row: the
    micro-credits that the reservation still had reserved.
    """
    values = {"due": [{"reservation": key} for key in reservations], "now_ms": now_ms}
    expired = SQL.run(connection, "expire", values).all()
    tell_expired(connection, expired, now_ms)
    return expired


def mature_due(connection: sa.Connection, now_ms: int) -> Matured:
    """Mature the first SWEPT_AT_ONCE due wallets, as a part of the sweep.

    If you need one wallet's balance, call `mature` for that wallet.
    """
    values = {"now_ms": now_ms, "at_most": SWEPT_AT_ONCE}
    rows = SQL.run(connection, "due_wallets", values).all()
    customers = [row.account_id.removeprefix(WALLET) for row in rows]
    if not customers:
        return Matured([], more=False)
    found = _mature(connection, customers, now_ms)
    at_once = {row.account_id.removeprefix(WALLET) for row in rows if row.next_due_ms <= TO_TELL}
    found = replace(found, moved=sorted(at_once.union(found.moved)))
    returned = not set(found.moved) <= set(customers)  # credit that returned to a pool may make its wallet due
    return Matured(found.moved, found.more or returned or len(customers) == SWEPT_AT_ONCE)


def tell_expired(connection: sa.Connection, expired: Sequence[sa.Row[Any]], now_ms: int) -> None:
    """Queue a webhook for each reservation that just expired.

    The webhook is sent even if the execution is settled later.
    """
    tell(connection, [_of_reservation(row, now_ms) for row in expired])


def _of_reservation(row: sa.Row[Any], now_ms: int) -> Message:
    data = {
        "reservation": strip_own_prefix(row.reservation),
        "project": row.project,
        "subject": row.subject,
        "action": row.action,
        **amount("reserved", row.amount_micro),
        **amount("drawn", row.drawn_micro),
        **amount("freed", row.left_micro),
        "expires_ms": row.expires_ms,
    }
    fact = f"{RESERVATION_EXPIRED}:{row.reservation}"
    return Message(RESERVATION_EXPIRED, fact, now_ms, data, row.org_id, row.customer_id)
