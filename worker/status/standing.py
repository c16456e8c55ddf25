"""The state of everything, as `status` reads it and the headline judges it. Pure.

Guarantee: each field is one fact, by the name it has in `--json`.
"""

from __future__ import annotations

from dataclasses import dataclass

from drawdown.worker.batches.lists import FilesLeft
from drawdown.worker.cluster.lists import Cluster
from drawdown.worker.provider.shadows import InShadow
from drawdown.worker.push.unresolved import Unresolved
from drawdown.worker.push.waiting import Waiting
from drawdown.worker.reconcile.uncompared import Uncompared
from drawdown.worker.status.backlog import Backlog, OrdersLeft
from drawdown.worker.status.long_open import LongOpen
from drawdown.worker.usage.type_room import ShortOfTypes
from drawdown.worker.verdict.watch_state import UnreadOrgs


@dataclass(frozen=True)
class Pause:
    """Since when a provider is paused, and why."""

    since_ms: int
    reason: str


@dataclass(frozen=True)
class PendingUsage:
    """Usage that is billed by nobody yet, for one reason."""

    reason: str
    seconds: int
    orgs: int
    since_ms: int
    units: int = 0
    """What event types counted, beside seconds of sandboxes."""


def how_much(usage: PendingUsage) -> str:
    """Seconds, and what event types counted, for people."""
    parts = [f"{usage.seconds:,} s"] if usage.seconds or not usage.units else []
    return " and ".join([*parts, *([f"{usage.units:,} units"] if usage.units else [])])


@dataclass(frozen=True)
class HaltsDue:
    """Halts that no cell acknowledged: how many, since when, and an error that one met."""

    due: int
    since_ms: int | None
    error: str | None


@dataclass(frozen=True)
class UndeliveredHalts:
    """Those of one cell and reason (None: not tried yet); `said` in words. `needs_person`: no later try delivers them
    until a setting is changed."""

    cell_id: str
    error: str | None
    halts: int
    since_ms: int
    org_id: str
    needs_person: bool
    said: str


@dataclass(frozen=True)
class UnheededHalt:
    """A halt that a cell acknowledged and did not obey; `said` in words."""

    cell_id: str
    org_id: str
    times: int
    since_ms: int
    said: str


@dataclass(frozen=True)
class Differing:
    """Days of organisations on which a provider charged less or more than we call accepted."""

    provider: str
    verdict: str
    days: int
    since_ms: int
    compared_ms: int


@dataclass(frozen=True)
class ToldBalance:
    """By how much a balance differs from what was pushed, as a person was told and has not acknowledged."""

    provider: str
    customer_id: str
    feature: str
    org_id: str
    told_qty: int
    told_ms: int
    scale: int


@dataclass(frozen=True)
class StoppedOrg:
    """An organisation that is sealed no more until a person mends it."""

    org_id: str
    stopped_at_ms: int
    stopped_reason: str | None


@dataclass(frozen=True)
class HaltedOrg:
    """One of those that were halted last."""

    org_id: str
    halt_reason: str | None
    halted_at: int


@dataclass(frozen=True)
class Doubt:
    """Why this database is taken to have lost history (R1)."""

    doubted_ms: int
    doubted_reason: str


@dataclass(frozen=True)
class OpenReplay:
    """A replay that has not come to its end."""

    replay_id: int
    scope: str
    from_ms: int
    to_ms: int
    next_ms: int
    pushes: int
    actor: str
    started_ms: int
    lease_ms: int


@dataclass(frozen=True)
class LastTick:
    """The tick that ended last; `another_began_ms`: one that began after it and has not ended."""

    tick_id: int
    worker: str
    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int
    exit_status: int
    clock_trusted: bool
    took_ms: int
    another_began_ms: int | None
    problems: list[str]
    left: str = ""
    """The first of what it, or the last tick of the first shard, could not do, and the next one tries again."""


@dataclass(frozen=True)
class Standing:
    """What is behind, why, since when, how much it is worth, and when it will be drained."""

    orgs: int
    halted: int
    unassigned: int
    watermark_ms: int
    """How far the bucket furthest behind is sealed; 0: none is."""
    sealed_to_ms: int
    """How far the one furthest ahead is; after `at_ms`, a clock was ahead."""
    at_ms: int
    unread_samples: int
    """How many came in that no seal has looked at yet. While hosts work there are always some."""
    left: Backlog
    providers: list[Waiting]
    unresolved: list[Unresolved]
    """Pushes that no tick sends: in doubt, rejected, or waiting for credit."""
    paused: dict[str, Pause]
    pending: list[PendingUsage]
    halts: HaltsDue
    undelivered: list[UndeliveredHalts]
    watch_ms: int | None
    """When a watch last went round; None: never."""
    unread: list[UnreadOrgs]
    unheeded: list[UnheededHalt]
    differing: list[Differing]
    balances: list[ToldBalance]
    uncompared: list[Uncompared]
    shadow: list[InShadow]
    short_of_types: list[ShortOfTypes]
    """Keys, sources and organisations that brought as many event types as they may."""
    stopped: list[StoppedOrg]
    halted_orgs: list[HaltedOrg]
    doubted: Doubt | None
    clock: str | None
    """Why ticks refuse this machine's clock."""
    replays: list[OpenReplay]
    orders: OrdersLeft
    files: FilesLeft
    open_transaction: LongOpen | None
    last_tick: LastTick | None
    needs_person: bool
    cluster: Cluster | None = None
    """Workers of `drawdown worker`; None: none ever took part."""

    def unresolved_at(self, provider: str, state: str) -> Unresolved | None:
        """Return the pushes of one provider and state; None if there are none."""
        return next((one for one in self.unresolved if (one.provider, one.state) == (provider, state)), None)


@dataclass(frozen=True)
class Headline:
    """`verdict`: settled, behind or person_needed; the most important reason; and what to do next."""

    verdict: str
    reason: str
    next: str


@dataclass(frozen=True)
class Status:
    """The verdict, and what it rests on."""

    standing: Standing
    headline: Headline
