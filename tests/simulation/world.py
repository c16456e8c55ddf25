"""The simulated world: one database in memory, providers, cells, the true time, and the faults in between.

Guarantee: an effect is done exactly as production does it, or fails in a way production can fail; nothing here reads a
clock, a thread or a network.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.payments.protocol import Charge, ChargeResult, InDoubt, NotSent
from drawdown.providers.protocol import (
    Capabilities,
    LookupResult,
    ManyLookups,
    Outcome,
    Provider,
    PushRequest,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.providers.validated_provider import ValidatedProvider
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import CONFLICT_TRIES, read, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.effects import (
    NOT_SENT,
    AskWhoFills,
    ChargeMoney,
    Effect,
    HaltRequest,
    HookAnswer,
    HookRequest,
    LoadWitness,
    LookUp,
    LookUpMoney,
    OnDisk,
    Over,
    Push,
    ReadCells,
    ReadCosts,
    ReadCustomers,
    ReadDrawn,
    ReadTotals,
    SaveWitness,
    SendHalts,
    SendHooks,
    Transaction,
    UsageAnswer,
)
from drawdown.worker.engine.fair_queue import NotBegun, by_customer
from drawdown.worker.engine.witness import Witness
from drawdown.worker.push.claim import Claim
from tests.fake_payments import FakePayments
from tests.fake_product import FakeProduct
from tests.simulation.database import in_conflict, new_database
from tests.simulation.faults import Faults
from tests.simulation.oracle import Oracle, Sample
from tests.simulation.providers import AUTUMN, LOCAL, MEMORY, STRIPE, WHOLE, Cells, MemoryProvider
from tests.simulation.remote import Autumn, Network, Remote, Stripe
from tests.simulation.server import Reading, Server
from tests.simulation.shortcut import look
from tests.simulation.stepping import Time, Worker
from tests.simulation.wire import Wire

T = TypeVar("T")
START = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a provider in memory never waits")


KEPT: Final = 20_000


@dataclass
class Flying:
    """Calls of one batch that were not made yet, and answers that have come and were not told yet, by call."""

    unmade: list[list[int]]
    untold: list[dict[int, Any]] = field(default_factory=list)


@dataclass
class Trace:
    """What happened, a line each: hashed whole, and kept for a person, but for what is older than `KEPT` lines."""

    digest: Any = field(default_factory=hashlib.sha256)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    show: bool = False

    def add(self, line: str) -> None:
        self.digest.update(line.encode())
        self.last.append(line)
        if self.show:
            print(line)


@dataclass(frozen=True)
class Decision:
    """What a person changed in the database, and can change again after it was restored."""

    again: Callable[[World], Any]
    samples: Sequence[str] = ()
    """A withdrawal of these: what was charged for them may be forgotten, so it waits until they are sealed again."""


@dataclass
class World:
    """Everything outside the workers."""

    rng: random.Random
    faults: Faults
    time: Time = field(default_factory=lambda: Time(START))
    engine: sa.Engine = field(default_factory=new_database)
    oracle: Oracle = field(default_factory=Oracle)
    cells: Cells = field(default_factory=Cells)
    trace: Trace = field(default_factory=Trace)
    breaches: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    net: bool = True
    """Whether the nightly sweep runs. Without it, arrivals have to be found by the cursor alone."""
    latest: int = START
    """The latest moment any clock ever showed."""
    effects: int = 0
    samples_made: int = 0
    billing: tuple[str, ...] = LOCAL
    """The providers there are."""
    skew_ms: int = 60 * MINUTE_MS
    """How wrong a worker's clock may be."""
    rejected: set[str] = field(default_factory=set)
    """Keys a provider truly rejected."""
    by_hand: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    """What a person charged beside the worker, by (provider, customer, feature, day): the worker said it could not."""
    by_hand_in: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    """The same, by window, for what the worker could not send."""
    told_of: dict[tuple[str, str, str], Fraction] = field(default_factory=dict)
    unsure_of: dict[tuple[str, str, str], Fraction] = field(default_factory=dict)
    """How much was told of a balance in all, in its unit."""
    unseen: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    """By provider, customer and balance: the cycle that is compared, and how much was lost by its first comparison."""
    resolved: set[str] = field(default_factory=set)
    """Keys that a person charged by hand."""
    cut_short: set[str] = field(default_factory=set)
    """Keys of which a part was given back, that a person charged again."""
    made_whole: set[str] = field(default_factory=set)
    """Keys of which a part is charged over there, and the rest was charged by a person."""
    paused: set[str] = field(default_factory=set)
    gate_asks: dict[str, int] = field(default_factory=dict)
    """When the gate had a provider asked about an organisation last."""
    told: dict[str, list[bytes]] = field(default_factory=dict)
    """Webhooks of each provider that were not taken yet."""
    expired: set[tuple[str, int]] = field(default_factory=set)
    """Keys that the worker took for forgotten, and when."""
    voided: set[tuple[str, str, str]] = field(default_factory=set)
    """(org, provider, feature) of pushes that were voided."""
    own_witness: bool = False
    """Whether each host remembers for itself, or all share one witness."""
    witnesses: dict[str, Witness] = field(default_factory=dict)
    """What hosts remember of the database, apart from it."""
    written: dict[str, tuple[Sample, dict[str, Any]]] = field(default_factory=dict)
    """Every sample that any host ever wrote, and its row."""
    unwritten: list[str] = field(default_factory=list)
    """Samples that were lost, and have to be written again."""
    decisions: list[Decision] = field(default_factory=list)
    redo: int = 0
    """From which decision on they are lost."""
    lost_at: int | None = None
    """When the database was restored, until it is recovered."""
    lost_keys: set[str] = field(default_factory=set)
    """What pushes were called that a restore may have forgotten."""
    still: tuple[Any, ...] = ()
    """The outbox's counts while nothing may be sealed or sent."""

    def __post_init__(self) -> None:
        state: Any = self.rng.getstate()[1]
        self.keeps_sizes = zlib.crc32(repr(state).encode()) % 2 == 0
        """Whether hosts keep the size of what runs, and when it began: in half of the lives."""
        self.flights: WeakKeyDictionary[Push | LookUp, Flying] = WeakKeyDictionary()
        self.judged: Callable[[Transaction, Any], None] = lambda effect, answer: None
        self.limit_of: Callable[[str], int | None] = lambda customer: None
        """How many sandboxes at once a customer of the ledger may have: as many as it likes, where it is on no plan."""
        self.clock = FixedClock(self.time.now)
        self.process_clock = FixedClock(self.time.now)
        self.memory: dict[str, MemoryProvider] = {
            name: MemoryProvider(name) for name in (MEMORY, WHOLE) if name in self.billing
        }
        self.network = Network(self.faults, self.time, self.down, self.breaches)
        makers: dict[str, type[Remote]] = {AUTUMN: Autumn, STRIPE: Stripe}
        self.remote: dict[str, Remote] = {
            name: make(self.faults, self.network, self.process_clock, self.engine)
            for name, make in makers.items()
            if name in self.billing
        }
        built: dict[str, Provider] = {
            EMBEDDED: EmbeddedProvider(self.engine, self.process_clock),  # it is a part of whoever ticks
            **self.memory,
            **{name: one.provider for name, one in self.remote.items()},
        }
        self.providers: dict[str, Provider] = {name: ValidatedProvider(one) for name, one in built.items()}
        self.wire = Wire(self.engine, self.breaches)
        self.payments = FakePayments(self.clock, random.Random(0))
        self.product = FakeProduct()
        """Its books say whom it charged; `doubles()` of them is a breach."""

    @property
    def capabilities(self) -> dict[str, Capabilities]:
        return {name: one.capabilities for name, one in self.providers.items()}

    def host(self, worker: str) -> str:
        """Who remembers for a worker."""
        return worker if self.own_witness else ""

    def decided(self, again: Callable[[World], Any], samples: Sequence[str] = ()) -> None:
        """A person changed the database."""
        self.decisions.append(Decision(again, samples))

    def say(self, who: str, what: str) -> None:
        self.trace.add(f"{(self.time.now - START) / 1000:>12.3f} {who:<6} {what}")

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.engine, work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.engine, work)

    def rows(self, text: str, **values: object) -> list[tuple[Any, ...]]:
        return look(self.engine, text, values)

    def execute(self, text: str, **values: object) -> int:
        return self.write(lambda c: c.execute(sa.text(text), values).rowcount)

    def do(
        self,
        effect: Effect | Reading,
        process_ms: int | None = None,
        *,
        dies: bool = False,
        too_late: bool = False,
        host: str = "",
    ) -> Any:
        """Do one effect, with whatever goes wrong on the way. `process_ms` is what its process takes the time for; with
        `dies`, only some of its calls are made; with `too_late`, none that bills."""
        self.effects += 1
        self.network.deliver()
        self.clock.at_ms = self.time.now
        self.process_clock.at_ms = self.time.now if process_ms is None else process_ms
        match effect:
            case LoadWitness():
                return self.witnesses.get(self.host(host))
            case SaveWitness(witness):
                before = self.witnesses.get(self.host(host))
                if before is None or (before.number, before.sends) <= (witness.number, witness.sends):
                    self.witnesses[self.host(host)] = witness
                return None
            case Transaction():
                return self._transaction(effect)
            case Reading(work):
                if self.faults.strikes("unreadable"):
                    raise DatabaseBusy("injected: not read")
                return read(self.engine, work)
            case Push() | LookUp():
                return self._portion(effect, dies, too_late)
            case ReadCustomers(provider, customer_ids):
                return self._read_customers(provider, customer_ids)
            case ReadTotals(provider, customers):
                return self._read_each(provider, "totals", customers)
            case ReadDrawn(provider, customer_ids):
                return self._read_each(provider, "drawn", [(one,) for one in customer_ids])
            case ReadCosts(provider, known):
                (told,) = self._read_each(provider, "costs", [(known,)])
                return told
            case ChargeMoney(_, charges, over):
                made = self.rng.randrange(len(charges) + 1) if dies else len(charges)
                return [self._charge(one, too_late or over()) for one in charges[:made]]
            case LookUpMoney(_, charges):
                return [self.payments.looked_up(one) for one in charges]
            case AskWhoFills(_, customer):
                return (
                    InDoubt("no answer") if self.faults.strikes("request_lost") else self.payments.who_fills(customer)
                )
            case SendHalts(halts, over):
                return [NOT_SENT] * len(halts) if over() else self._send_halts(halts)
            case SendHooks(messages, over):
                unsent = HookAnswer(error=NOT_SENT, is_sent=False)
                return [unsent] * len(messages) if too_late or over() else self._send_hooks(messages)
            case OnDisk(_, look):
                return look()
            case ReadCells(requests, _):
                return [UsageAnswer(error="no cell is asked here") for _ in requests]
        raise AssertionError(f"no such effect: {effect!r}")

    def _charge(self, charge: Charge, too_late: bool) -> ChargeResult:
        if too_late:
            return NotSent(NOT_SENT, self.process_clock.at_ms)
        if self.faults.strikes("request_lost"):
            return InDoubt("no answer")
        answer = self.payments.charged(charge)
        return InDoubt("no answer") if self.faults.strikes("answer_lost") else answer

    def _send_hooks(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """The product keeps what arrives, whatever becomes of the answer."""
        if self.faults.strikes("request_lost"):
            return [HookAnswer(error="no connection")] * len(messages)
        answers = self.product.told(messages)
        if self.faults.strikes("answer_raised"):
            raise OSError("the network went away")
        return [HookAnswer(error="no connection")] * len(messages) if self.faults.strikes("answer_lost") else answers

    def _send_halts(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        self.wire.check_halts(halts)
        if self.faults.strikes("halt_request_lost"):
            return ["no answer"] * len(halts)
        if self.faults.strikes("moved_before_halt"):
            self.write(partial(self.cells.move, halt=halts[0], rng=self.rng))
        answers = self.write(partial(self.cells.halt, halts=halts, rng=self.rng))
        if self.faults.strikes("halt_delivered_twice"):
            answers = self.write(partial(self.cells.halt, halts=halts, rng=self.rng))
        for kind, cells in self.cells.troubles.items():
            self.faults.counts[f"cell_{kind}"] += sum(one.cell_id in cells for one in halts)
        if self.faults.strikes("halts_raised"):
            raise OSError("the network went away")
        return ["no answer"] * len(halts) if self.faults.strikes("halt_answer_lost") else answers

    def _transaction(self, effect: Transaction) -> Any:
        if effect.name == "sweep" and not self.net:
            return None
        if self.faults.strikes("transaction_failed"):
            write(self.engine, effect.work, rollback=True)
            raise DatabaseBusy("injected: rolled back")
        work = effect.work
        if self.faults.strikes("serialisation_failure"):
            work = in_conflict(work, self.rng.randint(1, CONFLICT_TRIES))
        answer = write(self.engine, work, rollback=effect.rollback)
        self.judged(effect, answer)
        if effect.name == "expire":
            self._note_expired(**effect.work.keywords)  # type: ignore[attr-defined]
        if effect.name == "claim" and isinstance(answer, Claim) and answer.pushes:
            provider = effect.work.keywords["provider"]  # type: ignore[attr-defined]
            if provider in self.paused:
                self.breaches.append(f"paused: {len(answer.pushes)} pushes were claimed to be sent to {provider}")
        if self.faults.strikes("commit_answer_lost"):
            raise DatabaseBusy("injected: committed, and the answer was lost")
        return answer

    def _portion(self, effect: Push | LookUp, dies: bool, too_late: bool) -> dict[int, Any]:
        """Some calls are made, and some of the answers that have come are told, in any order. A process that dies has
        made some of its calls, and hears of none."""
        flight = self.flights.get(effect)
        if flight is None:
            flight = self.flights[effect] = Flying(self._calls(effect))
        made = self.rng.randrange(max(1, len(flight.unmade))) if dies else self._some(flight.unmade)
        calls, flight.unmade = flight.unmade[:made], flight.unmade[made:]
        places = sorted(place for call in calls for place in call)
        answers = dict(zip(places, self._made(effect, places, too_late), strict=True))
        flight.untold += [{place: answers[place] for place in call} for call in calls]
        told = self._some(flight.untold)
        some, flight.untold = flight.untold[:told], flight.untold[told:]
        return {place: answer for call in some for place, answer in call.items()}

    def _calls(self, effect: Push | LookUp) -> list[list[int]]:
        """In any order; what one lookup answers, or one call of a batch, is told together."""
        if isinstance(effect, Push):
            count, size = len(effect.batch), self._a_call(effect.provider)
            calls = [list(range(at, min(at + size, count))) for at in range(0, count, size)]
        else:
            span_ms = self.providers[effect.provider].capabilities.lookup_span_ms
            calls = list(by_customer(effect.requests, span_ms))
        self.rng.shuffle(calls)
        return calls

    def _a_call(self, provider: str) -> int:
        """How many pushes at a time answers are told for."""
        return self.providers[provider].capabilities.batch_size if provider in self.remote else 1

    def _some(self, left: Sized) -> int:
        """All of them, or a part; one at least, where there is one."""
        return len(left) if len(left) < 2 or self.rng.random() < 0.5 else self.rng.randint(1, len(left))

    def _made(self, effect: Push | LookUp, places: Sequence[int], too_late: bool) -> list[Any]:
        match effect:
            case LookUp(provider, requests):
                return self._look_up(provider, [requests[place] for place in places])
            case Push() if too_late:
                return [NotBegun(self.process_clock.at_ms, NOT_SENT)] * len(places)
            case Push(provider, batch) if provider in self.remote:
                return self._call_each(provider, [batch[place] for place in places], effect.over)
            case Push(provider, batch):
                return self._push_each(provider, [batch[place] for place in places])

    def _look_up(self, provider: str, asked: Sequence[PushRequest]) -> list[LookupResult]:
        """As `worker.engine.calls` does it: what one call answers is asked together."""
        if provider not in self.remote:
            return self._read_each(provider, "lookup", [(one,) for one in asked])
        found: dict[int, LookupResult] = {}
        source = self.providers[provider]
        for places in by_customer(asked, source.capabilities.lookup_span_ms):
            some = [asked[place] for place in places]
            if source.capabilities.lookup_span_ms:
                answers = run_coroutine(cast(ManyLookups, source).lookup_many(some))
            else:
                answers = [run_coroutine(source.lookup(one)) for one in some]
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(asked))]

    def _note_expired(self, provider: str, now: int, **_: object) -> None:
        """Count keys that may be forgotten, once each."""
        found = self.rows(
            "SELECT key FROM pushes WHERE provider = :provider AND settled_ms = :now "
            "AND state IN ('queued', 'in_doubt') AND last_error LIKE 'the provider may have forgotten%'",
            provider=provider,
            now=now,
        )
        for (key,) in found:
            if (key, now) not in self.expired:
                self.expired.add((key, now))
                self.faults.note("key_expired")

    def _call_each(self, provider: str, batch: Sequence[PushRequest], over: Over) -> list[Outcome]:
        """As `worker.engine.calls` does it: a call for each, or for as many as the provider takes together, in any
        order, none once the claim has run out. What goes wrong with each is the network's and the emulator's."""
        size = self._a_call(provider)
        calls = [batch[at : at + size] for at in range(0, len(batch), size)]
        answers = dict[int, list[Outcome]]()
        for number in self.rng.sample(range(len(calls)), len(calls)):
            call = calls[number]
            if over():
                answers[number] = [NotBegun(self.process_clock.at_ms, NOT_SENT)] * len(call)
                continue
            self.wire.check(provider, call)
            for one in call:
                self.wire.first(provider, one, self.time.now)
            self.network.of_lost_history = any((provider, one.key) in self.wire.flying for one in call)
            answers[number] = list(run_coroutine(self.providers[provider].push(call)))
            self.network.of_lost_history = False
            for one, answer in zip(call, answers[number], strict=True):
                self.wire.answered(provider, one, answer)
            self.rejected |= {
                one.key for one, got in zip(call, answers[number], strict=True) if isinstance(got, Rejected)
            }
        return [answer for number in range(len(calls)) for answer in answers[number]]

    def _push_each(self, provider: str, batch: Sequence[PushRequest]) -> list[Outcome]:
        """Each call of at most the declared size has its own fate. It is made whether or not the claim has run out: a
        process may lie still between its last look at the clock and the call."""
        size = self.providers[provider].capabilities.batch_size
        answers: list[Outcome] = []
        for at in range(0, len(batch), size):
            answers += self._push(provider, batch[at : at + size])
        return answers

    def _push(self, provider: str, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        now, count = self.time.now, len(batch)
        if provider in self.down:
            self.faults.note("provider_down")
            return [RetryAt(now + 30_000, "refused")] * count
        if self.faults.strikes("throttled"):
            return [RetryAt(now + self.rng.randrange(MINUTE_MS), "429")] * count
        if self.faults.strikes("throttled_nonsense"):
            return [RetryAt(self.rng.choice((0, -5, now - 86_400_000)), "429")] * count
        if self.faults.strikes("request_lost"):
            return [Unknown("no answer")] * count
        reached = self.rng.randrange(count + 1) if self.faults.strikes("answer_partly_lost") else count
        self.wire.check(provider, batch[:reached])
        answers = list(run_coroutine(self.providers[provider].push(batch[:reached])))
        self.rejected |= {one.key for one, got in zip(batch, answers, strict=False) if isinstance(got, Rejected)}
        if self.faults.strikes("delivered_twice"):
            run_coroutine(self.providers[provider].push(batch[:reached]))
        answers += [Unknown("no answer")] * (count - reached)
        if self.faults.strikes("answer_raised"):
            raise OSError("the connection was cut")
        return [Unknown("no answer")] * count if self.faults.strikes("answer_lost") else answers

    def _read_each(self, provider: str, what: str, asked: Iterable[Sequence[Any]]) -> list[Any]:
        """Lookups, totals, balances: one question each."""
        ask = getattr(self.providers[provider], what)
        if provider in self.remote:
            return [run_coroutine(ask(*one)) for one in asked]
        if provider in self.down or self.faults.strikes("lookup_failed"):
            return [ReadFailed("503") for _ in asked]
        return [run_coroutine(ask(*one)) for one in asked]

    def _read_customers(self, provider: str, customer_ids: Iterable[str]) -> Any:
        if provider not in self.remote:
            if provider in self.down or self.faults.strikes("read_failed"):
                return {one: ReadFailed("503") for one in customer_ids}
            if self.faults.strikes("read_raised"):
                raise OSError("the connection was cut")
        return run_coroutine(self.providers[provider].customers(list(customer_ids)))

    def close(self) -> None:
        """Nothing is left of it."""
        for one in (*self.workers, *self.servers):
            one.crash()
        self.engine.dispose()

    def pushes(self) -> int:
        """How many there are."""
        return int(self.rows("SELECT COUNT(*) FROM pushes")[0][0])

    def charged(self) -> dict[str, tuple[str, int]]:
        """What was truly charged under each key: by whom, and how much in the service's own units."""
        found = {
            key: (EMBEDDED, quantity)
            for key, quantity in self.rows(
                "SELECT key, quantity FROM ledger_entries WHERE kind = 'usage' AND key NOT LIKE 'mirror:%'"
            )
        }
        for name, provider in self.memory.items():
            found.update({key: (name, one.quantity) for key, one in provider.charges.items()})
        for name, remote in self.remote.items():
            found.update({key: (name, quantity) for key, quantity in remote.keys().items()})
        return found
