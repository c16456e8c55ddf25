"""What a form of the small face asks for: an override, which counts once a person approves it.

Guarantee: a value that makes no sense is refused in words, and never taken for another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drawdown.guard.periods import PERIODS, Period
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.units import DAY_MS
from drawdown.server.console.my import screens
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.overrides import Terms

MAX_REASON_CHARS: Final = 500
_DIGITS: Final = 15


def terms_of(form: Mapping[str, str], org_id: str, now_ms: int) -> Terms:
    """For this organisation, whatever the form says. Errors: UsageError."""
    metric = form.get("metric", "")
    if not is_clean_id(metric):
        raise UsageError("metric: this is no id: 1 to 200 characters, none of them control characters")
    return Terms(metric, "org", org_id, _period(form), _amount(form), _ends_ms(form, now_ms))


def reason_of(form: Mapping[str, str]) -> str:
    """Errors: UsageError."""
    reason = form.get("reason", "").strip()
    if not (0 < len(reason) <= MAX_REASON_CHARS and reason.isprintable()):
        raise UsageError(f"reason: say what it is for, in {MAX_REASON_CHARS} characters and one line")
    return reason


def _period(form: Mapping[str, str]) -> Period:
    found = next((one for one in PERIODS if one == form.get("period")), None)
    if found is None:
        raise UsageError("period: there is hour, day, month")
    return found


def _amount(form: Mapping[str, str]) -> int:
    found = form.get("amount", "").strip()
    if not (found.isascii() and found.isdecimal() and len(found) <= _DIGITS):
        raise UsageError("amount: a whole number, such as 50")
    return int(found)


def _ends_ms(form: Mapping[str, str], now_ms: int) -> int:
    choices = {str(days): days for days in screens.DAY_CHOICES}
    if form.get("days", "") not in choices:
        raise UsageError(f"days: there is {', '.join(choices)}")
    return screens.until(now_ms, choices[form["days"]])


assert max(screens.DAY_CHOICES) * DAY_MS < guard_overrides.MOST_LIFE_MS
