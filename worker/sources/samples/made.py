"""Samples that make a quantity of a feature: what a run used becomes usage as any other, and is sealed and sent so.

Guarantee: pure. The samples of one quantity come to it exactly, or it is refused. The same call makes the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from drawdown.schema.errors import Refused
from drawdown.schema.units import MAX_ID_CHARS, MAX_INTERVAL_S, MAX_MEMORY_MB

MOST_SAMPLES: Final = 1_000
"""Of one quantity: 86,400,000 seconds, or MB-seconds of that many times the largest size."""
MAX_UNITS: Final = 10**11
"""Of one sample of an event type: times its meter they still fit in 64 bits."""
OF_EVENTS: Final = "event:"
OF_RUNS: Final = "run:"
OF_BATCHES: Final = "batch:"
RESERVED_IDS: Final = (OF_EVENTS, OF_RUNS, OF_BATCHES)
"""Begin the ids of samples that events, runs and batches have: no host gives a sample one of them, and the database
refuses it."""
CELL: Final = "runs"
"""Stands where the cell of a sandbox stands."""


class NotMade(Refused):
    """No samples come to a quantity."""


def sizes_of(quantity: int, unit: str, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """(memory in MB, seconds) of samples of the sizes lo to hi that come to a quantity of base units; of an event type,
    its meter and units.

    Errors: NotMade for one that they cannot come to, or that takes too many.
    """
    if unit == "units":
        yield from _in_parts(lo, quantity, MAX_UNITS)
        return
    least, most = max(lo, 1), min(hi, MAX_MEMORY_MB)
    parts = [(least, quantity)]
    if unit == "mb_s":
        largest = min(most, quantity)
        seconds, rest = divmod(quantity, largest) if largest >= least else (0, quantity)
        parts = [(largest, seconds), (rest, 1 if rest else 0)]
        if 0 < rest < least:
            seconds, rest = divmod(quantity, least)
            parts = [(least, seconds)]
            if rest:
                raise NotMade(f"no sizes from {least} to {most} MB come to {quantity:,} MB-seconds")
    if sum(-(-seconds // MAX_INTERVAL_S) for _, seconds in parts) > MOST_SAMPLES:
        raise NotMade(f"{quantity:,} take more than {MOST_SAMPLES:,} samples: draw the run in parts")
    for size, seconds in parts:
        yield from _in_parts(size, seconds, MAX_INTERVAL_S)


def _in_parts(size: int, quantity: int, most: int) -> Iterator[tuple[int, int]]:
    whole, rest = divmod(quantity, most)
    if whole + (rest > 0) > MOST_SAMPLES:
        raise NotMade(f"{quantity:,} take more than {MOST_SAMPLES:,} samples: draw the run in parts")
    yield from [(size, most)] * whole
    yield from [(size, rest)] if rest else []


def id_of(*parts: object) -> str:
    """`run:` and the parts; where that is too long for an id, its beginning and a hash of all."""
    whole = OF_RUNS + ":".join(map(str, parts))
    if len(whole) <= MAX_ID_CHARS:
        return whole
    return f"{whole[:100]}…{hashlib.sha256(whole.encode()).hexdigest()[:32]}"
