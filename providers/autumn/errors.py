"""The errors of reading Autumn.

Guarantee: a read that fails raises one of these, and never returns zero.
"""

from __future__ import annotations

from drawdown.schema.errors import DrawdownError


class Unreadable(DrawdownError):
    """An answer of Autumn's that says no, or does not say what it should. `their_code`: its own, if it gave one."""

    def __init__(self, reason: str, their_code: str | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.their_code = their_code
        self.status = status


class TooMany(Unreadable):
    """A list that is longer than is read."""
