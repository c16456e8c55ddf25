"""The sandboxes that a run names: for good, and one run that goes on each.

Guarantee: the table's own index lets no two runs of an organisation that go on name one sandbox. Ids are the
organisation's own: what another one names takes nothing away. Locks: a run's own key, then its
sandboxes by their ids, then wallets; whoever ends a run waits for nobody who names its sandboxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.maturing import MATURE_AT_ONCE, mature, touched
from drawdown.ledger.runs.denied import Denied
from drawdown.schema.clock import utc
from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_METERED: Final = 1_000
"""Runs that metering settles and that go on, of one wallet: all of them are looked at where it has no room."""


def require_few(connection: sa.Connection, customer_id: str, now_ms: int, *, with_new: bool) -> None:
    """A wallet has room for one more run that metering settles; or, `with_new`, was not too full for one that is
    written, and whose hold this transaction has taken: whoever waited for the wallet has seen all others.

    Errors: Denied `too_many_runs`, of the step `account`.
    """
    most = MOST_METERED if with_new else MOST_METERED - 1
    values = {"customer_id": customer_id, "now_ms": now_ms, "at_most": most + 1}
    if int(SQL.run(connection, "metered", values).scalar_one()) > most:
        text = f"metering settles {MOST_METERED:,} runs of {customer_id} that go on, and no more at once"
        raise Denied("too_many_runs", f"{text}: settle some, or name more sandboxes in one run", "account")


def require_free(connection: sa.Connection, org_id: str, names: Sequence[str], now_ms: int) -> None:
    """None of them is named by a run that goes on: a look ahead, which `take` decides. Errors: Denied."""
    values = {"org_id": org_id, "names": list(names), "now_ms": now_ms}
    row = SQL.run(connection, "takers", values).first() if names else None
    if row is not None:
        until = utc(row.expires_ms)
        raise Denied(
            "sandbox_taken",
            f"{row.sandbox_id} is named by the run {row.reservation}, which goes on until {until}: end it first",
        )


def payers_over(connection: sa.Connection, org_id: str, names: Sequence[str], now_ms: int) -> list[str]:
    """Who pays for runs that are over, were not expired yet and name these sandboxes: `take` makes their wallets
    true."""
    if not names:
        return []
    return list(SQL.run(connection, "over", {"org_id": org_id, "names": list(names), "now_ms": now_ms}).scalars())


def take(
    connection: sa.Connection, reservation: str, org_id: str, customer_id: str, names: Sequence[str], now_ms: int
) -> None:
    """Have a new run name its sandboxes. Runs that are over are expired first where they stand in the way.

    Errors: Denied `sandbox_taken`.
    """
    named = [{"reservation": reservation, "sandbox_id": name, "org_id": org_id} for name in sorted(names)]
    new = set(SQL.run(connection, "take", {"named": named}).scalars())
    if len(new) == len(named):
        return
    over = payers_over(connection, org_id, names, now_ms)
    if over:
        whose = sorted({customer_id, *over})
        due_of, _ = touched(connection, whose, now_ms)
        values = {"customers": whose, "due_of": due_of, "now_ms": now_ms, "at_most": MATURE_AT_ONCE}
        SQL.run(connection, "hold_runs", values).all()  # all that is held before a wallet is
        mature(connection, whose, now_ms)
        new |= set(SQL.run(connection, "take", {"named": named}).scalars())
    if len(new) < len(named):
        missing = [name for name in names if name not in new]
        require_free(connection, org_id, missing, now_ms)
        raise Denied("sandbox_taken", f"another run took {missing[0]} this moment: settle or release it first")
