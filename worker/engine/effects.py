"""The effects: the closed list of requests that a step may make of the world, and what steps share around them.

Guarantee: a step is a generator that decides and yields effects, and never does one itself. So the same step is driven
by production (`worker.engine.runner`) and, effect by effect with crashes in between, by the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import sqlalchemy as sa
import structlog

from drawdown.providers.payments.protocol import Charge
from drawdown.providers.protocol import Capabilities, Cost, LookupResult, PushRequest, ReadFailed
from drawdown.schema.text import in_short
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine.witness import Witness

log = structlog.get_logger()

R = TypeVar("R")
Over: TypeAlias = Callable[[], bool]  # whether nothing more is to be begun: time is up, or the process is to end
Cut: TypeAlias = Callable[[int], None]  # told how few calls at once were allowed, where fewer than otherwise
NOT_SENT: Final = "not sent: no time was left"
"""The answer to a request that was `over` before it was begun."""
LANES: Final = 2
"""Batches of pushes to one provider under way together: the answers of one are written down while the other is sent."""


def never() -> bool:
    """Return False: for callers without a time limit."""
    return False


@dataclass(frozen=True)
class Transaction:
    """Run `work` in one write transaction; the answer is what it returns. With `rollback`: a dry run."""

    name: str
    work: Callable[[sa.Connection], object]
    rollback: bool = False


@dataclass(frozen=True, eq=False)
class Push:
    """Send pushes to a provider, in as many calls as it takes, none begun once it is `over`, or `closed` (then calls
    under way have all the time they take). The answer is a portion of the outcomes as they come, by the place of the
    push; the same effect is asked for again until each was told."""

    provider: str
    batch: Sequence[PushRequest]
    over: Over
    cut: Cut | None = None
    closed: Over = never
    gives_way: bool = False  # others are due: who is told to wait is answered as not begun, and not waited for


@dataclass(frozen=True, eq=False)
class LookUp:
    """Ask a provider what became of pushes; answered in portions of LookupResults, as `Push` is."""

    provider: str
    requests: Sequence[PushRequest]
    over: Over = never


@dataclass(frozen=True)
class ReadTotals:
    """Ask a provider what it charged customers in [from_ms, to_ms); Totals or ReadFailed each, in order."""

    provider: str
    customers: Sequence[tuple[str, int, int]]
    over: Over = never


@dataclass(frozen=True)
class ReadDrawn:
    """Ask a provider what customers' balances say was drawn; by feature, or ReadFailed, each in order."""

    provider: str
    customer_ids: Sequence[str]
    over: Over = never


@dataclass(frozen=True)
class ReadCosts:
    """Ask a provider what units of features cost in credits; a list of Cost, or ReadFailed.

    `known_costs`: those learned before.
    """

    provider: str
    known_costs: Sequence[Cost]


@dataclass(frozen=True)
class ReadCustomers:
    """Ask a provider for its customers' states; the answer maps each id to a CustomerState or ReadFailed."""

    provider: str
    customer_ids: Sequence[str]
    over: Over = never
    cut: Cut | None = None


@dataclass(frozen=True)
class CheckCustomers:
    """Ask a provider what is wrong with customers; lines of text each, or ReadFailed, in order."""

    provider: str
    customer_ids: Sequence[str]


@dataclass(frozen=True, eq=False)
class ChargeMoney:
    """Have a payment service charge customers, none begun once it is `over`; a ChargeResult each, in order."""

    service: str
    charges: Sequence[Charge]
    over: Over = never


@dataclass(frozen=True, eq=False)
class LookUpMoney:
    """Ask a payment service what became of charges; a ChargeResult each, in order. Nothing is charged by it."""

    service: str
    charges: Sequence[Charge]
    over: Over = never


@dataclass(frozen=True)
class AskWhoFills:
    """Ask a payment service whether it tops a customer up by itself: NotSent where it does, InDoubt where that is not
    told before it is `over`; None: nothing is known against filling the customer from here."""

    service: str
    customer_id: str
    over: Over = never


@dataclass(frozen=True)
class HaltRequest:
    """One halt for one cell."""

    org_id: str
    cell_id: str
    url: str
    halted_at: int


@dataclass(frozen=True)
class HookRequest:
    """One message for one endpoint; `generations` of the endpoint's secret sign it, the present one first."""

    message_id: str
    endpoint: str
    url: str
    generations: Sequence[int]
    body: str


@dataclass(frozen=True)
class HookAnswer:
    """The outcome of a message: without an error the endpoint has it. `is_sent` False: it was not begun."""

    status: int | None = None
    error: str | None = None
    is_sent: bool = True


@dataclass(frozen=True)
class UsageRequest:
    """A request to a cell for its own counts of one day (`2026-01-31`, UTC)."""

    cell_id: str
    url: str
    day: str


@dataclass(frozen=True)
class UsageAnswer:
    """The bytes that it answered, as they are; or, where `body` is None, what went wrong."""

    body: bytes | None = None
    error: str | None = None


class HaltSender(Protocol):
    """Sends halts to cells."""

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """None for each that was acknowledged, else what went wrong, in order."""


class HookSender(Protocol):
    """Sends messages to the operator's product."""

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """One answer each, in order, within a bounded time."""


class CellReader(Protocol):
    """Reads the counts of cells."""

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        """One answer each, in order, within a bounded time."""


@dataclass(frozen=True)
class SendHalts:
    """Send halts to cells, none begun once it is `over`; None for each acknowledged one, else what went wrong."""

    halts: Sequence[HaltRequest]
    over: Over = never


@dataclass(frozen=True)
class SendHooks:
    """Send messages to the operator's product, none begun once it is `over`; a HookAnswer each, in order."""

    messages: Sequence[HookRequest]
    over: Over = never


@dataclass(frozen=True)
class ReadCells:
    """Ask cells what they counted, none once it is `over`; a UsageAnswer each, in order."""

    requests: Sequence[UsageRequest]
    over: Over = never


@dataclass(frozen=True)
class LoadWitness:
    """Ask what this machine remembers of the database; the answer is a Witness, or None."""


@dataclass(frozen=True)
class SaveWitness:
    """Have this machine remember, on disk before the answer comes."""

    witness: Witness


@dataclass(frozen=True)
class OnDisk:
    """Read files, in a thread; the answer is what `look` returns."""

    name: str
    look: Callable[[], object]


@dataclass(frozen=True)
class RunTogether:
    """Run several steps side by side; the answer is their results in order. One that fails stops no other."""

    steps: Sequence[Steps[object]]


Effect: TypeAlias = (
    Transaction
    | Push
    | LookUp
    | ReadCustomers
    | ReadTotals
    | ReadDrawn
    | ReadCosts
    | CheckCustomers
    | ChargeMoney
    | LookUpMoney
    | AskWhoFills
    | SendHalts
    | SendHooks
    | ReadCells
    | LoadWitness
    | SaveWitness
    | OnDisk
    | RunTogether
)
Steps: TypeAlias = Generator[Effect, Any, R]


def look_up_all(provider: str, requests: Sequence[PushRequest], over: Over = never) -> Steps[Sequence[LookupResult]]:
    """The results of all of them, in order; once time is `over`, that they were not read."""
    looking, found = LookUp(provider, requests, over), dict[int, LookupResult]()
    while len(found) < len(requests):
        found.update((yield from fetch_lookups(looking, [n for n in range(len(requests)) if n not in found])))
    return [found[place] for place in range(len(requests))]


def fetch_lookups(looking: LookUp, left: Sequence[int]) -> Steps[Mapping[int, LookupResult]]:
    """The next results, by place."""
    try:
        found: Mapping[int, LookupResult] = yield looking
        assert found and found.keys() <= set(left), f"{looking.provider} answered {list(found)} of {left}"
    except Exception as error:  # it has told us nothing: what cannot be read is not absent
        log.exception("provider_failed", provider=looking.provider, first_key=looking.requests[left[0]].key)
        return dict.fromkeys(left, ReadFailed(in_short(error)))
    return found


FIRST_BACKOFF_MS: Final = 5 * SECOND_MS
"""First wait between two attempts of a push."""


MAX_BACKOFF_MS: Final = 15 * MINUTE_MS
"""Longest wait between two attempts of a push."""


CLOCKS_APART_MS: Final = 10 * MINUTE_MS
"""Two hosts' clocks are never further apart than this, or else one was set meanwhile (S9 allows half a minute)."""


def backoff_ms(attempt: int) -> int:
    """Waiting time after the given attempt (1 is the first): doubles up to a quarter of an hour."""
    return min(FIRST_BACKOFF_MS << min(max(attempt, 1) - 1, 16), MAX_BACKOFF_MS)


def visible_by(now_ms: int, capabilities: Capabilities) -> int:
    """Return the moment up to which settled pushes are now visible at the provider, even with slow clocks."""
    return now_ms - (capabilities.totals_lag_ms or 0) - CLOCKS_APART_MS
