"""A machine on runs that metering settles beside runs with receipts and sandboxes of no run, in one wallet, and a model
that prices every sample once. Another organisation has sandboxes of the same ids, and a run that names all of them.

Guarantee: after every step the wallet keeps what was given, less each charged sample and each receipt once; each hold
is what its run has left, by the samples that were charged; a verdict counts what was used of it, charged or not, once;
and `verify` finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drawdown.ledger.accounts import read_wallets
from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import MOST_LIFE_MS, Request
from drawdown.worker.verdict.effective_balance import read_used, since_read
from drawdown.worker.verdict.holds import expire_holds, read_held
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

BOXES = ("one", "two", "three")
TAKEN = [frozenset(those) for those in ({"one"}, {"one", "two"}, {"two", "three"}, set())]
"""The sandboxes that a run names."""
A_SECOND = 100
"""Micro-credits, of the smallest size."""
GIVEN = 10_000_000


@dataclass(frozen=True)
class Run:
    """What the model knows of a run: its life is [since, until), its boxes are none where it has a receipt."""

    amount: int
    since: int
    until: int
    boxes: frozenset[str]
    state: str = "held"
    cost: int = 0

    @property
    def is_metered(self) -> bool:
        return bool(self.boxes)


class Metering(RuleBasedStateMachine):
    """One wallet, three sandboxes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = fresh(Path(self.folder.name, "metering.db"))  # a tick has threads of its own
        self.fleet = Fleet(self.engine)
        self.samples: list[tuple[int, str, int]] = []
        self.runs: dict[str, Run] = {}

    def teardown(self) -> None:
        try:
            if self.samples:
                self.fleet.tick_windows(3)
                spent = sum(A_SECOND * seconds for _, _, seconds in self.samples)
                spent += sum(run.cost for run in self.runs.values())
                balance = read(self.engine, lambda c: read_wallets(c, ["x"])["x"]).balance_micro
                assert balance == GIVEN - spent, "a sample or a receipt was paid for twice, or never"
        finally:
            self.engine.dispose()
            self.folder.cleanup()

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    @initialize()
    def begin(self) -> None:
        self.fleet.assign("x", from_ms=T0)
        self.fleet.assign("y", from_ms=T0)
        for name in ("x", "y"):
            grant = partial(credit.grant, customer_id=name, amount_micro=GIVEN, by=self.fleet.by, plan="free")
            write(self.engine, partial(grant, key=f"given {name}"))
        its = Request("y", GIVEN, for_ms=MOST_LIFE_MS, settled_by="metering", sandboxes=BOXES)
        write(self.engine, lambda c: executions.accept(c, "its", its, self.fleet.by))

    @rule(boxes=st.sampled_from([BOXES, BOXES[:1], BOXES[1:]]), seconds=st.sampled_from([7, 60]),
          whose=st.sampled_from(["x", "x", "y"]))  # fmt: skip
    def use(self, boxes: tuple[str, ...], seconds: int, whose: str) -> None:
        for box in boxes:
            self.fleet.sample(whose, self.now, seconds, sandbox=box)
            if whose == "x":
                self.samples.append((self.now, box, seconds))

    @rule(minutes=st.sampled_from([1, 2, 7]))
    def later(self, minutes: int) -> None:
        self.fleet.clock.at_ms += minutes * MINUTE_MS

    @rule(windows=st.sampled_from([1, 3]))
    def tick(self, windows: int) -> None:
        self.fleet.tick_windows(windows)
        self.forget_what_is_over()

    @rule()
    def sweep(self) -> None:
        world = runner.World(self.engine, {}, self.fleet.cells, self.fleet.clock)
        runner.run(expire_holds(self.fleet.context()), world)
        self.forget_what_is_over()

    @rule(boxes=st.sampled_from(TAKEN), amount=st.sampled_from([500, 5_000, 50_000]),
          minutes=st.sampled_from([4, 40, 400]))  # fmt: skip
    def accept(self, boxes: frozenset[str], amount: int, minutes: int) -> None:
        key = f"run-{len(self.runs)}"
        for_ms, names = minutes * MINUTE_MS, tuple(sorted(boxes))
        asked = Request("x", amount, for_ms=for_ms, settled_by="metering" if boxes else None, sandboxes=names)
        answer = self.told(lambda c: executions.accept(c, key, asked, self.fleet.by))
        taken = any(run.state == "held" and run.until > self.now and run.boxes & boxes for run in self.runs.values())
        assert answer == ("sandbox_taken" if taken else "ok"), f"named twice, or refused: {answer}"
        if answer == "ok":
            for name, run in self.runs.items():  # whoever stood in the way was expired
                if run.state == "held" and run.until <= self.now and run.boxes & boxes:
                    self.runs[name] = replace(run, state="expired")
            self.runs[key] = Run(amount, self.now, self.now + for_ms, boxes)
            if boxes:
                charged = self.told(lambda c: executions.settle(c, key, Cost(1), self.fleet.by))
                assert charged == "metered", "a run that metering settles took a cost"

    @rule(which=st.integers(0, 3), cost=st.sampled_from([None, None, 400]), gives_up=st.booleans())
    def end(self, which: int, cost: int | None, gives_up: bool) -> None:
        """One of the last four."""
        if not self.runs:
            return
        key = f"run-{len(self.runs) - 1 - which % len(self.runs)}"
        run = self.runs[key]
        cost = cost if run.is_metered else cost or 0
        said = None if cost is None else Cost(cost)
        act = executions.release if gives_up else executions.settle
        answer = self.told(lambda c: act(c, key, said, self.fleet.by))
        if run.is_metered and cost is not None:
            assert answer == "metered", "a run that metering settles took a cost"
            return
        over = run.state == "expired" or (run.state == "held" and run.until <= self.now)
        may = run.state == "held" and not over
        if may or (over and not gives_up):
            assert answer == "ok", f"not ended: {answer}"
            self.runs[key] = replace(run, state="released" if gives_up else "settled", cost=cost or 0)

    def told(self, work: Callable[[sa.Connection], object]) -> str:
        try:
            write(self.engine, work)
        except Denied as denied:
            return denied.code
        except UnknownId:
            return "unknown"
        return "ok"

    def forget_what_is_over(self) -> None:
        for key, run in self.runs.items():
            if run.state == "held" and run.until <= self.now:
                self.runs[key] = replace(run, state="expired")

    def used(self, run: Run, windows: set[int] | None = None) -> int:
        """What a run's boxes used in its life, in micro-credits; in these windows alone."""
        return sum(
            A_SECOND * seconds
            for ts, box, seconds in self.samples
            if box in run.boxes and run.since <= ts < run.until
            and (windows is None or ts - ts % WINDOW_MS in windows)
        )  # fmt: skip

    def charged_windows(self) -> set[int]:
        rows = self.fleet.rows("SELECT window_ms FROM pushes WHERE state = 'accepted' AND org_id = 'x'")
        return {int(str(row[0])) for row in rows}

    @invariant()
    def holds_are_what_runs_have_left(self) -> None:
        rows = self.fleet.rows("SELECT reservation, drawn_micro, state FROM reservations WHERE org_id = 'x'")
        for key, drawn, state in rows:
            run = self.runs[str(key)]
            over = run.until <= self.now and {state, run.state} == {"held", "expired"}  # whoever looks at it expires it
            assert state == run.state or over, "it stands elsewhere"
            if run.is_metered:
                assert int(str(drawn)) <= self.used(run, self.charged_windows()), "shrunk by more than was charged"

    def held(self) -> int:
        """What runs that go on have left."""
        going = [run for run in self.runs.values() if run.state == "held" and run.until > self.now]
        return sum(max(run.amount - self.used(run), 0) for run in going)

    @invariant()
    def a_verdict_counts_usage_once(self) -> None:
        held = read(self.engine, lambda c: read_held(c, "embedded", ["x"], self.now)).get("x", 0)
        assert held == self.held(), f"verdicts count {held} as held, and {self.held()} is left"

    @invariant()
    def an_estimate_counts_all_once(self) -> None:
        """By whatever read: receipts charge between two of them. What will be sampled next is a guess, and left out."""

        def estimate(connection: sa.Connection) -> int | None:
            org = connection.execute(sa.text("SELECT * FROM orgs WHERE org_id = 'x'")).one()
            used = read_used(connection, "embedded", [org], now_ms=self.now, read_ms=self.now, lag_ms=0)["x"]
            found = since_read(org, used)
            return None if found is None else found.value + (0 if org.is_halted else max(used.unsampled, 0))

        left = read(self.engine, estimate)
        spent = sum(A_SECOND * seconds for _, _, seconds in self.samples) + sum(run.cost for run in self.runs.values())
        assert left in (None, GIVEN - spent - self.held()), f"{left} is left by the estimate"

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        sealed = self.charged_windows()
        spent = sum(A_SECOND * seconds for ts, _, seconds in self.samples if ts - ts % WINDOW_MS in sealed)
        spent += sum(run.cost for run in self.runs.values())
        found = read(self.engine, lambda c: read_wallets(c, ["x"])["x"])
        assert found.balance_micro == (GIVEN - spent if self.fleet.rows("SELECT 1 FROM ledger_lots") else 0)

    @invariant()
    def it_verifies(self) -> None:
        assert [one.text for one in read(self.engine, verify).breaches] == [], "verify found a breach"


class Shrunk(Metering):
    """The same, where each step ends with a look at holds: they are to the micro-credit what is left."""

    @invariant()
    def each_hold_is_exact(self) -> None:
        self.sweep()
        going = [run for run in self.runs.values() if run.state == "held"]
        sealed = self.charged_windows()
        wanted = sum(max(run.amount - self.used(run, sealed), 0) for run in going)
        assert read(self.engine, lambda c: read_wallets(c, ["x"])["x"]).held_micro == wanted, "a hold is not exact"


ALL = {"amount": 50_000, "minutes": 400}
ONE = frozenset({"one"})
SCRIPTS: Final[dict[str, Sequence[tuple[str, dict[str, Any]]]]] = {
    "a window that others used, too": (
        ("accept", {"boxes": ONE, **ALL}),
        ("use", {"boxes": BOXES, "seconds": 60, "whose": "x"}),
        ("tick", {"windows": 3}),
        ("use", {"boxes": BOXES, "seconds": 7, "whose": "y"}),
        ("tick", {"windows": 3}),
    ),
    "a receipt between two reads": (
        ("use", {"boxes": BOXES, "seconds": 60, "whose": "x"}),
        ("tick", {"windows": 3}),
        ("accept", {"boxes": frozenset(), **ALL}),
        ("use", {"boxes": BOXES, "seconds": 7, "whose": "x"}),
        ("end", {"which": 0, "cost": 400, "gives_up": False}),
        ("tick", {"windows": 3}),
    ),
    "a sandbox after another": (
        ("accept", {"boxes": ONE, **ALL}),
        ("end", {"which": 0, "cost": None, "gives_up": False}),
        ("accept", {"boxes": ONE, "amount": 500, "minutes": 4}),
        ("later", {"minutes": 7}),
        ("accept", {"boxes": frozenset({"one", "two"}), **ALL}),
    ),
}
"""What a search at random would come upon now and then: each by itself, with what must hold after every step."""


def act_out(steps: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """One of the scripts."""
    machine = Shrunk()
    try:
        machine.begin()
        for rule_, values in steps:
            getattr(machine, rule_)(**values)
            machine.holds_are_what_runs_have_left()
            machine.a_verdict_counts_usage_once()
            machine.an_estimate_counts_all_once()
            machine.nothing_is_paid_twice()
            machine.it_verifies()
            machine.each_hold_is_exact()
    finally:
        machine.teardown()
