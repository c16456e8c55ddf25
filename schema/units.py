"""The units and ids of all other modules.

Guarantee: quantities and times are integers (64 bits), ids are distinct types, and windows are computed by arithmetic
alone. This module does not read a clock.
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
"""A moment (since 1970, in UTC) or a length of time, in integer milliseconds."""
WindowStart = NewType("WindowStart", int)
"""The start of a window, in milliseconds: a multiple of WINDOW_MS."""
Quantity = NewType("Quantity", int)
"""An amount of a feature in its base unit: seconds, MB-seconds, or units of an event type."""
MicroCredits = NewType("MicroCredits", int)
"""Credit of the embedded ledger: a millionth of a credit."""

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
DAY_MS: Final = 86_400 * SECOND_MS
WINDOW_MS: Final = 300 * SECOND_MS
GRACE_MS: Final = 120 * SECOND_MS
"""Time from the end of a window until Drawdown can seal it."""
OWN_MINUTES: Final = WINDOW_MS // MINUTE_MS - 1
"""Revisions of a window that each have their own minute: revisions 0 to 3.

A provider that sums by the minute can look each of these up. Later revisions share the fifth minute.
"""
LATE_HORIZON_MS: Final = 35 * DAY_MS
"""Age of the oldest windows that the nightly sweep reads (rule S2).

Stripe accepts timestamps up to the same age.
"""

BUCKETS: Final = 256
EVER_MS: Final = 2**62
"""A moment later than any other, in milliseconds."""
MICRO: Final = 1_000_000
MAX_AMOUNT_MICRO: Final = 10**15
"""Largest amount in micro-credits (1,000,000,000 credits).

JSON numbers represent amounts up to this limit exactly.
"""
_MICRO_CREDIT: Final = Decimal("0.000001")

EARLIEST_TS: Final = 946_684_800_000
"""Earliest time of a sample: 2000-01-01T00:00:00Z.

An earlier time is probably in seconds, and was read as milliseconds.
"""
FUTURE_SLACK_MS: Final = 5 * MINUTE_MS
"""Longest time by which a sample may be dated in the future."""
MAX_INTERVAL_S: Final = 86_400
"""Longest interval of one sample, in seconds."""
MAX_MEMORY_MB: Final = 16_777_216
"""Most memory of one sample, in MB (16 TiB).

With MAX_INTERVAL_S, the MB-seconds of six million samples in a window fit in 64 bits.
"""
MAX_EVENT_TYPES: Final = 10_000
"""Event types in use. Above the limit, Drawdown refuses events of new types."""
MAX_METERS: Final = 1_000_000
"""Event types that a database stores in total.

Each event type keeps its meter, even after its last use.
"""
MAX_ORG_TYPES: Final = 100
"""Most event types in use that the keys of one organisation added."""
MAX_KEY_TYPES: Final = 1_000
"""Most event types in use that one key without an organisation added."""
MAX_SOURCE_TYPES: Final = 1_000
"""Most event types in use that the keys of one source added."""
MAX_METER: Final = MAX_MEMORY_MB + MAX_METERS
"""Largest meter. A meter takes the place of a memory size, and is larger than any memory size."""
MAX_ID_CHARS: Final = 200
"""Most characters of an id, such as that of an organisation, sandbox or sample."""

EMBEDDED: Final = "embedded"
"""The provider name of the embedded ledger, for code that only compares names."""
EXEMPT_PROVIDERS: Final = frozenset({"legacy", "none"})
"""Provider names of assignments with usage that Drawdown does not bill.

Another system bills the usage, or the usage stays unbilled.
"""


def micro_of(amount: Decimal) -> int:
    """Return the exact micro-credits of an amount of credits.

    Errors: ValueError if the amount is finer than a micro-credit, too large, or not finite.
    """
    if not amount.is_finite() or amount.adjusted() > 9 or abs(amount) * MICRO > MAX_AMOUNT_MICRO:
        raise ValueError("an amount of credits must be at most 1,000,000,000")
    exact = amount.quantize(_MICRO_CREDIT)
    if exact != amount:
        raise ValueError("an amount of credits must have at most six decimals")
    return int(exact.scaleb(6))


def as_credits(micro: int) -> str:
    """Return credits as exact text, with no more decimals than needed."""
    return f"{Decimal(micro) / MICRO:f}"


def counted_credits(micro: int) -> str:
    """Return credits as exact text with their noun, such as `1 credit`."""
    return f"{as_credits(micro)} {'credit' if micro == MICRO else 'credits'}"


def show_quantity(quantity: int, scale: int = 1, *, sign: bool = False) -> str:
    """Return a quantity of a balance as exact text.

    `scale`: quantities in one unit, such as a credit.
    """
    exact = Decimal(quantity) / scale
    text = f"{exact:+,f}" if sign else f"{exact:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_difference(quantity: int, unsure: int, scale: int = 1) -> str:
    """Return a balance's difference as text, with its uncertainty unless that is zero."""
    text = show_quantity(quantity, scale, sign=bool(quantity))
    return f"{text}, uncertain by up to {show_quantity(unsure, scale)}" if unsure else text


def in_credits(micro: int) -> int | float:
    """Return credits as a JSON number.

    Up to 10^15 micro-credits, the shortest text of the float is exact.
    """
    return micro // MICRO if micro % MICRO == 0 else micro / MICRO


def window_of(ts_ms: int) -> WindowStart:
    """Return the start of the window that contains a moment (milliseconds).

    A window is half-open: [start, start + WINDOW_MS).
    """
    return WindowStart(ts_ms - ts_ms % WINDOW_MS)


def next_window(ts_ms: int) -> WindowStart:
    """Return the first start of a window at or after a moment.

    If a person changes an assignment, a mapping or a rate without a start, the change starts at the next window.
    """
    return WindowStart(-(-ts_ms // WINDOW_MS) * WINDOW_MS)


def horizon(now_ms: int) -> WindowStart:
    """Return the boundary up to which windows can be sealed.

    The grace period of these windows is over.
    """
    return window_of(now_ms - GRACE_MS)


def push_key(org_id: str, window_ms: int, feature: str, revision: int) -> PushKey:
    """Return the idempotency key of a push.

    The key does not contain the quantity or the incarnation (rule P6). A visible collision of keys is better than an
    invisible second charge.
    """
    suffix = f":r{revision}" if revision else ""
    return PushKey(f"usage:{org_id}:{window_ms}:{feature}{suffix}")


def parse_push_key(key: str) -> dict[str, str | int] | None:
    """Return the primary key of the push that a key belongs to.

    Return None if it is not the key of a push.
    """
    parts = key.split(":")
    revision = 0
    # A number that is too long for its column does not belong to a key.
    if len(parts) > 4 and re.fullmatch("r[0-9]{1,9}", parts[-1]) and parts[-3].isdecimal():
        revision = int(parts.pop()[1:])
    if len(parts) >= 4 and parts[0] == "usage" and re.fullmatch("[0-9]{1,16}", parts[-2]):
        org_id = ":".join(parts[1:-2])
        return {"window_ms": int(parts[-2]), "org_id": org_id, "feature": parts[-1], "revision": revision}
    return None


PUSH_ID: Final = {"window_ms": "bigint", "org_id": "text", "feature": "text", "revision": "bigint"}
"""The columns of the primary key of a push, with their types."""
