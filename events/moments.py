"""The one reading of a time in ISO 8601: of events, of imported samples, and by the same words of files of usage.

Guarantee: pure. A leap second is the last moment that clocks without one can show. An hour 24 is refused: of the days
that it may belong to, programs mean either.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

_LEAP: Final = re.compile(r"([Tt ][0-9]{2}:[0-9]{2}):60(?:[.,][0-9]+)?(?=$|[Zz+-])")
_HOUR_24: Final = re.compile(r"[Tt ]24(?=$|[:Zz+-])")


def from_iso(text: str) -> datetime:
    """With its offset, or, where it names none, without. Errors: ValueError."""
    if text[4:5] != "-":  # "20241115" would do, and so would some counts of milliseconds
        raise ValueError("not an extended ISO date")
    if _HOUR_24.search(text) is not None:
        raise ValueError("no hour of a day is its 24th")
    return datetime.fromisoformat(_LEAP.sub(r"\1:59.999", text).upper())
