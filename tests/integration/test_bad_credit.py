"""What is asked for wrongly gets a code and a sentence of its own, with what to do next; nothing is lost or doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.cli.main import global_options_first, run
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.verify.verify import verify
from tests.integration.topping import Purses, judged
from tests.world import T0

READY: Final = (
    "plan set small --max-concurrent 5 --most-hold 10 --new",
    "ledger grant acme 100 --plan small",
    "supplier set pixel --share 70 --threshold 1 --new",
    "key create app --scope guard --for 1h",
    "execution accept going --org acme --estimate 6 --project site",
    "execution draw going 1 --credits 1",
    "execution accept strict --org acme --estimate 6 --overage refuse",
    "execution accept settled --org acme --estimate 6 --supplier pixel",
    "execution settle settled --actual 4",
    "execution accept released --org acme --estimate 6",
    "execution release released",
    "execution accept over --org acme --estimate 1 --for 1m --at +1s",
    "execution block --org acme --project shut --new --reason fraud",
    "supplier freeze pixel --reason dispute",
    "pool make course --new",
    "ledger grant rich 30 --key term --new",
    "topup set rich --below 5 --amount 20 --price 100 --currency usd --customer c --most 9000",
)
CORRECT: Final = "To return credit, run `drawdown ledger grant CUSTOMER AMOUNT --kind refund`"
# What is typed: the exit status, the code, and what it says to do.
BAD: Final[dict[str, tuple[int, str, str]]] = {
    "ledger grant acme 5 --plan smal": (2, "unknown_plan", "did you mean small? `drawdown plan list`"),
    "execution accept new --org acme --use render=5": (
        2, "unknown_feature", "`drawdown feature list` lists all. To create its rate, run `drawdown "
        "ledger rate render --micro-credits N --new`"),
    "execution accept new --org acme --use compute_1gb=5 --supplier pixle --estimate 1": (
        2, "bad_value", "in credits or in quantities of features, not both"),
    "execution accept new --org acme --estimate 1 --supplier pixle": (2, "unknown_supplier", "did you mean pixel?"),
    "execution accept new --org acme --estimate 1 --project shut": (1, "blocked", "To unblock it, run `drawdown"),
    "execution list --project sitee": (2, "unknown_project", "did you mean site? `drawdown execution list`"),
    "execution accept new --org acmee --estimate 1": (2, "unknown_org", "did you mean acme? `drawdown org list`"),
    "execution settle goin --actual 1": (2, "unknown_execution", "did you mean going? `drawdown execution list`"),
    "settlement freeze setled": (2, "unknown_settlement", "did you mean settled? `drawdown settlement list`"),
    "execution accept going --org acme --estimate 7": (1, "other_content", "use a new key"),
    "execution accept going --org acme --estimate 6 --project site --overage cap --subject bob": (
        1, "other_content", "with another subject, another overage. Credit was not reserved. Run `drawdown execution"),
    "execution accept going --org rich --estimate 6": (1, "other_content", "with another organisation. Credit"),
    "ledger grant rich 31 --key term": (1, "refused", "30 credits to rich (purchased, priority 50"),
    "pool make cours": (2, "unknown_pool", "did you mean course?"),
    "pool make riche": (2, "unknown_pool", "did you mean rich?"),
    "execution settle settled": (2, "bad_value", "settled is already settled, and was charged 4"),
    "ledger grant acme \u0661\u0662": (2, "bad_value", "expected credits such as 12 or 12.50"),
    "execution draw going 1 --credits 2": (1, "other_content", "send its first content. If this is another draw, use"),
    "execution accept new --org acme": (1, "no_estimate", "Pass credits, or quantities of features"),
    "execution accept new --org acme --estimate 0": (2, "bad_estimate", "invalid estimate: expected more than 0"),
    "execution accept new --org acme --estimate -3": (2, "bad_estimate", "invalid estimate: expected more than 0"),
    "execution accept new --org acme --use compute_1gb=0": (2, "bad_estimate", "invalid estimate: expected"),
    "execution accept new --org acme --estimate 99999999999": (2, "bad_estimate", "at most 1,000,000,000"),
    "execution accept new --org acme --estimate 1e400": (2, "bad_estimate", "expected credits such as 12 or 12.50"),
    "execution accept new --org acme --estimate six": (2, "bad_estimate", "expected credits such as 12 or 12.50"),
    "execution accept new --org acme --estimate nan": (2, "bad_estimate", "expected credits such as 12 or 12.50"),
    "execution accept new --org acme --estimate 11": (1, "above_cap", "Request less, or change the plan"),
    "execution extend going --to 11": (1, "above_cap", "Request less, or change the plan"),
    "execution settle released --actual 1": (1, "ended", CORRECT),
    "execution release settled": (1, "ended", CORRECT),
    "execution draw settled 1 --credits 1": (1, "ended", CORRECT),
    "execution extend settled": (1, "ended", "Accept another execution"),
    "execution settle settled --actual 5": (1, "other_content", CORRECT),
    "execution settle going --actual 0.50": (1, "below_drawn", "To return credit, run `drawdown ledger grant CUSTOMER"),
    "execution settle going --use compute_1gb=1": (1, "other_unit", "Send its cost in credits"),
    "execution draw strict 1 --credits 7": (1, "beyond_hold", "Extend the execution first, or draw less"),
    "execution settle strict --actual 7": (1, "beyond_hold", "Extend the execution first, or draw less"),
    "settlement payout pixel --expect 1": (1, "frozen_supplier", "--undo"),
    "settlement reverse settled --amount 3": (1, "above_left", "credits can be reversed"),
    "key rotate ap": (2, "unknown_key", "did you mean app? `drawdown key list`"),
    "topup set acme --below 5 --amount 20 --price 100 --currency gold --customer c --most 10": (
        2, "bad_value", "invalid currency"),
    "topup set acme --below 5 --amount 20 --price 100 --currency xxx --customer c --most 9000": (
        2, "bad_value", "is not known to take xxx"),
    "topup set rich --below 5 --amount 20 --price 100 --currency eur --customer c --most 9000": (
        2, "bad_value", "the terms so far are in usd"),
    "topup set rich --below -5 --amount 20 --price 100 --currency usd --customer c --most 9000": (
        2, "bad_value", "invalid threshold"),
}  # fmt: skip


@pytest.fixture
def ready(engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    for line in READY:
        assert run(global_options_first(line.split())) == 0, line
    assert run(["ledger", "rate", "compute_1gb", "--micro-credits", "5", "--new"]) == 0
    yield engine
    assert read(engine, verify).breaches == []


def typed(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = run(global_options_first([*line.split(), "--json"]))
    return status, json.loads(capsys.readouterr().out)


def content(engine: sa.Engine) -> dict[str, list[str]]:
    names = sa.inspect(engine).get_table_names()
    return {
        name: read(engine, lambda c, n=name: sorted(map(str, c.execute(sa.text(f'SELECT * FROM "{n}"')))))  # type: ignore[misc]
        for name in names
    }


def test_credit_command_with_invalid_input_returns_code_and_hint(
    ready: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(ready)
    for line, (status, code, words) in BAD.items():
        found, told = typed(capsys, line)
        assert (found, told.get("code")) == (status, code), (line, told)
        assert words in told["error"], (line, told)
        assert told["exit_status"] == status
    assert content(ready) == before


def test_execution_refusal_names_permission_step(ready: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    for line, step in (
        ("--estimate 11", "plan"), ("", "plan"), ("--estimate 1 --project shut", "project"),
    ):  # fmt: skip
        told = typed(capsys, f"execution accept new --org acme {line}")[1]
        assert told["step"] == step
        preview = typed(capsys, f"execution preview --org acme {line}")[1]
        assert (preview["step"], preview["code"]) == (step, told["code"])
    for number in range(8):
        assert typed(capsys, f"execution accept more-{number} --org acme --estimate 10")[0] == 0
    told = typed(capsys, "execution accept new --org acme --estimate 10")[1]
    assert (told["code"], told["step"]) == ("no_credit", "credits")
    assert "`drawdown ledger grant acme AMOUNT`, or end" in told["error"]


def test_execution_command_repeated_returns_first_result_uncharged(
    ready: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(ready)
    for line in READY[4:11]:
        found, told = typed(capsys, line)
        assert (found, told["repeated"], told.get("charged", 0)) == (0, True, 0), line
    assert content(ready) == before


def told(capsys: pytest.CaptureFixture[str], line: str) -> str:
    capsys.readouterr()
    assert run(global_options_first(line.split())) == 0, line
    return capsys.readouterr().out


def test_execution_accept_repeated_after_end_shows_outcome(
    ready: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = next(line for line in READY if line.startswith("execution accept settled"))
    assert "was accepted before, and was settled at 4.00 credits. It does not reserve credit. Accept" in told(
        capsys, accepted
    )
    accepted = next(line for line in READY if line.startswith("execution accept released"))
    assert "and was released at 0.00 credits" in told(capsys, accepted)
    going = next(line for line in READY if line.startswith("execution accept going"))
    assert "This call did not reserve credit. 5.00 credits are reserved until" in told(capsys, going)


def test_credit_granted_without_key_is_found_and_allotment_is_returned(
    ready: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, "ledger grant course 50")
    key = said.strip().rpartition("; granted 50.00 as ")[2]
    assert key.startswith("grant:")
    told(capsys, "pool allot course rich 20 --expires +30d --key spring")
    assert "took back 20.00 credits of allot:course:spring, which returned to the pool course" in told(
        capsys, "ledger take-back allot:course:spring"
    )
    shown = json.loads(told(capsys, "pool show course --json"))
    assert [one["state"] for one in shown["allotments"]] == ["taken back"]
    assert f"took back 50.00 credits of {key}; 0.00 credits now" in told(capsys, f"ledger take-back {key}")


@pytest.mark.parametrize(("overage", "charged", "off"), [("charge", 9, 0), ("cap", 6, 3)])
def test_execution_cost_above_reservation_follows_overage(
    ready: sa.Engine, capsys: pytest.CaptureFixture[str], overage: str, charged: int, off: int
) -> None:
    assert typed(capsys, f"execution accept run --org acme --estimate 6 --overage {overage}")[0] == 0
    drawn = typed(capsys, "execution draw run 1 --credits 4")[1]
    done = typed(capsys, "execution settle run --actual 9")[1]
    assert (drawn["charged"] + done["charged"], done["written_off"]) == (charged, off)


def test_expired_execution_refuses_draw_and_accepts_settle(
    ready: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    later = "--at +2m"
    for act in ("draw over 1 --credits 1", "release over"):
        status, told = typed(capsys, f"execution {act} {later}")
        assert (status, told["code"]) == (1, "ended") and "Settle the execution with its cost" in told["error"]
    status, told = typed(capsys, f"execution extend over {later}")
    assert (status, told["code"]) == (1, "ended") and "Settle the execution with its cost" in told["error"]
    assert typed(capsys, f"execution settle over --actual 0.50 {later}")[1]["charged"] == 0.5


# What a card or a payment service does: what becomes of the first charge, and what its wallet is told, if it stops.
CARDS: Final[dict[str, tuple[str, str]]] = {
    "declined": ("declined", ""),
    "stolen": ("declined", "stolen_card"),
    "action": ("needs_customer", ""),
    "none": ("given_up", "not have a card"),
}
SERVICES: Final = ("not_sent", "request_lost", "answer_lost", "slow", "very_slow", "seen_late", "raised")


@pytest.mark.parametrize("manner", CARDS)
def test_topup_with_failing_card_is_reported_and_not_charged(engine: sa.Engine, manner: str) -> None:
    purses = Purses(engine)
    purses.set()
    purses.pay.cards["cus_acme"] = manner
    purses.fill()
    state, reason = CARDS[manner]
    ((found, blocked),) = purses.rows("SELECT t.state, w.blocked_reason FROM topups t, topup_terms w")
    assert found == state, (found, blocked)
    assert reason in (blocked or "") and bool(blocked) == bool(reason), blocked
    assert purses.pay.taken == [] and judged(purses) == []
    assert read(engine, verify).breaches == []


@pytest.mark.parametrize("fault", SERVICES)
def test_topup_with_payment_service_fault_charges_once(engine: sa.Engine, fault: str) -> None:
    purses = Purses(engine)
    purses.set()
    purses.pay.script.extend([fault, fault])
    purses.fill()
    purses.settle()
    purses.fill(2 * DAY_MS)
    assert judged(purses) == [] and len(purses.pay.taken) == 1
    assert purses.credits() == 20
    assert read(engine, verify).breaches == []


@pytest.mark.both_databases
def test_topup_terms_new_currency_applies_to_later_charges(engine: sa.Engine) -> None:
    """The one in doubt is looked up in the currency it was begun in."""
    purses = Purses(engine)
    purses.set()
    purses.pay.script.extend(["answer_lost"])
    purses.fill()
    purses.set(currency="eur")
    purses.fill(MINUTE_MS)
    purses.grant(-19)
    purses.fill(MINUTE_MS)
    assert [(one.charge_id, one.currency) for one in purses.pay.taken] == [
        ("topup:acme:1", "usd"), ("topup:acme:2", "eur"),
    ]  # fmt: skip
    assert judged(purses) == [] and read(engine, verify).breaches == []
    assert purses.clock.at_ms > T0
