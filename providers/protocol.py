"""The protocol: a billing provider's inputs, its capabilities, and its possible answers.

Guarantee: outcomes are a closed type. "Not sent" is never guessed: an outcome that is not proven is Unknown. The worker
obeys the capabilities that a provider declares. A provider does one call of its service and returns the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
    """The declaration of a provider, which the worker obeys. Times are milliseconds."""

    key_retention_ms: int | None
    """The time that the provider remembers a key, an hour at least; None: for good. Rule P2 depends on it."""
    duplicate_proves_delivery: bool
    """True if "this key was seen" proves that the push was charged (rule P3)."""

    success_proves_charge: bool = True
    """True if an answer of success proves the charge. If False, each push is Queued, and settled by its look-up."""

    batch_size: int = 1
    """Pushes a call, at most."""
    in_flight: int = 1
    """Calls at once, at most."""
    calls_per_s: float | None = None
    """Pushing calls a second, at most, of one worker; None: as fast as they are answered."""
    reads_per_s: float | None = None
    """Reading calls (customers, lookups, totals, checks) a second, at most, of one worker."""
    lookups_per_s: float | None = None
    """Lookups and totals of one customer a second, at most, of one worker."""
    one_at_a_time: bool = False
    """True if two pushes of one customer and feature must not be on their way together."""
    reads_a_call: int = 1
    """Customers a read, at most."""
    max_key_chars: int | None = None
    """A longer key is sent as a stable hash of it."""

    negatives: bool = True
    """True if a negative quantity gives back; otherwise it is carried (rule S10)."""
    unit: int = 1
    """Base units in one unit of the provider's; the remainder is carried (rule S10)."""
    units: Mapping[str, int] = field(default_factory=dict)
    """The same for single features, if they differ."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The provider's names of features, if they are set here: so the place of usage cannot change unnoticed."""
    way: str = ""
    """Which of its ways pushes go, if it has several: a key that was sent one way may be unknown on the other."""
    mode: str = ""
    """`live` or `test`, if its keys show it: usage of one mode does not go to the other unnoticed."""
    max_quantity: int | None = None
    """The largest quantity of one push, in base units, either sign; a larger one is rejected unsent."""

    oldest_ms: int | None = None
    """The largest age of a push; an older one is rejected unsent, visibly."""
    live_from_ms: int | None = None
    """Windows that start before this are sealed and compared, never sent (shadow mode, a cut-over)."""

    lookup_lag_ms: int | None = None
    """The time after a send in which a lookup may still miss an applied push; None: a single push cannot be looked up.
    """
    lookup_span_ms: int = 0
    """The longest span of one customer's pushes that one call looks up (`ManyLookups`); 0: one push a call."""
    applied_within_ms: int = HOUR_MS
    """The time after a send in which the service may still apply it: until then, absence is not final (rule P5)."""
    totals_lag_ms: int | None = None
    """The lag of totals behind accepted pushes; None: there are no totals."""
    balance_lag_ms: int = 0
    """The longest lag of a customer's balance behind accepted pushes."""
    drawn: bool = False
    """True if balances show the draws on them, apart from the events.

    A provider needs this if its key store can fail open, or if it can charge without an event: there absence alone
    proves nothing (rule P5).
    """

    cancel_within_ms: int | None = None
    """The time after a send in which it can cancel a charge (`Cancels`); None: it cannot."""
    costs: bool = False
    """True if it reports the credits that a unit of a feature draws from a balance (`TellsCosts`)."""

    same_database: bool = False
    """True if its books are in our own database: a restore brings both back together (rule R1)."""
    own_customer_ids: bool = False
    """True if customers have ids of the provider's own, so that an organisation's id cannot be one."""
    balance_in_ledger: bool = False
    """True if the provider has no hard stop: the balance is a wallet of the embedded ledger, if there is such a wallet.
    """
    locks: bool = False
    """True if it holds credit for a run so that it can neither be lost nor charged twice.

    No provider does (decision 17).
    """

    webhook_headers: tuple[str, ...] = ()
    """Headers (in lower case) with the signature: each webhook has one of them, otherwise its body is not even read.

    None: unknown.
    """

    @property
    def lookup(self) -> bool:
        return self.lookup_lag_ms is not None

    def unit_of(self, feature: str) -> int:
        """Base units of a feature in one unit of the provider's."""
        return self.units.get(feature, self.unit)


@dataclass(frozen=True)
class PushRequest:
    """One push as it is sent.

    `quantity`: base units of the feature, a multiple of the declared unit. `ts` (milliseconds): a moment in the window.
    `key`: the key by which the service deduplicates. `attempt`: 1 is the first.
    """

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int
    attempt: int


@dataclass(frozen=True)
class ShownCredit:
    """The credit of a customer that the answer to a push shows, and the charge of the push (micro-credits).

    `balance_micro` None: unlimited. `part`: the balance that the answer shows; others may decide, too. None: the whole.
    """

    balance_micro: int | None
    charged_micro: int
    part: str | None = None


UnitCost: TypeAlias = Decimal | Fraction
"""Credits for one base unit of a charge. A Fraction: a limit ended the charge inside a unit, and this is the mean cost
of the units that count as charged."""


@dataclass(frozen=True)
class Accepted:
    """The provider reported the charge."""

    shown_credit: ShownCredit | None = field(default=None, compare=False)
    """None: the answer does not show the credit left."""
    cost: UnitCost | None = field(default=None, compare=False)
    """Credits for one base unit, by which it was charged; None: the answer does not show it."""
    parts: tuple[Part, ...] = field(default=(), compare=False)
    """Parts of balances that the answer shows: one that is used up by the next charge is shown by no read."""


@dataclass(frozen=True)
class Duplicate:
    """The provider has seen this key before."""


@dataclass(frozen=True)
class Queued:
    """Taken, not yet applied; look it up at `confirm_at_ms`."""

    confirm_at_ms: int


@dataclass(frozen=True)
class RetryAt:
    """Proven not applied; send the same bytes again at `at_ms`.

    `too_many`: it was refused for too many calls, so that the customer's other pushes should wait until then, too.
    `by_person`: it is refused until a person changes a setting, here or at the provider, such as a key: status asks for
    one at once.
    """

    at_ms: int
    reason: str
    too_many: bool = False
    by_person: bool = False


@dataclass(frozen=True)
class Rejected:
    """Proven not applied, and sending again would not help. A person, or a rule, decides. `until_credit`: nothing was
    taken because the customer had no credit, or given back because it had no balance that was drawn on. Drawdown bills
    the usage again once the provider shows credit."""

    reason: str
    until_credit: bool = False


@dataclass(frozen=True)
class Unknown:
    """Sent, with an unknown outcome."""

    reason: str


Outcome: TypeAlias = Accepted | Duplicate | Queued | RetryAt | Rejected | Unknown


@dataclass(frozen=True)
class Part:
    """A part of a balance that was granted once, such as a top-up, or came with a plan. Autumn drops one granted once
    from its answers as soon as it is used up exactly (recorded). `granted` is in the unit of the balance. `ends_ms`:
    when unused credit expires. `plan`: the plan that it came with; when that ends, the part ends. `used`: how much was
    drawn from it, of a part granted once that can end before it is used up."""

    balance: str
    name: str
    granted: Decimal
    ends_ms: int | None = None
    plan: str | None = None
    used: Decimal | None = None
    seen_ms: int = field(default=0, compare=False)
    """When Drawdown noted it last."""

    @property
    def begins_again(self) -> bool:
        """Return True for a part of a plan that begins again each cycle: its use is not kept."""
        return self.plan is not None and self.used is None

    def ended(self, plans: Collection[str]) -> bool:
        """Return True if a part that no answer shows any longer ended, and was not used up.

        Source: the answer to the charge that uses a part up shows it at zero (recorded). `plans`: the customer's.
        """
        is_left = self.used is not None and self.used < self.granted
        return is_left or self.begins_again or (self.plan is not None and self.plan not in plans)


@dataclass(frozen=True)
class CustomerState:
    """The state of a customer. `balance_micro` is what the customer can still spend in micro-credits (a millionth of a
    credit), with overage and limits counted; None: unlimited. If the service blocks a customer, report 0, or the
    balance if that is below zero. `max_concurrent` None: no limit. `refused`: features that a limit of the provider
    refuses although the balance lasts. `parts`: what was granted once or by a plan. `plans`: all plans that the
    customer has, bought ones too."""

    balance_micro: int | None
    plan: str | None
    max_concurrent: int | None
    refused: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()
    plans: frozenset[str] = frozenset()


@dataclass(frozen=True)
class NoCustomer:
    """The provider has no such customer. That is not a balance of zero."""


@dataclass(frozen=True)
class ReadFailed:
    """A failed read: read again later.

    A balance that cannot be read is not zero. `too_many`: there were too many calls.
    """

    reason: str
    too_many: bool = False


CustomerRead: TypeAlias = CustomerState | NoCustomer | ReadFailed


@dataclass(frozen=True)
class FoundPush:
    """The provider has this push, and charged `quantity` base units for it."""

    quantity: int
    cost: UnitCost | None = field(default=None, compare=False)
    """Credits for one base unit, by which it was charged; None: unknown."""


@dataclass(frozen=True)
class Absent:
    """The provider does not have it: proof only once the declared lag is over."""


@dataclass(frozen=True)
class CannotTell:
    """The provider can be asked again and again without an answer: a person decides, with this reason."""

    reason: str
    holds: int | None = None
    """Base units that the provider holds in this push's place, from any sender, if the place is the push's alone."""


@dataclass(frozen=True)
class Cancelled:
    """The provider reported that the push counts no more. `evidence`: its answer, in one line."""

    evidence: str


LookupResult: TypeAlias = FoundPush | Absent | CannotTell | ReadFailed
Totals: TypeAlias = Mapping[str, int]
"""Base units by feature."""


@dataclass(frozen=True)
class Cost:
    """The credits that one base unit of a feature draws from a balance. `balance` names the credit system.

    `unread`: the present cost cannot be read, and this one was the last known: it changes nothing.
    """

    feature: str
    balance: str
    credits: Decimal
    unread: bool = False


@dataclass(frozen=True)
class Lasting:
    """The part of a balance that outlasts its cycle: parts granted once, beside parts that renew at `ends_ms`.

    `used` was drawn from the parts granted once, and `lasting_left` is left of them. `cycle_left` is left of the
    others. Charges empty the others first. All figures are in the unit of the balance.
    """

    used: Decimal
    lasting_left: Decimal
    cycle_left: Decimal
    ends_ms: int


@dataclass(frozen=True)
class Drawn:
    """The draws that a balance shows since `since_ms`; None: since its begin.

    A person's change of the balance may count as drawn, or as given back: the figure cannot distinguish it. `quantity`
    is in base units of the balance's feature, and for a credit system in credits. `parts`: the parts that it
    shows, granted once or by a plan.
    """

    quantity: int | Decimal
    since_ms: int | None
    whole: bool = True
    """True if nothing had been drawn at `since_ms`.

    If False, two looks in the same cycle can be compared, but no single look with the pushes.
    """
    parts: tuple[Part, ...] = ()
    lasting: Lasting | None = None
    """None: nothing outlasts the cycle, or it is unknown which parts are drawn on first."""
    plans: frozenset[str] = frozenset()
    """All plans that the customer has."""
    own: Mapping[str, Decimal] = field(default_factory=dict)
    """Draws by feature on own balances of features of a credit system, beside `quantity`.

    They are in base units of the feature: no answer shows the costs at which they would have been drawn in credits.
    """
    earliest_ms: int | None = None
    """When the cycle began at the earliest, if it began at `since_ms` at the latest; None: it began at `since_ms`."""
    is_first: bool = False
    """True if each part that begins again is in its first cycle, as its plan shows: it was never reset."""


@dataclass(frozen=True)
class CustomerChanged:
    """Something happened to this customer: read it again. A webhook's own figures are never trusted."""

    customer_id: str


@dataclass(frozen=True)
class PushRefused:
    """A push that had been accepted was refused later. `key` is the one it was sent with."""

    key: str
    reason: str


Notice: TypeAlias = CustomerChanged | PushRefused


class WebhookRefused(DrawdownError):
    """A webhook that is not signed as it must be, too old, or of another account. Nothing was done."""


@runtime_checkable
class Provider(Protocol):
    """One way to bill. Methods never raise for a service's answers: they return them in their result."""

    name: str
    capabilities: Capabilities
    dormant: str | None
    """The reason why no call is made (no key is set); None: it is ready."""

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        """One call with at most `batch_size` pushes; one outcome each, in order. The same key always comes with the
        same content."""

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        """The present state of at most `reads_a_call` customers, read afresh."""

    async def lookup(self, request: PushRequest) -> LookupResult:
        """Return the outcome of a push. Called only if `lookup_lag_ms` is declared."""

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """Return the charges by feature, for events dated in [from_ms, to_ms).

        Called only if `totals_lag_ms` is declared.
        """

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        """Return the draws that the customer's balances show, by feature. Called only if `drawn` is declared."""

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        """Return the notices of a webhook, once it is proven to be the provider's. Header names are in lower case.

        Errors: WebhookRefused. ReadFailed if the webhook is genuine, but the content it names could not be fetched.
        """

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        """Return the faults of key, version, these features and these customers, a line each; empty if all is well.

        It charges nothing, and tests the key even if both lists are empty.
        """


class ManyLookups(Protocol):
    """A provider that declares `lookup_span_ms`."""

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        """Return the outcomes of pushes of one customer, dated within that span: one result each, in order."""


class Cancels(Protocol):
    """A provider that declares `cancel_within_ms`."""

    async def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        """Cancel a push that was accepted. Called again for the same push it does no more than once. ReadFailed:
        the provider did not confirm it, and may have done it."""


class TellsCosts(Protocol):
    """A provider that declares `costs`."""

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        """Return the present costs of units, at most one a feature; empty if the account has no credit system.

        A known feature without a cost draws on a balance of its own from now on, unless its cost is `unread`.

        `known`: every cost that was learned before, so that a charge made at an older cost is read at that cost.
        """


@dataclass(frozen=True)
class Setup:
    """The inputs from which a provider is built.

    `settings` holds the environment's DRAWDOWN_<NAME>_… by the rest of their names, in lower case. Secrets among them
    go into no message. No name ends in `_file`: such a setting gives a file for the value. If the content of the file
    changes, the provider is built again.
    """

    name: str
    settings: Mapping[str, str]
    clock: Clock
    http: Http
    engine: sa.Engine

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """Return a client of httpx2 that sends by `http`.

        Options are those of `httpx2.AsyncClient`: base_url, headers, auth. Send by
        `drawdown.providers.kit.clients.ask`, which returns what is proven. Errors: UsageError.
        """
        from drawdown.providers.kit.clients import client_on

        client: httpx2.AsyncClient = client_on(self.http, **options)
        return client


Build: TypeAlias = Callable[[Setup], Provider]
"""The object of an entry point of the group `drawdown.providers`. Errors: UsageError for unusable settings."""
