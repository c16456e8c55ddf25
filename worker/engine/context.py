"""Define the inputs of a tick: time, providers, limits, circuits, shard, stores.

Guarantee: steps take time, providers and limits from here, not from the machine. After several failures in a row, calls
to a provider or cell stop for a while. During an outage, Drawdown makes few calls, and other providers or cells are not
delayed. Secrets of stores are never printed.
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
"""Milliseconds for which a claim excludes other workers.

Correctness does not depend on this time, because two senders send identical bytes (P1).
"""


def _never() -> bool:
    return False


@dataclass
class Context:
    """The context of one worker's tick.

    `new_orgs`: how to assign new organisations (None: leave them unassigned). `began_ms`, `deadline_ms`: the start and
    the end of the tick's time (None: unlimited). `accept_clock`: True if a person accepted the clock. `breakers`: the
    circuits of providers and services. `progress`: a function that receives a step's name and a count (None: progress
    is not reported).
    """

    worker: str
    clock: Clock
    capabilities: Mapping[str, Capabilities]
    dormant: Mapping[str, str] = field(default_factory=dict)
    """Providers that cannot be called yet, each with the reason."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Providers that cannot be used, each with the reason."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """Providers with declared terms that differ from those in force. Drawdown does not send to them until a person
    accepts the terms.
    """
    payments: Mapping[str, PaymentCapabilities] = field(default_factory=dict)
    """The payment services, with their capabilities."""
    dormant_payments: Collection[str] = ()
    """The payment services that cannot be called yet."""
    hooks: Collection[str] = ()
    """Origins of the operator's product that this machine may call. Other machines send to other origins."""
    objects: ObjectStore = field(default_factory=ObjectStore)
    """The object store of the watched prefixes."""
    databases: Databases = field(default_factory=Databases)
    """The databases that sources query."""
    shard: Shard = field(default_factory=Shard)
    new_orgs: NewOrgs | None = None
    deadline_ms: int | None = None
    began_ms: int | None = None
    accept_clock: bool = False
    stopping: Callable[[], bool] = _never
    """Returns True once the process must end. Steps call it between effects."""
    breakers: dict[str, Breaker] = field(default_factory=dict)
    cell_breakers: dict[str, Breaker] = field(default_factory=dict)
    """Circuits by cell, shared by all dispatches, so that they call a dead cell only once."""
    hurried: bool = False
    """True in a watch, which does not call a provider that just failed. Otherwise, an outage would use up the time of
    each round.
    """
    witness: Witness | None = None
    """This machine's checkpoint of the database; None: without a checkpoint.

    The tick updates it.
    """
    progress: Callable[[str, int], None] | None = None
    _claims: Iterator[int] = field(default_factory=lambda: count(1))
    """The counter of claims. All copies of this context share it, so that each claim of a worker has a unique name."""

    def out_of_time(self, eighths: int = 8) -> bool:
        """Return True if this many `eighths` of the tick's time are over.

        Also return True if the process must end. The next tick continues the work.

        Earlier steps leave some time to later steps, so that a provider that hangs does not delay a halt.
        """
        if self.stopping():
            return True
        if self.deadline_ms is None:
            return False
        whole_ms = 0 if self.began_ms is None else self.deadline_ms - self.began_ms
        return self.clock.now_ms() >= self.deadline_ms - whole_ms * (8 - eighths) // 8

    def leaves(self, duration_ms: int) -> bool:
        """Return True if at least `duration_ms` of the tick's time is left.

        Return False if the process must end.
        """
        ends_ms = self.deadline_ms
        return not self.stopping() and (ends_ms is None or self.clock.now_ms() + duration_ms <= ends_ms)

    def within(self, duration_ms: int) -> Context:
        """Return a copy of the context with at most this duration left."""
        ends_ms = self.clock.now_ms() + duration_ms
        return replace(self, deadline_ms=ends_ms if self.deadline_ms is None else min(ends_ms, self.deadline_ms))

    def ready(self) -> list[str]:
        """Return the names of callable providers that declare the terms in force, sorted."""
        return sorted(set(self.declared()) - set(self.changed))

    def declared(self) -> dict[str, Capabilities]:
        """Return the providers that declare their terms.

        Providers that cannot be called yet are left out, because settings of their terms may be missing.
        """
        return {name: capabilities for name, capabilities in self.capabilities.items() if name not in self.dormant}

    def new_claim(self) -> str:
        """Return a unique name for a claim of this worker."""
        return f"{self.worker}/{next(self._claims)}"

    def breaker(self, provider: str) -> Breaker:
        return self.breakers.setdefault(provider, Breaker())

    def cell_breaker(self, cell_id: str) -> Breaker:
        return self.cell_breakers.setdefault(cell_id, Breaker(open_after=2))

    def reading(self, provider: str) -> Breaker:
        """Return the circuit of a provider's reads.

        It is separate, because a provider may answer reads and refuse pushes, or the reverse.
        """
        return self.breakers.setdefault(f"{provider} reads", Breaker())

    def paying(self, service: str) -> Breaker:
        """Return the circuit of a payment service."""
        return self.breakers.setdefault(f"{service} payments", Breaker())

    def telling(self, endpoint: str) -> Breaker:
        """Return the circuit of an endpoint of the operator's product."""
        return self.breakers.setdefault(f"{endpoint} hooks", Breaker(open_after=2))

    def advanced(self, what: str, count: int) -> None:
        if self.progress is not None:
            self.progress(what, count)
