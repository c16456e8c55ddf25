"""Make a command from each declared action, list and view (`schema.declare`).

Guarantee: a command takes the parameters of its declaration, and its JSON equals the response of the HTTP API. Each
action has a dry run, which does the action in a transaction and rolls the transaction back.
"""

from __future__ import annotations

import csv
import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from keyword import iskeyword
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Final

import sqlalchemy as sa
import typer
from rich.table import Table

from drawdown.cli.app import App, new_key
from drawdown.cli.options import Actor, DryRun, PageSize, Reason
from drawdown.cli.rendering import DRY, facts, format_value, show, table
from drawdown.cli.streams import require_shown
from drawdown.schema.declare import (
    FLAG,
    ORG,
    TIME,
    Action,
    Column,
    Declared,
    Fact,
    Invocation,
    Listing,
    Look,
    More,
    Param,
    Showing,
    answer_of,
    changes,
    of_texts,
)
from drawdown.schema.errors import AnswerLost, Exit, UsageError
from drawdown.schema.text import why_unread

Key = Annotated[str | None, typer.Option(help="Idempotency key, such as a ticket number", show_default="generated")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Output of the secret only")]
After = Annotated[str, typer.Option(help="Cursor of the next page: `next` of the previous page")]
OfFile = Annotated[Path | None, typer.Option(help="CSV file with the organisations in a column org_id")]
_NOT: Final = f"{'-' * 2}no-"  # in two parts, because a test checks that each option in a text exists
MOST_ROWS: Final = 50
"""Maximum number of rows of a table that shows the effect of an action."""
CONTEXT: Final = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)


def of_noun(noun: str, *declared: Declared) -> typer.Typer:
    """Return the declared commands of a noun, each named by the words after the noun."""
    commands = typer.Typer()
    for one in declared:
        if one.name.startswith(f"{noun} ") and not one.by_hand:
            commands.command(one.name.removeprefix(f"{noun} "))(_command(one))
    return commands


def _command(one: Declared) -> Callable[..., None]:
    """Return a function for Typer, with the declaration's and the common parameters."""
    own = [_to_parameter(param) for param in one.params]
    match one:
        case Action():
            more = [_option("key", Key, None)] if one.keyed else []
            more += [_option("quiet", Quiet, False)] if one.shown_once else []
            more += [_option("dry_run", DryRun, False)]
            more += [_option("file", OfFile, None)] if _listed(one) else []
            more += [_option("actor", Actor, None), _option("reason", Reason, "not given")]
        case Listing():
            more = [*([_option("after", After, "")] if one.paged else []), _option("most", PageSize, one.most)]
        case Showing():
            more = [_option("most", PageSize, one.most)] if one.parts and one.most else []

    def command(context: typer.Context, **given: Any) -> None:
        match one:
            case Action():
                run(context.obj, one, given)
            case Listing():
                list_(context.obj, one, given)
            case Showing():
                show_(context.obj, one, given)

    taken = sorted([*own, *more], key=lambda each: each.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature([CONTEXT, *taken])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (CONTEXT, *taken)}
    summary, end, rest = one.help.partition(". ")
    command.__name__ = one.name.split()[-1]
    command.__doc__ = f"{summary}.\n\n{rest}" if end else one.help
    return command


def _option(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default)


def _to_parameter(param: Param) -> inspect.Parameter:
    """Return a parameter for Typer.

    Typer reads each parameter except a flag as text. The parameter's kind then parses this text.
    """
    metavar = "|".join(param.choices) or param.metavar
    if param.is_argument:
        info: Any = typer.Argument(metavar=param.metavar, help=param.says)
    elif param.kind is FLAG and param.default is None:
        info = typer.Option(f"{param.option}/{_NOT}{param.option[2:]}", help=param.says)
    elif param.kind is FLAG:
        info = typer.Option(param.option, help=param.says)
    else:
        info = typer.Option(param.option, metavar=metavar, help=f"{param.says}{'; may be repeated' * param.many}")
    kind: Any = bool if param.kind is FLAG else list[str] if param.many else str
    default = param.default
    if default is None and not param.required:
        kind = kind | None
    elif param.required:
        default = inspect.Parameter.empty
    elif param.kind is not FLAG:
        default = [param.kind.write(each) for each in default] if param.many else param.kind.write(default)  # type: ignore[attr-defined]
    return _option(_name(param), Annotated[kind, info], default)


def _name(param: Param) -> str:
    """Return the name of a parameter for Typer."""
    return f"{param.word}_" if iskeyword(param.word) else param.word


def _read_values(params: Sequence[Param], given: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """Return the typed values, by the parameters' names. Errors: WrongField."""
    return of_texts(params, {one.name: given[_name(one)] for one in params}, now_ms, lambda param: param.option)


def run(app: App, action: Action[Any], given: Mapping[str, Any]) -> None:
    """Do an action, or show its effect with --dry-run.

    Errors: those of the action; AnswerLost with the command to repeat; UsageError; DrawdownError if the command cannot
    print a secret; typer.Exit with the status of the result, unless the status is 0.
    """
    by, dry_run = app.by(given["actor"], given["reason"]), given["dry_run"]
    if given.get("file") is not None:
        given = {**given, **_of_file(action, given)}
    values = _read_values(action.params, given, by.now_ms)
    given_key = given.get("key")
    key = new_key() if given_key is None else given_key
    asked = Invocation(
        by,
        key,
        secrets.token_urlsafe(32),
        dry_run=dry_run,
        hooks=app.settings.hooks(),
        read_providers=lambda: app.registry,
    )

    def work(connection: sa.Connection) -> tuple[Any, Sequence[Fact], Sequence[Fact]]:
        if not dry_run:
            return action.do(connection, asked, **values), (), ()
        before = action.facts(connection, asked, values)
        if action.in_portions and not action.fits(connection, asked, values):
            return More(None), before, before
        done = action.whole(connection, asked, values) if action.in_portions else action.do(connection, asked, **values)
        return done, before, action.facts(connection, asked, values)

    try:
        done, before, after = app.write(work, rollback=dry_run)
        while isinstance(done, More) and not dry_run:
            asked = replace(asked, state=done.state)
            done, before, after = app.write(work)
    except AnswerLost as error:
        if action.lost_hint is not None:
            raise AnswerLost(error.why, action.lost_hint(values)) from error
        if action.keyed:
            again = " ".join(["--key", quote(asked.key), *_moments(action, values)])
            raise AnswerLost(
                error.why, f"repeat the command with {again}. Drawdown makes the change only once"
            ) from error
        raise
    if isinstance(done, More):
        said = (
            f"the change affects more than {action.at_once:,} rows, so the dry run does not try it. The present state:"
        )
        rows = [(fact.name, fact.value) for fact in before]
        show(app, {"dry_run": True, "facts": changes(before, after)}, [DRY, said, table("", ("", "now"), rows)])
        return
    lines: list[str | Table] = [*action.sentences(done), *_first_rows(action, done)]
    answer = answer_of(done)
    if dry_run:
        expected = [] if action.count is None else [f"to change only these, pass --expect {action.count(done)}"]
        lines = [DRY, *lines, *_facts(before, after), *expected]
        answer |= {action.shown_once: None} if action.shown_once else {}
        answer |= {"dry_run": True, "facts": changes(before, after)}
    secret = getattr(done, action.shown_once) if action.shown_once else None
    if secret is None or dry_run:
        show(app, answer, lines)
        _end(action.ends(done))
        return
    if given["quiet"] and not app.json:
        print(secret)
    else:
        show(app, answer, [*lines, f"the {action.shown_once}: {secret}"])
    why = action.lost_hint(values) if action.lost_hint is not None else "repeat the command"
    require_shown(f"the change is done, but the new {action.shown_once} could not be shown; {why}")


def _end(status: Exit) -> None:
    if status:
        raise typer.Exit(status)


def _first_rows(action: Action[Any], done: Any) -> list[str | Table]:
    """Return the first MOST_ROWS rows of each table of a result."""
    lines: list[str | Table] = []
    for name, (title, columns) in action.parts.items():
        rows = getattr(done, name)
        lines += [_table(title, columns, rows[:MOST_ROWS])] if rows else []
        lines += [f"… and {len(rows) - MOST_ROWS:,} more"] if len(rows) > MOST_ROWS else []
    return lines


def _moments(action: Action[Any], values: Mapping[str, Any]) -> list[str]:
    """Return the options with times, each as an absolute time.

    A typed time may count from now, but a repeated command must have the same times.
    """
    told = [param for param in action.params if param.kind.name == TIME.name and not param.is_argument]
    given = [(param, values[param.name]) for param in told if values[param.name] is not None]
    return [f"{param.option} {param.kind.write(value)}" for param, value in given]


def _listed(action: Action[Any]) -> Param | None:
    """Return the parameter that takes organisations, one by one or from a file."""
    return next((one for one in action.params if one.is_argument and one.many and one.kind is ORG), None)


def _of_file(action: Action[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the organisations of a file as a parameter.

    Errors: UsageError if organisations are also named as arguments, or the file has none.
    """
    param = _listed(action)
    assert param is not None
    if given[_name(param)]:
        raise UsageError(f"specify either {param.metavar} or --file, not both", at="file")
    return {_name(param): read_orgs(given["file"])}


def read_orgs(file: Path) -> list[str]:
    """Return the organisations in a CSV file with the column org_id, each once.

    Errors: UsageError if the file cannot be read, lacks the column or is empty, or if a line lacks an organisation.
    """
    found = [(line, (row["org_id"] or "").strip()) for line, row in org_rows(file)]
    if lacking := next((line for line, org_id in found if not org_id), None):
        raise UsageError(f"{file}, line {lacking}: missing org_id. Add it")
    return list(dict.fromkeys(org_id for _, org_id in found))


def org_rows(file: Path) -> list[tuple[int, dict[str, str | None]]]:
    """Return the rows of a CSV file with the column org_id, each with its line number.

    Errors: UsageError if the file cannot be read, lacks the column, or is empty.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            if "org_id" not in (rows.fieldnames or ()):
                raise UsageError(f"{file}: missing column org_id in the first line. Add it")
            found = [(rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read: {why_unread(error)}. Check the file") from error
    if not found:
        raise UsageError(f"{file}: the file does not name an organisation. Add a line for each organisation")
    return found


def _facts(before: Sequence[Fact], after: Sequence[Fact]) -> list[Table]:
    rows = [(one["name"], one["before"], one["after"]) for one in changes(before, after)]
    return [table("", ("", "now", "then"), rows)] if rows else []


def list_(app: App, listing: Listing[Any], given: Mapping[str, Any]) -> None:
    """Show a page of a declared list."""
    now = app.clock.now_ms()
    values = _read_values(listing.params, given, now)
    look = Look(
        now, given.get("after", ""), given["most"], hooks=app.settings.hooks(), read_providers=lambda: app.registry
    )
    page = app.read(lambda connection: listing.read(connection, look, **values))
    more = [] if page.next is None else [f"more rows exist: --after {quote(page.next)}"]
    result = {listing.holds: [answer_of(row) for row in page.rows], "next": page.next}
    show(app, result, [_table(listing.title, listing.heads, page.rows), *more, *page.notes])


def show_(app: App, showing: Showing[Any], given: Mapping[str, Any]) -> None:
    """Show the object of a declared view."""
    now = app.clock.now_ms()
    values = _read_values(showing.params, given, now)
    look = Look(now, most=given.get("most", showing.most), patient=True, read_providers=lambda: app.registry)
    found = app.read(lambda connection: showing.read(connection, look, **values))
    plain = table(showing.title, ("", ""), facts(_plain(showing, found)))
    notes = [] if showing.notes is None else showing.notes(found)
    show(app, answer_of(found), [plain, *_parts(showing, found), *notes])


def _plain(showing: Showing[Any], found: Any, within: str = "") -> dict[str, object]:
    """Return the fields of an object that are not tables."""
    values = {one.name: getattr(found, one.name) for one in fields(found)}
    return {
        name: value
        for name, value in values.items()
        if f"{within}{name}" not in showing.parts and not is_dataclass(value)
    }


def _parts(showing: Showing[Any], found: Any) -> list[Table]:
    """Return a table of each field that is a dataclass, and of each field with rows."""
    made: list[Table] = []
    for one in fields(found):
        value = getattr(found, one.name)
        if is_dataclass(value):
            own = facts(_plain(showing, value, f"{one.name}."))
            made.append(table(one.name.replace("_", " ").capitalize(), ("", ""), own))
    for path, (title, columns) in showing.parts.items():
        rows = found
        for name in path.split("."):
            rows = getattr(rows, name, ())
        made += [_table(title, columns, rows)] if rows or "." not in path else []
    return made


def _table(title: str, columns: Sequence[Column | str], rows: Sequence[object]) -> Table:
    heads = [Column(one) if isinstance(one, str) else one for one in columns]
    texts = [[_cell(one, row) for one in heads] for row in rows]
    there = [at for at, one in enumerate(heads) if not one.rare or any(each[at] is not None for each in texts)]
    titles = [f"#{one.title}" if one.name.endswith("_micro") and not one.head else one.title for one in heads]
    return table(title, [titles[at] for at in there], [[each[at] for at in there] for each in texts])


def _cell(column: Column, row: object) -> object:
    if column.of_row is not None:
        return column.of_row(row)
    value = getattr(row, column.name)
    return format_value(column.name, value) if column.show is None else column.show(value)
