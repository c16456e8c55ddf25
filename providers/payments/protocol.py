"""The protocol of a payment service: its calls, and their possible outcomes.

Guarantee: results are a closed type, and never guessed. Each call does one charge or one lookup, and returns the
outcome. The caller reads the capabilities to decide when to call again. `NotSent` is about one call alone. If an
earlier call is in doubt, the charge stays in doubt.

A caller must obey these rules, so that it never charges twice. It records the charge and each attempt before the call.
It looks up a charge in doubt. It repeats the charge only after a `NotFound`, once `lookup_lag_ms` have passed since the
last call. Only a `NotFound` after `applied_within_ms` proves for good that money was not taken. Then the caller can
give up the charge, and make another under another id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from drawdown.providers.protocol import Setup


@dataclass(frozen=True)
class PaymentCapabilities:
    """The declaration of a payment service, which its caller obeys.

    Times are in milliseconds.
    """

    key_retention_ms: int | None
    """The time after the first call for which the service remembers a charge's id.

    None: permanently.
    """
    lookup_lag_ms: int
    """The time after a call in which a lookup can still miss its effect."""
    applied_within_ms: int
    """The time after a call in which the service can still apply it.

    After that time, absence is final proof.
    """
    least: Mapping[str, int] = field(default_factory=dict)
    """The smallest amount of one charge in minor units, by currency.

    For a currency that is not listed, it is 1.
    """
    most: int | None = None
    """The largest amount of one charge, in minor units of any currency; None: unknown."""


@dataclass(frozen=True)
class Charge:
    """One charge, with the same content at each attempt."""

    charge_id: str
    """The id `topup:{wallet}:{episode}`.

    The service deduplicates by this id, and a lookup finds the charge by it.
    """
    customer_id: str
    """The customer's id at the payment service."""
    amount: int
    """The amount in minor units of the currency.

    The service counts cents, or whole yen.
    """
    currency: str
    """The currency as ISO 4217, in lower case."""
    description: str
    """The text that the customer may read on a receipt."""
    begun_ms: int
    """The moment of the decision to charge (milliseconds).

    A lookup starts at this moment, less a margin for clocks.
    """


@dataclass(frozen=True)
class Payment:
    """The result if the money was taken, with the amount and currency of the charge.

    The amount is in minor units.
    """

    payment_id: str
    amount: int
    currency: str


@dataclass(frozen=True)
class Declined:
    """The result if money was not taken, and never will be under this id.

    To retry, make another charge. `code` and `reason` are for the operator. Do not show a customer that a card is
    reported as stolen.
    """

    code: str
    reason: str
    retry: bool
    """True if the same card can be charged again later.

    False if only another card helps.
    """


@dataclass(frozen=True)
class NeedsCustomer:
    """The result if the bank requires the customer's confirmation.

    The money was not taken, so the charge counts as declined.
    """

    reason: str


@dataclass(frozen=True)
class InDoubt:
    """The result if the outcome is unknown, so the caller must look it up.

    The response is missing or unreadable, or the payment is pending.
    """

    reason: str


@dataclass(frozen=True)
class NotFound:
    """The result of a lookup that does not find the charge.

    It is proof only after the declared lag.
    """


@dataclass(frozen=True)
class NotSent:
    """The result of `charge` if this call provably did not have an effect.

    An earlier call may have charged.
    """

    reason: str
    retry_at_ms: int | None
    """The earliest time to retry (milliseconds).

    None: a person, or the customer, must first fix a fault, such as a missing card or customer. Unless a call is in
    doubt, the caller gives the charge up. After the fix, it makes another charge.
    """


@dataclass(frozen=True)
class OtherContent:
    """The result if the id belongs to another charge, or to two charges.

    A person decides. The other charge differs in amount, currency or customer.

    From `charge` it can also mean that only the card changed since a failed attempt. Then a lookup returns `NotFound`,
    and the caller gives the charge up by the rules for a charge in doubt.
    """

    reason: str


ChargeResult: TypeAlias = Payment | Declined | NeedsCustomer | InDoubt | NotFound | NotSent | OtherContent


@dataclass(frozen=True)
class Link:
    """A page of the service for one customer.

    The service treats anyone with the URL as the customer, so show it only to the customer.
    """

    url: str = field(repr=False)
    expires_ms: int | None
    """The time at which the page expires (milliseconds); None: unknown."""


@dataclass(frozen=True)
class NoLink:
    """The result if the service cannot return a page now, with the reason."""

    reason: str


@runtime_checkable
class PaymentService(Protocol):
    """A service that takes money.

    A method returns a result for each response of the service, and never raises an error for it.
    """

    name: str
    capabilities: PaymentCapabilities
    dormant: str | None
    """The reason why the service is dormant, such as a missing key.

    A dormant service does not send calls. None: it is ready.
    """

    async def charge(self, request: Charge) -> ChargeResult:
        """Charge the customer's card on file, only once for each id.

        The result is never `NotFound`.
        """
        ...

    async def look_up(self, request: Charge) -> ChargeResult:
        """Return the outcome of a charge, without charging.

        The outcome is never `NotSent`. If it cannot be read, the charge stays in doubt.
        """
        ...

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        """Return a page where the customer enters the first card.

        The page does not charge, and `charge` then uses that card.
        """
        ...

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        """Return a page where the customer changes cards and sees payments."""
        ...


@runtime_checkable
class FillsItself(Protocol):
    """A service that can itself top up customers.

    Only one program may fill a wallet.
    """

    async def fills_itself(self, customer_id: str) -> NotSent | InDoubt | None:
        """Return why Drawdown must not top this customer up.

        Return None if Drawdown may. Return InDoubt if the service's setting cannot be read now.
        """
        ...


BuildPayments: TypeAlias = Callable[[Setup], PaymentService]
"""The object of an entry point of the group `drawdown.payments`.

Errors: UsageError for unusable settings.
"""
