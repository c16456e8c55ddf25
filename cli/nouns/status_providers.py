"""Lines of `drawdown status` about one provider: what is open, since when, why, worth what, and what happens next.

Guarantee: no time that has passed is promised, and what a person decides is not said to settle by itself.
"""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from typing import Final

from drawdown.schema.typed.parsing import lasting, show_credits, show_time
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.push.lists import AWAITING_CREDIT, UNTIL_CREDIT, Unresolved, Waiting

WIDTH: Final = 79
LABEL: Final = 10
MOMENT: Final = "%H:%M UTC"
DAY_AND_MOMENT: Final = "%Y-%m-%d %H:%M UTC"


def wrapped(label: str, text: str, *, shorten: int | None = None) -> str:
    """Text beside its label, no line of it wider than a terminal."""
    flat = " ".join(text.split())
    if shorten is not None and len(flat) > shorten:
        flat = flat[: shorten - 2] + " …"
    first = label.ljust(LABEL) if label else ""
    indent = " " * (LABEL if label else 2)
    # What may be a command is not broken within a word.
    lines = textwrap.wrap(flat, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) or first


def since(ms: int, now: int) -> str:
    """`since 3 h 12 min (2026-01-01T00:00:00Z)`."""
    return f"since {lasting(now - ms)} ({show_time(ms)})"


def provider_lines(provider: Waiting, now: int) -> list[str]:
    """One provider that is behind: how much, since when, why, worth what, until when."""
    states = {
        "due": provider.due,
        "queued": provider.queued,
        "in doubt": provider.in_doubt,
        "rejected": provider.rejected,
        "until there is credit": provider.awaiting_credit,
    }
    counts = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
    name = provider.provider
    lines = []
    if counts:
        lines.append(wrapped(name, f"{counts}; the oldest {since(provider.oldest_ms, now)}"))
        name = " "
    if provider.paused_ms is not None:
        by = f" by {provider.paused_by}" if provider.paused_by else ""
        paused = f"paused{by} {since(provider.paused_ms, now)}: {provider.paused_reason}"
        lines.append(wrapped(name, paused, shorten=140))
    if provider.error is not None:
        error = f"error of {provider.error_pushes:,} of {sum(states.values()):,}: {provider.error}"
        lines.append(wrapped(" ", error, shorten=130))
    if provider.waiting or provider.rejected:
        lines.append(wrapped(" ", _worth(provider)))
    if provider.due:
        lines.append(wrapped(" ", _drained(provider, now)))
    if provider.queued:
        lines.append(wrapped(" ", _looked_up(provider, now)))
    return lines


def unresolved_lines(one: Unresolved, now: int) -> list[str]:
    """Pushes in doubt in one line, with the command for all of them; those that wait for credit in another."""
    if one.state == AWAITING_CREDIT:
        return [f"{one.size}, {one.worth}, {one.waits} for credit: {UNTIL_CREDIT}"]
    if one.state != "in_doubt":
        return []
    text = f"in doubt: {one.size}, {one.worth}, the oldest window {since(one.oldest_window_ms, now)}"
    if one.looked_up_ms is not None:
        text += f"; looked up again {_by(one.looked_up_ms, now) or 'by the next tick'}"
    return [text, one.command]


def _by(ms: int, now: int) -> str:
    """`by 00:14 UTC`, rounded up to a minute, with its day unless that is today; '' if that time has passed."""
    if ms <= now:
        return ""
    moment = datetime.fromtimestamp(-(-ms // MINUTE_MS) * 60, UTC)
    is_today = moment.date() == datetime.fromtimestamp(now // 1000, UTC).date()
    return f"by {moment.strftime(MOMENT if is_today else DAY_AND_MOMENT)}"


def _looked_up(provider: Waiting, now: int) -> str:
    """Until when the provider may still apply queued pushes; after that, what happens next."""
    until = "" if provider.looked_up_by_ms is None else _by(provider.looked_up_by_ms, now)
    if until:
        return f"{provider.queued:,} queued: looked up {until} at the latest; what stays unproven is then left to you"
    return f"{provider.queued:,} queued: looked up again by ticks; what stays unproven is left to you"


def _worth(provider: Waiting) -> str:
    units = [f"{quantity:,} {feature}" for feature, quantity in sorted(provider.units.items())]
    some = ", ".join(units[:3]) + (f" and {len(units) - 3} more features" if len(units) > 3 else "")
    if len(provider.unpriced) == len(provider.units):
        return f"worth: no price known; {some}"
    without = f", without {', '.join(sorted(provider.unpriced))}, which has no price" if provider.unpriced else ""
    return f"worth {show_credits(provider.price_micro)} credits by our rate card{without}; {some}"


def _drained(provider: Waiting, now: int) -> str:
    if provider.paused_ms is not None:
        return "not draining: paused"
    if provider.drained_ms is None:
        return "not draining: no tick of the last 15 min settled any"
    until = _by(provider.drained_ms, now).removeprefix("by ")
    return f"drained at {provider.settled_per_min:,}/min: about {until}"
