"""Lines of the log that anybody can have written, without a key, as often as they ask.

Guarantee: at most one line a minute of each kind, and MOST_KINDS + 1 lines a minute of all; none goes without a count:
the next line says how many were passed over. No clock is read here. It is used in the event loop alone.
"""

from __future__ import annotations

from typing import Final

from drawdown.schema.units import MINUTE_MS

EVERY_MS: Final = MINUTE_MS
"""Time in which unauthenticated callers cause one log line of a kind."""
MOST_KINDS: Final = 100
"""Kinds that are told apart in a minute: the caller may choose some of their words. All others are one kind."""
_OTHERS: Final = ("others",)


class LogThrottle:
    """Of one process."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], tuple[int, int]] = {}
        """When the last line of each was written, and how many were passed over since."""
        self._forgotten = 0
        """Passed over, of kinds that are no longer remembered."""

    def passed_over(self, now_ms: int, *kind: object) -> int | None:
        """Return the number of lines that were passed over since the last line of this kind, if a line is due now.

        It includes lines of kinds that were forgotten meanwhile. None: this line is passed over, too.
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
        """Those of which a line may be written: they need not be remembered."""
        for kind, (written_ms, passed_over) in list(self._kinds.items()):
            if _is_over(written_ms, now_ms):
                self._forgotten += passed_over
                del self._kinds[kind]


def _is_over(written_ms: int, now_ms: int) -> bool:
    """A clock that was put back holds up no line."""
    return not 0 <= now_ms - written_ms < EVERY_MS
