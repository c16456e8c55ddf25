"""Texts that others chose are text: on every page and form, in every file; none turns what stands around it."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.server.console import my
from drawdown.server.console.frame import figures
from drawdown.server.console.my import PAGES as MY_PAGES
from drawdown.server.console.pages import ACTIONS, PAGES
from drawdown.worker.access import my_sessions
from tests.browser.sites import FORMULA, HOSTILE
from tests.server.console.test_links import SHOWN
from tests.server.console_home import KIM, Home, secret
from tests.server.filled import TURNED, WRITTEN, Filled

pytestmark = pytest.mark.xdist_group("filled")
MARKS: Final = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""What turns the reading, and what prints nothing."""
SENT_BACK: Final = re.compile(r' value="[^"]*"|<textarea[^>]*>[^<]*</textarea>')
"""Fields of forms hold what was given, as it was."""
TAGS: Final = ("<b onmouseover", "<i>gpj", "<script>alert")
IDS: Final = (TURNED, HOSTILE, FORMULA)
FORMULAS: Final = re.compile(r"[=+@\t\r]|-(?![0-9])")


@pytest.fixture
def home(filled_engine: sa.Engine) -> Home:
    return Filled(filled_engine, copied=True)


def wrong(place: str, text: str) -> Iterator[str]:
    """What of a page is more than text."""
    shown = SENT_BACK.sub("", text)
    yield from (f"{place}: {found!r}" for found in MARKS.findall(shown))
    yield from (f"{place}: {tag}" for tag in TAGS if tag in text)


def escaped(text: str) -> str:
    """As a page shows it."""
    return html.escape(text.encode("unicode_escape").decode()).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def of_things() -> list[str]:
    """Pages of one thing, of things with such ids, there or not."""
    orgs = [f"/console/org?id={quote(name)}&tab={tab}" for name in IDS for tab in ("usage", "ledger", "halts", "audit")]
    others = [f"/console/{page}={quote(name)}" for name in IDS for page in (
        "orgs?search", "billing?id", "wallet?id", "push?key", "run?key", "backfill?key", "settlement?key", "topup?id",
        "audit?actor", "events?source", "pushes?org", "runs?org", "halts?cell", "org?id", "pending?why", "orgs?state",
    )]  # fmt: skip
    return [*orgs, *others, "/console/tick?id=%E2%80%AE1", "/console/acted?key=%E2%80%AE1"]


def test_hostile_text_on_console_pages_is_escaped(home: Home) -> None:
    places = [*SHOWN, *of_things()]
    answers = home.get(*places, session=KIM)
    assert [one.status_code for one in answers if one.status_code not in (200, 400, 404)] == []
    assert [said for place, one in zip(places, answers, strict=True) for said in wrong(place, one.text)] == []
    seen = {text: sum(escaped(text) in one.text for one in answers) for text in (TURNED, WRITTEN[:20], HOSTILE)}
    assert min(seen.values()) >= 8, seen


def test_hostile_text_in_console_forms_is_escaped(home: Home) -> None:
    """What is filled in comes back as it was, and is shown as text."""
    places = [
        f"/console/act/{one.name}?" + "&".join(f"{field.name}={quote(TURNED)}" for field in one.fields)
        for one in ACTIONS
    ]
    answers = home.get(*places, session=KIM)
    assert [said for place, one in zip(places, answers, strict=True) for said in wrong(place, one.text)] == []
    form = {"id": TURNED, "org": TURNED, "reason": "they asked", "step": "look"}
    for action in ("halt", "org-override", "assign"):
        more = {"never_halt": "yes", "undo": "no", "provider": "none", "halts": "no", "new": "no"}
        looked = home.send(f"/console/act/{action}", {**form, **more}, KIM)
        assert looked.status_code == 200 and list(wrong(action, looked.text)) == []
        assert f'value="{html.escape(TURNED)}"' in looked.text, "the deed is of the very same one"


def test_hostile_text_on_customer_pages_is_escaped(home: Home) -> None:
    who = my_sessions.visitor(TURNED, TURNED)
    write(home.engine, lambda c: my_sessions.enter(c, secret(33), who, secret(33), "192.0.2.1", home.now))
    places = [f"{page.path}{page.example}" for page in MY_PAGES] + [f"/my/blocked?metric={quote(TURNED)}"]
    answers = home.get(*places, session=None, cookie=f"{my.COOKIE}={secret(33)}")
    assert [one.status_code for one in answers] == [200, 200, 404]
    assert [said for place, one in zip(places, answers, strict=True) for said in wrong(place, one.text)] == []


def test_hostile_text_in_files_is_escaped_for_csv_only(home: Home) -> None:
    own = {"/console/audit": f"?to={figures.iso(home.now)}"}  # where each file that is taken is in the next one
    places = [(page, own.get(page.path, page.example)) for page in PAGES if page.lines]
    places += [(page, f"?id={quote(name)}") for page in PAGES if page.lines and page.example for name in IDS]
    seen = 0
    for page, query in places:
        sheet, objects = home.get(*(page.file_path(form) + query for form in ("csv", "jsonl")), session=KIM)
        if sheet.status_code == 404:  # such an organisation has no wallet of its own
            continue
        assert (sheet.status_code, objects.status_code) == (200, 200), (page.path, query)
        rows = list(csv.reader(io.StringIO(sheet.text)))
        lines = [json.loads(line) for line in objects.text.splitlines()]
        assert len({len(row) for row in rows}) == 1 and len(rows) == len(lines) + 1, page.path
        assert [cell for row in rows for cell in row if MARKS.search(cell) or FORMULAS.match(cell)] == [], page.path
        seen += sum(any(TURNED in str(value) for value in line.values()) for line in lines)
    assert seen >= 5, "programs are given them as they are"
