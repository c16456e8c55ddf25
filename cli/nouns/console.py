"""`drawdown console`: manage the people of the console, their roles and links."""

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
commands.add_typer(users, name="user", cls=Group, help="Manage people: add, list, change role, reset, end.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the person; the actor in the audit log is console:NAME")
]
Role = Annotated[str, typer.Option(metavar="ROLE", help=f"Role: {', '.join(console_users.ROLES)}")]
Limit = Annotated[
    str | None, typer.Option(metavar="CREDITS", help="Maximum credit of one grant", show_default="no grants")
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
    """Add a person and show the link to set a password.

    The command shows the link once.
    """
    app: App = context.obj
    by, link, limit = app.by(actor, reason), new_link(), _micro(grant_limit)
    try:
        until = app.write(lambda c: console_users.add(c, name, role, link, by, grant_limit_micro=limit))
    except AnswerLost as error:
        word = typed(name)
        again = (
            f"if `drawdown console user list` shows {name}, run `drawdown console user reset {word}`, which "
            "shows a link"
        )
        raise AnswerLost(error.why, again) from error
    _tell(app, name, link, until)


@users.command()
def reset(context: typer.Context, name: Name, actor: Actor = None, reason: Reason = "not given") -> None:
    """Reset a person's password and show a link to set it.

    The command also signs the person out.
    """
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
    """Change a person's role or limit at once."""
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
    """List people: role, limit, access and last sign-in."""
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
    """Print a sign-in link. No other function prints a link."""
    root = app.settings.console_url.rstrip("/")
    url = f"{root}/console/link?token={link}"
    lines = [f"{name} must set a password with this link by {show_time(until_ms)}. The link is shown only once:", url]
    if not root:
        lines.append("DRAWDOWN_CONSOLE_URL is not set, so the link is only a path. Put the server's address before it")
    show(app, {"name": name, "url": url, "until_ms": until_ms}, lines)
    require_shown(
        f"the link could not be printed. Run `drawdown console user reset {typed(name)}`, which shows another link"
    )
