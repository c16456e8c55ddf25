"""A busy database to verify, and the means to break it behind its guards' backs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature, mature_due
from drawdown.ledger.grants import Gives
from drawdown.ledger.lots import Terms
from drawdown.providers.protocol import Accepted, Capabilities, CustomerState, Outcome, PushRequest
from drawdown.schema.audit import By, record
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.messages import ORG_HALTED
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import UsageAnswer, UsageRequest
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.features.actions import map_event, map_size
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Wish
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.parity.parity import check_cells, check_totals
from drawdown.worker.parity.totals import Days
from drawdown.worker.provider import vendors
from drawdown.worker.provider.actions import set_rate
from drawdown.worker.provider.vendors import BillFile, BillLine
from drawdown.worker.push.actions import void
from drawdown.worker.seal.stops import stop_org
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.sources.events.store import take
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.fill import fill
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verify.verify import Verification, verify
from drawdown.worker.wallets import pools, tiers
from drawdown.worker.wallets.actions import grant, set_plan_limit, take_back
from tests import compiled, leftovers
from tests.fake_payments import CAN, FakePayments
from tests.fake_product import FakeProduct
from tests.fake_provider import FakeProvider
from tests.quick_sqlite import quicken
from tests.sqlite_databases import fresh
from tests.world import T0, Copied, Fleet

NEXT: Final = T0 + WINDOW_MS
ONE: Final = "compute_1gb"


class Minutes(FakeProvider):
    """A provider that sells whole minutes and takes nothing back: the rest is carried (S10)."""

    def __init__(self) -> None:
        super().__init__(
            Capabilities(None, True, batch_size=100, negatives=False, unit=60, reads_a_call=100), "minutes"
        )

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [Accepted() for _ in batch]

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerState]:
        return {customer_id: CustomerState(None, None, 5) for customer_id in customer_ids}


def busy(engine: sa.Engine) -> Fleet:
    """A database in which everything happened that may happen, and nothing that may not."""
    fleet = Fleet(engine, extra={"minutes": Minutes()})
    _told(fleet)
    fleet.write("INSERT INTO orgs (org_id) VALUES ('idle')")
    fleet.assign("acme", "other", "stuck", from_ms=T0)
    fleet.assign("exempt", provider="legacy", from_ms=T0)
    fleet.assign("rest", "far", provider="minutes", from_ms=T0)
    pruned = {"before_ms": T0}  # nothing lay before
    write(engine, lambda c: record(c, "sample_prune", "all", pruned, fleet.by))
    _credit(fleet, "g1", 50)
    _sandboxes(fleet)
    for start in (T0, NEXT):
        for org in ("acme", "other", "stuck", "exempt", "rest", "idle", "nobody"):
            fleet.sample(org, start + 1, 100)
        fleet.sample("acme", start + 2, 40, memory_mb=4096)
    fleet.sample("acme", T0 + 3, 20, memory_mb=3000)  # a size that makes no feature
    fleet.sample("acme", T0 + 3, "x", memory_mb=1024) if engine.dialect.name == "sqlite" else None
    fleet.sample("acme", T0 + 4, -5)  # quarantined
    fleet.sample("rest", T0 + 3, 0)
    wrong = [fleet.sample("other", T0 + 5, 30), fleet.sample("rest", T0 + 5, 59)]
    fleet.tick_windows(2)
    _lateness(fleet, wrong)
    _topped_up(fleet)
    _planned(fleet)
    _boxed(fleet)
    _pooled(fleet)
    _guarded(fleet)
    _compared(fleet)
    _reject_and_void(fleet)
    _ran_far(fleet)
    write(engine, lambda c: stop_org(c, org_id="stuck", reason="a test", now_ms=fleet.clock.at_ms, actor="test"))
    fleet.sample("stuck", fleet.clock.at_ms)
    fleet.sample("other", fleet.clock.at_ms)
    fleet.tick_windows(2)
    fleet.sample("other", fleet.clock.at_ms)  # in the open window
    _hooked(fleet)
    return fleet


@cache
def lived() -> Fleet:
    """The busy database on SQLite, lived once in this process, to copy. Nothing may write to it."""
    return busy(fresh(leftovers.folder("dd-busy-") / "busy.db"))


def copy(original: Fleet, folder: Path) -> Copied:
    """The same database of SQLite again, to be broken. Nothing may be connected to the original."""
    original.engine.dispose()
    file = folder / "copy.db"
    shutil.copy(str(original.engine.url.database), file)
    return copied(original, quicken(connect(f"sqlite:///{file}")))


def copied(original: Fleet, engine: sa.Engine) -> Copied:
    """The fleet of a copy of its database."""
    compiled.share(engine)
    return Copied(engine, FixedClock(original.clock.at_ms), extra=original.extra)


def _credit(fleet: Fleet, key: str, amount: int) -> None:
    write(
        fleet.engine,
        lambda c: grant(c, "acme", amount, fleet.by, key=key, plan=None),
    )


def _sandboxes(fleet: Fleet) -> None:
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    for name, org, state in (("b1", "acme", "running"), ("b2", "acme", "hibernated"), ("b3", "exempt", "running")):
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:name, :org, 'cell-1', :state)",
            {"name": name, "org": org, "state": state},
        )


def _lateness(fleet: Fleet, wrong: Sequence[str]) -> None:
    """Late samples and withdrawn ones, credit that comes and goes again, a hole in the mapping that is filled."""
    fleet.sample("acme", T0 + 6, 7)
    fleet.sample("rest", T0 + 6, 7)
    fleet.sample("nobody", T0 + 6, 7)
    write(fleet.engine, lambda c: withdraw(c, wrong, fleet.by))
    _credit(fleet, "g2", 10**12)
    write(
        fleet.engine,
        lambda c: map_size(c, "tiny", fleet.by, kind="up_to", memory_mb=512, unit="mb_s", from_ms=T0, confirmed=True),
    )
    fleet.tick_windows(1)
    _lots(fleet)
    _runs(fleet)
    _credit(fleet, "g3", -(10**13))
    fleet.sample("acme", T0 + 8, 1)
    fleet.tick_windows(1)


def _lots(fleet: Fleet) -> None:
    """Of other's: one that is over, one to come, one that was taken back. What they are for it does not use."""
    ago = replace(fleet.by, now_ms=fleet.by.now_ms - DAY_MS)
    features = ("compute_2gb",)

    def work(connection: sa.Connection) -> None:
        for key, terms in (
            ("over", Terms("bonus", expires_ms=ago.now_ms + WINDOW_MS, features=features)),
            ("later", Terms("included", begins_ms=fleet.by.now_ms + DAY_MS)),
            ("ends", Terms("included", expires_ms=fleet.by.now_ms + DAY_MS, features=features)),
            ("back", Terms("sponsor", features=features)),
        ):
            grant(connection, "other", 30, ago, key=key, plan=None, terms=terms)
        take_back(connection, "back", fleet.by, whole=False)

    write(fleet.engine, work)


def _runs(fleet: Fleet) -> None:
    """One that goes on and has drawn, and one for each end."""
    by, before = fleet.by, replace(fleet.by, now_ms=fleet.by.now_ms - DAY_MS)

    def work(connection: sa.Connection) -> None:
        for key, at in (("going", by), ("done", by), ("over", before), ("off", by)):
            request = Request("acme", 60, overage="charge" if key == "done" else "cap")
            executions.accept(connection, key, request, at)
        executions.draw(connection, "going", 1, Cost(20), by)
        executions.settle(connection, "done", Cost(70), by)
        mature_due(connection, by.now_ms)
        executions.release(connection, "off", Cost(5), by)

    write(fleet.engine, work)
    _suppliers(fleet)


def _ran_far(fleet: Fleet) -> None:
    """Runs of an organisation whose balance its provider keeps: one that goes on and has drawn, one that is billed."""
    by = fleet.by

    def work(connection: sa.Connection) -> None:
        set_rate(connection, "minutes", ONE, (2, 1), by, from_ms=T0, new=True)
        for key in ("far-going", "far-done"):
            executions.accept(connection, key, Request("far", quantities={ONE: 60}), by)
            executions.draw(connection, key, 1, Cost(quantities={ONE: 20}), by)
        executions.settle(connection, "far-done", Cost(quantities={ONE: 90}), by)

    write(fleet.engine, work)


def _suppliers(fleet: Fleet) -> None:
    """One whose run was released, less a part, with another part clawed back since; one whose run is held."""
    by, then = fleet.by, replace(fleet.by, now_ms=fleet.by.now_ms - 40 * DAY_MS)

    def work(connection: sa.Connection) -> None:
        for name, gives in (("pixel", True), ("stone", False)):
            change = settlements.Change(share_ppm=700_000, threshold_micro=0, takes_clawbacks=gives)
            settlements.set_supplier(connection, name, change, then, new=True)
        for key, supplier, at, cost in (("sold", "pixel", then, 100), ("sent", "stone", by, 50)):
            executions.accept(connection, key, Request("acme", 60, supplier=supplier), at)
            executions.settle(connection, key, Cost(cost), at)
        settlements.freeze(connection, "sold", then)
        settlements.freeze(connection, "sold", replace(then, now_ms=then.now_ms + DAY_MS), undo=True)
        settlements.reverse(connection, "sold", "r-1", 10, by)
        settlements.make_payout(connection, "pixel", "2026-01", by, 60)
        settlements.reverse(connection, "sold", "r-2", 5, by)

    write(fleet.engine, work)


def _boxed(fleet: Fleet) -> None:
    """A run whose receipt charges for its sandbox, and one whose sandbox is metered, beside one that no run names."""
    by = fleet.by
    ago = replace(by, now_ms=by.now_ms - 3 * WINDOW_MS)
    fleet.assign("boxed", from_ms=T0)

    def work(connection: sa.Connection) -> None:
        grant(connection, "boxed", 100_000, ago, key="boxed", plan=None)
        for key, said, at in (("receipted", "receipt", ago), ("metered", "metering", by)):
            request = Request("boxed", 20_000, settled_by=said, sandboxes=(f"box-{said}",))  # type: ignore[arg-type]
            executions.accept(connection, key, request, at)

    write(fleet.engine, work)
    fleet.sample("boxed", ago.now_ms + 1, sandbox="another")
    fleet.sample("boxed", by.now_ms + 1, sandbox="box-metering")


def _topped_up(fleet: Fleet) -> None:
    """A wallet that filled itself: declined once, then paid; and a shadow."""
    pay = FakePayments(fleet.clock, cards={"cus_1": "declined"})
    fleet.assign("filled", "shaded")
    terms = topups.Terms(5, 20, None, 10**8, "usd", "fake", "cus_1", 10**9)
    world = runner.World(fleet.engine, {}, fleet.cells, fleet.clock, payments={"fake": pay})
    write(fleet.engine, lambda c: topups.set_terms(c, "filled", terms, CAN, fleet.by))
    write(fleet.engine, lambda c: topups.set_terms(c, "shaded", replace(terms, mode="shadow"), CAN, fleet.by))
    runner.run(fill(fleet.context(payments={"fake": CAN})), world)
    pay.cards.clear()
    write(fleet.engine, lambda c: topups.resume(c, "filled", fleet.by))
    runner.run(fill(fleet.context(payments={"fake": CAN})), world)


def _told(fleet: Fleet) -> None:
    """Usage events, of a type that makes a feature, and of one that makes none."""
    fleet.assign("told", from_ms=T0)
    fleet.rate("render", 2)
    said = (("e-1", "page.render", 7), ("e-2", "page.view", 5), ("e-3", "page.render", 9))
    events = [UsageEvent("app", name, kind, "told", count, T0 + 1) for name, kind, count in said]

    def work(connection: sa.Connection) -> None:
        map_event(connection, "page.render", "render", fleet.by, from_ms=T0)
        grant(connection, "told", 10**6, fleet.by, key="told", plan=None)
        take(connection, events, T0 + 2)

    write(fleet.engine, work)


def _hooked(fleet: Fleet) -> None:
    """The operator's product was told of a halt, and is tried."""
    fleet.assign("hooked", provider="none")
    args = ("app", "https://app.example/in", (ORG_HALTED,), fleet.by)
    write(fleet.engine, lambda c: hooks.set_endpoint(c, *args, new=True))
    write(fleet.engine, lambda c: orgs.halt(c, ["hooked"], fleet.by))
    world = runner.World(fleet.engine, {}, fleet.cells, fleet.clock, hooks=FakeProduct())
    runner.run(deliver(fleet.context(hooks=("https://app.example:443",))), world)
    write(fleet.engine, lambda c: hooks.try_endpoint(c, "app", fleet.by))


def _planned(fleet: Fleet) -> None:
    """A plan since November of 2025: each month given, what was left rolled over, and less of it once use showed late;
    and a tier."""
    fleet.assign("planned")
    december = T0 - 31 * DAY_MS

    def at(days: int) -> By:
        return replace(fleet.by, now_ms=december + days * DAY_MS)

    def work(connection: sa.Connection) -> None:
        set_plan_limit(connection, "club", 5, at(-15), gives=vars(Gives(50, 0, 30, 4)))
        tiers.set_tier(connection, "pro", tiers.Change(9, 6), at(-15))
        grant(connection, "planned", 10, at(-10), key="planned", plan="club")
        tiers.buy(connection, "planned", "pro", at(-10))
        executions.accept(connection, "planned-run", Request("planned", 5), at(-5))
        for by in (at(1), at(6), fleet.by):
            if by == at(6):
                executions.settle(connection, "planned-run", Cost(20), by)
            while not mature(connection, ["planned"], by.now_ms):
                pass

    write(fleet.engine, work)


def _pooled(fleet: Fleet) -> None:
    """A pool with an allotment that is over, half used, and ones that go on, one of them taken back; and a run of its
    member's that the pool pays for itself."""
    fleet.assign("pupil")
    by, ago = fleet.by, replace(fleet.by, now_ms=fleet.by.now_ms - DAY_MS)

    def work(connection: sa.Connection) -> None:
        pools.make(connection, "course", ago)
        grant(connection, "course", 100, ago, key="course", plan=None)
        pools.allot(connection, "course", "pupil", 20, ago.now_ms + WINDOW_MS, ago, key="over")
        executions.accept(connection, "pupil-own", Request("pupil", 8), ago)
        executions.settle(connection, "pupil-own", Cost(8), ago)
        pools.allot(connection, "course", "pupil", 30, by.now_ms + DAY_MS, by, key="goes-on")
        take_back(connection, "allot:course:goes-on", by, whole=False)
        pools.allot(connection, "course", "pupil", 10, by.now_ms + DAY_MS, by, key="again")
        pools.allow(connection, "course", "pupil", ago, limit_micro=9)
        executions.accept(connection, "pupil-paid", Request("pupil", 9, payer="course"), by)
        executions.settle(connection, "pupil-paid", Cost(7), by)
        pools.end(connection, "course", "pupil", replace(by, now_ms=by.now_ms + 1))

    write(fleet.engine, work)


def _compared(fleet: Fleet) -> None:
    """Two days of a cell's own totals, one of which it gave no answer for; two files of a vendor's bills, of which the
    second one is final and in two currencies; what two features cost there."""
    later = FixedClock(T0 + 3 * DAY_MS)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, later)
    totals: Days = {
        (T0, "cell-1"): {"acme": {1024: 90, 2048: 7}, "other": {None: 10**9}, "far": {None: 5}, "gone": {None: 3}},
    }
    runner.run(check_totals(totals, 70, later), world)
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-9', 'http://127.0.0.1:9')")
    runner.run(check_cells([T0 + DAY_MS], 70, later), replace(world, usage=Silent()))
    fleet.write("DELETE FROM cells WHERE cell_id = 'cell-9'")
    day = partial(BillLine, "cloud", "vm", T0)

    def work(connection: sa.Connection) -> None:
        for feature, cost in (("compute_1gb", 5), ("compute_4gb", 20)):
            units = vendors.Units("cloud", "vm", "vcpu-hour", 1, cost, 3600, "USD")
            vendors.set_units(connection, feature, units, T0, fleet.by, new=True)
        vendors.import_bills(connection, BillFile("first", [day("USD", 30, False)]), fleet.by)
        vendors.import_bills(connection, BillFile("second", [day("EUR", -7, True), day("USD", 31, True)]), fleet.by)

    write(fleet.engine, work)


class Silent:
    """Cells that give no answer."""

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        return [UsageAnswer(error="no connection") for _ in requests]


def _guarded(fleet: Fleet) -> None:
    """Of a metric that costs five and one that costs nothing: what was used, held, settled above its hold, given up and
    over; refused, and let through; a limit, an override in force, one that was refused, one that was ended, and a
    counter corrected. In the same window, something else is billed by the seal."""
    fleet.assign("keen", from_ms=T0)
    by, ago = fleet.by, replace(fleet.by, now_ms=fleet.by.now_ms - DAY_MS)

    def work(connection: sa.Connection) -> None:
        grant(connection, "keen", 500, ago, key="keen", plan=None)
        for metric, price, phase in (("spark", 5, 3), ("peek", 0, 1)):
            guard_terms.set_metric(connection, metric, guard_terms.Change(price_micro=price, phase=phase), ago)
            guard_terms.set_limit(connection, guard_terms.PlanLimit(metric, "*", "day", 20), ago)
        guard.consume(connection, "keen-1", Wish("keen", "spark", 3), by)
        guard.consume(connection, "keen-2", Wish("keen", "spark", 4), by)
        guard.consume(connection, "keen-much", Wish("keen", "spark", 40), by)
        guard.consume(connection, "keen-peek", Wish("keen", "peek", 25), by)
        guard.reserve(connection, "keen-over", Wish("keen", "spark", 2), ago)
        for key in ("keen-done", "keen-off", "keen-going"):
            guard.reserve(connection, key, Wish("keen", "spark", 2), by)
        guard.settle(connection, "keen-done", 3, by)
        guard.release(connection, "keen-off", 1, by)
        for amount, asked in ((7, False), (8, True), (9, True)):
            terms = guard_overrides.Terms("peek", "pattern", "ke*", "hour", amount, by.now_ms + DAY_MS)
            guard_overrides.add(connection, terms, by, asked=asked)
        for number, word in ((2, "refuse"), (3, "approve"), (3, "end")):
            guard_overrides.decide(connection, number, word, by)  # type: ignore[arg-type]
        take(connection, [UsageEvent("app", "keen-r", "page.render", "keen", 2, by.now_ms)], by.now_ms)

    write(fleet.engine, work)


def _reject_and_void(fleet: Fleet) -> None:
    """A feature without a rate is rejected, voided with evidence, and sealed again once it has one."""
    sized = partial(map_size, kind="exact", memory_mb=2048, unit="s", from_ms=0, confirmed=True)
    write(fleet.engine, lambda c: sized(c, "compute_2gb", fleet.by))
    fleet.sample("acme", T0 + 9, 11, memory_mb=2048)
    fleet.tick_windows(1)
    write(fleet.engine, lambda c: void(c, [f"usage:acme:{T0}:compute_2gb"], fleet.by, "the ledger has no such entry"))
    fleet.rate("compute_2gb", 2)
    fleet.tick_windows(1)


def tamper(fleet: Fleet, *statements: str) -> None:
    """Change the database as somebody would who first switches its guards off."""
    write(fleet.engine, lambda connection: tamper_by(connection, *statements))


def tamper_by(connection: sa.Connection, *statements: str) -> None:
    """The same within a transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
    else:
        for name in connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars():
            connection.execute(sa.text(f"DROP TRIGGER {name}"))
    for statement in statements:
        done = connection.execute(sa.text(statement.replace(":", "\\:")))
        assert done.rowcount != 0, f"changed nothing: {statement}"


def verified(fleet: Fleet, *orgs: str) -> Verification:
    now_ms = fleet.clock.at_ms
    return read(fleet.engine, lambda connection: verify(connection, orgs=orgs or None, now_ms=now_ms))
