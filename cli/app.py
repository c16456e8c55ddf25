"""Assemble the inputs of every command in one place.

Guarantee: the modules that call over HTTP are a fifth of a command's imports. Before the first call, the program does
not import these modules, open a connection or read certificates.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeVar

import sqlalchemy as sa
import structlog
from rich.console import Console

from drawdown.cli.settings import Settings
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.clock import Clock, FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.migrate import require_ready
from drawdown.schema.typed.parsing import parse_time, parse_window, show_time
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.history.witness import WitnessFile

if TYPE_CHECKING:
    from drawdown.providers.http import Call, Http, HttpResult
    from drawdown.providers.http.client import HttpClient
    from drawdown.providers.http.egress import Outgoing
    from drawdown.providers.payments.protocol import PaymentService
    from drawdown.providers.payments.registry import PaymentServices
    from drawdown.providers.registry import Registry
    from drawdown.worker.engine.context import Context
    from drawdown.worker.engine.effects import (
        CellReader,
        HaltRequest,
        HaltSender,
        HookAnswer,
        HookRequest,
        HookSender,
        UsageAnswer,
        UsageRequest,
    )
    from drawdown.worker.engine.runner import World
    from drawdown.worker.engine.witness import Witness
    from drawdown.worker.halts.cell_settings import CellSettings
    from drawdown.worker.hooks.hook_settings import HookSettings

log = structlog.get_logger()

T = TypeVar("T")


@dataclass
class App:
    """One invocation of the command line."""

    settings: Settings
    clock: Clock
    json: bool = False
    out: Console = field(default_factory=lambda: Console(soft_wrap=True, emoji=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, soft_wrap=True, emoji=False))
    http: Http = None  # type: ignore[assignment]  # __post_init__ sets it
    processes: int = 1
    """Number of processes of this command.

    The processes share the work of the command, and the rate limits of providers.
    """
    _engine: sa.Engine | None = None
    _registry: Registry | None = None
    _payments: PaymentServices | None = None

    def __post_init__(self) -> None:
        if self.http is None:
            self.http = LateHttp(self.settings.outgoing())

    def apart(self, processes: int | None = None) -> Self:
        """Return a copy of this invocation with its own connections and providers.

        `processes`: the number of processes that share the rate limits of providers; None: that of this invocation.
        """
        count = self.processes if processes is None else processes
        return replace(
            self, http=LateHttp(self.settings.outgoing()), processes=count, _engine=None, _registry=None, _payments=None
        )

    def close(self) -> None:
        """Close the connections.

        SQLite then writes its log into the file, and connections do not hold a lock.
        """
        if self._engine is not None:
            self._engine.dispose()

    @property
    def engine(self) -> sa.Engine:
        """Return the database's engine, even if its schema is not this program's."""
        if self._engine is None:
            self._engine = connect(self.settings.database_url, self.settings.latest_database_url)
        return self._engine

    def ready(self) -> sa.Engine:
        """Return the database's engine if the database has this program's schema.

        Errors: DatabaseNotReady.
        """
        read(self.engine, require_ready)
        return self.engine

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.ready(), work)

    def write(self, work: Callable[[sa.Connection], T], *, rollback: bool = False) -> T:
        """Do work in one transaction.

        Drawdown first checks whether the database was restored, so that work on a database with lost history is
        refused (R1). Drawdown also refuses a clock that ticks refuse (S9), but trusts a time from --at. Errors:
        HistoryDoubted, raised by the work; ClockDoubted; DatabaseNotReady; those of `schema.database.write`.
        """
        from drawdown.worker.engine.clock_check import require_clock
        from drawdown.worker.history.incarnation import recognise, record_doubt

        engine = self.ready()
        witness = self._load_witness(engine)
        record_doubt(engine, witness, self.clock.now_ms())

        def noticed(connection: sa.Connection) -> T:
            recognise(connection, witness, self.clock.now_ms())
            if not self.clock.trusted:
                require_clock(connection, self.clock.now_ms())
            return work(connection)

        return write(engine, noticed, rollback=rollback)

    def require_clock(self) -> None:
        """Check the clock before work that needs several transactions.

        Errors: ClockDoubted.
        """
        from drawdown.worker.engine.clock_check import require_clock

        if not self.clock.trusted:
            self.read(lambda connection: require_clock(connection, self.clock.now_ms()))

    def doubt(self) -> str | None:
        """Return the reason why the database may have lost history; None without a doubt.

        The method does not write.
        """
        from drawdown.worker.history.incarnation import read_doubt

        engine = self.ready()
        witness = self._load_witness(engine)
        return read(engine, lambda connection: read_doubt(connection, witness))

    def _load_witness(self, engine: sa.Engine) -> Witness | None:
        """Return the local checkpoint; None if this user may not read it.

        An unreadable checkpoint must not prevent a command to halt.
        """
        try:
            return WitnessFile(self.settings.state_folder()).load(engine)
        except UsageError as error:
            log.warning("witness_unreadable", reason=str(error))
            return None

    @property
    def registry(self) -> Registry:
        """Return the usable providers, and the reason why each other provider is unusable."""
        if self._registry is None:
            self._registry = self._load()
        return self._registry

    def _load(self) -> Registry:
        from drawdown.providers import registry

        return registry.load(self.settings.of_providers(), self.clock, self.http, self.engine)

    @property
    def payments(self) -> PaymentServices:
        """Return the usable payment services, and the reason why each other is unusable."""
        if self._payments is None:
            from drawdown.providers.payments import registry as payment_registry

            self._payments = payment_registry.load(self.settings.of_providers(), self.clock, self.http, self.engine)
        return self._payments

    def read_files_again(self) -> None:
        """Read the files that hold settings again, and use their content."""
        self.settings.files.read_again()
        self.renew()

    def renew(self) -> bool:
        """Use the content of the settings' files that this process last read.

        Return True if the content changed. If a provider is unusable with the new content, it keeps its old settings.
        """
        fresh = self.settings.as_files_say()
        if fresh is self.settings:
            return False
        self.settings = fresh
        if self._registry is not None:
            made = self._load()
            for name in set(made.broken) & set(self._registry.providers):
                log.error("provider_not_renewed", provider=name, reason=made.broken[name])
            self._registry = self._registry.renewed(made)
        self._payments = None
        return True

    def require_provider(self, name: str) -> str:
        """Return the name of a usable or exempt provider.

        Errors: UnknownId, with the nearest name, if the provider is unknown. Refused if it cannot be used.
        """
        if name in self.registry.broken:
            raise Refused(f"the provider {name} cannot be used: {self.registry.broken[name]}. Fix the cause")
        ids.require_among(ids.PROVIDER, name, {*self.registry.providers, *EXEMPT_PROVIDERS})
        return name

    def require_any_provider(self, name: str) -> str:
        """Return a provider's name for a filter.

        The provider may have wrong settings. It may also be a former provider without settings on this machine. Errors:
        UnknownId, with the nearest name.
        """
        there = {*self.registry.providers, *self.registry.broken, *EXEMPT_PROVIDERS}
        if name and name not in there and not self.read(lambda c: ids.is_known(c, ids.PROVIDER, name)):
            ids.require_among(ids.PROVIDER, name, there)
        return name

    def require_payments(self, name: str) -> PaymentService:
        """Return a payment service, with a key or without.

        Errors: UnknownId, with the nearest name, if the service is unknown. Refused if it cannot be used.
        """
        if name in self.payments.broken:
            raise Refused(f"the payment service {name} cannot be used: {self.payments.broken[name]}. Fix the cause")
        ids.require_among(ids.PAYMENTS, name, self.payments.services)
        return self.payments.services[name]

    def world(self) -> World:
        from drawdown.worker.engine.runner import World

        cells = LateCells(self.settings.cells(), self.clock)
        witness = WitnessFile(self.settings.state_folder())
        engine, services = self.ready(), self.payments.services
        hooks = LateHooks(self.settings.hooks(), self.clock)
        providers, count = self.registry.providers, self.processes
        return World(engine, providers, cells, self.clock, self.http, witness, services, hooks, cells, count)

    def context(self) -> Context:
        from drawdown.worker.catalog import terms
        from drawdown.worker.engine.context import Context

        for name, why in self.registry.broken.items():
            log.error("provider_broken", provider=name, reason=why)
        named = self.registry.providers.items()
        dormant = {name: provider.dormant for name, provider in named if provider.dormant is not None}
        made = Context(worker_name(), self.clock, self.registry.capabilities, dormant, self.registry.broken)
        for name, why in self.payments.broken.items():
            log.error("payment_service_broken", service=name, reason=why)
        made.payments, made.dormant_payments = self.payments.capabilities, self.payments.dormant
        made.hooks = self.settings.hooks().origins
        made.objects = self.settings.objects()
        made.databases = self.settings.databases()
        made.changed = self.read(lambda c: terms.changed(c, made.declared()))
        return made

    def moment(self, text: str, option: str, zone: str = "UTC") -> int:
        """Return a typed time in milliseconds.

        `2h` and `today` count from this invocation's clock. Errors: UsageError.
        """
        return parse_time(text, option, self.clock.now_ms(), zone)

    def past(self, text: str, option: str) -> int:
        """Return a typed time in the past, in milliseconds.

        Errors: UsageError, also for a time in the future, because a command would then show an empty result.
        """
        moment = self.moment(text, option)
        if moment > self.clock.now_ms():
            at = show_time(moment)
            raise UsageError(f"{option} {text} is in the future, at {at}. Pass a past time, such as yesterday")
        return moment

    def window(self, text: str | None, option: str) -> int | None:
        """Return the window boundary of a typed time, in milliseconds; None for None.

        `now` or a relative time means the start of the window that contains the time. Errors: UsageError, also for
        an absolute time that is not a window boundary.
        """
        return None if text is None else parse_window(text, option, self.clock.now_ms())

    def by(self, actor: str | None, reason: str | None) -> By:
        """Return the actor, reason, channel and time of a change.

        With `--at`, the change has the time of that option, and the channel is `cli --at`.
        """
        via = "cli --at" if isinstance(self.clock, FixedClock) else "cli"
        return By(self.clock.now_ms(), actor or default_actor(), reason or "not given", via)


def worker_name() -> str:
    """Return a worker's name, unique even among the workers of this machine.

    A claim stores the name.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"


def new_key() -> str:
    """Return a random idempotency key, for a command without --key.

    If a person repeats the command, it has another key, so Drawdown does the action again.
    """
    return os.urandom(8).hex()


def new_api_key() -> str:
    """Return a new API key: the prefix of keys and 256 random bits."""
    from drawdown.worker.access import keys as api_keys

    return api_keys.PREFIX + secrets.token_urlsafe(32)


def new_link() -> str:
    """Return 256 random bits as text, for the secret part of a link."""
    return secrets.token_urlsafe(32)


def default_actor() -> str:
    """Return the user of the operating system who runs the command."""
    return os.environ.get("USER") or f"uid {os.getuid()}"


def client_of(outgoing: Outgoing | None) -> HttpClient:
    """Return an HTTP client that follows the settings of outgoing calls."""
    from drawdown.providers.http.client import Dialer, HttpClient

    return HttpClient(dialer=Dialer(outgoing=outgoing))


class LateHttp:
    """The HTTP client for providers, payment services, sign-ins and heartbeats.

    It is built at the first call.
    """

    def __init__(self, outgoing: Outgoing | None = None) -> None:
        self._outgoing = outgoing

    @cached_property
    def _client(self) -> Http:
        return client_of(self._outgoing)

    async def send(self, call: Call) -> HttpResult:
        return await self._client.send(call)

    async def close(self) -> None:
        if "_client" in vars(self):
            await self._client.close()


class LateCells:
    """The clients that send halts to cells and read usage from cells.

    Each client is built at its first call.
    """

    def __init__(self, settings: CellSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    @cached_property
    def _client(self) -> HaltSender:
        from drawdown.worker.halts.cell_client import CellClient

        return CellClient(self._settings, self._clock)

    @cached_property
    def _reader(self) -> CellReader:
        from drawdown.worker.halts.cell_client import CellUsageClient

        return CellUsageClient(self._settings, self._clock)

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        return await self._client.send(halts)

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        return await self._reader.read(requests)


class LateHooks:
    """The client that sends webhooks to your product, built at the first message."""

    def __init__(self, settings: HookSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    @cached_property
    def _client(self) -> HookSender:
        from drawdown.worker.hooks.client import HookClient

        return HookClient(self._settings, self._clock)

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        return await self._client.send(messages)
