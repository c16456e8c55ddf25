"""A small world for tests: a database with the defaults, an injected clock, the embedded ledger, cells that obey."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import Provider
from drawdown.providers.validated_provider import ValidatedProvider
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from drawdown.worker.wallets.actions import set_rate

T0 = 1_767_225_600_000
"""2026-01-01T00:00:00Z, a window's start."""


class Cells:
    """Cells that acknowledge every halt, or fail as told."""

    def __init__(self) -> None:
        self.received: list[HaltRequest] = []
        self.failing: set[str] = set()

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        self.received += halts
        return ["down" if halt.cell_id in self.failing else None for halt in halts]


@dataclass
class Fleet:
    """One database under test."""

    engine: sa.Engine
    clock: FixedClock = field(default_factory=lambda: FixedClock(T0))
    cells: Cells = field(default_factory=Cells)
    extra: Mapping[str, Provider] = field(default_factory=dict)
    _samples: int = 0

    def __post_init__(self) -> None:
        self.write("INSERT INTO ledger_plans (plan, max_concurrent_sandboxes) VALUES ('free', 2)")
        _install_defaults(self.engine, self.by)

    @property
    def by(self) -> By:
        return By(self.clock.now_ms(), "test", "a test")

    @property
    def providers(self) -> dict[str, Provider]:
        """As production's registry gives them, but lookups of a customer do not wait for each other by the machine's
        clock."""
        for one in self.extra.values():
            if one.capabilities.lookups_per_s is not None:
                one.capabilities = replace(one.capabilities, lookups_per_s=None)
        found = {"embedded": EmbeddedProvider(self.engine, self.clock), **self.extra}
        return {name: ValidatedProvider(one) for name, one in found.items()}

    def write(self, text: str, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None) -> None:
        write(self.engine, lambda connection: connection.execute(sa.text(text), values))

    def rows(self, text: str, **values: object) -> list[tuple[object, ...]]:
        return read(self.engine, lambda c: [tuple(row) for row in c.execute(sa.text(text), values)])

    def one(self, text: str, **values: object) -> object:
        return self.rows(text, **values)[0][0]

    def assign(self, *orgs: str, provider: str = "embedded", from_ms: int | None = None) -> None:
        write(self.engine, lambda c: assign(c, orgs, provider, self.by, from_ms=from_ms))

    def rate(self, feature: str, micro: int, from_ms: int = 0) -> None:
        write(self.engine, lambda c: set_rate(c, feature, micro, 1, self.by, from_ms=from_ms))

    def sample(
        self,
        org: str,
        ts: int,
        interval_s: object = 60,
        memory_mb: object = 1024,
        *,
        sample_id: str | None = None,
        sandbox: str = "box",
        cell: str = "cell-1",
    ) -> str:
        """Insert one sample as another program would."""
        self._samples += 1
        name = sample_id or f"s{self._samples}"
        self.write(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, :org, :sandbox, :cell, :memory_mb, :interval_s, :ts, :now)",
            {
                "cell": cell,
                "id": name,
                "org": org,
                "sandbox": sandbox,
                "memory_mb": memory_mb,
                "interval_s": interval_s,
                "ts": ts,
                "now": max(ts, self.clock.now_ms()),
            },
        )
        return name

    def context(self, worker: str = "w1", **options: Any) -> Context:
        capabilities = {name: provider.capabilities for name, provider in self.providers.items()}
        return Context(worker, self.clock, capabilities, **options)

    def tick(self, at_ms: int | None = None, **options: Any) -> Report:
        if at_ms is not None:
            self.clock.at_ms = at_ms
        world = runner.World(self.engine, self.providers, self.cells, self.clock)
        return runner.run(tick(self.context(**options)), world)

    def tick_windows(self, count: int) -> Report:
        """Let `count` windows go by and tick once."""
        return self.tick(self.clock.at_ms + count * WINDOW_MS)

    def pushes(self) -> list[tuple[object, ...]]:
        return self.rows(
            "SELECT org_id, window_ms, feature, revision, sealed_qty, state FROM pushes ORDER BY 1, 2, 3, 4"
        )


_DEFAULTS: dict[int, list[tuple[str, Any]]] = {}
"""The statements that installed the defaults in the first empty SQLite database of this process, by time."""


def _install_defaults(engine: sa.Engine, by: By) -> None:
    """Install the defaults. Repeat the recorded statements if a database like this one had them before: deciding on
    them took most of the time."""
    if engine.dialect.name != "sqlite" or _has_history(engine):
        write(engine, lambda connection: install_defaults(connection, by))
    elif by.now_ms in _DEFAULTS:
        write(engine, lambda c: [_driver(c).execute(*statement).fetchall() for statement in _DEFAULTS[by.now_ms]])
    else:
        statements: list[tuple[str, Any]] = []

        def note(_c: object, _cursor: object, text: str, values: Any, _context: object, many: bool) -> None:
            if not text.startswith(("BEGIN", "SELECT")):
                assert not many
                statements.append((text, values))

        sa.event.listen(engine, "before_cursor_execute", note)
        write(engine, lambda connection: install_defaults(connection, by))
        sa.event.remove(engine, "before_cursor_execute", note)
        if statements:  # an engine with the simulation's short cut shows none
            _DEFAULTS[by.now_ms] = statements


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


def _has_history(engine: sa.Engine) -> bool:
    text = "SELECT (SELECT COUNT(*) FROM operator_actions) + (SELECT COUNT(*) FROM mappings)"
    return bool(read(engine, lambda c: c.exec_driver_sql(text).scalar_one()))


@dataclass
class Copied(Fleet):
    """A fleet whose database was filled before."""

    def __post_init__(self) -> None:
        self._samples = 1_000


def total(rows: Iterable[tuple[object, ...]]) -> int:
    """The sum of the sealed quantities of `Fleet.pushes`."""
    return sum(int(str(row[4])) for row in rows)
