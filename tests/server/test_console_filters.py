"""Filters, pages and files of every list: a file is its page's filter, an empty late page is no empty list, and what
makes no sense is refused alike everywhere."""

from __future__ import annotations

import csv
import html
import inspect
import io
import json
import re
import sys
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import pytest
import sqlalchemy as sa

from drawdown.server.console import screens
from drawdown.server.console.frame import figures
from drawdown.server.console.pages import PAGES
from drawdown.server.console.session_auth import COOKIE
from tests.browser.sites import HOSTILE, NOW
from tests.server.console_home import KIM, Home, secret
from tests.server.filled import TURNED, Filled
from tests.whole import share

pytestmark = pytest.mark.xdist_group("filled")
SELECT: Final = re.compile(r'<select id="(\w+)" name="\w+">(.*?)</select>', re.DOTALL)
OPTION: Final = re.compile(r'<option(?: value="([^"]*)")?[^>]*>([^<]*)<')
PAST: Final = "\U0010fffd"
"""Behind every other text, in either database."""
FREE: Final = {"search", "id"}
"""Of which any text makes sense: no id may have it in it; and what leads to one thing, which is not there."""
PLACES: Final = {
    "/console/orgs": ["after=PAST"],
    "/console/org?id=acme&tab=ledger": ["after=FIRST"],
    "/console/org?id=acme&tab=limits": ["after=PAST"],
    "/console/ledger": ["after=PAST&at=999999999999999"],
    "/console/wallet?id=acme": ["after=FIRST"],
    "/console/settlements": ["after=run-2"],
    "/console/reconcile": [
        "after_day_ms=0&after_org=a&after_provider=a&after_customer=a&after_feature=a",
    ],
    "/console/pushes": ["after=9999999999999999:usage:zz:1767225600000:x&state=any", "state=in_doubt&after=LAST"],
    "/console/pending": ["after=PAST", "after_sample=PAST"],
    "/console/executions": ["after=9999999999999:zz", "state=any&after=1:a"],
    "/console/halts": ["after=0:0:1:aa"],
    "/console/ticks": ["before=1"],
    "/console/jobs": ["before=1"],
    "/console/limits": ["after=PAST", "asked=ASKED", "behind=IN_FORCE"],
    "/console/events?why=interval_negative": ["before=1&behind=a", "conflict=1", "sample=PAST"],
    "/console/keys": ["after=PAST"],
    "/console/proof": ["before=1"],
    "/console/audit": ["before=1"],
    "/console/people": ["after=PAST&ended=yes"],
}
"""Pages that have next ones, and a place behind all that is there."""
NAMED: Final = re.compile(r"\b(PAST|LAST|FIRST|ASKED|IN_FORCE)\b")
ASKED: Final = re.compile(r'ask\.[\w.]+\("((?:after|before|behind|conflict|sample|asked)\w*)"')
"""Where a list goes on, as its page asks for it."""


@pytest.fixture
def home(filled_engine: sa.Engine) -> Home:
    return Filled(filled_engine, copied=True)


def text_of(home: Home, path: str, status: int = 200) -> str:
    (answer,) = home.get(path, session=KIM)
    assert answer.status_code == status, (path, answer.status_code, answer.text[-500:])
    return html.unescape(answer.text)


def joined(path: str, **query: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{urlencode(query)}" if query else path


def fields_of(page: str) -> dict[str, list[str]]:
    """A page's filters: what may be chosen of each, or nothing where it is typed."""
    found: dict[str, list[str]] = {}
    for form in re.findall(r'<form method="get"[^>]*role="search".*?</form>', page, re.DOTALL):
        for name, choices in SELECT.findall(form):
            found[name] = [value for option in OPTION.finditer(choices) if (value := _chosen(option))]
        found |= {name: [] for name in re.findall(r'<input id="(\w+)"', form)}
    return found


def _chosen(option: re.Match[str]) -> str:
    """What the form says where it is chosen."""
    return option[2] if option[1] is None else option[1]


def test_invalid_filter_is_refused_on_each_page_and_in_its_file(home: Home) -> None:
    looked = set()
    for page in PAGES:
        for path in [f"{page.path}{page.example}&tab={tab}" for tab in page.tabs] or [page.path + page.example]:
            for name in set(fields_of(text_of(home, path))) - FREE:
                refused = joined(path, **{name: "nope"})
                said = text_of(home, refused, 400)
                assert re.search(r"(?i)there is|there are|invalid|unknown|expected", said), (
                    refused,
                    said[-400:],
                )
                if page.template == "list.html":
                    _require_it_stays(page.title, name, said)
                looked.add((page.path, name))
                if page.lines and not page.tabs:
                    text_of(home, refused.replace(page.path, page.file_path("csv")), 400)
    assert {("/console/orgs", "provider"), ("/console/pushes", "provider"), ("/console/pending", "why")} <= looked
    for path in ("/console/org?id=nope", "/console/push?key=nope", "/console/wallet.csv?id=nope"):
        text_of(home, path, 404)  # of one thing that is not there


def _require_it_stays(title: str, name: str, said: str) -> None:
    """The page, with its menu, its filter as it was filled in and what is wrong at the field; nothing else."""
    assert re.search(r'aria-current="(page|true)">[^<]+<', said), (title, name)
    assert f'id="wrong-{name}"' in said and f'aria-describedby="wrong-{name}"' in said, (title, name)
    typed = re.search(rf'<input id="{name}"[^>]*', said)
    assert typed is None or 'value="nope"' in typed[0], (title, name)
    assert "To see rows, correct the filter." in said and ">Clear<" in said
    assert not re.search(r'<tbody>|class="figure"|href="/console/act/|>CSV<', said.partition("<main")[2]), (title, name)


def test_org_ledger_invalid_date_is_refused_with_form(home: Home) -> None:
    said = text_of(home, "/console/org?id=acme&tab=ledger&from=24.11.2026&to=2026-12-01", 400)
    assert "<bdi>acme</bdi></h1>" in said and 'value="24.11.2026"' in said and 'value="2026-12-01"' in said
    assert "Invalid time '24.11.2026': expected" in said and 'id="wrong-from"' in said and 'id="wrong-to"' not in said


def test_console_unknown_path_is_not_found_page_with_links(home: Home) -> None:
    for path in ("/console/nowhere", "/console/act/nowhere", "/console/org/x?id=acme"):
        said = text_of(home, path, 404)
        assert "This page does not exist." in said and 'aria-label="Pages"' in said, path
        (outside,) = home.get(path, session=None)
        assert (
            outside.status_code == 404
            and "this page does not exist" in outside.text.lower()
            and "<nav" not in outside.text
        )
    assert re.search(r"overrides? requested, the first at", text_of(home, "/console/"))
    (mine,) = home.get("/my/nowhere", session=None)
    assert (
        mine.status_code == 404
        and "this page does not exist" in mine.text.lower()
        and "/console/" not in mine.text.partition("<main")[2]
    )
    said = text_of(home, "/console/push?key=nope", 404)
    assert '<a href="/console/pushes">Back to Pushes</a>' in said and 'aria-label="Pages"' in said


def test_list_page_past_its_end_links_to_first_page(home: Home) -> None:
    """What it says is true, and leads back."""
    first = str(home.fleet.one("SELECT key FROM ledger_entries WHERE to_account = 'wallet:acme' ORDER BY ts, key"))
    last = str(home.fleet.one("SELECT MAX(key) FROM pushes WHERE state = 'in_doubt'"))
    limits = text_of(home, "/console/limits")
    named = {"PAST": quote(PAST), "LAST": f"0:{last}", "FIRST": first,
             "ASKED": re.findall(r"override-approve\?number=(\d+)", limits)[-1],
             "IN_FORCE": re.findall(r"override-end\?number=(\d+)", limits)[-1]}  # fmt: skip
    for path, places in PLACES.items():
        for place in places:
            where = NAMED.sub(lambda one: named[one[0]], place)
            late = f"{path}{'&' if '?' in path else '?'}{where}"
            page = text_of(home, late)
            assert "This page is past the end of the list." in page, late
            back = re.search(r'href="([^"]+)">First page<', page)
            assert back is not None, late
            assert "This page is past the end of the list" not in text_of(home, back[1]), "and there the list begins"
    asked = {place.partition("=")[0] for path in PLACES for one in PLACES[path] for place in one.split("&")}
    those = [module for name, module in sys.modules.items() if name.startswith(f"{screens.__name__}.")]
    there = {name for module in those for name in ASKED.findall(inspect.getsource(module))}
    assert there <= asked, "a list that is not here"


ROWS: Final[dict[str, tuple[str, str, dict[str, list[str]]]]] = {
    "/console/orgs": ("Organisation", "org_id", {"search": ["ac"]}),
    "/console/org": ("Used, UTC", "used_at", {"days": ["7", "90"]}),
    "/console/ledger": ("Customer", "customer_id", {"search": ["ac"]}),
    "/console/wallet": ("Used, UTC", "used_at", {"from": ["2026-01-05"], "to": ["2026-01-05", "2026-01-08 13:10"],
                        "amount": ["0.05", "1", "12.5"]}),
    "/console/settlements": ("Execution", "execution", {"supplier": ["pixel"], "org": ["acme", "initech"]}),
    "/console/reconcile": ("Organisation", "org_id", {"provider": ["embedded"], "org": ["acme", HOSTILE]}),
    "/console/drift": ("Vendor", "vendor", {}),
    "/console/pushes": ("Organisation", "org_id", {
        "provider": ["embedded"], "org": ["acme", HOSTILE], "feature": ["compute_1gb", "compute_4gb"],
        "from": ["2026-01-05"], "to": ["2026-01-05"],
    }),
    "/console/executions": ("Execution", "execution", {"org": ["acme"], "payer": ["acme"], "project": ["site"]}),
    "/console/halts": ("Organisation", "org_id", {"org": ["acme", HOSTILE], "cell": ["cell-1"]}),
    "/console/events": ("Event", "event", {"source": ["shop"], "type": ["order"], "org": ["acme"]}),
    "/console/audit": ("Action", "action", {
        "actor": [f"@{TURNED}"], "action": ["org_halt"], "target": ["acme"],
        "from": ["2026-01-05"], "to": ["2026-01-05"],
    }),
}  # fmt: skip
"""Of each page with a file: the head of a cell that each row has, the file's column beside it, and what is typed into
its filters. What may be chosen stands in the page."""
ALSO: Final = {"/console/pushes": {"state": "any"}, "/console/executions": {"state": "any"},
               "/console/audit": {"to": figures.iso(NOW)}}  # fmt: skip
"""So that there is something to narrow, and that each file that is taken here is not in the next one."""
STAMP: Final = re.compile(r"[12]\d{12}")
ISO: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")


def shown(home: Home, path: str, head: str) -> int:
    """How many rows of its file a page shows, on all its pages; of an organisation's usage, what its days count."""
    rows = 0
    while path:
        page = text_of(home, path)
        if "Ledger by day" in page:
            return sum(map(int, re.findall(r'data-head="Entries" class="number wide">(\d+)<', page)))
        listed = page.rpartition("Compared days")[2]  # what differs stands above it, once more
        for card in listed.split('<section class="card">'):
            if head != "Event" or "Events, the newest first" in card:
                rows += len(re.findall(rf'data-head="{head}"', card)) if _is_listed(card) else 0
        following = re.search(r'rel="next" href="([^"]+)"', listed)
        path = following[1] if following else ""
    return rows


def _is_listed(card: str) -> bool:
    """Not what a page says beside its list: sums, suppliers, what is due first."""
    return not re.search(r"<h2>(Open pushes|Causes|By supplier|Batches|"
                         "Executions with the most reserved credit|"
                         "Ignored halts|Rate card|"
                         r"Plans|Lots|Events by source|Parity|Conflicts|Invalid)", card)  # fmt: skip


def files_of(home: Home, *paths: str) -> list[str]:
    async def work(client: httpx.AsyncClient, _: Any) -> list[str]:
        found = []
        for path in paths:
            answer = await client.get(path, headers={"cookie": f"{COOKIE}={secret(KIM)}"})
            assert answer.status_code == 200, (path, answer.text[-400:])
            found.append(answer.text)
        return found

    return home.ask(work)


def some(values: list[str]) -> list[str]:
    """The first and the last that may be chosen: all others go the same way."""
    return share(values[:1] + values[1:][-1:], whole=values)


def test_file_has_filter_of_its_page_with_iso_times_and_plain_decimals(home: Home) -> None:
    assert {page.path for page in PAGES if page.lines} == set(ROWS)
    narrowed = set[str]()
    for page in (page for page in PAGES if page.lines):
        head, column, typed = ROWS[page.path]
        also = ALSO.get(page.path, {})
        fields = fields_of(text_of(home, page.path + page.example))
        if page.tabs:
            fields["days"] = []  # links, and no form
        assert {name for name, choices in fields.items() if not choices} == set(typed), page.path
        whole = None
        asked = [{}, *({name: value} for name, choices in fields.items() for value in some(typed.get(name) or choices))]
        for one in asked:
            path = joined(page.path + page.example, **{**({} if "phase" in one else also), **one})
            offered = re.findall(r'href="([^"]+\.csv[^"]*)">CSV<', text_of(home, path))
            table, lines = files_of(home, offered[0], offered[0].replace(".csv", ".jsonl", 1))
            rows, objects = list(csv.DictReader(io.StringIO(table))), [json.loads(line) for line in lines.splitlines()]
            assert len(rows) == len(objects) == shown(home, path, head), (path, offered, len(rows))
            assert all(column in row for row in rows)
            _require_iso(rows)
            whole = rows if whole is None else whole
            narrowed |= {page.path} if len(rows) != len(whole) else set()
        assert whole, f"{page.path}: nothing is there to be compared"
    assert narrowed >= set(ROWS) - {"/console/drift"}, "filters leave something out"


def _require_iso(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for name, text in row.items():
            if name in ("key", "details", "target"):  # a push's key has its window in it
                continue
            assert not STAMP.fullmatch(text or ""), (name, text)
            if name.endswith("_at") or name in ("since", "window", "at", "used", "came_in", "accepted", "day"):
                assert not text or ISO.fullmatch(text), (name, text)
