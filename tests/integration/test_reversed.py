"""A correction costs what was charged, and use counts at the start of its window: charged in place, or sent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.ledger.accounts import read_wallets
from drawdown.ledger.entries import Usage
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.features.actions import map_event
from drawdown.worker.push import push
from drawdown.worker.usage.withdrawals import withdraw, withdraw_events
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from tests.integration.telling_events import event, told
from tests.integration.verifying import tamper
from tests.sent import nothing_in_place
from tests.whole import share
from tests.world import T0, Fleet

GIVEN = 10**9
ONE, FOUR = "compute_1gb", "compute_4gb"


@pytest.fixture(params=["in place", "sent"])
def fleet(request: pytest.FixtureRequest, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """acme has credit, and nothing was charged yet."""
    if request.param == "sent":
        monkeypatch.setattr(push, "charge_in_place", nothing_in_place)
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    write(engine, lambda c: credit.grant(c, "acme", GIVEN, made.by, key="g", plan=None))
    return made


def balance(fleet: Fleet, customer: str = "acme") -> int:
    return read(fleet.engine, lambda c: read_wallets(c, [customer]))[customer].balance_micro


def breaches(fleet: Fleet) -> list[str]:
    return [one.text for one in read(fleet.engine, partial(verify, now_ms=fleet.clock.at_ms)).breaches]


def taken_back(fleet: Fleet, *samples: str) -> None:
    write(fleet.engine, lambda c: withdraw(c, samples, fleet.by))
    fleet.tick_windows(1)


def test_withdrawn_sample_is_refunded_at_charged_rate(fleet: Fleet) -> None:
    first = fleet.sample("acme", T0 + 1, 600)
    fleet.tick_windows(2)
    assert balance(fleet) == GIVEN - 60_000
    fleet.rate(ONE, 1_000, from_ms=T0)
    late = fleet.sample("acme", T0 + 2, 50)
    other = fleet.sample("acme", T0 + WINDOW_MS, 7)  # the rate that was set since counts where nothing was charged yet
    fleet.tick_windows(2)
    assert balance(fleet) == GIVEN - 65_000 - 7_000
    taken_back(fleet, first)
    assert balance(fleet) == GIVEN - 5_000 - 7_000
    taken_back(fleet, late, other)
    assert (balance(fleet), breaches(fleet)) == (GIVEN, [])


def test_withdrawn_event_is_refunded_at_charged_rate(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: map_event(c, "page.render", "render", fleet.by, from_ms=T0))
    fleet.rate("render", 2)
    told(fleet, event("a", 30), event("b", 5))
    fleet.tick_windows(2)
    assert balance(fleet) == GIVEN - 70
    fleet.rate("render", 900, from_ms=T0)
    write(fleet.engine, lambda c: withdraw_events(c, "app", ["a"], fleet.by))
    fleet.tick_windows(1)
    assert (balance(fleet), breaches(fleet)) == (GIVEN - 10, [])


@pytest.mark.parametrize("seed", share((1,), whole=tuple(range(60))))
def test_withdrawal_of_all_samples_restores_balance_after_rate_changes(fleet: Fleet, seed: int) -> None:
    """A search: use, late use, rates for times that are over and withdrawals, in any order."""
    chance, there = random.Random(seed), list[str]()
    for _ in range(12):
        match chance.choice(("use", "use", "rate", "withdraw")):
            case "use":
                ago = chance.choice((0, 0, 1, 2, 9)) * WINDOW_MS
                ts = max(fleet.clock.at_ms - ago, T0) + 1
                there.append(fleet.sample("acme", ts, chance.randint(1, 99), chance.choice((1024, 4096))))
            case "rate":
                starts = chance.randint(0, (fleet.clock.at_ms - T0) // WINDOW_MS) * WINDOW_MS + T0
                feature, micro = chance.choice((ONE, FOUR)), chance.randint(1, 10**4)
                known = f"SELECT 1 FROM ledger_rates WHERE feature = '{feature}' AND start_ms = {starts}"
                if not fleet.rows(known):
                    fleet.rate(feature, micro, from_ms=starts)
            case "withdraw" if there:
                taken_back(fleet, there.pop(chance.randrange(len(there))))
        fleet.tick_windows(chance.choice((0, 1, 3)))
    fleet.tick_windows(3)
    taken_back(fleet, *there) if there else None
    assert (balance(fleet), breaches(fleet)) == (GIVEN, [])


@pytest.mark.parametrize("ticks", [(3,), (1, 1, 1)], ids=["at once", "in three revisions"])
def test_lot_that_ends_inside_window_pays_for_whole_window(fleet: Fleet, ticks: Sequence[int]) -> None:
    """However late the use is, and whatever its revision: so does its withdrawal give it back."""
    write(fleet.engine, lambda c: pools.make(c, "pool", fleet.by))
    write(fleet.engine, lambda c: credit.grant(c, "pool", 10**6, fleet.by, key="p", plan=None))
    fleet.assign("m", from_ms=T0)
    ends = T0 + 12 * WINDOW_MS + 100_000
    write(fleet.engine, lambda c: pools.allot(c, "pool", "m", 500_000, ends, fleet.by, key="a"))
    fleet.clock.at_ms = T0 + 13 * WINDOW_MS + MINUTE_MS
    samples = []
    for count in ticks:
        samples += [fleet.sample("m", T0 + 12 * WINDOW_MS + 1_000, 1_000) for _ in range(count)]
        fleet.tick(fleet.clock.at_ms + 2 * MINUTE_MS)
    dated = "SELECT DISTINCT ts FROM ledger_entries WHERE kind = 'usage' AND from_account = 'wallet:m'"
    assert fleet.rows(dated) == [(T0 + 12 * WINDOW_MS,)]
    for _ in range(2):
        fleet.tick_windows(4)
    assert (balance(fleet, "pool"), balance(fleet, "m"), breaches(fleet)) == (700_000, 0, [])
    taken_back(fleet, *samples)
    for _ in range(2):
        fleet.tick_windows(4)
    assert (balance(fleet, "pool"), balance(fleet, "m"), breaches(fleet)) == (10**6, 0, [])


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (f"UPDATE ledger_entries SET ts = ts + {MINUTE_MS} WHERE kind = 'usage'", "the ledger charged 660"),
        (
            f"UPDATE ledger_entries SET rate_ms = {T0}, amount_micro = amount_micro * 10 WHERE quantity < 0",
            "in one window",
        ),
    ],
)
def test_ledger_entry_at_other_time_or_rate_is_found_by_verify(fleet: Fleet, broken: str, says: str) -> None:
    fleet.sample("acme", T0 + 2, 600)
    wrong = fleet.sample("acme", T0 + 1, 60)
    fleet.tick_windows(2)
    fleet.rate(ONE, 1_000, from_ms=T0)
    taken_back(fleet, wrong)
    fleet.clock.at_ms += DAY_MS
    assert breaches(fleet) == []
    tamper(fleet, broken)
    assert any(says in one for one in breaches(fleet)), breaches(fleet)


def test_charge_without_rate_is_refunded_at_rate_known_then(fleet: Fleet) -> None:
    """It said no rate, and was dated inside its window."""
    wrong = fleet.sample("acme", T0 + 1, 60)
    fleet.tick_windows(2)
    tamper(fleet, "UPDATE ledger_entries SET rate_ms = NULL, ts = ts + 30000 WHERE kind = 'usage'")
    fleet.clock.at_ms += 1
    fleet.rate(ONE, 1_000, from_ms=T0)
    taken_back(fleet, wrong)
    assert (balance(fleet), breaches(fleet)) == (GIVEN, [])


def test_usages_in_batch_share_rate_of_window(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    use = partial(Usage, customer_id="c", feature=ONE, ts=T0)
    charged = [use(key="a", quantity=10), use(key="b", quantity=-10)]
    assert write(engine, lambda c: wallet.charge(c, charged[:1], T0)) == [wallet.Charge.CHARGED]
    fleet.rate(ONE, 77, from_ms=T0)
    assert write(engine, lambda c: wallet.charge(c, charged[1:], T0)) == [wallet.Charge.CHARGED]
    assert balance(fleet, "c") == 0
