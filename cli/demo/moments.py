"""The moments of the month, counted back from its last one.

Guarantee: ticks are counted: most of the month is settled three times a day, its last day every half hour, its
last hour and what happened in between every few minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drawdown.cli.demo.cast import DAYS
from drawdown.cli.demo.services import Outage
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS, window_of

TICKED_EVERY_MS: Final = 8 * HOUR_MS
HALF_HOUR_MS: Final = 30 * MINUTE_MS
MOST_TICKS: Final = 190
CHARGED_AT: Final = 14 * HOUR_MS + 5 * MINUTE_MS
OUTAGE_DAY: Final = 20


@dataclass(frozen=True)
class Calendar:
    """The month's moments, from its last one on."""

    now_ms: int
    days: int = DAYS

    @property
    def start_ms(self) -> int:
        return self.now_ms - self.days * DAY_MS

    @property
    def first_day_ms(self) -> int:
        """The midnight (UTC) before its first moment: days are counted from there."""
        return self.start_ms - self.start_ms % DAY_MS

    @property
    def often_from_ms(self) -> int:
        """Since when hosts tell of each minute: the hour before the last whole one."""
        return self.now_ms - self.now_ms % HOUR_MS - 2 * HOUR_MS

    @property
    def charged_ms(self) -> int:
        """14:05 of the day before yesterday (UTC)."""
        return self.now_ms - self.now_ms % DAY_MS - 2 * DAY_MS + CHARGED_AT

    @property
    def outage(self) -> tuple[int, int]:
        """Three hours in which Autumn gave no answer."""
        begun = window_of(self.start_ms + OUTAGE_DAY * DAY_MS)
        return begun, begun + 3 * HOUR_MS

    @property
    def silent_ms(self) -> int:
        """Since when Stripe gives no answer about wayne: longer than it surely remembers a key."""
        return self.now_ms - 26 * HOUR_MS

    @property
    def tangled_ms(self) -> int:
        """Since when it gave none about stark, for two days: a person said what became of what was in doubt."""
        return self.start_ms + 9 * DAY_MS

    @property
    def down_ms(self) -> int:
        """Since when Stripe is down for everybody."""
        return self.now_ms - 70 * MINUTE_MS

    def outages(self) -> dict[str, tuple[Outage, ...]]:
        return {
            "autumn": (Outage(*self.outage, "silent"),),
            "stripe": (
                Outage(self.now_ms - 7 * HOUR_MS, self.now_ms - 4 * HOUR_MS, "unknown_customer", "cus_Wonka03"),
                Outage(self.tangled_ms, self.tangled_ms + 50 * HOUR_MS, "tangled", "cus_Stark01"),
                Outage(self.silent_ms, None, "tangled", "cus_Wayne02"),
                Outage(self.down_ms, None, "refused"),
            ),
        }

    def ticks(self) -> list[int]:
        """When the month was settled."""
        found = set(range(self.start_ms + TICKED_EVERY_MS, self.now_ms, TICKED_EVERY_MS))
        found |= set(range(self.now_ms - 2 * DAY_MS, self.now_ms, 3 * HOUR_MS))
        found |= set(range(self.now_ms - DAY_MS, self.now_ms, HALF_HOUR_MS))
        found |= set(range(self.now_ms - HOUR_MS, self.now_ms + 1, WINDOW_MS))
        found |= {self.charged_ms - WINDOW_MS, self.charged_ms, self.charged_ms + WINDOW_MS}
        found |= set(range(self.outage[0], self.outage[1] + HOUR_MS, 6 * WINDOW_MS))
        return sorted(moment for moment in found if self.start_ms < moment <= self.now_ms)
