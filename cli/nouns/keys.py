"""`drawdown key`: keys by which programs prove who they are to `drawdown serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from drawdown.cli.app import App, new_api_key
from drawdown.cli.options import Actor, Most, New, Reason
from drawdown.cli.rendering import show, table
from drawdown.cli.streams import require_shown
from drawdown.schema.errors import AnswerLost
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import parse_length, show_time
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import list_keys

commands = typer.Typer()

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The key's name: it stands as the actor on what is done by it")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the key alone")]


@commands.command()
def create(
    context: typer.Context,
    name: Name,
    scope: Annotated[
        list[str], typer.Option(metavar="SCOPE", help=f"What it may; may be repeated: {', '.join(api_keys.SCOPES)}")
    ],
    org: Annotated[str | None, typer.Option(help="It may name this organisation alone", show_default="any")] = None,
    cell: Annotated[str | None, typer.Option(help="It may send samples of this cell alone", show_default="any")] = None,
    source: Annotated[
        str | None, typer.Option(help="It may send usage of this source alone", show_default="any")
    ] = None,
    any_source: Annotated[
        bool, typer.Option("--any-source", help="Let a key of one organisation send usage of every source")
    ] = False,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long it lives: 90d", show_default="no end")
    ] = None,
    new: New = False,
    quiet: Quiet = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Make a key, and show it: this once, and never again."""
    app: App = context.obj
    by, key, for_ms = app.by(actor, reason), new_api_key(), None if for_ is None else parse_length(for_, "--for")
    bound: dict[str, Any] = {"org_id": org, "cell_id": cell, "source": source}

    def make(connection: sa.Connection) -> int | None:
        return api_keys.create(
            connection, key, name, scope, by, **bound, for_ms=for_ms, new=new, any_source=any_source
        )  # fmt: skip

    try:
        expires = app.write(make)
    except AnswerLost as error:
        raise _lost(error, name) from error
    result = {"name": name, "key": key, "scopes": sorted(set(scope)), **bound, "expires_ms": expires}
    _tell(app, result, key, quiet, f"{name}: until {show_time(expires)}" if expires else f"{name}: without an end")


@commands.command()
def rotate(
    context: typer.Context,
    name: Name,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="For how long the old key is taken, too: 0s, 2h, 7d")
    ] = "1d",
    quiet: Quiet = False,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Make a new key of a name, and show it once; the old one is taken for a while yet."""
    app: App = context.obj
    by, key, overlap_ms = app.by(actor, reason), new_api_key(), parse_length(overlap, "--overlap")
    try:
        done = app.write(lambda c: api_keys.rotate(c, key, name, by, overlap_ms=overlap_ms))
    except AnswerLost as error:
        raise _lost(error, name) from error
    bound = {"org_id": done.key.org_id, "cell_id": done.key.cell_id, "source": done.key.source}
    result = {"name": name, "key": key, "scopes": done.key.scopes, **bound}
    more = {"expires_ms": done.expires_ms, "old_until_ms": done.old_until_ms}
    _tell(app, {**result, **more}, key, quiet, f"{name}: the old key is taken until {show_time(done.old_until_ms)}")


@commands.command()
def end(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Let a program in no more: every key of this name ends now."""
    app: App = context.obj
    by = app.by(actor, reason)
    changed = app.write(lambda c: api_keys.end(c, name, by))
    show(app, {"name": name, "changed": changed}, [f"{name}: {'ended' if changed else 'was ended before'}"])


@commands.command("list")
def list_(context: typer.Context, most: Most = 100) -> None:
    """List the keys by name: what each may, until when, and when it was last used, never the key itself."""
    app: App = context.obj
    found = app.read(lambda c: list_keys(c, app.clock.now_ms(), most))
    rows = [
        (key.name, " ".join(key.scopes), key.org_id or "any", key.cell_id or "any", key.source or "any", key.state,
         show_time(key.created_ms), show_time(key.ended_ms if key.ended_ms is not None else key.expires_ms),
         show_time(key.used_ms), key.actor)
        for key in found
    ]  # fmt: skip
    columns = ("key", "scopes", "org", "cell", "source", "state", "made", "until", "last used", "by")
    show(app, {"keys": found}, [table("Keys", columns, rows)])


def _lost(error: AnswerLost, name: str) -> AnswerLost:
    """A key that was made, maybe, and that nobody saw."""
    told = f"where `drawdown key list` has a new key of {name}, nobody has it"
    return AnswerLost(error.why, f"{told}: {_another(name)}")


def _another(name: str) -> str:
    word = typed(name)
    return f"`drawdown key rotate {word}` shows another, `drawdown key end {word}` ends all of them"


def _tell(app: App, result: Mapping[str, object], key: str, quiet: bool, line: str) -> None:
    """The one place where a key is printed."""
    if quiet and not app.json:
        print(key)
    else:
        show(app, result, [line, f"the key, shown this once: {key}"])
    name = str(result["name"])
    require_shown(f"the new key of {name} was made, and could not be shown, so nobody has it: {_another(name)}")
