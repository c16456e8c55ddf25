"""Sign people in and out, and set a password by a link.

Guarantee: neither a response nor its duration reveals whether a name exists. A password with an older hash is an
exception, because its check takes longer. Drawdown checks passwords in separate threads, a few at a time. Each check
takes time and 19 MiB, or 32 MiB for an older hash. After the sign-in, a person continues only at a page of the console.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from drawdown.schema.errors import AnswerLost, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.server.console import session_auth
from drawdown.server.console.request_params import said_by
from drawdown.server.console.session_auth import form_of
from drawdown.server.http.bodies import Budget
from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.threads import Threads
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.access.people import Person

HASHES_AT_ONCE: Final = 2
"""Concurrent password checks. Each uses 19 MiB, or 32 MiB for an older hash."""
MOST_HASHES: Final = 20
"""Password checks that run or wait.

Above the limit, Drawdown asks the person to try again.
"""
WRONG: Final = "wrong name or password"
TOO_MANY: Final = "too many failed sign-ins. Try again in 15 minutes"
NO_LINK: Final = "the link was used, or expired. Ask an admin for another link (`drawdown console user reset`)"

T = TypeVar("T")


class Desk(Protocol):
    """The functions of `Console` that these forms use."""

    url: str

    def render(self, template: str, shown: Mapping[str, object], status: int = 200) -> Response: ...
    def failed(self, status: int, why: str) -> Response: ...
    def now_ms(self) -> int: ...
    async def answered(self, request: Request, do: Callable[[], Awaitable[Response]]) -> Response: ...


class SignIn:
    """The routes for signing in and out."""

    def __init__(self, console: Desk, threads: Threads, budget: Budget) -> None:
        self._console = console
        self._threads = threads
        self._budget = budget
        self._hashing = ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="drawdown-password")
        self._hashes = 0

    def close(self) -> None:
        self._hashing.shutdown(wait=True, cancel_futures=True)

    def routes(self) -> list[Route]:
        """Return the routes of the forms."""
        return [
            Route("/console/sign-in", self._form, methods=["GET"]),
            Route("/console/sign-in", self._sign_in, methods=["POST"]),
            Route("/console/sign-out", self._sign_out, methods=["POST"]),
            Route("/console/link", self._link_form, methods=["GET"]),
            Route("/console/link", self._link, methods=["POST"]),
            Route("/console/enter", self._enter, methods=["GET"]),
        ]

    async def _form(self, request: Request) -> Response:
        async def respond() -> Response:
            there = inside(said_by(request).get("next"))
            return self._console.render("sign_in.html", {"next": there, "name": "", "why": ""})

        return await self._console.answered(request, respond)

    async def _sign_in(self, request: Request) -> Response:
        return await self._console.answered(request, lambda: self._signed_in(request))

    async def _signed_in(self, request: Request) -> Response:
        form = await self._form_of(request)
        name, password = form.get("name", "").strip().lower(), form.get("password", "")
        name = name if is_clean_id(name) else ""  # not every database can look up an invalid id
        address, now_ms = caller_of(request.client and request.client.host), self._console.now_ms()

        def show_form(status: int, why: str) -> Response:
            shown = {"next": inside(form.get("next")), "name": name, "why": why}
            return self._console.render("sign_in.html", shown, status)

        tried = await self._threads.write(lambda c: console_sessions.count_try(c, name, address, now_ms))
        stored = tried.stored
        if not await self._hash(lambda: console_users.is_password(password, stored)) or stored is None:
            return show_form(429, TOO_MANY) if tried.too_many else show_form(401, WRONG)
        rehashed = await self._hash(lambda: console_users.rehashed(password, stored))
        session = secrets.token_urlsafe(32)
        person = await self._begin(name, stored, session, address, rehashed)
        return show_form(401, WRONG) if person is None else _in(inside(form.get("next")), session)

    async def _begin(self, name: str, stored: str, session: str, address: str, rehashed: str) -> Person | None:
        now_ms = self._console.now_ms()
        return await self._threads.write(
            lambda c: console_sessions.begin(c, name, stored, session, address, now_ms, rehashed)
        )

    async def _sign_out(self, request: Request) -> Response:
        return await self._console.answered(request, lambda: self._signed_out(request))

    async def _signed_out(self, request: Request) -> Response:
        await self._form_of(request)
        session, now_ms = request.cookies.get(session_auth.COOKIE, ""), self._console.now_ms()
        await self._threads.write(lambda c: console_sessions.end(c, session, now_ms))
        answer = RedirectResponse("/console/sign-in", 303)
        session_auth.take_back(answer)
        return answer

    async def _link_form(self, request: Request) -> Response:
        return await self._console.answered(request, lambda: self._link_shown(said_by(request).get("token", "")))

    async def _link_shown(self, token: str, why: str = "", status: int = 200) -> Response:
        now_ms = self._console.now_ms()
        name = await self._threads.read(lambda c: console_users.linked(c, token, now_ms))
        if name is None:
            return self._console.failed(404, NO_LINK)
        return self._console.render("link.html", {"token": token, "name": name, "why": why}, status)

    async def _link(self, request: Request) -> Response:
        return await self._console.answered(request, lambda: self._linked(request))

    async def _linked(self, request: Request) -> Response:
        form = await self._form_of(request)
        token, password = form.get("token", ""), form.get("password", "")

        if password != form.get("again", ""):
            return await self._link_shown(token, "the two passwords differ", 400)
        try:
            stored = await self._hash(lambda: console_users.hash_password(password))
        except UsageError as error:
            return await self._link_shown(token, str(error), 400)
        address, now_ms = caller_of(request.client and request.client.host), self._console.now_ms()
        session = secrets.token_urlsafe(32)

        def work(connection: sa.Connection) -> Person | None:
            person = console_users.set_password(connection, token, stored, now_ms)
            if person is None:  # after a lost response, this session may have used the link
                begun = console_sessions.find(connection, session, now_ms)
                return None if begun is None else begun[0]
            return console_sessions.begin(connection, person.name, stored, session, address, now_ms)

        try:
            person = await self._threads.write(work)
        except AnswerLost:
            person = await self._threads.write(work)
        return self._console.failed(404, NO_LINK) if person is None else _in("/console/", session)

    async def _enter(self, request: Request) -> Response:
        return await self._console.answered(request, lambda: self._entered(request))

    async def _entered(self, request: Request) -> Response:
        """Sign in by a link alone, in a demo database."""
        said, session, now_ms = said_by(request), secrets.token_urlsafe(32), self._console.now_ms()
        token = said.get("token", "")
        address = caller_of(request.client and request.client.host)
        person = await self._threads.write(lambda c: console_sessions.enter(c, token, session, address, now_ms))
        if person is None:
            return self._console.failed(404, NO_LINK)
        return _in(inside(said.get("next")), session)

    async def _hash(self, work: Callable[[], T]) -> T:
        """Return the result of work in a thread for passwords.

        Errors: ApiError 503 if MOST_HASHES are running or waiting.
        """
        if self._hashes >= MOST_HASHES:
            raise ApiError(503, "busy", "too many people sign in now. Try again in a moment", headers=SOON)
        self._hashes += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashing, work)
        finally:
            self._hashes -= 1

    async def _form_of(self, request: Request) -> Mapping[str, str]:
        return await form_of(request, self._console.url, self._budget)


def _in(place: str, session: str) -> Response:
    answer = RedirectResponse(place, 303)
    session_auth.give(answer, session)
    return answer


def inside(place: str | None) -> str:
    """Return the path if it is inside the console; otherwise `/console/`.

    A browser resolves `..` in a path. A proxy may also resolve `..`, percent-encoded or not.
    """
    if place is None or not (place.startswith("/console/") and place.isprintable()):
        return "/console/"
    path = unquote(re.split(r"[?#]", place, maxsplit=1)[0])
    is_inside = "\\" not in place + path and not {".", ".."} & set(re.split("[/;]", path))
    return place if is_inside else "/console/"
