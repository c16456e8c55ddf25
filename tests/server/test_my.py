"""The small face for an organisation's own people: who comes in, by which link, what they see, what they may ask."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import itertools
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

import httpx
import pytest
import sqlalchemy as sa
from joserfc import jwt
from joserfc.jwk import OctKey

from drawdown.cli.settings import Settings
from drawdown.ledger import pools
from drawdown.providers.http import Answer, Call, HttpResult, NotSent
from drawdown.providers.payments.protocol import Link, NoLink
from drawdown.schema.database import write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.server import jwts
from drawdown.server.app import Server
from drawdown.server.console import my
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.my import PAGES
from drawdown.server.services import Services
from drawdown.server.settings import MySettings, ServerSettings
from drawdown.worker.access import my_sessions
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Change, PlanLimit, Wish
from drawdown.worker.wallets import accounts as own_wallet
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.entries import Forecast
from tests.server.issuer import EC, FOREIGN, RSA, confused, unsigned
from tests.world import T0, Fleet

LIMIT_S: Final = 60
T = TypeVar("T")
URL: Final = "https://drawdown.internal"
SECRET: Final = "0123456789abcdef0123456789abcdef"
OLD: Final = "fedcba9876543210fedcba9876543210"
KEYS: Final = "https://app.example/jwks"
OURS: Final = {"sec-fetch-site": "same-origin"}
CONTACT: Final = "billing@example.com"
OWN: Final = MySettings((SECRET, OLD), contact=CONTACT)
Work = Callable[[httpx.AsyncClient, Server], Awaitable[T]]


@dataclass
class Product:
    """The operator's product: it publishes its keys, and nothing else answers."""

    keys: list[Any] = field(default_factory=lambda: [RSA, EC])

    async def send(self, call: Call) -> HttpResult:
        if call.url != KEYS:
            return NotSent("nobody there")
        said = {"keys": [key.as_dict(private=False) for key in self.keys]}
        return Answer(200, {}, json.dumps(said).encode())

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Cards:
    """A payment service that makes pages."""

    url: str = "https://pay.example/session"
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    hangs: bool = False

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return await self._made("card", customer_id, return_url)

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return await self._made("portal", customer_id, return_url)

    async def _made(self, what: str, customer_id: str, return_url: str) -> Link | NoLink:
        self.asked.append((what, customer_id, return_url))
        if self.hangs:
            await asyncio.sleep(60)
        return Link(self.url, None) if self.url else NoLink("no card is taken today")


class Home:
    """acme has 10 credits and used some; wayne is another. `idea` may be used once a month, and acme did."""

    def __init__(self, engine: sa.Engine, own: MySettings = OWN) -> None:
        self.engine, self.fleet, self.own = engine, Fleet(engine), own
        self.product, self.cards = Product(), Cards()
        self.numbers = itertools.count()
        by = self.fleet.by
        for org in ("acme", "wayne"):
            self.fleet.assign(org, from_ms=T0)
            given = partial(credit.grant, customer_id=org, amount_micro=10 * MICRO, by=by, key=f"of {org}", plan=None)
            write(engine, given)
        self.fleet.sample("acme", T0 + 1)
        self.fleet.tick_windows(3)
        self.now = self.fleet.clock.at_ms
        now = replace(by, now_ms=self.now)
        write(engine, lambda c: guard_terms.set_metric(c, "idea", Change(phase=3), by))
        write(engine, lambda c: guard_terms.set_limit(c, PlanLimit("idea", "*", "month", 1), by))
        for key in ("u-1", "u-2"):
            write(engine, lambda c, k=key: guard.consume(c, k, Wish("acme", "idea", 1), now))  # type: ignore[misc]

    def claims(self, **changed: Any) -> dict[str, Any]:
        made = {
            "aud": URL,
            "org": "acme",
            "sub": "ann",
            "exp": self.now // 1000 + 600,
            "jti": f"j-{next(self.numbers)}",
        }
        return {name: value for name, value in {**made, **changed}.items() if value is not None}

    def link(self, **changed: Any) -> str:
        """As a product makes it."""
        return signed(self.claims(**changed))

    def ask(self, work: Work[T]) -> T:
        def nobody() -> Any:
            raise AssertionError("no page asks for a step")

        async def whole() -> T:
            settings = ServerSettings(requests_per_s=1_000_000, console_url=URL, my=self.own)
            payments: Any = {"stripe": self.cards}.get
            server = Server(
                Services(
                    engine=self.engine, clock=self.fleet.clock, settings=settings, providers={}, unasked={}, broken={},
                    http=self.product, thread_kit=nobody, console_engine=self.engine, payments=payments,
                )
            )  # fmt: skip
            transport = httpx.ASGITransport(server.app, client=("192.0.2.9", 4711))
            try:
                async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
                    return await work(client, server)
            finally:
                await asyncio.to_thread(server.close)

        return asyncio.run(whole())

    def inside(self, work: Work[T], **changed: Any) -> T:
        """The same, by somebody who came in by a link."""

        async def entered(client: httpx.AsyncClient, server: Server) -> T:
            answer = await client.get("/my/enter", params={"token": self.link(**changed)})
            assert (answer.status_code, answer.headers["location"]) == (303, "/my/usage"), answer.text
            return await work(client, server)

        return self.ask(entered)

    def get(self, path: str, **changed: Any) -> httpx.Response:
        return self.inside(lambda client, _: client.get(path), **changed)


def signed(claims: dict[str, Any], secret: str = SECRET) -> str:
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret), algorithms=["HS256"])


@pytest.fixture
def home(engine: sa.Engine) -> Home:
    return Home(engine)


def test_customer_pages_without_link_settings_are_not_found(engine: sa.Engine) -> None:
    home = Home(engine, MySettings())

    async def work(client: httpx.AsyncClient, _: Server) -> set[int]:
        paths = [*(page.path for page in PAGES), f"/my/enter?token={home.link()}", "/my/usage.csv"]
        found = {(await client.get(path)).status_code for path in paths}
        return found | {(await client.post("/my/override", headers=OURS)).status_code}

    assert home.ask(work) == {404}


def test_customer_link_opens_session_of_own_org_until_sign_out(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> None:
        answer = await client.get("/my/enter", params={"token": home.link()})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{my.COOKIE}=")
        assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=3600"} <= set(cookie.split("; "))
        assert cookie.partition("=")[2].partition(";")[0] not in str(home.fleet.rows("SELECT * FROM my_sessions"))
        page = await client.get("/my/usage")
        assert page.status_code == 200 and page.headers["cache-control"] == "no-store"
        for words in (
            "<bdi>acme</bdi>",
            "<bdi>ann</bdi>",
            "Available",
            "9.",
            "compute",
            CONTACT,
            "/my/blocked?metric=idea",
        ):
            assert words in page.text, words
        for words in ("wayne", "/console/sign", "drawdown ledger", "embedded"):
            assert words not in page.text, words
        left = await client.post("/my/leave", headers=OURS)
        assert left.status_code == 200 and "Max-Age=0" in left.headers["set-cookie"]
        assert (await client.get("/my/usage")).status_code == 401
        client.cookies.set(my.COOKIE, cookie.partition("=")[2].partition(";")[0], domain="drawdown.internal")
        assert (await client.get("/my/usage")).status_code == 401, "the session is over, whoever kept the cookie"

    home.ask(work)
    told = home.fleet.rows("SELECT actor, target, via FROM operator_actions WHERE action = 'my_enter'")
    assert told == [("my:ann", "acme", "my")]


@pytest.mark.both_databases
def test_customer_link_is_accepted_once(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> list[int]:
        token = home.link()

        async def enter() -> int:
            return (await client.get("/my/enter", params={"token": token})).status_code

        assert (await client.head("/my/enter", params={"token": token})).status_code == 405, "who only looks is not in"
        at_once = sorted(await asyncio.gather(*(enter() for _ in range(4))))
        await client.post("/my/leave", headers=OURS)
        return [*at_once, await enter()]

    assert home.ask(work) == [303, 403, 403, 403, 403]
    assert home.fleet.one("SELECT COUNT(*) FROM my_sessions") == 1


def test_customer_link_is_remembered_longer_than_valid() -> None:
    assert my_sessions.LIFE_MS > my_sessions.LINK_MS + 2 * jwts.SLACK_S * 1000


LINKS: Final[list[tuple[dict[str, Any], str]]] = [
    ({"aud": "https://elsewhere.example"}, "audience of the token"),
    ({"aud": None}, "does not have the claim aud"),
    ({"aud": 7}, "audience of the token"),
    ({"exp": None}, "does not have the claim exp"),
    ({"exp": 1}, "the token expired"),
    ({"exp": 2**40}, "more than 15 minutes from now"),
    ({"exp": True}, "a claim of the token is invalid"),
    ({"exp": "soon"}, "a claim of the token is invalid"),
    ({"nbf": 2**40}, "not valid yet"),
    ({"jti": None}, "does not have the claim jti"),
    ({"jti": ""}, "does not have the claim jti"),
    ({"jti": 5}, "a claim of the token is invalid"),
    ({"jti": "x" * 201}, "does not have the claim jti"),
    ({"org": None}, "does not have the claim org"),
    ({"org": "a\nb"}, "does not have the claim org"),
    ({"org": ["acme", "wayne"]}, "does not have the claim org"),
    ({"sub": "x" * 201}, "does not have the claim sub"),
]


def test_customer_link_with_invalid_token_is_refused(home: Home) -> None:
    others: list[tuple[str, str]] = [
        (signed(home.claims(), "x" * 32), "signature does not match a known key"),
        (unsigned(home.claims()), "an unsupported algorithm"),
        (confused(home.claims()), "signature does not match a known key"),
        (jwt.encode({"alg": "RS256"}, home.claims(), RSA), "algorithm RS256"),
        (home.link()[:-3] + "AAA", "signature does not match a known key"),
        ("", "is not a signed JWT"), ("a.b.c", "is not a signed JWT"), ("x" * 9_000, "is not a signed JWT"),
    ]  # fmt: skip

    async def work(client: httpx.AsyncClient, _: Server) -> None:
        for token, words in [*((home.link(**lie), words) for lie, words in LINKS), *others]:
            answer = await client.get("/my/enter", params={"token": token})
            assert answer.status_code == 403 and words in answer.text, (words, answer.text[-400:])
            assert "set-cookie" not in answer.headers and CONTACT in answer.text

    home.ask(work)
    assert home.fleet.one("SELECT COUNT(*) FROM my_sessions") == 0


def test_customer_link_accepts_clock_skew_and_previous_secret(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> list[int]:
        edge = home.now // 1000 + my_sessions.LINK_MS // 1000 + jwts.SLACK_S
        links = [home.link(exp=edge), home.link(exp=edge + 1), home.link(exp=home.now // 1000 - jwts.SLACK_S + 1)]
        links += [signed(home.claims(), OLD), home.link(aud=["another", URL])]
        return [(await client.get("/my/enter", params={"token": one})).status_code for one in links]

    assert home.ask(work) == [303, 403, 303, 303, 303]


def test_customer_link_signed_with_published_key_is_accepted(engine: sa.Engine) -> None:
    home = Home(engine, MySettings(jwks_url=KEYS))

    async def work(client: httpx.AsyncClient, _: Server) -> list[int]:
        async def enter(key: Any, algorithm: str, **head: Any) -> int:
            token = jwt.encode({"alg": algorithm, "kid": key.kid, **head}, home.claims(), key, algorithms=[algorithm])
            return (await client.get("/my/enter", params={"token": token})).status_code

        found = [await enter(RSA, "RS256"), await enter(EC, "ES256"), await enter(FOREIGN, "RS256")]
        found.append(await enter(RSA, "RS256", kid="two"))
        tokens = (home.link(), confused(home.claims()))
        return found + [(await client.get("/my/enter", params={"token": one})).status_code for one in tokens]

    assert home.ask(work) == [303, 303, 403, 403, 403, 403], "no secret is set: HS256 opens nothing"
    home.product.keys = []
    answer = home.ask(
        lambda c, _: c.get("/my/enter", params={"token": jwt.encode({"alg": "RS256"}, home.claims(), RSA)})
    )
    assert answer.status_code == 502 and "does not publish the key" in answer.text


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (replace(OWN, url="http://usage.example"), "MY_URL"),
        (replace(OWN, url="https://usage.example/my"), "MY_URL: expected https://usage.example$"),
        (replace(OWN, jwks_url="http://app.example/jwks"), "MY_JWKS_URL"),
    ],
)
def test_customer_page_settings_invalid_are_refused_at_start(own: MySettings, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        my.require_sane(own)


def test_customer_link_secret_too_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("x" * (jwts.LEAST_SECRET_BYTES - 1), f"{SECRET},short", f"{SECRET},,"):
        monkeypatch.setenv("DRAWDOWN_MY_SECRET", text)
        with pytest.raises(UsageError, match="DRAWDOWN_MY_SECRET"):
            Settings().server()
    monkeypatch.setenv("DRAWDOWN_MY_SECRET", f"{SECRET},{OLD}")
    assert Settings().server().my.secrets == (SECRET, OLD)


def test_customer_page_org_parameter_is_ignored(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> None:
        async def fetch(path: str) -> httpx.Response:
            """A customer has one file at a time: the one before may still be ending."""
            async with asyncio.timeout(LIMIT_S):
                while (answer := await client.get(path)).status_code == 503:
                    await asyncio.sleep(0.01)
                return answer

        for path in ("/my/usage?id=wayne", "/my/usage.csv?id=wayne&org=wayne", "/my/blocked?metric=idea&id=wayne"):
            answer = await fetch(path)
            own = await fetch(path.replace("id=wayne&", "").replace("?id=wayne", "").replace("&id=wayne", ""))
            assert answer.status_code == 200 and "wayne" not in answer.text and answer.text == own.text, path
        unknown = await client.get("/my/blocked?metric=ideaa")
        assert unknown.status_code == 404 and "did you mean" not in unknown.text
        for path in ("/console/", "/console/org?id=acme", "/console/orgs.csv"):
            assert (await client.get(path)).status_code == 303, "of the console itself it opens nothing"

    home.inside(work)


def test_customer_page_of_previous_session_org_is_refused(home: Home) -> None:
    """Two tabs of one browser, each by a link of another organisation: it has one cookie."""

    async def work(client: httpx.AsyncClient, _: Server) -> None:
        page = (await client.get("/my/usage")).text
        live = html.unescape(re.findall(r'hx-get="([^"]+)"', page)[0])
        assert live == "/my/usage?days=30&of=acme" and (await client.get(live)).status_code == 200
        places = {html.unescape(one) for one in re.findall(r'href="(/my/[^"#]+)', page)}
        assert len(places) > 4 and all(one.endswith("of=acme") for one in places), places
        blocked = (await client.get("/my/blocked?metric=idea&of=acme")).text
        assert '<input type="hidden" name="of" value="acme">' in blocked
        await client.get("/my/enter", params={"token": home.link(org="wayne", sub=None)})
        for place in (live, *places):
            answer = await client.get(place)
            assert answer.status_code == 409 and "signed in for wayne" in answer.text, place
        for path in ("/my/override", "/my/card"):
            assert (await client.post(path, data=form(of="acme"), headers=OURS)).status_code == 409, path
        assert (await client.get("/my/usage")).status_code == 200

    home.inside(work)
    assert home.fleet.one("SELECT COUNT(*) FROM guard_overrides") == 0


def test_customer_link_with_console_actor_name_is_refused(home: Home) -> None:
    answer = home.ask(lambda client, _: client.get("/my/enter", params={"token": home.link(sub="console:ann")}))
    assert answer.status_code == 403 and "begins with console:" in answer.text


def test_customer_page_shows_halt_start_reason_and_run_out_time(home: Home) -> None:
    halt = "UPDATE orgs SET is_halted = TRUE, halted_at = :at, halt_reason = :why WHERE org_id = 'acme'"
    said = {
        "credits_exhausted": "no credit is left",
        "operator": "an operator halted the organisation",
        "<b>secret": "",
    }
    for why, words in said.items():
        home.fleet.write(halt, {"at": T0, "why": why})
        page = re.sub(r"<[^>]+>", "", home.get("/my/usage").text)
        assert "Halted since 2026-01-01 00:00 UTC" in page and words in page and "secret" not in page
        assert ("The halt ends soon" in page) == (why == "credits_exhausted")
    home.fleet.write("UPDATE orgs SET is_halted = FALSE, halted_at = NULL WHERE org_id = 'acme'")
    assert "Halted" not in home.get("/my/usage").text
    forecast = Forecast("ends", home.now + DAY_MS, 7, T0, MICRO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(my, "forecast_of", lambda *_: forecast)
        page = re.sub(r"<[^>]+>", "", home.get("/my/usage").text)
    assert "Runs out 2026-01-02 00:15 UTC" in page and "In 1 d, at the pace of the last 7 days" in page


def test_customer_page_with_balance_at_provider_does_not_show_zero(home: Home) -> None:
    home.fleet.write("INSERT INTO provider_states (provider, terms) VALUES ('stripe', '{\"balance_in_ledger\": true}')")
    for org, provider in (("stark", "stripe"), ("tyrell", "autumn")):
        home.fleet.assign(org, provider=provider, from_ms=home.now - WINDOW_MS)
    home.fleet.write("UPDATE orgs SET billing_provider = 'autumn', balance_micro = 13860000 WHERE org_id = 'tyrell'")
    stark, tyrell = (home.get("/my/usage", org=org).text for org in ("stark", "tyrell"))
    assert "billed at stripe in arrears, without a wallet here" in stark and "Used in 7 days" in stark
    assert "Left at autumn" in tyrell and "13.86" in tyrell
    for page in (stark, tyrell):
        assert "0.00" not in page and "no credit is left" not in page and "Ledger by day" not in page


def test_customer_session_ends_after_hour(home: Home) -> None:
    async def work(client: httpx.AsyncClient, server: Server) -> list[tuple[int, bool]]:
        async def ask() -> tuple[int, bool]:
            answer = await client.get("/my/usage")
            headers = [(b"cookie", answer.request.headers["cookie"].encode())]
            return answer.status_code, server._is_known({"type": "http", "path": "/my/usage", "headers": headers})

        home.fleet.clock.at_ms += my_sessions.LIFE_MS - 1
        found = [await ask()]
        home.fleet.clock.at_ms += 1
        return [*found, await ask()]

    assert home.inside(work) == [(200, True), (401, False)], "and a known one waits for no flood"


def test_customer_sessions_beyond_limit_end_oldest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(my_sessions, "MOST_SESSIONS", 2)
    who, other = my_sessions.visitor("acme", None), my_sessions.visitor("wayne", "bob")
    for number, one in enumerate((who, who, other, who)):
        session, now = f"{number:043}", home.now + number
        enter = partial(my_sessions.enter, link_id=f"l-{number}", who=one, session=session, address="a", now_ms=now)
        for _ in range(2):  # the same again, as when the answer of its commit was lost
            write(home.engine, enter)
    with home.engine.connect() as connection:
        found = [my_sessions.find(connection, f"{number:043}", home.now + 9) for number in range(4)]
        assert my_sessions.find(connection, "' OR 1=1 --", home.now) is None
    assert found == [None, who, other, who] and who.actor == "my:acme"


def test_customer_page_of_unknown_org_shows_empty_message(home: Home) -> None:
    answer = home.get("/my/usage", org="stark")
    assert answer.status_code == 200 and "<bdi>stark</bdi> has no usage or credit yet" in answer.text


def test_customer_page_with_shared_wallet_does_not_show_wallet(home: Home) -> None:
    """stark was billed as wayne's customer once: what it used then is in wayne's ledger."""
    row = "('stark', 0, 300000, 'embedded', 'wayne', 0, 'a', 'r')"
    columns = "org_id, start_ms, end_ms, provider, customer_id, at_ms, actor, reason"
    for text in (
        "INSERT INTO orgs (org_id, bucket) VALUES ('stark', 7)",
        f"INSERT INTO assignments ({columns}) VALUES {row}",
    ):
        write(home.engine, lambda c, t=text: c.execute(sa.text(t)))  # type: ignore[misc]
    paid = Change(price_micro=13_370_000, phase=3)
    write(home.engine, lambda c: guard_terms.set_metric(c, "paid", paid, home.fleet.by))
    write(home.engine, lambda c: guard_terms.set_limit(c, PlanLimit("paid", "*", "month", None), home.fleet.by))

    async def work(client: httpx.AsyncClient, _: Server) -> None:
        page, file = await client.get("/my/usage"), await client.get("/my/usage.csv")
        assert "use, or used, the credit" in page.text and "Used in 7 days" in page.text
        for words in ("Available", "Balance", "Ledger", "10.00"):
            assert words not in page.text, words
        assert file.text.count("\n") == 1
        blocked = (await client.get("/my/blocked?metric=paid")).text
        assert "Buy credit" in blocked and "missing" not in blocked, "10.00 credits less the price are its balance"
        assert (await client.post("/my/card", headers=OURS)).status_code == 404

    home.inside(work, org="wayne")
    assert "Ledger" in home.get("/my/usage").text, "acme's is its own"
    assert "credits are missing" in home.get("/my/blocked?metric=paid").text
    assert "10.00" not in home.get("/my/usage", org="stark").text, "nobody bills it now: its own wallet is empty"


def test_customer_file_sums_equal_balance_and_omit_operator_text(home: Home) -> None:
    async def work(client: httpx.AsyncClient, server: Server) -> tuple[str, str]:
        day = await client.get("/my/usage?day=2026-01-01")
        file = await client.get("/my/usage.csv")
        console: Any = server._console
        while console._my._files._under_way:
            await asyncio.sleep(0.01)
        return day.text, file.text

    page, text = home.inside(work)
    rows = list(csv.DictReader(io.StringIO(text)))
    moved = sum(int(row["amount"].replace(".", "")) for row in rows)
    assert moved == home.fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")
    assert {row["kind"] for row in rows} == {"grant", "usage"} and "compute" in text
    for words in (home.fleet.by.actor, home.fleet.by.reason, "of acme"):
        assert words not in text and f">{words}<" not in page
    ((actor, details),) = home.fleet.rows("SELECT actor, details FROM operator_actions WHERE action = 'console_export'")
    assert actor == "my:ann" and json.loads(str(details)) == {"rows": len(rows), "query": {"id": "acme"}}


def test_customer_file_concurrency_is_limited_per_org(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def slow(*values: Any) -> str:
        assert free.wait(60)
        return csv_line(*values)

    monkeypatch.setattr(my, "csv_line", slow)

    async def work(client: httpx.AsyncClient, server: Server) -> list[int]:
        files: Any = vars(server._console)["_my"]._files

        async def until(under_way: int) -> None:
            while files._under_way != under_way:
                await asyncio.sleep(0.01)

        async with httpx.AsyncClient(transport=client._transport, base_url=URL) as other:
            await other.get("/my/enter", params={"token": home.link(org="wayne")})
            try:
                first = asyncio.create_task(client.get("/my/usage.csv"))
                await until(1)
                again = await asyncio.wait_for(client.get("/my/usage.csv"), 30)
                assert "your last file is not complete" in again.text
                theirs = asyncio.create_task(other.get("/my/usage.csv"))
                await until(2)
            finally:
                free.set()
            found = [again.status_code, (await first).status_code, (await theirs).status_code]
            await until(0)
            return [*found, (await client.get("/my/usage.csv")).status_code]

    assert home.inside(work) == [503, 200, 200, 200]


def form(**changed: str) -> dict[str, str]:
    return {"metric": "idea", "amount": "5", "period": "month", "days": "7", "reason": "a workshop", **changed}


def test_override_requested_by_plain_form_applies_once_approved(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> None:
        page = await client.get("/my/blocked?metric=idea")
        assert "You reached the limit" in page.text and 'name="amount"' in page.text and 'value="2"' in page.text
        first, second = [await client.post("/my/override", data=form(), headers=OURS) for _ in range(2)]
        assert first.status_code == 303 and first.headers["location"] == "/my/blocked?metric=idea&asked=1#asked"
        assert second.headers["location"] == first.headers["location"], "sent twice, it is one"
        page = await client.get(first.headers["location"])
        assert ">requested<" in page.text and "You reached the limit" in page.text
        write(home.engine, lambda c: guard_overrides.decide(c, 1, "approve", replace(home.fleet.by, now_ms=home.now)))
        page = await client.get("/my/blocked?metric=idea")
        assert "You can use 1 more now" in page.text and ">in force<" in page.text

    home.inside(work)
    rows = home.fleet.rows("SELECT target, reach, actor, reason, amount, ends_ms FROM guard_overrides")
    assert rows == [("acme", "org", "my:ann", "a workshop", 5, home.now - home.now % DAY_MS + 7 * DAY_MS)]


FIELDS: Final = [
    ({"metric": ""}, 400, "invalid metric"), ({"metric": "x\x00"}, 400, "invalid metric"),
    ({"metric": "ideaa"}, 404, "unknown metric"), ({"amount": ""}, 400, "invalid amount"),
    ({"amount": "-1"}, 400, "invalid amount"), ({"amount": "1.5"}, 400, "invalid amount"),
    ({"amount": "٣"}, 400, "invalid amount"), ({"amount": "9" * 15}, 400, "invalid amount"),
    ({"amount": "9" * 99}, 400, "invalid amount"), ({"period": "year"}, 400, ": expected hour"),
    ({"period": "at_once"}, 400, ": expected hour"),
    ({"days": "90"}, 400, ": expected 7"),
    ({"days": ""}, 400, "invalid days"), ({"reason": " "}, 400, "invalid reason"),
    ({"reason": "x" * 501}, 400, "invalid reason"), ({"reason": "a\nb"}, 400, "invalid reason"),
]  # fmt: skip


def test_customer_form_invalid_or_cross_site_is_refused(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> None:
        for changed, status, words in FIELDS:
            answer = await client.post("/my/override", data=form(**changed), headers=OURS)
            assert answer.status_code == status and words in answer.text, (changed, answer.text[-500:])
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {}):
            for path in ("/my/override", "/my/leave", "/my/card"):
                assert (await client.post(path, data=form(), headers=headers)).status_code == 403
        assert (await client.post("/my/override", content=b"metric=a&metric=b", headers=OURS)).status_code == 400
        for path in ("/my/usage?days=31", "/my/usage?day=1", "/my/blocked", "/my/usage?day=1&day=2"):
            assert (await client.get(path)).status_code == 400
        for number in range(guard_overrides.MOST_ASKED + 1):
            answer = await client.post("/my/override", data=form(amount=str(10 + number)), headers=OURS)
        assert answer.status_code == 409 and "wait for approval" in answer.text

    home.inside(work)
    assert home.fleet.one("SELECT COUNT(*) FROM guard_overrides") == guard_overrides.MOST_ASKED


def test_customer_form_after_session_ended_shows_reason_text(home: Home) -> None:
    async def work(client: httpx.AsyncClient, _: Server) -> httpx.Response:
        home.fleet.clock.at_ms += my_sessions.LIFE_MS
        return await client.post("/my/override", data=form(reason="<b>long thought</b>"), headers=OURS)

    answer = home.inside(work)
    assert answer.status_code == 401 and "&lt;b&gt;long thought&lt;/b&gt;" in answer.text
    assert home.fleet.one("SELECT COUNT(*) FROM guard_overrides") == 0


def test_customer_page_with_topup_terms_links_to_card_page(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = (
        "INSERT INTO topup_terms (customer_id, mode, threshold_micro, amount_micro, price_minor, currency, service, "
        "service_customer, most_minor, max_day, max_month, declines, at_ms, actor, reason) VALUES "
        "('acme', 'live', 2000000, 20000000, 100, 'eur', 'stripe', 'cus_1', 10000, 3, 20, 0, 0, 'a', 'r')"
    )
    assert f'To buy credit, ask <bdi class="long">{CONTACT}</bdi>' in home.get("/my/usage").text
    write(home.engine, lambda c: c.execute(sa.text(terms)))

    async def work(client: httpx.AsyncClient, server: Server) -> None:
        page = await client.get("/my/usage")
        assert "At 2.00 credits or less, an automatic top-up buys 20.00 more" in page.text
        for what in ("card", "portal", "else"):
            answer = await client.post("/my/card", data={"what": what}, headers=OURS)
            assert answer.status_code == 200 and 'href="https://pay.example/session" rel="noreferrer"' in answer.text
        assert [what for what, *_ in home.cards.asked] == ["card", "portal", "card"]
        assert home.cards.asked[0] == ("card", "cus_1", f"{URL}/my/usage")
        for url in ("", "http://pay.example/", "javascript:alert(1)"):
            home.cards.url = url
            answer = await client.post("/my/card", headers=OURS)
            assert answer.status_code == 502 and "did not return a page for a card" in answer.text
        home.cards.hangs = True
        monkeypatch.setattr(my, "CARD_WITHIN_S", 0.05)
        assert (await client.post("/my/card", headers=OURS)).status_code == 502
        console: Any = server._console
        console._my._card_pages = my.MOST_CARD_PAGES
        assert (await client.post("/my/card", headers=OURS)).status_code == 503

    home.inside(work)


def test_customer_page_statement_count_is_independent_of_row_count(home: Home) -> None:
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not re.match(r"(BEGIN|SET|PRAGMA|COMMIT|ROLLBACK)", statement.lstrip()):
            seen.append(statement)

    async def work(client: httpx.AsyncClient, _: Server) -> list[int]:
        found = []
        paths = ("/my/blocked?metric=idea", "/my/blocked?metric=paid", "/my/usage", "/my/usage?day=2026-01-01&days=90")
        for path in paths:
            for _again in range(2):  # once for what is asked once a process
                seen.clear()
                assert (await client.get(path)).status_code == 200
            found.append(len(seen))
        return found

    by = home.fleet.by
    write(home.engine, lambda c: guard_terms.set_metric(c, "paid", Change(price_micro=99 * MICRO, phase=3), by))
    write(home.engine, lambda c: guard_terms.set_limit(c, PlanLimit("paid", "*", "month", None), by))
    write(home.engine, lambda c: pools.say(c, "wayne", "acme", by, allowed=True))
    sa.event.listen(home.engine, "before_cursor_execute", note)
    few = home.inside(work)
    for number in range(30):
        home.fleet.sample("acme", home.now - number, 60, sandbox=f"b-{number}")
    home.fleet.tick_windows(3)
    home.now = home.fleet.clock.at_ms
    many = home.inside(work)
    sa.event.remove(home.engine, "before_cursor_execute", note)
    assert many == few, (few, many)
    assert max(few) <= 15 and max(few[:1] + few[2:]) <= 13, f"{few}: of credit, thirteen are the guard's own question"


def test_customer_page_list_limits_cover_most_override_requests() -> None:
    assert own_wallet.MOST_BLOCKED == 20 and own_wallet.MOST_OVERRIDES >= guard_overrides.MOST_ASKED


def every_place() -> Iterator[str]:
    yield from (page.path for page in PAGES)


def test_customer_page_list_is_complete_and_unique() -> None:
    assert len(set(every_place())) == len(PAGES) and all(path.startswith("/my/") for path in every_place())
