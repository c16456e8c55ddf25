"""The services that the server is given. Guarantee: it reads neither environment nor clock. Secrets never print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa

from drawdown.providers.http import Call, Http, HttpResult, NotSent
from drawdown.providers.payments.protocol import PaymentService
from drawdown.providers.protocol import Provider
from drawdown.schema.clock import Clock
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.runner import World

UnknownOrg = Literal["not_found", "deny", "allow"]


@dataclass(frozen=True)
class OidcSettings:
    """Where people of the console may sign in besides; nowhere, while `issuer` is empty."""

    issuer: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    """Empty: the client is a public one, and proves itself by PKCE alone."""
    claim: str = "email"
    """Which claim is a person's name here."""
    label: str = ""
    """What the button calls it; empty: the issuer's host."""


@dataclass(frozen=True)
class MySettings:
    """Links by which an organisation's own people come in; none is taken while neither a secret nor keys are set."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    jwks_url: str = ""
    url: str = ""
    """Where those people reach it; empty: where the console is."""
    contact: str = ""
    """Whom they may ask."""

    @property
    def is_set(self) -> bool:
        return bool(self.secrets or self.jwks_url)


@dataclass(frozen=True)
class ServerSettings:
    """Secrets are none where the tuple or text is empty: what they guard then answers 503."""

    admin_secrets: tuple[str, ...] = field(default=(), repr=False)
    admin_hosts: tuple[str, ...] = ()
    """What this deployment is called, in lower case: orders signed for another host are refused. None: any is taken."""
    cron_secret: str = field(default="", repr=False)
    gate_unknown_org: UnknownOrg = "not_found"
    gate_open_when_in_doubt: bool = False
    requests_per_s: int = 1_000
    """Of one caller's address, on the average; twice as many at once."""
    console_url: str = ""
    """Where the console is reached; empty: there is none."""
    console_proxy_header: str = ""
    """The header, in lower case, in which a proxy names who it signed in; empty: none is believed."""
    console_proxy_secret: str = field(default="", repr=False)
    oidc: OidcSettings = OidcSettings()
    my: MySettings = MySettings()

    @property
    def my_page(self) -> str:
        """Where an organisation's own people see their usage; empty: nowhere."""
        return f"{self.my.url or self.console_url}/my/usage" if self.console_url and self.my.is_set else ""


@dataclass
class ThreadKit:
    """What one thread works with: connections and providers of its own, and a fresh context for each piece of work. To
    ask for that one brings the world up to date, too."""

    world: World
    context: Callable[[], Context]


def _nothing_new(_services: Services) -> None:
    return


def _no_payments(_name: str) -> PaymentService | None:
    return None


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
    payments: Callable[[str], PaymentService | None] = _no_payments
    """The payment service of a name, where one is set up."""
    console_engine: sa.Engine | None = None
    """The console's own connections; none where there is no console."""


class NobodyThere:
    """An `Http` that reaches nobody."""

    async def send(self, call: Call) -> HttpResult:
        return NotSent("not asked")

    async def close(self) -> None:
        """There is nothing to close."""
