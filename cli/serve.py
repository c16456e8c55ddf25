"""`drawdown serve`: webhooks, the gate, admin, cron, health and metrics over HTTP."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import replace
from typing import Annotated

import structlog
import typer

from drawdown.cli.render import show
from drawdown.cli.state import State
from drawdown.providers import registry
from drawdown.providers.http_client import HttpClient
from drawdown.schema.database import read
from drawdown.schema.migrate import require_ready
from drawdown.server.services import Hands, NobodyThere, Services

log = structlog.get_logger()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve_)


def serve_(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on; without it, this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one")] = 8080,
) -> None:
    """Take webhooks, answer the gate, admin and cron calls, show health and metrics, until SIGTERM."""
    from drawdown.server import listen  # a third of a second, which no other command should pay for
    from drawdown.server.app import Server

    state: State = context.obj
    read(state.engine, require_ready)
    server = Server(services_of(state))
    listening = listen.bind(host, port)
    if not _is_loopback(host):
        log.warning("reachable_by_others", host=host, detail="the gate and the metrics ask nobody for a proof")
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{listening.getsockname()[1]}"
    show(state, {"url": url}, [f"listening on {url}; SIGTERM or Ctrl-C ends it"])
    sys.stdout.flush()
    log.info("serving", url=url)
    listen.serve(server, listening, state.settings.trusted_proxies)


def services_of(state: State) -> Services:
    """What the server is given. Each of its threads gets connections and providers of its own."""
    http = HttpClient()
    found = registry.load(state.settings.of_providers(), state.clock, http, state.engine)
    unasked = registry.load(state.settings.of_providers(), state.clock, NobodyThere(), state.engine)

    def hands() -> Hands:
        own = replace(state, _registry=None, _http=HttpClient())
        return Hands(own.world(), own.context)

    return Services(
        engine=state.engine,
        clock=state.clock,
        settings=state.settings.server(),
        providers=found.providers,
        unasked=unasked.providers,
        broken=found.broken,
        http=http,
        hands=hands,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
