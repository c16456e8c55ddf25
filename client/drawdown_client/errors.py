"""Errors of the client, by the caller's possible reaction."""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(Exception):
    """All that this package raises by itself."""


class BadItem(ClientError, ValueError):
    """An event or sample that no server takes; it was not recorded. Fix the call."""


class QueueFull(ClientError):
    """So much waits to be sent that no more is kept; this item was not recorded. Wait, or let it go."""


class Closed(ClientError):
    """The client is closed; nothing was recorded."""


class Unsent(ClientError):
    """Items that the server does not have. `count`: how many were not sent in time; `kept`: whether a spool has them
    for the next start. `rejected`: how many it answered `invalid` or `conflict` since this was last raised;
    `dead_letter`: the file that keeps those, if there is a spool."""

    def __init__(self, count: int, *, kept: bool, rejected: int = 0, dead_letter: str | None = None) -> None:
        said: list[str] = []
        if count or not rejected:
            where = "the spool keeps them for the next start" if kept else "they were stored only in memory"
            said.append(f"{count:,} items were not sent: {where}")
        if rejected:
            where = f"{dead_letter} keeps them" if dead_letter else "only the log has them"
            said.append(f"the server refused {rejected:,} items: {where}")
        super().__init__("; ".join(said))
        self.count = count
        self.kept = kept
        self.rejected = rejected
        self.dead_letter = dead_letter


class Refused(ClientError):
    """The server refused a call; the same call is refused again. `status` is of HTTP; `code` is what docs/http-api.md
    lists."""

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})


class Unreachable(ClientError):
    """No answer after all tries: the call may have been done, or not. The same call with the same key is safe.

    `retry_after_s`: the server's wait after the last try, if it gave one. `too_many`: the server answered, and asked
    for fewer calls.
    """

    def __init__(self, why: str, retry_after_s: float | None = None, *, too_many: bool = False) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s
        self.too_many = too_many
