"""Serve an operation for each declared action and list (`schema.declare`).

Guarantee: an operation takes the parameters of its declaration, and refuses any other field by its name. Drawdown
performs an action in one transaction, once for each Idempotency-Key. A dry run performs the action, and rolls it back.
An API key that is bound to an organisation may name only this organisation. If an operation does not name an
organisation, this key may use it only if it is a list or view declared as `open`. One call grants at most the API key's
own limit of credit.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from inspect import cleandoc
from types import UnionType
from typing import Annotated, Any, Final, Literal, NewType, Union, get_args, get_origin, get_type_hints

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.providers.registry import Registry
from drawdown.schema.declare import (
    CREDIT_END,
    CREDITS,
    KEY,
    MAX_AMOUNT,
    MAX_KEY_CHARS,
    MAX_LENGTH_MS,
    MAX_TEXT_CHARS,
    ORG,
    STORABLE,
    Action,
    Declared,
    Fact,
    Hooks,
    Invocation,
    Kind,
    Listing,
    Look,
    Param,
    Providers,
    Reach,
    Showing,
    Values,
    answer_of,
    changes,
    is_storable,
)
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean
from drawdown.schema.text import quote_value, typed
from drawdown.schema.units import MAX_AMOUNT_MICRO, WINDOW_MS, as_credits, counted_credits
from drawdown.server.api.models import CREDITS_SCHEMA, MOST_ROWS, After, Credits, EpochMs, Id, Why
from drawdown.server.api.openapi import IDEMPOTENCY_KEY, named_examples, operation
from drawdown.server.api.programs import Answer, Caller, Programs, clean_id
from drawdown.server.http.errors import ApiError, bad_value
from drawdown.server.services import Services
from drawdown.worker.access import idempotency
from drawdown.worker.access.keys import ApiKey

MOST_VALUES: Final = 1_000
"""Values of one parameter of a declared action or list."""
KNOWN: Final = (401, 403, 404, 409, 422, 429, 500, 503)


def _clean(text: str) -> str:
    if not is_clean(text):
        raise ValueError("must not contain control characters")
    return text


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError(STORABLE)
    return text


def _window(at_ms: int) -> int:
    if at_ms % WINDOW_MS:
        raise ValueError(f"must be a multiple of {WINDOW_MS}, the start of a window")
    return at_ms


TYPES: Final[Mapping[str, Any]] = {
    "org": Id,
    "id": Id,
    "key": Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS), AfterValidator(_clean)],
    "any_id": Annotated[str, Field(min_length=1), AfterValidator(_storable)],
    "credits": Credits,
    "time": EpochMs,
    "window": Annotated[EpochMs, AfterValidator(_window)],
    "length": Annotated[int, Field(ge=0, le=MAX_LENGTH_MS)],
    "percent": Annotated[int, Field(ge=0, le=1_000_000)],
    "flag": bool,
    "units": Annotated[int, Field(ge=0, le=MAX_AMOUNT)] | None,
    "text": Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS), AfterValidator(_clean)],
}
"""JSON type of each kind of value, except `number`, which has its own bounds."""
NUMBERS: Final = frozenset({"number", "time", "window", "length", "percent"})
"""Kinds that a query must send as whole numbers in digits."""


def _digits(value: object) -> object:
    """Refuse a text that is not a whole number in digits.

    A query takes the same numbers as a command, so it refuses `1.0` and `1_0`. Errors: ValueError.
    """
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise ValueError("must be a whole number in digits")
    return value


def _of_text(kind: Kind) -> BeforeValidator:
    """Return a validator that reads a query's text as the command does."""

    def read(value: object) -> object:
        if not isinstance(value, str):  # a default is already a value
            return value
        try:
            return kind.read(value, kind.metavar.lower(), 0)
        except UsageError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


class FactAnswer(BaseModel):
    """A value before and after an action."""

    name: str
    before: str
    after: str


class Operations:
    """The routes of the declared actions, lists and views."""

    def __init__(self, services: Services, programs: Programs, declared: Sequence[Declared]) -> None:
        self._services, self._programs, self._declared = services, programs, declared

    def _registry(self) -> Registry:
        """Return the providers that this process has now.

        `renew` may replace them, so each call reads them again.
        """
        return Registry(self._services.providers, self._services.broken)

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        for one in self._declared:
            self._add(router, one)
        return router

    def _add(self, router: APIRouter, one: Declared) -> None:
        in_path = [param for param in one.params if f"{{{param.field}}}" in one.path]
        path = one.path
        for param in in_path:
            path = path.replace(f"{{{param.field}}}", f"{{{param.field}:id}}")
        headers = [_in_path(param) for param in in_path]
        rest = tuple(param for param in one.params if param not in in_path)
        endpoint: Callable[[Request], Awaitable[JSONResponse]]
        match one:
            case Action():
                endpoint, method = self._acting(one, rest, in_path), "POST"
                said = operation(
                    answer_model(one.result, one.name), *KNOWN, 400, 413, 415, body=request_model(one, rest),
                    headers=[*headers, _IDEMPOTENCY], scope=one.scope,
                )  # fmt: skip
            case Listing():
                endpoint, method = self._listing(one, rest, in_path), "GET"
                said = operation(
                    page_model(one), *KNOWN, query=query_model(one, rest), headers=headers, scope=one.scope
                )
            case Showing():
                endpoint, method = self._showing(one, rest, in_path), "GET"
                answer = row_model(one.result)
                said = operation(answer, *KNOWN, query=query_model(one, rest), headers=headers, scope=one.scope)
        name = one.name.replace(" ", "_").replace("-", "_")
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            operation_id=name,
            name=name,
            summary=one.title,
            description=one.help,
            **said,
        )

    def _listing(self, one: Listing[Any], rest: Sequence[Param], in_path: Sequence[Param]) -> Callable[..., Any]:
        async def answer(request: Request) -> JSONResponse:
            def work(connection: sa.Connection, query: BaseModel, said: Caller) -> Answer:
                values = _values(said, one.params, _read_path(request, in_path) | _fields(query, rest), open_=one.open)
                given = query.model_dump(include={"after", "most"})
                page = one.read(
                    connection,
                    Look(
                        said.now_ms,
                        given.get("after") or "",
                        given["most"],
                        said.key.org_id,
                        self._services.hooks,
                        read_providers=self._registry,
                    ),
                    **values,
                )
                return {one.holds: [answer_of(row) for row in page.rows], "next": page.next}

            return await self._programs.ask(request, one.scope, query_model(one, tuple(rest)), work)

        return answer

    def _showing(self, one: Showing[Any], rest: Sequence[Param], in_path: Sequence[Param]) -> Callable[..., Any]:
        async def answer(request: Request) -> JSONResponse:
            def work(connection: sa.Connection, query: BaseModel, said: Caller) -> Answer:
                values = _values(said, one.params, _read_path(request, in_path) | _fields(query, rest), open_=one.open)
                most = query.model_dump(include={"most"}).get("most", one.most)
                found: Answer = answer_of(
                    one.read(
                        connection,
                        Look(said.now_ms, most=most, only=said.key.org_id, read_providers=self._registry),
                        **values,
                    )
                )
                return found

            return await self._programs.ask(request, one.scope, query_model(one, tuple(rest)), work)

        return answer

    def _acting(self, one: Action[Any], rest: Sequence[Param], in_path: Sequence[Param]) -> Callable[..., Any]:
        async def answer(request: Request) -> JSONResponse:
            def do(order: Any, said: Caller) -> Awaitable[Answer]:
                given = idempotency_key(request)
                values = _read_path(request, in_path) | _fields(order, rest)

                def work(connection: sa.Connection) -> Answer:
                    now = self._programs.identify(said.key, connection)
                    call = None if given is None else call_of(one, now.key.actor, given, values, order.reason)
                    return carry_out(connection, one, now, values, order, call, self._services.hooks, self._registry)

                return self._programs.threads.write(work, rollback=order.dry_run, always=True)

            return await self._programs.act_by(request, one.scope, request_model(one, tuple(rest)), do)

        return answer


def call_of(action: Action[Any], actor: str, key: str, values: Values, reason: str) -> idempotency.Call:
    """Return the call that an Idempotency-Key identifies, with its content.

    A value that equals its default is not part of the call's content. So a later version with a new parameter
    recognises an earlier call as a repeat. Never change a default, because two different values would then count as
    equal. Rename the parameter instead.
    """
    given = {one.name: values[one.name] for one in action.params if values[one.name] != one.default}
    return idempotency.Call(actor, key, action.name, json.dumps([given, reason], sort_keys=True, default=str))


def carry_out(
    connection: sa.Connection,
    action: Action[Any],
    said: Caller,
    given: Values,
    order: Any,
    call: idempotency.Call | None,
    hooks: Hooks | None = None,
    known: Callable[[], Providers] | None = None,
) -> Answer:
    """Perform the action of a call, unless an earlier call already did.

    A repeat returns the first response, without the secret. Errors: ApiError 403 if the API key may not perform the
    action; 409 if the action would change too many rows; 422 if the call must name an organisation. OtherContent if the
    Idempotency-Key was used for another call. The errors of the action.
    """
    values = _values(said, action.params, given)
    if call is not None and not order.dry_run:
        before = idempotency.claim_call(connection, call, said.now_ms)
        if before is not None:
            found: dict[str, object] = json.loads(before)
            return found
    key = call.own if call is not None else secrets.token_urlsafe(16)
    by, secret = said.by(order.reason), secrets.token_urlsafe(32)
    asked = Invocation(by, key, secret, reach_of(said.key), order.dry_run, hooks, known)
    _require_size(connection, action, asked, values, said.key)
    stood: Sequence[Fact] = action.facts(connection, asked, values) if order.dry_run else ()
    if not action.fits(connection, asked, values):
        run = typed("drawdown", *action.command(values))
        text = f"{action.title}: only the command line can change more than {action.at_once:,} rows"
        # No HTTP path can change so many rows.
        raise ApiError(409, "refused", f"{text}. Ask the operator to run `{run}`")
    answer: dict[str, object] = answer_of(action.whole(connection, asked, values))
    if order.dry_run:
        stands = action.facts(connection, asked, values)
        # The dry run would otherwise show an endpoint's real secret.
        hidden = {action.shown_once: None} if action.shown_once else {}
        return {**answer, **hidden, "dry_run": True, "facts": changes(stood, stands)}
    if call is not None:
        kept = {**answer, action.shown_once: None} if action.shown_once else answer
        idempotency.keep_call(connection, call, json.dumps(kept))
    return answer


def reach_of(key: ApiKey) -> Reach:
    """Return the rights that a key may pass to another key."""
    return Reach(
        frozenset(key.scopes), key.org_id, key.cell_id, key.source, key.gives_micro, key.expires_ms
    )  # fmt: skip


def _require_size(
    connection: sa.Connection, action: Action[Any], asked: Invocation, values: Values, key: ApiKey
) -> None:
    """Check that the action gives at most the key's limit of credit.

    Errors: ApiError 403 `grant_limit`.
    """
    size = action.size(connection, asked, values)
    if size.unbounded and key.gives_micro < MAX_AMOUNT_MICRO:
        said = f"{action.title}: this action can give any amount of credit. Use a key with `gives` 1000000000"
        raise ApiError(403, "grant_limit", said)
    if size.micro > key.gives_micro:
        most, this = counted_credits(key.gives_micro), as_credits(size.micro)
        said = f"key {key.name} may give {most} in one request, not {this}. Use a key with a higher limit"
        raise ApiError(403, "grant_limit", said)


def idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key of a request; None if the header is missing.

    Errors: ApiError 400 for an invalid key.
    """
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not 1 <= len(given[0]) <= 200 or not (given[0].isascii() and given[0].isprintable()):
        raise ApiError(
            400,
            "bad_request",
            f"invalid Idempotency-Key {quote_value(', '.join(given))}: expected 1 to 200 printable ASCII characters. "
            "Send the header once, or omit it",
        )
    return given[0]


def _read_path(request: Request, params: Sequence[Param]) -> dict[str, Any]:
    """Return the values of the parameters in the path. Errors: WrongField."""
    found = {param.name: request.path_params[param.field] for param in params}
    for param in params:
        if param.kind is not KEY:
            clean_id(found[param.name], param.label)
    return {param.name: param.of_text(found[param.name], 0) for param in params}


def _fields(model: BaseModel, params: Sequence[Param]) -> dict[str, Any]:
    """Return the values of a body or query, by the parameters' names."""
    found = {param.name: getattr(model, param.field) for param in params}
    return {one.name: one.default if _is_left_out(one, found[one.name], model) else found[one.name] for one in params}


def _is_left_out(param: Param, value: object, model: BaseModel) -> bool:
    is_null = value is None and not (param.kind.nullable and param.field in model.model_fields_set)
    return is_null or (param.many and not value)


def _values(said: Caller, params: Sequence[Param], given: Values, *, open_: bool = False) -> dict[str, Any]:
    """Return the values, with a bound key's organisation if the request omits it.

    Errors: ApiError 403 for another organisation; 422 for a missing organisation.
    """
    values = dict(given)
    named = [param for param in params if param.kind is ORG]
    if said.key.org_id is not None and not named and not open_:
        text = f"this request covers all organisations, and this key is bound to {said.key.org_id}. Use an unbound key"
        raise ApiError(403, "foreign_org", text)
    for param in named:
        if param.many:
            for one in values[param.name] or ():
                said.require_org(one)
            if said.key.org_id is not None and not values[param.name]:
                values[param.name] = [said.key.org_id]
        elif values[param.name] is not None or said.key.org_id is not None:
            values[param.name] = said.require_org(values[param.name])
        elif param.required:
            raise bad_value(
                param.field, f"missing {param.field}. Send it, because this key is not bound to an organisation"
            )
    return values


# The models that describe the operations.


def _type(param: Param, *, in_query: bool) -> Any:
    kind: Any = Literal[param.choices] if param.choices else _of_kind(param.kind)
    if in_query and param.kind.name == CREDITS.name:
        kind = Annotated[int, _of_text(param.kind), WithJsonSchema(CREDITS_SCHEMA)]
    elif in_query and param.kind.nullable:
        kind = Annotated[kind, _of_text(param.kind)]
    elif in_query and param.kind.name in NUMBERS:
        kind = Annotated[kind, BeforeValidator(_digits)]
    if not param.many:
        return kind
    # Reject an empty list. Otherwise the action would apply to the organisation of a bound key (`_values`).
    least = 1 if param.required or param.is_argument else 0
    return Annotated[list[kind], Field(min_length=least, max_length=MOST_VALUES)]


def _of_kind(kind: Kind) -> Any:
    return Annotated[int, Field(ge=kind.least, le=kind.most)] if kind.name == "number" else TYPES[kind.name]


_IDEMPOTENCY: Final = {
    **IDEMPOTENCY_KEY,
    "description": "If you repeat a key, the response is the same as the first response.",
}


def _in_path(param: Param) -> dict[str, object]:
    return {
        "name": param.field, "in": "path", "required": True, "schema": {"type": "string"}, "description": param.says,
        "example": example_of(param),
    }  # fmt: skip


def example_of(param: Param) -> Any:
    """Return a valid example of a parameter."""
    value = param.choices[0] if param.choices else named_examples().get(param.field, param.kind.example)
    return [value] if param.many and not isinstance(value, list) else value


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.replace("-", " ").split())


def _model_fields(params: Sequence[Param], *, in_query: bool) -> dict[str, Any]:
    """Return the type and the default of each parameter, for pydantic."""
    found: dict[str, Any] = {}
    for param in params:
        needed = param.required and param.kind is not ORG
        default = ... if needed else _several(param) if param.many else param.default
        default = None if default == "" else default  # an empty default means None, because an empty text is not valid
        kind = _type(param, in_query=in_query)
        kind = kind if default is not None else kind | None
        about = Field(default, description=param.says)
        found[param.field] = (kind, about)
    return found


def _several(param: Param) -> list[Any]:
    default: Any = param.default or ()
    return list(default)


@cache
def request_model(action: Action[Any], params: tuple[Param, ...]) -> type[BaseModel]:
    """Return the model of an action's body."""
    example: dict[str, Any] = {param.field: example_of(param) for param in params if param.required}
    example |= {"reason": "ticket 7", "dry_run": True}
    config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [example]})
    more: dict[str, Any] = {"reason": (Why, "not given"), "dry_run": (bool, False)}
    made: type[BaseModel] = create_model(
        f"{_camel(action.name)}Request",
        __config__=config,
        __doc__=f"As `drawdown {action.name}`.",
        **_model_fields(params, in_query=False),
        **more,
    )
    return made


@cache
def query_model(one: Listing[Any] | Showing[Any], params: tuple[Param, ...]) -> type[BaseModel]:
    """Return the model of the query of a list or a view.

    The model of a view has `most` only if the number of rows of its parts can be limited.
    """
    more: dict[str, Any] = {}
    if isinstance(one, Listing) or (one.parts and one.most):
        more["most"] = (Annotated[int, Field(ge=1, le=MOST_ROWS)], one.most)
    if isinstance(one, Listing) and one.paged:
        more["after"] = (After | None, None)
    made: type[BaseModel] = create_model(
        f"{_camel(one.name)}Query",
        __config__=ConfigDict(extra="forbid"),
        **_model_fields(params, in_query=True),
        **more,
    )
    return made


@cache
def page_model(listing: Listing[Any]) -> type[BaseModel]:
    """Return the model of a page of a list."""
    rows: Any = list[row_model(listing.row)]  # type: ignore[misc]
    given: dict[str, Any] = {listing.holds: (rows, ...), "next": (str | None, ...)}
    made: type[BaseModel] = create_model(f"{_camel(listing.name)}Answer", __doc__=listing.help, **given)
    return made


def answer_model(result: Any, name: str) -> type[BaseModel]:
    """Return the model of an action's answer. Only a dry run fills `facts`."""
    return _answer(result, name)


@cache
def _answer(result: Any, name: str) -> type[BaseModel]:
    more: dict[str, Any] = {"dry_run": (bool, False), "facts": (list[FactAnswer], [])}
    made: type[BaseModel] = create_model(f"{_camel(name)}Answer", __doc__=_doc(result), **_of_row(result), **more)
    return made


def row_model(row: Any) -> type[BaseModel]:
    """Return the model of a dataclass, as `answer_of` writes it."""
    return _create_model(row)


@cache
def _create_model(row: Any) -> type[BaseModel]:
    made: type[BaseModel] = create_model(row.__name__, __doc__=_doc(row), **_of_row(row))
    return made


def _doc(row: type[Any]) -> str:
    return cleandoc(row.__doc__ or "")


def _of_row(row: type[Any]) -> dict[str, Any]:
    hints, found = get_type_hints(row), {}
    for one in fields(row):
        found[one.name] = (_json(hints[one.name]), ...)
        if one.name.endswith(CREDIT_END) and _json(hints[one.name]) in (int, int | None):
            is_optional = type(None) in get_args(hints[one.name])
            found[one.name.removesuffix(CREDIT_END)] = (float | None if is_optional else float, ...)
    return found


def _json(hint: Any) -> Any:
    """Return the JSON type of a field's type."""
    if isinstance(hint, NewType):
        return _json(hint.__supertype__)
    if isinstance(hint, type) and is_dataclass(hint):
        return row_model(hint)
    of = get_origin(hint)
    if of in (Union, UnionType):
        return Union[tuple(_json(each) for each in get_args(hint))]  # noqa: UP007
    if of is Literal:
        return hint
    if of is not None and issubclass(of, Mapping):
        return dict[str, _json(get_args(hint)[1])]  # type: ignore[misc]
    if of is not None and issubclass(of, list | tuple | set | frozenset | Sequence):
        return list[_json(get_args(hint)[0])]  # type: ignore[misc]
    return hint
