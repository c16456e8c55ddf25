"""Define the effects that a step may request from the outside world.

Guarantee: a step is a generator that decides and yields effects, and does not perform them itself. So the same step
runs in production (`worker.engine.runner`) and in the simulation, effect by effect, with crashes in between.
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
Over: TypeAlias = Callable[[], bool]  # True if work must not begin, because time is over or the process must end
Cut: TypeAlias = Callable[[int], None]  # receives the reduced number of concurrent calls
NOT_SENT: Final = "not sent: no time was left"
"""The result of a request that had not begun when the time limit (`over`) was reached."""
NO_RESPONSE: Final = "no response in time"
"""The result of a halt without a response when the time limit (`over`) was reached."""
LANES: Final = 2
"""Batches of pushes that are sent to one provider at the same time.

The responses of a batch are stored while the other is sent.
"""


def never() -> bool:
    """Return False, for callers without a time limit."""
    return False


@dataclass(frozen=True)
class Transaction:
    """The effect that runs `work` in one write transaction.

    The result is the result of `work`.

    `rollback`: True to roll the transaction back, as in a dry run.
    """

    name: str
    work: Callable[[sa.Connection], object]
    rollback: bool = False


@dataclass(frozen=True, eq=False)
class Push:
    """The effect that sends pushes to a provider, in any number of calls.

    Once `over` or `closed` returns True, further calls do not begin. If only `closed` does, calls under way have no
    time limit. The result is a portion of the outcomes that arrived, by the index of the push in `batch`. Yield the
    same effect again until each push has an outcome. `cut`: a function that receives the lowest number of concurrent
    requests that was allowed, if it is below the declared number (None: do not report it).
    """

    provider: str
    batch: Sequence[PushRequest]
    over: Over
    cut: Cut | None = None
    closed: Over = never
    gives_way: bool = False  # other pushes may be due, so return the pushes of a customer that must wait as not begun


@dataclass(frozen=True, eq=False)
class LookUp:
    """The effect that looks up pushes at a provider.

    The result is a portion of the LookupResults that arrived, by the index of the push in `requests`. Yield the same
    effect again until each push has a result. Once `over` returns True, the remaining results are ReadFailed.
    """

    provider: str
    requests: Sequence[PushRequest]
    over: Over = never


@dataclass(frozen=True)
class ReadTotals:
    """The effect that reads a provider's charges of customers in [from_ms, to_ms).

    The result is Totals or ReadFailed for each, in order. Once `over` returns True, the remaining results are
    ReadFailed.
    """

    provider: str
    customers: Sequence[tuple[str, int, int]]
    over: Over = never


@dataclass(frozen=True)
class ReadDrawn:
    """The effect that reads the draws shown by customers' balances at a provider.

    The result is Drawn by feature or credit system, or ReadFailed, for each customer in order. Once `over` returns
    True, the remaining results are ReadFailed.
    """

    provider: str
    customer_ids: Sequence[str]
    over: Over = never


@dataclass(frozen=True)
class ReadCosts:
    """The effect that reads a provider's costs of units of features in credits.

    The result is a list of Cost, or ReadFailed. `known_costs`: the costs learned before.
    """

    provider: str
    known_costs: Sequence[Cost]


@dataclass(frozen=True)
class ReadCustomers:
    """The effect that reads the states of a provider's customers.

    The result has a CustomerState, NoCustomer or ReadFailed for each id. Once `over` returns True, the remaining
    results are ReadFailed. `cut`: as in `Push`.
    """

    provider: str
    customer_ids: Sequence[str]
    over: Over = never
    cut: Cut | None = None


@dataclass(frozen=True)
class CheckCustomers:
    """The effect that checks customers at a provider.

    The result is the faults as lines of text, or ReadFailed, for each in order.
    """

    provider: str
    customer_ids: Sequence[str]


@dataclass(frozen=True, eq=False)
class ChargeMoney:
    """The effect that charges customers at a payment service.

    Once `over` returns True, further charges do not begin. The result is a ChargeResult for each, in order.
    """

    service: str
    charges: Sequence[Charge]
    over: Over = never


@dataclass(frozen=True, eq=False)
class LookUpMoney:
    """The effect that looks up charges at a payment service, without charging.

    The result is a ChargeResult for each, in order. Once `over` returns True, the remaining results are InDoubt.
    """

    service: str
    charges: Sequence[Charge]
    over: Over = never


@dataclass(frozen=True)
class AskWhoFills:
    """The effect that asks a payment service whether it tops up a customer itself.

    The result is NotSent if the service does. It is InDoubt if the service fails, or does not answer before `over`
    returns True. None: Drawdown may top up the customer.
    """

    service: str
    customer_id: str
    over: Over = never


@dataclass(frozen=True)
class HaltRequest:
    """A halt to send to a cell.

    `halted_at`: the start of the halt, in milliseconds.
    """

    org_id: str
    cell_id: str
    url: str
    halted_at: int


@dataclass(frozen=True)
class HookRequest:
    """A message for an endpoint.

    `generations`: the generations of the endpoint's secret that sign it, the present first. `body`: JSON.
    """

    message_id: str
    endpoint: str
    url: str
    generations: Sequence[int]
    body: str


@dataclass(frozen=True)
class HookAnswer:
    """The outcome of a message.

    `status`: the HTTP status (None: the endpoint did not respond). `error`: None if the endpoint accepted the message.
    `is_sent`: False if the call was not begun.
    """

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
    """A cell's response as raw bytes, or the error. One of `body` and `error` is None."""

    body: bytes | None = None
    error: str | None = None


class HaltSender(Protocol):
    """A sender of halts to cells."""

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """Send halts, and return None or the error for each, in order.

        If it is cancelled, it may return NO_RESPONSE for the halts without a response.
        """


class HookSender(Protocol):
    """A sender of messages to the operator's product."""

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """Send messages, and return a HookAnswer for each, in order, in bounded time."""


class CellReader(Protocol):
    """A reader of cells' counts."""

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        """Read counts, and return a UsageAnswer for each, in order, in bounded time."""


@dataclass(frozen=True)
class SendHalts:
    """The effect that sends halts to cells.

    The result is None for each acknowledged halt, else the error, in order. If `over` returns True before each halt has
    a result, the others have the result NO_RESPONSE. The remaining halts are not sent.
    """

    halts: Sequence[HaltRequest]
    over: Over = never


@dataclass(frozen=True)
class SendHooks:
    """The effect that sends messages to the operator's product.

    If `over` returns True at the start, messages are not sent. Later it is not checked. The result is a HookAnswer for
    each, in order.
    """

    messages: Sequence[HookRequest]
    over: Over = never


@dataclass(frozen=True)
class ReadCells:
    """The effect that reads the counts of cells.

    If `over` returns True at the start, cells are not called. Later it is not checked. The result is a UsageAnswer for
    each, in order.
    """

    requests: Sequence[UsageRequest]
    over: Over = never


@dataclass(frozen=True)
class LoadWitness:
    """The effect that loads this machine's checkpoint of the database.

    The result is a Witness, or None if a checkpoint does not exist. Errors: UsageError if it cannot be read.
    """


@dataclass(frozen=True)
class SaveWitness:
    """The effect that saves this machine's checkpoint.

    The checkpoint is on disk before the effect returns.
    """

    witness: Witness


@dataclass(frozen=True)
class OnDisk:
    """The effect that reads files in a thread.

    The result is the result of `look`.
    """

    name: str
    look: Callable[[], object]


@dataclass(frozen=True)
class RunTogether:
    """The effect that runs several steps at the same time.

    The results are in the order of the steps. If a step fails, its result is the exception, and the others continue.
    """

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
    """Look up pushes, and return the results in order.

    Once `over` returns True, the remaining results are ReadFailed.
    """
    looking, found = LookUp(provider, requests, over), dict[int, LookupResult]()
    while len(found) < len(requests):
        found.update((yield from fetch_lookups(looking, [n for n in range(len(requests)) if n not in found])))
    return [found[place] for place in range(len(requests))]


def fetch_lookups(looking: LookUp, left: Sequence[int]) -> Steps[Mapping[int, LookupResult]]:
    """Return the next results, by the index of their request.

    `left`: the indexes without a result. If the lookup fails, each of them gets ReadFailed.
    """
    try:
        found: Mapping[int, LookupResult] = yield looking
        assert found and found.keys() <= set(left), f"{looking.provider} answered {list(found)} of {left}"
    except Exception as error:  # a failed lookup does not show that the push is absent
        log.exception("provider_failed", provider=looking.provider, first_key=looking.requests[left[0]].key)
        return dict.fromkeys(left, ReadFailed(in_short(error)))
    return found


FIRST_BACKOFF_MS: Final = 5 * SECOND_MS
"""First wait between two attempts of a push or a halt, in milliseconds.

Lookups of pushes and charges have the same first wait.
"""


MAX_BACKOFF_MS: Final = 15 * MINUTE_MS
"""Longest wait between two attempts of a push, in milliseconds. Lookups of pushes and charges have the same limit."""


CLOCKS_APART_MS: Final = 10 * MINUTE_MS
"""Largest assumed difference of two machines' clocks, in milliseconds.

S9 allows half a minute. A clock that was set meanwhile can differ more.
"""


def backoff_ms(attempt: int) -> int:
    """Return the wait after an attempt (1 is the first), in milliseconds.

    It doubles from FIRST_BACKOFF_MS to MAX_BACKOFF_MS.
    """
    return min(FIRST_BACKOFF_MS << min(max(attempt, 1) - 1, 16), MAX_BACKOFF_MS)


def visible_by(now_ms: int, capabilities: Capabilities) -> int:
    """Return the time in milliseconds up to which a provider shows settled pushes.

    The time allows for the provider's lag, and for clocks that are CLOCKS_APART_MS apart.
    """
    return now_ms - (capabilities.totals_lag_ms or 0) - CLOCKS_APART_MS
