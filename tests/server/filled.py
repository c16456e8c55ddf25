"""A home with all that pages show, and that their examples name; every text that others choose is a hostile one."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.server.settings import MySettings, ServerSettings
from drawdown.worker.engine.runner import NoWitness
from tests.browser.sites import NOW, fill
from tests.server.console_home import URL, Home
from tests.world import T0, Copied, Fleet

TURNED: Final = "\u202eexe.\u2066<i>gpj\u200f"
"""It turns what follows it, where nobody escapes it."""
WRITTEN: Final = f"=1+1;{TURNED}\n+cmd|' /C calc'!A0 <script>alert(1)</script>"
"""What somebody gave as a reason; it has a second line."""


class Hostile(Fleet):
    """Whoever does anything in it has such a name, and such reasons."""

    @property
    def by(self) -> By:
        return By(self.clock.now_ms(), f"@{TURNED}", WRITTEN)


class Filled(Home):
    """`copied`: its database is that of another one."""

    def __init__(self, engine: sa.Engine, *, copied: bool = False) -> None:
        self.engine = engine
        self.fleet = Copied(engine, FixedClock(NOW)) if copied else Hostile(engine)
        if not copied:
            fill(self.fleet)
            self._turn()
            self.fleet.clock.at_ms = NOW
            write(engine, self._people)
        self.now = NOW
        own = MySettings(secrets=("0" * 32,), contact="billing@example.com")
        self.settings = ServerSettings(requests_per_s=1_000_000, console_url=URL, my=own)
        self.witness = NoWitness()
        self._servers = {}

    def _turn(self) -> None:
        """An organisation, and what it has, whose names turn the reading."""
        fleet, at = self.fleet, T0 + 8 * DAY_MS
        fleet.assign(TURNED, from_ms=T0)
        fleet.sample(TURNED, at, 60, sandbox=TURNED)
        fleet.sample(TURNED, at + WINDOW_MS, 60, sandbox=TURNED)
        fleet.sample(f"nobody{TURNED}", at, 60, sandbox=TURNED)
        fleet.tick(NOW)
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:name, :name, :name, 'running')",
            {"name": TURNED},
        )
        fleet.write(
            "UPDATE pushes SET state = 'in_doubt' WHERE org_id = :org AND state = 'due' AND window_ms >= :at",
            {"org": TURNED, "at": at + WINDOW_MS},
        )
        fleet.write("UPDATE orgs SET halt_reason = :said WHERE is_halted", {"said": WRITTEN})
        fleet.write("UPDATE pushes SET last_error = :said WHERE state IN ('in_doubt', 'rejected')", {"said": WRITTEN})
