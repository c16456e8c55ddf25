"""What suppliers are owed, as pages tell it: an organisation's own runs alone, whoever pays for them, and no act that
its command refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from tests.server.console.test_elsewhere import shown
from tests.server.console_home import Home


class Owing(Home):
    """A home whose runs owe suppliers; a pool pays for kid's."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine, copied=True)
        self.fleet.assign("kid")
        write(engine, lambda c: pools.make(c, "pool", self.fleet.by))
        write(engine, lambda c: credit.grant(c, "pool", 100 * MICRO, self.fleet.by, key="p", plan=None))
        for org in ("kid", "acme"):
            write(engine, lambda c, org=org: pools.allow(c, "pool", org, self.fleet.by))  # type: ignore[misc]

    def set(self, supplier: str, *, new: bool = True, **terms: int | bool) -> None:
        said = Change(**terms)  # type: ignore[arg-type]
        write(self.engine, lambda c: settlements.set_supplier(c, supplier, said, self.fleet.by, new=new))

    def ran(self, key: str, supplier: str, credits: int, org: str = "kid", payer: str | None = "pool") -> None:
        asked = Request(org, credits * MICRO, supplier=supplier, payer=payer)
        write(self.engine, lambda c: executions.accept(c, key, asked, self.fleet.by))
        write(self.engine, lambda c: executions.settle(c, key, Cost(credits * MICRO), self.fleet.by))

    def reverse(self, run: str, micro: int | None = None) -> None:
        key = f"{run}-{micro}"
        write(self.engine, lambda c: settlements.reverse(c, run, key, micro, self.fleet.by))

    def batch(self, supplier: str) -> None:
        write(self.engine, lambda c: settlements.make_payout(c, supplier, "2026-01", self.fleet.by))

    def step(self, org: str = "kid") -> str:
        page = shown(self, f"/console/org?id={org}&tab=usage")
        return page.partition("metering included Settlement ")[2].partition(" Effect of each")[0]


@pytest.fixture
def home(home_engine: sa.Engine) -> Owing:
    return Owing(home_engine)


def test_settlement_step_shows_own_runs_and_amount_still_due(home: Owing) -> None:
    home.set("held", share_ppm=500_000)
    home.set("loose", share_ppm=500_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True)
    home.ran("a", "held", 4)
    home.ran("b", "loose", 6)
    home.ran("other", "held", 2, org="acme")  # of the same pool: it is none of kid's
    assert home.step() == "2 5.00 owed to suppliers; 5.00 not released yet"
    home.reverse("a", MICRO)
    assert home.step() == "2 4.00 owed to suppliers; 4.00 not released yet"
    home.batch("loose")
    assert home.step() == "2 4.00 owed to suppliers; 1.00 not released yet"
    home.reverse("b", MICRO)  # a claw-back: it was released
    assert home.step() == "2 3.00 owed to suppliers; 1.00 not released yet"
    home.reverse("a")
    home.reverse("b")
    assert home.step() == "2 0.00 owed to suppliers; 0.00 not released yet"


def test_settlement_step_older_settlements_are_excluded(home: Owing) -> None:
    home.set("held", share_ppm=500_000)
    home.fleet.clock.at_ms -= 31 * DAY_MS
    home.ran("old", "held", 4, org="acme", payer=None)
    home.fleet.clock.at_ms += 31 * DAY_MS
    home.ran("new", "held", 2, org="acme", payer=None)
    assert home.step("acme") == "1 1.00 owed to suppliers; 1.00 not released yet"


def test_payout_action_is_offered_only_if_command_would_succeed(home: Owing) -> None:
    """By the lowest threshold that was agreed on for what is eligible, not by the newest one; once a month."""
    loose: dict[str, Any] = {"share_ppm": 1_000_000, "hold_ms": 0, "takes_clawbacks": True}
    for name, then, since in (("raised", 1, 100), ("lowered", 100, 1), ("exact", 5, 5)):
        home.set(name, threshold_micro=then * MICRO, **loose)
        home.ran(f"of-{name}", name, 5)
        home.set(name, new=False, threshold_micro=since * MICRO)
    page = shown(home, "/console/settlements")
    for name, made, above in (("raised", True, "1.00"), ("lowered", False, "100.00"), ("exact", False, "5.00")):
        assert (f"/console/act/settlement-payout?supplier={name}&" in page) == made, name
        figures = page.partition(f" {name} open ")[2]
        assert re.findall(r" 0\.00 0\.00 0\.00 ([\d.]+) ", figures)[0] == above, name
        if made:
            home.batch(name)
            continue
        with pytest.raises(Denied, match="the releasable amount is 5 credits"):
            home.batch(name)
    home.ran("more", "raised", 5)
    home.set("raised", new=False, threshold_micro=0)
    home.ran("again", "raised", 5)
    assert "act/settlement-payout?" not in shown(home, "/console/settlements"), "this month's was made"


def test_settlement_reversal_without_clawback_after_payout_is_not_offered(home: Owing) -> None:
    home.set("strict", share_ppm=500_000, threshold_micro=0)
    home.set("loose", share_ppm=500_000, threshold_micro=0, hold_ms=0, takes_clawbacks=True)
    home.ran("a", "strict", 4)
    home.ran("b", "loose", 4)
    link = "/console/act/settlement-reverse?execution="
    assert link in shown(home, "/console/settlement?key=a") and link in shown(home, "/console/settlement?key=b")
    home.fleet.write(
        "INSERT INTO payouts (payout, supplier, period, released_micro, carried_micro, total_micro, at_ms, "
        "actor, reason) VALUES ('p', 'strict', '2026-01', 2000000, 0, 2000000, 1, 'a', 'b')"
    )
    home.fleet.write("INSERT INTO payout_lines (line, payout, reservation, amount_micro) "
                     "VALUES ('settlement:a', 'p', 'a', 2000000)")  # fmt: skip
    home.batch("loose")
    with pytest.raises(Denied, match="did not allow clawbacks"):
        home.reverse("a")
    assert link not in shown(home, "/console/settlement?key=a")
    assert link in shown(home, "/console/settlement?key=b"), "a claw-back"


def test_settlements_page_unfiltered_supplier_sums_are_labelled(home: Owing) -> None:
    home.set("held", share_ppm=500_000)
    home.ran("a", "held", 4)
    said = "The filter does not apply to this table, because a payout covers all eligible settlements of a supplier."
    for chosen, is_said in (("", False), ("?supplier=held", False), ("?org=acme", True), ("?state=hold", True)):
        assert (shown(home, f"/console/settlements{chosen}").count(said) == 1) == is_said, chosen
