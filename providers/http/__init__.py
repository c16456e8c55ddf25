"""HTTP for billing: the calls that are sent, and the results that may come back.

Guarantee: a result is one of three, and only `NotSent` proves that the service cannot have seen the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

TIMEOUT_S: Final = 30.0
"""Default time limit of a call to a provider, from its start to the last byte of the response."""
READ_TIMEOUT_S: Final = 10.0
"""Time limit of a read call to a provider. A push may take longer, because Drawdown must look it up if its response
is lost."""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Default size of a provider's unpacked response."""
PUSH_ANSWER_BYTES: Final = 64 * 1024
"""Size of a provider's response to a push. Hundreds of pushes are in flight at once."""


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
