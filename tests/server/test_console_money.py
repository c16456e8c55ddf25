"""The pages of money: their figures are those of the command line, each id leads on, nonsense is refused in words."""

from __future__ import annotations

import csv
import html
import json
import re
from typing import Final
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.ledger.allocation import KINDS
from drawdown.schema.database import read, write
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.server.console.frame import figures
from drawdown.server.console.request_params import MAX_KEY_CHARS
from drawdown.server.console.screens.money import drift
from drawdown.server.console.screens.money.wallet_acts import MEANING
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.checks import checks
from drawdown.worker.provider.vendors import BillFile, BillLine, DriftLine, Units, import_bills, set_units
from drawdown.worker.reconcile import lists as reconciliations
from drawdown.worker.settlements import lists as settlements
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets import pools, tiers
from drawdown.worker.wallets.accounts import account_of
from tests.server.acts import money
from tests.server.console_home import ANN, KIM, STORED, VIC, Home, says, secret
from tests.server.lived import lived
from tests.server.test_console_budget import MOST_STATEMENTS, statements
from tests.world import T0

AGAIN: Final = 99
"""The session of ann, once time has gone by."""
HOSTILE: Final = "<b onclick=x>\"&'/../?id=x#"
PATHS: Final = (
    "/console/billing", "/console/billing?id=acme", "/console/ledger", "/console/wallet?id=acme",
    "/console/settlements", "/console/settlement?key=render-1", "/console/reconcile", "/console/drift",
    "/console/topup?id=topup:acme:1", "/console/org?id=acme&tab=ledger",
)  # fmt: skip
COMPARED: Final = (
    "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, "
    "at_ms) VALUES (:day, 'acme', 'embedded', 'acme', :feature, 5, :theirs, :verdict, :at)"
)  # fmt: skip


def traded(engine: sa.Engine) -> Home:
    """Somebody who owes, a pool, a supplier's runs, a top-up in doubt, a hostile customer; what was compared."""
    made = Home(engine)
    money.owes(made)
    write(engine, lambda c: credit.grant(c, HOSTILE, MICRO, made.fleet.by, key="h", plan="free"))
    write(engine, lambda c: pools.make(c, "pool", made.fleet.by))
    write(engine, lambda c: credit.grant(c, "pool", 9 * MICRO, made.fleet.by, key="p", plan=None))
    write(engine, lambda c: pools.allot(c, "pool", "acme", MICRO, made.now + DAY_MS, made.fleet.by, key="a"))
    write(engine, lambda c: tiers.set_tier(c, "pro", tiers.Change(100, MICRO), made.fleet.by))
    made.fleet.write("INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('wallet:owing', -1500000)")
    money.in_doubt(made)
    write(engine, lambda c: credit.grant(c, "acme", 20 * MICRO, made.fleet.by, key="again", plan=None))
    money.tells(made)
    for number, (verdict, theirs) in enumerate((("equal", 5), ("short", 3))):
        values = {"feature": f"f{number}", "theirs": theirs, "verdict": verdict}
        made.fleet.write(COMPARED, {**values, "day": T0 - DAY_MS, "at": made.now})
    write(engine, lambda c: checks.check_spenders(c, made.now))
    return made


@pytest.fixture
def home(engine: sa.Engine) -> Home:
    return lived(engine, traded)


def test_grant_form_kind_is_not_preselected(home: Home) -> None:
    form = home.get("/console/act/grant?id=acme", session=ANN)[0].text
    assert '<option value="" selected>choose one</option>' in form


def test_org_page_balance_at_provider_names_provider(home: Home) -> None:
    home.fleet.write("INSERT INTO orgs (org_id, bucket) VALUES ('elsewhere', 0)")
    home.fleet.write(
        "UPDATE orgs SET billing_provider = 'autumn', balance_micro = 14860000, balance_read_ms = :now, "
        "unconfirmed_micro = 1000000 WHERE org_id = 'elsewhere'",
        {"now": home.now - 60_000},
    )
    assert "Left at autumn 13.86 read 1 min ago" in text_of(home, "/console/org?id=elsewhere")
    assert "Left at" not in text_of(home, "/console/org?id=acme")


def later(home: Home, ms: int) -> None:
    """Time goes by, and ann signs in again."""
    home.fleet.clock.at_ms += ms
    at_ms = home.fleet.clock.at_ms
    write(home.engine, lambda c: console_sessions.begin(c, "ann", STORED, secret(AGAIN), "192.0.2.7", at_ms))


def text_of(home: Home, path: str, session: int = ANN) -> str:
    (answer,) = home.get(path, session=session)
    assert answer.status_code == 200, (path, answer.text[-400:])
    main = answer.text.partition("<main")[2].partition(">")[2]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", main)))


def hrefs(home: Home, path: str, session: int = ANN) -> list[str]:
    (answer,) = home.get(path, session=session)
    return [html.unescape(one) for one in re.findall(r'href="([^"]+)"', answer.text)]


def rows_of(home: Home, path: str, session: int = ANN) -> list[str]:
    """A file's lines, without the names."""
    (answer,) = home.get(path, session=session)
    assert answer.status_code == 200
    return answer.text.splitlines()[1:]


def test_billing_page_equals_command_line_figures(home: Home) -> None:
    account = read(home.engine, lambda c: account_of(c, "acme", home.now))
    said = text_of(home, "/console/billing?id=acme", KIM)
    for name, micro in (
        ("Available", account.available_micro), ("Reserved", account.reserved_micro),
        ("Included in plan", account.included_micro), ("Purchased", account.purchased_micro),
        ("Settlement hold", account.hold_micro),
    ):  # fmt: skip
        assert f"{name} {figures.credits(micro)} " in said
    for piece in (
        "Automatic top-up 5.00", "upstream embedded billed at as acme", "upstream pool pool that allots credit 1.00",
        "downstream pixel supplier", "in doubt Record outcome ", "pro 100 1.00 not held Buy",
        "drawdown ledger billing acme",
    ):  # fmt: skip
        assert piece in said, piece
    links = hrefs(home, "/console/billing?id=acme", KIM)
    assert {"/console/wallet?id=acme", "/console/org?id=acme", "/console/billing?id=pool"} <= set(links)
    assert "/console/topup?id=topup%3Aacme%3A1" in links and "/console/act/grant?id=acme" in links
    assert "/console/act/topup-resolve?topup=topup%3Aacme%3A1" in links
    assert not [one for one in hrefs(home, "/console/billing?id=acme", VIC) if "/act/" in one], "a viewer may nothing"


def test_billing_overview_lists_wallets_that_need_attention(home: Home) -> None:
    said = text_of(home, "/console/billing")
    (spender,) = read(home.engine, wallets.spenders_kept)
    assert f"1 acme Give credit {figures.credits(spender.used_micro)}" in said
    assert (
        "Wallets with a negative balance 1 " in said and f"owing Give credit {figures.credits(-1_500_000)} owed" in said
    )
    given = [one for one in hrefs(home, "/console/billing") if one.startswith("/console/act/grant?")]
    assert {"/console/act/grant?id=acme", "/console/act/grant?id=owing"} <= set(given), "the form has its customer"
    assert not [one for one in hrefs(home, "/console/billing", VIC) if "/act/" in one], "a viewer may nothing"
    assert "Top-ups in doubt 1 " in said and "pool 8.00 1.00" in said
    assert "/console/act/topup-stop-all" not in hrefs(home, "/console/billing"), "an admin alone"
    later(home, 3 * DAY_MS)
    assert "out of date" in text_of(home, "/console/billing", AGAIN)


def test_usage_day_shows_running_balance_and_links_to_executions(home: Home) -> None:
    entries = read(home.engine, lambda c: wallet_entries.page(c, "acme")).entries
    run = next(one for one in entries if one.kind == "execution")
    path = f"/console/org?id=acme&tab=usage&day={figures.day(run.ts)}"
    assert f"/console/execution?key={run.reservation}" in hrefs(home, path)
    said, balance = text_of(home, path), sum(one.moved_micro for one in entries)
    for one in entries:
        if figures.day(one.ts) == figures.day(run.ts):
            assert f"{figures.signed(one.moved_micro)} {figures.credits(balance)}" in said
        balance -= one.moved_micro


def test_ledger_entry_links_to_its_push_or_execution(home: Home) -> None:
    entries = read(home.engine, lambda c: wallet_entries.page(c, "acme")).entries
    usage = next(one.key for one in entries if one.kind == "usage")
    run = next(one.reservation for one in entries if one.kind == "execution")
    for path in ("/console/wallet?id=acme", "/console/org?id=acme&tab=ledger"):
        links = hrefs(home, path)
        assert f"/console/push?key={usage.replace(':', '%3A')}" in links and f"/console/execution?key={run}" in links
        said = text_of(home, path)
        balance = sum(one.moved_micro for one in entries)
        for one in entries:
            assert f"{figures.signed(one.moved_micro)} {figures.credits(balance)}" in said, "with what was left"
            balance -= one.moved_micro
    assert "/console/act/ledger-take-back?lot=grant%3Aagain" in hrefs(home, "/console/wallet?id=acme")
    file = rows_of(home, "/console/wallet.csv?id=acme")
    assert len(file) == len(entries)


def test_settlements_are_listed_by_supplier_state_and_execution(home: Home) -> None:
    (account,) = read(home.engine, lambda c: settlements.list_suppliers(c, home.now, 10))
    assert account.sums.eligible_micro == 2 * MICRO
    said = text_of(home, "/console/settlements")
    assert "Eligible 2.00" in said and "render-1 pixel eligible 2.00 1.00" in said
    assert "/console/act/settlement-payout?supplier=pixel&expect=2.000000" in hrefs(home, "/console/settlements")
    assert "No settlement matches the filter" in text_of(home, "/console/settlements?state=frozen")
    assert len(rows_of(home, "/console/settlements.csv?state=eligible")) == 2
    assert rows_of(home, "/console/settlements.csv?state=hold") == []
    one = text_of(home, "/console/settlement?key=render-1")
    assert "Share 50 %" in one and "Owed 1.00" in one
    assert "/console/act/settlement-reverse?execution=render-1" in hrefs(home, "/console/settlement?key=render-1")


@pytest.mark.parametrize(
    "chosen", ["state=eligible", "state=hold", "org=acme", "org=globex", "org=acme&state=eligible"]
)
def test_settlements_sums_equal_filtered_rows(home: Home, chosen: str) -> None:
    home.register(["globex"])
    said = text_of(home, f"/console/settlements?{chosen}")
    (file,) = home.get(f"/console/settlements.csv?{chosen}")
    lines = list(csv.DictReader(file.text.splitlines()))
    sums = {
        state: sum(float(line["owed"]) for line in lines if line["state"] == state) for state in ("hold", "eligible")
    }
    assert bool(lines) == (chosen in ("state=eligible", "org=acme", "org=acme&state=eligible"))
    assert f"Eligible {sums['eligible']:.2f} in the next payout" in said or chosen == "state=hold"
    assert (f"On hold {sums['hold']:.2f} until its time ends" in said) == ("state=eligible" not in chosen)
    assert "Clawbacks due" not in said, "it is a supplier's"


def test_reconcile_page_lists_differences_first(home: Home) -> None:
    said = text_of(home, "/console/reconcile")
    first, _, rest = said.partition("Last comparisons")
    assert f"f1 5 3 {figures.MINUS}2 short" in first and "f0" not in first
    assert "f0 5 5 0 equal" in rest and "autumn compute_1gb +5" in rest
    assert "amounts in credits" not in said, "they are base units"
    assert "amounts in credits" in text_of(home, "/console/settlements")
    equal = text_of(home, "/console/reconcile?verdict=equal")
    assert "f1" not in equal and "Differences" not in equal, "it is not what is asked for"
    assert "No difference matches the filter." in text_of(home, "/console/reconcile?verdict=over")
    for number in range(reconciliations.MOST_DIFFERING):  # later ones, more than are shown
        values = {"feature": f"g{number}", "theirs": 9, "verdict": "over", "day": T0, "at": home.now}
        home.fleet.write(COMPARED, values)
    short = text_of(home, "/console/reconcile?verdict=short").partition("Last comparisons")[0]
    assert f"f1 5 3 {figures.MINUS}2 short" in short and "found no difference" not in short and "g1" not in short
    assert len(rows_of(home, "/console/reconcile.csv?verdict=short")) == 1


def test_reconcile_page_unbilled_days_can_be_acknowledged(home: Home) -> None:
    home.fleet.write(
        "INSERT INTO compared_marks (provider, customer_id, compared_ms, open_days, open_since_ms, said, at_ms) "
        "VALUES ('embedded', 'acme', :day, 1, :day, :said, :at)",
        {"day": T0, "said": f"{NEEDS_YOU}it was deleted", "at": T0 + 30 * DAY_MS},
    )
    assert "Unbilled days to acknowledge" in text_of(home, "/console/reconcile")
    form = {"org": "acme", "reason": "settled with the customer", "step": "look"}
    page = home.send("/console/act/reconcile-acknowledge", form).text
    assert says(page, "Not billed by embedded") and says(page, "and 1 unbilled day acknowledged")


def test_reconcile_page_without_comparisons_is_empty_message_once(home: Home) -> None:
    write(home.engine, lambda c: c.exec_driver_sql("DELETE FROM reconciliations"))
    said = text_of(home, "/console/reconcile?verdict=short")
    assert said.count("No comparison exists yet") == 1 and "drawdown reconcile" in said
    assert "Last comparisons" not in said and "Compared days" not in said
    assert "autumn compute_1gb +5" in said, "what is still to be acknowledged"


@pytest.mark.parametrize(
    ("estimated", "billed", "said"),
    [
        (1_000_000, 1_309_999, "+31.0"),
        (1_000_000, 690_001, f"{figures.MINUS}31.0"),
        (3_000_000, 2_000_000, f"{figures.MINUS}33.3"),
        (1_000_000, 1_000_500, "+0.1"),
        (1_000_000, 999_501, "0.0"),
        (1_000_000, 0, f"{figures.MINUS}100.0"),
        (-1_000_000, -1_500_000, "+50.0"),
        (0, 5, figures.UNKNOWN),
        (None, 5, figures.UNKNOWN),
        (5, None, figures.UNKNOWN),
    ],
)
def test_drift_percentage_is_rounded_to_nearest(estimated: int | None, billed: int | None, said: str) -> None:
    line = DriftLine(0, "aws", "vm", "USD", estimated, billed, "final", False, False)
    assert drift.apart(line) == said


def test_drift_beyond_tolerance_is_off_and_unknown_is_not_zero(home: Home) -> None:
    day, by = T0 - T0 % DAY_MS, home.fleet.by
    units = Units("aws", "vm", "hour", 1, MICRO, 60, "USD")
    write(home.engine, lambda c: set_units(c, "compute_1gb", units, day - 9 * DAY_MS, by, new=False))
    lines = [BillLine("aws", "vm", day, "USD", 2 * MICRO, False), BillLine("aws", "mail", day, "USD", MICRO, True)]
    write(home.engine, lambda c: import_bills(c, BillFile("f" * 64, lines), by))
    later(home, 2 * DAY_MS)
    said = text_of(home, "/console/drift", AGAIN)
    assert "aws vm 1.00 2.00 USD +100.0 off provisional" in said
    assert f"aws mail {figures.UNKNOWN} 1.00 USD {figures.UNKNOWN} unknown" in said
    assert "Drifting lines 1 " in said and "Alerts 0 " in said and "never, so no alert can fire" in said
    mail, vm = rows_of(home, "/console/drift.csv", AGAIN)
    assert ",unmapped,unknown," in mail.replace('"', "") and ",provisional,off," in vm.replace('"', "")
    assert "by more than 15 %, and by 1.00 or more" in said, "neither alone is off"


def test_drift_verdict_is_alert_off_within_or_unknown() -> None:
    """What is not known is neither within the bounds nor off."""
    days: list[tuple[int | None, int | None, bool, bool]] = [
        (1, 9, True, True), (1, 9, True, False), (1, 1, False, False), (1, None, False, False), (None, 1, False, False),
    ]  # fmt: skip
    lines = [DriftLine(0, "aws", "vm", "USD", own, theirs, "final", off, alert) for own, theirs, off, alert in days]
    assert [drift.verdict(one) for one in lines] == ["alert", "off", "within", "unknown", "unknown"]


def test_drift_page_command_lists_same_rows_as_page(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """At any time of day: a range of bills is of whole days."""
    units = Units("aws", "vm", "hour", 1, MICRO, 60, "USD")
    write(home.engine, lambda c: set_units(c, "compute_1gb", units, T0 - 9 * DAY_MS, home.fleet.by, new=False))
    billed = {0: 720_000, 5: 500_000, 6: 500_000}  # by the days before; the last one is not shown
    lines = [BillLine("aws", "vm", T0 - day * DAY_MS, "USD", micro, True) for day, micro in billed.items()]
    write(home.engine, lambda c: import_bills(c, BillFile("e" * 64, lines), home.fleet.by))
    later(home, 2 * DAY_MS)
    said = text_of(home, "/console/drift", AGAIN)
    assert f"aws vm 1.00 0.72 USD {figures.MINUS}28.0 within final" in said, "more than 15 %, and less than 1.00"
    words = said.partition("drawdown vendor drift ")[2].split()[:2]
    url = home.engine.url.render_as_string(hide_password=False)
    asked = ["--database-url", url, "--at", str(home.fleet.clock.at_ms), "--json", "vendor", "drift", *words]
    assert run(asked) == 0, "nothing alerts"
    found = json.loads(capsys.readouterr().out)["drift"]
    in_file = [row.replace('"', "").split(",")[5] for row in rows_of(home, "/console/drift.csv", AGAIN)]
    assert len(found) == len(in_file) == 2 and set(in_file) == {"within"}


NONSENSE: Final = [
    ("/console/billing?id=acmee", 404, "did you mean acme?"),
    ("/console/wallet", 400, "missing id in the address"),
    ("/console/wallet?id=acmee", 404, "did you mean acme?"),
    ("/console/wallet?id=acme&after=no", 400, "this wallet does not have an entry"),
    ("/console/ledger?which=rich", 400, "invalid which 'rich': expected owed, low"),
    ("/console/ledger?after=acme&at=1e9", 400, "invalid at '1e9': expected a whole number"),
    ("/console/ledger?search=%00", 400, "invalid search: expected"),
    ("/console/settlements?state=lost", 400, "invalid state 'lost': expected hold"),
    ("/console/settlements?supplier=pixle", 400, "did you mean pixel?"),
    ("/console/settlements?after=render-9", 400, "did you mean render-"),
    ("/console/settlement?key=render-11", 404, "did you mean render-1"),
    ("/console/reconcile?verdict=even", 400, "invalid verdict 'even': expected short"),
    ("/console/reconcile?org=acmee", 400, "did you mean acme?"),
    ("/console/reconcile?after_day_ms=x", 400, "invalid after_day_ms 'x': expected a whole number"),
    ("/console/drift?days=8", 400, "invalid days '8': expected 7"),
    ("/console/topup?id=topup:acme:2", 404, "did you mean topup:acme:1?"),
    ("/console/org?id=acme&tab=ledger&after=x", 400, "does not have an entry"),
    (f"/console/wallet?id=acme&after={'x' * MAX_KEY_CHARS}", 400, "does not have an entry"),
    (f"/console/wallet?id=acme&after={'x' * (MAX_KEY_CHARS + 1)}", 400, "expected a key of 1 to"),
    (f"/console/topup?id=topup:{'y' * 200}:1", 404, "unknown top-up"),
    ("/console/topup?id=%00", 400, "invalid id: expected at most"),
]


def test_money_pages_invalid_parameters_are_refused_with_message(home: Home) -> None:
    answers = home.get(*(place for place, _, _ in NONSENSE))
    for (place, status, said), answer in zip(NONSENSE, answers, strict=True):
        assert answer.status_code == status and says(answer.text, said), (place, answer.text[-300:])


def test_blocked_topup_reason_is_shown_on_page_and_in_file(home: Home) -> None:
    """In its mode alone it would look like one that fills the wallet."""
    terms = "SELECT customer_id FROM topup_terms ORDER BY 1"
    (customer, *_) = [str(name) for (name,) in home.fleet.rows(terms)]
    text = (
        "UPDATE topup_terms SET declines = 3, blocked_ms = 1, blocked_reason = 'stolen_card' WHERE customer_id = :one"
    )
    home.fleet.write(text, {"one": customer})
    (line,) = [one for one in rows_of(home, "/console/ledger.csv") if one.startswith(f'"{customer}",')]
    assert '"stolen_card"' in line
    assert says(home.get("/console/ledger")[0].text, "stopped automatically")


def test_money_pages_hostile_customer_id_is_escaped(home: Home) -> None:
    asked = {"id": HOSTILE}
    paths = [f"{path}?{urlencode(asked)}" for path in ("/console/billing", "/console/wallet")]
    for answer in home.get("/console/ledger", *paths):
        assert answer.status_code == 200 and "<b onclick" not in answer.text
        assert html.unescape(answer.text).count(HOSTILE) >= 1
    (line,) = [one for one in rows_of(home, "/console/ledger.csv") if "onclick" in one]
    assert line.startswith('"<b onclick=x>""&')


def fill_up(home: Home, many: int) -> None:
    """So many wallets, settlements, comparisons; and entries of acme."""
    rows = [{"n": n, "id": f"wallet:w{n:03}", "key": f"e{n:03}", "run": f"run-{n:03}"} for n in range(many)]

    def work(c: sa.Connection) -> None:
        c.execute(sa.text("INSERT INTO ledger_accounts (account_id, balance_micro) VALUES (:id, :n)"), rows)
        c.execute(
            sa.text(
                "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, "
                "reason) VALUES (:key, 'tier', 'wallet:acme', 'tiers', 0, :n, :n, 'a', 'r')"
            ),
            rows,
        )
        c.execute(
            sa.text(
                "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, "
                "verdict, at_ms) VALUES (0, :key, 'embedded', 'x', 'f', 1, 2, 'over', 1)"
            ),
            rows,
        )

    write(home.engine, work)


def test_money_page_statement_count_is_independent_of_row_count(home: Home) -> None:
    few = statements(home, PATHS)
    fill_up(home, 60)
    many = statements(home, PATHS)
    assert many == few and max(many.values()) <= MOST_STATEMENTS, (few, many)


@pytest.mark.both_databases
def test_money_list_pages_contain_each_row_once(home: Home) -> None:
    fill_up(home, 2 * wallets.MOST_ON_PAGE + 5)
    pages = {
        "/console/ledger?search=w": (r'<a href="/console/billing\?id=(w\d+)"', 105),
        "/console/wallet?id=acme": (r"<bdi>(e\d{3})</bdi>", 105),
        "/console/reconcile?verdict=over": (r'<a href="/console/org\?id=(e\d+)"', 105),
    }
    for first, (pattern, many) in pages.items():
        path, seen = first, list[str]()
        while path:
            (answer,) = home.get(path)
            last = answer.text.rpartition("Compared days")[2]
            seen += re.findall(pattern, last)
            following = re.search(r'rel="next" href="([^"]+)"', answer.text)
            path = html.unescape(following[1]) if following else ""
        assert len(seen) == len(set(seen)) == many, first
    sizes = (wallet_entries.MOST_ENTRIES_ON_PAGE, settlements.MOST_ON_PAGE, reconciliations.MOST_ON_PAGE)
    assert sizes == (50, 50, 50)
    found, after = read(
        home.engine,
        lambda c: settlements.page(c, settlements.SettlementFilter(("eligible",)), home.now, most=1),
    )
    rest, end = read(
        home.engine,
        lambda c: settlements.page(c, settlements.SettlementFilter(("eligible",)), home.now, after or "", 1),
    )
    assert {one.reservation for one in (*found, *rest)} == {"render-1", "render-2"} and end is None
    assert after == found[0].reservation


def test_grant_form_describes_every_lot_kind() -> None:
    """A kind that is added is given a meaning, too."""
    assert set(MEANING) == set(KINDS)


def test_reconcile_correction_preview_lists_chosen_days_only(home: Home) -> None:
    money.compared(home)
    form = {"org": "acme", "provider": "embedded", "reason": "lost", "step": "look"}
    for start, end, is_shown in (("2026-01-01", "2026-01-02", True), ("2025-12-01", "2025-12-02", False)):
        page = home.send("/console/act/reconcile-correct", {**form, "from": start, "to": end}, KIM)
        assert page.status_code == 200, page.text
        assert (">short<" in page.text) == is_shown, start
