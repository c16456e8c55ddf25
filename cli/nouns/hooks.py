"""`drawdown hook`: manage webhooks to your product."""

from __future__ import annotations

from typing import Annotated

import typer

from drawdown.cli.app import App
from drawdown.cli.declared import of_noun
from drawdown.cli.options import Actor, Reason
from drawdown.cli.rendering import show
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.worker.engine import runner
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.hooks.lists import (
    LISTS,
    DeliveryRow,
    find_endpoint,
    show_message,
)

commands = of_noun("hook", *hooks.ACTIONS, *LISTS)


Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Name of the endpoint, which you choose")]


@commands.command()
def secret(context: typer.Context, endpoint: Endpoint) -> None:
    """Print an endpoint's secret.

    Give the secret to the person who sets up your product. Drawdown signs messages to the endpoint only with this
    secret.
    """
    app: App = context.obj
    found = app.read(lambda c: find_endpoint(c, endpoint))
    if found.ended_ms is not None:
        raise Refused(
            f"cannot print the secret of {endpoint}: the endpoint has ended. Run `drawdown hook list`, and choose an "
            "endpoint that has not ended"
        )
    shown = _secret(app, endpoint, found.generation)
    show(app, {"name": endpoint, "secret": shown}, [shown])


@commands.command("test")
def test_(context: typer.Context, endpoint: Endpoint, actor: Actor = None, reason: Reason = "not given") -> None:
    """Send a test message to an endpoint now.

    The event type is endpoint.test. The exit status is 75 if the endpoint did not accept the message.
    """
    app: App = context.obj
    found = app.read(lambda c: find_endpoint(c, endpoint))
    hooks.require_called(endpoint, found.url, app.settings.hooks())
    by = app.by(actor, reason)
    message_id = app.write(lambda c: hooks.try_endpoint(c, endpoint, by))
    runner.run(deliver(app.context(), endpoint), app.world())
    _, (row,) = app.read(lambda c: show_message(c, message_id))
    show(app, {"message": row}, [f"{message_id}: {_came_to(row)}"])
    raise typer.Exit(Exit.SETTLED if row.state == "delivered" else Exit.LEFT)


def _secret(app: App, name: str, generation: int) -> str:
    found = app.settings.hooks().secrets_of(name, (generation,))
    if not found:
        raise UsageError(
            "missing DRAWDOWN_HOOK_SECRET. Set it, because Drawdown derives each endpoint's own secret from it"
        )
    return found[0]


def _came_to(row: DeliveryRow) -> str:
    if row.state == "delivered":
        return f"{row.endpoint} accepted the message ({row.last_status})"
    return f"{row.endpoint} did not accept the message: {row.last_error or 'it did not answer in time'}"
