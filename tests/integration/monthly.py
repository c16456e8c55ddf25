"""A wallet with a plan, and what its months came to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa

from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.grants import Gives
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from tests.integration.test_lots import Purse
from tests.integration.verifying import verified

HOUR_MS = 60 * MINUTE_MS


def month(number: int) -> int:
    """When a month begins: 1 is January of 2026, 13 January of 2027."""
    return int(datetime(2026 + (number - 1) // 12, (number - 1) % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000


class Account(Purse):
    """The wallet of acme, with a plan called team."""

    def plan(
        self, name: str = "team", included: int = 0, least: int = 0, rolls: int = 0, *, first: int = 0, most: int = 5
    ) -> None:
        gives = Gives(included, least, rolls, first)
        self.write(lambda c: credit.set_plan_limit(c, name, most, self.fleet.by, gives=vars(gives)))

    def join(self, plan: str = "team") -> int:
        """Come onto a plan; the balance."""
        key = f"onto {plan} {self.uses}"
        self.uses += 1
        return self.write(lambda c: credit.grant(c, "acme", 0, self.fleet.by, key=key, plan=plan)).balance_micro

    def at(self, moment_ms: int) -> None:
        self.fleet.clock.at_ms = moment_ms

    def sweep(self, at_ms: int | None = None) -> list[str]:
        """What is due is made true, and then nothing is."""
        if at_ms is not None:
            self.at(at_ms)
        now, moved = self.fleet.clock.at_ms, set[str]()
        for _ in range(9):
            found = self.write(lambda c: mature_due(c, now))
            moved |= set(found.moved)
            if not found.more:
                break
        assert self.fleet.one("SELECT COUNT(*) FROM ledger_accounts WHERE next_due_ms <= :now", now=now) == 0
        return sorted(moved)

    @property
    def kept(self) -> list[tuple[str, int, int, int | None]]:
        """Lots of plans: key, amount, begin, end."""
        rows = self.fleet.rows("SELECT l.lot, l.amount_micro, l.begins_ms, l.expires_ms FROM ledger_lots l "
                               "JOIN plan_lots p ON p.lot = l.lot ORDER BY l.begins_ms, l.lot")  # fmt: skip
        return [(str(lot), int(str(amount)), int(str(begins)), ends) for lot, amount, begins, ends in rows]  # type: ignore[misc]

    def of_lot(self, lot: str) -> tuple[int, int, int, int]:
        """Left, used, expired, taken."""
        row = next(one for one in self.shown.lots if one.lot == lot)
        return (row.remaining_micro + row.waits_micro, row.used_micro, row.expired_micro, row.taken_back_micro)

    def tier(self, name: str = "pro", at_once: int = 100, price: int = 30) -> None:
        self.write(lambda c: tiers.set_tier(c, name, tiers.Change(at_once, price), self.fleet.by))

    def buy(self, name: str = "pro", customer: str = "acme") -> tiers.Bought:
        return self.write(lambda c: tiers.buy(c, customer, name, self.fleet.by))

    def undo(self, name: str = "pro") -> tiers.Bought:
        return self.write(lambda c: tiers.let_end(c, "acme", name, self.fleet.by))


def proven(engine: sa.Engine) -> Iterator[Account]:
    """In the end, nothing is a breach, and each lot is what became of it."""
    made = Account(engine)
    yield made
    assert [one.text for one in verified(made.fleet).breaches if one.invariant in (2, 10)] == []
    for row in made.shown.lots:
        parts = row.remaining_micro + row.waits_micro + row.used_micro + row.expired_micro + row.taken_back_micro
        assert row.amount_micro == parts, row
