"""Lots: credit with a kind, an order of use, a begin and an end.

Guarantee: a balance stays one number. A lot is in it from its begin on. Once a lot is over, what nobody used of it is
booked as the difference to what was booked before, so that use which comes late gives it back. What runs that go on
have reserved is not taken from under them. All under the wallet's lock, which the caller holds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.accounts import WALLET, open_accounts, wallet_account
from drawdown.ledger.allocation import Allocation, Kind, Lot, allocate, parts
from drawdown.ledger.entries import EVER_MS, SOURCE
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import GRACE_MS, WINDOW_MS

SQL = queries(__file__)

BREAKAGE: Final = "breakage"
"""Where credit goes that nobody used in time."""
EXPIRY_WAIT_MS: Final = 2 * WINDOW_MS + GRACE_MS
"""How long after its end a lot is booked: by then the last window of its life is over and past its grace, and a tick
has seen it. What comes later re-opens it; this only keeps what comes in time from being booked twice."""
DEFAULT_PRIORITY: Final = 50


@dataclass(frozen=True)
class Terms:
    """How credit may be used. Times are milliseconds: `begins_ms` None is now, `expires_ms` None never. `features`:
    None pays for all. Lower priorities are used first."""

    kind: Kind = "purchased"
    priority: int = DEFAULT_PRIORITY
    begins_ms: int | None = None
    expires_ms: int | None = None
    features: tuple[str, ...] | None = None


PLAIN: Final = Terms()


@dataclass
class Due:
    """What has to be posted in wallets by now, and what of each of those that were looked at waits for a run's end."""

    entries: list[dict[str, object]] = field(default_factory=list)
    deferred: dict[str, int] = field(default_factory=dict)


def give(connection: sa.Connection, lot: Lot) -> bool:
    """Keep a lot, and have its wallet know when it begins and expires; whether it is new.

    Errors: Refused where its key was used before for something else.
    """
    values = {**vars(lot), "features": None if lot.features is None else json.dumps(lot.features)}
    if SQL.run(connection, "insert", values).first() is None:
        before = read(connection, lot.lot)
        assert before is not None
        if not _is_same(before, lot):
            raise Refused(f"the grant key {lot.lot} was used before, for {_said(before)}: give a new one")
        return False
    account = wallet_account(lot.customer_id)
    open_accounts(connection, [account])
    over_ms = [] if lot.expires_ms is None else [lot.expires_ms + EXPIRY_WAIT_MS]
    for moment_ms in [lot.begins_ms, *over_ms] if lot.begins_ms > lot.at_ms else over_ms:
        SQL.run(connection, "expect", {"account_id": account, "moment_ms": moment_ms})
    return True


def look_again(connection: sa.Connection, customer_id: str) -> None:
    """Have a wallet fall due at once: what one of its lots is worth changed."""
    SQL.run(connection, "expect", {"account_id": wallet_account(customer_id), "moment_ms": 0})


def _is_same(before: Lot, lot: Lot) -> bool:
    """A begin that was not said is the moment it was given at, which is another one each time."""
    unsaid = before.begins_ms == before.at_ms and lot.begins_ms == lot.at_ms
    again = replace(before, at_ms=lot.at_ms, actor=lot.actor, reason=lot.reason)
    return again == (replace(lot, begins_ms=before.begins_ms) if unsaid else lot)


def _said(lot: Lot) -> str:
    ends = "never expiring" if lot.expires_ms is None else f"expiring at {lot.expires_ms}"
    pays = "" if lot.features is None else f", for {', '.join(lot.features)}"
    return (
        f"{lot.amount_micro} micro-credits to {wallet_account(lot.customer_id)} ({lot.kind}, priority {lot.priority}, "
        f"from {lot.begins_ms}, {ends}{pays})"
    )


def entry_of(lot: Lot, now_ms: int) -> dict[str, object]:
    """The entry that puts a lot into the balance, dated as it begins."""
    return {
        "key": lot.lot,
        "kind": "grant",
        "from_account": SOURCE,
        "to_account": wallet_account(lot.customer_id),
        "amount_micro": lot.amount_micro,
        "ts": lot.begins_ms,
        "at_ms": now_ms,
        "actor": lot.actor,
        "reason": lot.reason,
    }


def read(connection: sa.Connection, lot: str) -> Lot | None:
    """A lot as it was given, without what was booked of it; None where there is none."""
    row = SQL.run(connection, "one", {"lot": lot}).mappings().one_or_none()
    return None if row is None else _lot(row)


def read_all(connection: sa.Connection, customer_ids: Sequence[str]) -> dict[str, list[Lot]]:
    """The lots of wallets, with what was booked of each, in their order of use."""
    found: dict[str, list[Lot]] = {customer_id: [] for customer_id in customer_ids}
    for row in SQL.run(connection, "of_wallets", {"customers": list(customer_ids)}).mappings():
        found[row["customer_id"]].append(_lot(row))
    return {customer_id: sorted(lots, key=lambda lot: lot.turn) for customer_id, lots in found.items()}


def _lot(row: Mapping[Any, Any]) -> Lot:
    features = row["features"]
    return Lot(**{**row, "features": None if features is None else tuple(json.loads(features))})


def allocations(connection: sa.Connection, lots: Mapping[str, Sequence[Lot]]) -> dict[str, Allocation]:
    """What each lot of these wallets paid, by what is in the ledger now: one statement for all of them."""
    cut = [
        {
            "account_id": wallet_account(customer_id),
            "part": number,
            "from_ms": -EVER_MS if start is None else start,
            "to_ms": EVER_MS if end is None else end,
        }
        for customer_id, those in lots.items()
        for number, (start, end) in enumerate(parts(those))
    ]
    uses: dict[str, dict[int, dict[str | None, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for row in SQL.run(connection, "used", {"parts": cut}):
        uses[row.account_id][row.part][row.feature] += row.amount_micro
    return {customer_id: allocate(those, uses[wallet_account(customer_id)]) for customer_id, those in lots.items()}


def due(connection: sa.Connection, freed: Mapping[str, int], now_ms: int) -> Due:
    """What lots ask to be posted by now in these wallets, of which so much (`freed`) is held no longer though their
    rows still say so. Nothing is written."""
    found, begun = Due(), dict.fromkeys(freed, 0)
    over_ms = now_ms - EXPIRY_WAIT_MS
    for to_begin in SQL.run(connection, "to_begin", {"customers": list(freed), "now_ms": now_ms}).mappings():
        lot = _lot(to_begin)
        begun[lot.customer_id] += lot.amount_micro
        found.entries.append(entry_of(lot, now_ms))
    values = {"accounts": [wallet_account(one) for one in freed], "over_ms": over_ms}
    wallets = {row.account_id.removeprefix(WALLET): row for row in SQL.run(connection, "to_look_at", values)}
    if not wallets:
        return found
    lots = read_all(connection, list(wallets))
    for customer_id, allocation in allocations(connection, lots).items():
        row, is_over = wallets[customer_id], [lot for lot in lots[customer_id] if lot.is_over(over_ms)]
        room = row.balance_micro + begun[customer_id]
        changes = _changes(is_over, allocation, room, row.held_micro - freed[customer_id])
        found.deferred[customer_id] = sum(wanted - booked for _, wanted, booked in changes)
        found.entries += [_expiry(lot, booked, now_ms) for lot, _, booked in changes if booked]
    return found


def _changes(
    is_over: Sequence[Lot], allocation: Allocation, balance_micro: int, held_micro: int
) -> list[tuple[Lot, int, int]]:
    """Of each lot that is over: what is left to expire (or to give back), and how much of it is booked now. What runs
    would have to draw from it waits for their end."""
    wanted = [(lot, left(lot, allocation)) for lot in is_over]
    found = []
    for lot, amount in sorted(wanted, key=lambda one: (one[1] >= 0, one[0].expires_ms, one[0].lot)):
        waits = promised(amount, balance_micro, held_micro)
        found.append((lot, amount, amount - waits))
        balance_micro, held_micro = balance_micro - amount, held_micro - waits
    return found


def promised(amount_micro: int, balance_micro: int, held_micro: int) -> int:
    """How much of an amount that is to leave a wallet runs would have to draw. What is owed already is no promise."""
    return max(min(amount_micro + held_micro - balance_micro, held_micro, amount_micro), 0)


def left(lot: Lot, allocation: Allocation) -> int:
    """What nobody used of a lot, and what neither expired nor was taken back."""
    return lot.amount_micro - lot.taken_micro - lot.expired_micro - allocation.used[lot.lot]


def _expiry(lot: Lot, amount_micro: int, now_ms: int) -> dict[str, object]:
    assert lot.expires_ms is not None
    return {
        "key": f"expiry:{lot.lot}:r{lot.expiries}",
        "kind": "expiry",
        "from_account": wallet_account(lot.customer_id),
        "to_account": BREAKAGE,
        "amount_micro": amount_micro,
        "ts": lot.expires_ms,
        "at_ms": now_ms,
        "actor": "drawdown",
        "reason": "expired" if amount_micro > 0 else "used in time after all",
        "lot": lot.lot,
    }


def looked_at(connection: sa.Connection, deferred: Mapping[str, int], now_ms: int) -> None:
    """Note of wallets that their lots were looked at, and what waits."""
    looked = [{"account_id": wallet_account(one), "deferred_micro": deferred[one]} for one in sorted(deferred)]
    SQL.run(connection, "looked_at", {"looked": looked, "over_ms": now_ms - EXPIRY_WAIT_MS})
