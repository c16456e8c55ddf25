"""`drawdown console`: the people of the console, their roles, and the way in."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App, new_link
from drawdown.cli.options import Actor, Most, Reason
from drawdown.cli.rendering import show, table
from drawdown.cli.streams import require_shown
from drawdown.cli.tree import Group
from drawdown.schema.errors import AnswerLost
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import parse_credits, show_credits, show_time
from drawdown.worker.access import people as console_users
from drawdown.worker.access.people import list_users

commands = typer.Typer()
users = typer.Typer()
commands.add_typer(users, name="user", cls=Group, help="People: add, list, role, reset, end.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The person's name: it stands as the actor of what they do")]
Role = Annotated[str, typer.Option(metavar="ROLE", help=f"What they may: {', '.join(console_users.ROLES)}")]
Limit = Annotated[
    str | None, typer.Option(metavar="CREDITS", help="What they may grant at once", show_default="nothing")
]


@users.command()
def add(
    context: typer.Context,
    name: Name,
    role: Role,
    grant_limit: Limit = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Add a person, and show the link by which they set a password: this once."""
    app: App = context.obj
    by, link, limit = app.by(actor, reason), new_link(), _micro(grant_limit)
    try:
        until = app.write(lambda c: console_users.add(c, name, role, link, by, grant_limit_micro=limit))
    except AnswerLost as error:
        word = typed(name)
        again = f"where `drawdown console user list` has {name}, `drawdown console user reset {word}` shows a link"
        raise AnswerLost(error.why, again) from error
    _tell(app, name, link, until)


@users.command()
def reset(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Take a person's password, sign them out, and show a link by which they set another."""
    app: App = context.obj
    by, link = app.by(actor, reason), new_link()
    _tell(app, name, link, app.write(lambda c: console_users.reset(c, name, link, by)))


@users.command()
def role(
    context: typer.Context,
    name: Name,
    role: Role,
    grant_limit: Limit = None,
    actor: Actor = None,
    reason: Reason = "not given",
) -> None:
    """Give a person another role, or limit, from their next click on."""
    app: App = context.obj
    by, limit = app.by(actor, reason), _micro(grant_limit)
    changed = app.write(lambda c: console_users.set_role(c, name, role, by, grant_limit_micro=limit))
    result = {"name": name, "role": role, "grant_limit_micro": limit, "changed": changed}
    show(app, result, [f"{name}: {'now' if changed else 'was already'} {role}"])


@users.command()
def end(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Revoke a person's access and end their sessions."""
    app: App = context.obj
    by = app.by(actor, reason)
    changed = app.write(lambda c: console_users.end(c, name, by))
    show(app, {"name": name, "changed": changed}, [f"{name}: {'ended' if changed else 'was ended before'}"])


@users.command("list")
def list_(context: typer.Context, most: Most = 100) -> None:
    """List the people: role, limit, whether they may come in, when they last did."""
    app: App = context.obj
    found = app.read(lambda c: list_users(c, app.clock.now_ms(), most))
    rows = [
        (one.name, one.role, one.grant_limit_micro and show_credits(one.grant_limit_micro), one.state,
         show_time(one.signed_in_ms), one.sessions, show_time(one.link_expires_ms),
         show_time(one.created_ms), one.actor)
        for one in found
    ]  # fmt: skip
    columns = ("name", "role", "#grant limit", "state", "last in", "#in", "link until", "added", "by")
    show(app, {"users": found}, [table("People of the console", columns, rows)])


def _micro(text: str | None) -> int | None:
    return None if text is None else parse_credits(text)


def _tell(app: App, name: str, link: str, until_ms: int) -> None:
    """Print a link: no other function prints one."""
    root = app.settings.console_url.rstrip("/")
    url = f"{root}/console/link?token={link}"
    lines = [f"{name} sets a password by this link, shown this once, until {show_time(until_ms)}:", url]
    if not root:
        lines.append("DRAWDOWN_CONSOLE_URL is not set: put the server's address before it, and set that there, too")
    show(app, {"name": name, "url": url, "until_ms": until_ms}, lines)
    require_shown(
        f"the link could not be shown, so nobody has it; `drawdown console user reset {typed(name)}` shows another"
    )
