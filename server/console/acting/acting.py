"""Actions: the form, its dry run, and the deed.

Guarantee: the dry run is the deed itself, in a transaction that is undone: it changes nothing, and what it shows is
what would be. The deed is done once for each form, in one transaction with its record, by somebody who may, and only
where all that the dry run showed still stands. What fails keeps the form as it was filled in.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar
from urllib.parse import urlencode

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from drawdown.schema.audit import By
from drawdown.schema.database import Transact, write
from drawdown.schema.errors import AnswerLost, Refused, UnknownId, UsageError
from drawdown.schema.text import clean
from drawdown.server.console import door
from drawdown.server.console.acting import action as declared
from drawdown.server.console.acting import dry_run
from drawdown.server.console.acting.action import Action, Doing, Done, WrongField
from drawdown.server.console.acting.dry_run import LookAgain, Tried
from drawdown.server.console.asking import said_by
from drawdown.server.console.forms import form_of
from drawdown.server.console.looking import in_words, limited
from drawdown.server.http.bodies import Budget
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.settings import ServerSettings
from drawdown.worker.access import once as console_acts
from drawdown.worker.access.once import Acted
from drawdown.worker.access.people import Person, is_demo
from drawdown.worker.engine.context import Context
from drawdown.worker.history.incarnation import HistoryDoubted

T = TypeVar("T")

WITHIN_S: Final = 10.0
"""The longest that a dry run, or a deed, may take; the locks that it holds are held no longer."""


MOST_KEPT: Final = 4_000
"""Characters of a form that is kept in an address while somebody signs in again."""


ONCE: Final = "go back and send the form again: it is done once"

IMPOSSIBLE: Final = (UsageError, UnknownId, Refused, HistoryDoubted)
"""What keeps the form as it was filled in."""


def undone(engine: sa.Engine) -> Transact:
    """Transactions of a dry run: whatever one is asked for, it is undone, and takes as long as a form may."""

    def transact(work: Callable[[sa.Connection], T], /, *, rollback: bool = True) -> T:
        def bounded(connection: sa.Connection) -> T:
            with limited(connection, WITHIN_S):
                return work(connection)

        with in_words(WITHIN_S):
            return write(engine, bounded, rollback=True)

    return transact


class SignedOutInside(Exception):
    """The session ended while the form was open."""


class Desk(Protocol):
    """What the console does for its forms: see there."""

    url: str

    def context(self) -> Context: ...
    def render(self, template: str, shown: Mapping[str, object], status: int = 200) -> Response: ...
    def failed(self, status: int, why: str) -> Response: ...
    def now_ms(self) -> int: ...
    async def answered(self, request: Request, do: Callable[[], Awaitable[Response]]) -> Response: ...


class Acting:
    """The routes of all actions."""

    def __init__(
        self, console: Desk, settings: ServerSettings, threads: Threads, budget: Budget, actions: Sequence[Action]
    ) -> None:
        self._console, self._settings = console, settings
        self._threads, self._budget = threads, budget
        self._actions = actions

    def routes(self) -> list[Route]:
        """A form for each action, and what each form did."""
        found = [Route("/console/acted", self._acted, methods=["GET"])]
        for action in self._actions:
            path = f"/console/act/{action.name}"
            found.append(Route(path, partial(self._form, action), methods=["GET"]))
            found.append(Route(path, partial(self._posted, action), methods=["POST"]))
        return found

    async def _form(self, action: Action, request: Request) -> Response:
        """The form, with what its address says filled in."""

        async def do() -> Response:
            given = said_by(request)
            person, demo = await self._threads.read(lambda c: (self._person(c, action, request), is_demo(c)))
            return self._filled(action, given, person, demo)

        return await self._answered(request, action, {}, do)

    async def _posted(self, action: Action, request: Request) -> Response:
        async def do() -> Response:
            form = await form_of(request, self._console.url, self._budget)
            return await self._answered(request, action, form, partial(self._taken, action, request, form))

        return await self._console.answered(request, do)

    async def _taken(self, action: Action, request: Request, form: Mapping[str, str]) -> Response:
        step = form.get("step")
        if step not in ("look", "do"):
            raise ApiError(400, "bad_form", "the form does not say whether to look or to do: open it again")
        try:
            if step == "look":
                return await self._looked(action, request, form)
            return await self._done(action, request, form)
        except LookAgain as error:
            try:
                return await self._looked(action, request, form, str(error), error.status)
            except IMPOSSIBLE as impossible:  # as things stand by now
                return await self._again(action, request, form, impossible)
        except IMPOSSIBLE as error:
            return await self._again(action, request, form, error)

    async def _again(self, action: Action, request: Request, form: Mapping[str, str], error: Exception) -> Response:
        """The form as it was filled in, and what is wrong with it."""
        person, demo = await self._threads.read(lambda c: (self._person(c, action, request), is_demo(c)))
        status = 404 if isinstance(error, UnknownId) else 409 if isinstance(error, (Refused, HistoryDoubted)) else 400
        field = error.field if isinstance(error, WrongField) else ""
        return self._filled(action, form, person, demo, (str(error), field), status)

    def _filled(
        self,
        action: Action,
        given: Mapping[str, str],
        person: Person,
        demo: bool,
        wrong: tuple[str, str] = ("", ""),
        status: int = 200,
    ) -> Response:
        fields = [one for one in _fields(action) if given.get(one.name) or not given.get(one.unless)]
        shown = {"action": action, "fields": fields, "values": given, "wrong": wrong[0], "at": wrong[1]}
        doing = Doing(person, By(self._console.now_ms(), person.actor, "", "console"), _values(action, given))
        shown |= {"person": person, "demo": demo, "back": declared.way_back(action, doing)}
        return self._console.render("act_form.html", shown, status)

    async def _looked(
        self, action: Action, request: Request, form: Mapping[str, str], why: str = "", status: int = 200
    ) -> Response:
        """The dry run's page."""

        def work(connection: sa.Connection) -> tuple[Tried, Doing, bool]:
            with limited(connection, WITHIN_S):
                doing = self._doing(connection, action, request, form)
                return dry_run.rehearse(connection, action, doing), doing, is_demo(connection)

        with in_words(WITHIN_S):
            tried, doing, demo = await self._threads.write(work, rollback=True, always=True)
        shown = {
            "tables": await self._threads.run(
                lambda engine: action.tell(undone(engine), self._console.context(), doing)
            ),
            "action": action,
            "tried": tried,
            "values": _values(action, form),
            "fields": _fields(action),
            "command": ["drawdown", *action.command(doing), "--reason", doing.by.reason],
            "key": doing.key,
            "typed": dry_run.to_type(tried.size),
            "why": why,
            "back": declared.way_back(action, doing),
        }
        return self._console.render("act_look.html", {**shown, "person": tried.person, "demo": demo}, status)

    async def _done(self, action: Action, request: Request, form: Mapping[str, str]) -> Response:
        """Do it, once. Errors: AnswerLost, with what to do."""
        again = ONCE

        def work(connection: sa.Connection) -> tuple[Done, Person]:
            nonlocal again
            with limited(connection, WITHIN_S):
                doing = self._doing(connection, action, request, form)
                again = action.lost(doing) if action.lost is not None else again
                return dry_run.carry_out(connection, action, doing, form), doing.person

        try:
            with in_words(WITHIN_S):
                done, person = await self._threads.write(work, always=True)
        except AnswerLost as error:
            raise AnswerLost(error.why, again) from error
        place = f"/console/acted?{urlencode({'key': form.get('key', '')})}"
        if not done.secret:
            return RedirectResponse(place, 303)
        shown = {"done": Acted(action.name, self._console.now_ms(), done.said, place), "secret": done.secret}
        return self._console.render("act_done.html", {**shown, "action": action, "person": person})

    async def _acted(self, request: Request) -> Response:
        """What a form did."""

        async def do() -> Response:
            key = said_by(request).get("key", "")

            def work(connection: sa.Connection) -> tuple[Person, Acted | None, bool]:
                known = door.who(connection, self._settings, request, self._console.now_ms())
                if known is None:
                    raise SignedOutInside
                found = console_acts.read(connection, key, known.person)
                return known.person, found, is_demo(connection)

            person, found, demo = await self._threads.read(work)
            action = next((one for one in self._actions if found and one.name == found.action), None)
            if found is None or action is None or not found.place:
                return self._console.failed(404, "no form of yours has this key; what people did is in the audit")
            shown = {"done": found, "secret": "", "action": action, "person": person, "demo": demo}
            return self._console.render("act_done.html", shown)

        return await self._answered(request, None, {}, do)

    async def _answered(
        self, request: Request, action: Action | None, form: Mapping[str, str], do: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer; where nobody is signed in any more, the way in, which leads back to the form as it was."""

        async def inside() -> Response:
            try:
                return await do()
            except SignedOutInside:
                kept = {name: value for name, value in _values(action, form).items() if value}
                query = urlencode(kept or said_by(request))
                shown = {"next": f"{request.url.path}?{query}" if query else request.url.path, "name": ""}
                why = "You were signed out: sign in, and the form is as you left it." if form else ""
                if len(query) > MOST_KEPT:
                    shown["next"] = request.url.path
                    why = "You were signed out. The form was too long to be kept: go back, and copy it first."
                return self._console.render("sign_in.html", {**shown, "why": why}, 401)

        return await self._console.answered(request, inside)

    def _person(self, connection: sa.Connection, action: Action, request: Request) -> Person:
        """Who asks. Errors: SignedOutInside; ApiError 403 for a role that may not."""
        known = door.who(connection, self._settings, request, self._console.now_ms())
        if known is None:
            raise SignedOutInside
        if not known.person.may(action.role):
            why = f"{action.title} is for the role {action.role}, and {known.person.name} is {known.person.role}"
            raise ApiError(403, "no_role", why)
        return known.person

    def _doing(self, connection: sa.Connection, action: Action, request: Request, form: Mapping[str, str]) -> Doing:
        person = self._person(connection, action, request)
        by = By(self._console.now_ms(), person.actor, _reason(form), "console")
        values = _values(action, form)
        for field in action.fields:
            if not field.optional and not values.get(field.name, "").strip():
                raise WrongField(field.name, f"{field.label}: this is needed")
            if field.choices and values.get(field.name, "") not in {value for value, _ in field.choices}:
                raise WrongField(field.name, f"{field.label}: choose one of them")
        key = form.get("key", "")
        if not console_acts.KEY.fullmatch(key):  # a deed by such a one is refused: see `claim`
            key = console_acts.new_key(by.now_ms, secrets.token_urlsafe(32))
        declared = self._console.context().declared()
        return Doing(person, by, values, key, secrets.token_urlsafe(32), self._console.url, declared)


def _fields(action: Action) -> tuple[declared.Field, ...]:
    return (*action.fields, declared.REASON)


def _values(action: Action | None, form: Mapping[str, str]) -> dict[str, str]:
    """What is the action's own in a form."""
    return {field.name: form.get(field.name, "") for field in _fields(action)} if action else {}


def _reason(form: Mapping[str, str]) -> str:
    reason = form.get("reason", "").strip()
    if not reason:
        raise WrongField("reason", "say why: it stands in the audit")
    if len(reason) > declared.MAX_REASON_CHARS or clean(reason) != reason:
        raise WrongField("reason", f"{declared.MAX_REASON_CHARS} characters at most, none of them control characters")
    return reason
