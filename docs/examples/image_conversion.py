"""An adapter, as an example: the events of a product that converts pictures, as usage events.

The product's names, plans and units stay here. The core knows the envelope alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from drawdown.events.envelope import Unfit, UsageEvent

SOURCE = "image-conversion"
KINDS = {"conversion.finished": "image.converted", "upscale.finished": "image.upscaled"}
"""The product's names, and the types under which they are mapped to features."""
PLANS = {"Starter": "free", "Studio": "team"}
KILOPIXELS = 1_000


def usage_event(sent: Mapping[str, object]) -> UsageEvent | None:
    """The usage event of one event of the product's; None for one that is no use.

    It counts in megapixels with decimals; the base unit is the kilopixel. Errors: Unfit.
    """
    kind = KINDS.get(str(sent["kind"]))
    if kind is None:
        return None
    size = Decimal(str(sent["megapixels"])) * KILOPIXELS
    if size != size.to_integral_value():
        raise Unfit("not_whole", "invalid megapixels: expected at most three decimals", "megapixels")
    properties = {"format": sent["to"]} if "to" in sent else {}
    return UsageEvent(
        source=SOURCE,
        event_id=f"{sent['job']}:{sent['kind']}",
        event_type=kind,
        org_id=str(sent["studio"]),
        quantity=int(size),
        occurred_ms=int(datetime.fromisoformat(str(sent["finished"])).timestamp() * 1_000),
        plan_key=PLANS.get(str(sent.get("plan")), "other"),
        properties=properties,
    )
