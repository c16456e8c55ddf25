"""The console's ledgers: each entry says when it was used and when it was booked, a file is what its page is, and what
is owed has a word."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.ledger.draws import Cost
from drawdown.ledger.lots import Terms
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.my import COOKIE as MY_COOKIE
from drawdown.server.settings import MySettings
from drawdown.worker.access import my_sessions
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets.entries import Chosen, EntryLine
from tests.server.console_home import STORED, Home, says, secret
from tests.server.lived import lived
from tests.world import T0

LATER: Final = 99
"""The session of ann, ten days on."""
LATE: Final = T0 + 9 * DAY_MS + 13 * 60 * MINUTE_MS + 4 * MINUTE_MS + 17_500
"""When what came in late was booked: 13:04:17.5 of the tenth day."""


def ten_days(engine: sa.Engine) -> Home:
    """Ten days of acme: a grant, usage of each day, a run; and samples of the second and the eighth day that were told
    on the tenth. All but the second day's are of the last seven days, as it is now."""
    made = Home(engine, my=MySettings(("s" * 32,)))
    fleet = made.fleet
    for day in range(1, 10):
        fleet.sample("acme", T0 + day * DAY_MS + 5, 600)
        fleet.tick(T0 + day * DAY_MS + 2 * WINDOW_MS)
    write(engine, lambda c: executions.accept(c, "r-1", Request("acme", MICRO, project="site"), fleet.by))
    write(engine, lambda c: executions.settle(c, "r-1", Cost(1_234_567), fleet.by))
    for day in (1, 7):
        fleet.sample("acme", T0 + day * DAY_MS + 7 * WINDOW_MS, 300)
    fleet.tick(LATE)
    write(engine, lambda c: credit.grant(c, "acme", 3 * MICRO, fleet.by, key="more", plan=None))
    made.now = fleet.clock.at_ms = LATE + MINUTE_MS
    write(engine, lambda c: console_sessions.begin(c, "ann", STORED, secret(LATER), "192.0.2.7", made.now))
    return made


@pytest.fixture
def home(engine: sa.Engine) -> Home:
    return lived(engine, ten_days)


def page_of(home: Home, path: str) -> str:
    (answer,) = home.get(path, session=LATER)
    assert answer.status_code == 200, (path, answer.text[-400:])
    return html.unescape(answer.text)


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def in_csv(home: Home, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(page_of(home, path))))


def in_json(home: Home, path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in page_of(home, path).splitlines()]


def command(home: Home, capfd: pytest.CaptureFixture[str], *line: str) -> str:
    url = home.engine.url.render_as_string(hide_password=False)
    capfd.readouterr()
    assert drawdown(["--database-url", url, "--at", str(home.now), *line]) == 0
    return capfd.readouterr().out


def micro(texts: list[str]) -> int:
    return int(sum(Decimal(text) for text in texts) * MICRO)


def entries(home: Home, chosen: Chosen = wallet_entries.ALL) -> list[EntryLine]:
    return [one for one, _ in read(home.engine, lambda c: list(wallet_entries.every(c, "acme", chosen)))]


def tile(text: str, name: str) -> str:
    (found,) = re.findall(rf'class="name">{name}</span><span class="figure">([^<]+)<', text)
    return str(found)


@pytest.mark.both_databases
def test_ledger_sums_by_use_time_are_equal_on_page_command_and_files(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    tomorrow = T0 + 10 * DAY_MS
    for days, count in ((7, 10), (30, 15)):
        page = page_of(home, f"/console/org?id=acme&days={days}")
        file = in_csv(home, f"/console/org.csv?id=acme&days={days}")
        objects = in_json(home, f"/console/org.jsonl?id=acme&days={days}")
        span = ("--from", str(tomorrow - days * DAY_MS), "--to", str(tomorrow), "--by", "used", "--format", "jsonl")
        told = [
            json.loads(line) for line in command(home, capfd, "export", "ledger", "--org", "acme", *span).splitlines()
        ]
        assert len(file) == len(objects) == len(told) == count, "what was used before, and booked since, is not of them"
        moved = micro([row["amount"] for row in file])
        assert moved == micro([one["amount"] for one in objects]) == sum(one["moved_micro"] for one in told)
        days_shown = re.findall(r'data-head="Amount" class="number">([^<]+)<', page)
        assert figures.signed(moved) == figures.signed(sum(map(from_page, days_shown)))
        used = -micro([row["amount"] for row in file if row["kind"] in ("usage", "execution")])
        assert f"{figures.credits(used)} in total" in page, "the chart"
        balance = tile(page, "Balance")
        assert balance == figures.credits(micro([file[0]["balance"]])), "behind the latest"
        if days == 30:
            assert tile(page, "Used in 30 days") == figures.credits(used) and balance == figures.credits(moved)
    late = [one for one in entries(home) if one.at_ms == LATE and one.kind == "usage"]
    assert [figures.day(one.ts) for one in late] == ["2026-01-08", "2026-01-02"], "both sides of the seven days"


def from_page(text: str) -> int:
    """A figure of a page."""
    return int(Decimal(text.replace(figures.MINUS, "-").replace("+", "").replace(",", "")) * MICRO)


def test_ledger_entries_show_use_time_and_booking_time(home: Home) -> None:
    late = [one for one in entries(home) if one.at_ms == LATE][-1]
    assert figures.day(late.ts) == "2026-01-02"
    both = f"{figures.time(late.ts)} {figures.time(LATE)} compute_1gb"
    mine = f"{MY_COOKIE}={secret(7)}"
    write(home.engine, lambda c: my_sessions.enter(c, "n", my_sessions.visitor("acme", "a"), secret(7), "a", home.now))
    for path, cookie in (
        ("/console/org?id=acme&day=2026-01-02", ""), ("/console/org?id=acme&tab=ledger", ""),
        ("/console/wallet?id=acme", ""), ("/my/usage?day=2026-01-02", mine),
    ):  # fmt: skip
        (answer,) = home.get(path, session=None, cookie=cookie) if cookie else home.get(path, session=LATER)
        said = words(html.unescape(answer.text))
        assert both in said and "Used, UTC Booked, UTC Event" in said, path
    for path in ("/console/org.csv?id=acme", "/console/wallet.csv?id=acme", "/my/usage.csv"):
        (answer,) = home.get(path, session=None, cookie=mine) if "/my/" in path else home.get(path, session=LATER)
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert (figures.iso(late.ts), "2026-01-10T13:04:17Z") in [(row["used_at"], row["booked_at"]) for row in rows]
        left = [Decimal(row["balance"]) for row in rows]
        assert [before + Decimal(row["amount"]) for row, before in zip(rows, left[1:], strict=False)] == left[:-1]
        assert left[-1] == Decimal(rows[-1]["amount"]) and len(rows) == 15


def test_ledger_filter_by_booking_time_finds_whole_minutes(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    """The minute that a page shows, and that somebody types, is meant whole."""
    minute = figures.time(LATE)
    then = Chosen(booked_from_ms=LATE - LATE % MINUTE_MS, booked_to_ms=LATE - LATE % MINUTE_MS + MINUTE_MS)
    keys = [one.key for one in entries(home, then)]
    assert len(keys) == 3 and len(entries(home)) == 15, "two that came late, and a grant"
    asked = urlencode({"from": minute, "to": minute})
    for path in ("/console/wallet?id=acme", "/console/org?id=acme&tab=ledger"):
        page = page_of(home, f"{path}&{asked}")
        shown = re.findall(r'data-head="Booked, UTC" class="whole">([^<]+)<', page)
        assert shown == [minute] * 3
        assert ">Booked from, UTC</label>" in page and ">Booked up to, UTC</label>" in page
        assert f"/console/wallet.csv?id=acme&{asked}" in page, "the file is of the same"
        assert ">Clear</a>" in page and "The file of all entries has the balance after each entry." in page
        whole = page_of(home, path)
        assert ">Clear</a>" not in whole and "balance after each entry" not in whole and 'data-head="Balance"' in whole
        assert "drawdown ledger entries acme --from 2026-01-10T13:04:00Z --to 2026-01-10T13:05:00Z" in page
        before = re.findall(
            r'data-head="Booked, UTC" class="whole">([^<]+)<', page_of(home, f"{path}&to=2026-01-10+13:03")
        )
        assert len(before) == 12 and minute not in before, "up to the minute before"
        assert "No entry matches the filter." in page_of(home, f"{path}&from=2026-01-10+13:05")
        for nonsense, why in (
            ("from=soon", "from: invalid time 'soon'"),
            ("from=2026-01-03&to=2026-01-02", "later than its start"),
        ):
            (answer,) = home.get(f"{path}&{nonsense}", session=LATER)
            assert answer.status_code == 400 and says(answer.text, why)
    assert [row["key"] for row in in_csv(home, f"/console/wallet.csv?id=acme&{asked}")] == keys
    assert [one["key"] for one in in_json(home, f"/console/wallet.jsonl?id=acme&{asked}")] == keys
    options = ("--from", "2026-01-10T13:04", "--to", "2026-01-10T13:05")
    told = json.loads(command(home, capfd, "--json", "ledger", "entries", "acme", *options))
    assert [one["key"] for one in told["entries"]] == keys
    wide = page_of(home, f"/console/wallet?{urlencode({'id': 'acme', 'to': '1d'})}")
    assert '<input type="hidden" name="id" value="acme">' in wide, "the form keeps whose wallet it is"
    assert '<a href="/console/wallet?id=acme">Clear</a>' in wide


def test_ledger_filter_by_amount_matches_shown_precision(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    """What is typed to the cent is all that is shown so, up or down; with more decimals it is itself alone."""
    for key, micro_credits in (("odd", 4_803_125), ("back", -4_795_000), ("near", 4_805_000), ("below", 4_794_999),
                               ("much", 1_234_500_000), ("dust", -1)):  # fmt: skip
        write(home.engine, lambda c: credit.grant(c, "acme", micro_credits, home.fleet.by, key=key, plan=None))  # noqa: B023
    for typed, keys, said in (
        ("4.80", {"grant:odd", "grant:back"}, "4.80"),
        (f"{figures.MINUS}4.8", {"grant:odd", "grant:back"}, "4.80"),
        ("+4.803125", {"grant:odd"}, "4.803125"),
        ("4.803", set[str](), "4.803000"),
        ("4.800", set[str](), "4.800000"),
        ("4.81", {"grant:near"}, "4.81"),
        ("1,234.50", {"grant:much"}, "1234.50"),
        ("<0.01", {"grant:dust"}, "'<0.01'"),
        (f">{figures.MINUS}0.01", {"grant:dust"}, "'<0.01'"),
    ):
        found = entries(home, Chosen(sizes=wallet_entries.sizes_of(typed, "--amount")))
        assert {one.key for one in found} == keys, typed
        asked = urlencode({"amount": typed})
        for path in ("/console/wallet?id=acme", "/console/org?id=acme&tab=ledger"):
            page = page_of(home, f"{path}&{asked}")
            assert set(re.findall(r"\bgrant:(?:odd|back|near|below|much|dust)\b", page.partition(">Lots<")[0])) == keys
            assert "Amount</label>" in page and "Clear</a>" in page
            assert f"drawdown ledger entries acme --amount {said}" in page, "the same by the command line"
            assert ("No entry matches the filter." in page) is not bool(keys)
        assert {row["key"] for row in in_csv(home, f"/console/wallet.csv?id=acme&{asked}")} == keys
        told = json.loads(command(home, capfd, "--json", "ledger", "entries", "acme", "--amount", typed.lstrip("+")))
        assert {one["key"] for one in told["entries"]} == keys
    for typed in ("much", "4,80", "1,5", "12,", "4.8,03", "--4.80"):
        (answer,) = home.get(f"/console/wallet?{urlencode({'id': 'acme', 'amount': typed})}", session=LATER)
        assert answer.status_code == 400 and says(answer.text, "expected credits such as 12"), typed
    assert "grant:odd" in page_of(home, "/console/wallet?id=acme&amount=%20"), "blanks ask for nothing"


def test_ledger_filter_search_is_bounded_per_page_and_continues(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wallet_entries, "MOST_LOOKED_AT", 3)
    then = Chosen(booked_from_ms=LATE - MINUTE_MS)
    path, seen, pages = f"/console/wallet?{urlencode({'id': 'acme', 'from': figures.time(LATE)})}", list[str](), 0
    while path:
        page = page_of(home, path)
        seen += re.findall(r'data-head="Booked, UTC" class="whole">([^<]+)<', page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path, pages = (following[1] if following else ""), pages + 1
        assert ("This page searched" in page) is bool(path)
    assert (seen, pages) == ([figures.time(LATE)] * 3, 5)
    assert len(entries(home, then)) == 3, "a file goes on by itself"


def test_ledger_filter_by_booking_finds_revoked_future_credit(home: Home) -> None:
    """The one entry that is booked before the time that it is of."""
    by = home.fleet.by
    begins = Terms(begins_ms=home.now + 3 * DAY_MS)
    write(home.engine, lambda c: credit.grant(c, "acme", MICRO, by, key="to-come", plan=None, terms=begins))
    write(home.engine, lambda c: credit.take_back(c, "to-come", by, whole=True))
    found = entries(home, Chosen(booked_from_ms=home.now, booked_to_ms=home.now + 1))
    assert sorted(one.moved_micro for one in found) == [-MICRO, MICRO]
    assert max(one.ts for one in found) == home.now + 3 * DAY_MS


def test_ledger_negative_balance_is_shown_with_sign_word_and_colour(home: Home) -> None:
    write(home.engine, lambda c: credit.grant(c, "acme", -100 * MICRO, home.fleet.by, key="gone", plan=None))
    for path in ("/console/org?id=acme&day=2026-01-10", "/console/org?id=acme&tab=ledger", "/console/wallet?id=acme"):
        page = page_of(home, path)
        cells = re.findall(r'data-head="Balance" class="([^"]+)">(.*?)</td>', page)
        assert cells, path
        for classes, text in cells:
            negative = figures.MINUS in text
            assert ("below" in classes) is ("owed" in words(text)) is negative, (path, classes, text)
        assert any(figures.MINUS in text for _, text in cells)
    said = words(page_of(home, "/console/billing"))
    assert re.search(rf"acme Give credit {figures.MINUS}[\d.]+ owed {figures.MINUS}[\d.]+ overdrawn", said)
