"""The protocol: a billing provider's inputs, its capabilities, and its possible answers.

Guarantee: outcomes are a closed type. "Not sent" is never guessed: an outcome that is not proven is Unknown. The worker
obeys the capabilities that a provider declares. A provider does one call of its service and returns the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
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
    """What a provider declares, and the worker obeys. Times are milliseconds."""

    key_retention_ms: int | None
    """How long a key is remembered, an hour at least; None: for good. Rule P2 rests on it."""
    duplicate_proves_delivery: bool
    """Whether "this key was seen" proves that it was charged (rule P3)."""

    success_proves_charge: bool = True
    """Whether an answer of success proves the charge. False: each push is Queued, and settled by its look-up."""

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
    """Whether two pushes of one customer and feature must not be on their way together."""
    reads_a_call: int = 1
    """Customers a read, at most."""
    max_key_chars: int | None = None
    """A longer key is sent as a stable hash of it."""

    negatives: bool = True
    """Whether a negative quantity gives back; else it is carried (rule S10)."""
    unit: int = 1
    """Base units in one unit of the provider's; the remainder is carried (rule S10)."""
    units: Mapping[str, int] = field(default_factory=dict)
    """The same for single features, where they differ."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What features are called at the provider, where that is set here: where usage lies cannot change unnoticed."""
    way: str = ""
    """Which of its ways pushes go, if it has several: a key that was sent one way may be unknown on the other."""
    mode: str = ""
    """`live` or `test`, if its keys say it: usage of one does not go to the other unnoticed."""
    max_quantity: int | None = None
    """The largest quantity of one push, in base units, either sign; a larger one is rejected unsent."""

    oldest_ms: int | None = None
    """How far back a push may be dated; an older one is rejected unsent, visibly."""
    live_from_ms: int | None = None
    """Windows that start before this are sealed and compared, never sent (shadow mode, a cut-over)."""

    lookup_lag_ms: int | None = None
    """How long after a send a lookup may still miss what was applied; None: one push cannot be looked up."""
    lookup_span_ms: int = 0
    """How far apart pushes of one customer may be dated that one call looks up (`ManyLookups`); 0: one push a call."""
    applied_within_ms: int = HOUR_MS
    """How long after a send the service may still apply it: until then, absence proves nothing for good (rule P5)."""
    totals_lag_ms: int | None = None
    """How far totals trail behind what was accepted; None: there are no totals."""
    balance_lag_ms: int = 0
    """How far a customer's balance may trail behind pushes that were accepted."""
    drawn: bool = False
    """Whether balances say what was drawn from them, apart from the events: needed where a key store can fail open, or
    where something can be charged without an event. There absence alone proves nothing (rule P5)."""

    cancel_within_ms: int | None = None
    """How long after a send it can cancel what it charged (`Cancels`); None: it cannot."""
    costs: bool = False
    """Whether it tells what a unit of a feature draws from a balance in credits (`TellsCosts`)."""

    same_database: bool = False
    """Whether its books lie in our own database: then a restore brings both back together (rule R1)."""
    own_customer_ids: bool = False
    """Whether customers have ids of the provider's own, so that an organisation's id will not do for one."""
    balance_in_ledger: bool = False
    """Whether the provider has no hard stop: the balance is a wallet of the embedded ledger, if there is such a wallet.
    """
    locks: bool = False
    """Whether it holds credit for a run so that it can neither be lost nor charged twice. None does (decision 17)."""

    webhook_headers: tuple[str, ...] = ()
    """Headers (in lower case) of which each of its webhooks has one, with its signature: without it, a body is not even
    read. None: that is not told."""

    @property
    def lookup(self) -> bool:
        return self.lookup_lag_ms is not None

    def unit_of(self, feature: str) -> int:
        """Base units of a feature in one unit of the provider's."""
        return self.units.get(feature, self.unit)


@dataclass(frozen=True)
class PushRequest:
    """One push as it is sent. `quantity` counts base units of the feature and is a multiple of the declared unit; `ts`
    (milliseconds) lies in the window; `key` is what the service deduplicates by; `attempt` 1 is the first."""

    key: str
    customer_id: str
    feature: str
    quantity: int
    ts: int
    attempt: int


@dataclass(frozen=True)
class Left:
    """What the answer to a push says is left of its customer's credit, and what the push took of it (micro-credits).
    `balance_micro` None: there is no end. `part`: the balance it tells of; others may decide, too. None: the whole."""

    balance_micro: int | None
    charged_micro: int
    part: str | None = None


@dataclass(frozen=True)
class Accepted:
    """Charged, and the provider said so."""

    left: Left | None = field(default=None, compare=False)
    """None: the answer tells nothing of what is left."""
    cost: Decimal | None = field(default=None, compare=False)
    """Credits for one base unit, by which it was charged; None: the answer does not tell."""
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
    """Proven not applied; send the same bytes again at `at_ms`. `too_many`: it was refused for too many calls, so that
    the customer's other pushes had better wait until then, too. `by_person`: it is refused until a person changes a
    setting, here or at the provider, such as a key: status asks for one at once."""

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
    """Sent, and nobody can say what became of it."""

    reason: str


Outcome: TypeAlias = Accepted | Duplicate | Queued | RetryAt | Rejected | Unknown


@dataclass(frozen=True)
class Part:
    """A part of a balance that was granted once, such as a top-up. Autumn drops a part from its answers once it is
    used up exactly (recorded). `granted` is in the unit of the balance. `ends_ms`: when unused credit expires. `plan`:
    the plan that it came with; when that ends, the part ends. `used`: how much was drawn from it, of a part that can
    end before it is used up."""

    balance: str
    name: str
    granted: Decimal
    ends_ms: int | None = None
    plan: str | None = None
    used: Decimal | None = None
    seen_ms: int = field(default=0, compare=False)
    """When Drawdown noted it last."""


@dataclass(frozen=True)
class CustomerState:
    """The state of a customer. `balance_micro` is what the customer can still spend in micro-credits (a millionth of a
    credit), with overage and limits counted; None: unlimited. If the service blocks a customer, report 0, or the
    balance if that is below zero. `max_concurrent` None: no limit. `refused`: features that a limit of the provider
    refuses although the balance lasts. `parts`: what was granted once. `plans`: all plans that the customer has, bought
    ones too."""

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
    """Ask again later: a balance that cannot be read is not zero. `too_many`: it was refused for too many calls."""

    reason: str
    too_many: bool = False


CustomerRead: TypeAlias = CustomerState | NoCustomer | ReadFailed


@dataclass(frozen=True)
class Found:
    """The provider has this push, and charged `quantity` base units for it."""

    quantity: int
    cost: Decimal | None = field(default=None, compare=False)
    """Credits for one base unit, by which it was charged; None: that is not told."""


@dataclass(frozen=True)
class Absent:
    """The provider does not have it: proof only once the declared lag is over."""


@dataclass(frozen=True)
class CannotTell:
    """It can be asked again and again and will not say: a person decides, with this reason before them."""

    reason: str
    holds: int | None = None
    """Base units that the provider holds in this push's place, from any sender, if the place is the push's alone."""


@dataclass(frozen=True)
class Cancelled:
    """The provider said that the push counts no more. `evidence`: its answer, in one line."""

    evidence: str


LookupResult: TypeAlias = Found | Absent | CannotTell | ReadFailed
Totals: TypeAlias = Mapping[str, int]
"""Base units by feature."""


@dataclass(frozen=True)
class Cost:
    """What one base unit of a feature draws from a balance, in credits. `balance` names the credit system."""

    feature: str
    balance: str
    credits: Decimal


@dataclass(frozen=True)
class Lasting:
    """What outlasts the cycle of a balance: its parts granted once, beside parts that all begin again at `ends_ms`.

    `used` was drawn from the parts granted once, and `left` is left of them. `cycle_left` is left of the others.
    Charges empty the others first. All figures are in the unit of the balance."""

    used: Decimal
    left: Decimal
    cycle_left: Decimal
    ends_ms: int


@dataclass(frozen=True)
class Drawn:
    """What a balance says was drawn from it since `since_ms`; None: since ever. A person's change of it may count as
    drawn, or as given back: it cannot be told apart.

    `quantity` is in base units of the balance's feature, and for a credit system in credits. `parts`: the parts granted
    once that it shows.
    """

    quantity: int | Decimal
    since_ms: int | None
    whole: bool = True
    """Whether nothing had been drawn at `since_ms`; else two looks in the same cycle can be compared, and no single one
    with what was pushed."""
    parts: tuple[Part, ...] = ()
    lasting: Lasting | None = None
    """None: nothing outlasts the cycle, or nothing tells which parts are drawn on first."""
    plans: frozenset[str] = frozenset()
    """All plans that the customer has."""
    own: Mapping[str, Decimal] = field(default_factory=dict)
    """What was drawn besides, by feature, from balances that features of a credit system have of their own: in base
    units of the feature, since no answer tells at which costs they would have been drawn in credits."""
    earliest_ms: int | None = None
    """When the cycle began at the earliest, if it began at `since_ms` at the latest; None: it began at `since_ms`."""
    is_first: bool = False
    """Whether each part that begins again is in its first cycle, as its plan tells: nothing of it was ever reset."""


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
    """One way to bill. Methods never raise for what the service answers: they say it in their result."""

    name: str
    capabilities: Capabilities
    dormant: str | None
    """Why nothing is sent or asked (no key is set); None: it is ready."""

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        """One call with at most `batch_size` pushes; one outcome each, in order. The same key always comes with the
        same content."""

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        """The present state of at most `reads_a_call` customers, read afresh."""

    async def lookup(self, request: PushRequest) -> LookupResult:
        """What became of a push. Asked only where `lookup_lag_ms` is declared."""

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """What was charged, by feature, for events dated in [from_ms, to_ms). Asked only where `totals_lag_ms` is
        declared."""

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        """What the customer's balances say was drawn, by feature. Asked only where `drawn` is declared."""

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        """What a webhook says, once it is proven to be the provider's. Header names are in lower case.

        Errors: WebhookRefused. ReadFailed where the webhook is genuine and what it names could not be fetched.
        """

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        """What is wrong with key, version, these features and these customers, a line each; empty when all is well.
        Charges nothing, and tests the key even if both lists are empty."""


class ManyLookups(Protocol):
    """A provider that declares `lookup_span_ms`."""

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        """What became of pushes of one customer, dated within that span; one result each, in order."""


class Cancels(Protocol):
    """A provider that declares `cancel_within_ms`."""

    async def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        """Cancel a push that was accepted. Called again for the same push it does no more than once. ReadFailed:
        the provider did not confirm it, and may have done it."""


class TellsCosts(Protocol):
    """A provider that declares `costs`."""

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        """What units cost now, at most one cost a feature; empty where the account has no credit system. `known`: every
        cost that was learned before, so that a charge made at an older cost is read at that cost."""


@dataclass(frozen=True)
class Setup:
    """What a provider is built from. `settings` holds the environment's DRAWDOWN_<NAME>_… by the rest of their names,
    in lower case; secrets among them go into no message. No name ends in `_file`: that is how a file is given for one,
    and when its content changes, the provider is built again."""

    name: str
    settings: Mapping[str, str]
    clock: Clock
    http: Http
    engine: sa.Engine

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """A client of httpx2 that sends by `http`. Options are those of `httpx2.AsyncClient`: base_url, headers, auth.
        Send by `drawdown.providers.kit.clients.ask`, which says what is proven. Errors: UsageError."""
        from drawdown.providers.kit.clients import client_on

        client: httpx2.AsyncClient = client_on(self.http, **options)
        return client


Build: TypeAlias = Callable[[Setup], Provider]
"""What an entry point of the group `drawdown.providers` names. Errors: UsageError for settings it cannot use."""
