"""The composition root: what every command is given, put together in one place."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
import structlog
from rich.console import Console

from drawdown.cli.settings import Settings
from drawdown.providers import registry
from drawdown.providers.http_client import HttpClient
from drawdown.schema.clock import Clock
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import Refused
from drawdown.schema.migrate import require_ready
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker import provider_states
from drawdown.worker.cells import CellClient
from drawdown.worker.context import Context
from drawdown.worker.orgs import Said
from drawdown.worker.runner import World
from drawdown.worker.witness import WitnessFile

log = structlog.get_logger()

T = TypeVar("T")


@dataclass
class State:
    """One invocation of the command line."""

    settings: Settings
    clock: Clock
    json: bool = False
    out: Console = field(default_factory=lambda: Console(soft_wrap=True))
    err: Console = field(default_factory=lambda: Console(stderr=True, soft_wrap=True))
    _engine: sa.Engine | None = None
    _registry: registry.Registry | None = None
    _http: HttpClient = field(default_factory=HttpClient)

    @property
    def engine(self) -> sa.Engine:
        """The database as it is, migrated or not."""
        if self._engine is None:
            self._engine = connect(self.settings.database_url)
        return self._engine

    def ready(self) -> sa.Engine:
        """The database, once it is known to have this program's schema."""
        read(self.engine, require_ready)
        return self.engine

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.ready(), work)

    def write(self, work: Callable[[sa.Connection], T], *, rollback: bool = False) -> T:
        return write(self.ready(), work, rollback=rollback)

    @property
    def registry(self) -> registry.Registry:
        """The providers there are, and why others cannot be used."""
        if self._registry is None:
            self._registry = registry.load(self.settings.of_providers(), self.clock, self._http, self.engine)
        return self._registry

    def require_provider(self, name: str) -> str:
        """Errors: Refused for a provider that is neither usable nor one that bills nothing."""
        if name in self.registry.broken:
            raise Refused(f"the provider {name} cannot be used: {self.registry.broken[name]}")
        known = sorted({*self.registry.providers, *EXEMPT_PROVIDERS})
        if name not in known:
            raise Refused(f"there is no provider {name!r}; there are: {', '.join(known)}")
        return name

    def world(self) -> World:
        cells = CellClient(self.settings.cells(), self.clock)
        witness = WitnessFile(self.settings.state_folder())
        return World(self.ready(), self.registry.providers, cells, self.clock, self._http, witness)

    def context(self) -> Context:
        for name, why in self.registry.broken.items():
            log.error("provider_broken", provider=name, reason=why)
        dormant = {name for name, one in self.registry.providers.items() if one.dormant is not None}
        made = Context(worker_name(), self.clock, self.registry.capabilities, dormant, self.registry.broken)
        made.changed = self.read(lambda c: provider_states.changed(c, made.known()))
        return made

    def said(self, actor: str | None, reason: str | None) -> Said:
        return Said(self.clock.now_ms(), actor or default_actor(), reason or "not given")


def worker_name() -> str:
    """Unlike any other worker's, also of the same machine: claims are told apart by it."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"


def default_actor() -> str:
    """The operating system's user."""
    return os.environ.get("USER") or f"uid {os.getuid()}"
