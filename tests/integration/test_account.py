"""A wallet from the first grant on: what a person types on a new database works, and each reading of it adds up."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.cli.main import global_options_first, run
from drawdown.ledger.draws import Cost
from drawdown.ledger.grants import Gives
from drawdown.ledger.lots import Terms
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.accounts import Account, account_of
from tests.world import T0, Fleet

FIRST: Final = (
    "ledger grant acme 100 --reason x",
    "execution preview --org acme --estimate 6",
    "execution accept e-1 --org acme --estimate 6 --project site",
    "execution settle e-1 --actual 4",
    "execution accept e-2 --org acme --estimate 6 --project site",
    "execution release e-2 --reason x",
)


@pytest.fixture
def typed(engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    return engine


def said(capsys: pytest.CaptureFixture[str], line: str, status: int = 0) -> Any:
    """What a command prints with --json."""
    assert run(global_options_first([*line.split(), "--json"])) == status, capsys.readouterr()
    return json.loads(capsys.readouterr().out)


def amounts(told: dict[str, Any]) -> dict[str, float]:
    return {name: told[name] for name in ("available", "reserved", "included", "purchased", "hold")}


@pytest.mark.parametrize("before", [0, 71_183_200])
def test_first_execution_commands_succeed_and_repeats_are_ignored(
    typed: sa.Engine, capsys: pytest.CaptureFixture[str], before: int
) -> None:
    """On an empty database, and where the organisation is billed and has credit already."""
    if before:
        fleet = Fleet(typed)
        fleet.assign("acme", "globex")
        write(typed, lambda c: credit.grant(c, "acme", before, fleet.by, key="of old", plan=None))
    answers = [said(capsys, line) for line in FIRST]
    assert answers[0]["is_new"] is (not before)
    assert (answers[1]["allowed"], answers[1]["amount"], answers[1]["available"]) == (True, 6, 100 + before / MICRO)
    assert [one.get("held") for one in answers[2:]] == [6, 0, 6, 0]
    assert (answers[3]["charged"], answers[5]["charged"]) == (4, 0)
    left = 96 + before / MICRO
    assert amounts(said(capsys, "ledger show acme")) == {
        "available": left, "reserved": 0, "included": 0, "purchased": left, "hold": 0,
    }  # fmt: skip
    assert all(said(capsys, line)["repeated"] for line in FIRST[2:])
    assert said(capsys, "ledger show acme")["available"] == left, "the same again changes nothing"
    assert read(typed, verify).breaches == []


def test_grant_to_unknown_id_creates_wallet_unless_id_resembles_another(
    typed: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(typed)
    fleet.assign("acme")
    fleet.sample("initech", T0 + 1)  # no tick has seen it
    for slip, meant in (("acmee", "acme"), ("ACME", "acme"), ("intech", "initech"), ("initecj", "initech")):
        assert run(["ledger", "grant", slip, "5"]) == 2
        assert f"did you mean {meant}? `drawdown ledger show` lists all" in capsys.readouterr().err
    assert fleet.rows("SELECT * FROM ledger_entries") == []
    for name in ("globex", "initech"):
        assert said(capsys, f"ledger grant {name} 5")["is_new"] is True
    assert said(capsys, "ledger grant globex 5")["is_new"] is False
    assert said(capsys, "ledger grant acmee 5 --new")["is_new"] is True
    assert run(["execution", "preview", "--org", "hooli", "--estimate", "1"]) == 2, "but who has no wallet runs nothing"
    assert "unknown organisation hooli" in capsys.readouterr().err


def test_wallet_parts_through_expiry_and_debt_equal_balance(
    typed: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through reservations, suppliers, expiry, debts and a month that nobody looked at."""
    fleet = Fleet(typed)
    fleet.assign("acme")
    fleet.clock.at_ms = T0 + 10 * MINUTE_MS
    gives = Gives(included_micro=20 * MICRO)
    write(typed, lambda c: credit.set_plan_limit(c, "team", 5, fleet.by, gives=vars(gives)))
    write(typed, lambda c: credit.grant(c, "acme", 5 * MICRO, fleet.by, key="paid", plan="team"))
    bonus = Terms("bonus", expires_ms=T0 + DAY_MS)
    write(typed, lambda c: credit.grant(c, "acme", 3 * MICRO, fleet.by, key="bonus", plan=None, terms=bonus))
    write(typed, lambda c: settlements.set_supplier(c, "pixel", Change(share_ppm=500_000), fleet.by, new=True))

    def parts() -> Account:
        found = read(typed, lambda c: account_of(c, "acme", fleet.clock.at_ms))
        left = found.included_micro + found.bonus_micro + found.purchased_micro
        assert left - found.owed_micro == found.balance_micro
        assert found.balance_micro == found.available_micro + found.reserved_micro + found.over_micro
        told = said(capsys, f"ledger show acme --at {fleet.clock.at_ms}")
        assert {name: told[name] for name in vars(found)} == vars(found)
        return found

    first = parts()
    assert (first.included_micro, first.bonus_micro, first.purchased_micro) == (20 * MICRO, 3 * MICRO, 5 * MICRO)
    render = Request("acme", 8 * MICRO, supplier="pixel")
    write(typed, lambda c: executions.accept(c, "render", render, fleet.by))
    assert (parts().reserved_micro, parts().available_micro) == (8 * MICRO, 20 * MICRO)
    write(typed, lambda c: executions.settle(c, "render", Cost(6 * MICRO), fleet.by))
    assert (parts().hold_micro, parts().balance_micro) == (3 * MICRO, 22 * MICRO)
    write(typed, lambda c: settlements.freeze(c, "render", fleet.by))
    fleet.clock.at_ms += 36 * DAY_MS  # a month began, and what was over waits for nobody
    later = parts()
    assert (later.included_micro, later.bonus_micro, later.purchased_micro) == (20 * MICRO, 0, 5 * MICRO)
    assert later.hold_micro == 3 * MICRO, "frozen"
    write(typed, lambda c: settlements.freeze(c, "render", fleet.by, undo=True))
    assert parts().hold_micro == 3 * MICRO, "eligible: it waits for the next batch"
    write(typed, lambda c: executions.accept(c, "long", Request("acme", 2 * MICRO), fleet.by))
    write(typed, lambda c: executions.settle(c, "long", Cost(30 * MICRO), fleet.by))
    assert (parts().owed_micro, parts().available_micro) == (5 * MICRO, -5 * MICRO)
    assert read(typed, verify).breaches == []


def test_reservation_after_expiry_is_shown_as_available(typed: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet(typed)
    write(typed, lambda c: credit.grant(c, "acme", 10 * MICRO, fleet.by, key="paid", plan=None))
    write(typed, lambda c: executions.accept(c, "e-1", Request("acme", 6 * MICRO), fleet.by))
    now = fleet.clock.at_ms
    assert amounts(said(capsys, f"ledger show acme --at {now}"))["reserved"] == 6
    over = said(capsys, f"ledger show acme --at {now + executions.LIFE_MS}")
    assert (over["available"], over["reserved"]) == (10, 0)
    assert fleet.one("SELECT held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == 6 * MICRO


def test_ledger_commands_as_text_show_credits_and_parts(typed: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ledger", "grant", "acme", "12.50", "--kind", "bonus"]) == 0
    assert "12.50 credits, plan -; a new customer" in capsys.readouterr().out
    assert run(["ledger", "grant", "acme", "1"]) == 0
    assert "13.50 credits, plan -; before: 12.50" in capsys.readouterr().out
    assert run(["ledger", "show", "acme"]) == 0
    shown = capsys.readouterr().out
    assert "acme: 13.50 credits available, 0.00 reserved, plan -" in shown
    assert "left: bonus 12.50, purchased 1.00" in shown and "suppliers" not in shown
