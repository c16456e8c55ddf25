"""Runs that metering settles: their holds shrink by what the samples of their sandboxes charge, and they are never
charged themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from drawdown.ledger import accounts, reservations
from drawdown.ledger.accounts import HoldTerms, read_wallets
from drawdown.ledger.draws import Cost
from drawdown.ledger.lots import PLAIN
from drawdown.ledger.reservations import Denied, Reservation
from drawdown.schema.database import read, write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.shard import Shard
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import permission as run_permission
from drawdown.worker.executions.lists import RunFilter, list_runs, show_run
from drawdown.worker.executions.request import MOST_SANDBOXES, Request
from drawdown.worker.push.push import push
from drawdown.worker.seal.seal import SealRequest, seal
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verdict import holds
from drawdown.worker.verdict.holds import read_held, shrink_holds
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.statement import Span, of_customer
from drawdown.worker.watch import Watcher, watch
from tests.world import T0, Fleet

T = TypeVar("T")
A_MINUTE = 6_000
"""Micro-credits that a minute of the smallest size costs."""


class Lab:
    """acme, with 100,000 micro-credits."""

    def __init__(self, engine: sa.Engine, given: int = 100_000) -> None:
        self.fleet = Fleet(engine)
        self.fleet.assign("acme", "other", from_ms=T0)
        self.write(lambda c: credit.grant(c, "acme", given, self.fleet.by, key="first", plan="free", terms=PLAIN))

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.fleet.engine, work)

    def accept(self, key: str = "m", micro: int = 50_000, **more: object) -> executions.Accepted:
        said = {"settled_by": "metering", "sandboxes": ("sb-1",), **more}
        request = Request("acme", micro, **said)  # type: ignore[arg-type]
        return self.write(lambda c: executions.accept(c, key, request, self.fleet.by))

    def settle(self, key: str = "m", cost: Cost | None = None) -> executions.Settled:
        return self.write(lambda c: executions.settle(c, key, cost, self.fleet.by))

    def use(self, sandbox: str = "sb-1", minutes: int = 1, ts: int | None = None, **more: object) -> str:
        at = self.fleet.clock.at_ms if ts is None else ts
        return self.fleet.sample("acme", at, 60 * minutes, sandbox=sandbox, **more)  # type: ignore[arg-type]

    def shrink(self) -> None:
        runner.run(
            shrink_holds(self.fleet.context()), runner.World(self.fleet.engine, {}, self.fleet.cells, self.fleet.clock)
        )

    def seal(self) -> None:
        """Without a push."""
        horizon = self.fleet.clock.at_ms - self.fleet.clock.at_ms % WINDOW_MS
        asked = SealRequest(Shard(), horizon, self.fleet.clock.at_ms, self.fleet.context().capabilities)
        self.write(lambda c: seal(c, asked))

    def run(self, key: str = "m") -> Reservation:
        return self.read(lambda c: show_run(c, key, self.fleet.clock.at_ms, 10)[0])

    @property
    def purse(self) -> tuple[int, int]:
        """What acme's wallet keeps, and what of it is held, in micro-credits."""
        found = self.read(lambda c: read_wallets(c, ["acme"])["acme"])
        return found.balance_micro, found.held_micro

    @property
    def held(self) -> int:
        """As verdicts count it."""
        return self.read(lambda c: read_held(c, "embedded", ["acme"], self.fleet.clock.at_ms)).get("acme", 0)

    def later(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms

    def proven(self) -> None:
        assert [one.text for one in read(self.fleet.engine, verify).breaches] == []


@pytest.fixture
def lab(engine: sa.Engine) -> Lab:
    return Lab(engine)


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(Denied) as refused:
        work()
    return refused.value.code


def test_charge_during_reservation_shrink_is_counted_by_next_shrink(postgres: sa.Engine) -> None:
    """A run's part of a window older than an hour is counted for good: never as nothing, because the charge came
    between two of the statements that ask for it."""
    lab = Lab(postgres)
    lab.accept(for_ms=600 * MINUTE_MS)
    lab.use(ts=T0 + MINUTE_MS)
    lab.later(100 * MINUTE_MS)
    lab.seal()
    fleet, left = lab.fleet, [push(lab.fleet.context(), "embedded")]
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)

    def push_between(_connection: Any, _cursor: Any, text: str, *_more: Any) -> None:
        if left and "SUM(e.amount_micro)" in text:
            runner.run(left.pop(), world)

    sa.event.listen(postgres, "after_cursor_execute", push_between)
    lab.shrink()
    assert not left and lab.purse == (100_000 - A_MINUTE, 50_000), "charged, and not counted yet"
    lab.shrink()
    assert lab.purse == (100_000 - A_MINUTE, 50_000 - A_MINUTE)


def test_metered_reservation_shrinks_by_charges_of_own_sandboxes(lab: Lab) -> None:
    wallet = lab.accept().wallet
    assert wallet is not None
    assert wallet.held_micro == 50_000
    lab.use()
    lab.use("elsewhere", 2)
    assert (lab.purse, lab.held) == ((100_000, 50_000), 50_000 - A_MINUTE)
    lab.fleet.tick_windows(3)
    assert lab.purse == (100_000 - 3 * A_MINUTE, 50_000 - A_MINUTE)
    assert (lab.run().drawn_micro, lab.run().left_micro, lab.held) == (A_MINUTE, 44_000, 44_000)
    lab.proven()
    done = lab.settle()
    assert (done.drawn.charged_micro, done.drawn.reservation.drawn_micro) == (0, A_MINUTE)
    assert lab.purse == (82_000, 0)
    assert lab.settle().drawn.repeated
    lab.fleet.tick_windows(3)
    assert lab.purse == (82_000, 0)
    lab.proven()


def test_statement_shows_remaining_metered_reservation(lab: Lab) -> None:
    lab.accept(for_ms=DAY_MS)
    lab.use()
    lab.fleet.tick_windows(3)
    now = lab.fleet.clock.at_ms
    found = lab.read(lambda c: of_customer(c, "acme", Span(T0, now), now))
    assert [(one.execution, one.held_micro) for one in found.held] == [("m", 44_000)]
    assert found.reserved_micro == lab.purse[1] == 44_000


def test_sealed_uncharged_usage_is_counted_once_in_reservation(lab: Lab) -> None:
    lab.accept()
    lab.use(minutes=2)
    lab.later(3 * WINDOW_MS)
    lab.seal()
    lab.shrink()
    assert (lab.purse, lab.held) == ((100_000, 50_000), 38_000)
    lab.fleet.tick_windows(1)
    assert (lab.purse, lab.held) == ((88_000, 38_000), 38_000)
    lab.proven()


def test_usage_before_execution_does_not_shrink_reservation(lab: Lab) -> None:
    lab.use()
    lab.later(MINUTE_MS)
    lab.accept()
    lab.use()
    lab.fleet.tick_windows(3)
    assert lab.run().drawn_micro == A_MINUTE
    lab.proven()


def test_usage_beyond_metered_reservation_is_charged(lab: Lab) -> None:
    lab.accept(micro=10_000)
    lab.use(minutes=3)
    lab.fleet.tick_windows(3)
    assert (lab.run().drawn_micro, lab.run().left_micro, lab.purse) == (18_000, 0, (82_000, 0))
    lab.use(minutes=1)
    lab.fleet.tick_windows(3)
    assert (lab.run().left_micro, lab.purse) == (0, (76_000, 0))
    lab.proven()
    lab.settle()
    lab.proven()


def test_late_usage_shrinks_reservation_and_withdrawal_does_not_restore(lab: Lab) -> None:
    lab.accept()
    lab.use()
    lab.fleet.tick_windows(3)
    wrong = lab.use(ts=T0 + SECOND_MS)
    lab.fleet.tick_windows(1)
    assert lab.run().drawn_micro == 2 * A_MINUTE
    lab.write(lambda c: withdraw(c, [wrong], lab.fleet.by))
    lab.fleet.tick_windows(1)
    assert (lab.run().drawn_micro, lab.purse) == (2 * A_MINUTE, (94_000, 38_000))
    lab.proven()


def test_usage_beyond_lookback_does_not_shrink_reservation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.accept(for_ms=6 * 60 * MINUTE_MS)
    lab.use()
    lab.fleet.tick_windows(3)
    lab.fleet.tick_windows(holds.LOOKED_BACK_MS // WINDOW_MS + 1)
    ((to_ms, before),) = lab.fleet.rows("SELECT metered_to_ms, metered_before_micro FROM reservations")
    assert (to_ms, before) == (lab.fleet.clock.at_ms - holds.LOOKED_BACK_MS, A_MINUTE)
    lab.use(ts=T0 + SECOND_MS)  # too late for its hold, and charged all the same
    lab.use()
    lab.fleet.tick_windows(3)
    assert (lab.run().drawn_micro, lab.purse) == (2 * A_MINUTE, (82_000, 38_000))
    lab.proven()


def test_two_executions_in_window_shrink_by_charged_amount_only(lab: Lab) -> None:
    lab.write(lambda c: credit.set_rate(c, "compute_1gb", 1, 90, lab.fleet.by, from_ms=T0))
    lab.accept("one", 20, sandboxes=("a",))
    lab.accept("two", 20, sandboxes=("b", "c"))
    for name in ("a", "b", "c"):
        lab.use(name)  # 60 s each, two micro-credits all together
    lab.fleet.tick_windows(3)
    assert (lab.run("one").drawn_micro, lab.run("two").drawn_micro) == (0, 1)
    assert lab.purse == (99_998, 39)
    lab.proven()


def test_accept_counts_unbooked_metering_draws_as_available(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a push and the next look at holds."""
    lab.accept(micro=60_000)
    lab.use(minutes=5)
    with monkeypatch.context() as patched:
        patched.setattr("drawdown.worker.tick.shrink_holds", lambda context: iter(()))
        lab.fleet.tick_windows(3)
    assert lab.purse == (70_000, 60_000)
    request = Request("acme", 40_000)
    assert lab.read(lambda c: executions.preview(c, request, lab.fleet.clock.at_ms)).available_micro == 40_000
    lab.write(lambda c: executions.accept(c, "r", request, lab.fleet.by))
    assert lab.purse == (70_000, 70_000)
    lab.proven()


def test_extend_counts_metering_draws_of_other_executions(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.accept(micro=60_000)
    lab.write(lambda c: executions.accept(c, "r", Request("acme", 10_000), lab.fleet.by))
    lab.use(minutes=5)
    with monkeypatch.context() as patched:
        patched.setattr("drawdown.worker.tick.shrink_holds", lambda context: iter(()))
        lab.fleet.tick_windows(3)
    lab.write(lambda c: executions.extend(c, "r", 40_000, None, lab.fleet.by))
    assert lab.purse == (70_000, 70_000)
    assert code_of(lambda: lab.write(lambda c: executions.extend(c, "r", 40_001, None, lab.fleet.by))) == "no_credit"
    lab.proven()


def test_payer_limit_counts_metering_draws_of_own_reservations(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(lambda c: credit.grant(c, "other", 1, lab.fleet.by, key="own", plan="free", terms=PLAIN))
    lab.write(lambda c: pools.allow(c, "acme", "other", lab.fleet.by, limit_micro=60_000))
    lab.accept(micro=60_000)
    lab.use(minutes=5)
    with monkeypatch.context() as patched:
        patched.setattr("drawdown.worker.tick.shrink_holds", lambda context: iter(()))
        lab.fleet.tick_windows(3)
    assert lab.purse == (70_000, 60_000)
    request = Request("other", 40_000, payer="acme", settled_by="receipt", sandboxes=("sb-2",))
    assert lab.read(lambda c: executions.preview(c, request, lab.fleet.clock.at_ms)).allowed
    more = replace(request, amount_micro=40_001)
    found = lab.read(lambda c: executions.preview(c, more, lab.fleet.clock.at_ms))
    assert (found.code, found.available_micro) == ("no_credit", None)
    assert code_of(lambda: lab.write(lambda c: executions.accept(c, "more", more, lab.fleet.by))) == "no_credit"
    made = lab.write(lambda c: executions.accept(c, "sponsored", request, lab.fleet.by)).reservation
    assert (made.customer_id, made.named, lab.purse) == ("acme", ["sb-2"], (70_000, 70_000))
    assert code_of(lambda: lab.write(lambda c: executions.extend(c, "sponsored", 40_001, None, lab.fleet.by))) == (
        "no_credit"
    )
    lab.proven()


def test_metered_execution_direct_charge_is_refused(lab: Lab) -> None:
    lab.accept()
    refused: tuple[Callable[[sa.Connection], object], ...] = (
        lambda c: executions.draw(c, "m", 1, Cost(5), lab.fleet.by),
        lambda c: executions.settle(c, "m", Cost(5), lab.fleet.by),
        lambda c: executions.settle(c, "m", Cost(quantities={"compute_1gb": 1}), lab.fleet.by),
        lambda c: executions.release(c, "m", Cost(0), lab.fleet.by),
    )
    for work in refused:
        with pytest.raises(Denied, match="charges it from its sandboxes' samples"):
            lab.write(work)
    lab.write(lambda c: executions.release(c, "m", None, lab.fleet.by))
    assert (lab.run().state, lab.purse) == ("released", (100_000, 0))
    assert lab.fleet.rows("SELECT 1 FROM ledger_entries WHERE reservation IS NOT NULL") == []
    lab.proven()


def test_settle_of_receipt_execution_without_cost_is_refused(lab: Lab) -> None:
    lab.write(lambda c: executions.accept(c, "r", Request("acme", 5), lab.fleet.by))
    with pytest.raises(UsageError, match="specify the cost"):
        lab.settle("r")


def test_metered_execution_with_invalid_terms_is_refused(lab: Lab) -> None:
    assert code_of(lambda: lab.accept(settled_by=None)) == "settled_by_missing"
    assert code_of(lambda: lab.accept(sandboxes=())) == "no_sandbox"
    assert code_of(lambda: lab.accept(overage="cap")) == "metering_alone"
    assert code_of(lambda: lab.accept(supplier="pixel")) == "metering_alone"
    with pytest.raises(Denied, match=r"the organisation's own wallet.* Omit the supplier and the payer") as refused:
        lab.accept(payer="other")
    assert refused.value.code == "metering_alone"
    many = tuple(f"sb-{number}" for number in range(MOST_SANDBOXES + 1))
    assert code_of(lambda: lab.accept(sandboxes=many)) == "too_many_sandboxes"
    with pytest.raises(UsageError, match="invalid sandbox id"):
        lab.accept(sandboxes=("a\nb",))
    assert lab.fleet.rows("SELECT 1 FROM reservations") == []
    assert len(lab.accept(sandboxes=many[1:] + many[1:2]).reservation.named) == MOST_SANDBOXES


def test_execution_with_sandbox_of_other_org_is_refused(lab: Lab) -> None:
    lab.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    lab.fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('o', 'other', 'cell-1', 'running')"
    )
    assert code_of(lambda: lab.accept(sandboxes=("mine", "o"))) == "other_org"
    request = Request("acme", 5, settled_by="metering", sandboxes=("o",))
    assert lab.read(lambda c: executions.preview(c, request, lab.fleet.clock.at_ms)).code == "other_org"


def test_sandbox_of_open_execution_is_refused_to_second_execution(lab: Lab) -> None:
    lab.accept("one", 10, sandboxes=("a", "b"), for_ms=MINUTE_MS)
    request = Request("acme", 5, settled_by="receipt", sandboxes=("b", "c"))
    assert lab.read(lambda c: executions.preview(c, request, lab.fleet.clock.at_ms)).code == "sandbox_taken"
    assert code_of(lambda: lab.accept("two", 10, sandboxes=("b", "c"))) == "sandbox_taken"
    lab.accept("c", 10, sandboxes=("c",))
    lab.later(2 * MINUTE_MS)  # it is over, and nobody has expired it
    lab.accept("two", 10, sandboxes=("a", "b"))
    assert lab.run("one").state == "expired"
    lab.settle("one")
    lab.settle("two")
    lab.accept("three", 10, sandboxes=("a", "b"))
    assert lab.fleet.rows("SELECT reservation, sandbox_id FROM reservation_sandboxes WHERE is_open ORDER BY 1, 2") == [
        ("c", "c"), ("three", "a"), ("three", "b"),
    ]  # fmt: skip
    lab.proven()


def test_execution_key_covers_settlement_mode_and_sandboxes(lab: Lab) -> None:
    lab.accept(sandboxes=("b", "a"))
    assert lab.accept(sandboxes=("a", "b", "a")).repeated
    assert code_of(lambda: lab.accept(sandboxes=("a",))) == "other_content"
    assert code_of(lambda: lab.accept(sandboxes=("a", "b"), settled_by="receipt")) == "other_content"
    lab.accept("r", settled_by=None, sandboxes=())
    assert lab.accept("r", settled_by="receipt", sandboxes=()).repeated


def test_usage_metered_during_receipt_execution_is_found_by_verify(lab: Lab) -> None:
    lab.accept("r", settled_by="receipt")
    lab.proven()
    wrong = lab.use()
    lab.later(MINUTE_MS)
    lab.settle("r", Cost(5))
    lab.use()  # after its end
    assert [one.text for one in read(lab.fleet.engine, verify).breaches] == [
        f"sb-1 was metered for 60 s from {T0} on, but the receipt of r charges for it, too"
    ]
    lab.write(lambda c: withdraw(c, [wrong], lab.fleet.by))
    lab.proven()


def test_plan_reservation_limit_counts_remaining_amounts(lab: Lab) -> None:
    terms = HoldTerms(most_held_micro=60_000)
    lab.write(lambda c: credit.set_plan_limit(c, "free", 2, lab.fleet.by, holds=vars(terms)))
    lab.accept(micro=60_000)
    lab.use(minutes=5)
    lab.fleet.tick_windows(3)
    lab.write(lambda c: executions.accept(c, "r", Request("acme", 30_000), lab.fleet.by))
    assert lab.purse == (70_000, 60_000)


def test_watch_does_not_halt_org_while_reservation_covers_use(lab: Lab) -> None:
    """What a run's sandboxes used is taken off the balance once, wherever it has come to."""
    world = runner.World(lab.fleet.engine, lab.fleet.providers, lab.fleet.cells, lab.fleet.clock)
    watcher = Watcher()
    lab.accept(micro=90_000, for_ms=120 * MINUTE_MS)
    lab.fleet.tick_windows(1)
    for _ in range(14):
        lab.use()
        lab.later(MINUTE_MS)
        runner.run(watch(lab.fleet.context(), watcher), world)
        assert lab.fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") in (0, False)
    lab.seal()
    runner.run(watch(lab.fleet.context(), watcher), world)
    assert lab.fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") in (0, False)
    lab.use("elsewhere", minutes=2)
    lab.later(MINUTE_MS)
    runner.run(watch(lab.fleet.context(), watcher), world)
    ((halted, reason),) = lab.fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'")
    assert (bool(halted), reason) == (True, "estimate")


def test_sandbox_ids_are_separate_per_org(lab: Lab) -> None:
    """Two organisations' sandboxes of one id: each hold shrinks by its own organisation's samples."""
    lab.write(lambda c: credit.grant(c, "other", 100_000, lab.fleet.by, key="its", plan="free", terms=PLAIN))
    its = Request("other", 50_000, settled_by="metering", sandboxes=("sb-1", "sb-2"))
    lab.write(lambda c: executions.accept(c, "its", its, lab.fleet.by))
    lab.accept(sandboxes=("sb-1",))
    lab.use()
    lab.fleet.sample("other", lab.fleet.clock.at_ms, 120, sandbox="sb-1")
    lab.use("sb-2", 2)  # named by the other one alone
    lab.fleet.tick_windows(3)
    assert (lab.run().drawn_micro, lab.run("its").drawn_micro) == (A_MINUTE, 2 * A_MINUTE)
    assert lab.purse == (100_000 - 3 * A_MINUTE, 50_000 - A_MINUTE)
    lab.proven()
    lab.settle("its")
    assert code_of(lambda: lab.accept("again", 10)) == "sandbox_taken", "what another one ends frees nothing of ours"


def test_concurrent_metered_executions_do_not_exceed_maximum(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for the wallet counts again: what was looked at before may have changed meanwhile."""
    monkeypatch.setattr(reservations, "MOST_METERED", 2)
    lab.accept("one", 10, sandboxes=("a",))
    with monkeypatch.context() as patched:
        patched.setattr(executions, "permit", _permit_unlooked)
        lab.accept("two", 10, sandboxes=("b",))
        assert code_of(lambda: lab.accept("three", 10, sandboxes=("c",))) == "too_many_executions"
    assert lab.purse == (100_000, 20)
    assert lab.fleet.one("SELECT COUNT(*) FROM reservations") == 2
    assert lab.accept("two", 10, sandboxes=("b",)).repeated, "the first answer, however many there are"


def _permit_unlooked(connection: sa.Connection, request: Request, now_ms: int) -> run_permission.Permit:
    found = accounts.hold_terms(connection, request.org_id) or accounts.HoldTerms()
    return run_permission.Permit(request.org_id, request.amount_micro or 0, found)


@pytest.mark.both_databases
def test_accept_with_insufficient_credit_skips_reservation_shrink(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.accept(micro=60_000)
    lab.write(lambda c: executions.accept(c, "r", Request("acme", 10_000), lab.fleet.by))
    lab.use(minutes=5)
    with monkeypatch.context() as patched:
        patched.setattr("drawdown.worker.tick.shrink_holds", lambda context: iter(()))
        lab.fleet.tick_windows(3)
    assert lab.purse == (70_000, 70_000)
    looked: list[object] = []
    real = holds.shrink_of

    def counting(connection: sa.Connection, customers: list[str], now_ms: int, own: str = "") -> None:
        looked.append(customers)
        real(connection, customers, now_ms, own)

    monkeypatch.setattr(run_permission, "shrink_of", counting)
    for work in (
        lambda c: executions.accept(c, "big", Request("acme", 70_001), lab.fleet.by),
        lambda c: executions.extend(c, "r", 80_001, None, lab.fleet.by),
    ):
        assert code_of(lambda work=work: lab.write(work)) == "no_credit"  # type: ignore[misc]
    assert looked == []
    lab.write(lambda c: executions.accept(c, "fits", Request("acme", 30_000), lab.fleet.by))
    assert (looked, lab.purse) == ([["acme"]], (70_000, 70_000))
    terms = HoldTerms(most_held_micro=60_000)
    lab.write(lambda c: credit.set_plan_limit(c, "free", 2, lab.fleet.by, holds=vars(terms)))
    assert code_of(lambda: lab.accept("above", 60_001, sandboxes=("d",))) == "too_much_held"
    assert len(looked) == 1
    lab.proven()


def test_extend_counts_own_metering_draws(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By more than the wallet has, if nobody looked: metering has drawn the difference by now."""
    lab.accept(micro=10_000)
    lab.use(minutes=15)
    with monkeypatch.context() as patched:
        patched.setattr("drawdown.worker.tick.shrink_holds", lambda context: iter(()))
        lab.fleet.tick_windows(3)
    assert lab.purse == (10_000, 10_000)
    lab.write(lambda c: executions.extend(c, "m", 100_000, None, lab.fleet.by))
    assert (lab.run().drawn_micro, lab.purse) == (90_000, (10_000, 10_000))
    lab.proven()


def test_executions_are_listed_with_sandboxes(lab: Lab) -> None:
    lab.accept(sandboxes=("b", "a"))
    (found,) = lab.read(lambda c: list_runs(c, RunFilter(("held",)), lab.fleet.clock.at_ms)).runs
    assert (found.settled_by, found.named, found == lab.run()) == ("metering", ["a", "b"], True)


def test_reservation_shrink_in_portions_covers_all_executions(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SHRUNK_AT_ONCE", 2)
    for number in range(5):
        lab.accept(f"m{number}", 10_000, sandboxes=(f"sb-{number}",))
        lab.use(f"sb-{number}")
    lab.fleet.tick_windows(3)
    assert lab.purse == (70_000, 20_000)
    lab.proven()


def test_payer_of_execution_ended_by_new_execution_is_resumed(engine: sa.Engine) -> None:
    """The sweep finds nothing due in that wallet any more: nobody else would let its organisation go on."""
    fleet = Fleet(engine)
    fleet.assign("acme", "lender")
    for org in ("acme", "lender"):
        write(engine, lambda c, org=org: credit.grant(c, org, 10, fleet.by, key=org, plan=None))  # type: ignore[misc]
    write(engine, lambda c: pools.allow(c, "lender", "acme", fleet.by))
    fleet.tick_windows(1)
    brief = Request("acme", 10, for_ms=WINDOW_MS, payer="lender", sandboxes=("box",), settled_by="receipt")
    write(engine, lambda c: executions.accept(c, "brief", brief, fleet.by))
    fleet.tick(fleet.clock.at_ms + MINUTE_MS)
    halted = "SELECT is_halted FROM orgs WHERE org_id = 'lender'"
    assert fleet.one(halted), "all it has is reserved"
    fleet.clock.at_ms += WINDOW_MS
    again = replace(brief, payer=None)
    write(engine, lambda c: executions.accept(c, "again", again, fleet.by))
    assert fleet.one("SELECT held_micro FROM ledger_accounts WHERE account_id = 'wallet:lender'") == 0
    fleet.tick()
    assert not fleet.one(halted)
