"""The small face: an organisation's own people come in by a link that the operator's product signed, and see that
organisation alone.

Guarantee: a link lets in once, within its quarter of an hour, whoever signed it with our shared secret or with a key of
the product's; the session that follows is bound to its organisation, whatever the address says. What a page reads is
read as for the console. What may be changed: an override is asked for, which counts once a person approves it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol, TypeVar
from urllib.parse import urlencode

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from drawdown.providers.payments.protocol import NoLink
from drawdown.schema.audit import By
from drawdown.schema.errors import AnswerLost, Refused, UsageError
from drawdown.schema.ids import tell_no_names
from drawdown.server.console import door, files
from drawdown.server.console.asking import Ask, said_by
from drawdown.server.console.forms import form_of
from drawdown.server.console.looking import look
from drawdown.server.console.my import asked
from drawdown.server.console.my.links import Link, Links
from drawdown.server.console.my.pages import PAGES
from drawdown.server.console.page import Page
from drawdown.server.http import bodies
from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.server.settings import MySettings
from drawdown.server.tokens import jwts
from drawdown.server.tokens.elsewhere import Elsewhere, Trouble, is_safe
from drawdown.server.tokens.jwts import Unproven
from drawdown.worker.access import my_sessions
from drawdown.worker.access.my_sessions import LIFE_MS, UsedLink, Visitor
from drawdown.worker.access.people import Person, is_demo
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.wallets import accounts as own_wallet
from drawdown.worker.wallets.accounts import Card

T = TypeVar("T")
Act = Callable[[Request, Mapping[str, str]], Awaitable[Response]]

COOKIE: Final = "__Host-drawdown-my"
HOME: Final = "/my/usage"
OVER: Final = "nobody is in here, or not any more: open this page from your product again"
ANOTHER: Final = "this browser is in for {} by now, and the page was another organisation's: open that one anew"
AT_ONCE: Final = 4
"""Reads and writes for these people: threads of their own, so that however many ask, the console answers, and the other
way round. Their files are half of them at most, as at the console."""
WITHIN_S: Final = 5.0
"""The longest that one page may read."""
MOST_CARD_PAGES: Final = 4
"""Asked for at payment services at once."""
CARD_WITHIN_S: Final = 15.0


def require_sane(settings: MySettings) -> None:
    """Errors: UsageError for settings that make no sense, or lack the library."""
    if settings.url:
        try:
            door.require_url(settings.url)
        except UsageError:
            raise UsageError("DRAWDOWN_MY_URL is no origin such as https://usage.example.com") from None
    if settings.jwks_url and not is_safe(settings.jwks_url):
        raise UsageError("DRAWDOWN_MY_JWKS_URL is no address such as https://app.example.com/.well-known/jwks.json")
    if settings.is_set:
        jwts.require_library()


class Face(Protocol):
    """What the console does for this face: see there."""

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
    """Nobody is in."""


class Another(Refused):
    """A page of one organisation asks, and by now its browser is in for another one."""

    code = "another_organisation"


class My:
    """The routes. `console` renders."""

    def __init__(
        self, console: Face, engine: sa.Engine, services: Services, elsewhere: Elsewhere, budget: bodies.Budget
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
        """All there are, made of the list of pages."""
        found = [Route(page.path, partial(self._page, page), methods=["GET"]) for page in PAGES]
        found += [
            Route(page.file_path("csv"), partial(self._file, page), methods=["GET"]) for page in PAGES if page.lines
        ]
        forms = {"/my/override": self._override, "/my/card": self._card, "/my/leave": self._leave}
        found += [Route(path, partial(self._sent, do), methods=["POST"]) for path, do in forms.items()]
        return [*found, Route("/my/enter", self._enter, methods=["GET"])]

    @property
    def url(self) -> str:
        """Where these people reach it, and for whom links are meant (`aud`)."""
        return self._services.settings.my.url or self._console.url

    async def _answered(
        self, request: Request, do: Callable[[], Awaitable[Response]], kept: Mapping[str, str] | None = None
    ) -> Response:
        async def known() -> Response:
            if not self._services.settings.my.is_set:
                return self._failed(404, "there is nothing here")
            try:
                return await do()
            except Nobody:
                return self._failed(401, OVER, kept)

        return await self._console.answered(request, known, self._failed)

    def _failed(self, status: int, why: str, kept: Mapping[str, str] | None = None) -> Response:
        """The error state. `kept`: what somebody had written, who may not send it any more."""
        return self._render("my_closed.html", {"status": status, "why": why, "kept": kept or {}}, status)

    def _render(self, template: str, shown: Mapping[str, object], status: int = 200) -> Response:
        base = {"visitor": None, "contact": self._services.settings.my.contact, "home": HOME}
        return self._console.render(template, {**base, **shown}, status)

    async def _enter(self, request: Request) -> Response:
        async def entered() -> Response:
            if request.method != "GET":  # whatever looks where a link leads does not use it up
                raise ApiError(405, "method", "a link is opened")
            try:
                link = await self._links.read(said_by(request).get("token", ""), self.url, self._console.now_ms())
                return await self._begin(request, link)
            except (Unproven, UsedLink) as error:
                return self._failed(403, f"this link opens nothing: {error}")
            except Trouble as error:
                return self._failed(502, f"this link cannot be looked at: {error}")

        return await self._answered(request, entered)

    async def look_in(self, request: Request, org_id: str, person: Person) -> Response:
        """Somebody of the console's sees what an organisation's own people see, and is on record by their own name."""
        link = Link(secrets.token_urlsafe(32), my_sessions.visitor(org_id, person.actor))
        return await self._answered(request, lambda: self._begin(request, link))

    async def _begin(self, request: Request, link: Link) -> Response:
        """A session, as long as it may be. Errors: UsedLink."""
        now_ms, session = self._console.now_ms(), secrets.token_urlsafe(32)
        given = (link.number, link.visitor, session, caller_of(request.client and request.client.host), now_ms)
        try:
            await self._threads.write(lambda c: my_sessions.enter(c, *given))
        except AnswerLost:  # the same session by the same link is let in again
            await self._threads.write(lambda c: my_sessions.enter(c, *given))
        answer, age = RedirectResponse(HOME, 303), LIFE_MS // 1000
        answer.set_cookie(COOKIE, session, max_age=age, path="/", secure=True, httponly=True, samesite="lax")
        return answer

    async def _look(self, work: Callable[[sa.Connection], T]) -> T:
        """Errors: TooSlow, and those of the database."""
        return await self._threads.run(lambda engine: look(engine, work, WITHIN_S))

    def _visitor(self, connection: sa.Connection, request: Request, said: Mapping[str, str], now_ms: int) -> Visitor:
        """Who asks; from here on, nobody else's name is told. `of`: whose page it is that asks, where it says so.
        Errors: Nobody; Another."""
        tell_no_names(connection)
        found = my_sessions.find(connection, request.cookies.get(COOKIE, ""), now_ms)
        if found is None:
            raise Nobody
        if said.get("of") not in (None, found.org_id):
            raise Another(ANOTHER.format(found.org_id))
        return found

    def _ask(self, connection: sa.Connection, request: Request, now_ms: int) -> Ask:
        """Of this organisation, whatever the address says."""
        said = said_by(request)
        visitor = self._visitor(connection, request, said, now_ms)
        return Ask(visitor, now_ms, {**said, "id": visitor.org_id})

    async def _page(self, page: Page, request: Request) -> Response:
        async def shown() -> Response:
            now_ms = self._console.now_ms()

            def work(connection: sa.Connection) -> Mapping[str, object]:
                ask = self._ask(connection, request, now_ms)
                read = {**page.read(connection, ask), "demo": is_demo(connection)}
                return {**read, "visitor": ask.person, "query": ask.query}

            more = {"live": True, "now_ms": now_ms, "page": page}
            return self._render(page.template, {**await self._look(work), **more})

        return await self._answered(request, shown)

    async def _file(self, page: Page, request: Request) -> Response:
        async def handed_out() -> Response:
            assert page.lines is not None
            now_ms, lines = self._console.now_ms(), page.lines
            ask = await self._look(lambda c: self._ask(c, request, now_ms))

            def begin(connection: sa.Connection) -> Iterator[str]:
                tell_no_names(connection)
                return lines(connection, ask)

            taken = files.Taken(page.file_path("csv"), ask)
            stream = await self._files.open(begin, taken, of=ask.query["id"])
            name = f"{page.title.lower()}.csv"
            headers = {"content-disposition": f'attachment; filename="{name}"'}
            return StreamingResponse(stream, media_type="text/csv; charset=utf-8", headers=headers)

        return await self._answered(request, handed_out)

    async def _sent(self, do: Act, request: Request) -> Response:
        kept: dict[str, str] = {}

        async def done() -> Response:
            kept.update(await form_of(request, self.url, self._budget, HOME))
            return await do(request, kept)

        return await self._answered(request, done, kept)

    async def _override(self, request: Request, form: Mapping[str, str]) -> Response:
        """Ask for an override: nothing counts before a person approves it."""
        now_ms = self._console.now_ms()
        metric = form.get("metric", "")

        def work(connection: sa.Connection) -> int:
            visitor = self._visitor(connection, request, form, now_ms)
            terms = asked.terms_of(form, visitor.org_id, now_ms)
            by = By(now_ms, visitor.actor, asked.reason_of(form), my_sessions.VIA)
            return guard_overrides.add(connection, terms, by, asked=True)[0].number

        number = await self._threads.write(work)
        return RedirectResponse(f"/my/blocked?{urlencode({'metric': metric, 'asked': number})}#asked", 303)

    async def _card(self, request: Request, form: Mapping[str, str]) -> Response:
        """Where the first card for automatic top-ups is put in, or another one: a page of the payment service's."""
        now_ms = self._console.now_ms()

        def work(connection: sa.Connection) -> tuple[Visitor, Card | None]:
            visitor = self._visitor(connection, request, form, now_ms)
            return visitor, own_wallet.told_of(connection, visitor.org_id, now_ms).card

        visitor, card = await self._look(work)
        service = None if card is None else self._services.payments(card.service)
        if card is None or service is None:
            return self._failed(404, "no card is charged for this credit")
        if self._card_pages >= MOST_CARD_PAGES:
            raise ApiError(503, "busy", "too many people ask for this page: try again in a moment", headers=SOON)
        self._card_pages += 1
        try:
            ask = service.portal_link if form.get("what") == "portal" else service.card_link
            found = await asyncio.wait_for(ask(card.service_customer, f"{self.url}{HOME}"), CARD_WITHIN_S)
        except TimeoutError:
            found = NoLink("it does not answer")
        finally:
            self._card_pages -= 1
        if isinstance(found, NoLink) or not is_safe(found.url):
            return self._failed(502, f"{card.service} gives no page for a card now: try again later")
        return self._render("my_card.html", {"visitor": visitor, "service": card.service, "url_there": found.url})

    async def _leave(self, request: Request, _form: Mapping[str, str]) -> Response:
        session, now_ms = request.cookies.get(COOKIE, ""), self._console.now_ms()
        await self._threads.write(lambda c: my_sessions.end(c, session, now_ms))
        answer = self._render("my_closed.html", {"status": 200, "why": OVER, "kept": {}})
        answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return answer
