"""What the processes of a siege of programs are to do, all of it by the seed: uses, batches of events, backfills."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import Final

from drawdown.events.envelope import UsageEvent
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from tests.crash.data import FROM_MS

NOW_MS: Final = FROM_MS + 20 * DAY_MS
"""When a siege begins: so much of its month is left that none turns."""
ORGS: Final = ("acme", "globex", "initech")
TYPE: Final = "job.run"
FEATURE: Final = "job_run"
METRICS: Final = {"idea": (MICRO, 1), "byte": (MICRO, 25), "look": (0, 1)}
"""Each with its price: micro-credits, for so many units."""
GIVEN: Final = 10**9
PART: Final = 7
"""Events that are staged at once."""


@dataclass(frozen=True)
class Ask:
    """A use: at once where `end` is "used"; else it is held, and ends with `actual`."""

    key: str
    org: str
    metric: str
    amount: int
    end: str
    actual: int


@dataclass(frozen=True)
class Fill:
    """A backfill; some are taken back."""

    name: str
    org: str
    from_ms: int
    to_ms: int
    events: tuple[UsageEvent, ...]
    reverted: bool


def uses(seed: int, client: int, count: int) -> list[Ask]:
    dice = random.Random(f"{seed}-uses-{client}")
    return [_use(dice, f"{client}-{number}") for number in range(count)]


def _use(dice: random.Random, name: str) -> Ask:
    org, amount = dice.choice(ORGS), dice.randint(1, 4)
    end = dice.choice(("used", "used", "settled", "settled", "released"))
    actual = amount if end == "used" else dice.randint(0, amount + 2) if end == "settled" else dice.choice((0, 1))
    return Ask(f"{org}-{name}", org, dice.choice(sorted(METRICS)), amount, end, actual)


def batches(seed: int, sender: int, count: int) -> list[list[UsageEvent]]:
    """Some events are in two of them, as whoever lost an answer sends them."""
    dice = random.Random(f"{seed}-events-{sender}")
    made: list[list[UsageEvent]] = []
    for number in range(count):
        batch = [_event(dice, dice.choice(ORGS), f"{sender}-{number}-{place}") for place in range(dice.randint(1, 12))]
        made.append(batch + (dice.sample(made[-1], 1) if made else []))
    return made


def fills(seed: int, count: int) -> list[Fill]:
    """Two of three stay."""
    dice = random.Random(f"{seed}-fills")
    made = []
    for number in range(count):
        org, first = dice.choice(ORGS), NOW_MS - dice.randint(2, 9) * DAY_MS
        first -= first % WINDOW_MS
        event = partial(_event, dice, org, span=(first, first + DAY_MS))
        events = tuple(event(f"fill-{number}-{place}") for place in range(dice.randint(8, 24)))
        made.append(Fill(f"fill-{number}", org, first, first + DAY_MS, events, number % 3 == 0))
    return made


def _event(
    dice: random.Random, org: str, name: str, span: tuple[int, int] = (NOW_MS - 9 * DAY_MS, NOW_MS)
) -> UsageEvent:
    return UsageEvent("siege", f"{org}-{name}", TYPE, org, dice.randint(1, 500), dice.randrange(*span), subject="ann")
