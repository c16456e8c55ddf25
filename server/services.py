"""The services that the server is given. Guarantee: it reads neither environment nor clock. Secrets never print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa

from drawdown.providers.http import Call, Http, HttpResult, NotSent
from drawdown.providers.protocol import Provider
from drawdown.schema.clock import Clock
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.runner import World

UnknownOrg = Literal["not_found", "deny", "allow"]


@dataclass(frozen=True)
class ServerSettings:
    """Secrets are none where the tuple or text is empty: what they guard then answers 503."""

    admin_secrets: tuple[str, ...] = field(default=(), repr=False)
    admin_hosts: tuple[str, ...] = ()
    """What this deployment is called, in lower case: orders signed for another host are refused. None: any is taken."""
    cron_secret: str = field(default="", repr=False)
    gate_unknown_org: UnknownOrg = "not_found"
    gate_open_when_in_doubt: bool = False
    requests_per_s: int = 200
    """Of one caller's address, on the average; twice as many at once."""
    console_url: str = ""
    """Where the console is reached; empty: there is none."""
    console_proxy_header: str = ""
    """The header, in lower case, in which a proxy names who it signed in; empty: none is believed."""
    console_proxy_secret: str = field(default="", repr=False)


@dataclass
class ThreadKit:
    """What one thread works with: connections and providers of its own, and a fresh context for each piece of work. To
    ask for that one brings the world up to date, too."""

    world: World
    context: Callable[[], Context]


def _nothing_new(_services: Services) -> None:
    return


@dataclass
class Services:
    """Everything the routes use. `unasked` are the same providers, on a line that reaches nobody: with them a webhook
    is proven without a call. `renew` puts new settings and providers in the place of old ones, where there are any."""

    engine: sa.Engine
    clock: Clock
    settings: ServerSettings
    providers: Mapping[str, Provider]
    unasked: Mapping[str, Provider]
    broken: Mapping[str, str]
    http: Http
    thread_kit: Callable[[], ThreadKit]
    renew: Callable[[Services], None] = _nothing_new
    console_engine: sa.Engine | None = None
    """The console's own connections; none where there is no console."""


class NobodyThere:
    """An `Http` that reaches nobody."""

    async def send(self, call: Call) -> HttpResult:
        return NotSent("not asked")

    async def close(self) -> None:
        """There is nothing to close."""
