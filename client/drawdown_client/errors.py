"""The errors of the client: a class for each reaction that a caller may choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NO_CODE: Final = "no_code"
"""The code of a refusal that is of a proxy, not of Drawdown."""
TOO_LARGE: Final = 413


class ClientError(Exception):
    """The base of all errors of this package."""


class BadItem(ClientError, ValueError):
    """Raised if an event, a sample or a time is invalid. Fix the call.

    The client does not record or send the invalid value.
    """


class QueueFull(ClientError):
    """Raised if the queue is full, and the item was not recorded.

    Retry later, or drop the item.
    """


class Closed(ClientError):
    """Raised if the client is closed.

    The client did not record the item, or does not have a response of the call.
    """


class Unsent(ClientError):
    """Raised if the server did not store some items.

    `count`: the number of items that were not sent in time, or were in a call that the server refused. `kept`: True if
    a spool has these items for the next start. `rejected`: the number of items with the result `invalid` or `conflict`
    since this error was last raised. `dead_letter`: the file with the rejected items; None without a spool.
    """

    def __init__(self, count: int, *, kept: bool, rejected: int = 0, dead_letter: str | None = None) -> None:
        said: list[str] = []
        if count or not rejected:
            where = "the spool keeps them for the next start" if kept else "they were stored only in memory"
            said.append(f"items not sent: {count:,} ({where})")
        if rejected:
            where = f"{dead_letter} keeps them" if dead_letter else "only the log has them"
            said.append(f"items that the server refused: {rejected:,} ({where})")
        super().__init__("; ".join(said))
        self.count = count
        self.kept = kept
        self.rejected = rejected
        self.dead_letter = dead_letter


class Refused(ClientError):
    """Raised if the server refused a call, and would refuse the same call again.

    `status`: the HTTP status. `code`: a code of docs/codes.md, or `no_code` if a proxy refused the call. `message`: the
    server's message. `details`: the server's details; empty if its response lacks them.
    """

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})

    @property
    def may_pass_later(self) -> bool:
        """Return True if a proxy refused the call, so that it may pass later.

        413 is final, because each retry has the same size.
        """
        return self.code == NO_CODE and self.status != TOO_LARGE


class Unreachable(ClientError):
    """Raised if the response is missing or unusable.

    The server may have done the call. You can safely repeat the call with the same key.

    `retry_after_s`: the wait in seconds that the last response requested; None without such a request. `too_many`: True
    if the server answered 429, because it received too many calls.
    """

    def __init__(self, why: str, retry_after_s: float | None = None, *, too_many: bool = False) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s
        self.too_many = too_many
