"""Set up the demo: a database, cells on loopback, a clock, and fake services.

The fake services are Autumn, Stripe, and a payment service for cards. Each charges a key once. Autumn and Stripe have
outages.

Guarantee: the demo ignores all DRAWDOWN_… variables of the environment, so it cannot use a real key, database or cell.
"""

from __future__ import annotations

import secrets
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
from pydantic import SecretStr
from rich.console import Console

from drawdown.cli.app import App
from drawdown.cli.demo.cast import CELLS, Member, sandboxes_of
from drawdown.cli.nouns.demo_cell import DemoCell
from drawdown.cli.settings import Settings
from drawdown.providers import registry
from drawdown.providers.payments import registry as payment_registry
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    Link,
    NoLink,
    NotFound,
    Payment,
    PaymentCapabilities,
)
from drawdown.providers.payments.registry import PaymentServices
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    CustomerRead,
    CustomerState,
    Drawn,
    Duplicate,
    FoundPush,
    LookupResult,
    Notice,
    Outcome,
    Provider,
    PushRequest,
    ReadFailed,
    Rejected,
    RetryAt,
    Totals,
    Unknown,
    WebhookRefused,
)
from drawdown.providers.registry import Registry
from drawdown.schema.clock import Clock
from drawdown.schema.database import write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.sources.demo_host import Sandbox, SandboxSample, start_sandboxes, stop_sandboxes, write_samples

DECLINED_CARD: Final = "cus_declined"
TANGLED: Final = "the minute's sum is higher than this push: another program writes to this meter"
PRICES_MICRO: Final[Mapping[int, int]] = {4096: 400, 8192: 800}
"""Micro-credits a second by memory in MB, at Autumn and in the ledger's rates."""


def feature_of(memory_mb: int) -> str:
    """Return the feature of a memory size in the default mapping."""
    return f"compute_{memory_mb // 1024}gb"


@dataclass(frozen=True)
class Outage:
    """An outage of a provider in [from_ms, to_ms), for a customer, or "" for all.

    `refused`: the provider refuses, and does not charge. `silent`: the outcome is unknown. `tangled`: a lookup does not
    find the outcome either. `unknown_customer`: the provider does not have the customer. `to_ms` None: the outage has
    not ended.
    """

    from_ms: int
    to_ms: int | None
    kind: Literal["refused", "silent", "tangled", "unknown_customer"]
    customer_id: str = ""

    def hits(self, customer_id: str, now_ms: int) -> bool:
        before = self.to_ms is None or now_ms < self.to_ms
        return self.from_ms <= now_ms and before and self.customer_id in ("", customer_id)


@dataclass
class DemoBilling:
    """A fake provider that stores its charges in `charged`.

    It declares the capabilities of `real`, without rate limits. Its batches are larger, and its balances do not depend
    on events.
    """

    real: Provider
    clock: Clock
    outages: tuple[Outage, ...] = ()
    paid_micro: Mapping[str, int] = field(default_factory=dict)
    """Credit by customer. For other customers, the real provider reads the ledger."""
    prices_micro: Mapping[str, int] = field(default_factory=dict)
    """Micro-credits of a base unit, by feature."""
    charged: dict[str, PushRequest] = field(default_factory=dict)
    dormant: str | None = None

    def __post_init__(self) -> None:
        self.name = self.real.name
        self.capabilities = replace(
            self.real.capabilities,
            calls_per_s=None,
            reads_per_s=None,
            lookups_per_s=None,
            batch_size=100,
            one_at_a_time=False,
            lookup_span_ms=0,
            cancel_within_ms=None,
            drawn=False,
        )

    def _outage(self, customer_id: str) -> Outage | None:
        now = self.clock.now_ms()
        return next((one for one in self.outages if one.hits(customer_id, now)), None)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [self._push(push) for push in batch]

    def _push(self, push: PushRequest) -> Outcome:
        outage = self._outage(push.customer_id)
        if outage is not None and outage.kind == "unknown_customer":
            return Rejected(f"400: no such customer: {push.customer_id}")
        if outage is not None and outage.kind == "refused":
            return RetryAt(self.clock.now_ms() + WINDOW_MS, "503: the service is down, and took nothing")
        if outage is not None:
            if zlib.crc32(push.key.encode()) % 2:
                self.charged.setdefault(push.key, push)
            return Unknown("no response in 10 s")
        if push.key in self.charged:
            return Duplicate()
        self.charged[push.key] = push
        return Accepted()

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        theirs = await self.real.customers([name for name in customer_ids if name not in self.paid_micro])
        return {**theirs, **{name: self._customer(name) for name in customer_ids if name in self.paid_micro}}

    def _customer(self, customer_id: str) -> CustomerRead:
        if self._outage(customer_id) is not None:
            return ReadFailed("no response in 10 s")
        uses = (push for push in self.charged.values() if push.customer_id == customer_id)
        spent = sum(push.quantity * self.prices_micro.get(push.feature, 0) for push in uses)
        return CustomerState(self.paid_micro[customer_id] - spent, "scale", 40)

    async def lookup(self, request: PushRequest) -> LookupResult:
        outage = self._outage(request.customer_id)
        if outage is not None:
            return CannotTell(TANGLED) if outage.kind == "tangled" else ReadFailed("503")
        found = self.charged.get(request.key)
        return Absent() if found is None else FoundPush(found.quantity)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        if self._outage(customer_id) is not None:
            return ReadFailed("503")
        found: dict[str, int] = {}
        for push in self.charged.values():
            if push.customer_id == customer_id and from_ms <= push.ts < to_ms:
                found[push.feature] = found.get(push.feature, 0) + push.quantity
        return found

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        raise WebhookRefused("the demo's services do not send webhooks")

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        bad = [name for name in customer_ids if (one := self._outage(name)) and one.kind == "unknown_customer"]
        return [f"{name}: no such customer" for name in bad]


@dataclass
class DemoCard:
    """A fake payment service that charges each id once.

    The service declines the card of DECLINED_CARD. `silent`: ids of charges that succeed without a response.
    """

    capabilities: PaymentCapabilities
    clock: Clock
    name: str = "stripe"
    dormant: str | None = None
    silent: frozenset[str] = frozenset()
    paid: dict[str, Payment] = field(default_factory=dict)

    async def charge(self, request: Charge) -> ChargeResult:
        if request.customer_id == DECLINED_CARD:
            return Declined("insufficient_funds", "the card was declined", True)
        number = len(self.paid) + 1
        found = self.paid.setdefault(
            request.charge_id, Payment(f"pi_demo_{number:04}", request.amount, request.currency)
        )
        return InDoubt("no response in 30 s") if request.charge_id in self.silent else found

    async def look_up(self, request: Charge) -> ChargeResult:
        return self.paid.get(request.charge_id) or NotFound()

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return NoLink("the demo's card service has no pages")

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return NoLink("the demo's card service has no pages")


class TurnedClock:
    """A clock that shows a set time, or the time of an underlying clock."""

    def __init__(self, behind: Clock) -> None:
        self._behind = behind
        self._at_ms: int | None = None
        self.trusted = True

    def turn(self, at_ms: int | None) -> None:
        """Set the time in milliseconds; None: follow the underlying clock."""
        self._at_ms = at_ms
        self.trusted = at_ms is not None or self._behind.trusted

    def now_ms(self) -> int:
        return self._behind.now_ms() if self._at_ms is None else self._at_ms


@dataclass
class DemoApp(App):
    """An invocation with the demo's providers and card."""

    billing: Mapping[str, DemoBilling] = field(default_factory=dict)
    card: DemoCard | None = None

    def _load(self) -> Registry:
        return Registry({"embedded": self.real_providers()["embedded"], **self.billing})

    def real_providers(self) -> Mapping[str, Provider]:
        """Return the real providers, without keys."""
        return registry.load({}, self.clock, self.http, self.engine).providers

    @property
    def payments(self) -> PaymentServices:
        return PaymentServices({} if self.card is None else {self.card.name: self.card})

    def real_card(self) -> PaymentCapabilities:
        """Return the capabilities of Stripe as a payment service."""
        return payment_registry.load({}, self.clock, self.http, self.engine).capabilities["stripe"]


@dataclass
class Stage:
    """The state of the demo: its services, clock, cells and running sandboxes."""

    app: DemoApp
    clock: TurnedClock
    cells: list[DemoCell] = field(default_factory=list)
    running: dict[str, list[Sandbox]] = field(default_factory=dict)
    """Running sandboxes by organisation. A halt removes them."""
    often_from_ms: int = 0
    """Time from which hosts write a sample each minute."""
    told_to_ms: int = 0
    """Time up to which hosts wrote samples."""
    generations: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    """Counts of ticks, samples and acts, which tests bound."""

    def stopped(self, cell_id: str, org_id: str) -> None:
        """Stop an organisation's sandboxes on a cell, as the cell does after a halt."""
        write(self.app.engine, lambda connection: stop_sandboxes(connection, cell_id, org_id))
        self.running[org_id] = [one for one in self.running.get(org_id, []) if one.cell_id != cell_id]

    def start(self, connection: sa.Connection, member: Member) -> None:
        """Start a member's sandboxes, unless some already run."""
        if not self.running.get(member.org_id):
            self.running[member.org_id] = sandboxes_of(member, self.generations[member.org_id])
            self.generations[member.org_id] += 1
            start_sandboxes(connection, self.running[member.org_id])

    def host_writes(self, samples: list[SandboxSample]) -> None:
        """Write samples as a host does, without a command."""
        if samples:
            write(self.app.engine, lambda connection: write_samples(connection, samples, self.clock.now_ms()))
            self.done["samples"] += len(samples)

    def hurry(self) -> None:
        """Turn off SQLite's waits for the disk, since a crashed demo is made again."""

        def connected(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA synchronous = OFF")

        sa.event.listen(self.app.engine, "connect", connected)

    def go_on(self) -> None:
        """Open the database with its usual settings, and start the clock."""
        self.app.engine.dispose()
        self.app._engine = None
        self.clock.turn(None)

    def close(self) -> None:
        for cell in self.cells:
            cell.close()


def set_up(folder: Path, file: Path, behind: Clock, out: Console, err: Console) -> Stage:
    """Return a stage with running cells, but without a database yet."""
    clock = TurnedClock(behind)
    given: dict[str, Any] = {name: one.default for name, one in Settings.model_fields.items()}
    secret = SecretStr(secrets.token_hex(16))
    given |= {"database_url": f"sqlite:///{file}", "state_dir": str(folder / "state"), "cell_secret": secret}
    stage = Stage(DemoApp(Settings(**given), clock, out=out, err=err), clock)
    secrets_of = stage.app.settings.cells().secrets_of
    stage.cells = [DemoCell(name, secrets_of(name)[0], clock, stage.stopped) for name in CELLS]
    stage.app.settings.cell_origins = ",".join(cell.url for cell in stage.cells)
    return stage
