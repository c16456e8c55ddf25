"""Serve the console: its pages, their files, sign-in and sign-out.

Guarantee: a page reads in one read-only transaction of the console's own pool, for at most WITHIN_S. So readers do not
delay the gate or a tick. Drawdown checks the session in the same transaction. If a read fails, the page names the part
that Drawdown could not read, since when, and why. If a filter is invalid, its page keeps the filter's values, and shows
the error without rows.
"""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode

import sqlalchemy as sa
import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Scope

from drawdown.schema.audit import require_org
from drawdown.schema.errors import DatabaseBusy, DatabaseNotReady, DrawdownError, Refused, UnknownId, UsageError
from drawdown.server.console import files, my, oidc, session_auth
from drawdown.server.console.action_forms import Acting
from drawdown.server.console.csv_lines import FORMS, Form, as_json
from drawdown.server.console.frame import templates
from drawdown.server.console.frame.parts import Filter, PageContent
from drawdown.server.console.jwks import DocumentCache
from drawdown.server.console.page import Page
from drawdown.server.console.pages import ACTIONS, IN_CREDITS, MENU, PAGES, UNDER
from drawdown.server.console.read_connection import look
from drawdown.server.console.request_params import Ask, said_by
from drawdown.server.console.session_auth import SignedIn, form_of
from drawdown.server.console.sign_in import SignIn
from drawdown.server.http import bodies
from drawdown.server.http.errors import ApiError
from drawdown.server.http.limits import KnownProofs, describe_error
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.access.people import Person, hash_of
from drawdown.worker.engine.context import Context

log = structlog.get_logger()

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
AT_ONCE: Final = 4
"""Concurrent reads and writes of pages.

Each uses a connection of the console's own pool.
"""
WITHIN_S: Final = 5.0
"""Timeout of the reads of one page, in seconds."""

MEDIA: Final[Mapping[Form, str]] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}

T = TypeVar("T")


class SignedOut(Exception):
    """Raised if the person is not signed in."""


@dataclass(frozen=True)
class Looked:
    """A rendered page, and the person who requested it.

    The thread that reads a page also renders it. Meanwhile the event loop answers requests of the gate.
    """

    known: SignedIn
    answer: HTMLResponse


class Console:
    """The console of one server.

    `engine`: the console's own pool of connections, which other parts do not use.
    """

    def __init__(self, services: Services, engine: sa.Engine, refused: Counter[str]) -> None:
        self.services = services
        self.url = session_auth.require_url(services.settings.console_url, "DRAWDOWN_CONSOLE_URL")
        self._threads = Threads(engine, services.restores, AT_ONCE, "console")
        self._files = files.Files(self._threads)
        self._templates = templates.environment()
        self._assets = load()
        self._templates.globals.update(asset={name: one.path for name, one in self._assets.items()}, menu=MENU)
        budget = bodies.Budget(refused)
        self._sign_in = SignIn(self, self._threads, budget)
        self._acting = Acting(self, services.settings, self._threads, budget, ACTIONS)
        oidc.require_sane(services.settings.oidc)
        my.require_sane(services.settings.my)
        elsewhere = DocumentCache(services)
        self._oidc = oidc.Oidc(self, self._threads, services, elsewhere)
        self._my = my.My(self, engine, services, elsewhere, budget)
        self._known = KnownProofs[bool]()
        self._unread_ms: dict[str, int] = {}  # by path, the time since which a page cannot be read
        self._templates.globals["own_pages"] = services.settings.my.is_set
        self._budget = budget

    def close(self) -> None:
        self._my.close()
        self._sign_in.close()
        self._threads.close()

    def routes(self) -> list[Route]:
        """Return the routes of all pages, files, forms and static files."""
        found = [Route(page.path, partial(self._page, page), methods=["GET"]) for page in PAGES]
        for form in FORMS:
            files_of = [(page.file_path(form), partial(self._file, page, form)) for page in PAGES if page.lines]
            found += [Route(path, answer, methods=["GET"]) for path, answer in files_of]
        found += [Route(one.path, partial(self._asset, one), methods=["GET"]) for one in self._assets.values()]
        found += [*self._sign_in.routes(), *self._acting.routes(), *self._oidc.routes(), *self._my.routes()]
        found.append(Route("/console/own", self._to_own, methods=["POST"]))
        found.append(Route("/console", self._to_overview, methods=["GET"]))
        nowhere = (("/console/{rest:path}", self._nowhere), ("/my/{rest:path}", self._not_theirs))
        return [*found, *(Route(path, answer, methods=["GET"]) for path, answer in nowhere)]

    async def look(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one read-only transaction. Errors: TooSlow; the database's errors."""
        return await self._threads.run(lambda engine: look(engine, work, WITHIN_S))

    def render(self, template: str, shown: Mapping[str, object], status: int = 200) -> HTMLResponse:
        """Return a rendered page.

        The base values `person`, `page`, `demo` and `live` are empty unless `shown` has them. Errors: UndefinedError if
        any other value is missing.
        """
        base: dict[str, object] = {"person": None, "page": None, "demo": False, "live": False, "now_ms": self.now_ms()}
        base["oidc"] = oidc.label_of(self.services.settings.oidc)
        text = self._templates.get_template(template).render({**base, **shown})
        return HTMLResponse(text, status, headers={"content-security-policy": POLICY})

    def context(self) -> Context:
        """Return the context of a dry run, with the providers' declarations.

        The method does not call a provider.
        """
        providers, broken = self.services.providers, self.services.broken
        dormant = {name: one.dormant for name, one in providers.items() if one.dormant is not None}
        return Context(
            "console", self.services.clock, {name: one.capabilities for name, one in providers.items()}, dormant, broken
        )

    def now_ms(self) -> int:
        return self.services.clock.now_ms()

    async def answered(
        self,
        request: Request,
        do: Callable[[], Awaitable[Response]],
        failed: Callable[[int, str], Response] | None = None,
    ) -> Response:
        """Return the response from `do`, or the error page if `do` fails.

        If the person is not signed in, redirect to the sign-in page. A request for a part of an open page gets status
        401 instead.
        """
        failed = failed or self.failed
        try:
            return await self._noted(request, do)
        except SignedOut:
            if "hx-request" in request.headers:  # this request is for a part of an open page, which keeps its figures
                return failed(401, "your session ended. Load the page again")
            return RedirectResponse(f"/console/sign-in?{urlencode({'next': _place(request)})}", 303)
        except ApiError as error:
            return failed(error.status, error.message)
        except UnknownId as error:
            return failed(404, str(error))
        except UsageError as error:
            return failed(400, str(error))
        except Refused as error:
            return failed(409, str(error))
        except (DatabaseBusy, DatabaseNotReady) as error:
            return failed(503, str(error))
        except DrawdownError as error:
            return failed(500, str(error))
        except Exception as error:
            log.error("console_failed", path=request.url.path, **describe_error(error))
            return failed(500, "an internal error occurred. See the server's log")

    async def _noted(self, request: Request, do: Callable[[], Awaitable[Response]]) -> Response:
        try:
            return await do()
        finally:
            session, is_found = request.scope.get(session_auth.FOUND, ("", False))
            self._known.note(hash_of(session), self.now_ms(), is_found or None)

    def is_known(self, scope: Scope) -> bool:
        """Return True if the request has a recently found session, or a proven proxy."""
        request, now_ms = Request(scope), self.now_ms()
        if session_auth.proxied(self.services.settings, request) is not None:
            return True
        given = (request.cookies.get(one, "") for one in (session_auth.COOKIE, my.COOKIE))
        return any(self._known.has(hash_of(session), now_ms) for session in given)

    def failed(
        self,
        status: int,
        why: str,
        part: str = "",
        since_ms: int | None = None,
        person: Person | None = None,
        page: Page | None = None,
    ) -> HTMLResponse:
        """Return the error page, without figures.

        `part`: the part that could not be read. `since_ms`: the start of the failure; None if unknown. `person` and
        `page`: the person and the page for the menu.
        """
        shown: dict[str, object] = {"status": status, "why": why, "part": part, "since_ms": since_ms}
        if person is not None:
            shown |= {"person": person, "demo": person.in_demo, "page": page, "back": None, "under": ""}
        if person is not None and page is not None:
            shown |= {"under": UNDER[page.path], "back": next(one for one in PAGES if one.path == UNDER[page.path])}
        return self.render("error.html", shown, status)

    async def _page(self, page: Page, request: Request) -> Response:
        seen: list[Person] = []
        return await self.answered(
            request, lambda: self._render_page(page, request, seen), partial(self._unread, page, seen)
        )

    def _unread(self, page: Page, seen: list[Person], status: int, why: str) -> HTMLResponse:
        """Return the error page in place of a page that could not be read.

        `seen`: the person, if the session could be read.
        """
        person = seen[-1] if seen else None
        if status < 500:
            return self.failed(status, why, person=person, page=page)
        since_ms = self._unread_ms.setdefault(page.path, self.now_ms())
        return self.failed(status, why, page.title, since_ms, person, page)

    async def _nowhere(self, request: Request) -> Response:
        """Return the error page for an unknown address."""

        async def do() -> Response:
            known = await self.look(lambda c: session_auth.who(c, self.services.settings, request, self.now_ms()))
            return self.failed(404, "this page does not exist", person=None if known is None else known.person)

        return await self.answered(request, do)

    async def _not_theirs(self, _request: Request) -> Response:
        """Return the error page for an unknown address below `/my/`."""
        return self._my._failed(404, "this page does not exist")

    async def _render_page(self, page: Page, request: Request, seen: list[Person]) -> Response:
        now_ms, query = self.now_ms(), said_by(request)

        def work(connection: sa.Connection) -> Looked:
            known = self._require_person(connection, request, page, now_ms)
            seen.append(known.person)
            shown, status = read_page(connection, page, Ask(known.person, now_ms, query))
            more = {"live": True, "now_ms": now_ms, "page": page, "person": known.person, "query": query}
            more |= {"under": UNDER[page.path], "in_credits": page.path in IN_CREDITS}
            return Looked(known, self.render(page.template, {"demo": known.person.in_demo, **shown, **more}, status))

        found = await self.look(work)
        self._unread_ms.pop(page.path, None)
        await self._keep_use(found.known, now_ms)
        return found.answer

    def _require_person(self, connection: sa.Connection, request: Request, page: Page, now_ms: int) -> SignedIn:
        """Return the signed-in person.

        Errors: SignedOut; ApiError 403 if the person's role does not allow the page.
        """
        known = session_auth.who(connection, self.services.settings, request, now_ms)
        if known is None:
            raise SignedOut
        if not known.person.may(page.role):
            has, name = known.person.role, known.person.name
            raise ApiError(
                403,
                "no_role",
                f"{page.title} needs the role {page.role}, but {name} has the role {has}. Ask an admin to change the "
                "role",
            )
        return known

    async def _file(self, page: Page, form: Form, request: Request) -> Response:
        return await self.answered(request, lambda: self._handed_out(page, form, request))

    async def _handed_out(self, page: Page, form: Form, request: Request) -> Response:
        """Return a page's file as a stream of rows.

        Drawdown records the person and the number of rows.
        """
        assert page.lines is not None
        now_ms, query, lines = self.now_ms(), said_by(request), page.lines
        known = await self.look(lambda c: self._require_person(c, request, page, now_ms))
        ask = Ask(known.person, now_ms, query, form)

        def begin(connection: sa.Connection) -> Iterator[str]:
            with in_words(ask):
                found = lines(connection, ask)
                yield from found if form == "csv" else as_json(found)

        stream = await self._files.open(begin, files.FileRequest(page.file_path(form), ask))
        name = f"{page.title.lower()}.{form}"
        headers = {"content-disposition": f'attachment; filename="{name}"', "content-security-policy": POLICY}
        return StreamingResponse(stream, media_type=MEDIA[form], headers=headers)

    async def _keep_use(self, known: SignedIn, now_ms: int) -> None:
        """Record that a session is in use, at most once a minute.

        If the write fails, Drawdown logs it and still shows the page.
        """
        if known.session and now_ms - known.seen_ms >= console_sessions.SEEN_EVERY_MS:
            try:
                await self._threads.write(lambda c: console_sessions.note_use(c, known.session, now_ms))
            except DrawdownError as error:
                log.warning("console_use_not_kept", **describe_error(error))

    async def _to_own(self, request: Request) -> Response:
        """Redirect to the view of an organisation's own people, in a demo only.

        Outside a demo, only people of the organisation see this view.
        """

        async def respond() -> Response:
            form = await form_of(request, self.url, self._budget)
            now_ms = self.now_ms()

            def work(connection: sa.Connection) -> Ask:
                known = session_auth.who(connection, self.services.settings, request, now_ms)
                if known is None:
                    raise ApiError(401, "signed_out", "your session ended. Sign in again")
                if not known.person.in_demo:
                    raise ApiError(
                        404,
                        "not_found",
                        "outside a demo, only people of the organisation see this page. Open the organisation in the "
                        "console",
                    )
                ask = Ask(known.person, now_ms, form)
                require_org(connection, ask.required("org"))
                return ask

            ask = await self.look(work)
            return await self._my.look_in(request, ask.query["org"], ask.person)

        return await self.answered(request, respond)

    async def _asset(self, asset: Asset, request: Request) -> Response:
        return answer(asset, request)

    async def _to_overview(self, _request: Request) -> Response:
        return RedirectResponse("/console/", 303)


def _place(request: Request) -> str:
    """Return the requested path and query."""
    return f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path


WHOSE: Final = ("id", "key", "tab")
"""Parameters that identify a page. They do not filter its rows."""


@contextmanager
def in_words(ask: Ask) -> Iterator[None]:
    """Turn UnknownId into UsageError if the page is a list.

    On a page about one object, keep UnknownId, so that the response is 404. Errors: UsageError.
    """
    try:
        yield
    except UnknownId as error:
        if ask.names_one:
            raise
        raise UsageError(str(error)) from error


def read_page(connection: sa.Connection, page: Page, ask: Ask) -> tuple[Mapping[str, object], int]:
    """Return the content of a page and its status.

    The status is 400 if the page's filter is invalid. Errors: the errors of the read.
    """
    try:
        with in_words(ask):
            return page.read(connection, ask), 200
    except UsageError as error:
        return _asked_again(connection, page, ask, error), 400


def _asked_again(connection: sa.Connection, page: Page, ask: Ask, error: UsageError) -> Mapping[str, object]:
    """Return a page that shows `error` in place of rows.

    Errors: `error`, if it is about the page's own object, or the page has no filter or fails without it.
    """
    whose = {name: value for name, value in ask.query.items() if name in WHOSE}
    if (isinstance(error, UnknownId) and ask.names_one) or whose == ask.query:
        raise error
    try:
        found = page.read(connection, replace(ask, query=whose))
    except UsageError:  # the page fails without the filter, too
        raise error from None
    whole = found.get("shown")
    if isinstance(whole, PageContent) and whole.filters:
        filters, above = _place_error(whole.filters, ask, str(error))
        kept = {name: value for name, value in whole.query.items() if name in WHOSE}
        bare = replace(whole, tables=(), tiles=(), acts=(), file="", filters=filters, query=kept, wrong=above)
        return {**found, "shown": bare, "empty": False}
    if isinstance(fields := found.get("filters"), tuple):
        filters, above = _place_error(fields, ask, str(error))
        return {**found, "tables": [], "file": "", "filters": filters, "wrong": above}
    raise error


def _place_error(fields: Sequence[Filter], ask: Ask, error: str) -> tuple[tuple[Filter, ...], str]:
    """Return the filters with their values, and the error at its filter.

    The second value is the error if it does not belong to a filter; otherwise ''.
    """
    filled = [replace(one, value=ask.query.get(one.name, "")) for one in fields]
    named, _, about = error.partition(": ")
    at = next((one.name for one in filled if one.name == named), "")
    said = about if at else error
    named = named.removeprefix("invalid ").partition(" ")[0]
    at = at or next((one.name for one in filled if one.name == named), "")
    at = at or next((one.name for one in filled if one.value and _names(error, one.value)), "")
    sentence = f"{said[:1].upper()}{said[1:]}."
    return tuple(replace(one, wrong=sentence if one.name == at else "") for one in filled), "" if at else sentence


def _names(error: str, value: str) -> bool:
    """Return True if the error names this id, in the words of `ids.unknown`."""
    return f" {value}" in error.partition(";")[0]


FOLDER: Final = Path(__file__).resolve().parent / "static"
ROOT: Final = "/console/static/"
TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
FOR_A_YEAR: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """A static file. `packed`: the file's body in gzip."""

    path: str
    kind: str
    body: bytes
    packed: bytes


@cache
def load(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """Return the static files by name, read and compressed once in a process."""
    return {file.name: _asset(file) for file in sorted(folder.iterdir()) if file.suffix in TYPES}


def _asset(file: Path) -> Asset:
    body = file.read_bytes()
    path = f"{ROOT}{hashlib.sha256(body).hexdigest()[:16]}/{file.name}"
    return Asset(path, TYPES[file.suffix], body, gzip.compress(body, mtime=0))


def answer(asset: Asset, request: Request) -> Response:
    """Return a static file, in gzip if the browser accepts gzip."""
    headers = {"cache-control": FOR_A_YEAR, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, media_type=asset.kind, headers={**headers, "content-encoding": "gzip"})
    return Response(asset.body, media_type=asset.kind, headers=headers)
