"""The costs of usage at vendors, and their bills beside them, as people and programs set and see them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema.declare import (
    CREDITS,
    ID,
    TIME,
    Action,
    Column,
    Fact,
    Invocation,
    Listing,
    Look,
    New,
    Page,
    Showing,
    Values,
    whole,
)
from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import show_credits, show_time, type_credits
from drawdown.schema.units import DAY_MS
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import LEAST_MICRO, MAX_UNITS, SPAN_DAYS, TOLERANCE_PPM, Cost, Drifted, Units

CURRENCY: Final = re.compile("[A-Z]{3}")


@dataclass(frozen=True)
class VendorCostSet:
    """The cost of usage at a vendor from a day on: `per_quantity` base units take `units`, and cost `money`."""

    feature: str
    from_ms: int
    vendor: str
    service: str
    unit: str
    units: int
    money_micro: int
    per_quantity: int
    currency: str


def _set(
    connection: sa.Connection,
    asked: Invocation,
    feature: Annotated[str, ID, "The feature, or a metric of the guard"],
    *,
    vendor: Annotated[str, ID, "The vendor, as its bill names it"],
    service: Annotated[str, ID, "The service, as the bill names it"],
    unit: Annotated[str, ID, "The vendor's own unit: vcpu-hour"],
    units: Annotated[int, whole(0, MAX_UNITS, 1), "The number of these units"],
    cost_micro: Annotated[int, CREDITS, "Their price in the currency, to six decimals"],
    per: Annotated[int, whole(1, MAX_UNITS, 3_600), "For this many base units of the feature"],
    currency: Annotated[str, ID, "The currency: USD"],
    from_ms: Annotated[int, TIME, "From this day on (UTC)"],
    new: New = False,
) -> VendorCostSet:
    if not CURRENCY.fullmatch(currency):
        raise UsageError(f"invalid currency {currency!r}: expected three capitals, such as USD", at="currency")
    given = Units(vendor, service, unit, units, cost_micro, per, currency)
    vendors.set_units(connection, feature, given, from_ms, asked.by, new=new)
    return VendorCostSet(feature, from_ms, **vars(given))


def _summary(done: VendorCostSet) -> str:
    much = f"{done.units:,} {done.unit} and {type_credits(done.money_micro)} {done.currency} per {done.per_quantity:,}"
    return f"{done.feature}: {much} at {done.vendor} ({done.service}), from {show_time(done.from_ms)[:10]} on"


def _facts(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the cost at the vendor as of the day from which the new one applies."""
    then_ms = max(values["from_ms"], asked.by.now_ms)
    of = {"feature": values["feature"], "vendor": values["vendor"], "service": values["service"]}
    found = [one for one in vendors.costs(connection, then_ms) if of.items() <= vars(one).items()]
    texts = [
        f"{one.units:,} {one.unit} and {type_credits(one.money_micro)} {one.currency} per {one.per_quantity:,}"
        for one in found
    ]
    return [Fact("Cost there", "; ".join(texts) or "none")]


def _costs(connection: sa.Connection, look: Look) -> Page[Cost]:
    return Page(vendors.costs(connection, look.now_ms)[: look.most])


def _drift(
    connection: sa.Connection,
    look: Look,
    *,
    from_ms: Annotated[int | None, TIME, "From this day on (UTC)"] = None,
    to_ms: Annotated[int | None, TIME, "Up to the beginning of this day (UTC)"] = None,
) -> Drifted:
    end = look.now_ms - look.now_ms % DAY_MS if to_ms is None else to_ms
    start = end - SPAN_DAYS * DAY_MS if from_ms is None else from_ms
    found = Drifted.of(vendors.drift(connection, start, end, look.now_ms, TOLERANCE_PPM, LEAST_MICRO))
    return Drifted(found.drift[-look.most :], found.alerts, found.exit_status)


SET: Final = Action(
    "vendor set",
    "Set the cost at a vendor",
    "Set the cost of a feature's or metric's base units at a vendor, from a day on. A later day changes it.",
    _set,
    says=_summary,
    path="/v1/vendor-costs/{feature}",
    scope="catalog:write",
    facts=_facts,
)
ACTIONS: Final = (SET,)
LISTS: Final = (
    Listing(
        "vendor costs",
        "What features cost",
        "List the present cost of each feature: in credits here, and in money at vendors, in their words.",
        _costs,
        ("feature", Column("per_quantity", "#base units"), Column("credits_micro", "#credits", show_credits), "vendor",
         "service", Column("units", "takes", of_row=lambda one: f"{one.units:,} {one.unit}"),
         Column("money_micro", "#money", show_credits), "currency"),
        holds="costs",
        path="/v1/vendor-costs",
        scope="catalog:read",
        most=1_000,
    ),
    Showing(
        "vendor drift",
        "Estimates and bills",
        "Compare the expected cost of usage with the bills of vendors, by vendor, service and day: the latest days.",
        _drift,
        path="/v1/vendor-drift",
        scope="catalog:read",
        parts={"drift": ("Estimates and bills", ("vendor", "service"))},
        most=1_000,
        by_hand=True,
    ),
)  # fmt: skip
