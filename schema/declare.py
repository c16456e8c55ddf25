"""Actions and views for people and programs, each declared once, near its logic.

An `Action` changes something, a `Listing` shows rows, and a `Showing` shows one thing. Each becomes a command and an
HTTP operation, and an action also a form of the console. The annotations of the function itself declare the parameters.
A parameter before the `*` is an argument of the command. A parameter after it is an option. Over HTTP, a parameter is a
part of the path if the path names it. Otherwise it is in the body or in the query.

Names of parameters and of a response's fields end with the unit: `hold_ms`, `share_ppm`, `amount_micro`. People type
the name without the unit (`--hold 45d`, `--share 70`, `--amount 1.50`). Programs use the whole name, with milliseconds
and parts per million. For an amount, they use the name without `_micro`, with credits.

Guarantee: a value has one meaning and one check, from any channel. The module is pure, so time and randomness are
passed in.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import quote

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.schema.ids import is_clean, is_clean_id
from drawdown.schema.text import quote_value, typed
from drawdown.schema.typed.parsing import (
    is_quantity,
    parse_ahead,
    parse_credits,
    parse_length,
    parse_percent,
    parse_time,
    parse_window,
    show_percent,
    show_time,
    type_credits,
)
from drawdown.schema.units import DAY_MS, SECOND_MS, in_credits

R = TypeVar("R")

MAX_KEY_CHARS: Final = 700
"""Most characters of a key.

A key can join three ids with separators.
"""
MAX_AT_ONCE: Final = 2**31 - 1
"""Most concurrent sandboxes of a plan, a tier or an org override.

The column cannot store a larger number.
"""
MAX_TEXT_CHARS: Final = 1_000
"""Most characters of a text or address that a parameter accepts."""
MAX_AMOUNT: Final = 10**12
"""Most base units of a declared limit, or of a limit override."""
MAX_LENGTH_MS: Final = 3_650 * DAY_MS
"""Longest time that a parameter accepts, in milliseconds."""
MAX_NUMBER: Final = 10**15
"""Largest whole number of a parameter without its own bound."""


class WrongField(UsageError):
    """Raised if a value is invalid.

    `field`: its name, as a program sends it.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message, at=name)
        self.field = name


@dataclass(frozen=True)
class Fact:
    """A value that an action changes, shown before and after it.

    `fixed`: True if a change of the value between the dry run and the action requires another dry run. A change that
    only time causes does not count.
    """

    name: str
    value: str
    fixed: bool = True


@dataclass(frozen=True)
class Size:
    """The size of an action: its changed rows, and its credit in micro-credits.

    `micro`: the granted credit. `taken_micro`: the taken credit. `micro` includes usage if the action corrects or
    waives its charge. `unbounded`: the credit is unknown in advance. In the console, only an admin may run such an
    action. Over HTTP, the key must have the largest limit (MAX_AMOUNT_MICRO).
    """

    rows: int = 1
    micro: int = 0
    taken_micro: int = 0
    unbounded: bool = False


ONE: Final = Size()


@dataclass(frozen=True)
class Reach:
    """The rights of a program's key, which it can also pass on to another key.

    The rights are its scopes, its bindings (None: unbound), its limit of credit, and its end (None: never). A person
    can pass on any right.
    """

    scopes: frozenset[str]
    org_id: str | None
    cell_id: str | None
    source: str | None
    gives_micro: int
    expires_ms: int | None


class Hooks(Protocol):
    """The webhooks of this process.

    It holds the origins that the process may call, and the secrets that sign for an endpoint.
    """

    @property
    def origins(self) -> frozenset[str]: ...
    def secrets_of(self, endpoint: str, generations: Sequence[int], /) -> tuple[str, ...]: ...


class Providers(Protocol):
    """The providers of this process.

    It holds the usable providers, their capabilities, and the reasons why others are unusable.
    """

    @property
    def providers(self) -> Mapping[str, Any]: ...
    @property
    def capabilities(self) -> Mapping[str, Any]: ...
    @property
    def broken(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Invocation:
    """A request for an action: its actor, moment and reason (`by`).

    `key`: the idempotency key of the request. `secret`: 43 new random characters, for an action that shows a new
    secret. `reach`: the rights of a program (None: a person). `dry_run`: True if the action is rolled back. `hooks`,
    `read_providers`: as in a `Look`. `state`: the state that the previous portion returned (`More`).
    """

    by: By
    key: str = ""
    secret: str = field(default="", repr=False)
    reach: Reach | None = None
    dry_run: bool = False
    hooks: Hooks | None = None
    read_providers: Callable[[], Providers] | None = field(default=None, repr=False, compare=False)
    state: Any = None

    @property
    def providers(self) -> Providers | None:
        return None if self.read_providers is None else self.read_providers()

    @property
    def only(self) -> str | None:
        """Return the only organisation that a bound key may change.

        Return None if it may change any.
        """
        return None if self.reach is None else self.reach.org_id


@dataclass(frozen=True)
class More:
    """The result of a portion, if more portions follow.

    `state`: the state for the next portion.
    """

    state: object


@dataclass(frozen=True)
class Look:
    """A request to read.

    `now_ms`: the moment of the request. `after`: the row before the page. `most`: the largest number of rows of the
    page. `only`: the only organisation that a bound key may see (None: any); a view that is declared `open` filters by
    it. `hooks`: the webhooks of this process. `read_providers`: a function that returns the providers of this process.
    Both may be None. `patient`: True if a person waits at a command line, so slow parts are also shown.
    """

    now_ms: int
    after: str = ""
    most: int = 100
    only: str | None = None
    hooks: Hooks | None = None
    patient: bool = False
    read_providers: Callable[[], Providers] | None = field(default=None, repr=False, compare=False)

    @property
    def providers(self) -> Providers | None:
        return None if self.read_providers is None else self.read_providers()


@dataclass(frozen=True)
class Page(Generic[R]):
    """A page of a list.

    `next`: the value of `after` for the next page; None on the last page. `notes`: texts for people below the list.
    """

    rows: Sequence[R]
    next: str | None = None
    notes: Sequence[str] = ()


# Kinds of values, and how people type them.


@dataclass(frozen=True)
class Kind:
    """A kind of value, with the texts that people type for it.

    `read`: a function that parses a text, and returns its value. Its arguments are the text, a name for messages and
    the present moment. `write`: a function that returns the text of a value, which `read` accepts. `metavar`: the
    value's name in the help. `ending`: the end of a parameter's name that people omit. `least`, `most`: the bounds of a
    number.
    """

    name: str
    metavar: str
    read: Callable[[str, str, int], Any]
    write: Callable[[Any], str]
    ending: str = ""
    least: int = 0
    most: int = MAX_NUMBER
    example: object = "acme"
    nullable: bool = False
    """True if null is a valid value. The parameter is still required."""


def _id(text: str, name: str, _now_ms: int) -> str:
    if not is_clean_id(text):
        raise UsageError(f"invalid {name} {quote_value(text)}: expected 1 to 200 characters without control characters")
    return text


def _key(text: str, name: str, _now_ms: int) -> str:
    if not (text and is_clean(text) and len(text) <= MAX_KEY_CHARS):
        raise UsageError(
            f"invalid {name} {quote_value(text)}: expected 1 to {MAX_KEY_CHARS} characters without control characters"
        )
    return text


STORABLE: Final = "expected at least one character, in valid UTF-8 without NUL"


def _any_id(text: str, name: str, _now_ms: int) -> str:
    if not is_storable(text):
        raise UsageError(f"invalid {name} {quote_value(text)}: {STORABLE}")
    return text


def is_storable(text: str) -> bool:
    """Return True if a database can store a text.

    Such a text is not empty, does not contain NUL, and is valid UTF-8.
    """
    return bool(text) and "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _text(text: str, name: str, _now_ms: int) -> str:
    if not is_clean(text) or len(text) > MAX_TEXT_CHARS:
        raise UsageError(
            f"invalid {name} {quote_value(text)}: expected at most {MAX_TEXT_CHARS:,} characters without control "
            "characters"
        )
    return text


def _named(parse: Callable[[str], int]) -> Callable[[str, str, int], int]:
    """Return a reader that parses with `parse`, and names the value in its error."""

    def read(text: str, name: str, _now_ms: int) -> int:
        try:
            return parse(text)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None

    return read


_credits: Final = _named(parse_credits)


def _credits_or_none(text: str, name: str, now_ms: int) -> int:
    return 0 if text == NONE else _credits(text, name, now_ms)


def whole(least: int = 0, most: int = MAX_NUMBER, example: int = 10) -> Kind:
    """Return a kind of whole numbers from `least` to `most`."""

    def read(text: str, name: str, _now_ms: int) -> int:
        found = int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text) and text.isascii() else None
        if found is None or not least <= found <= most:
            raise UsageError(
                f"invalid {name} {quote_value(text)}: expected a whole number from {least:,} to {most:,}, in digits"
            )
        return found

    return Kind("number", "NUMBER", read, str, least=least, most=most, example=example)


def _units(text: str, name: str, _now_ms: int) -> int | None:
    if text == NONE:
        return None
    if not is_quantity(text) or int(text) > MAX_AMOUNT:
        raise UsageError(
            f"invalid {name} {quote_value(text)}: expected a whole number of base units from 0 to {MAX_AMOUNT:,}, or "
            "none for unlimited"
        )
    return int(text)


def _length(ms: int) -> str:
    return f"{ms // SECOND_MS}s"


def _lasting(text: str, name: str, _now_ms: int) -> int:
    found = parse_length(text, name)
    if found > MAX_LENGTH_MS:
        raise UsageError(f"invalid {name} {quote_value(text)}: expected at most {MAX_LENGTH_MS // DAY_MS:,} days")
    return found


YES: Final = "yes"
NO: Final = "no"
NONE: Final = "none"
ORG: Final = Kind("org", "ORG", _id, str, "_id")
"""An organisation. A key that is bound to one organisation may not name another."""
ID: Final = Kind("id", "ID", _id, str, "_id")
KEY: Final = Kind("key", "KEY", _key, str, example="grant:ticket-7")
"""An id that joins several ids."""
ANY_ID: Final = Kind("any_id", "ID", _any_id, str, "_id")
"""An id as a host inserted it, with any length and any characters."""
CREDITS: Final = Kind("credits", "CREDITS", _credits, type_credits, "_micro", example=1.5)
CREDITS_OR_NONE: Final = Kind(
    "credits", "CREDITS", _credits_or_none, lambda micro: type_credits(micro) if micro else NONE, "_micro", example=1.5
)
"""Credits, or `none` for 0."""
TIME: Final = Kind("time", "TIME", parse_time, show_time, "_ms", example=1_767_225_600_000)
AHEAD: Final = Kind("time", "TIME", parse_ahead, show_time, "_ms", example=1_798_761_600_000)
"""A moment that should be in the future, as `parse_ahead` reads it."""
WINDOW: Final = Kind("window", "TIME", parse_window, show_time, "_ms", example=1_767_225_600_000)
"""The start of a window."""
LENGTH: Final = Kind("length", "TIME", _lasting, _length, "_ms", example=0)
PERCENT: Final = Kind(
    "percent",
    "PERCENT",
    _named(parse_percent),
    lambda ppm: show_percent(ppm).removesuffix(" %"),
    "_ppm",
    example=700_000,
)
TEXT: Final = Kind("text", "TEXT", _text, str, example="a text")
"""A text for people, or an address."""
UNITS: Final = Kind(
    "units", "AMOUNT", _units, lambda amount: NONE if amount is None else str(amount),
    most=MAX_AMOUNT, example=100, nullable=True,
)  # fmt: skip
"""Base units of a metric, or `none` for unlimited."""
AT_ONCE: Final = whole(0, MAX_AT_ONCE, 20)
"""Concurrent sandboxes."""
FLAG: Final = Kind("flag", "", lambda text, _name, _now_ms: text == YES, lambda flag: YES if flag else NO, example=True)
CHOICE: Final = Kind("choice", "CHOICE", lambda text, _name, _now_ms: text, str)
OrgId = Annotated[str, ORG, "Organisation's id"]
New = Annotated[bool, FLAG, "Create it if it does not exist"]
Undo = Annotated[bool, FLAG, "Undo an earlier call"]


@dataclass(frozen=True)
class Label:
    """The name of a parameter in a form, if its own name is not clear."""

    text: str


@dataclass(frozen=True)
class Param:
    """A parameter of an action or a list.

    `says`: its line of help. `many`: True if the parameter can have several values.
    """

    name: str
    kind: Kind
    says: str
    label: str
    required: bool
    default: object
    is_argument: bool
    many: bool = False
    choices: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """Return the parameter's name for people, without the unit."""
        return self.name.removesuffix(self.kind.ending).strip("_")

    @property
    def option(self) -> str:
        """Return the argument or option as people type it.

        An option with several values is typed once for each value, in the singular.
        """
        word = self.word.removesuffix("s") if self.many else self.word
        return self.metavar if self.is_argument else f"--{word.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        return self.word.upper() if self.is_argument else self.kind.metavar

    @property
    def field(self) -> str:
        """Return the parameter's name for programs, with the unit.

        The name of an amount does not have a unit, because programs send amounts in credits.
        """
        return self.word if self.kind.name == CREDITS.name else self.name.strip("_")

    def of_text(self, text: str, now_ms: int, name: str = "") -> Any:
        """Return the value of a text. `name`: its name for messages. Errors: WrongField."""
        said = name or self.label
        if self.choices and text not in self.choices:
            raise WrongField(self.field, f"invalid {said} {quote_value(text)}: expected {', '.join(self.choices)}")
        try:
            return self.kind.read(text, said, now_ms)
        except UsageError as error:
            raise WrongField(self.field, str(error)) from None


SPELLED: Final = {"org": "Organisation"}
"""The labels of names that programs abbreviate."""


def params_of(function: Callable[..., object]) -> tuple[Param, ...]:
    """Return the parameters of a function, by its annotations.

    The result omits the connection and the request.
    """
    hints = get_type_hints(function, include_extras=True)
    taken = list(inspect.signature(function).parameters.values())[2:]
    return tuple(_param(one, hints[one.name]) for one in taken)


def _param(given: inspect.Parameter, hint: Any) -> Param:
    optional, many = False, False
    says: list[object] = []
    while True:
        of = get_origin(hint)
        if of is Annotated:
            hint, *more = get_args(hint)
            says = [*more, *says]
        elif of in (Union, UnionType):
            (hint,) = (one for one in get_args(hint) if one is not NoneType)
            optional = True
        elif of is list:
            (hint,), many = get_args(hint), True
        else:
            break
    choices = tuple(str(one) for one in get_args(hint)) if of is Literal else ()
    kind = next((one for one in says if isinstance(one, Kind)), CHOICE if choices else None)
    if kind is None:
        raise TypeError(f"{given.name}: the annotation does not name a kind of value. Add a kind, such as ID")
    text = next((one for one in reversed(says) if isinstance(one, str)), "")
    label = next((one.text for one in says if isinstance(one, Label)), "")
    has_default = given.default is not inspect.Parameter.empty
    word = given.name.removesuffix(kind.ending).strip("_").replace("_", " ")
    return Param(
        given.name,
        kind,
        text,
        label or SPELLED.get(word, word.capitalize()),
        not has_default and (kind.nullable or not optional),
        given.default if has_default else None,
        given.kind is not inspect.Parameter.KEYWORD_ONLY,
        many,
        choices,
    )


def by_label(param: Param) -> str:
    """Return the name of a parameter in a form."""
    return param.label


def of_texts(
    params: Sequence[Param], given: Mapping[str, Any], now_ms: int, named: Callable[[Param], str] = by_label
) -> dict[str, Any]:
    """Parse texts, and return their values by the names of the parameters.

    If a text is empty or missing, its value is the default. A flag is a bool or `yes`. A parameter with `many` is a
    list, or a text with one value on each line.

    Errors: WrongField, also if a required text is empty or missing.
    """
    found: dict[str, Any] = {}
    for param in params:
        text = given.get(param.name)
        if param.many:
            is_exact = param.kind is ANY_ID and not isinstance(text, str)
            lines = text.splitlines() if isinstance(text, str) else list(text or ())
            texts = lines if is_exact else [line.strip() for line in lines if line.strip()]
            values = list(dict.fromkeys(param.of_text(one, now_ms, named(param)) for one in texts))
            found[param.name] = values if values or param.default is None else param.default
        elif isinstance(text, bool):
            found[param.name] = text
        elif text is None or not text.strip():
            if param.required:
                raise WrongField(param.field, f"missing {named(param)}: a value is required")
            found[param.name] = param.default
        else:
            found[param.name] = param.of_text(text.strip(), now_ms, named(param))
        if param.required and param.many and not found[param.name]:
            raise WrongField(param.field, f"missing {named(param)}: a value is required")
    return found


Values = Mapping[str, Any]
"""The values of an action, by the names of its parameters."""


def no_facts(_connection: sa.Connection, _asked: Invocation, _values: Values) -> Sequence[Fact]:
    """Return an empty list of facts, the default of an action."""
    return ()


def one(_connection: sa.Connection, _asked: Invocation, _values: Values) -> Size:
    """Return the size of one row without credit, the default of an action."""
    return ONE


def is_done(_result: object) -> Exit:
    """Return SETTLED, the default exit status of an action."""
    return Exit.SETTLED


@dataclass(frozen=True, eq=False)
class Action(Generic[R]):
    """An action of people and programs.

    `name`: the words of the command. `help`: its effect, in one sentence. `do`: the work, in one transaction, with the
    connection, the request and the parameters; its result is a dataclass, which `--json` and HTTP return. `says`: the
    result in sentences. `path`: the path of the HTTP operation, a POST. `scope`: the scope that a key needs. `role`:
    the role that a person of the console needs. `facts`: the values that it changes. `size`: its size.

    `place`: the page after the form, with parameters in braces; empty: the action does not have a form. `keyed`: True
    if people can choose `asked.key`, the idempotency key. `shown_once`: the field of the result with a secret that is
    not stored. `lost_hint`: the next step if the response is lost. `by_hand`: True if the command of this name does
    more, and is written in the noun's module. `at_once`: for work in portions, the rows of one transaction of a form, a
    call or a dry run. The command runs any number of portions. `parts`: tables of the command, as in a showing.
    `count`: a function that returns the number to pass as `expect`, from the result of a dry run. `ends`: a function
    that returns the exit status of the command.
    """

    name: str
    title: str
    help: str
    do: Callable[..., R | More]
    says: Callable[[R], str | Sequence[str]]
    path: str
    scope: str
    role: Literal["operator", "admin"] = "operator"
    facts: Callable[[sa.Connection, Invocation, Values], Sequence[Fact]] = no_facts
    size: Callable[[sa.Connection, Invocation, Values], Size] = one
    place: str = ""
    keyed: bool = False
    shown_once: str = ""
    lost_hint: Callable[[Values], str] | None = None
    by_hand: bool = False
    at_once: int = 0
    parts: Mapping[str, tuple[str, Sequence[Column | str]]] = field(default_factory=dict)
    count: Callable[[R], int] | None = None
    ends: Callable[[R], Exit] = is_done

    @cached_property
    def params(self) -> tuple[Param, ...]:
        return params_of(self.do)

    @cached_property
    def result(self) -> type[R]:
        """Return the type of the final result of `do`, without More."""
        hint = get_type_hints(self.do)["return"]
        found: type[R] = next((one for one in get_args(hint) if one is not More), hint) if self.at_once else hint
        return found

    @cached_property
    def in_portions(self) -> bool:
        """Return True if `do` can return More."""
        return More in get_args(get_type_hints(self.do)["return"])

    def whole(self, connection: sa.Connection, asked: Invocation, values: Values) -> R:
        """Run all portions of the action in this transaction, and return the result.

        Errors: Refused for too many rows; those of `do`.
        """
        if not self.fits(connection, asked, values):
            said = f"{self.title}: only the command line can change more than {self.at_once:,} rows"
            raise Refused(f"{said}. Run `drawdown {typed(*self.command(values))}`")
        done = self.do(connection, asked, **values)
        while isinstance(done, More):
            done = self.do(connection, replace(asked, state=done.state), **values)
        return done

    def fits(self, connection: sa.Connection, asked: Invocation, values: Values) -> bool:
        """Return True if one transaction may do the whole action."""
        return not self.at_once or self.size(connection, asked, values).rows <= self.at_once

    @property
    def slug(self) -> str:
        """Return the action's name for a URL."""
        return self.name.replace(" ", "-")

    def sentences(self, result: R) -> list[str]:
        """Return the sentences about a result."""
        said = self.says(result)
        return [said] if isinstance(said, str) else list(said)

    def command(self, values: Values, key: str = "") -> list[str]:
        """Return the command line that does the same, without `drawdown` and the reason."""
        words, options = self.name.split(), []
        for param in self.params:
            value = values.get(param.name, param.default)
            if param.is_argument and param.many:
                words += [param.kind.write(each) for each in value or ()]
            elif param.is_argument:
                words += [] if value is None and not param.kind.nullable else [param.kind.write(value)]
            elif param.kind is FLAG:
                options += [param.option] if value else []
            elif param.many:
                options += [word for each in value or () for word in (param.option, param.kind.write(each))]
            elif value is not None and value != param.default:
                options += [param.option, param.kind.write(value)]
        return [*words, *options, *(["--key", key] if self.keyed and key else [])]

    def place_of(self, values: Values) -> str:
        """Return the page after the form, for these values.

        Errors: KeyError for a missing value.
        """
        kinds = {param.name: param.kind for param in self.params}
        return re.sub(r"\{(\w+)\}", lambda found: quote(kinds[found[1]].write(values[found[1]]), safe=""), self.place)


def changes(before: Sequence[Fact], after: Sequence[Fact]) -> list[dict[str, str]]:
    """Return the values before and after an action, one row for each name."""
    stood, stands = ({fact.name: fact.value for fact in each} for each in (before, after))
    return [
        {"name": name, "before": stood.get(name, ""), "after": stands.get(name, "")}
        for name in dict.fromkeys([*stood, *stands])
    ]


# Views.


@dataclass(frozen=True)
class Column:
    """A column of a table: the field of a row, and its head.

    `head`: the head; a `#` marks numbers. `show`: a function that returns the text for people, from the value.
    `of_row`: a function that returns the text from the whole row. Without both, the value itself is shown. `rare`: True
    if the column is omitted when all of its values are empty.
    """

    name: str
    head: str = ""
    show: Callable[[Any], object] | None = None
    of_row: Callable[[Any], object] | None = None
    rare: bool = False

    @property
    def title(self) -> str:
        return self.head or self.name.removesuffix("_ms").removesuffix("_micro").replace("_", " ")


@dataclass(frozen=True, eq=False)
class Listing(Generic[R]):
    """A list of rows for people and programs.

    `read`: a function that returns a page, from the connection, a `Look` and the filters. The rows are of one
    dataclass. `holds`: the name of the rows in the response. `columns`: the columns of the table for people. `most`:
    the default rows of a page. `paged`: True if `next` leads to more rows. `open`: True if a key that is bound to an
    organisation may see the list without naming the organisation. Then the list is the same for all, or `read` returns
    only that organisation's rows (`Look.only`). `by_hand`: as in an action.
    """

    name: str
    title: str
    help: str
    read: Callable[..., Page[R]]
    columns: Sequence[Column | str]
    holds: str
    path: str
    scope: str
    most: int = 100
    paged: bool = False
    open: bool = False
    by_hand: bool = False

    @cached_property
    def params(self) -> tuple[Param, ...]:
        return params_of(self.read)

    @cached_property
    def row(self) -> type[R]:
        found: type[R] = get_args(get_type_hints(self.read)["return"])[0]
        return found

    @property
    def heads(self) -> list[Column]:
        return [Column(one) if isinstance(one, str) else one for one in self.columns]


@dataclass(frozen=True, eq=False)
class Showing(Generic[R]):
    """A view of one thing for people and programs.

    `read`: a function that returns a dataclass, from the connection, a `Look` and the names of the thing. `parts`:
    tables for the fields that are lists of dataclasses, with their titles and columns. A field of a field is named by
    both (`credit.holders`). A field that is a dataclass is a separate table. `most`: the default rows of a part; 0 if
    the parts have their own bounds. `open`: as in a list. `notes`: a function that returns texts for people below the
    view (None: without texts). `by_hand`: as in an action.
    """

    name: str
    title: str
    help: str
    read: Callable[..., R]
    path: str
    scope: str
    parts: Mapping[str, tuple[str, Sequence[Column | str]]] = field(default_factory=dict)
    most: int = 100
    open: bool = False
    notes: Callable[[R], Sequence[str]] | None = None
    by_hand: bool = False

    @cached_property
    def params(self) -> tuple[Param, ...]:
        return params_of(self.read)

    @cached_property
    def result(self) -> type[R]:
        found: type[R] = get_type_hints(self.read)["return"]
        return found


Declared = Action[Any] | Listing[Any] | Showing[Any]

CREDIT_END: Final = "_micro"


def answer_of(value: Any) -> Any:
    """Return a result as JSON, for `--json` and HTTP.

    The JSON has the fields of a dataclass by their names. For each field in micro-credits, it also has the amount in
    credits.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return answer_of({one.name: getattr(value, one.name) for one in fields(value)})
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for name, each in value.items():
            if name.endswith(CREDIT_END) and (each is None or type(each) is int):
                found[name.removesuffix(CREDIT_END)] = None if each is None else in_credits(each)
            found[name] = answer_of(each)
        return found
    if isinstance(value, list | tuple | set | frozenset):
        return [answer_of(each) for each in value]
    return value
