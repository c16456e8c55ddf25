"""`drawdown serve`: serve the HTTP API, webhooks, console, health and metrics."""

from __future__ import annotations

import ipaddress
import socket
import sys
from dataclasses import replace
from typing import Annotated

import sqlalchemy as sa
import structlog
import typer

from drawdown.cli.app import App, client_of
from drawdown.cli.rendering import show
from drawdown.providers.http import Http
from drawdown.providers.payments.protocol import PaymentService
from drawdown.schema.database import connect, read
from drawdown.schema.migrate import require_ready
from drawdown.server.services import NobodyThere, Services, ThreadKit
from drawdown.worker.engine.context import Context
from drawdown.worker.history.witness import WitnessFile

log = structlog.get_logger()


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command("serve")(serve_)


def serve_(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for a free port")] = 8080,
) -> None:
    """Serve the HTTP API, webhooks, console and metrics.

    The server receives webhooks, answers gate, admin and cron calls, and reports health and metrics. The command ends
    with SIGTERM or Ctrl-C.
    """
    from drawdown.server.app import Server
    from drawdown.server.http import listen  # takes a third of a second, which other commands should not spend

    app: App = context.obj
    read(app.engine, require_ready)
    server = Server(services_of(app))
    listening, url = open_door(app, host, port)
    show(app, {"url": url}, [f"listening on {url}; SIGTERM or Ctrl-C ends the server"])
    sys.stdout.flush()
    log.info("serving", url=url)
    listen.serve(server, listening, app.settings.trusted_proxies)


def open_door(app: App, host: str, port: int) -> tuple[socket.socket, str]:
    """Return a listening socket and its URL.

    Errors: UsageError if the address cannot be used, or a trusted proxy's address is invalid.
    """
    from drawdown.server.http import listen
    from drawdown.server.http.callers import proxies

    proxies(app.settings.trusted_proxies)  # report an invalid proxy before the server starts
    listening = listen.bind(host, port)
    if not _is_loopback(host):
        log.warning(
            "reachable_by_others",
            host=host,
            detail="anyone who can reach this address can read the gate and the metrics",
        )
    shown_host = f"[{host}]" if ":" in host else host
    return listening, f"http://{shown_host}:{listening.getsockname()[1]}"


def services_of(app: App) -> Services:
    """Return the services of the server.

    Each thread of the server has its own connections and providers.
    """
    asking = _with_own(app, client_of(app.settings.outgoing()))
    unasked = _with_own(app, NobodyThere())

    def renew(services: Services) -> None:
        asking.read_files_again()
        unasked.renew()
        services.settings, services.hooks = asking.settings.server(), asking.settings.hooks()
        services.providers, services.broken = asking.registry.providers, asking.registry.broken
        services.unasked = unasked.registry.providers

    def payments(name: str) -> PaymentService | None:
        return asking.payments.services.get(name)

    return Services(
        engine=app.engine,
        clock=app.clock,
        settings=app.settings.server(),
        hooks=app.settings.hooks(),
        providers=asking.registry.providers,
        unasked=unasked.registry.providers,
        broken=asking.registry.broken,
        http=asking.http,
        thread_kit=lambda: _thread_kit(_with_own(asking, client_of(asking.settings.outgoing()))),
        renew=renew,
        payments=payments,
        console_engine=_console_engine(app),
        witness=WitnessFile(app.settings.state_folder()),
    )


def _console_engine(app: App) -> sa.Engine | None:
    """Return the console's own connections, so that its readers never delay the gate.

    Return None if the server does not have a console.
    """
    if not app.settings.console_url:
        return None
    return connect(app.settings.database_url, app.settings.latest_database_url)


def _with_own(app: App, http: Http) -> App:
    """Return a copy of the invocation with its own providers, on the same database."""
    return replace(app, _registry=None, _payments=None, http=http)


def _thread_kit(own: App) -> ThreadKit:
    def context() -> Context:
        if own.renew():
            made.world = own.world()
        return own.context()

    made = ThreadKit(own.world(), context)
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
