"""A server with a console, asked without a socket."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import httpx
import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.server.app import Server
from drawdown.server.console.session_auth import COOKIE
from drawdown.server.services import NobodyThere, Services
from drawdown.server.settings import ServerSettings
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.engine.runner import NoWitness
from drawdown.worker.engine.witness import WitnessStore
from drawdown.worker.wallets import actions as credit
from tests.world import T0, Copied, Fleet

T = TypeVar("T")
ANN, VIC, KIM = 7, 5, 6
"""The sessions of an operator who may give 100 credits at once, of a viewer, and of an admin."""
URL: Final = "https://drawdown.internal"
OURS: Final = {"sec-fetch-site": "same-origin"}
LIVED: Final = 3
"""Windows that have passed in a home."""
PASSWORD: Final = "correct horse battery"
STORED: Final = console_users.hash_password(PASSWORD)


_kept: Final[list[Server]] = []


def close_servers() -> None:
    """Those that a test asked."""
    while _kept:
        _kept.pop().close()


def secret(number: int) -> str:
    return f"{number:043}"


def as_read(page: str) -> str:
    """A page's text as people read it, without what marks names and commands in it."""
    return html.unescape(re.sub(r"</?(bdi|code)\b[^>]*>", "", page)).replace("`", "")


def says(page: str, words: str) -> bool:
    """Whether a page tells what is wrong: at its field, a sentence does not name the field again."""
    text = as_read(page).lower()
    _, colon, sentence = words.lower().partition(": ")
    return words.lower() in text or (bool(colon) and sentence in text.partition('class="wrong"')[2])


class Home:
    """A server with a console, on one database; ann is an operator who has a password and is signed in."""

    def __init__(self, engine: sa.Engine, *, copied: bool = False, **settings: Any) -> None:
        """`copied`: it is the database of another home, at the moment it was made."""
        self.engine = engine
        self.fleet = Copied(engine, FixedClock(T0 + LIVED * WINDOW_MS)) if copied else Fleet(engine)
        if not copied:
            self._live()
        self.now = self.fleet.clock.at_ms
        self.settings = ServerSettings(requests_per_s=1_000_000, **{"console_url": URL} | settings)
        self._servers: dict[bool, Server] = {}
        self.witness: WitnessStore = NoWitness()

    def _live(self) -> None:
        self.fleet.assign("acme", from_ms=T0)
        write(self.engine, lambda c: credit.grant(c, "acme", 10 * MICRO, self.fleet.by, key="k", plan=None))
        self.fleet.sample("acme", T0 + 1)
        self.fleet.tick_windows(LIVED)
        write(self.engine, self._people)

    def _people(self, connection: sa.Connection) -> None:
        people = (("ann", "operator", 1, ANN), ("vic", "viewer", 2, VIC), ("kim", "admin", 3, KIM))
        for name, role, link, session in people:
            limit = 100 * MICRO if role == "operator" else None
            console_users.add(connection, name, role, secret(link), self.fleet.by, grant_limit_micro=limit)
            now = self.fleet.clock.at_ms
            console_users.set_password(connection, secret(link), STORED, now)
            console_sessions.begin(connection, name, STORED, secret(session), "192.0.2.7", now)

    def register(self, names: Iterable[str]) -> None:
        """Organisations that nobody bills yet."""
        many = [{"org": name, "bucket": number % 256} for number, name in enumerate(names)]
        text = sa.text("INSERT INTO orgs (org_id, bucket) VALUES (:org, :bucket)")
        write(self.engine, lambda c: c.execute(text, many))

    def server(self, console: bool = True) -> Server:
        """The one that all is asked of, until `close_servers`: to make one costs more than most answers."""
        if console not in self._servers:
            _kept.append(self._made(console))
            self._servers[console] = _kept[-1]
        return self._servers[console]

    def _made(self, console: bool) -> Server:
        def nobody() -> Any:
            raise AssertionError("no page asks for a step")

        return Server(
            Services(
                engine=self.engine,
                clock=self.fleet.clock,
                settings=self.settings,
                providers=self.fleet.providers,
                unasked={},
                broken={},
                http=NobodyThere(),
                thread_kit=nobody,
                console_engine=self.engine if console else None,
                witness=self.witness,
            )
        )

    def ask(self, work: Callable[[httpx.AsyncClient, Any], Awaitable[T]], console: bool = True) -> T:
        """In a loop of its own, which ends once no file is being made in it."""
        server = self.server(console)
        home: Any = server._console

        async def whole() -> T:
            transport = httpx.ASGITransport(server.app, client=("192.0.2.9", 4711))
            try:
                async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
                    return await work(client, home)
            finally:
                while home is not None and (home._files._under_way or home._my._files._under_way):
                    await asyncio.sleep(0.001)

        return asyncio.run(whole())

    def get(self, *paths: str, session: int | None = 7, **headers: Any) -> list[httpx.Response]:
        cookies = {} if session is None else {"cookie": f"{COOKIE}={secret(session)}"}

        async def work(client: httpx.AsyncClient, _: Any) -> list[httpx.Response]:
            return [await client.get(path, headers={**cookies, **headers}) for path in paths]

        return self.ask(work)

    def send(self, path: str, form: dict[str, str], session: int | None = ANN, **headers: str) -> httpx.Response:
        """A form by somebody who is signed in; not followed."""
        cookies = {} if session is None else {"cookie": f"{COOKIE}={secret(session)}"}
        return self.post(path, form, {**(headers or OURS), **cookies})

    def post(self, path: str, form: Any, headers: dict[str, str] = OURS) -> httpx.Response:
        kind = {"content-type": "application/x-www-form-urlencoded"}

        async def work(client: httpx.AsyncClient, _: Any) -> httpx.Response:
            if isinstance(form, dict):
                return await client.post(path, data=form, headers=headers)
            return await client.post(path, content=form, headers={**kind, **headers})

        return self.ask(work)
