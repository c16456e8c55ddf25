"""The embedded prepaid wallet, in the same database.

Guarantee: double-entry (each entry moves one amount between two accounts, so its lines sum to zero), a usage key is
charged once for good, and usage is never refused: what was used is owed, a balance may go below zero. A batch of any
size is a few statements.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import sqlalchemy as sa

from drawdown.ledger.rates import Rate, price, rate_for
from drawdown.schema.database import rows_sql
from drawdown.schema.errors import Refused

SOURCE = "source:grants"
MAX_ENTRY_MICRO = 10**15
"""A thousand million credits, as for a grant: balances of many such entries still fit in 64 bits."""


@dataclass(frozen=True)
class Usage:
    """One quantity of a feature used by a customer at `ts` (milliseconds)."""

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int


class Charge(Enum):
    """What became of one usage."""

    CHARGED = "charged"
    ALREADY = "already"
    OTHER_CONTENT = "other_content"
    NO_RATE = "no_rate"
    TOO_LARGE = "too_large"


@dataclass(frozen=True)
class Wallet:
    """A customer's wallet: what is left in micro-credits, the plan, and how many sandboxes at once it allows."""

    balance_micro: int
    plan: str | None
    max_concurrent: int | None


@dataclass(frozen=True)
class Granted:
    """The balance after a grant, in micro-credits; `repeated`: the same was given before, and nothing was added."""

    balance_micro: int
    repeated: bool


def wallet_account(customer_id: str) -> str:
    return f"wallet:{customer_id}"


def charge(connection: sa.Connection, batch: Sequence[Usage], now_ms: int) -> list[Charge]:
    """Charge usages, each key once for good; one answer each, in order."""
    rates = read_rates(connection)
    entries: dict[str, dict[str, object]] = {}
    too_large: set[str] = set()
    for use in batch:
        rate = rate_for(rates, use.feature, use.ts)
        if rate is not None and use.key not in entries:  # of a key that comes twice, the first counts
            amount = price(use.quantity, rate)
            if abs(amount) > MAX_ENTRY_MICRO:
                too_large.add(use.key)
            else:
                entries[use.key] = _entry(use, amount, now_ms)
    new = _post(connection, list(entries.values()))
    repeated = _repeated(batch, new)
    known = _content(connection, repeated)
    answers = []
    for use in batch:
        if use.key in new and known.get(use.key, _said(use)) == _said(use):
            new.discard(use.key)
            answers.append(Charge.CHARGED)
        elif use.key in known:
            answers.append(Charge.ALREADY if known[use.key] == _said(use) else Charge.OTHER_CONTENT)
        else:
            answers.append(Charge.TOO_LARGE if use.key in too_large else Charge.NO_RATE)
    return answers


def reverse(connection: sa.Connection, keys: Sequence[str], now_ms: int) -> set[str]:
    """Give back what was charged under these keys: the amount of then, whatever the rate card says by now, each key
    once for good. Returns those of the keys that were charged."""
    found = connection.execute(
        sa.text(
            f"WITH wanted AS ({rows_sql(connection, {'key': 'text'})}) SELECT e.key, e.from_account, e.to_account, "
            "e.amount_micro, e.feature, e.quantity, e.ts FROM ledger_entries e JOIN wanted w ON w.key = e.key "
            "WHERE e.kind = 'usage'"
        ),
        {"rows": json.dumps([{"key": key} for key in keys])},
    )
    rows = found.mappings().all()
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
    _post(connection, back)
    return {str(row["key"]) for row in rows}


def _repeated(batch: Sequence[Usage], new: set[str]) -> list[str]:
    """Keys that were charged before, or come a second time in this batch."""
    count = Counter(use.key for use in batch)
    return [key for key, times in count.items() if times > 1 or key not in new]


def grant(
    connection: sa.Connection, customer_id: str, amount_micro: int, *, key: str, now_ms: int, actor: str, reason: str
) -> Granted:
    """Give credit (a negative amount takes it back).

    Errors: Refused where this key was used before with another amount or customer. The same grant again is no error
    and changes nothing.
    """
    row = {
        "key": key,
        "kind": "grant",
        "from_account": SOURCE,
        "to_account": wallet_account(customer_id),
        "amount_micro": amount_micro,
        "feature": None,
        "quantity": None,
        "ts": now_ms,
        "at_ms": now_ms,
        "actor": actor,
        "reason": reason,
    }
    repeated = not _post(connection, [row])
    if repeated:
        before = connection.execute(
            sa.text("SELECT to_account, amount_micro FROM ledger_entries WHERE key = :key"), {"key": key}
        ).one()
        if tuple(before) != (row["to_account"], amount_micro):
            raise Refused(f"the grant key {key} was used before, for {before[1]} micro-credits to {before[0]}")
    return Granted(read_wallets(connection, [customer_id])[customer_id].balance_micro, repeated)


def read_wallets(connection: sa.Connection, customer_ids: Iterable[str]) -> Mapping[str, Wallet]:
    """The wallets of customers; one never used before is empty."""
    ids = list(customer_ids)
    rows = connection.execute(
        sa.text(
            f"WITH wanted AS ({rows_sql(connection, {'id': 'text'})}) "
            "SELECT w.id, COALESCE(a.balance_micro, 0), a.plan, p.max_concurrent_sandboxes FROM wanted w "
            "LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || w.id "
            "LEFT JOIN ledger_plans p ON p.plan = a.plan"
        ),
        {"rows": json.dumps([{"id": customer_id} for customer_id in ids])},
    )
    return {row[0]: Wallet(int(row[1]), row[2], row[3]) for row in rows}


def read_totals(connection: sa.Connection, customer_id: str, from_ms: int, to_ms: int) -> dict[str, int]:
    """Charged quantity by feature, of usage dated in [from_ms, to_ms)."""
    rows = connection.execute(
        sa.text(
            "SELECT feature, CAST(SUM(quantity) AS BIGINT) FROM ledger_entries WHERE kind = 'usage' "
            "AND from_account = :account AND ts >= :from_ms AND ts < :to_ms GROUP BY feature"
        ),
        {"account": wallet_account(customer_id), "from_ms": from_ms, "to_ms": to_ms},
    )
    return {feature: int(quantity) for feature, quantity in rows}


def read_charge(connection: sa.Connection, key: str) -> int | None:
    """The quantity charged under a key; None where it was never charged."""
    return read_charges(connection, [key]).get(key)


def read_charges(connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
    """The quantities charged under those of these keys that were charged."""
    rows = connection.execute(
        sa.text(
            f"WITH wanted AS ({rows_sql(connection, {'key': 'text'})}) SELECT e.key, e.quantity FROM ledger_entries e "
            "JOIN wanted w ON w.key = e.key WHERE e.kind = 'usage'"
        ),
        {"rows": json.dumps([{"key": key} for key in keys])},
    )
    return {key: int(quantity) for key, quantity in rows}


def read_rates(connection: sa.Connection) -> list[Rate]:
    """The whole rate card."""
    rows = connection.execute(sa.text("SELECT feature, start_ms, micro_credits, per_quantity FROM ledger_rates"))
    return [Rate(*row) for row in rows]


def set_plan(connection: sa.Connection, customer_id: str, plan: str) -> None:
    """Put a customer on a plan.

    Errors: Refused for a plan that does not exist.
    """
    known = connection.execute(sa.text("SELECT 1 FROM ledger_plans WHERE plan = :plan"), {"plan": plan}).first()
    if known is None:
        raise Refused(f"there is no plan {plan}: make it with `drawdown ledger plan {plan} --max-concurrent N`")
    _open_accounts(connection, [wallet_account(customer_id)])
    connection.execute(
        sa.text("UPDATE ledger_accounts SET plan = :plan WHERE account_id = :account"),
        {"plan": plan, "account": wallet_account(customer_id)},
    )


def _said(use: Usage) -> tuple[str, str, int]:
    return (wallet_account(use.customer_id), use.feature, use.quantity)


def _entry(use: Usage, amount_micro: int, now_ms: int) -> dict[str, object]:
    return {
        "key": use.key,
        "kind": "usage",
        "from_account": wallet_account(use.customer_id),
        "to_account": f"revenue:{use.feature}",
        "amount_micro": amount_micro,
        "feature": use.feature,
        "quantity": use.quantity,
        "ts": use.ts,
        "at_ms": now_ms,
        "actor": "drawdown",
        "reason": "usage",
    }


_ENTRY_COLUMNS = {
    "key": "text",
    "kind": "text",
    "from_account": "text",
    "to_account": "text",
    "amount_micro": "bigint",
    "feature": "text",
    "quantity": "bigint",
    "ts": "bigint",
    "at_ms": "bigint",
    "actor": "text",
    "reason": "text",
}


def _post(connection: sa.Connection, entries: Sequence[dict[str, object]]) -> set[str]:
    """Insert entries whose keys are new and move the balances; returns the new keys."""
    if not entries:
        return set()
    ordered = sorted(entries, key=lambda entry: str(entry["key"]))  # one order for all workers: no deadlock
    _open_accounts(connection, [str(entry[side]) for entry in ordered for side in ("from_account", "to_account")])
    names = ", ".join(_ENTRY_COLUMNS)
    new = set(
        connection.execute(
            sa.text(
                f"INSERT INTO ledger_entries ({names}) SELECT {names} FROM ({rows_sql(connection, _ENTRY_COLUMNS)}) r "
                "WHERE 1 = 1 ON CONFLICT (key) DO NOTHING RETURNING key"
            ),
            {"rows": json.dumps(ordered)},
        ).scalars()
    )
    moves: dict[str, int] = defaultdict(int)
    for entry in ordered:
        if entry["key"] in new:
            moves[str(entry["from_account"])] -= int(str(entry["amount_micro"]))
            moves[str(entry["to_account"])] += int(str(entry["amount_micro"]))
    _move(connection, moves)
    return new


def _open_accounts(connection: sa.Connection, accounts: Iterable[str]) -> None:
    rows = [{"id": account, "kind": account.split(":", 1)[0]} for account in sorted(set(accounts))]
    connection.execute(
        sa.text(
            "INSERT INTO ledger_accounts (account_id, kind) SELECT id, kind FROM "
            f"({rows_sql(connection, {'id': 'text', 'kind': 'text'})}) r WHERE 1 = 1 "
            "ORDER BY id ON CONFLICT (account_id) DO NOTHING"
        ),
        {"rows": json.dumps(rows)},
    )


def _move(connection: sa.Connection, moves: Mapping[str, int]) -> None:
    rows = [{"id": account, "amount": moves[account]} for account in sorted(moves)]
    connection.execute(
        sa.text(
            "UPDATE ledger_accounts SET balance_micro = balance_micro + r.amount FROM "
            f"({rows_sql(connection, {'id': 'text', 'amount': 'bigint'})}) r WHERE account_id = r.id"
        ),
        {"rows": json.dumps(rows)},
    )


def _content(connection: sa.Connection, keys: Sequence[str]) -> dict[str, tuple[str, str, int]]:
    """What the ledger holds under these keys."""
    if not keys:
        return {}
    rows = connection.execute(
        sa.text(
            f"WITH wanted AS ({rows_sql(connection, {'key': 'text'})}) SELECT e.key, e.from_account, e.feature, "
            "e.quantity FROM ledger_entries e JOIN wanted w ON w.key = e.key"
        ),
        {"rows": json.dumps([{"key": key} for key in keys])},
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}
