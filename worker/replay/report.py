"""The report of a replay: its findings, and each omission with the reason for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.catalog.prices import add, rate_card
from drawdown.worker.replay.plan import ReplayPlan

SQL = queries(__file__)
LEFT: Final = ("left_pending", "left_exempt", "left_shadow", "left_quarantined")


@dataclass(frozen=True)
class FoundPush:
    """One push that the range still owed. `price_micro`: by the rate card, None without a price. In shadow it is
    sealed, and never sent."""

    org_id: str
    window_ms: int
    feature: str
    revision: int
    quantity: int
    provider: str
    shadow: bool
    price_micro: int | None


@dataclass
class Tally:
    """One organisation's feature at one provider, summed up."""

    org_id: str
    provider: str
    feature: str
    pushes: int = 0
    quantity: int = 0
    price_micro: int | None = 0

    @classmethod
    def of(cls, push: FoundPush) -> Tally:
        return cls(push.org_id, push.provider, push.feature)

    def add(self, push: FoundPush) -> None:
        self.pushes += 1
        self.quantity += push.quantity
        self.price_micro = add(self.price_micro, push.price_micro)


@dataclass
class Left:
    """What lies in the range and is no new push: `why`, in how many windows of an organisation, how much in `unit`."""

    why: str
    unit: str
    windows: int = 0
    quantity: int = 0

    def add(self, other: Left) -> None:
        self.windows += other.windows
        self.quantity += other.quantity


def found_in(connection: sa.Connection, seal_id: int, start: int) -> list[FoundPush]:
    """The pushes that a seal made of windows from `start` on."""
    card = rate_card(connection)
    rows = SQL.run(connection, "found", {"seal_id": seal_id, "start_ms": start})
    return [
        FoundPush(
            row.org_id,
            row.window_ms,
            row.feature,
            row.revision,
            row.sealed_qty,
            row.provider,
            row.state == "shadow",
            card.price(row.feature, row.window_ms, row.sealed_qty),
        )
        for row in rows
    ]


def left_in(connection: sa.Connection, plan: ReplayPlan, start: int, end: int, seal_id: int) -> Sequence[Left]:
    """What lies in [start, end) without being due to anybody: pending, exempt, in shadow, quarantined, stopped."""
    values: dict[str, object] = {"start_ms": start, "end_ms": end, "seal_id": seal_id}
    only = ""
    if plan.orgs is not None:
        only = "only_of_these"
        values["orgs"] = [{"org_id": org_id} for org_id in plan.orgs]
    names = [*LEFT, *(["left_stopped"] if plan.stopped else [])]
    return [
        Left(row.reason, row.unit, int(row.windows), int(row.quantity))
        for name in names
        for row in SQL.run(connection, name, values, only=only)
    ]


def still_open(connection: sa.Connection, plan: ReplayPlan) -> tuple[int, int]:
    """How many pushes of the planned windows are sealed and not settled, and how much they are of."""
    values: dict[str, object] = {"start_ms": plan.from_ms, "end_ms": plan.to_ms}
    only = biller = ""
    if plan.orgs is not None:
        only = "only_of_these"
        values["orgs"] = [{"org_id": org_id} for org_id in plan.orgs]
    if plan.scope.provider is not None:
        biller = "of_this_biller"
        values["provider"] = plan.scope.provider
    found = SQL.run(connection, "still_open", values, only=only, biller=biller).one()
    return int(found.pushes), int(found.quantity)
