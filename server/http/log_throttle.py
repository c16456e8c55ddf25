"""Limit log lines that unauthenticated callers can cause.

Guarantee: the log gets at most one line a minute of each kind, and MOST_KINDS + 1 lines a minute in all. It counts
every suppressed line, and a later line states the count. This module does not read a clock. Use it only in the event
loop.
"""

from __future__ import annotations

from typing import Final

from drawdown.schema.units import MINUTE_MS

EVERY_MS: Final = MINUTE_MS
"""Time in which unauthenticated callers cause at most one log line of a kind."""
MOST_KINDS: Final = 100
"""Kinds of log lines that a minute distinguishes.

The number is bounded because a caller may choose some of the words. All other lines count as one kind.
"""
_OTHERS: Final = ("others",)


class LogThrottle:
    """The suppressed log lines of one process."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], tuple[int, int]] = {}
        """Time of the last line of each kind, and the number of lines suppressed since."""
        self._forgotten = 0
        """Suppressed lines of kinds that are no longer remembered."""

    def passed_over(self, now_ms: int, *kind: object) -> int | None:
        """Return the number of suppressed lines of this kind if a line is due now.

        The number includes lines of kinds that were forgotten meanwhile. If a line is not due, return None; the caller
        then does not write the line.
        """
        if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
            self._forget(now_ms)
            if len(self._kinds) >= MOST_KINDS:
                kind = _OTHERS
        last = self._kinds.get(kind)
        if last is not None and not _is_over(last[0], now_ms):
            self._kinds[kind] = (last[0], last[1] + 1)
            return None
        found = self._forgotten + (0 if last is None else last[1])
        self._forgotten = 0
        self._kinds[kind] = (now_ms, 0)
        return found

    def _forget(self, now_ms: int) -> None:
        """Forget the kinds that may write a line again."""
        for kind, (written_ms, passed_over) in list(self._kinds.items()):
            if _is_over(written_ms, now_ms):
                self._forgotten += passed_over
                del self._kinds[kind]


def _is_over(written_ms: int, now_ms: int) -> bool:
    """Return True if a line of this kind may be written again.

    A clock that was set back does not suppress lines.
    """
    return not 0 <= now_ms - written_ms < EVERY_MS
