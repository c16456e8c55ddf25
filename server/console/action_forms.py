"""Serve the form, the dry run and the execution of each action.

Guarantee: the dry run performs the action in a transaction, rolls it back, and shows the result. Drawdown performs the
action of a form once, in one transaction with its audit record. The person's limit must allow the granted credit. To
confirm many rows or much credit, the person must type the number. The state must still equal the state that the dry run
showed. If the action fails, the form keeps its values.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Final, Protocol, TypeVar
from urllib.parse import urlencode

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from drawdown.schema.audit import By
from drawdown.schema.database import Transact, write
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.errors import AnswerLost, ClockDoubted, Refused, UnknownId, UsageError
from drawdown.schema.text import clean, quote_value
from drawdown.schema.units import MICRO, as_credits, counted_credits
from drawdown.server.console import action as declared
from drawdown.server.console import session_auth
from drawdown.server.console.action import Action, ActionResult, Doing
from drawdown.server.console.read_connection import in_words, limited
from drawdown.server.console.request_params import said_by
from drawdown.server.console.session_auth import form_of
from drawdown.server.http.bodies import Budget
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.settings import ServerSettings
from drawdown.worker.access import idempotency as console_acts
from drawdown.worker.access.idempotency import Acted
from drawdown.worker.access.people import Person, is_demo
from drawdown.worker.engine.context import Context
from drawdown.worker.history.incarnation import HistoryDoubted

T = TypeVar("T")

WITHIN_S: Final = 10.0
"""Seconds that a dry run or an action may take and hold its locks."""


MOST_KEPT: Final = 4_000
"""Characters of a form's values that the URL keeps while a person signs in again."""


ONCE: Final = "go back and send the form again. Drawdown executes it once"

IMPOSSIBLE: Final = (UsageError, UnknownId, Refused, HistoryDoubted, ClockDoubted)
"""Errors after which the form stays open with its values."""


def undone(engine: sa.Engine) -> Transact:
    """Return a function that runs work in a transaction and rolls it back.

    The transaction has the time limit of a form, WITHIN_S. Errors: TooSlow; the errors of the work.
    """

    def transact(work: Callable[[sa.Connection], T], /, *, rollback: bool = True) -> T:
        def bounded(connection: sa.Connection) -> T:
            with limited(connection, WITHIN_S):
                return work(connection)

        with in_words(WITHIN_S):
            return write(engine, bounded, rollback=True)

    return transact


class SignedOutInside(Exception):
    """Raised if the session ended while the form was open."""


class Desk(Protocol):
    """The functions of `Console` that the forms use."""

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
        """Return the routes: a form for each action, and the page with a form's result."""
        found = [Route("/console/acted", self._acted, methods=["GET"])]
        for action in self._actions:
            path = f"/console/act/{action.name}"
            found.append(Route(path, partial(self._form, action), methods=["GET"]))
            found.append(Route(path, partial(self._posted, action), methods=["POST"]))
        return found

    async def _form(self, action: Action, request: Request) -> Response:
        """Return the form, with the values in its address."""

        async def do() -> Response:
            given = said_by(request)
            person, demo = await self._threads.read(lambda c: (self._person(c, action, request), is_demo(c)))
            return self._filled(action, given, person, demo)

        return await self._answered(request, action, {}, do)

    async def _posted(self, action: Action, request: Request) -> Response:
        async def do() -> Response:
            form = await form_of(request, self._console.url, self._budget)
            return await self._answered(request, action, form, partial(self._take_step, action, request, form))

        return await self._console.answered(request, do)

    async def _take_step(self, action: Action, request: Request, form: Mapping[str, str]) -> Response:
        step = form.get("step")
        if step not in ("look", "do"):
            raise ApiError(
                400, "bad_form", f"invalid field step {quote_value(step)}: expected look or do. Open the form again"
            )
        try:
            if step == "look":
                return await self._looked(action, request, form)
            return await self._perform(action, request, form)
        except LookAgain as error:
            try:
                return await self._looked(action, request, form, str(error), error.status)
            except IMPOSSIBLE as impossible:  # the dry run fails in the present state
                return await self._show_error(action, request, form, impossible)
        except IMPOSSIBLE as error:
            return await self._show_error(action, request, form, error)

    async def _show_error(
        self, action: Action, request: Request, form: Mapping[str, str], error: Exception
    ) -> Response:
        """Return the form with its values and the error."""
        person, demo = await self._threads.read(lambda c: (self._person(c, action, request), is_demo(c)))
        forbidden = isinstance(error, (Refused, HistoryDoubted, ClockDoubted))
        status = 404 if isinstance(error, UnknownId) else 409 if forbidden else 400
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
        """Return the page of the dry run."""

        def work(connection: sa.Connection) -> tuple[Tried, Doing, bool]:
            with limited(connection, WITHIN_S):
                doing = self._doing(connection, action, request, form)
                return rehearse(connection, action, doing), doing, is_demo(connection)

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
            "typed": to_type(tried.size),
            "why": why,
            "back": declared.way_back(action, doing),
        }
        return self._console.render("act_look.html", {**shown, "person": tried.person, "demo": demo}, status)

    async def _perform(self, action: Action, request: Request, form: Mapping[str, str]) -> Response:
        """Perform the action once, and return the next page.

        Errors: AnswerLost, with the next step; the errors of `carry_out`.
        """
        again = ONCE

        def work(connection: sa.Connection) -> tuple[ActionResult, Person]:
            nonlocal again
            with limited(connection, WITHIN_S):
                doing = self._doing(connection, action, request, form)
                again = action.lost_hint(doing) if action.lost_hint is not None else again
                return carry_out(connection, action, doing, form), doing.person

        try:
            with in_words(WITHIN_S):
                done, person = await self._threads.write(work, always=True)
        except AnswerLost as error:
            raise AnswerLost(error.why, again) from error
        place = f"/console/acted?{urlencode({'key': form.get('key', '')})}"
        if not done.secret:
            return RedirectResponse(place, 303)
        shown = {"done": Acted(action.name, self._console.now_ms(), done.effect, place), "secret": done.secret}
        return self._console.render("act_done.html", {**shown, "action": action, "person": person})

    async def _acted(self, request: Request) -> Response:
        """Return the page with the result of a form."""

        async def do() -> Response:
            key = said_by(request).get("key", "")

            def work(connection: sa.Connection) -> tuple[Person, Acted | None, bool]:
                known = session_auth.who(connection, self._settings, request, self._console.now_ms())
                if known is None:
                    raise SignedOutInside
                found = console_acts.read(connection, key, known.person)
                return known.person, found, is_demo(connection)

            person, found, demo = await self._threads.read(work)
            action = next((one for one in self._actions if found and one.name == found.action), None)
            if found is None or action is None or not found.place:
                return self._console.failed(404, "you did not send a form with this key. See the audit log")
            shown = {"done": found, "secret": "", "action": action, "person": person, "demo": demo}
            return self._console.render("act_done.html", shown)

        return await self._answered(request, None, {}, do)

    async def _answered(
        self, request: Request, action: Action | None, form: Mapping[str, str], do: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Return the response.

        If the person's session ended, return the sign-in page, which leads back to the same form.
        """

        async def inside() -> Response:
            try:
                return await do()
            except SignedOutInside:
                kept = {name: value for name, value in _values(action, form).items() if value}
                query = urlencode(kept or said_by(request))
                shown = {"next": f"{request.url.path}?{query}" if query else request.url.path, "name": ""}
                why = "Your session ended. Sign in again. The form keeps your text." if form else ""
                if len(query) > MOST_KEPT:
                    shown["next"] = request.url.path
                    why = "Your session ended, and the form is too long to keep. Go back, and copy your text first."
                return self._console.render("sign_in.html", {**shown, "why": why}, 401)

        return await self._console.answered(request, inside)

    def _person(self, connection: sa.Connection, action: Action, request: Request) -> Person:
        """Return the signed-in person.

        Errors: SignedOutInside; ApiError 403 if the person's role does not allow the action.
        """
        known = session_auth.who(connection, self._settings, request, self._console.now_ms())
        if known is None:
            raise SignedOutInside
        if not known.person.may(action.role):
            why = (
                f"{action.title} needs the role {action.role}, and {known.person.name} is {known.person.role}. Ask an "
                "admin"
            )
            raise ApiError(403, "no_role", why)
        return known.person

    def _doing(self, connection: sa.Connection, action: Action, request: Request, form: Mapping[str, str]) -> Doing:
        person = self._person(connection, action, request)
        by = By(self._console.now_ms(), person.actor, _reason(form), "console")
        values = _values(action, form)
        for field in action.fields:
            if not field.optional and not values.get(field.name, "").strip():
                raise WrongField(field.name, f"missing {field.label}: a value is required")
            given, choices = values.get(field.name, ""), {value for value, _ in field.choices}
            if choices and given not in choices and not (field.optional and not given):
                raise WrongField(field.name, f"invalid {field.label} {quote_value(given)}: choose one of the options")
        key = form.get("key", "")
        if not console_acts.KEY.fullmatch(key):  # a dry run does not need a valid key; `claim` refuses an invalid key
            key = console_acts.new_key(by.now_ms, secrets.token_urlsafe(32))
        declared = self._console.context().declared()
        return Doing(person, by, values, key, secrets.token_urlsafe(32), self._console.url, declared)


def _fields(action: Action) -> tuple[declared.Field, ...]:
    return (*action.fields, declared.REASON)


def _values(action: Action | None, form: Mapping[str, str]) -> dict[str, str]:
    """Return a form's values for the action's own fields and the reason."""
    return {field.name: form.get(field.name, "") for field in _fields(action)} if action else {}


def _reason(form: Mapping[str, str]) -> str:
    reason = form.get("reason", "").strip()
    if not reason:
        raise WrongField("reason", "missing reason: a value is required")
    if len(reason) > declared.MAX_REASON_CHARS or clean(reason) != reason:
        raise WrongField(
            "reason",
            f"invalid reason {quote_value(reason)}: expected at most {declared.MAX_REASON_CHARS} characters without "
            "control characters",
        )
    return reason


MOST_FACTS: Final = 40
"""Facts that a dry run shows, changes first.

The check that the state did not change covers all facts.
"""
TYPED_ROWS: Final = 100
"""Changed rows above which a person must type the number of rows to confirm."""
TYPED_MICRO: Final = 1_000 * MICRO
"""Granted micro-credits above which a person must type the number of credits to confirm."""
SEEN: Final = re.compile(r"[0-9a-f]{64}")
"""Matches the hash of a dry run's result, which the form carries."""
CHANGED: Final = "the state changed since the dry run. Check the new dry run, and decide again"


class LookAgain(Refused):
    """Raised if Drawdown did not perform the action.

    The state differs from the dry run (409), or the person did not type the number (400).
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Tried:
    """The result of a dry run.

    `facts`: each fact has its name, and its value before and after. `more`: the number of facts that the page does not
    show. `preview_hash`: the hash of the state before the action, the size and the form's values.
    """

    person: Person
    facts: Sequence[tuple[str, str, str]]
    more: int
    effect: str
    size: Size
    preview_hash: str


def rehearse(connection: sa.Connection, action: Action, doing: Doing) -> Tried:
    """Perform the dry run of an action, and return its result.

    The caller rolls back the transaction. Errors: ApiError 403; the errors of the action.
    """
    size = _allowed(connection, action, doing)
    before = list(action.look(connection, doing))
    done = action.do(connection, doing)
    after = {fact.name: fact.value for fact in action.look(connection, doing)}
    stood = {fact.name: fact.value for fact in before}
    names = dict.fromkeys([*stood, *after])
    facts = [(name, stood.get(name, ""), after.get(name, "")) for name in names]
    facts.sort(key=lambda fact: fact[1] == fact[2])
    return Tried(
        doing.person,
        facts[:MOST_FACTS],
        max(len(facts) - MOST_FACTS, 0),
        done.effect,
        size,
        _hash_preview(before, size, doing),
    )


def carry_out(connection: sa.Connection, action: Action, doing: Doing, form: Mapping[str, str]) -> ActionResult:
    """Perform the action of a form once.

    If the form was already sent, return its first result, without the secret. Errors: the errors of `perform`; Refused
    if the form's key expired or belongs to another action or person.
    """
    key = form.get("key", "")
    before = console_acts.claim(connection, key, doing.person, action.name, doing.by.now_ms)
    if before is not None:
        return ActionResult(before.effect)
    done = perform(connection, action, doing, form)
    console_acts.keep(connection, key, done.effect, action.place(doing))
    return done


def perform(connection: sa.Connection, action: Action, doing: Doing, form: Mapping[str, str]) -> ActionResult:
    """Perform the action that the dry run showed.

    Errors: LookAgain; ApiError 403; the errors of the action.
    """
    seen = form.get("seen", "")
    if not SEEN.fullmatch(seen):
        raise LookAgain(409, CHANGED)
    picture = _hash(_stands(action.look(connection, doing)))
    console_acts.take_turn(connection, picture, doing.person, doing.by.now_ms)
    size = _look_again(connection, action, doing, seen)
    wanted = to_type(size)
    if wanted is not None and not _is_number(form.get("typed", ""), wanted):
        raise LookAgain(
            400,
            f"invalid confirmation {quote_value(form.get('typed', ''))}: expected the number {as_plain(wanted)}. Type "
            "it to confirm",
        )
    return action.do(connection, doing)


def _look_again(connection: sa.Connection, action: Action, doing: Doing, seen: str) -> Size:
    """Return the size if the state is still that of the dry run.

    Errors: LookAgain if the state differs; ApiError 403.
    """
    size = _allowed(connection, action, doing)
    if seen != _hash_preview(action.look(connection, doing), size, doing):
        raise LookAgain(409, CHANGED)
    return size


def _allowed(connection: sa.Connection, action: Action, doing: Doing) -> Size:
    """Return the size of an action.

    Errors: ApiError 403 if it gives more credit than the person may give in one action.
    """
    size = action.size(connection, doing)
    person = doing.person
    most = None if person.role == "admin" else person.grant_limit_micro or 0
    if most is not None and size.unbounded:
        why = f"{action.title}: this action can give any amount of credit"
        raise ApiError(403, "grant_limit", f"{why}, so {person.name} may not perform it. Ask an admin to perform it")
    if most is not None and size.micro > most:
        why = f"{person.name} may give at most {counted_credits(most)} in one action, not {as_credits(size.micro)}"
        raise ApiError(403, "grant_limit", f"{why}. Ask an admin to perform the action, or to raise the limit")
    return size


def to_type(size: Size) -> Decimal | None:
    """Return the number that the person must type; None for a small action."""
    if size.rows > TYPED_ROWS:
        return Decimal(size.rows)
    largest = max(size.micro, size.taken_micro)
    return Decimal(largest) / MICRO if largest > TYPED_MICRO else None


def as_plain(number: Decimal) -> str:
    return f"{number:f}"


def _is_number(text: str, wanted: Decimal) -> bool:
    try:
        return Decimal(text.strip().replace(",", "")) == wanted
    except InvalidOperation:
        return False


def _hash_preview(facts: Sequence[Fact], size: Size, doing: Doing) -> str:
    """Return a hash of the state, the size and the form's values.

    The form carries this hash.
    """
    return _hash((_stands(facts), size, sorted(doing.values.items())))


def _stands(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    return [(fact.name, fact.value) for fact in facts if fact.fixed]


def _hash(said: object) -> str:
    return hashlib.sha256(repr(said).encode()).hexdigest()
