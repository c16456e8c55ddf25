"""The effects: the closed list of requests that a step may make of the world.

Guarantee: a step is a generator that decides and yields effects, and never does one itself. So the same step is driven
by production (`worker.engine.runner`) and, effect by effect with crashes in between, by the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import sqlalchemy as sa

from drawdown.providers.payments.protocol import Charge
from drawdown.providers.protocol import Cost, PushRequest
from drawdown.worker.engine.witness import Witness

R = TypeVar("R")
Over: TypeAlias = Callable[[], bool]  # whether nothing more is to be begun: time is up, or the process is to end
Cut: TypeAlias = Callable[[int], None]  # told how few calls at once were allowed, where fewer than otherwise
NOT_SENT: Final = "not sent: time was up before"
"""What is answered for a request that was `over` before it was begun."""
LANES: Final = 2
"""Batches of pushes to one provider under way together: the answers of one are written down while the other is sent."""


def never() -> bool:
    """For those whose time is never up."""
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
    """Ask a provider what units of features cost in credits; a list of Cost, or ReadFailed. `known`: those learned
    before."""

    provider: str
    known: Sequence[Cost]


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
    """What became of it: without an error the endpoint has it. `sent` false: it was not begun."""

    status: int | None = None
    error: str | None = None
    sent: bool = True


@dataclass(frozen=True)
class UsageRequest:
    """What a cell is asked: what it counted itself on one day (`2026-01-31`, UTC)."""

    cell_id: str
    url: str
    day: str


@dataclass(frozen=True)
class UsageAnswer:
    """The bytes that it answered, as they are; or, where `body` is None, what went wrong."""

    body: bytes | None = None
    error: str | None = None


class HaltSender(Protocol):
    """What tells cells."""

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """None for each that was acknowledged, else what went wrong, in order."""


class HookSender(Protocol):
    """What tells the operator's product."""

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """One answer each, in order, within a bounded time."""


class CellReader(Protocol):
    """What asks cells."""

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
class Recall:
    """Ask what this machine remembers of the database; the answer is a Witness, or None."""


@dataclass(frozen=True)
class Remember:
    """Have this machine remember, on disk before the answer comes."""

    witness: Witness


@dataclass(frozen=True)
class OnDisk:
    """Read files, in a thread; the answer is what `look` returns."""

    name: str
    look: Callable[[], object]


@dataclass(frozen=True)
class Together:
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
    | Recall
    | Remember
    | OnDisk
    | Together
)
Steps: TypeAlias = Generator[Effect, Any, R]
