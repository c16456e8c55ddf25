"""Who runs out within a time: on the page, in files, on the command line; files for spreadsheets and for programs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.text import no_formula
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console import files as console_files
from drawdown.server.console import my
from drawdown.server.console.console import AT_ONCE
from drawdown.server.console.csv_lines import as_json, csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.pages import PAGES
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.customers import orgs
from drawdown.server.console.session_auth import COOKIE
from drawdown.server.http.errors import ApiError
from drawdown.server.settings import MySettings
from drawdown.worker.access.people import Person
from drawdown.worker.orgs.lists import OrgFilter, list_orgs
from drawdown.worker.verdict.watch_state import note_round
from tests.server.console_home import ANN, Home, secret

HOSTILE = "=1+1;<b>\u202e\"'"
ENDING = 2 * orgs.PAGE_ROWS + 5


@pytest.fixture
def home(engine: sa.Engine) -> Home:
    """Many run out one after the other, a minute apart and two of each minute; one is halted, one exempt, one gone."""
    found = Home(engine)
    found.register([*(f"org-{number:03}" for number in range(ENDING)), HOSTILE, "halted", "exempt", "nobody-s"])
    now = found.now

    def end(connection: sa.Connection) -> None:
        text = "UPDATE orgs SET runs_out_ms = :end, billing_provider = :provider, is_halted = :halted, halted_at = :at "
        rows = [
            {"org": f"org-{number:03}", "end": now + (ENDING - number) // 2 * MINUTE_MS} for number in range(ENDING)
        ]
        rows += [{"org": HOSTILE, "end": now + 2 * DAY_MS}, {"org": "halted", "end": now}]
        rows += [{"org": "exempt", "end": now, "provider": "legacy"}, {"org": "nobody-s", "end": now, "provider": None}]
        for row in rows:
            at = now if row["org"] == "halted" else None
            values = {"provider": "embedded", "halted": at is not None, "at": at, **row}
            connection.execute(sa.text(text + "WHERE org_id = :org"), values)
        note_round(connection, now)

    write(engine, end)
    return found


def files(home: Home, *paths: str) -> list[httpx.Response]:
    """Each file, once it is on record."""

    async def work(client: httpx.AsyncClient, console: Any) -> list[httpx.Response]:
        found = [await client.get(path, headers={"cookie": f"{COOKIE}={secret(ANN)}"}) for path in paths]
        while console._files._under_way:
            await asyncio.sleep(0.01)
        return found

    return home.ask(work)


def test_console_and_customer_pages_do_not_share_threads_or_file_slots(engine: sa.Engine) -> None:
    """And the other way round: each has threads and files of its own."""
    home, free = Home(engine, my=MySettings(("s" * 32,))), threading.Event()

    def wait(_engine: sa.Engine) -> None:
        free.wait()

    async def asked(answer: Awaitable[httpx.Response]) -> int:
        return (await asyncio.wait_for(answer, 30)).status_code

    async def work(client: httpx.AsyncClient, console: Any) -> list[int]:
        person, found = {"cookie": f"{COOKIE}={secret(ANN)}"}, []
        try:
            for _ in range(my.AT_ONCE):
                console._my._threads.begin(wait)
            console._my._files._under_way = console_files.MOST_FILES
            paths = ("/console/orgs", "/console/orgs.csv")
            found += [await asked(client.get(path, headers=person)) for path in paths]
            free.set()
            console._my._files._under_way = 0
            await console._my._threads.run(wait)
            free.clear()
            for _ in range(AT_ONCE):
                console._threads.begin(wait)
            found.append(await asked(client.get("/my/usage")))
        finally:
            free.set()
        return found

    assert home.ask(work) == [200, 200, 401], "nobody is in, which is read first"


def test_file_download_abandoned_by_reader_frees_its_slot(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two customers who read nothing hold both places, for a while."""
    monkeypatch.setattr(console_files, "GONE_EVERY_S", 0.01)
    monkeypatch.setattr(console_files, "TAKEN_WITHIN_S", 0.03)
    home = Home(engine)
    taken = console_files.FileRequest("/my/usage.csv", Ask(Person("vic", "viewer", None), home.now, {}))

    def endless(_connection: sa.Connection) -> Iterator[str]:
        while True:
            yield "x" * console_files.PIECE_BYTES

    async def work(_client: httpx.AsyncClient, console: Any) -> None:
        held = [await console._my._files.open(endless, taken, of=name) for name in ("acme", "globex")]
        with pytest.raises(ApiError):
            await console._my._files.open(endless, taken, of="initech")
        async with asyncio.timeout(30):
            while console._my._files._under_way:
                await asyncio.sleep(0.01)
        for late in held:
            with pytest.raises(console_files.NotTaken):
                _ = [piece async for piece in late]
        assert len([piece async for piece in await console._my._files.open(lambda _: iter("x"), taken, of="acme")]) == 1

    home.ask(work)


def test_file_download_read_too_slowly_is_cancelled_and_frees_its_slot(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who takes a piece now and then holds a place for a while, not for good."""
    monkeypatch.setattr(console_files, "WHOLE_WITHIN_S", 0.2)
    home = Home(engine)
    taken = console_files.FileRequest("/my/usage.csv", Ask(Person("vic", "viewer", None), home.now, {}))

    def long(_connection: sa.Connection) -> Iterator[str]:
        yield from ("x" * console_files.PIECE_BYTES for _ in range(500))

    async def work(_client: httpx.AsyncClient, console: Any) -> None:
        slow = await console._my._files.open(long, taken, of="acme")
        with pytest.raises(console_files.NotTaken, match="did not take the whole file"):
            async for _ in slow:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            while console._my._files._under_way:
                await asyncio.sleep(0.01)

    home.ask(work)


def test_orgs_list_running_out_is_paged_by_earliest_end(home: Home) -> None:
    path, seen, pages = "/console/orgs?within=1h", [], 0
    while path:
        (answer,) = home.get(path)
        assert answer.status_code == 200 and "no watch runs" not in answer.text
        seen += re.findall(r"\"Organisation\"><a href=\"/console/org\?id=([^\"]+)\"", answer.text)
        following = re.search(r'rel="next" href="([^"]+)"', answer.text)
        path, pages = (following[1].replace("&amp;", "&") if following else ""), pages + 1
    assert (len(seen), pages) == (ENDING, 3)
    ends = [(ENDING - int(name[4:])) // 2 for name in seen]
    assert ends == sorted(ends) and len(set(seen)) == ENDING
    within = OrgFilter(runs_out_by_ms=home.now + DAY_MS)
    listed = read(home.engine, lambda c: list_orgs(c, within, home.now, sort="end", most=500)).orgs
    assert [one.org_id for one in listed] == seen
    (later,) = home.get("/console/orgs?within=7d&search=%3D")
    assert "&lt;b&gt;" in later.text and later.text.count('"Organisation"><a href') == 1


def test_list_reports_missing_watch_and_invalid_filter_is_refused(home: Home) -> None:
    counted = r'Out of credit within 24 h</a></span><span class="figure">([^<]+)<'
    (overview,) = home.get("/console/")
    assert re.findall(counted, overview.text) == [str(ENDING)]
    home.fleet.write("UPDATE orgs SET runs_out_ms = NULL")
    (overview,) = home.get("/console/")
    assert re.findall(counted, overview.text) == ["0"]
    home.fleet.write("UPDATE watch_state SET round_ms = round_ms - 600000")
    (answer,) = home.get("/console/orgs?within=1h")
    assert answer.status_code == 200 and "no watch runs" in answer.text
    (overview,) = home.get("/console/")
    assert re.findall(counted, overview.text) == [figures.UNKNOWN], "nobody knows: that is no zero"
    for path, why in (
        ("?within=2h", "expected 1h"),
        ("?within=1h&ends=soon", "expected a whole number"),
        ("?ends=²", "expected a whole number"),
    ):
        (refused,) = home.get(f"/console/orgs{path}")
        assert refused.status_code == 400 and why in refused.text, path


def test_file_for_programs_equals_spreadsheet_with_texts_unescaped(home: Home) -> None:
    table, lines, *ledgers = files(
        home, "/console/orgs.csv?within=7d", "/console/orgs.jsonl?within=7d", "/console/org.csv?id=acme",
        "/console/org.jsonl?id=acme",
    )  # fmt: skip
    assert lines.headers["content-type"] == "application/jsonl" and "organisations.jsonl" in str(lines.headers)
    rows = list(csv.DictReader(io.StringIO(table.text)))
    objects = [json.loads(line) for line in lines.text.splitlines()]
    assert len(rows) == len(objects) == ENDING + 1 and list(rows[0]) == list(objects[0])
    assert [row["org_id"] for row in rows][:-1] == [one["org_id"] for one in objects][:-1]
    assert (rows[-1]["org_id"][:2], objects[-1]["org_id"]) == ("'=", HOSTILE)
    assert objects[0]["running"] == 0 and rows[0]["runs_out"] == ""
    assert objects[0]["plan"] is objects[0]["runs_out"] is None, "nothing is used now"
    keys = [row["key"] for row in csv.DictReader(io.StringIO(ledgers[0].text))]
    assert keys == [json.loads(line)["key"] for line in ledgers[1].text.splitlines()] and keys
    taken = home.fleet.rows("SELECT target, details FROM operator_actions WHERE action = 'console_export' ORDER BY 1")
    assert [(target, json.loads(str(details))["rows"]) for target, details in taken] == [
        ("/console/org.csv", len(keys)), ("/console/org.jsonl", len(keys)),
        ("/console/orgs.csv", ENDING + 1), ("/console/orgs.jsonl", ENDING + 1),
    ]  # fmt: skip


@pytest.mark.both_databases
def test_every_exportable_page_serves_csv_and_jsonl(home: Home) -> None:
    paths = [page.file_path(form) + page.example for page in PAGES if page.lines for form in ("csv", "jsonl")]
    answers = []
    for number in range(0, len(paths), 2):  # as many at once as may be
        answers += files(home, *paths[number : number + 2])
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers[1::2]:
        assert all(isinstance(json.loads(line), dict) for line in answer.text.splitlines())


def test_json_conversion_header_only_is_empty_and_json_is_unchanged() -> None:
    assert list(as_json(iter([csv_line(("a", "b"))]))) == []
    assert list(as_json(iter(['{"x": 1}\n']))) == ['{"x": 1}\n']
    made = list(as_json(iter([csv_line(("a", "b", "n")), csv_line(("=x", None), (7,))])))
    assert made == ['{"a": "=x", "b": null, "n": 7}\n']


def test_csv_plain_cell_shortcut_equals_full_escaping() -> None:
    """The short way of most texts: each character of ASCII, first, last and alone, beside the way of those that are
    not."""
    texts = [before + chr(code) + after for code in range(128) for before in ("", "a") for after in ("", "b", "=b")]
    for text in filter(None, texts):
        assert csv_line((text,)) == '"' + no_formula(text).replace('"', '""') + '"\n'
