"""The inputs of a tick: time, providers, limits, circuits, shard and stores.

Guarantee: steps take time, providers and limits from here, never from the machine. After several failures in a row
nothing is sent to a provider or cell for a while: an outage costs one call now and then, and delays no other. Secrets
of stores never print.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from drawdown.providers.payments.protocol import PaymentCapabilities
from drawdown.providers.protocol import Capabilities
from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.breaker import Breaker
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.engine.stores import Databases, ObjectStore
from drawdown.worker.engine.witness import Witness

LEASE_MS = 2 * MINUTE_MS
"""The time for which a claim keeps other workers away.

Correctness never depends on it: two senders send identical bytes (P1).
"""


def _never() -> bool:
    return False


@dataclass
class Context:
    """One worker's tick."""

    worker: str
    clock: Clock
    capabilities: Mapping[str, Capabilities]
    dormant: Mapping[str, str] = field(default_factory=dict)
    """Providers that cannot be called yet."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Providers that cannot be used at all, and why."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """Providers that declare other terms than those in force; they are sent nothing until a person accepts these."""
    payments: Mapping[str, PaymentCapabilities] = field(default_factory=dict)
    """Payment services there are."""
    dormant_payments: Collection[str] = ()
    """The payment services that cannot be called yet."""
    hooks: Collection[str] = ()
    """Origins of the operator's product that this machine may tell; what is due elsewhere it leaves to others."""
    objects: ObjectStore = field(default_factory=ObjectStore)
    """The object store with the prefixes that are watched."""
    databases: Databases = field(default_factory=Databases)
    """The databases that sources query."""
    shard: Shard = field(default_factory=Shard)
    new_orgs: NewOrgs | None = None
    deadline_ms: int | None = None
    began_ms: int | None = None
    accept_clock: bool = False
    stopping: Callable[[], bool] = _never
    """Asked between effects: true once the process was told to end."""
    breakers: dict[str, Breaker] = field(default_factory=dict)
    cell_breakers: dict[str, Breaker] = field(default_factory=dict)
    """By cell: what one dispatch learnt of a dead cell, the next need not."""
    hurried: bool = False
    """A watch: who did not answer a moment ago is not asked, or an outage would cost each round its time."""
    witness: Witness | None = None
    """This machine's checkpoint of the database since the tick began."""
    progress: Callable[[str, int], None] | None = None
    _claims: Iterator[int] = field(default_factory=lambda: count(1))
    """Shared with every context made of this one: no two claims of a worker have one name."""

    def out_of_time(self, eighths: int = 8) -> bool:
        """Return True if the rest is left to the next tick: all of the time is over, or so many eighths of it.

        Earlier steps leave some time to later ones, so that no provider that hangs keeps a halt from its cell.
        """
        if self.stopping():
            return True
        if self.deadline_ms is None:
            return False
        whole_ms = 0 if self.began_ms is None else self.deadline_ms - self.began_ms
        return self.clock.now_ms() >= self.deadline_ms - whole_ms * (8 - eighths) // 8

    def leaves(self, duration_ms: int) -> bool:
        """Return True if so much of the time is left."""
        ends_ms = self.deadline_ms
        return not self.stopping() and (ends_ms is None or self.clock.now_ms() + duration_ms <= ends_ms)

    def within(self, duration_ms: int) -> Context:
        """The same, for that long at most."""
        ends_ms = self.clock.now_ms() + duration_ms
        return replace(self, deadline_ms=ends_ms if self.deadline_ms is None else min(ends_ms, self.deadline_ms))

    def ready(self) -> list[str]:
        """The providers that can be called."""
        return sorted(set(self.declared()) - set(self.changed))

    def declared(self) -> dict[str, Capabilities]:
        """The providers that declare their terms. One without a key may lack other settings, too."""
        return {name: capabilities for name, capabilities in self.capabilities.items() if name not in self.dormant}

    def new_claim(self) -> str:
        """A name for one claim of this worker, unlike any other claim."""
        return f"{self.worker}/{next(self._claims)}"

    def breaker(self, provider: str) -> Breaker:
        return self.breakers.setdefault(provider, Breaker())

    def cell_breaker(self, cell_id: str) -> Breaker:
        return self.cell_breakers.setdefault(cell_id, Breaker(open_after=2))

    def reading(self, provider: str) -> Breaker:
        """The breaker of a provider's reads: one that takes no usage may well be read, and the other way round."""
        return self.breakers.setdefault(f"{provider} reads", Breaker())

    def paying(self, service: str) -> Breaker:
        """The breaker of a payment service."""
        return self.breakers.setdefault(f"{service} payments", Breaker())

    def telling(self, endpoint: str) -> Breaker:
        """The breaker of an endpoint of the operator's product."""
        return self.breakers.setdefault(f"{endpoint} hooks", Breaker(open_after=2))

    def advanced(self, what: str, count: int) -> None:
        if self.progress is not None:
            self.progress(what, count)
