"""The inputs, the capabilities and the results of a billing provider.

Guarantee: outcomes are a closed type. "Not sent" is never guessed, so an outcome that is not proven is Unknown. The
worker obeys the capabilities that a provider declares. A provider does not wait, and does not repeat a call that may
have charged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, runtime_checkable

from drawdown.providers.http import Http
from drawdown.schema.clock import Clock
from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import MINUTE_MS

if TYPE_CHECKING:
    import httpx2
    import sqlalchemy as sa

HOUR_MS: Final = 60 * MINUTE_MS


@dataclass(frozen=True)
class Capabilities:
    """The declaration of a provider, which the worker obeys.

    Times are in milliseconds.
    """

    key_retention_ms: int | None
    """The time for which the provider remembers a key, at least an hour.

    None: permanently. Rule P2 depends on this time.
    """
    duplicate_proves_delivery: bool
    """True if "this key was seen" proves that the push was charged (rule P3)."""

    success_proves_charge: bool = True
    """True if a success response proves the charge.

    If False, `push` returns Queued in place of Accepted, and a lookup decides the outcome.
    """

    batch_size: int = 1
    """The largest number of pushes in one call."""
    in_flight: int = 1
    """The largest number of concurrent calls."""
    calls_per_s: float | None = None
    """The largest number of push calls per second of one worker; None: unlimited."""
    reads_per_s: float | None = None
    """The largest number of read calls per second of one worker; None: unlimited.

    Read calls are customers, lookups, totals and checks.
    """
    lookups_per_s: float | None = None
    """The largest number of lookups and totals of one customer per second of one worker.

    None: unlimited.
    """
    one_at_a_time: bool = False
    """True if two pushes of one customer and feature must not be in flight at once."""
    reads_a_call: int = 1
    """The largest number of customers in one read."""
    max_key_chars: int | None = None
    """The largest number of characters of a key; None: unlimited.

    The worker sends a stable hash of a longer key.
    """

    negatives: bool = True
    """True if a negative quantity refunds usage.

    If False, Drawdown carries a negative quantity (rule S10).
    """
    unit: int = 1
    """The base units in one unit of the provider.

    Drawdown carries the remainder (rule S10).
    """
    units: Mapping[str, int] = field(default_factory=dict)
    """The base units in one unit of the provider, by feature.

    Features that are not listed have `unit`.
    """
    names: Mapping[str, str] = field(default_factory=dict)
    """The provider's name of each feature that is configured here.

    Drawdown compares the names, so that usage cannot move to another place unnoticed.
    """
    way: str = ""
    """The path that pushes take, if the provider has several.

    A key sent on one path may be unknown on another.
    """
    mode: str = ""
    """The mode of the key, `live` or `test`, if the key shows it.

    Drawdown compares the mode, so that usage cannot go to the other mode unnoticed.
    """
    max_quantity: int | None = None
    """The largest quantity of one push, in base units, positive or negative.

    The worker rejects a push with a larger quantity, and does not send it. None: unlimited.
    """

    oldest_ms: int | None = None
    """The largest age of a push; None: unlimited.

    The worker rejects an older push unsent.
    """
    live_from_ms: int | None = None
    """The start of live windows; None: all windows are live.

    Earlier windows are sealed and compared, never sent (shadow mode, a cut-over).
    """

    lookup_lag_ms: int | None = None
    """The time after a send in which a lookup can still miss an applied push.

    None: a push cannot be looked up.
    """
    lookup_span_ms: int = 0
    """The longest span of one customer's pushes that one call looks up.

    See `ManyLookups`. 0: a call looks up one push.
    """
    applied_within_ms: int | None = HOUR_MS
    """The time after a send in which the service can still apply the push.

    Before that time is over, absence is not final (rule P5). None: the service does not limit the time, so absence is
    never final, and a push that stays absent is in doubt.
    """
    totals_lag_ms: int | None = None
    """The lag of totals behind accepted pushes; None if totals cannot be read."""
    balance_lag_ms: int = 0
    """The longest lag of a customer's balance behind accepted pushes."""
    drawn: bool = False
    """True if a balance itself shows its draws, independently of the events.

    A provider needs this if its key store can fail open, or if it can charge without an event. Then absence alone is
    not proof (rule P5).
    """

    cancel_within_ms: int | None = None
    """The time after a send in which the provider can cancel a charge.

    See `Cancels`. None: the provider cannot cancel.
    """
    costs: bool = False
    """True if the provider reports the credits that a unit of a feature draws.

    See `TellsCosts`. Drawdown then reads a customer without known credit before it sends the customer's pushes. If the
    read fails, they wait up to a day (P5).
    """

    same_database: bool = False
    """True if its charges are in Drawdown's database.

    Then a restore restores both (rule R1).
    """
    own_customer_ids: bool = False
    """True if the provider makes the ids of its customers.

    Then an organisation's id cannot be a customer's id.
    """
    balance_in_ledger: bool = False
    """True if the provider never stops a customer.

    The balance is then the customer's wallet in the embedded ledger, if it exists.
    """
    locks: bool = False
    """True if the provider reserves credit for an execution.

    Drawdown does not support this (decision 17), and does not load a provider that declares it.
    """

    webhook_headers: tuple[str, ...] = ()
    """The headers with a signature, in lower case; empty: unknown.

    A webhook without any of them is refused before its body is read.
    """

    @property
    def lookup(self) -> bool:
        return self.lookup_lag_ms is not None

    def customer_of(self, org_id: str) -> str:
        """Return the customer id of a new organisation; empty if a person must set it."""
        return "" if self.own_customer_ids else org_id

    def unit_of(self, feature: str) -> int:
        """Return the base units of a feature in one unit of the provider."""
        return self.units.get(feature, self.unit)

    def faults(self) -> Iterator[str]:
        """Yield the contradictions in this declaration.

        Drawdown does not load a provider with a contradiction.
        """
        counts = (self.batch_size, self.in_flight, self.reads_a_call)
        if min(*counts, self.unit, *self.units.values()) < 1:
            yield "batch_size, in_flight, reads_a_call and units must be 1 or more"
        if not self.duplicate_proves_delivery and not self.lookup:
            yield "a duplicate that does not prove a delivery must be looked up. Declare lookup_lag_ms"
        if not self.success_proves_charge and not self.lookup:
            yield "a success that does not prove a charge must be looked up. Declare lookup_lag_ms"
        if self.drawn and self.applied_within_ms is None:
            yield "a balance proves an absent push only after a limited time. Declare applied_within_ms"
        if self.locks:
            yield "a provider must not declare its own locks. Drawdown keeps the reservations of its customers"


@dataclass(frozen=True)
class PushRequest:
    """One push, as it is sent.

    `quantity`: base units of the feature, a multiple of the declared unit. `ts`: a moment in the window (milliseconds).
    `key`: the key by which the service deduplicates. `attempt`: 1 for the first.
    """

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int
    attempt: int


@dataclass(frozen=True)
class ShownCredit:
    """A customer's credit and charge, as the response to a push shows them.

    Amounts are micro-credits.

    `balance_micro`: the credit; None: unlimited. `part`: the name of the shown balance, if other balances may decide,
    too; None: the response shows the whole credit.
    """

    balance_micro: int | None
    charged_micro: int
    part: str | None = None


UnitCost: TypeAlias = Decimal | Fraction
"""Credits for one base unit of a charge.

If a limit ended the charge inside a unit, it is a Fraction, the mean cost of the units that count as charged.
"""


@dataclass(frozen=True)
class Accepted:
    """The outcome of a push that the provider reported as charged."""

    shown_credit: ShownCredit | None = field(default=None, compare=False)
    """The credit left after the charge; None: the response does not show it."""
    cost: UnitCost | None = field(default=None, compare=False)
    """Credits for one base unit of the charge; None: the response does not show them."""
    parts: tuple[Part, ...] = field(default=(), compare=False)
    """Parts of balances that the response shows.

    Once a later charge uses up a part, reads do not show it.
    """


@dataclass(frozen=True)
class Duplicate:
    """The outcome of a push with a key that the provider received before."""


@dataclass(frozen=True)
class Queued:
    """The outcome of a push with a charge that is not proven yet.

    The service accepted the push. Look it up at `confirm_at_ms` (milliseconds).
    """

    confirm_at_ms: int


@dataclass(frozen=True)
class RetryAt:
    """The outcome of a push that was provably not applied, and can be retried.

    The worker sends the push again under the same key, not before `at_ms`.

    `too_many`: True if the service refused the push because of too many calls, so the customer's other pushes should
    wait, too. `by_person`: True if the service refuses the push until a person changes a setting, such as a key.
    `drawdown status` then immediately reports that a person must act.
    """

    at_ms: int
    reason: str
    too_many: bool = False
    by_person: bool = False


@dataclass(frozen=True)
class Rejected:
    """The outcome of a push that was provably not applied. A retry does not help.

    A person or a rule decides what happens next.

    `until_credit`: True if the customer lacked credit to draw on, or a drawn balance to refund. Drawdown bills the
    usage again once the provider shows credit.
    """

    reason: str
    until_credit: bool = False


@dataclass(frozen=True)
class Unknown:
    """The outcome of a push that was sent, if the provider may have applied it."""

    reason: str


Outcome: TypeAlias = Accepted | Duplicate | Queued | RetryAt | Rejected | Unknown


@dataclass(frozen=True)
class Part:
    """A part of a balance, granted once (such as a top-up) or by a plan.

    Autumn drops a part granted once from its responses as soon as it is used up exactly (observed in a recorded call).
    `granted`: in the unit of the balance. `ends_ms`: the end of unused credit, in milliseconds (None: not shown).
    `plan`: the plan that it came with, and with which it ends (None: it was granted alone). `used`: the draws, if the
    part was granted once and can end before it is used up (None: not stored).
    """

    balance: str
    name: str
    granted: Decimal
    ends_ms: int | None = None
    plan: str | None = None
    used: Decimal | None = None
    seen_ms: int = field(default=0, compare=False)
    """The last time at which Drawdown read this part."""

    @property
    def begins_again(self) -> bool:
        """Return True for a part of a plan that begins again each cycle.

        Its draws are not stored.
        """
        return self.plan is not None and self.used is None

    def ended(self, plans: Collection[str]) -> bool:
        """Return True if a part that a later response lacks ended before it was used up.

        A part that begins again each cycle counts as ended. `plans`: the customer's plans in that response. In a
        recorded call, the response to the charge that used a part up showed it at zero.
        """
        is_left = self.used is not None and self.used < self.granted
        return is_left or self.begins_again or (self.plan is not None and self.plan not in plans)


@dataclass(frozen=True)
class CustomerState:
    """The state of a customer.

    `balance_micro`: the credit that the customer can still spend in micro-credits (a millionth of a credit), with
    overage and limits included; None: unlimited. If the service blocks a customer, report 0, or a balance below zero.
    `max_concurrent`: concurrent sandboxes; None: unlimited. `refused`: features that a limit of the provider refuses
    although the balance lasts. `parts`: credit that was granted once or by a plan. `plans`: all plans that the customer
    has, including bought plans. `feature_limits`: the base units that usage limits leave of a feature.
    """

    balance_micro: int | None
    plan: str | None
    max_concurrent: int | None
    refused: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()
    plans: frozenset[str] = frozenset()
    feature_limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NoCustomer:
    """The result of a read if the customer does not exist at the provider.

    It does not mean a balance of zero.
    """


@dataclass(frozen=True)
class ReadFailed:
    """The result of a failed read, which Drawdown retries later.

    A balance that cannot be read is not zero. `too_many`: True if the service refused the read because of too many
    calls.
    """

    reason: str
    too_many: bool = False


CustomerRead: TypeAlias = CustomerState | NoCustomer | ReadFailed


@dataclass(frozen=True)
class FoundPush:
    """The result of a lookup that found the push.

    `quantity`: the base units that the provider charged for it.
    """

    quantity: int
    cost: UnitCost | None = field(default=None, compare=False)
    """Credits for one base unit of the charge; None: unknown."""


@dataclass(frozen=True)
class Absent:
    """The result of a lookup if the provider does not have this push.

    The result is proof only after the declared lag.
    """


@dataclass(frozen=True)
class CannotTell:
    """The result of a lookup that the provider cannot answer, now or later.

    The result has the reason, and a person decides.
    """

    reason: str
    holds: int | None = None
    """The base units that the provider shows in the place where only this push should count.

    At Stripe, that place is the push's minute. The figure includes the usage of other senders. None: it is not a whole
    number, or other pushes of Drawdown may count there.
    """
    may_have: bool = False
    """True if the provider shows something that may be this push, so that a void could bill its usage twice."""


@dataclass(frozen=True)
class Cancelled:
    """The result of a cancellation that the provider confirmed.

    `evidence`: the provider's response, in one line.
    """

    evidence: str


LookupResult: TypeAlias = FoundPush | Absent | CannotTell | ReadFailed
Totals: TypeAlias = Mapping[str, int]
"""Base units by feature."""


@dataclass(frozen=True)
class Cost:
    """The credits that one base unit of a feature draws from a balance.

    `balance`: the name of the credit system.

    `unread`: True if the present cost is unreadable or unusable, so this is the last known cost. Drawdown then keeps
    that cost.
    """

    feature: str
    balance: str
    credits: Decimal
    unread: bool = False


@dataclass(frozen=True)
class Lasting:
    """The part of a balance that does not end with the cycle.

    It was granted once. The other part of the balance renews at `ends_ms` (milliseconds), and charges use it first. If
    the whole balance renews, `used` and `lasting_left` are zero.

    `used`: the draws on the lasting part. `lasting_left`: the remainder of the lasting part. `cycle_left`: the
    remainder of the part that renews. These three figures are in the unit of the balance.
    """

    used: Decimal
    lasting_left: Decimal
    cycle_left: Decimal
    ends_ms: int


@dataclass(frozen=True)
class Drawn:
    """The draws that a balance shows since `since_ms`.

    If `since_ms` is None, they are all draws since the balance began. A person's change of the balance may count as a
    draw or a refund, because the figure does not show the cause of a change.
    `quantity`: the draws, in base units of the balance's feature, or in credits for a credit system. `parts`: the parts
    of the balance, granted once or by a plan.
    """

    quantity: int | Decimal
    since_ms: int | None
    whole: bool = True
    """True if the draws were zero at `since_ms`.

    If False, two reads in the same cycle can be compared. A single read cannot be compared with the pushes.
    """
    parts: tuple[Part, ...] = ()
    lasting: Lasting | None = None
    """The part of the balance that does not end with the cycle.

    Zero figures: the whole balance renews. None: no part renews, or the order of draws on the parts is unknown.
    """
    plans: frozenset[str] = frozenset()
    """All plans that the customer has."""
    own: Mapping[str, Decimal] = field(default_factory=dict)
    """Draws on the own balances of the features of a credit system, by feature.

    They are in base units of the feature, and `quantity` does not include them. Responses do not show the costs at
    which credits would have been drawn.
    """
    earliest_ms: int | None = None
    """The earliest possible start of the cycle, if `since_ms` is the latest possible start.

    None: the cycle began at `since_ms`.
    """
    is_first: bool = False
    """True if each part that begins again is in its first cycle, so that it was never reset.

    The start of the part's plan shows this.
    """


@dataclass(frozen=True)
class CustomerChanged:
    """A notice that this customer changed, so Drawdown reads the customer again.

    Drawdown never uses a webhook's own figures.
    """

    customer_id: str


@dataclass(frozen=True)
class PushRefused:
    """A notice that an accepted push was refused later.

    `key`: the key that the push was sent with.
    """

    key: str
    reason: str


Notice: TypeAlias = CustomerChanged | PushRefused


class WebhookRefused(DrawdownError):
    """Raised for a webhook that Drawdown does not use.

    The webhook is not signed correctly, is too old, is unreadable, or belongs to another account. It is also raised if
    the provider lacks a webhook secret, or does not accept webhooks.
    """


@runtime_checkable
class Provider(Protocol):
    """A service that bills usage.

    A method returns a result for each response of the service, and never raises an error for it.
    """

    name: str
    capabilities: Capabilities
    dormant: str | None
    """The reason why the provider is dormant, such as a missing key.

    A dormant provider does not send calls. None: it is ready.
    """

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        """Push at most `batch_size` pushes in one call.

        Return one outcome for each, in order.

        The same key always comes with the same content.
        """

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        """Read the present state of at most `reads_a_call` customers, without a cache.

        Return the states by customer.
        """

    async def lookup(self, request: PushRequest) -> LookupResult:
        """Look up one push, and return the result.

        The worker calls it only if `lookup_lag_ms` is declared.
        """

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """Return a customer's charges by feature, in base units.

        They are the charges for events dated in [from_ms, to_ms). The worker calls it only if `totals_lag_ms` is
        declared.
        """

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        """Return the draws that the customer's balances show, by feature or credit system.

        The worker calls it only if `drawn` is declared.
        """

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        """Return the notices of a webhook after it is proven to be the provider's.

        Header names are in lower case.

        If the webhook is genuine, but its content could not be fetched, return ReadFailed. Errors: WebhookRefused.
        """

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        """Return the faults of the configuration, one line each; empty without faults.

        The method checks the key, the version, these features and these customers. It does not charge, and tests the
        key even if both lists are empty.
        """


class ManyLookups(Protocol):
    """A provider that declares `lookup_span_ms`."""

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        """Look up pushes of one customer, and return one result for each, in order.

        The pushes are dated within `lookup_span_ms`.
        """


class Cancels(Protocol):
    """A provider that declares `cancel_within_ms`."""

    async def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        """Cancel a push that was accepted.

        A repeated call for the same push does not have a further effect. Return ReadFailed if the provider did not
        confirm the cancellation; it may still have cancelled the push.
        """


class TellsCosts(Protocol):
    """A provider that declares `costs`."""

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        """Return the present costs of units, at most one for each feature.

        The result is empty without a credit system.

        If the result lacks a feature of `known`, the feature draws on its own balance from then on. If a cost is
        unreadable or unusable now, return the last known cost with `unread`. `known`: every cost that was learned
        before, so that a charge at an older cost is converted at that cost.
        """


@dataclass(frozen=True)
class Setup:
    """The inputs from which a provider is built.

    `settings` holds the environment's DRAWDOWN_<NAME>_… by the rest of their names, in lower case. Messages must not
    contain a secret setting. A name never ends in `_file`, because an environment variable with that ending names a
    file with the value. If the content of the file changes, Drawdown builds the provider again.
    """

    name: str
    settings: Mapping[str, str]
    clock: Clock
    http: Http
    engine: sa.Engine

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """Return an httpx2 client that sends through `http`.

        Options are those of `httpx2.AsyncClient`: base_url, headers, auth. Send with
        `drawdown.providers.kit.clients.ask`, which returns the proven result. Errors: UsageError.
        """
        from drawdown.providers.kit.clients import client_on

        client: httpx2.AsyncClient = client_on(self.http, **options)
        return client


Build: TypeAlias = Callable[[Setup], Provider]
"""The object of an entry point of the group `drawdown.providers`.

Errors: UsageError for unusable settings.
"""
