"""The services that the server receives.

Guarantee: this module reads neither the environment nor a clock. It never prints a secret.
"""

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
    """The tools of one thread: its own connections and providers.

    `context`: a function that returns a new context for each piece of work, with the present settings.
    """

    world: World
    context: Callable[[], Context]


def _nothing_new(_services: Services) -> None:
    return


def _no_payments(_name: str) -> PaymentService | None:
    return None


@dataclass
class Services:
    """The services that the routes use.

    `unasked`: the same providers without a network, so they verify a webhook without a call. `broken`: the providers
    that cannot be used, with the reason. `renew`: a function that replaces changed settings and providers.
    """

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
    """A function that returns the payment service of this name; None if the service is not set up."""
    console_engine: sa.Engine | None = None
    """Database connections of the console; None without a console."""
    witness: WitnessStore = field(default_factory=NoWitness)
    """Local checkpoint of the database on this machine (R1)."""
    restores: Restores = field(init=False)
    hooks: HookSettings = field(default_factory=HookSettings)
    """Settings of webhooks to the product, as this process has them."""
    log_throttle: LogThrottle = field(default_factory=LogThrottle)
    """Limit of log lines that unauthenticated callers cause."""

    def __post_init__(self) -> None:
        self.restores = Restores(self.witness, self.clock)


class NobodyThere:
    """An `Http` without a network. It never sends a call."""

    async def send(self, call: Call) -> HttpResult:
        return NotSent("not asked")

    async def close(self) -> None:
        """Do nothing, because this object does not open connections."""
