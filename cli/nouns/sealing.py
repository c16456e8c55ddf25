"""Describe the progress of sealing, for `status` and `doctor`.

These functions do not read the database.
"""

from __future__ import annotations

from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import lasting, show_time
from drawdown.worker.status.system_state import Standing


def sealed_to(watermark_ms: int, now_ms: int) -> str:
    """Return a text such as `up to 2026-01-01T00:05:00Z, 3 min ago`.

    If a clock was ahead, the text has the effect on billing.
    """
    if watermark_ms <= now_ms:
        return f"up to {show_time(watermark_ms)}, {lasting(now_ms - watermark_ms)} ago"
    return (
        f"up to {show_time(watermark_ms)}, {lasting(watermark_ms - now_ms)} ahead of now: a clock was ahead. "
        "Drawdown still bills usage before that time. Another provider or feature can begin only after that time"
    )


def sealing(found: Standing) -> str:
    """Return text on the progress of all buckets.

    The text includes windows to seal again, and samples that arrived since the last tick.
    """
    now, dirty, came = found.at_ms, found.left.dirty_windows, found.unread_samples
    watermark = max(found.watermark_ms, found.sealed_to_ms if found.sealed_to_ms > now else 0)
    text = sealed_to(watermark, now) if watermark else "nothing yet"
    text += f"; {counted(dirty, 'window')} to seal again" if dirty else ""
    return text + (f"; {counted(came, 'sample')} arrived since, for the next tick" if came else "")
