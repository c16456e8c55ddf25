"""Signing in by OpenID Connect: at a real server of a package, and at one that lies in each way there is."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx
import oidc_provider_mock
import pytest
import sqlalchemy as sa
import structlog

from drawdown.providers.http import Call, Http, HttpResult, NoAnswer, NotSent
from drawdown.providers.http.client import HttpClient
from drawdown.schema.database import write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import MINUTE_MS
from drawdown.server.app import Server
from drawdown.server.console import jwks, oidc
from drawdown.server.console.oidc import Trip, trip_of
from drawdown.server.console.session_auth import COOKIE
from drawdown.server.services import Services
from drawdown.server.settings import OidcSettings, ServerSettings
from drawdown.worker.access import people as console_users
from tests.cases import cases
from tests.server import issuer as issuers
from tests.server.console_home import as_read
from tests.server.issuer import CLIENT, EC, FOREIGN, ISSUER, RSA, SECRET, Issuer, said, signed
from tests.sqlite_databases import fresh
from tests.world import Fleet

T = TypeVar("T")
URL: Final = "https://drawdown.internal"
OWN: Final = OidcSettings(ISSUER, CLIENT, SECRET)
Case = tuple[Callable[[], Any], str, int, dict[str, str | None]]
Work = Callable[[httpx.AsyncClient, Server], Awaitable[T]]


class Home:
    """A console whose people sign in elsewhere; ann@example.com is an operator here."""

    def __init__(self, engine: sa.Engine, own: OidcSettings = OWN, http: Http | None = None) -> None:
        self.engine, self.fleet, self.own = engine, Fleet(engine), own
        self.issuer = Issuer(self.fleet.clock)
        self.http: Http = http or self.issuer
        write(engine, lambda c: console_users.add(c, "ann@example.com", "operator", f"{1:043}", self.fleet.by))

    def ask(self, work: Work[T]) -> T:
        def nobody() -> Any:
            raise AssertionError("no page asks for a step")

        async def whole() -> T:
            settings = ServerSettings(requests_per_s=1_000_000, console_url=URL, oidc=self.own)
            server = Server(
                Services(
                    engine=self.engine, clock=self.fleet.clock, settings=settings, providers={}, unasked={}, broken={},
                    http=self.http, thread_kit=nobody, console_engine=self.engine,
                )
            )  # fmt: skip
            transport = httpx.ASGITransport(server.app, client=("192.0.2.9", 4711))
            try:
                async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
                    return await work(client, server)
            finally:
                await asyncio.to_thread(server.close)
                await self.http.close()

        return asyncio.run(whole())

    def come_back(self, next_: str = "/console/orgs?state=halted", **spoilt: str | None) -> httpx.Response:
        """Go there, sign in, and come back with what the issuer says, spoilt so."""
        return self.ask(lambda client, _: self.return_(client, next_, **spoilt))

    async def return_(self, client: httpx.AsyncClient, next_: str, **spoilt: str | None) -> httpx.Response:
        there = await client.get("/console/oidc", params={"next": next_})
        if there.status_code != 303:
            return there
        query = {**self.issuer.agree(there.headers["location"]), **spoilt}
        given = {name: value for name, value in query.items() if value is not None}
        return await client.get("/console/oidc/back", params=given)

    def refused(self, words: str, status: int = 400, **spoilt: str | None) -> None:
        """Nobody is let in, and it is said why, on the form."""
        self.all_refused([(lambda: None, words, status, spoilt)])

    def all_refused(self, cases: Sequence[Case]) -> None:
        """The same of several, at one server; each is prepared first, and nothing is kept from one to the next."""

        async def work(client: httpx.AsyncClient, server: Server) -> None:
            console: Any = server._console
            for prepare, words, status, spoilt in cases:
                prepare()
                console._oidc._elsewhere._documents.clear()
                answer = await self.return_(client, "/console/", **spoilt)
                assert answer.status_code == status, answer.text
                (why,) = re.findall(r'role="alert">(.*?)</p>', answer.text, re.DOTALL)
                assert words in as_read(why), why
                assert COOKIE not in answer.headers.get("set-cookie", "")

        self.ask(work)
        assert self.fleet.rows("SELECT 1 FROM console_sessions") == []


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    engine = fresh(tmp_path / "drawdown.db")
    yield Home(engine)
    engine.dispose()


def session_of(answer: httpx.Response) -> str:
    (cookie,) = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{COOKIE}=")]
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    return cookie.partition("=")[2].partition(";")[0]


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """A real server of OpenID Connect, of a package, on this machine."""
    with oidc_provider_mock.run_server_in_thread(require_client_registration=True, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


def registered(url: str) -> OidcSettings:
    """This console is known there."""
    made = httpx.post(f"{url}/oauth2/clients", json={"redirect_uris": [URL + oidc.BACK]}).json()
    return OidcSettings(url, made["client_id"], made["client_secret"], label="the office", unverified_email=True)


def agreed(url: str, sub: str) -> str:
    """Somebody signs in at the real server; where they are sent."""
    answer = httpx.post(url, data={"sub": sub})
    assert answer.status_code == 302, answer.text
    return str(answer.headers["location"])


def test_oidc_repeated_callback_error_is_logged_once_per_minute(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> None:
        for words in ({"state": "1.x"}, {"state": "2.x"}, {"error": "denied"}, {"error": "denied"}):
            await home.return_(client, "/console/", **words)
        home.fleet.clock.at_ms += MINUTE_MS
        await home.return_(client, "/console/", state="1.x")

    logs = structlog.testing.LogCapture()
    monkeypatch.setattr(oidc, "log", structlog.wrap_logger(None, [logs], structlog.BoundLogger))
    home.ask(work)
    found = [(line["why"][:8], line["passed_over"]) for line in logs.entries]
    assert found == [("another ", 0), ("https://", 0), ("another ", 1)]


def test_oidc_sign_in_at_real_server_opens_session_of_known_user(engine: sa.Engine, real: str) -> None:
    home = Home(engine, registered(real), HttpClient())

    async def work(client: httpx.AsyncClient, server: Server) -> None:
        form = await client.get("/console/sign-in?next=/console/orgs")
        (place,) = re.findall(r'href="(/console/oidc[^"]*)">Sign in with the office<', form.text)
        there = await client.get(place.replace("&amp;", "&"))
        assert there.status_code == 303 and there.headers["location"].startswith(f"{real}/oauth2/authorize?")
        back = agreed(there.headers["location"], "ann@example.com")
        assert back.startswith(URL + oidc.BACK)
        home.fleet.clock.at_ms = server.services.clock.now_ms()
        answer = await client.get(back)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/orgs"), answer.text
        session_of(answer)
        shown = await client.get("/console/orgs")
        assert shown.status_code == 200 and "ann@example.com" in shown.text and "operator" in shown.text
        again = await client.get(back)
        assert again.status_code == 400 and "Begin again" in again.text, "what was used is used"
        there = await client.get("/console/oidc")
        stranger = await client.get(agreed(there.headers["location"], "eve@example.com"))
        assert stranger.status_code == 403
        assert "drawdown console user add eve@example.com --role viewer" in stranger.text

    home.fleet.clock.at_ms = _now()
    home.ask(work)
    ((actor, details),) = home.fleet.rows(
        "SELECT actor, details FROM operator_actions WHERE action = 'console_sign_in'"
    )
    assert actor == "console:ann@example.com" and json.loads(str(details))["through"] == real
    assert home.fleet.one("SELECT signed_in_ms FROM console_users") is not None


def _now() -> int:
    """The real server goes by the time that it is."""
    from drawdown.schema.clock import SystemClock

    return SystemClock().now_ms()


def test_oidc_real_server_rejecting_client_secret_is_reported(tmp_path: Path, real: str) -> None:
    engine = fresh(tmp_path / "drawdown.db")
    own = registered(real)
    home = Home(engine, OidcSettings(real, own.client_id, "another"), HttpClient())
    home.fleet.clock.at_ms = _now()

    async def work(client: httpx.AsyncClient, _: Server) -> httpx.Response:
        there = await client.get("/console/oidc")
        return await client.get(agreed(there.headers["location"], "ann@example.com"))

    answer = home.ask(work)
    assert answer.status_code == 502 and "did not return a token: invalid_client" in answer.text
    engine.dispose()


def test_oidc_when_not_configured_shows_only_password_form(tmp_path: Path) -> None:
    engine = fresh(tmp_path / "drawdown.db")

    async def work(client: httpx.AsyncClient, _: Server) -> tuple[str, list[int]]:
        paths = ("/console/oidc", "/console/oidc/back")
        return (await client.get("/console/sign-in")).text, [(await client.get(one)).status_code for one in paths]

    text, statuses = Home(engine, OidcSettings()).ask(work)
    assert "Sign in with" not in text and statuses == [404, 400]
    engine.dispose()


@cases(
    ("own", "words"),
    [
        (OidcSettings("http://login.example.com", CLIENT), "expected https://"),
        (OidcSettings("https://u:p@login.example.com", CLIENT), "expected https://"),
        (OidcSettings("https://login.example.com/?x=1", CLIENT), "expected https://"),
        (OidcSettings("login", CLIENT), "expected https://"),
        (OidcSettings(ISSUER, ""), "CLIENT_ID"),
    ],
)
def test_oidc_settings_invalid_are_refused_at_start(own: OidcSettings, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        oidc.require_sane(own)


def test_oidc_without_library_names_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "joserfc", None)
    with pytest.raises(UsageError, match=r"pip install 'drawdown\[oidc\]'"):
        oidc.require_sane(OWN)


def test_oidc_valid_token_opens_session(home: Home) -> None:
    answer = home.come_back()
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/orgs?state=halted")
    assert len(home.fleet.rows("SELECT 1 FROM console_sessions")) == 1
    exchange = next(call for call in home.issuer.calls if call.url.endswith("/token"))
    assert (exchange.timeout_s, exchange.most_bytes) == (jwks.WITHIN_S, jwks.MOST_BYTES)
    assert SECRET not in repr(exchange)


def test_oidc_ec_key_and_client_secret_post_are_accepted(home: Home) -> None:
    home.issuer.sign = partial(signed, key=EC, algorithm="ES256")
    home.issuer.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    assert home.come_back().status_code == 303


def test_oidc_next_outside_console_redirects_to_overview(home: Home) -> None:
    for place in (
        "https://evil.example/",
        "//evil.example",
        "/console/\\evil",
        "/console/" + "x" * oidc.MAX_NEXT_CHARS,
    ):
        answer = home.come_back(next_=place)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")


LIES: Final[list[tuple[dict[str, Any], str]]] = [
    ({"iss": "https://evil.example"}, "issuer of the token"),
    ({"aud": "another"}, "audience of the token"),
    ({"aud": ["another", "third"], "azp": CLIENT}, "audience of the token"),
    ({"aud": [CLIENT, "another"]}, "does not have the claim azp"),
    ({"aud": [CLIENT, "another"], "azp": "another"}, "issued to another client"),
    ({"azp": "another"}, "issued to another client"),
    ({"nonce": "another"}, "nonce of the token"),
    ({"nonce": None}, "does not have the claim nonce"),
    ({"exp": 1}, "the token expired"),
    ({"exp": None}, "does not have the claim exp"),
    ({"exp": "soon"}, "a claim of the token is invalid"),
    ({"iat": 2**40}, "issued in the future"),
    ({"nbf": 2**40}, "not valid yet"),
    ({"sub": None}, "does not have the claim sub"),
    ({"sub": 5}, "a claim of the token is invalid"),
    ({"email_verified": None}, "has not verified the email ann@example.com"),
    ({"email_verified": "true"}, "has not verified the email ann@example.com"),
    ({"email_verified": False}, "has not verified the email ann@example.com"),
    ({"email": "no name here"}, "returned an invalid or missing email"),
    ({"email": ["ann@example.com"]}, "returned an invalid or missing email"),
]


def test_oidc_token_with_invalid_claim_is_refused(home: Home) -> None:
    home.all_refused([(partial(setattr, home.issuer, "claims", lie), words, 400, {}) for lie, words in LIES])


SIGNATURES: Final[list[tuple[Callable[[dict[str, Any]], str], str]]] = [
    (issuers.confused, "the algorithm HS256 is not supported"),
    (issuers.unsigned, "an unsupported algorithm"),
    (partial(signed, key=FOREIGN), "signature does not match a known key"),
    (partial(signed, kid="two"), "signature does not match a known key"),
    (lambda claims: signed(claims)[:-4] + "AAAA", "signature does not match a known key"),
    (
        lambda claims: signed({**claims, "email": "eve"}).rpartition(".")[0] + ".",
        "signature does not match a known key",
    ),
    (lambda claims: "no token", "is not a signed JWT"),
    (lambda claims: "é.é.é", "is not a signed JWT"),
    (lambda claims: "e30.e30.e30", "is not a signed JWT"),
    (lambda claims: signed(claims) + "." + signed(claims), "is not a signed JWT"),
    (lambda claims: "x" * 13_000, "is not a signed JWT"),
]


def test_oidc_token_with_invalid_signature_is_refused(home: Home) -> None:
    home.all_refused([(partial(setattr, home.issuer, "sign", lie), words, 400, {}) for lie, words in SIGNATURES])


REDIRECT: Final = said(302, {}, location="https://evil.example/")
LATE: Final = NoAnswer("no complete response within 5 s")
ANSWERS: Final[list[tuple[str, HttpResult, str]]] = [
    ("openid-configuration", REDIRECT, "Drawdown does not follow redirects"),
    ("openid-configuration", said(200, b"<html>"), "without a JSON object"),
    ("openid-configuration", said(200, b"[" * 50_000), "without a JSON object"),
    ("openid-configuration", said(200, []), "without a JSON object"),
    ("openid-configuration", said(500, {}), "answers 500"),
    ("openid-configuration", LATE, "does not answer: no complete response within 5 s"),
    ("openid-configuration", NotSent("the host does not have an address"), "cannot be reached"),
    ("/jwks", REDIRECT, "redirects"),
    ("/jwks", LATE, "does not answer"),
    ("/jwks", said(200, {"keys": 5}), "does not publish the key"),
    ("/jwks", said(200, {"keys": [{"kty": "oct", "k": "eHh4", "kid": "one"}, 7, {}]}), "does not publish the key"),
    ("/token", REDIRECT, "redirects"),
    ("/token", said(400, {"error": "invalid_grant"}), "did not return a token: invalid_grant"),
    ("/token", said(400, {"error": f"you sent {SECRET}"}), "did not return a token: it answers 400"),
    ("/token", said(200, {"access_token": "x"}), "did not return a token"),
    ("/token", said(200, {"id_token": 5}), "did not return a token"),
    ("/token", LATE, "does not answer"),
]
METADATA: Final[list[tuple[dict[str, Any], str]]] = [
    ({"issuer": ISSUER + "/"}, "states another issuer"),
    ({"token_endpoint": "http://login.example.com/token"}, "invalid token_endpoint"),
    ({"authorization_endpoint": "javascript:alert(1)"}, "invalid authorization_endpoint"),
    ({"jwks_uri": None}, "invalid jwks_uri"),
    ({"jwks_uri": "https://u:p@login.example.com/jwks"}, "invalid jwks_uri"),
]


def test_oidc_invalid_issuer_answers_are_reported(home: Home) -> None:
    spoil = partial(setattr, home.issuer, "answers")
    home.all_refused([(partial(spoil, {where: answer}), words, 502, {}) for where, answer, words in ANSWERS])
    home.issuer.answers = {}
    home.all_refused([(partial(setattr, home.issuer, "metadata", one), words, 502, {}) for one, words in METADATA])


def test_oidc_missing_email_is_read_from_userinfo_of_same_subject(home: Home) -> None:
    home.issuer.claims = {"email": None, "email_verified": None}
    home.issuer.more = {"email": "ann@example.com", "sub": "s-2"}
    home.refused("did not return the details of the person", 502)
    home.issuer.more = {}
    home.refused("returned an invalid or missing email")
    home.issuer.more = {"email": " ann@example.com "}
    home.refused("returned an invalid or missing email")
    home.issuer.more = {"email": "Ann@Example.com"}
    home.refused("has not verified the email Ann@Example.com")
    home.issuer.claims = {"email": None, "email_verified": True}
    home.refused("has not verified the email Ann@Example.com")  # the token verified no email that it names
    home.issuer.more = {"email": "Ann@Example.com", "email_verified": True}
    assert home.come_back().status_code == 303


def test_oidc_unverified_email_setting_accepts_missing_claim_only(engine: sa.Engine) -> None:
    home = Home(engine, replace(OWN, unverified_email=True))
    home.issuer.claims = {"email_verified": False}
    home.refused("has not verified the email ann@example.com")
    home.issuer.claims = {"email_verified": None}
    assert home.come_back().status_code == 303


def test_oidc_ended_user_is_refused(home: Home) -> None:
    write(home.engine, lambda c: console_users.end(c, "ann@example.com", home.fleet.by))
    home.refused("ann@example.com signed in at https://login.example.com, but has no access here", 403)


def test_oidc_callback_with_foreign_state_issuer_or_code_is_refused(home: Home) -> None:
    cases: list[tuple[str, dict[str, str | None]]] = [
        ("another sign-in has begun in this browser since", {"state": "1.forged"}),
        ("another sign-in has begun in this browser since", {"state": None}),
        ("cannot sign in: expected a response from", {"iss": "https://evil.example"}),
        ("login.example.com returned an error: access_denied", {"error": "access_denied"}),
        ("login.example.com returned an error: an unknown error", {"error": "<b>call 0900 666</b>"}),
        ("did not send a valid code", {"code": None}),
        ("did not send a valid code", {"code": "x" * (oidc.MAX_CODE_CHARS + 1)}),
    ]
    home.all_refused([(lambda: None, words, 400, spoilt) for words, spoilt in cases])
    assert home.issuer.asked("/token") == 0, "none of them was worth a call"
    home.refused("did not return a token: invalid_grant", 502, code="another's")


def test_oidc_callback_is_accepted_once_within_ten_minutes(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> list[str]:
        async def back(query: dict[str, str]) -> str:
            answer = await client.get("/console/oidc/back", params=query)
            where = answer.headers.get("location")
            return str(where or re.findall(r'role="alert">(.*?)</p>', answer.text, re.DOTALL)[0])

        first = home.issuer.agree((await client.get("/console/oidc")).headers["location"])
        second = home.issuer.agree((await client.get("/console/oidc")).headers["location"])
        found = [await back(first), await back(second), await back(second)]
        late = home.issuer.agree((await client.get("/console/oidc")).headers["location"])
        home.fleet.clock.at_ms += oidc.WITHIN_MS + 1
        found.append(await back(late))
        client.cookies.clear()
        found.append(await back(home.issuer.agree((await client.get("/console/oidc")).headers["location"])))
        client.cookies.clear()
        return [*found, await back(late)]

    one, two, replay, late, fresh_one, elsewhere_ = home.ask(work)
    assert "another sign-in has begun" in one and two == fresh_one == "/console/"
    assert "began in another browser" in replay and "longer than ten minutes" in late
    assert "began in another browser" in elsewhere_


def test_oidc_redirect_contains_only_hashes_of_cookie_secret(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> httpx.Response:
        return await client.get("/console/oidc?next=/console/orgs")

    answer = home.ask(work)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{oidc.COOKIE}=") and oidc.COOKIE.startswith("__Host-")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=600"} <= set(cookie.split("; "))
    kept = cookie.partition("=")[2].partition(".")[0]
    query = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert kept not in answer.headers["location"] and len(kept) == 43
    trip = trip_of(kept, query["state"])
    assert trip is not None and trip.verifier not in answer.headers["location"]
    assert (query["nonce"], query["code_challenge"]) == (trip.nonce, trip.challenge)
    assert len({trip.state, trip.nonce, trip.verifier, Trip(kept, trip.began_ms + 1).state}) == 4
    for state in ("", ".", "1", "x.y", f"{'9' * 16}.x", trip.state + "x", trip.state[1:], "1.é"):
        assert trip_of(kept, state) is None
    assert trip_of("", trip.state) is None


def test_issuer_keys_are_cached_and_read_again_for_unknown_key(home: Home) -> None:
    home.issuer.keys = [EC]

    async def work(client: httpx.AsyncClient, _: Server) -> list[int]:
        async def once() -> int:
            query = home.issuer.agree((await client.get("/console/oidc")).headers["location"])
            return (await client.get("/console/oidc/back", params=query)).status_code

        found = [await once(), await once()]  # signed with a key that is not published
        asked = home.issuer.asked("/jwks")
        home.issuer.keys = [EC, RSA]
        home.fleet.clock.at_ms += jwks.AGAIN_MS
        found += [await once(), await once()]
        assert home.issuer.asked("openid-configuration") == 1 and home.issuer.asked("/jwks") == asked + 1 == 2
        home.fleet.clock.at_ms += jwks.KEPT_MS
        found.append(await once())
        assert home.issuer.asked("openid-configuration") == 2 and home.issuer.asked("/jwks") == 3
        return found

    assert home.ask(work) == [502, 502, 303, 303, 303]


def test_oidc_issuer_requests_and_cache_are_bounded(home: Home) -> None:
    async def work(_: httpx.AsyncClient, server: Server) -> None:
        asks = jwks.DocumentCache(server.services)
        home.issuer.answers = {"": said(200, {"keys": [FOREIGN.as_dict(private=False)] * 60})}
        for number in range(3 * jwks.MOST_KEPT):
            await asks.get_cached(f"https://x.example/{number}", "x")
        assert len(asks._documents) == jwks.MOST_KEPT
        assert len(await asks.keys("https://x.example/0", None, "x")) == jwks.MOST_KEYS
        asks._under_way = jwks.MOST_AT_ONCE
        with pytest.raises(jwks.Trouble, match="too many people sign in"):
            await asks.ask(Call("GET", "https://x.example/"), "x")
        asks._under_way, asks._waiting = 0, jwks.MOST_AT_ONCE
        with pytest.raises(jwks.Trouble, match="too many people sign in"):
            await asks.get_cached("https://x.example/another", "x")
        assert await asks.get_cached("https://x.example/0", "x"), "what is kept is said all the same"
        asks._waiting = 0
        with pytest.raises(jwks.Trouble, match="has an unsafe address"):
            await asks.ask(Call("GET", "http://x.example/"), "x")

    home.ask(work)


def test_oidc_slow_or_endless_issuer_answer_is_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over real sockets."""
    monkeypatch.setattr(jwks, "WITHIN_S", 0.3)
    engine = fresh(tmp_path / "drawdown.db")
    home = Home(engine, http=HttpClient())

    async def work(_: httpx.AsyncClient, server: Server) -> list[str]:
        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            path = (await reader.readline()).split()[1]
            body = b"HTTP/1.1 200 OK\r\n\r\n" + b'{"a": "' + b"x" * (jwks.MOST_BYTES + 1)
            writer.write(body if path == b"/long" else b"HTTP/1.1 200 OK\r\n")
            try:
                await reader.read()
            finally:
                writer.close()

        asks, found = jwks.DocumentCache(server.services), []
        async with await asyncio.start_server(slow, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            for path in ("slow", "long"):
                with pytest.raises(jwks.Trouble) as error:
                    await asks.get_cached(f"http://127.0.0.1:{port}/{path}", "the issuer")
                found.append(str(error.value))
            await home.http.close()
        return found

    slow, long = home.ask(work)
    assert slow == "the issuer does not answer: no complete response within 0.3 s. Try again"
    assert long == f"the issuer does not answer: the response has more than {jwks.MOST_BYTES} bytes. Try again"
    engine.dispose()


def test_oidc_weak_or_invalid_key_is_rejected() -> None:
    from joserfc.jwk import RSAKey

    from drawdown.server.jwts import Unproven, key_of

    weak = RSAKey.generate_key(1024).as_dict(private=False)
    others: list[Any] = [weak, {**RSA.as_dict(private=False), "use": "enc"}, {"kty": "RSA"}, None, []]
    for one in others:
        with pytest.raises(Unproven):
            key_of(one)
    assert key_of(RSA.as_dict(private=False)).kid == "one"
