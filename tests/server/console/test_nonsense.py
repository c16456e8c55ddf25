"""Addresses that make no sense: every page and every form, with nonsense for each parameter it takes. What comes back
is a page, or says in words what is wrong; never that something failed here.

Here each parameter meets one piece of nonsense; `make test-whole` tries each with each, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.server.console import console as consoles
from drawdown.server.console import my
from drawdown.server.console.csv_lines import Form
from drawdown.server.console.my import PAGES as MY_PAGES
from drawdown.server.console.page import Page
from drawdown.server.console.pages import ACTIONS, PAGES
from drawdown.server.console.request_params import Ask
from drawdown.server.console.session_auth import COOKIE
from drawdown.worker.access import my_sessions
from drawdown.worker.access.people import Person
from tests.browser.sites import BIDI, HOSTILE
from tests.server.console_home import KIM, Home, secret
from tests.server.filled import Filled
from tests.whole import share

pytestmark = pytest.mark.xdist_group("filled")
MINE: Final = 33
"""The session of somebody of acme's own."""
NONSENSE: Final = (
    "\0", "999999999999999999", "-1", f"\u202e{BIDI}", "", "a\0b", "1" * 30, "' OR 1=1; --", HOSTILE,
    "../../etc/passwd", "\U0001f600", "\x1b[31m", "x" * 5_000, "0", "NaN", "१२", "2026-02-31",
    "9999-12-31T23:59:59-23:59", "%s", "\ufffd",
)  # fmt: skip
TURNS: Final = cycle(NONSENSE)


def tried() -> Sequence[str]:
    """What one parameter is given: the next in turn, or all there are."""
    return share((next(TURNS),), whole=NONSENSE)


FINE: Final = (200, 303, 400, 403, 404, 405)


class Noted(dict[str, str]):
    """What an address says, and all that is looked for in it."""

    def __init__(self, said: Mapping[str, str], names: set[str]) -> None:
        super().__init__(said)
        self.names = names

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


@pytest.fixture
def home(filled_engine: sa.Engine) -> Home:
    found = Filled(filled_engine, copied=True)
    who = my_sessions.visitor("acme", "ann")
    write(found.engine, lambda c: my_sessions.enter(c, secret(MINE), who, secret(MINE), "192.0.2.1", found.now))
    return found


def paths_of(page: Page) -> Iterator[str]:
    """Each with what its example says, by tabs; and its files."""
    for one in (page.example, *page.also):
        yield page.path + one
    joined = "&" if page.example else "?"
    yield from (f"{page.path}{page.example}{joined}tab={tab}" for tab in page.tabs[1:])
    if page.lines:
        yield from (page.file_path(form) + page.example for form in ("csv", "jsonl"))


async def answers(client: httpx.AsyncClient, console: Any, path: str, names: set[str]) -> list[tuple[str, int]]:
    """Of one address, each of its parameters in turn made nonsense, and one said twice; `names` are those that it is
    asked for, and grow while it is read."""
    cookies = {"cookie": f"{COOKIE}={secret(KIM)}; {my.COOKIE}={secret(MINE)}"}
    place, _, query = path.partition("?")
    given, found, done = dict(parse_qsl(query)), [], set[str]()

    async def ask(said: str) -> int:
        answer = await client.get(f"{place}?{said}", headers=cookies)
        found.append((f"{place}?{said[:200]}", answer.status_code))
        while console._files._under_way:
            await asyncio.sleep(0.001)
        return answer.status_code

    assert await ask(query) == 200, (path, found)
    while left := sorted(names - done):
        for name in left:
            done.add(name)
            for text in tried():
                await ask(urlencode({**given, name: text}))
    await ask(urlencode([*given.items(), ("twice", "1"), ("twice", "2")]))
    return found


def wrong(home: Home, paths: list[str]) -> tuple[list[tuple[str, int]], int]:
    """Those that did not come back as they may, and how many were asked."""
    names: set[str] = set()

    def noting(person: Person, now_ms: int, query: Mapping[str, str], form: Form = "csv") -> Ask:
        return Ask(person, now_ms, Noted(query, names), form)

    async def all_of(client: httpx.AsyncClient, console: Any) -> list[tuple[str, int]]:
        found = []
        for path in paths:
            names.clear()
            found += await answers(client, console, path, names)
        return found

    with patch.object(consoles, "Ask", noting), patch.object(my, "Ask", noting):
        found = home.ask(all_of)
    return [one for one in found if one[1] not in FINE], len(found)


def test_console_pages_invalid_parameters_do_not_cause_server_error(home: Home) -> None:
    paths = [path for page in PAGES for path in paths_of(page)]
    found, asked = wrong(home, paths)
    assert found == [] and asked > 4 * len(paths)


def test_customer_pages_invalid_parameters_do_not_cause_server_error(home: Home) -> None:
    found, asked = wrong(home, [page.path + page.example for page in MY_PAGES])
    assert found == [] and asked > 4 * len(MY_PAGES)


def test_forms_and_sign_in_invalid_parameters_do_not_cause_server_error(home: Home) -> None:
    """Forms are filled in with whatever it says; links and sign-ins take it, too."""
    taken = {f"/console/act/{one.name}": [field.name for field in one.fields] for one in ACTIONS}
    others = {"/console/acted": ["key"], "/console/link": ["token"], "/console/enter": ["token", "next"],
              "/console/sign-in": ["next"], "/console/oidc": ["next"], "/my/enter": ["token"]}  # fmt: skip
    paths = [
        f"{path}?{urlencode(dict.fromkeys(names, text))}"
        for path, names in {**taken, **others}.items()
        for text in tried()
    ]
    got = [(path[:200], one.status_code) for path, one in zip(paths, home.get(*paths, session=KIM), strict=True)]
    assert [one for one in got if one[1] not in FINE] == []


def test_form_post_invalid_hidden_fields_do_not_cause_server_error(home: Home) -> None:
    """What a form of ours carries, and does not show, is no more to be believed than an address."""
    fields = {
        "/console/act/halt": ("id", "reason", "key", "seen", "typed"),
        "/console/sign-in": ("name", "next"),
        "/console/link": ("token",),
    }
    form = {"id": "acme", "reason": "they asked", "step": "do", "name": "ann", "password": "x" * 12}
    for path, names in fields.items():
        for name in names:
            for text in ("\0", "x" * 8_000):
                answer = home.send(path, {**form, name: text}, KIM)
                assert answer.status_code in (*FINE, 401, 409, 429), (path, name, text, answer.status_code)
