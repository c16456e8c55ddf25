"""What people and products of a shop said and were answered: all that its judge goes by.

Guarantee: nothing here is read from the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from drawdown.schema.units import DAY_MS
from drawdown.worker.settlements.actions import Change
from drawdown.worker.settlements.lists import Line
from tests.simulation.oracle import Run
from tests.stateful.pools import Member
from tests.stateful.settlements import Owed

CLUBS: Final = ("club-rich", "club-poor")
"""Customers on plans, who buy tiers. The first can pay for every month of each."""
POOL: Final = "kitty"
MODELLED: Final = ("studio", "maker", "lab", POOL)
"""Customers on no plan, and a pool: what becomes of each of their lots is worked out."""
MEMBERS: Final = ("studio", "maker", "lab")
RUNNERS: Final = (*CLUBS, *MEMBERS)
"""Who is billed at the ledger, and runs something."""
FAR: Final = "far"
"""Whose balance a provider keeps: its runs are held against that."""
BEYOND: Final = "beyond"
"""Whose provider keeps no balance: its runs are declared."""
SHOPPERS: Final = (*RUNNERS, FAR, BEYOND)
RATE: Final = 100
"""Micro-credits a second, of the one size that the shop's sandboxes have."""
FEATURE: Final = "compute_1gb"
SIZE: Final = 1024


@dataclass(frozen=True)
class Plan:
    """What a plan gives and allows from the beginning."""

    at_once: int
    included: int
    rolls: tuple[int, int]
    first: int


PLANS: Final = {"basic": Plan(3, 300_000, (50_000, 200_000), 25_000), "gold": Plan(10, 900_000, (0, 0), 0)}
TIERS: Final = {"pro": (100, 120_000), "small": (20, 45_000)}
"""How many at once, and a month's price."""


@dataclass(frozen=True)
class Ran(Run):
    """A run; of one that a provider bills, what it drew in all are base units."""

    org: str = ""
    accepted_ms: int = 0
    kind: str = "receipt"
    supplier: str | None = None
    boxes: tuple[str, ...] = ()


@dataclass
class Tier:
    """A customer's tier: the months of it that have to be charged by what was said and answered, of one who can pay;
    whether it goes on, and else the month with which it ends."""

    wanted: set[str] = field(default_factory=set)
    renews: bool = True
    paid_to: str = ""


@dataclass
class Books:
    """Amounts are micro-credits, times milliseconds."""

    given: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each customer on a plan: what it was given, by key."""
    lots: dict[str, Member] = field(default_factory=lambda: {one: Member() for one in MODELLED})
    stays: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: {one: [] for one in CLUBS})
    """Which plan a customer came onto, and when."""
    tiers: dict[tuple[str, str], Tier] = field(default_factory=dict)
    included: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Of each plan: from when on it gives how much a month."""
    prices: dict[str, list[int]] = field(default_factory=lambda: {one: [price] for one, (_, price) in TIERS.items()})
    """Of each tier: what a month of it ever cost, the last price last."""
    runs: dict[str, Ran] = field(default_factory=dict)
    terms: dict[str, Change] = field(default_factory=dict)
    owed: dict[str, Owed] = field(default_factory=dict)
    files: dict[str, list[Line]] = field(default_factory=dict)
    """The batches as they were handed over."""
    frozen: set[str] = field(default_factory=set)

    def on_plan(self, customer: str) -> str:
        return self.stays[customer][-1][0]

    def months(self, customer: str, now_ms: int) -> dict[tuple[str, str], int]:
        """What each month of each plan that a customer was on gives it, if it was for a moment only: who leaves just as
        a month begins is given what is due by then first. By the terms as the month began, or the customer came."""
        found: dict[tuple[str, str], int] = {}
        stays = self.stays[customer]
        for (plan, since), (_, until) in zip(stays, [*stays[1:], ("", now_ms)], strict=True):
            begins = since
            while begins <= until:
                gives = next(amount for from_ms, amount in reversed(self.included[plan]) if from_ms <= begins)
                if gives:
                    found.setdefault((plan, month_of(begins)), gives)
                begins = turn_after(begins)
        return found


def month_of(moment_ms: int) -> str:
    """2026-02, in UTC."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m")


def turn_after(moment_ms: int) -> int:
    """When the next month begins."""
    at = moment_ms - moment_ms % DAY_MS
    while month_of(at) == month_of(moment_ms):
        at += DAY_MS
    return at
