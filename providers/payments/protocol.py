"""The protocol of a payment service: its calls, and their possible outcomes.

Guarantee: results are a closed type, and none is guessed. A service does one charge, or one look-up, and returns its
outcome. The caller decides when to call again, by the capabilities. `NotSent` is about the one call alone: after an
earlier call in doubt, the charge stays in doubt.

A caller avoids charging twice as follows. The charge and each attempt are on record before the call. A charge in doubt
is looked up. Only `NotFound`, once `lookup_lag_ms` have passed since the last call, lets the same charge be made again.
Only `NotFound` after `applied_within_ms` proves for good that nothing was taken: then the charge may be given up, and
another one, under another id, take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from drawdown.providers.protocol import Setup


@dataclass(frozen=True)
class PaymentCapabilities:
    """The declaration of a payment service, which its caller obeys. Times are milliseconds."""

    key_retention_ms: int | None
    """The time after the first call for which its service surely remembers a charge's id; None: for good."""
    lookup_lag_ms: int
    """The time after a call in which a look-up may still miss its effect."""
    applied_within_ms: int
    """The time after a call in which the service may still apply it: from then on, absence is final proof."""
    least: Mapping[str, int] = field(default_factory=dict)
    """The least amount of one charge by currency, where that is known; else 1."""
    most: int | None = None
    """The largest amount of one charge, in minor units of any currency; None: that is not told."""


@dataclass(frozen=True)
class Charge:
    """One charge, the same content at each attempt."""

    charge_id: str
    """`topup:{wallet}:{episode}`: what the service deduplicates by, and what a look-up finds it by."""
    customer_id: str
    """At the payment service."""
    amount: int
    """Minor units of the currency as the service counts them: cents; whole yen."""
    currency: str
    """ISO 4217, in lower case."""
    description: str
    """The text that the customer may read on a receipt."""
    begun_ms: int
    """When the charge was decided on. No attempt is older: a look-up reads from there, with room for clocks."""


@dataclass(frozen=True)
class Payment:
    """The money was taken. `amount` and `currency` are those of the charge."""

    payment_id: str
    amount: int
    currency: str


@dataclass(frozen=True)
class Declined:
    """Nothing was taken, and nothing will be under this id: another try is another charge.

    `code` and `reason` are for the operator. A customer is not told that a card counts as stolen.
    """

    code: str
    reason: str
    retry: bool
    """True if the same card may be tried again later; otherwise only another card helps."""


@dataclass(frozen=True)
class NeedsCustomer:
    """Nothing was taken: the bank wants the customer to confirm, and they are not there. It counts as declined."""

    reason: str


@dataclass(frozen=True)
class InDoubt:
    """Nobody can say yet: no answer, an unreadable one, a payment that is under way. Look it up."""

    reason: str


@dataclass(frozen=True)
class NotFound:
    """A result of `look_up` alone: there is no such charge. It is proof only once the declared lag is over."""


@dataclass(frozen=True)
class NotSent:
    """A result of `charge` alone: this call is proven to have done nothing. Earlier calls may have."""

    reason: str
    retry_at_ms: int | None
    """Not before then. None: a person, or the customer, has to fix something first (no card, no such customer). A
    charge of which no call is in doubt is then given up: once fixed, it is another charge."""


@dataclass(frozen=True)
class OtherContent:
    """The id stands for another charge at the provider (amount, currency, customer), or for two. A person decides.

    Of `charge` it may mean no more than another card since an attempt that came to nothing: then a look-up says
    `NotFound`, and the charge is given up as one in doubt is.
    """

    reason: str


ChargeResult: TypeAlias = Payment | Declined | NeedsCustomer | InDoubt | NotFound | NotSent | OtherContent


@dataclass(frozen=True)
class Link:
    """A page of the service for one customer.

    The service takes anyone with the URL for the customer: show it to nobody else.
    """

    url: str = field(repr=False)
    expires_ms: int | None
    """None: that is not told."""


@dataclass(frozen=True)
class NoLink:
    """There is none now, and why."""

    reason: str


@runtime_checkable
class PaymentService(Protocol):
    """One way to take money. Methods never raise for what the service answers: they say it in their result."""

    name: str
    capabilities: PaymentCapabilities
    dormant: str | None
    """Why nothing is sent or asked (no key is set); None: it is ready."""

    async def charge(self, request: Charge) -> ChargeResult:
        """Charge the customer's card on file, once per id however often it is called. Never `NotFound`."""
        ...

    async def look_up(self, request: Charge) -> ChargeResult:
        """Return the outcome of a charge, without charging.

        It is never `NotSent`: if the outcome cannot be read, it stays in doubt.
        """
        ...

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        """Where the customer puts in the first card. From then on `charge` uses it. Nothing is charged."""
        ...

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        """Where the customer changes cards and sees payments."""
        ...


@runtime_checkable
class FillsItself(Protocol):
    """The extra call of a service that may top customers up by itself: only one may fill a wallet."""

    async def fills_itself(self, customer_id: str) -> NotSent | InDoubt | None:
        """Why nobody else may top this customer up; InDoubt where that cannot be read now; None: nothing is known
        against it."""
        ...


BuildPayments: TypeAlias = Callable[[Setup], PaymentService]
"""Errors: UsageError for settings it cannot use."""
