"""Serve the pages at /my/ for an organisation's own people.

People sign in with a signed link, and see only their organisation. Your product signs the link:

    {"aud": "https://drawdown.internal", "org": "acme", "sub": "ann", "exp": 1767225900, "jti": "6f1c…"}

Guarantee: a link can be used once, within fifteen minutes. Drawdown accepts HS256 only with the shared secret, and
RS256 and ES256 only with your product's public keys. A link must have an audience, an organisation, an expiry time and
a unique id. The session belongs to that organisation, even if the address names another. If the organisation shares its
wallet with others, the pages do not show the wallet. They never show the name of another organisation or of an
operator, or a reason that an operator wrote. The only change that a visitor can request is a limit override, which a
person must approve. Drawdown rejects an invalid value, and never reads it as another value.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from drawdown.guard.periods import PERIODS, Period
from drawdown.providers.payments.protocol import NoLink
from drawdown.schema.audit import By
from drawdown.schema.errors import AnswerLost, Refused, UnknownId, UsageError
from drawdown.schema.ids import is_clean_id, tell_no_names
from drawdown.schema.text import quote_value
from drawdown.schema.units import DAY_MS
from drawdown.server import jwts
from drawdown.server.console import files, session_auth
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Tile
from drawdown.server.console.frame.templates import HALTED_FOR
from drawdown.server.console.jwks import DocumentCache, Trouble, is_safe
from drawdown.server.console.page import Page
from drawdown.server.console.read_connection import look
from drawdown.server.console.request_params import Ask, said_by
from drawdown.server.console.screens.customers import usage as full
from drawdown.server.console.session_auth import form_of
from drawdown.server.http import bodies
from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.jwts import Unproven
from drawdown.server.services import Services
from drawdown.server.settings import MySettings
from drawdown.worker.access import my_sessions
from drawdown.worker.access.my_sessions import LIFE_MS, LINK_MS, STAFF, UsedLink, Visitor, visitor
from drawdown.worker.access.people import Person, is_demo
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.options import ways_out
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.guard.terms import Wish
from drawdown.worker.usage.lists import last_days, read_usage
from drawdown.worker.verdict.rules import CREDIT_REASONS, USAGE_LIMIT
from drawdown.worker.wallets import accounts as own_wallet
from drawdown.worker.wallets import entries as wallet_entries
from drawdown.worker.wallets.accounts import Card
from drawdown.worker.wallets.entries import forecast_of

T = TypeVar("T")
Act = Callable[[Request, Mapping[str, str]], Awaitable[Response]]

COOKIE: Final = "__Host-drawdown-my"
HOME: Final = "/my/usage"
OVER: Final = "you are not signed in, or your session ended. Open this page from your product again"
ANOTHER: Final = (
    "this browser is now signed in for {}, but the page belongs to another organisation. Open that page again"
)
AT_ONCE: Final = 4
"""Concurrent reads and writes of `/my`, in their own threads.

The console and `/my` do not delay each other. Downloads use at most half of these threads.
"""
WITHIN_S: Final = 5.0
"""Timeout of the reads of one page of `/my`, in seconds."""
MOST_CARD_PAGES: Final = 4
"""Concurrent requests to a payment service for the URL of a payment page."""
CARD_WITHIN_S: Final = 15.0
"""Longest wait for the URL of a payment page."""


def require_sane(settings: MySettings) -> None:
    """Check the settings of `/my`.

    Errors: UsageError if a setting is invalid, or the library for tokens is missing.
    """
    if settings.url:
        session_auth.require_url(settings.url, "DRAWDOWN_MY_URL")
    if settings.jwks_url and not is_safe(settings.jwks_url):
        raise UsageError(  # without the value, because a user's password may be in it
            "invalid DRAWDOWN_MY_JWKS_URL: expected https://, or http:// with localhost, 127.0.0.1 or [::1], without a "
            "user name, password or fragment, such as https://app.example.com/.well-known/jwks.json"
        )
    if settings.is_set:
        jwts.require_library()


class Face(Protocol):
    """The functions of `Console` that these pages use."""

    url: str

    def render(self, template: str, shown: Mapping[str, object], status: int = 200) -> Response: ...
    def now_ms(self) -> int: ...
    async def answered(
        self,
        request: Request,
        do: Callable[[], Awaitable[Response]],
        failed: Callable[[int, str], Response] | None = None,
    ) -> Response: ...


class Nobody(Exception):
    """Raised if the visitor is not signed in."""


class Another(Refused):
    """Raised if the page belongs to an organisation other than the session's."""

    code = "another_organisation"


class My:
    """The routes of `/my`. `console` renders the pages."""

    def __init__(
        self, console: Face, engine: sa.Engine, services: Services, elsewhere: DocumentCache, budget: bodies.Budget
    ) -> None:
        self._console = console
        self._threads = Threads(engine, services.restores, AT_ONCE, "my")
        self._files = files.Files(self._threads)
        self._services = services
        self._links = Links(services, elsewhere)
        self._budget = budget
        self._card_pages = 0

    def close(self) -> None:
        self._threads.close()

    def routes(self) -> list[Route]:
        """Return the routes of all pages, files and forms."""
        found = [Route(page.path, partial(self._page, page), methods=["GET"]) for page in PAGES]
        found += [
            Route(page.file_path("csv"), partial(self._file, page), methods=["GET"]) for page in PAGES if page.lines
        ]
        forms = {"/my/override": self._override, "/my/card": self._card, "/my/leave": self._leave}
        found += [Route(path, partial(self._handle_form, do), methods=["POST"]) for path, do in forms.items()]
        return [*found, Route("/my/enter", self._enter, methods=["GET"])]

    @property
    def url(self) -> str:
        """Return the address of these pages, which is also the audience of links (`aud`)."""
        return self._services.settings.my.url or self._console.url

    async def _answered(
        self, request: Request, do: Callable[[], Awaitable[Response]], kept: Mapping[str, str] | None = None
    ) -> Response:
        async def respond() -> Response:
            if not self._services.settings.my.is_set:
                return self._failed(404, "this page does not exist")
            try:
                return await do()
            except Nobody:
                return self._failed(401, OVER, kept)

        return await self._console.answered(request, respond, self._failed)

    def _failed(self, status: int, why: str, kept: Mapping[str, str] | None = None) -> Response:
        """Return the error page. `kept`: the text of a form that was not sent."""
        return self._render("my_closed.html", {"status": status, "why": why, "kept": kept or {}}, status)

    def _render(self, template: str, shown: Mapping[str, object], status: int = 200) -> Response:
        base = {"visitor": None, "contact": self._services.settings.my.contact, "home": HOME}
        return self._console.render(template, {**base, **shown}, status)

    async def _enter(self, request: Request) -> Response:
        async def entered() -> Response:
            if request.method != "GET":  # HEAD must not use up the link, because link previews send it
                raise ApiError(405, "method", f"invalid method {quote_value(request.method)}. Open the link with GET")
            try:
                link = await self._links.read(said_by(request).get("token", ""), self.url, self._console.now_ms())
                return await self._begin(request, link)
            except (Unproven, UsedLink) as error:
                return self._failed(403, f"the link was refused: {error}. Open the page from your product again")
            except Trouble as error:
                return self._failed(502, f"the link cannot be checked: {error}")

        return await self._answered(request, entered)

    async def look_in(self, request: Request, org_id: str, person: Person) -> Response:
        """Show a person of the console the pages of an organisation's own people.

        Drawdown records the person's own name.
        """
        link = Link(secrets.token_urlsafe(32), my_sessions.visitor(org_id, person.actor))
        return await self._answered(request, lambda: self._begin(request, link))

    async def _begin(self, request: Request, link: Link) -> Response:
        """Begin a session with the longest lifetime. Errors: UsedLink."""
        now_ms, session = self._console.now_ms(), secrets.token_urlsafe(32)
        given = (link.number, link.visitor, session, caller_of(request.client and request.client.host), now_ms)
        try:
            await self._threads.write(lambda c: my_sessions.enter(c, *given))
        except AnswerLost:  # a repeat with the same link and session succeeds
            await self._threads.write(lambda c: my_sessions.enter(c, *given))
        answer, age = RedirectResponse(HOME, 303), LIFE_MS // 1000
        answer.set_cookie(COOKIE, session, max_age=age, path="/", secure=True, httponly=True, samesite="lax")
        return answer

    async def _look(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one read-only transaction. Errors: TooSlow; the database's errors."""
        return await self._threads.run(lambda engine: look(engine, work, WITHIN_S))

    def _visitor(self, connection: sa.Connection, request: Request, said: Mapping[str, str], now_ms: int) -> Visitor:
        """Return the visitor, and hide all other names in this transaction.

        `said`: the fields of the request. The field `of` is the organisation of the page, if any. Errors: Nobody;
        Another.
        """
        tell_no_names(connection)
        session = request.cookies.get(COOKIE, "")
        found = my_sessions.find(connection, session, now_ms)
        request.scope[session_auth.FOUND] = session, found is not None
        if found is None:
            raise Nobody
        if said.get("of") not in (None, found.org_id):
            raise Another(ANOTHER.format(found.org_id))
        return found

    def _ask(self, connection: sa.Connection, request: Request, now_ms: int) -> Ask:
        """Return the request for this visitor's organisation.

        The visitor's organisation replaces an `id` in the address.
        """
        said = said_by(request)
        visitor = self._visitor(connection, request, said, now_ms)
        return Ask(visitor, now_ms, {**said, "id": visitor.org_id})

    async def _page(self, page: Page, request: Request) -> Response:
        async def respond() -> Response:
            now_ms = self._console.now_ms()

            def work(connection: sa.Connection) -> Mapping[str, object]:
                ask = self._ask(connection, request, now_ms)
                read = {**page.read(connection, ask), "demo": is_demo(connection)}
                return {**read, "visitor": ask.person, "query": ask.query}

            more = {"live": True, "now_ms": now_ms, "page": page}
            return self._render(page.template, {**await self._look(work), **more})

        return await self._answered(request, respond)

    async def _file(self, page: Page, request: Request) -> Response:
        async def handed_out() -> Response:
            assert page.lines is not None
            now_ms, lines = self._console.now_ms(), page.lines
            ask = await self._look(lambda c: self._ask(c, request, now_ms))

            def begin(connection: sa.Connection) -> Iterator[str]:
                tell_no_names(connection)
                return lines(connection, ask)

            taken = files.FileRequest(page.file_path("csv"), ask)
            stream = await self._files.open(begin, taken, of=ask.query["id"])
            name = f"{page.title.lower()}.csv"
            headers = {"content-disposition": f'attachment; filename="{name}"'}
            return StreamingResponse(stream, media_type="text/csv; charset=utf-8", headers=headers)

        return await self._answered(request, handed_out)

    async def _handle_form(self, do: Act, request: Request) -> Response:
        kept: dict[str, str] = {}

        async def respond() -> Response:
            kept.update(await form_of(request, self.url, self._budget, HOME))
            return await do(request, kept)

        return await self._answered(request, respond, kept)

    async def _override(self, request: Request, form: Mapping[str, str]) -> Response:
        """Request a limit override. It takes effect when a person approves it."""
        now_ms = self._console.now_ms()
        metric = form.get("metric", "")

        def work(connection: sa.Connection) -> int:
            visitor = self._visitor(connection, request, form, now_ms)
            terms = terms_of(form, visitor.org_id, now_ms)
            by = By(now_ms, visitor.actor, reason_of(form), my_sessions.VIA)
            return guard_overrides.add(connection, terms, by, asked=True)[0].number

        number = await self._threads.write(work)
        return RedirectResponse(f"/my/blocked?{urlencode({'metric': metric, 'asked': number})}#asked", 303)

    async def _card(self, request: Request, form: Mapping[str, str]) -> Response:
        """Return a link to a page of the payment service, to add a card or change it.

        The card pays for automatic top-ups.
        """
        now_ms = self._console.now_ms()

        def work(connection: sa.Connection) -> tuple[Visitor, Card | None]:
            visitor = self._visitor(connection, request, form, now_ms)
            return visitor, own_wallet.told_of(connection, visitor.org_id, now_ms).card

        visitor, card = await self._look(work)
        service = None if card is None else self._services.payments(card.service)
        if card is None or service is None:
            return self._failed(
                404, "an automatic top-up is not set up for this credit. Ask the operator to set up top-ups"
            )
        if self._card_pages >= MOST_CARD_PAGES:
            raise ApiError(503, "busy", "too many people open this page. Try again in a moment", headers=SOON)
        self._card_pages += 1
        try:
            ask = service.portal_link if form.get("what") == "portal" else service.card_link
            found = await asyncio.wait_for(ask(card.service_customer, f"{self.url}{HOME}"), CARD_WITHIN_S)
        except TimeoutError:
            found = NoLink("no response")
        finally:
            self._card_pages -= 1
        if isinstance(found, NoLink) or not is_safe(found.url):
            return self._failed(502, f"{card.service} did not return a page for a card. Try again later")
        return self._render("my_card.html", {"visitor": visitor, "service": card.service, "url_there": found.url})

    async def _leave(self, request: Request, _form: Mapping[str, str]) -> Response:
        session, now_ms = request.cookies.get(COOKIE, ""), self._console.now_ms()
        await self._threads.write(lambda c: my_sessions.end(c, session, now_ms))
        answer = self._render("my_closed.html", {"status": 200, "why": OVER, "kept": {}})
        answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return answer


@dataclass(frozen=True)
class Link:
    """A verified link. `number`: its unique id (`jti`)."""

    number: str
    visitor: Visitor


class Links:
    """The signed links that one server verifies."""

    def __init__(self, services: Services, elsewhere: DocumentCache) -> None:
        self._services = services
        self._elsewhere = elsewhere

    async def read(self, token: str, audience: str, now_ms: int) -> Link:
        """Return the link in a token.

        Errors: Unproven; Trouble if the keys cannot be read.
        """
        claims = await self._claims_of(token)
        jwts.require(claims, now_ms, aud=audience)
        if claims["exp"] * 1000 > now_ms + LINK_MS + jwts.SLACK_S * 1000:
            raise Unproven("the token expires more than 15 minutes from now")
        org_id, person = _id(claims, "org"), _id(claims, "sub") if "sub" in claims else None
        if person is not None and person.startswith(STAFF):
            raise Unproven(
                f"the token's sub {quote_value(person)} begins with {STAFF}, which is reserved for people of the "
                "console"
            )
        return Link(_id(claims, "jti"), visitor(org_id, person))

    async def _claims_of(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token after its signature is verified.

        Errors: Unproven; Trouble.
        """
        own = self._services.settings.my
        algorithm, kid = jwts.head_of(token)
        if algorithm == "HS256" and own.secrets:
            return jwts.claims_of(token, [jwts.secret_key(one) for one in own.secrets], ("HS256",))
        if algorithm in jwts.BY_KEYS and own.jwks_url:
            keys = await self._elsewhere.keys(own.jwks_url, kid, "the product")
            return jwts.claims_of(token, keys, jwts.BY_KEYS)
        raise Unproven(f"this server does not have a key for the token's algorithm {algorithm}")


def _id(claims: Mapping[str, Any], name: str) -> str:
    """Return the id in a claim. Errors: Unproven if the claim has no valid id."""
    found = claims.get(name)
    if not isinstance(found, str) or not is_clean_id(found):
        raise Unproven(
            f"the token does not have the claim {name}, or the claim is invalid: expected 1 to 200 characters without "
            "control characters"
        )
    return found


COLUMNS: Final = ("used_at", "booked_at", "kind", "event", "quantity", "amount", "balance")
DAY_CHOICES: Final = (7, 30, 89)
"""Choices of days for a requested limit override.

The limit override ends at a midnight, at most 90 days from now.
"""


def usage(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, days = ask.required("id"), ask.number("days", full.DAYS)
    nothing: dict[str, object] = {
        "empty": True, "shared": False, "card": None, "days": days, "day_choices": sorted(full.DAYS), "halted": None,
        "ends": None, "features": None,
    }  # fmt: skip
    try:
        told = own_wallet.told_of(connection, org_id, ask.now_ms)
    except UnknownId:
        return nothing
    blocked = own_wallet.blocked(connection, org_id, ask.now_ms)
    shown = {**nothing, "empty": False, "shared": told.is_shared, "card": told.card, "blocked": blocked}
    org = own_wallet.org_of(connection, org_id)
    if org is not None and org.is_halted:
        shown |= {"halted": org, "why": HALTED_FOR.get(f"{org.halt_reason}", "")}
        shown["by_credit"] = org.halt_reason in CREDIT_REASONS - {"unreadable", USAGE_LIMIT}
    if told.is_shared:
        return {**shown, "features": _features(connection, org_id, ask.now_ms)}
    if not told.paid.is_here:
        shown["tiles"] = full.provider_balance_tiles(connection, org, told.paid, ask.now_ms)
        if not told.paid.has_wallet:
            return {**shown, "features": _features(connection, org_id, ask.now_ms)}
        return {**_wallet(connection, told.paid.customer_id, days, ask), **shown}
    return {**shown, **_wallet(connection, told.paid.customer_id, days, ask)}


def _wallet(connection: sa.Connection, customer: str, days: int, ask: Ask) -> Mapping[str, object]:
    account = own_wallet.standing(connection, customer, ask.now_ms)
    tomorrow = _tomorrow(ask.now_ms)
    use = wallet_entries.use_by(connection, customer, tomorrow - max(days, full.TILE_DAYS) * DAY_MS, tomorrow)
    begin = tomorrow - days * DAY_MS
    bars = [one for one in use if one.at_ms >= begin]
    opened = full.opened_day(ask)
    forecast = forecast_of(connection, customer, account.available_micro, ask.now_ms)
    closing = wallet_entries.closing_micro(connection, customer, tomorrow)
    return {
        "tiles": [*_tiles(account, full.outlook(forecast, ask.now_ms)), full.used(use, tomorrow), _balance(account)],
        "ends": forecast if forecast.state == "ends" else None,
        "chart": full.chart(bars, ask.now_ms, begin),
        "table": full.by_day(bars),
        "ledger": full.ledger_days(wallet_entries.ledger_by_day(connection, customer, begin, tomorrow), closing),
        "opened": opened,
        "entries": [] if opened is None else wallet_entries.entries_of_day(connection, customer, opened),
        "most": wallet_entries.MOST_DAY_ENTRIES,
    }


def _tiles(account: own_wallet.Standing, forecast: str) -> list[Tile]:
    tone = "bad" if account.available_micro < 0 else ""
    return [
        Tile("Available", figures.credits(account.available_micro), forecast, tone),
        Tile("Reserved", figures.credits(account.reserved_micro), "for open executions"),
    ]


def _balance(account: own_wallet.Standing) -> Tile:
    owes = account.balance_micro < 0
    said = "used but not paid" if owes else "available and reserved"
    return Tile("Balance", figures.credits(account.balance_micro), said, "bad" if owes else "")


def _features(connection: sa.Connection, org_id: str, now_ms: int) -> list[tuple[str, int, str]]:
    """Return each feature's usage in the last days with its unit, the largest first."""
    try:
        rows = read_usage(connection, org_id, *last_days(now_ms, full.SPLIT_DAYS), "feature").rows
    except UnknownId:  # the customer has a wallet, but is not an organisation
        return []
    return sorted(((row.feature, row.used, row.unit) for row in rows if row.used), key=lambda row: (-row[1], row[0]))


def _tomorrow(now_ms: int) -> int:
    return now_ms - now_ms % DAY_MS + DAY_MS


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the ledger's lines for the days that the page shows.

    If others share the wallet, yield only the names of the columns.
    """
    told, chosen = own_wallet.told_of(connection, ask.required("id"), ask.now_ms), full.days_of(ask)
    yield csv_line(COLUMNS)
    for one, left in () if told.is_shared else wallet_entries.every(connection, told.paid.customer_id, chosen):
        texts = (figures.iso(one.ts), figures.iso(one.at_ms), one.kind, one.feature)
        yield csv_line(texts, (one.quantity, figures.plain(one.moved_micro), figures.plain(left)))


def blocked(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    org_id, metric = ask.required("id"), ask.required("metric")
    found = ways_out(connection, Wish(org_id, metric, 1), ask.now_ms, most_sponsors=0)
    by_credit = found.answer.rule == "credits"  # an override does not lift a halt for lack of credit
    ways = {way.option: way for way in found.ways}
    if ways["top_up"].missing_micro and own_wallet.told_of(connection, org_id, ask.now_ms).is_shared:
        ways["top_up"] = replace(ways["top_up"], missing_micro=None)  # the amount would reveal the shared balance
    return {
        "metric": metric,
        "answer": found.answer,
        "ways": ways,
        "asked": [] if by_credit else own_wallet.overrides(connection, org_id, metric, ask.now_ms),
        "periods": PERIODS,
        "day_choices": [(days, until(ask.now_ms, days)) for days in DAY_CHOICES],
        "empty": False,
    }


def until(now_ms: int, days: int) -> int:
    """Return the midnight that ends a limit override.

    If a person sends the form twice on a day, both requests have the same end.
    """
    return now_ms - now_ms % DAY_MS + days * DAY_MS


MAX_REASON_CHARS: Final = 500
"""Characters of the reason for a limit override, on a form of `/my`."""
_DIGITS: Final = 15


def terms_of(form: Mapping[str, str], org_id: str, now_ms: int) -> Terms:
    """Return the terms for the session's organisation, never for another.

    Errors: UsageError.
    """
    metric = form.get("metric", "")
    if not is_clean_id(metric):
        raise UsageError(
            f"invalid metric {quote_value(metric)}: expected 1 to 200 characters without control characters"
        )
    return Terms(metric, "org", org_id, _period(form), _amount(form), _ends_ms(form, now_ms))


def reason_of(form: Mapping[str, str]) -> str:
    """Return the reason in a form.

    Errors: UsageError if it is empty, too long or not printable.
    """
    reason = form.get("reason", "").strip()
    if not (0 < len(reason) <= MAX_REASON_CHARS and reason.isprintable()):
        raise UsageError(
            f"invalid reason {quote_value(reason)}: expected 1 to {MAX_REASON_CHARS} printable characters on one line"
        )
    return reason


def _period(form: Mapping[str, str]) -> Period:
    found = next((one for one in PERIODS if one == form.get("period")), None)
    if found is None:
        raise UsageError(f"invalid period {quote_value(form.get('period', ''))}: expected {', '.join(PERIODS)}")
    return found


def _amount(form: Mapping[str, str]) -> int:
    found = form.get("amount", "").strip()
    if not (found.isascii() and found.isdecimal() and len(found) <= _DIGITS):
        raise UsageError(f"invalid amount {quote_value(found)}: expected a whole number such as 50")
    return int(found)


def _ends_ms(form: Mapping[str, str], now_ms: int) -> int:
    choices = {str(days): days for days in DAY_CHOICES}
    if form.get("days", "") not in choices:
        raise UsageError(f"invalid days {quote_value(form.get('days', ''))}: expected {', '.join(choices)}")
    return until(now_ms, choices[form["days"]])


assert max(DAY_CHOICES) * DAY_MS < guard_overrides.MOST_LIFE_MS


PAGES: Final = (
    Page("/my/usage", "Usage", "my_usage.html", usage, lines=csv_lines),
    Page("/my/blocked", "Blocked metric", "my_blocked.html", blocked, example="?metric=idea.create"),
)
