"""Of whom another provider bills: no zero is shown for a balance that is not here, and no credit is given to a wallet
that nobody draws on."""

from __future__ import annotations

import html
import re
from functools import partial
from typing import Final

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.screens.customers import usage
from drawdown.worker.orgs import lists as orgs
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.verdict.watch_state import note_round
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.entries import Use
from tests.server.console_home import Home, as_read

CUSTOMER: Final = "cus_Stark01"
PAGES: Final = (
    "/console/org?id=stark", "/console/org?id=stark&tab=ledger", "/console/billing?id=stark",
    f"/console/billing?id={CUSTOMER}", f"/console/wallet?id={CUSTOMER}",
)  # fmt: skip


@pytest.fixture
def home(home_engine: sa.Engine) -> Home:
    """stark is billed at Stripe, which keeps no balance, tyrell at Autumn, which does."""
    made = Home(home_engine, copied=True)
    made.fleet.write("INSERT INTO provider_states (provider, terms) VALUES ('stripe', '{\"balance_in_ledger\": true}')")
    made.fleet.write("INSERT INTO provider_states (provider, terms) VALUES ('autumn', '{}')")
    made.register(["stark", "tyrell"])
    by, from_ms = made.fleet.by, made.now - made.now % WINDOW_MS
    for org, provider, customer in (("stark", "stripe", CUSTOMER), ("tyrell", "autumn", "tyrell")):
        given = partial(assign, org_ids=[org], provider=provider, by=by, customer_id=customer, from_ms=from_ms)
        write(made.engine, given)
        made.fleet.write("UPDATE orgs SET billing_provider = :p WHERE org_id = :o", {"p": provider, "o": org})
    return made


def shown(home: Home, path: str) -> str:
    """What a page says, and its links."""
    (answer,) = home.get(path)
    assert answer.status_code == 200, (path, answer.text[-300:])
    main = html.unescape(answer.text.partition("<main")[2])
    return re.sub(r"\s+", " ", re.sub(r"<(?!a )[^>]+>", " ", main))


def look(home: Home, customer: str) -> tuple[int, str]:
    form = {"id": customer, "amount": "25", "kind": "bonus", "reason": "they asked", "step": "look"}
    answer = home.send("/console/act/grant", form)
    return answer.status_code, re.sub(r"\s+", " ", as_read(answer.text))


@pytest.mark.parametrize("path", PAGES)
def test_page_of_org_billed_elsewhere_shows_neither_zero_nor_grant(home: Home, path: str) -> None:
    page = shown(home, path).partition("Plans")[0]
    assert "illed at stripe in arrears, without a wallet here" in page
    for wrong in ("0.00", "no credit is left", "/act/grant", "ledger grant"):
        assert wrong not in page, wrong


def test_org_page_pooled_org_grant_link_names_paying_wallet(home: Home) -> None:
    arrears = "The customer is billed in arrears, and does not have a wallet here"
    assert arrears in shown(home, "/console/org?id=stark")
    assert "autumn keeps the balance, so grant credit there" in shown(home, "/console/org?id=tyrell")
    write(home.engine, lambda c: credit.grant(c, CUSTOMER, 5 * MICRO, home.fleet.by, key="first", plan=None))
    page = shown(home, "/console/org?id=stark")
    assert f'href="/console/act/grant?id={CUSTOMER}"' in page and "Available 5.00" in page
    assert f"Paid from the wallet of {CUSTOMER}: no entry exists here" in shown(home, "/console/wallet?id=stark")
    assert 'href="/console/act/grant?id=acme"' in shown(home, "/console/org?id=acme")


def test_wallet_filter_without_lots_lists_matching_entries(home: Home) -> None:
    """A correction downwards makes none, of whoever is billed."""
    write(home.engine, lambda c: credit.grant(c, "tyrell", -5 * MICRO, home.fleet.by, key="down", plan=None))
    for asked, there in (("", True), ("&amount=5", True), ("&amount=9.99", False)):
        page = shown(home, f"/console/wallet?id=tyrell{asked}")
        assert ("grant:down" in page, "which keeps the balance" in page) == (there, False), asked
    assert "No entry matches the filter" in page and "Clear" in page


def test_grant_for_org_billed_elsewhere_is_refused_and_names_wallet(home: Home) -> None:
    assert look(home, "stark")[0] == 400
    assert f"the wallet of {CUSTOMER} pays for stark. Grant the credit to {CUSTOMER}" in look(home, "stark")[1]
    assert look(home, "tyrell")[0] == 400
    assert "tyrell is billed at autumn, which keeps the balance" in look(home, "tyrell")[1]
    facts = {
        one.name: one for one in read(home.engine, lambda c: credit.facts_of_wallet(c, "tyrell", home.fleet.by.now_ms))
    }
    assert "does not pay for an organisation now, because autumn keeps the balance" in facts["Wallet"].value, (
        "a dry run of the command"
    )
    assert facts["Halts its organisations"].value == "never"
    status, page = look(home, CUSTOMER)
    assert status == 200 and f"{CUSTOMER}, which pays for stark (billed at stripe)" in page
    assert '"Now">never</td>' in page and "when it is used up</strong>" in page, "a first wallet is one that halts"
    assert "acme, which pays for acme (billed at embedded)" in look(home, "acme")[1]
    home.register(["soylent"])
    assert look(home, "soylent")[0] == 200, "nobody bills it yet: its runs are paid from its own wallet"
    assert home.fleet.one("SELECT COUNT(*) FROM ledger_accounts WHERE account_id = 'wallet:stark'") == 0


def test_org_page_unassigned_org_shows_unknown_balance_and_grant_link(home: Home) -> None:
    home.register(["soylent"])
    page = shown(home, "/console/org?id=soylent")
    assert f"Available {figures.UNKNOWN} no provider bills it yet" in page and "0.00" not in page
    assert "/console/act/grant?id=soylent" in page


def test_org_page_provider_balance_is_shown_with_run_out_time(home: Home) -> None:
    home.fleet.write(
        "UPDATE orgs SET balance_micro = 13860000, balance_read_ms = :now, runs_out_ms = :end WHERE org_id = 'tyrell'",
        {"now": home.now - 60_000, "end": home.now + 2 * DAY_MS},
    )
    assert "Runs out" not in shown(home, "/console/org?id=tyrell"), "nobody watches"
    write(home.engine, lambda c: note_round(c, home.now))
    page = shown(home, "/console/org?id=tyrell")
    assert "Left at autumn 13.86 read 1 min ago Runs out 2026-01-03 00:15 in 2 d, by the watch's estimate" in page
    assert "Used in 30 days" not in page and "0.00" not in page
    write(home.engine, lambda c: credit.grant(c, "tyrell", 3 * MICRO, home.fleet.by, key="before", plan=None))
    page = shown(home, "/console/org?id=tyrell")
    assert "Left at autumn 13.86" in page and "Unused wallet 3.00 from an earlier assignment, not used now" in page


def test_usage_chart_unread_days_are_not_drawn() -> None:
    now, begin = 20 * DAY_MS + 5, 14 * DAY_MS
    found = usage.chart([Use(begin + DAY_MS, "compute", MICRO)], now, begin)
    assert found.first == "1970-01-15" and found.picture.count("1970-01-15 to 1970-01-21") == 1
    assert 'width="11.429%"' in found.picture, "seven slots"
    early = usage.chart([Use(19 * DAY_MS, "compute", MICRO)], now, 0)
    assert early.first == "1970-01-10", "where more was read, one bar is not as wide as the picture"


def test_plan_filter_lists_plans_of_other_providers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.fleet.write("UPDATE orgs SET plan = 'scale' WHERE org_id = 'tyrell'")
    assert read(home.engine, orgs.providers_and_plans)[1] == ["free", "scale"]
    assert '<option value="scale">' in home.get("/console/orgs")[0].text
    monkeypatch.setattr(orgs, "MOST_LOOKED_AT", 0)
    assert read(home.engine, orgs.providers_and_plans)[1] == ["free"]
    assert '<option value="scale" selected>' in home.get("/console/orgs?plan=scale")[0].text, "what is chosen is shown"


def test_resolve_forms_outcome_is_not_preselected(home: Home) -> None:
    asked = {"push-resolve": "outcome", "topup-resolve": "became"}
    for (name, field), session in zip(asked.items(), (7, 6), strict=True):
        (form,) = home.get(f"/console/act/{name}", session=session)
        select = re.findall(rf'<select id="{field}".*?</select>', form.text, re.DOTALL)[0]
        assert '<option value="" selected>choose one</option>' in select
    (form,) = home.get("/console/act/push-resolve?keys=k-1")
    fields = set(re.findall(r'(?:select|input|textarea) id="(\w+)"', form.text))
    assert fields == {"keys", "outcome", "evidence", "reason"}
    (form,) = home.get("/console/act/push-resolve?keys=k-1&org=acme")
    assert 'id="org"' in form.text, "what is filled in is shown"
    assert 'id="expect"' in home.get("/console/act/push-resolve")[0].text
