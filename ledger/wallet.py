"""The embedded prepaid wallet, in Drawdown's database.

Guarantee: the ledger is double-entry, so each entry moves one amount between two accounts, and its lines sum to zero. A
usage key is charged only once. Usage is never refused because credit is missing. Used quantities are owed, so a balance
can be below zero. A batch of any size needs only a few statements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import sqlalchemy as sa

from drawdown.ledger import lots
from drawdown.ledger.accounts import WALLET, Wallet, read_wallets, set_plan, wallet_account
from drawdown.ledger.allocation import Lot
from drawdown.ledger.due_changes import look_ahead, mature
from drawdown.ledger.entries import MAX_ENTRY_MICRO, SOURCE, Usage, content, entry_of, post, read_contents
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.ledger.rates import Rate, read_rate_card
from drawdown.ledger.reservations import MATURE_TRIES
from drawdown.schema.audit import By, in_turn
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import counted_credits, window_of

SQL = queries(__file__)


class Charge(Enum):
    """The outcome of one usage."""

    CHARGED = "charged"
    ALREADY = "already"
    OTHER_CONTENT = "other_content"
    NO_RATE = "no_rate"
    TOO_LARGE = "too_large"


@dataclass(frozen=True)
class Granted:
    """The balance after a grant, in micro-credits.

    `repeated`: True if the grant existed before, so this call did not add credit.
    """

    balance_micro: int
    repeated: bool


def charge(connection: sa.Connection, batch: Sequence[Usage], now_ms: int) -> list[Charge]:
    """Charge usages, each key only once. Return one outcome for each, in order.

    Errors: BeyondBalance.
    """
    rates = _rates_of(connection, batch)
    entries: dict[str, dict[str, object]] = {}
    too_large: set[str] = set()
    for use in batch:
        rate = rates.get(_spot(use))
        if rate is not None and use.key not in entries:  # if a key comes twice, the first counts
            amount = rate.price(use.quantity)
            if abs(amount) > MAX_ENTRY_MICRO:
                too_large.add(use.key)
            else:
                entries[use.key] = entry_of(use, amount, rate.start_ms, now_ms)
    new = post(connection, list(entries.values()))
    repeated = _repeated(batch, new)
    stored = read_contents(connection, repeated)
    answers = []
    for use in batch:
        if use.key in new and stored.get(use.key, content(use)) == content(use):
            new.discard(use.key)
            answers.append(Charge.CHARGED)
        elif use.key in stored:
            answers.append(Charge.ALREADY if stored[use.key] == content(use) else Charge.OTHER_CONTENT)
        else:
            answers.append(Charge.TOO_LARGE if use.key in too_large else Charge.NO_RATE)
    return answers


def _spot(use: Usage) -> tuple[str, str, int]:
    """Return the key of a rate: a wallet, a feature and a window."""
    return wallet_account(use.customer_id), use.feature, window_of(use.ts)


def _rates_of(connection: sa.Connection, batch: Sequence[Usage]) -> dict[tuple[str, str, int], Rate]:
    """Return the rate of each use (S11).

    It is the rate of the wallet's first charge for the feature in the window. Without such a charge, it is the rate in
    force. So late use, and a refund, cost the same as the rest of their window, even if another rate was set later for
    that time.
    """
    card = read_rate_card(connection)
    found = {_spot(use): rate for use in batch if (rate := card.rate(use.feature, use.ts)) is not None}
    windows = [
        {"account_id": account, "feature": feature, "window_ms": window_ms}
        for (account, feature, window_ms), rate in sorted(found.items())
        if card.has_others(rate)
    ]
    for row in SQL.run(connection, "first_rates", {"windows": windows}) if windows else ():
        if row.rate_ms is not None and (first := card.rate(row.feature, row.rate_ms)) is not None:
            found[row.account_id, row.feature, row.window_ms] = first
    return found


def reverse(connection: sa.Connection, keys: Sequence[str], now_ms: int) -> set[str]:
    """Refund the charges under these keys, and return the keys that were charged.

    The refund is the charged amount, even if the rate changed. Each key is refunded only once. Errors: BeyondBalance.
    """
    rows = SQL.run(connection, "charges", {"keys": [{"key": key} for key in keys]}).mappings().all()
    back = [
        {
            **row,
            "key": f"{row['key']}:back",
            "kind": "usage",
            "amount_micro": -int(row["amount_micro"]),
            "quantity": -int(row["quantity"]),
            "at_ms": now_ms,
            "actor": "drawdown",
            "reason": "given back",
        }
        for row in rows
    ]
    post(connection, back)
    return {str(row["key"]) for row in rows}


def _repeated(batch: Sequence[Usage], new: set[str]) -> list[str]:
    """Return the keys that were charged before, or occur twice in this batch."""
    count = Counter(use.key for use in batch)
    return [key for key, times in count.items() if times > 1 or key not in new]


def grant(
    connection: sa.Connection,
    customer_id: str,
    amount_micro: int,
    *,
    key: str,
    now_ms: int,
    actor: str,
    reason: str,
    terms: Terms = PLAIN,
) -> Granted:
    """Grant credit as a lot on these terms.

    If the lot begins later, the balance includes it from then on.

    A negative amount takes credit back without a lot. A repeated grant does not add credit. Errors: Refused if this key
    was used before with different content.
    """
    if amount_micro > 0:
        begins_ms = now_ms if terms.begins_ms is None else terms.begins_ms
        given = {**vars(terms), "begins_ms": begins_ms, "at_ms": now_ms, "actor": actor, "reason": reason}
        lot = Lot(lot=key, customer_id=customer_id, amount_micro=amount_micro, **given)
        repeated = not lots.give(connection, lot)
        if begins_ms > now_ms:
            in_turn(connection)  # another customer's `_take` under this key does not lock this wallet
        if not repeated and not (
            post(connection, [lots.entry_of(lot, now_ms)]) if begins_ms <= now_ms else _is_free(connection, key)
        ):
            raise _used_before(connection, key)
    else:
        repeated = _take(connection, customer_id, amount_micro, key=key, now_ms=now_ms, actor=actor, reason=reason)
    return Granted(read_wallets(connection, [customer_id])[customer_id].balance_micro, repeated)


def is_granted(connection: sa.Connection, key: str) -> bool:
    """Return True if a grant has this key."""
    return lots.read(connection, key) is not None or not _is_free(connection, key)


def _take(connection: sa.Connection, customer_id: str, amount_micro: int, *, key: str, **by: object) -> bool:
    """Post a grant of a negative amount, and return True if it existed before.

    Errors: Refused.
    """
    entry = {
        "key": key,
        "kind": "grant",
        "from_account": SOURCE,
        "to_account": wallet_account(customer_id),
        "amount_micro": amount_micro,
        "ts": by["now_ms"],
        "at_ms": by["now_ms"],
        "actor": by["actor"],
        "reason": by["reason"],
    }
    if post(connection, [entry]):
        in_turn(connection)  # the lot of another customer's grant that begins later is in another wallet
        if lots.read(connection, key) is not None:
            raise _used_before(connection, key, is_lot=True)
        return False
    before = SQL.run(connection, "grant", {"key": key}).one_or_none()
    if before is None or (before.to_account, before.amount_micro) != (entry["to_account"], amount_micro):
        raise _used_before(connection, key)
    return True


def _is_free(connection: sa.Connection, key: str) -> bool:
    """Return True if no entry has this key, so that a lot can begin under it later."""
    return SQL.run(connection, "grant", {"key": key}).first() is None


def _used_before(connection: sa.Connection, key: str, *, is_lot: bool = False) -> Refused:
    """Return the error for a used key.

    `is_lot`: True if a lot that begins later has this key.
    """
    before = None if is_lot else SQL.run(connection, "grant", {"key": key}).one_or_none()
    given, shown = "a lot that begins later", "ledger lots CUSTOMER"
    if before is not None:
        customer = before.to_account.removeprefix(WALLET)
        given, shown = f"{counted_credits(before.amount_micro)} to {customer}", f"ledger show {typed(customer)}"
    return Refused(f"key {key} was used for {given}. This call did not move credit. Run `drawdown {shown}`")


@dataclass(frozen=True)
class TakeBack:
    """The result of taking back a lot. Amounts are micro-credits.

    `amount_micro` was taken now, under `key` (None if the amount is 0). `promised_micro` was not taken, because
    executions have reserved it. `balance_micro`: the balance afterwards.
    """

    amount_micro: int
    key: str | None
    promised_micro: int
    balance_micro: int


def take_back(connection: sa.Connection, lot: Lot, by: By, *, whole: bool) -> TakeBack:
    """Take back the unused and unreserved credit of a lot.

    `whole`: True to take back the used and reserved credit, too. Other lots then pay for the use of this lot, or the
    use is owed, and reserved credit may be missing. Errors: DatabaseBusy if more changes are due in the wallet than one
    transaction books.
    """
    customer = lot.customer_id
    whose = [customer, *([] if lot.pool is None else [lot.pool])]
    make_true(connection, whose, by.now_ms)
    those = lots.read_all(connection, [customer])
    found = next(one for one in those[customer] if one.lot == lot.lot)
    amount, promised, key = found.amount_micro - found.taken_micro, 0, None
    if not whole:
        amount = lots.unused_micro(found, lots.allocations(connection, those, by.now_ms)[customer])
        if found.begins_ms <= by.now_ms:
            now = read_wallets(connection, [customer])[customer]
            # `others`: credit that new executions cannot reserve.
            others = max(now.over_micro - (amount if found.is_over(by.now_ms) else 0), 0)
            promised = lots.promised(amount, now.balance_micro - others, now.held_micro)
    amount -= promised
    if amount > 0:
        key = f"back:{found.lot}:r{found.takes}"
        back = {**lots.entry_of(found, by.now_ms), "actor": by.actor, "reason": by.reason}
        # A lot that begins later is taken back at its start, so that no balance before it lacks the amount.
        # An allotment is taken back as if the pool had never allotted it.
        dated_ms = max(by.now_ms, lot.begins_ms) if lot.pool is None else lot.begins_ms
        back |= {"key": key, "lot": found.lot, "amount_micro": -amount, "ts": dated_ms}
        begun = (
            [lots.entry_of(found, by.now_ms)] if found.begins_ms > by.now_ms else []
        )  # so that its start does not add credit later
        post(connection, [*begun, back])
        lots.look_again(connection, customer)
        make_true(connection, whose, by.now_ms)
    balance = read_wallets(connection, [customer])[customer].balance_micro
    return TakeBack(max(amount, 0), key, promised, balance)


def change_plan(connection: sa.Connection, customer_id: str, plan: str, by: By) -> bool:
    """Put a customer on a plan, and grant the plan's credit.

    Return True if the plan changed.

    Credit that plans granted before stays until its end. Errors: Refused for a plan that does not exist; DatabaseBusy
    if more changes are due than one transaction books.
    """
    make_true(connection, [customer_id], by.now_ms)
    changed = set_plan(connection, customer_id, plan, by)
    if changed:
        make_true(connection, [customer_id], by.now_ms)
    return changed


def read_ahead(connection: sa.Connection, customer_ids: Iterable[str], now_ms: int) -> Mapping[str, Wallet]:
    """Return wallets for verdicts, without a change to them.

    If a wallet lacks available credit, or its `over_micro` is not 0, the result includes the wallet's due changes.
    Otherwise an organisation could be halted before its month's credit is granted, or because of use that an ended lot
    has paid for. Any other wallet is returned as stored, until the sweep books its due changes.
    """
    found = dict(read_wallets(connection, customer_ids))
    spent = [wallet_account(name) for name, one in found.items() if one.available_micro <= 0 or one.over_micro]
    for account in SQL.run(connection, "due", {"accounts": spent, "now_ms": now_ms}).scalars().all() if spent else ():
        customer_id = str(account).removeprefix(WALLET)
        found[customer_id] = look_ahead(connection, customer_id, now_ms)
    return found


def make_true(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> None:
    """Book all due changes of wallets, and lock the wallets.

    They stay locked until this transaction is over. A wallet that does not exist is not locked. Create it first
    (`accounts.open_accounts`). The caller must refresh the verdicts of their organisations, even if it changes nothing
    else, because the sweep then does not find due changes.

    Errors: DatabaseBusy if more changes are due than one transaction books.
    """
    for _ in range(MATURE_TRIES):
        if mature(connection, customer_ids, now_ms):
            return
    whose = " and ".join(customer_ids)
    raise DatabaseBusy(f"too many changes are due in the wallet of {whose} for one transaction. Try again")


def read_totals(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int) -> dict[str, int]:
    """Return the base units charged by feature, for usage dated in [from_ms, to_ms)."""
    values = {"from_account": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms}
    return {row.feature: int(row.quantity) for row in SQL.run(connection, "totals", values)}


def read_charge(connection: sa.Connection, key: str) -> int | None:
    """Return the base units charged under a key; None if it was never charged."""
    return read_charges(connection, [key]).get(key)


def read_charges(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    """Return the charged base units by key, without keys that were never charged."""
    rows = SQL.run(connection, "charges", {"keys": [{"key": key} for key in keys]})
    return {row.key: int(row.quantity) for row in rows}
