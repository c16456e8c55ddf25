"""The demo's place: a database, cells on loopback, services in this process, and a clock that is turned.

Guarantee: nothing of the environment's DRAWDOWN_… reaches it: no key, no database and no cell of anybody's.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from rich.console import Console

from drawdown.cli.app import App
from drawdown.cli.demo.cast import CELLS, Member, sandboxes_of
from drawdown.cli.demo.services import DemoBilling, DemoCard
from drawdown.cli.nouns.demo_cell import DemoCell
from drawdown.cli.settings.settings import Settings
from drawdown.providers import registry
from drawdown.providers.payments import registry as payment_registry
from drawdown.providers.payments.protocol import PaymentCapabilities
from drawdown.providers.payments.registry import PaymentServices
from drawdown.providers.protocol import Provider
from drawdown.providers.registry import Registry
from drawdown.schema.clock import Clock
from drawdown.schema.database import write
from drawdown.worker.sources.demo_host import Sandbox, SandboxSample, start_sandboxes, stop_sandboxes, write_samples


class TurnedClock:
    """Stands where it is put; let go, it goes as the one behind it."""

    def __init__(self, behind: Clock) -> None:
        self._behind = behind
        self._at_ms: int | None = None
        self.trusted = True

    def turn(self, at_ms: int | None) -> None:
        """Put it there; None: let it go."""
        self._at_ms = at_ms
        self.trusted = at_ms is not None or self._behind.trusted

    def now_ms(self) -> int:
        return self._behind.now_ms() if self._at_ms is None else self._at_ms


@dataclass
class DemoApp(App):
    """An invocation whose providers and card are the demo's, in every process thread that asks for them."""

    billing: Mapping[str, DemoBilling] = field(default_factory=dict)
    card: DemoCard | None = None

    def _load(self) -> Registry:
        return Registry({"embedded": self.real_providers()["embedded"], **self.billing})

    def real_providers(self) -> Mapping[str, Provider]:
        """As they are without a key."""
        return registry.load({}, self.clock, self.http, self.engine).providers

    @property
    def payments(self) -> PaymentServices:
        return PaymentServices({} if self.card is None else {self.card.name: self.card})

    def real_card(self) -> PaymentCapabilities:
        """What the service of that name declares."""
        return payment_registry.load({}, self.clock, self.http, self.engine).capabilities["stripe"]


@dataclass
class Stage:
    """The place, and what was done there."""

    app: DemoApp
    clock: TurnedClock
    cells: list[DemoCell] = field(default_factory=list)
    running: dict[str, list[Sandbox]] = field(default_factory=dict)
    """What hosts run, by organisation; what a halt stopped is gone."""
    often_from_ms: int = 0
    """From when on hosts tell of each minute."""
    told_to_ms: int = 0
    """Up to when hosts told."""
    generations: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    """Ticks, samples and acts: the making is bounded by these."""

    def stopped(self, cell_id: str, org_id: str) -> None:
        """A cell did as it was told."""
        write(self.app.engine, lambda connection: stop_sandboxes(connection, cell_id, org_id))
        self.running[org_id] = [one for one in self.running.get(org_id, []) if one.cell_id != cell_id]

    def start(self, connection: sa.Connection, member: Member) -> None:
        """Its product makes sandboxes, where it has none."""
        if not self.running.get(member.org_id):
            self.running[member.org_id] = sandboxes_of(member, self.generations[member.org_id])
            self.generations[member.org_id] += 1
            start_sandboxes(connection, self.running[member.org_id])

    def host_writes(self, samples: list[SandboxSample]) -> None:
        """As another program does: not through any command."""
        if samples:
            write(self.app.engine, lambda connection: write_samples(connection, samples, self.clock.now_ms()))
            self.done["samples"] += len(samples)

    def hurry(self) -> None:
        """Wait for no disk while it is made: what a crash of the machine leaves half made is made anew."""

        def connected(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA synchronous = OFF")

        sa.event.listen(self.app.engine, "connect", connected)

    def go_on(self) -> None:
        """From now on as any database; and time goes on."""
        self.app.engine.dispose()
        self.app._engine = None
        self.clock.turn(None)

    def close(self) -> None:
        for cell in self.cells:
            cell.close()


def set_up(folder: Path, file: Path, behind: Clock, out: Console, err: Console) -> Stage:
    """A stage on an empty database."""
    clock = TurnedClock(behind)
    given: dict[str, Any] = {name: one.default for name, one in Settings.model_fields.items()}
    secret = SecretStr(secrets.token_hex(16))
    given |= {"database_url": f"sqlite:///{file}", "state_dir": str(folder / "state"), "cell_secret": secret}
    stage = Stage(DemoApp(Settings(**given), clock, out=out, err=err), clock)
    secrets_of = stage.app.settings.cells().secrets_of
    stage.cells = [DemoCell(name, secrets_of(name)[0], clock, stage.stopped) for name in CELLS]
    stage.app.settings.cell_origins = ",".join(cell.url for cell in stage.cells)
    return stage
