"""Long lives of top-ups against a payment service that fails a third of all calls, with kills between any two steps.

Guarantee: a seed says all. In the end the service heals, everything is settled, and its own books are the judge.
"""

from __future__ import annotations

import random
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial

from drawdown.schema.database import read
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.topup import actions as said
from drawdown.worker.topup.actions import Mode
from drawdown.worker.verify.verify import verify
from tests.fake_payments import CHARGE_FAULTS
from tests.integration.topping import HOUR_MS, Hand, Purses, judged
from tests.sqlite_databases import fresh

WALLETS = 40
A_STRETCH = 45
"""Steps between two changes of the world."""
MOST_STRETCHES = 400
"""A bug may keep everything open: then there is nothing more to begin."""
MODES: tuple[Mode, ...] = ("live", "live", "stopped")
MANNERS = ("good",) * 12 + ("declined", "stolen", "action", "none")


@dataclass
class Life:
    """One life, when it is over."""

    purses: Purses
    hand: Hand
    breaches: list[str]

    @property
    def episodes(self) -> int:
        return int(self.purses.rows("SELECT COUNT(*) FROM topups")[0][0])


def lived(
    episodes: int,
    seed: int,
    *,
    rate: float = 1 / 3,
    keeps_ms: int = DAY_MS,
    faults: tuple[str, ...] = CHARGE_FAULTS,
    max_day: int = 100,
    arms: float = 0.15,
    heals: bool = True,
) -> Life:
    """Until so many top-ups were begun, and everything that was open has ended (with a bug planted it may not). `arms`:
    how often people say that there is another card."""
    rng = random.Random(seed)
    purses = Purses(fresh(), seed, rate)
    purses.pay.keeps_ms, purses.pay.faults = keeps_ms, faults
    for number in range(WALLETS):
        purses.set(f"w{number}", max_day=max_day)
    hand = Hand(purses, rng)
    for _ in range(MOST_STRETCHES if heals else episodes // 10):
        if _begun(purses) >= episodes:
            break
        _world(purses, rng, arms)
        for _ in range(A_STRETCH):
            hand.step()
    assert not heals or _begun(purses) >= episodes, f"only {_begun(purses)} of {episodes} were begun"
    for number in range(WALLETS):
        _mode(purses, f"w{number}", "stopped")
    with nullcontext() if heals else suppress(AssertionError):
        purses.settle(days=20 if heals else 3)
    for _ in range(3):  # whoever lay still all the time goes on, and is too late
        for _ in range(len(hand.running) * 20):
            hand.step()
        purses.fill(2 * DAY_MS)
    found = read(purses.engine, verify).breaches
    return Life(
        purses, hand, judged(purses) + [str(one) for one in found if "that push does not exist" not in one.text]
    )


def _mode(purses: Purses, name: str, mode: Mode) -> None:
    purses.write(partial(said.set_mode, customer_id=name, mode=mode, by=purses.by))


def _begun(purses: Purses) -> int:
    return int(purses.rows("SELECT COUNT(*) FROM topups")[0][0])


def _world(purses: Purses, rng: random.Random, arms: float) -> None:
    """Time goes by, wallets are used, cards change, people do what people do."""
    purses.later(rng.choice((MINUTE_MS, 11 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)))
    for number in range(WALLETS):
        name = f"w{number}"
        if rng.random() < 0.7:
            purses.use(rng.randint(1, 60) * MICRO, name)
        if rng.random() < 0.1:
            purses.pay.cards[f"cus_{name}"] = rng.choice(MANNERS)
        if rng.random() < arms:
            with suppress(Refused):  # it is stopped
                purses.resume(name)
        if rng.random() < 0.04:
            _mode(purses, name, rng.choice(MODES))
