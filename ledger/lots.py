"""The lots, which are credit with a kind, an order of use, a start and an end.

Guarantee: a balance is always one number. A lot is part of it from the lot's start on. From the lot's end on, its
remaining credit is not available. After the last windows of its life are sealed, its unused credit is booked as the
difference from the amount booked before. So late use refunds expired credit. Open executions keep the credit that they
have reserved. The caller holds the wallet's lock.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import grants
from drawdown.ledger.accounts import WALLET, open_accounts, wallet_account
from drawdown.ledger.allocation import DEFAULT_PRIORITY as DEFAULT_PRIORITY
from drawdown.ledger.allocation import Allocation, Kind, Lot, Uses, allocate, is_same, other_content, parts
from drawdown.ledger.entries import SOURCE, post
from drawdown.ledger.expiry import Closing, Room, close, cut_for, leaves
from drawdown.ledger.expiry import promised as promised
from drawdown.ledger.expiry import unused_micro as unused_micro
from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.units import EVER_MS, GRACE_MS, WINDOW_MS

SQL = queries(__file__)

BREAKAGE: Final = "breakage"
"""The account of credit that was not used in time."""
EXPIRY_WAIT_MS: Final = 2 * WINDOW_MS + GRACE_MS
"""Milliseconds from the end of a lot until Drawdown books that end.

By then, a tick has sealed the last window of the lot, after its grace. One booking then covers all use that arrived in
time. Later use causes another booking.
"""

RETURNED_AT_ONCE: Final = 1_000
"""Wallets from which one transaction returns allotments to their pools."""


@dataclass(frozen=True)
class Terms:
    """The terms of use of credit. Times are milliseconds.

    `begins_ms` None: now. `expires_ms` None: never. `features` None: the credit pays for all features. Credit with a
    lower `priority` is used first.
    """

    kind: Kind = "purchased"
    priority: int = DEFAULT_PRIORITY
    begins_ms: int | None = None
    expires_ms: int | None = None
    features: tuple[str, ...] | None = None


PLAIN: Final = Terms()


@dataclass
class Due:
    """The due changes of wallets. Amounts are micro-credits by customer.

    `entries`: the entries to post. `deferred`: the amount that waits for the end of an execution, for each checked
    wallet. `over`: the remaining credit of the ended lots, for each checked wallet. `moved`: customers with a changed
    `over`. A customer with `entries` only is not in it. `new_lots`: lots that plans grant, and lots that roll over.
    `caught_up`: customers who then have all credit of their plans. `unfinished`: customers to check again immediately.
    """

    entries: list[dict[str, object]] = field(default_factory=list)
    deferred: dict[str, int] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    new_lots: list[Lot] = field(default_factory=list)
    caught_up: list[str] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)

    def give(self, lot: Lot, now_ms: int) -> None:
        """Add a new lot, with its entry."""
        self.new_lots.append(lot)
        self.entries.append(entry_of(lot, now_ms))


def give(connection: sa.Connection, lot: Lot) -> bool:
    """Store a lot, and mark its wallet as due at its start and end.

    Return True if the lot is new. A grant that is repeated after the end of its credit begins now, so its lot ends
    before it begins. In that case the first lot must exist.

    Errors: Refused if its key was used before with different content.
    """
    values = {**vars(lot), "features": None if lot.features is None else json.dumps(lot.features)}
    if lot.is_over(lot.begins_ms) or SQL.run(connection, "insert", values).first() is None:
        before = read(connection, lot.lot)
        assert before is not None
        if not is_same(before, lot):
            raise other_content(before)
        return False
    account = wallet_account(lot.customer_id)
    open_accounts(connection, [account])
    ends_ms = [] if lot.expires_ms is None else [lot.expires_ms]
    for moment_ms in [lot.begins_ms, *ends_ms] if lot.begins_ms > lot.at_ms else ends_ms:
        SQL.run(connection, "expect", {"account_id": account, "moment_ms": moment_ms})
    for end_ms in ends_ms if lot.pool is not None else ():
        back = {"account_id": wallet_account(str(lot.pool)), "moment_ms": end_ms + EXPIRY_WAIT_MS}
        SQL.run(connection, "expect", back)
    return True


def look_again(connection: sa.Connection, customer_id: str) -> None:
    """Make a wallet due immediately, because the value of one of its lots changed."""
    SQL.run(connection, "expect", {"account_id": wallet_account(customer_id), "moment_ms": 0})


def entry_of(lot: Lot, now_ms: int) -> dict[str, object]:
    """Return the entry that adds a lot to the balance, dated at its start.

    An allotment comes from its pool's wallet.
    """
    return {
        "key": lot.lot,
        "kind": "grant",
        "from_account": SOURCE if lot.pool is None else wallet_account(lot.pool),
        "to_account": wallet_account(lot.customer_id),
        "amount_micro": lot.amount_micro,
        "ts": lot.begins_ms,
        "at_ms": now_ms,
        "actor": lot.actor,
        "reason": lot.reason,
    }


def read(connection: sa.Connection, lot: str) -> Lot | None:
    """Return a lot as it was granted, without later bookings; None if it is missing."""
    row = SQL.run(connection, "one", {"lot": lot}).mappings().one_or_none()
    return None if row is None else _lot(row)


def read_all(connection: sa.Connection, customer_ids: Sequence[str]) -> dict[str, list[Lot]]:
    """Return the lots of wallets by customer, in their order of use.

    Each lot has the amounts booked of it.
    """
    part = wallets_part(customer_ids)
    return lots_of(customer_ids, SQL.run(connection, part.name, part.values).mappings())


def wallets_part(customer_ids: Sequence[str]) -> Part:
    """Return the query of the lots of wallets, to run together with other queries.

    Pass its rows to `lots_of`.
    """
    return SQL.part("of_wallets", {"customers": list(customer_ids)})


def lots_of(customer_ids: Sequence[str], rows: Iterable[Mapping[Any, Any]]) -> dict[str, list[Lot]]:
    """Return the lots in the rows of `wallets_part`, as `read_all` does."""
    found: dict[str, list[Lot]] = {customer_id: [] for customer_id in customer_ids}
    for row in rows:
        found[row["customer_id"]].append(_lot(row))
    return {customer_id: sorted(lots, key=lambda lot: lot.turn) for customer_id, lots in found.items()}


def _lot(row: Mapping[Any, Any]) -> Lot:
    features = row["features"]
    return Lot(**{**row, "features": None if features is None else tuple(json.loads(features))})


def allocations(connection: sa.Connection, lots: Mapping[str, Sequence[Lot]], now_ms: int) -> dict[str, Allocation]:
    """Return the allocation of each wallet, with one statement for all wallets."""
    uses = uses_in(connection, {customer_id: parts(those) for customer_id, those in lots.items()})
    return {customer_id: allocate(those, uses[customer_id], now_ms) for customer_id, those in lots.items()}


def uses_in(
    connection: sa.Connection, cut: Mapping[str, Sequence[tuple[int | None, int | None]]]
) -> Mapping[str, Uses]:
    """Return the use of wallets in parts of time, by the present entries."""
    asked = [
        {
            "account_id": wallet_account(customer_id),
            "part": number,
            "from_ms": -EVER_MS if start is None else start,
            "to_ms": EVER_MS if end is None else end,
        }
        for customer_id, those in cut.items()
        for number, (start, end) in enumerate(those)
    ]
    uses: dict[str, dict[int, dict[str | None, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for row in SQL.run(connection, "used", {"parts": asked}):
        uses[row.account_id.removeprefix(WALLET)][row.part][row.feature] += row.amount_micro
    return uses


def due(connection: sa.Connection, freed: Mapping[str, int], now_ms: int) -> Due:
    """Return the changes that lots and plans require in these wallets.

    The function only reads.

    `freed`: the credit of each wallet (micro-credits) that is no longer reserved, although its row still shows it.
    """
    found, over_ms = Due(), now_ms - EXPIRY_WAIT_MS
    to_begin = SQL.part("to_begin", {"customers": list(freed), "now_ms": now_ms})
    read = read_together(connection, to_begin=to_begin, behind=grants.behind_part(list(freed), now_ms))
    for begun_row in read["to_begin"]:
        found.entries.append(entry_of(_lot(vars(begun_row)), now_ms))
    of_plans = grants.due(connection, [row.account_id.removeprefix(WALLET) for row in read["behind"]], now_ms)
    found.caught_up, found.unfinished = of_plans.caught_up, of_plans.unfinished
    for lot in of_plans.lots:
        found.give(lot, now_ms)
    begun: dict[str, int] = defaultdict(int)
    for entry in found.entries:
        begun[str(entry["to_account"])] += int(str(entry["amount_micro"]))
    over = {wallet_account(lot.customer_id) for lot in of_plans.lots if lot.is_over(now_ms)}
    values = {"accounts": [wallet_account(one) for one in freed], "now_ms": now_ms, "too": sorted(over)}
    wallets = {row.account_id.removeprefix(WALLET): row for row in SQL.run(connection, "to_look_at", values)}
    if not wallets:
        return found
    lots = read_all(connection, list(wallets))
    for lot in of_plans.lots:
        if lot.customer_id in lots:
            lots[lot.customer_id].append(lot)
    uses = uses_in(connection, {customer_id: cut_for(those) for customer_id, those in lots.items()})
    for customer_id, those in lots.items():
        row = wallets[customer_id]
        room = Room(row.balance_micro + begun[row.account_id], row.held_micro - freed[customer_id])
        closing = close(those, uses[customer_id], room, over_ms, now_ms)
        _book(found, customer_id, those, closing, now_ms)
        open_too = closing.deferred_micro or any(one.is_over(now_ms) > one.is_over(over_ms) for one in those)
        rest = list(closing.lots.values())
        found.over[customer_id] = leaves(rest, uses[customer_id], room, now_ms) if open_too else 0
        if found.over[customer_id] != row.over_micro:
            found.moved.add(customer_id)
    return found


def _book(found: Due, customer_id: str, before: Sequence[Lot], closing: Closing, now_ms: int) -> None:
    """Add the entries that change lots to their closed state."""
    for lot in closing.new:
        found.give(lot, now_ms)
    fresh = [replace(lot, expired_micro=0, taken_micro=0, reduced_micro=0) for lot in closing.new]
    for was in (*before, *fresh):
        lot = closing.lots[was.lot]
        if lot.expired_micro != was.expired_micro:
            found.entries.append(_expiry(was, lot.expired_micro - was.expired_micro, now_ms))
        if lot.reduced_micro != was.reduced_micro:
            found.entries.append(_reduced(was, lot.reduced_micro - was.reduced_micro, now_ms))
    found.deferred[customer_id] = closing.deferred_micro
    if closing.unfinished:
        found.unfinished.add(customer_id)


def _expiry(lot: Lot, amount_micro: int, now_ms: int) -> dict[str, object]:
    """Return the entry of an expiry, or of credit that returns to a pool.

    Returning credit is dated at its allotment. So the lot that paid for the allotment has the credit again, or the
    credit expires with that lot.
    """
    assert lot.expires_ms is not None
    over = "expired" if lot.pool is None else "returned to its pool"
    return {
        "key": f"expiry:{lot.lot}:r{lot.expiries}",
        "kind": "expiry",
        "from_account": wallet_account(lot.customer_id),
        "to_account": BREAKAGE if lot.pool is None else wallet_account(lot.pool),
        "amount_micro": amount_micro,
        "ts": lot.expires_ms if lot.pool is None else lot.begins_ms,
        "at_ms": now_ms,
        "actor": "drawdown",
        "reason": over if amount_micro > 0 else "used in time after all",
        "lot": lot.lot,
    }


def _reduced(lot: Lot, amount_micro: int, now_ms: int) -> dict[str, object]:
    taken = {"key": f"reduced:{lot.lot}:r{lot.takes}", "lot": lot.lot, "amount_micro": -amount_micro, "ts": now_ms}
    return {**entry_of(lot, now_ms), **taken, "actor": "drawdown", "reason": "less rolled over: it was used late"}


def keep(connection: sa.Connection, found: Due, now_ms: int) -> None:
    """Write due changes: new lots, entries, and the state of the checked wallets."""
    grants.keep(connection, found.new_lots)
    post(connection, found.entries)
    if found.deferred:
        looked_at(connection, found, now_ms)
    grants.caught_up(connection, found.caught_up, now_ms)


def returned_to(found: Due) -> set[str]:
    """Return the pools to which credit returns."""
    sides = (str(entry["to_account"]) for entry in found.entries if entry["kind"] == "expiry")
    return {account.removeprefix(WALLET) for account in sides if account.startswith(WALLET)}


def lenders(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> list[str]:
    """Return the pools that ended lots of these wallets may credit or debit.

    A lot never ends before its grant, so the list is complete once the wallets are locked.
    """
    values = {"customers": list(customer_ids), "over_ms": now_ms - EXPIRY_WAIT_MS}
    return list(SQL.run(connection, "lenders", values).scalars())


def borrowers(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> list[str]:
    """Return the first customers with ended allotments of these pools to book.

    An end is booked EXPIRY_WAIT_MS later. The list has at most RETURNED_AT_ONCE customers, and includes customers who
    must return less than before.
    """
    part = borrowers_part(customer_ids, now_ms)
    return list(SQL.run(connection, part.name, part.values).scalars())


def borrowers_part(customer_ids: Sequence[str], now_ms: int) -> Part:
    """Return the query of `borrowers`, to run with other queries in one statement."""
    values = {"customers": list(customer_ids), "over_ms": now_ms - EXPIRY_WAIT_MS, "at_most": RETURNED_AT_ONCE}
    return SQL.part("borrowers", values)


def looked_at(connection: sa.Connection, found: Due, now_ms: int) -> None:
    """Mark the lots of wallets as checked.

    Store the amounts that wait, and those of ended lots.
    """
    looked = [
        {"account_id": wallet_account(one), "deferred_micro": found.deferred[one], "over_micro": found.over[one]}
        for one in sorted(found.deferred)
    ]
    SQL.run(connection, "looked_at", {"looked": looked, "over_ms": now_ms - EXPIRY_WAIT_MS, "now_ms": now_ms})
