"""Whoever makes or wakes sandboxes asks the gate, alone or many at once.

Guarantee: an answer is judged by the row that the request itself read last, in time, and each ask of a provider by when
the one before it was; what the gate may do in doubt is the settings' word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from drawdown.schema.units import SECOND_MS
from drawdown.server.http.errors import ApiError
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.oracle import EXEMPT
from tests.simulation.server import Died, Server
from tests.simulation.world import World

ASK_EVERY_MS: Final = 10 * SECOND_MS
READ_WITHIN_MS: Final = 2 * SECOND_MS
NOBODY: Final = "nobody"
_ROW: Final = (
    "SELECT is_halted, max_concurrent_sandboxes, projection_read_ms IS NULL AND override_halted IS NULL, "
    "billing_provider FROM orgs WHERE org_id = :org"
)


@dataclass
class Question:
    """One question, and what its answer has to be."""

    world: World
    server: Server
    org: str
    name: str = "gate"

    def __post_init__(self) -> None:
        self.began_ms = self.world.time.now
        self.row: Any = None
        self.read: Any = None
        self.failed = False
        self.answer: Any = None

    def saw(self, error: Exception | None) -> None:
        """It read the row as it stands, or could not read it."""
        self.failed |= error is not None
        if error is None:
            self.read = next(iter(self.world.rows(_ROW, org=self.org)), None)

    def learned(self) -> None:
        """It was told the row, or of the failure, which leaves the row before."""
        self.row = self.read

    def begins(self) -> None:
        """It has no transaction whose past matters."""

    def changed(self, world: World, asks_before: int, asks_after: int) -> None:
        """A transaction of its own ended: whether it had the provider asked."""
        if asks_after == asks_before:
            return
        world.faults.note("gate_asks")
        before = world.gate_asks.get(self.org)
        if before is not None and world.time.now - before < ASK_EVERY_MS:
            world.breaches.append(f"gate: {self.org} was asked about {world.time.now - before} ms after the ask before")
        world.gate_asks[self.org] = world.time.now

    def ended(self, answer: Any, error: BaseException | None) -> None:
        world, settings = self.world, self.server.settings
        self.answer = answer
        world.say("server", f"gate: {self.org} -> {error!r}" if error else f"gate: {self.org} -> {answer}")
        if isinstance(error, Died):
            return
        if error is not None:
            unknown = isinstance(error, ApiError) and error.status == 404 and settings.gate_unknown_org == "not_found"
            if not unknown or self.row is not None:
                world.breaches.append(f"gate: {self.org} was answered {error!r}; its row is {self.row}")
            return
        in_doubt = answer["reason"] == "database_unreadable"
        late = world.time.now - self.began_ms >= READ_WITHIN_MS
        if in_doubt and not (self.failed or late):
            world.breaches.append(f"gate: {self.org} was in doubt, and nothing had failed")
        world.faults.counts["gate_in_doubt"] += in_doubt
        want = settings.gate_open_when_in_doubt if in_doubt else self._wanted()
        if answer["allowed"] != want:
            world.breaches.append(f"gate: {self.org} was answered {answer}; its row is {self.row}")

    def _wanted(self) -> bool:
        """By the row alone."""
        settings = self.server.settings
        if self.row is None:
            return settings.gate_unknown_org == "allow"
        halted, most, unknown, biller = self.row
        if halted or most == 0:
            return False
        return settings.gate_open_when_in_doubt if unknown and biller not in EXEMPT else True


def ask(world: World, server: Server, org: str) -> Question:
    """One question."""
    question = Question(world, server, org)
    world.process_clock.at_ms = world.time.now
    server.take(question, lambda process: process.gate.answer(org))
    return question


def ask_gate(world: World) -> str | None:
    """A sandbox is to be made or woken; sometimes many at once."""
    up = [one for one in world.servers if one.up(world.time.now)]
    if not up:
        return None
    halted = [org for (org,) in world.rows("SELECT org_id FROM orgs WHERE is_halted ORDER BY org_id")]
    org = world.rng.choice((*ORGS, *STRANGERS, NOBODY))
    if halted and world.rng.random() < 0.5:
        org = world.rng.choice(halted)
    if world.gate_asks and world.rng.random() < 0.4:  # who was refused tries again at once
        org = max(world.gate_asks, key=lambda one: world.gate_asks[one])
    times = world.rng.choice((1, 1, 1, 2, 5))
    world.faults.note("gate_many" if times > 1 else "gate")
    for _ in range(times):
        ask(world, world.rng.choice(up), org)
    return f"asks the gate about {org} {times} times"
