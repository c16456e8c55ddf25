"""What a billing provider can do, and what it may answer.

Guarantee: outcomes are a closed type. "Not sent" is never guessed: whatever is not proven is Unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True)
class Capabilities:
    """What a provider declares, and the worker obeys."""

    batch_size: int
    """Pushes a call, at most."""
    key_retention_ms: int | None
    """How long a key is remembered; None: for good. Rule P2 rests on it."""
    duplicate_proves_delivery: bool
    """Whether "this key was seen" proves that it was charged (rule P3)."""
    lookup: bool
    """Whether one push can be looked up."""
    negatives: bool = True
    """Whether a negative quantity gives back; else it is carried (rule S10)."""
    unit: int = 1
    """Base units in one unit of the provider's; the remainder is carried (rule S10)."""
    in_flight: int = 1
    """Calls at once, at most."""
    reads_a_call: int = 1
    """Customers a read, at most."""


@dataclass(frozen=True)
class PushRequest:
    """One push as it is sent. `quantity` counts base units of the feature; `ts` lies in the window."""

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int
    attempt: int


@dataclass(frozen=True)
class Accepted:
    """Charged, and the provider said so."""


@dataclass(frozen=True)
class Duplicate:
    """The provider has seen this key before."""


@dataclass(frozen=True)
class Queued:
    """Taken, not yet applied; look it up at `confirm_at_ms`."""

    confirm_at_ms: int


@dataclass(frozen=True)
class RetryAt:
    """Proven not applied; send the same bytes again at `at_ms`."""

    at_ms: int
    reason: str


@dataclass(frozen=True)
class Rejected:
    """Proven not applied, and sending again would not help. A person, or a rule, decides."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """Sent, and nobody can say what became of it."""

    reason: str


Outcome: TypeAlias = Accepted | Duplicate | Queued | RetryAt | Rejected | Unknown


@dataclass(frozen=True)
class CustomerState:
    """What a provider says of a customer. `balance_micro` None: unlimited. `max_concurrent` None: no limit."""

    balance_micro: int | None
    plan: str | None
    max_concurrent: int | None


@dataclass(frozen=True)
class ReadFailed:
    """The state could not be read. A balance that cannot be read is not zero."""

    reason: str


CustomerRead: TypeAlias = CustomerState | ReadFailed

NO_LOOKUP: Final = "this provider cannot look a push up"


@runtime_checkable
class Provider(Protocol):
    """One way to bill. Methods never raise for what the service answers: they say it in their result."""

    name: str
    capabilities: Capabilities

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        """Send pushes; one outcome each, in order. The same key always comes with the same content."""
        ...

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        """The present state of customers, read afresh."""
        ...

    async def lookup(self, request: PushRequest) -> int | None:
        """The quantity applied under this push's key; None where the provider has no such push."""
        ...

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int]:
        """Applied quantity by feature, of events dated in [from_ms, to_ms)."""
        ...

    async def check(self) -> Sequence[str]:
        """What is wrong with this provider's set-up, a line each; empty when all is well."""
        ...
