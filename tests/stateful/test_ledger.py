"""The ledger, in any order of grants, charges, rates and give-backs; accounts charged at once by many; planted bugs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis.stateful import run_state_machine_as_test

from drawdown.ledger import accounts, wallet
from drawdown.ledger import entries as ledger_entries
from drawdown.ledger.entries import Usage
from drawdown.ledger.rates import Rate, RateCard
from drawdown.ledger.wallet import Charge
from drawdown.schema.database import read, write
from drawdown.worker.push import wallet_mirror
from drawdown.worker.wallets import actions as credit
from tests.stateful.ledger import Ledger
from tests.stateful.scale import scale, until_red
from tests.whole import share
from tests.world import T0, Fleet


def test_ledger_operations_in_any_order_balance() -> None:
    run_state_machine_as_test(Ledger, settings=scale(share(5, whole=100), 30))


def test_concurrent_ledger_charges_count_each_key_once(postgres: sa.Engine) -> None:
    """Eight workers send the same keys of the same accounts, each in another order. SQLite has them take turns."""
    engine, fleet = postgres, Fleet(postgres)
    uses = [Usage(f"k{number}", f"c{number % 3}", "compute_1gb", number, T0) for number in range(60)]

    def work(worker: int) -> list[Charge]:
        mine = uses[worker * 7 :] + uses[: worker * 7]
        parts = [mine[at : at + 10] for at in range(0, len(mine), 10)]
        return [one for part in parts for one in write(engine, lambda c, part=part: wallet.charge(c, part, T0))]  # type: ignore[misc]

    with ThreadPoolExecutor(8) as pool:
        answers = [one for done in pool.map(work, range(8)) for one in done]
    assert (answers.count(Charge.CHARGED), answers.count(Charge.ALREADY)) == (60, 7 * 60)
    balances = fleet.rows("SELECT account_id, balance_micro FROM ledger_accounts ORDER BY 1")
    assert balances == [(f"wallet:c{n}", -100 * sum(range(n, 60, 3))) for n in range(3)]
    lines = "(SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines WHERE account_id LIKE 'wallet:%')"
    assert fleet.one(f"SELECT SUM(balance_micro) - {lines} FROM ledger_accounts") == 0


def _twice(right: Callable[..., set[str]]) -> Callable[..., set[str]]:
    """The balance moves for what was posted before, too: a second charge of the same key."""

    def wrong(connection: sa.Connection, entries: Any) -> set[str]:
        new = right(connection, entries)
        moves = {}
        for entry in entries:
            if entry["key"] not in new and entry["kind"] == "usage":
                moves[str(entry["from_account"])] = -int(entry["amount_micro"])
        ledger_entries._move(connection, moves, dict.fromkeys(moves, T0))
        return new

    return wrong


def _halves_down(rate: Rate, quantity: int) -> int:
    return quantity * rate.micro_credits // rate.per_quantity


def _newest(card: RateCard, feature: str, ts: int) -> Rate | None:
    return max((rate for rate in card.rates if rate.feature == feature), key=lambda rate: rate.start_ms, default=None)


BALANCE = "the balance is not what the model says"
NEWEST = "said again, it changed something|a rate begins at another time"
NO_PRICE = "not charged, though it has a price|no price, and charged"
PLANTED: dict[str, tuple[object, str, Any, str]] = {
    "a double charge on the same key": (wallet, "post", _twice(ledger_entries.post), BALANCE),
    "rounding down": (Rate, "price", _halves_down, BALANCE),
    "the newest rate for all usage": (RateCard, "rate", _newest, f"{BALANCE}|{NO_PRICE}|{NEWEST}"),
    "a key of another account taken for the same": (
        wallet, "content", lambda use: ("", use.feature, use.quantity), "another use taken for the same"),
    "given back twice": (wallet_mirror, "give_back", lambda c, pushes, now: wallet.charge(
        c, [Usage(f"mirror:{p.key}:{now}", p.customer_id, p.feature, -p.sent_qty, p.window_ms) for p in pushes], now),
        f"charged as something else|{BALANCE}"),
}  # fmt: skip
"""What is put in the place of what, and what the machine says of it."""


@pytest.mark.parametrize("bug", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    module, name, wrong, said = PLANTED[bug]
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError, match=said):
        run_state_machine_as_test(Ledger, settings=until_red(200, 30))


def test_planted_rounding_differs_from_rate_price() -> None:
    half = Rate("f", 0, 1, 2)
    assert (_halves_down(half, 1), half.price(1)) == (0, 1)


def test_refund_after_rate_change_returns_original_price(engine: sa.Engine) -> None:
    """A rate that is set after a window was drawn, and begins with it, does not change what it cost."""
    fleet = Fleet(engine)
    write(engine, lambda c: credit.grant(c, "c", 1_000, fleet.by, key="given", plan=None))
    push = SimpleNamespace(key="p", org_id="o", customer_id="c", feature="compute_1gb", sent_qty=3, window_ms=T0)
    write(engine, lambda c: wallet_mirror.draw(c, [wallet_mirror.usage_of(push)], T0))
    write(engine, lambda c: credit.set_rate(c, "compute_1gb", 0, 1, fleet.by, from_ms=T0))
    for _ in range(2):
        write(engine, lambda c: wallet_mirror.give_back(c, [push], T0))
    assert read(engine, lambda c: accounts.read_wallets(c, ["c"]))["c"].balance_micro == 1_000
    assert fleet.one("SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'") == 0


def test_ledger_draw_and_refund_repeated_each_count_once(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    write(engine, lambda c: credit.grant(c, "c", 1_000, fleet.by, key="given", plan=None))
    push = SimpleNamespace(key="p", org_id="o", customer_id="c", feature="compute_1gb", sent_qty=3, window_ms=T0)
    seen = []
    for _ in range(3):
        for _ in range(2):  # each counts once
            write(engine, lambda c: wallet_mirror.draw(c, [wallet_mirror.usage_of(push)], T0))
        seen.append(read(engine, lambda c: accounts.read_wallets(c, ["c"]))["c"].balance_micro)
        for _ in range(2):
            write(engine, lambda c: wallet_mirror.give_back(c, [push], T0))
        seen.append(read(engine, lambda c: accounts.read_wallets(c, ["c"]))["c"].balance_micro)
    assert seen == [700, 1_000] * 3
