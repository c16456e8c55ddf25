"""The services that the server is given. Guarantee: it reads neither environment nor clock. Secrets never print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.providers.http import Call, Http, HttpResult, NotSent
from drawdown.providers.payments.protocol import PaymentService
from drawdown.providers.protocol import Provider
from drawdown.schema.clock import Clock
from drawdown.server.http.log_throttle import LogThrottle
from drawdown.server.http.threads import Restores
from drawdown.server.settings import ServerSettings
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.runner import NoWitness, World
from drawdown.worker.engine.witness import WitnessStore
from drawdown.worker.hooks.hook_settings import HookSettings


@dataclass
class ThreadKit:
    """The tools of one thread: connections and providers of its own, and a fresh context for each piece of work.

    Getting the context brings the world up to date, too.
    """

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
    witness: WitnessStore = field(default_factory=NoWitness)
    """This machine's checkpoint of the database (R1)."""
    restores: Restores = field(init=False)
    hooks: HookSettings = field(default_factory=HookSettings)
    """What this process knows of webhooks to the product."""
    log_throttle: LogThrottle = field(default_factory=LogThrottle)
    """What is logged of those who have no key."""

    def __post_init__(self) -> None:
        self.restores = Restores(self.witness, self.clock)


class NobodyThere:
    """An `Http` that reaches nobody."""

    async def send(self, call: Call) -> HttpResult:
        return NotSent("not asked")

    async def close(self) -> None:
        """There is nothing to close."""
