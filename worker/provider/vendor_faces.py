"""Actions and lists of the costs of usage at vendors, and of their bills."""

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
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_credits, show_time, type_credits
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import LEAST_MICRO, MAX_UNITS, TOLERANCE_PPM, Cost, Drifted, Units

CURRENCY: Final = re.compile("[A-Z]{3}")


@dataclass(frozen=True)
class VendorCostSet:
    """The cost of usage at a vendor from a day on.

    `per_quantity` base units of the feature use `units` of the vendor's unit, and cost `money_micro` millionths of the
    currency.
    """

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
    feature: Annotated[str, ID, "Feature, or metric of the guard"],
    *,
    vendor: Annotated[str, ID, "Vendor, as its bill names it"],
    service: Annotated[str, ID, "Service, as the bill names it"],
    unit: Annotated[str, ID, "Vendor's own unit, such as vcpu-hour"],
    units: Annotated[int, whole(0, MAX_UNITS, 1), "Number of the vendor's units"],
    cost_micro: Annotated[int, CREDITS, "Cost of these units in the currency, to six decimals"],
    per: Annotated[int, whole(1, MAX_UNITS, 3_600), "Number of the feature's base units for this cost"],
    currency: Annotated[str, ID, "Currency, such as USD"],
    from_ms: Annotated[int, TIME, "First day, in UTC"],
    new: New = False,
) -> VendorCostSet:
    if not CURRENCY.fullmatch(currency):
        raise UsageError(
            f"invalid currency {quote_value(currency)}: expected three capitals, such as USD", at="currency"
        )
    given = Units(vendor, service, unit, units, cost_micro, per, currency)
    vendors.set_units(connection, feature, given, from_ms, asked.by, new=new)
    return VendorCostSet(feature, from_ms, **vars(given))


def _summary(done: VendorCostSet) -> str:
    much = f"{done.units:,} {done.unit} and {type_credits(done.money_micro)} {done.currency} per {done.per_quantity:,}"
    return f"{done.feature}: {much} at {done.vendor} ({done.service}), from {show_time(done.from_ms)[:10]} on"


def _facts(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    """Return the former cost at the vendor, for a dry run.

    The former cost is that on the first day of the new cost.
    """
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
    from_ms: Annotated[int | None, TIME, "First day, in UTC"] = None,
    to_ms: Annotated[int | None, TIME, "Day after the last day, in UTC"] = None,
) -> Drifted:
    found = Drifted.of(vendors.drift_of(connection, from_ms, to_ms, look.now_ms, TOLERANCE_PPM, LEAST_MICRO))
    return Drifted(vendors.most_urgent(found.drift, look.most), found.alerts, found.exit_status)


SET: Final = Action(
    "vendor set",
    "Set the cost at a vendor",
    "Set the vendor's cost of a feature or metric. The cost applies from a day on. To change the cost, set it "
    "again for a later day.",
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
        "Costs of features",
        "List the features with a cost at a vendor. A cost is in the vendor's currency, and a price in Drawdown is in "
        "credits.",
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
        "Compare vendors' bills with the expected cost of usage. The comparison is by vendor, service and day. "
        "Without days, it covers the last 14 days, and earlier days with bills that were imported in the last 14 days.",
        _drift,
        path="/v1/vendor-drift",
        scope="catalog:read",
        parts={"drift": ("Estimates and bills", ("vendor", "service"))},
        most=1_000,
        by_hand=True,
    ),
)  # fmt: skip
