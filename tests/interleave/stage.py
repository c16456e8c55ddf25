"""The stage: one small database in which every transaction of the product finds something to do, mostly of the same
organisation, so that any two of them meet.

Guarantee: what happened on it happened by the product's own functions and by hosts' statements; a case gets a copy of
the database and of what providers and cells know.

| organisation | what it is there for |
|---|---|
| acme | billed at `fake` to FLIP, at `embedded` from then on; a push there in every state, late and fresh usage |
| held | stopped by a person, with usage that came late since |
| later | assigned to `other`, a provider that only some hosts have: its usage waits as pending; moves tomorrow |
| drifter | assigned to nobody |
| spent | no credit: halted, and its cell was told |
| idle | halted by a person long ago; its cell was never reached, and nothing runs there by now |
| poor | billed at `bank`, in credits: a push waits for credit, which no read has shown yet, and another one is due |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import (
    Absent,
    CannotTell,
    Cost,
    Drawn,
    FoundPush,
    Outcome,
    Provider,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.stores import Databases
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.history.incarnation import present
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.seal import stops
from drawdown.worker.seal.seal import SealRequest, sweep
from drawdown.worker.tick import tick
from drawdown.worker.wallets import actions as credit
from tests.fake_payments import FakePayments
from tests.fake_product import FakeProduct
from tests.fake_provider import FakeProvider, capabilities
from tests.interleave.walk import Walk
from tests.world import Cells

OLD: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z; one window of acme's and held's, old enough to be pruned by now, or folded."""
T0: Final = OLD + 40 * DAY_MS
FLIP: Final = T0 + 10 * WINDOW_MS
NOW: Final = FLIP + 14 * WINDOW_MS
CREDIT: Final = 10**12
ASKED: Final = "warehouse"
"""A source of queries."""
LOST: Final = f"usage:acme:{T0}:compute_4gb"
"""Accepted, and forgotten by its provider."""


COST: Final = Cost("compute_32gb", "credits", Decimal("0.0032"))
"""What `bank` says that a second draws."""


def key(window: int, feature: str = "compute_1gb", org: str = "acme") -> str:
    return f"usage:{org}:{T0 + window * WINDOW_MS}:{feature}"


AWAITS: Final = key(1, COST.feature, "poor")
"""Took nothing, for want of credit."""


SEEN: Final = key(2)
"""In doubt, and only a person who looks at its provider's console can tell."""
ANSWERS: Final[dict[str, Outcome]] = {
    key(1): Rejected("no such feature"),
    key(2): Unknown("cut"),
    key(3): Queued(NOW),
    key(4): Queued(NOW),
    key(5): Queued(NOW),
    key(6): RetryAt(NOW, "busy"),
    key(7): Unknown("cut"),
    key(0, "compute_16gb"): Unknown("cut"),
}
"""What `fake` says first; what is not here is accepted."""
CAN: Final = capabilities(
    key_retention_ms=DAY_MS,
    duplicate_proves_delivery=False,
    lookup_lag_ms=MINUTE_MS,
    applied_within_ms=10 * MINUTE_MS,
    totals_lag_ms=MINUTE_MS,
    drawn=True,
    cancel_within_ms=DAY_MS,
)
OTHER_CAN: Final = capabilities()
BANK_CAN: Final = replace(CAN, costs=True)


@dataclass
class Metered(FakeProvider):
    """Its balances are drawn on by what it charged, and by what it is told to say beyond that."""

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        found = {feature: one.quantity for feature, one in self.drawn_says.get(customer_id, {}).items()}
        for push in self.charged.values():
            if push.customer_id == customer_id:
                found[push.feature] = found.get(push.feature, 0) + push.quantity
        for (customer, feature, _), quantity in self.over.items():
            if customer == customer_id:
                found[feature] = found.get(feature, 0) + quantity
        return {feature: Drawn(quantity, None) for feature, quantity in found.items()}


@dataclass
class InCredits(FakeProvider):
    """What it charges draws credits, by the cost of the moment."""

    costs_say: Sequence[Cost] = (COST,)
    drew: dict[str, Decimal] = field(default_factory=dict)
    """Credits, by the key of a charge."""

    def _one(self, push: PushRequest) -> Outcome:
        before, outcome = push.key in self.charged, super()._one(push)
        if push.key in self.charged and not before:
            self.drew[push.key] = self.costs_say[0].credits * push.quantity
        return outcome

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        drew = (self.drew[key] for key, push in self.charged.items() if push.customer_id == customer_id)
        shown = self.states.get(customer_id)
        return {COST.balance: Drawn(sum(drew, Decimal(0)), None, parts=getattr(shown, "parts", ()))}


@dataclass
class Known:
    """What is known outside of the database when a case begins."""

    fake: FakeProvider
    bank: InCredits
    cells: Cells
    samples: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Samples as hosts wrote them, those that were pruned since among them."""


class Stage:
    """One copy of the stage, at one moment of its clock."""

    def __init__(self, engine: sa.Engine, known: Known, at_ms: int = NOW) -> None:
        self.engine, self.clock = engine, FixedClock(at_ms)
        self.fake, self.bank, self.cells, self.samples = known.fake, known.bank, known.cells, known.samples
        self.other = FakeProvider(OTHER_CAN, name="other")
        self.former: FakeProvider | None = None
        """The same provider, as a process meets it that began on former terms."""
        self.owed_on_former_terms: set[str] = set()
        self.workers = 0
        self.pay = FakePayments(self.clock)
        self.product = FakeProduct()
        self.told = 0  # quantity of balances that a reconciliation told a person of
        self.may_leave = (0, 0)
        """The charges that may still be paid, as who stopped all was told, and those that had been made by then."""
        self.failures: list[str] = []
        """What ticks, and other steps, said had failed."""

    @property
    def by(self) -> By:
        return By(self.clock.now_ms(), "somebody", "explored")

    def providers(self) -> dict[str, Provider]:
        embedded = EmbeddedProvider(self.engine, self.clock)
        return {"embedded": embedded, "bank": self.bank, "fake": self.fake, "other": self.other}

    def world(self) -> runner.World:
        pays = {"fake": self.pay}
        return runner.World(self.engine, self.providers(), self.cells, self.clock, payments=pays, hooks=self.product)

    def context(self, *without: str, **options: Any) -> Context:
        """A worker of its own, on a host that does not have some providers."""
        self.workers += 1
        can = {name: one.capabilities for name, one in self.providers().items() if name not in without}
        made = Context(f"w{self.workers}", self.clock, can, accept_clock=True, **options)
        if not self.rows("SELECT 1 FROM incarnation WHERE doubted_ms IS NOT NULL"):
            made.witness = read(self.engine, present)
        return made

    def walk(self, steps: Any) -> Walk:
        return Walk(steps, self.world())

    def write(self, text: str, **values: object) -> None:
        write(self.engine, lambda connection: connection.execute(sa.text(text), values))

    def rows(self, text: str, **values: object) -> list[Any]:
        return read(self.engine, lambda connection: list(connection.execute(sa.text(text), values)))

    def sample(self, name: str, org: str, ts: int, memory_mb: int = 1024, seconds: int = 60) -> None:
        write(self.engine, lambda c: insert_sample(c, name, org, ts, memory_mb, seconds))

    def charge(self, window: int, quantity: int = 60) -> None:
        """What `fake` was sent it did take, whatever it answered."""
        sent = next(one for one in self.fake.seen if one.key == key(window))
        self.fake.charged[sent.key] = replace(sent, quantity=quantity)

    def charge_at_other(self, key: str) -> None:
        """What the third provider was sent it did take, whatever it answered."""
        self.other.charged[key] = next(one for one in self.other.seen if one.key == key)

    def tick(self, *without: str) -> None:
        self.note(self.walk(tick(self.context(*without))).rest(self.engine))

    def note(self, result: Any) -> None:
        """Keep what steps that have ended say of failures; no database is here that a query could ask."""
        failed: list[str] = getattr(result, "failures", [])
        self.failures += [one for one in failed if Databases.setting(ASKED) not in one]


SAMPLE: Final = sa.text(
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    "VALUES (:id, :org, 'box', 'cell-1', :memory_mb, :seconds, :ts, :ts)"
)


def insert_sample(
    connection: sa.Connection, name: str, org: str, ts: int, memory_mb: int = 1024, seconds: int = 60
) -> None:
    """As a host does."""
    values = {"id": name, "org": org, "memory_mb": memory_mb, "seconds": seconds, "ts": ts}
    connection.execute(SAMPLE, values)


def build(engine: sa.Engine) -> Known:
    """Fill an empty, migrated database; what its providers and cells know by then."""
    stage = Stage(engine, Known(Metered(CAN), InCredits(BANK_CAN, name="bank"), Cells()), OLD)
    stage.fake.answers = dict(ANSWERS)
    no_credit, busy = Rejected("no credit", until_credit=True), RetryAt(NOW, "busy")
    stage.bank.answers = {AWAITS: no_credit, key(2, COST.feature, "poor"): busy}
    stage.bank.states = {"poor": ReadFailed("503")}
    stage.cells.failing = {"cell-2"}
    _begin(stage)
    _bill_at_fake(stage)
    _bill_at_embedded(stage)
    _halt(stage)
    _come_late(stage)
    stage.cells.received = [one for one in stage.cells.received if one.cell_id not in stage.cells.failing]
    known = Known(stage.fake, stage.bank, stage.cells, _samples(stage))
    for answers in (stage.fake.answers, stage.bank.answers, stage.bank.states):
        answers.clear()
    stage.cells.failing.clear()
    return known


def copy_of(known: Known) -> Known:
    """What a case may change."""
    return deepcopy(known)


def _begin(stage: Stage) -> None:
    """Everybody is there, and one window of long ago is billed."""
    write(stage.engine, lambda c: install_defaults(c, stage.by))
    write(stage.engine, lambda c: credit.set_plan_limit(c, "free", 2, stage.by))
    write(stage.engine, lambda c: assign(c, ["acme"], "fake", stage.by, from_ms=OLD))
    write(stage.engine, lambda c: assign(c, ["poor"], "bank", stage.by, from_ms=OLD))
    write(stage.engine, lambda c: assign(c, ["held", "spent"], "embedded", stage.by, from_ms=OLD))
    write(stage.engine, lambda c: assign(c, ["later"], "other", stage.by, from_ms=OLD))
    write(stage.engine, lambda c: assign(c, ["idle"], "none", stage.by, from_ms=OLD))
    write(stage.engine, lambda c: assign(c, ["later"], "embedded", stage.by, from_ms=NOW + DAY_MS))
    for org in ("acme", "held"):
        grant = partial(credit.grant, customer_id=org, amount_micro=CREDIT, by=stage.by, key=org, plan="free")
        write(stage.engine, grant)
    stage.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1'), ('cell-2', 'http://cell-2')")
    stage.sample("old", "acme", OLD + 1)
    stage.sample("held-old", "held", OLD + 1)
    stage.clock.at_ms = OLD + 2 * WINDOW_MS
    stage.tick("other")


def _bill_at_fake(stage: Stage) -> None:
    """A push of acme's in every state."""
    stage.clock.at_ms = T0
    stage.tick("other")
    for window in range(9):
        stage.sample(f"a-{window}", "acme", T0 + window * WINDOW_MS + 1)
    for size in (4, 8, 16):
        stage.sample(f"a-{size}gb", "acme", T0 + 1, size * 1024)
    for window in range(3):
        stage.sample(f"poor-{window}", "poor", T0 + window * WINDOW_MS + 1, 32 * 1024)
    stage.clock.at_ms = FLIP - WINDOW_MS
    stage.tick("other")
    del stage.fake.answers[key(0, "compute_16gb")]
    stage.charge(3)
    stage.charge(4, quantity=40)
    stage.fake.lookups = {
        key(2): CannotTell("its console alone tells"),
        key(4): FoundPush(40),
        key(5): Absent(),
        key(7): CannotTell("its console alone tells"),
    }
    stage.clock.at_ms += 2 * MINUTE_MS
    stage.tick("other")  # what was not answered is looked up
    stage.fake.over[("acme", "compute_8gb", T0 + 2)] = 60
    del stage.fake.charged[LOST]
    stage.fake.drawn_says["acme"] = {"compute_16gb": Drawn(60, None)}


def _bill_at_embedded(stage: Stage) -> None:
    write(stage.engine, lambda c: assign(c, ["acme"], "embedded", stage.by, from_ms=FLIP))
    for window in range(3):
        for org in ("acme", "held", "later", "drifter", "spent"):
            stage.sample(f"{org}-{window}", org, FLIP + window * WINDOW_MS + 1)
    stage.sample("odd", "acme", FLIP + 2, 3000)  # a size without a feature
    stage.clock.at_ms = FLIP + 4 * WINDOW_MS
    stage.tick("other")
    for number in range(36):  # the sweep of the late horizon, to its end
        now = stage.clock.at_ms
        request = SealRequest(Shard(), now - 3 * MINUTE_MS, now, stage.context("other").declared())
        if write(stage.engine, partial(sweep, request=request)) is None and number:
            break


def _halt(stage: Stage) -> None:
    sandbox = "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:name, :org, :cell, 'running')"
    for org, cell in (("acme", "cell-1"), ("spent", "cell-1"), ("idle", "cell-2")):
        stage.write(sandbox, name=f"box-{org}", org=org, cell=cell)
    write(stage.engine, lambda c: orgs.halt(c, ["idle"], stage.by))
    write(stage.engine, lambda c: stops.stop_org(
        c, org_id="held", reason="looked at", now_ms=stage.clock.at_ms, actor="somebody"))  # fmt: skip
    stage.clock.at_ms += MINUTE_MS
    stage.tick("other")


def _come_late(stage: Stage) -> None:
    """What is found when a case begins: late usage, of a stopped organisation too, and fresh windows."""
    stage.sample("held-late", "held", FLIP + 2)
    stage.clock.at_ms = NOW - 2 * WINDOW_MS
    stage.tick("other")
    stage.write("UPDATE sandboxes SET state = 'stopped' WHERE org_id = 'idle'")
    stage.sample("seconds", "acme", (FLIP + 9_000) // 1_000)
    stage.sample("late-there", "acme", T0 + 2)
    stage.sample("late-here", "acme", FLIP + 3)
    for org in ("acme", "held", "later", "drifter", "spent"):
        stage.sample(f"{org}-fresh", org, NOW - 2 * WINDOW_MS + 1)
    stage.clock.at_ms = NOW


def _samples(stage: Stage) -> dict[str, tuple[Any, ...]]:
    return {row[0]: tuple(row) for row in stage.rows(RAW)}


RAW: Final = "SELECT id, org_id, ts, memory_mb, interval_s, problem FROM usage_samples"
