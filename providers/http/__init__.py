"""HTTP for billing: the calls that Drawdown sends, and their possible results.

Guarantee: a result has one of three types, and only `NotSent` proves that the service did not receive the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

TIMEOUT_S: Final = 30.0
"""Default timeout of a provider call, in seconds, from its start to the last byte of the response."""
READ_TIMEOUT_S: Final = 10.0
"""Timeout of a read call to a provider, in seconds.

A push may take longer, because Drawdown must look it up if its response is lost.
"""
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Default limit of the size of a provider's unpacked response, in bytes."""
PUSH_ANSWER_BYTES: Final = 64 * 1024
"""Largest size of a provider's response to a push.

The limit is small because hundreds of pushes are in flight at once.
"""


@dataclass(frozen=True)
class Call:
    """One request. A repr hides headers and body, which may hold secrets.

    `timeout_s`: seconds until the last byte of the response. `most_bytes`: the largest unpacked body of the response.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout_s: float = TIMEOUT_S
    most_bytes: int = MAX_ANSWER_BYTES


@dataclass(frozen=True)
class Answer:
    """A complete response.

    Header names are in lower case. The body has at most the call's `most_bytes`.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class NotSent:
    """A call that provably did not reach the service, such as a refused connection."""

    reason: str


@dataclass(frozen=True)
class NoAnswer:
    """A call that was sent, at least in part, and has an unknown outcome.

    The whole response did not arrive.
    """

    reason: str


HttpResult: TypeAlias = Answer | NotSent | NoAnswer


class Http(Protocol):
    """A sender of calls.

    It never raises an error for a fault of the network or the service.
    """

    async def send(self, call: Call) -> HttpResult:
        """Send a call once without a retry, and return its result."""
        ...

    async def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        ...
