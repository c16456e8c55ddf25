"""A dry run of a consequential command shows credits, organisations and from when, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.worker.features.actions import map_size
from drawdown.worker.push.actions import effect_of
from drawdown.worker.wallets.actions import grant
from tests.integration.test_events_cli import Shell
from tests.world import T0, Fleet

TABLES = (
    "operator_actions", "ledger_entries", "ledger_lots", "ledger_rates", "ledger_plans", "tiers", "tier_holders",
    "guard_overrides", "orgs", "pushes", "voids",
)  # fmt: skip


@pytest.fixture
def shell(engine: sa.Engine, database_url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    """acme and globex have used a minute each; nothing has a rate, so that their pushes are rejected."""
    fleet = Fleet(engine)
    size = {"kind": "exact", "memory_mb": 2_048, "unit": "s", "from_ms": T0}
    write(engine, lambda c: map_size(c, "compute_2gb", fleet.by, **size))  # type: ignore[arg-type]
    fleet.assign("acme", "globex", from_ms=T0)
    for org in ("acme", "globex"):
        write(engine, lambda c, org=org: grant(c, org, 10_000_000, fleet.by, key=f"of-{org}", plan=None))  # type: ignore[misc]
        fleet.sample(org, T0 + 1, 60, memory_mb=2_048)
    fleet.tick_windows(2)
    return Shell(fleet, database_url, capsys)


def state(fleet: Fleet) -> dict[str, Any]:
    return {table: fleet.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


def dry(shell: Shell, words: str) -> tuple[str, Any]:
    """What a dry run says, for people and for programs; nothing was changed."""
    before = state(shell.fleet)
    said = shell(f"{words} --dry-run")
    result = shell.json(f"{words} --dry-run")
    assert result["dry_run"] is True
    assert state(shell.fleet) == before
    return said, result


def test_dry_run_of_pushes_shows_credits_orgs_and_start(shell: Shell) -> None:
    named = " ".join(f"usage:{org}:{T0}:compute_2gb" for org in ("acme", "globex"))
    whole = "of 2 organisations, used from 2026-01-01T00:00:00Z on"
    said, result = dry(shell, f"push void {named} --evidence none")
    assert f"120 compute_2gb without a rate {whole}" in said
    assert (result["effect"]["orgs"], result["effect"]["from_ms"]) == (2, T0)
    shell("ledger rate compute_2gb --micro-credits 1000 --new")
    for words in ("push retry", "push resolve --outcome absent --evidence none"):
        said, result = dry(shell, f"{words} {named}")
        assert f"0.12 credits {whole}" in said, words
    with shell.fleet.engine.connect() as connection:
        assert str(effect_of(connection, [])) == "no push"


def test_dry_run_of_ledger_rate_shows_cost_of_last_day(shell: Shell) -> None:
    said, _ = dry(shell, "ledger rate compute_2gb --micro-credits 1000")
    assert "compute_2gb: 1,000 micro-credits per 1 from 1970-01-01T00:00:00Z on; before: no rate" in said
    assert "120 base units of 2 organisations, costs 0.12 credits at this rate, and 0.00 before" in said
    shell("ledger rate compute_2gb --micro-credits 1000")
    said, result = dry(shell, "ledger rate compute_2gb --micro-credits 3000")
    assert "costs 0.36 credits at this rate, and 0.12 before" in said
    effect = result["effect"]
    assert (effect["quantity"], effect["orgs"], effect["was_micro"], effect["now_micro"]) == (120, 2, 120_000, 360_000)


def test_dry_run_of_take_back_shows_orgs_to_be_halted(shell: Shell) -> None:
    said, result = dry(shell, "ledger take-back of-acme")
    assert "acme: took back 10.00 credits of grant:of-acme; 0.00 credits now" in said
    assert "acme: the wallet pays for acme, which the next tick halts" in said
    assert (result["orgs"], result["taken_back_micro"]) == (["acme"], 10_000_000)
    assert "acme: took back 10.00 credits" in shell("ledger take-back of-acme")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("org override acme --never-halt", "acme:"),
        ("tier set fast --at-once 5 --price 3 --new", "tier fast: 5 at once for 3.00 credits a month"),
        ("plan set pro --max-concurrent 7 --new", "plan pro: 7 at once; before: none"),
    ],
)
def test_dry_run_of_org_override_tier_or_plan_is_read_only(shell: Shell, words: str, said: str) -> None:
    shown, _ = dry(shell, words)
    assert "dry run: nothing was changed." in shown and said in shown


def test_dry_run_of_tier_buy_and_limit_override_is_read_only(shell: Shell) -> None:
    shell("tier set fast --at-once 5 --price 3 --new")
    shell("plan set pro --max-concurrent 2 --new")
    shell("ledger grant acme 1 --plan pro")
    shown, result = dry(shell, "tier buy acme fast")
    assert "3.00 credits charged" in shown and result["charged_micro"] == 3_000_000
    shell("guard set page.render --new")
    shell("limit set page.render 5 --per day")
    shown, _ = dry(shell, "override make page.render 9 --org acme --per day --expires +7d")
    assert "limits per" not in shown and "9 of page.render per day for acme" in shown
    shell("override ask page.render 9 --org acme --per day --expires +7d")
    for word, then in (("approve", "in force"), ("refuse", "refused")):
        shown, _ = dry(shell, f"override {word} 1")
        assert f"override 1: {then}" in shown
    shell("override approve 1")
    shown, _ = dry(shell, "override end 1")
    assert "override 1: ended" in shown


def test_dry_run_of_sample_dismiss_shows_expected_count(shell: Shell) -> None:
    shell.fleet.sample("acme", T0 + 1, -5)
    shell.fleet.tick_windows(1)
    said, _ = dry(shell, "sample dismiss --why interval_negative")
    assert "to change only these, pass --expect 1" in said


def test_push_sums_beyond_limit_are_refused(shell: Shell) -> None:
    assert len(shell.json("push sums --most 2")["sums"]) == 2
    assert "too many sums: 2 exceed 1" in shell("push sums --most 1", 1)
