"""HTTP for billing: the calls that are sent, and the results that may come back.

Guarantee: a result is one of three, and only `NotSent` proves that the service cannot have seen the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

TIMEOUT_S: Final = 30.0
"""One call to a provider, from its beginning to its last byte."""
READ_TIMEOUT_S: Final = 10.0
"""One reading call to a provider. A push waits longer, because it is looked up if its answer is lost."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""One answer of a provider, unpacked."""
PUSH_ANSWER_BYTES: Final = 64 * 1024
"""The answer to a push: hundreds are under way at once."""


@dataclass(frozen=True)
class Call:
    """One request. Headers hold secrets: they are never printed, and neither is a body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout_s: float = TIMEOUT_S
    most_bytes: int = MAX_ANSWER_BYTES


@dataclass(frozen=True)
class Answer:
    """A complete answer: header names in lower case, a body of at most the call's `most_bytes`."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class NotSent:
    """Proven not to have reached the service: refused, no such host, no TLS."""

    reason: str


@dataclass(frozen=True)
class NoAnswer:
    """Sent, at least in part, and no whole answer came back: nobody knows what became of it."""

    reason: str


HttpResult: TypeAlias = Answer | NotSent | NoAnswer


class Http(Protocol):
    """Sends calls. Never raises for what the network or the other side does."""

    async def send(self, call: Call) -> HttpResult:
        """Send once; nothing is ever repeated here."""
        ...

    async def close(self) -> None:
        """Give connections back; a later call opens new ones."""
        ...
