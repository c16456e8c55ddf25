"""The units and ids that everything else is written in.

Guarantee: quantities and times are integers (64 bits), ids are distinct types, and a window is decided by arithmetic
alone. Nothing here reads a clock.
"""

import re
from decimal import Decimal
from typing import Final, NewType

OrgId = NewType("OrgId", str)
CellId = NewType("CellId", str)
CustomerId = NewType("CustomerId", str)
Feature = NewType("Feature", str)
ProviderName = NewType("ProviderName", str)
PushKey = NewType("PushKey", str)

Ms = NewType("Ms", int)
"""A moment (UTC, since the epoch) or a length of time, in integer milliseconds."""
WindowStart = NewType("WindowStart", int)
"""The start of a window, in milliseconds: a multiple of WINDOW_MS."""
Quantity = NewType("Quantity", int)
"""An amount of a feature in its base unit (seconds, MB-seconds)."""
MicroCredits = NewType("MicroCredits", int)
"""Money of the embedded ledger: a millionth of a credit."""

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
DAY_MS: Final = 86_400 * SECOND_MS
WINDOW_MS: Final = 300 * SECOND_MS
GRACE_MS: Final = 120 * SECOND_MS
"""The time after its end from which a window may be sealed."""
OWN_MINUTES: Final = WINDOW_MS // MINUTE_MS - 1
"""Number of revisions with minutes of their own, so that a provider with sums by the minute can be asked about each.

Revisions 0 to 3 of a window are dated into minutes of their own; later ones share the fifth.
"""
LATE_HORIZON_MS: Final = 35 * DAY_MS
"""The reach of the nightly sweep into the past (rule S2); also the oldest timestamp that Stripe takes."""

BUCKETS: Final = 256
EVER_MS: Final = 2**62
"""Later than every moment there is."""
MICRO: Final = 1_000_000
MAX_AMOUNT_MICRO: Final = 10**15
"""1,000,000,000 credits: as a number of JSON, any amount up to it is exact."""
_MICRO_CREDIT: Final = Decimal("0.000001")

EARLIEST_TS: Final = 946_684_800_000
"""2000-01-01T00:00:00Z. A sample from before it is a unit mistake (seconds read as milliseconds)."""
FUTURE_SLACK_MS: Final = 5 * MINUTE_MS
"""The longest time that a sample may be ahead of now."""
MAX_INTERVAL_S: Final = 86_400
"""Interval of one sample."""
MAX_MEMORY_MB: Final = 16_777_216
"""16 TiB: with MAX_INTERVAL_S, six million samples of one window still fit in 64 bits as MB-seconds."""
MAX_EVENT_TYPES: Final = 10_000
"""Event types in use. Above the limit, Drawdown refuses events of new types."""
MAX_METERS: Final = 1_000_000
"""Event types that a database ever stores. Each keeps its meter, even after its last use."""
MAX_ORG_TYPES: Final = 100
"""Event types in use that the keys of one organisation added."""
MAX_KEY_TYPES: Final = 1_000
"""Event types in use that one key without an organisation added."""
MAX_SOURCE_TYPES: Final = 1_000
"""Event types in use that the keys of one source added."""
MAX_METER: Final = MAX_MEMORY_MB + MAX_METERS
"""Meters are in the place of sandboxes' memory size, and are above each of them."""
MAX_ID_CHARS: Final = 200
"""Length of an id, such as that of an organisation, sandbox or sample."""

EMBEDDED: Final = "embedded"
"""The ledger here as a provider: named here for code that compares the name and bills nothing."""
EXEMPT_PROVIDERS: Final = frozenset({"legacy", "none"})
"""Assignments that bill nothing here: another system does, or none."""


def micro_of(amount: Decimal) -> int:
    """Micro-credits of an amount of credits, exactly. Errors: ValueError for what is finer, or no amount."""
    if not amount.is_finite() or amount.adjusted() > 9 or abs(amount) * MICRO > MAX_AMOUNT_MICRO:
        raise ValueError("an amount of credits must be below 1,000,000,000")
    exact = amount.quantize(_MICRO_CREDIT)
    if exact != amount:
        raise ValueError("an amount of credits must have at most six decimals")
    return int(exact.scaleb(6))


def as_credits(micro: int) -> str:
    """Credits in a sentence: exact, with no more decimals than needed."""
    return f"{Decimal(micro) / MICRO:f}"


def show_quantity(quantity: int, scale: int = 1, *, sign: bool = False) -> str:
    """A quantity of a balance in a sentence, exact: `scale` quantities make one unit, such as a credit."""
    exact = Decimal(quantity) / scale
    text = f"{exact:+,f}" if sign else f"{exact:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_difference(quantity: int, unsure: int, scale: int = 1) -> str:
    """By how much a balance differs, and how uncertain that is."""
    text = show_quantity(quantity, scale, sign=bool(quantity))
    return f"{text}, uncertain by up to {show_quantity(unsure, scale)}" if unsure else text


def in_credits(micro: int) -> int | float:
    """Credits as a JSON number: of 10^15 micro-credits and below, the shortest text of the float is exact."""
    return micro // MICRO if micro % MICRO == 0 else micro / MICRO


def window_of(ts_ms: int) -> WindowStart:
    """The start of the half-open window [start, start + WINDOW_MS) that holds this moment."""
    return WindowStart(ts_ms - ts_ms % WINDOW_MS)


def next_window(ts_ms: int) -> WindowStart:
    """The first window boundary at or after this moment ("bill forward only")."""
    return WindowStart(-(-ts_ms // WINDOW_MS) * WINDOW_MS)


def horizon(now_ms: int) -> WindowStart:
    """Every window that ends at or before this boundary may be sealed (grace has passed)."""
    return window_of(now_ms - GRACE_MS)


def push_key(org_id: str, window_ms: int, feature: str, revision: int) -> PushKey:
    """The push's idempotency key. It holds no quantity and no epoch (rule P6): a collision that can be seen
    is better than a double that cannot."""
    suffix = f":r{revision}" if revision else ""
    return PushKey(f"usage:{org_id}:{window_ms}:{feature}{suffix}")


def parse_push_key(key: str) -> dict[str, str | int] | None:
    """Return the primary key of the push that a key belongs to; None if it belongs to none."""
    parts = key.split(":")
    revision = 0
    # No key holds a number that a column could not.
    if len(parts) > 4 and re.fullmatch("r[0-9]{1,9}", parts[-1]) and parts[-3].isdecimal():
        revision = int(parts.pop()[1:])
    if len(parts) >= 4 and parts[0] == "usage" and re.fullmatch("[0-9]{1,16}", parts[-2]):
        org_id = ":".join(parts[1:-2])
        return {"window_ms": int(parts[-2]), "org_id": org_id, "feature": parts[-1], "revision": revision}
    return None


PUSH_ID: Final = {"window_ms": "bigint", "org_id": "text", "feature": "text", "revision": "bigint"}
"""The primary key of a push."""
