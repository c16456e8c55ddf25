"""What a siege did, counted from what its processes wrote down.

Guarantee of the count: a kill counts as `inside` only if its process was alive, ended by SIGKILL, and its own log,
written before and after each step, breaks off in the middle of one. A strike at the server counts as `held` only if a
worker's own log says that it stood at a step, by which backend, while the server was struck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.crash.nursery import Child, Nursery
from tests.crash.observer import open_steps

SOUND = (0, 1, 75)


@dataclass
class Toll:
    """What the controller did."""

    kills: int = 0
    inside: int = 0
    """Kills that hit a process in the middle of a step: begun, not ended."""
    ordered: int = 0
    """Kills at a named step; the others came at random moments."""
    steps: Counter[str] = field(default_factory=Counter)
    """In the middle of what; where several were under way, the one begun last."""
    strikes: Counter[str] = field(default_factory=Counter)
    """What was done to the server, by kind."""
    held: Counter[str] = field(default_factory=Counter)
    """Where a worker stood while the server was struck."""
    struck_ends: Counter[int] = field(default_factory=Counter)
    """How the ticks and imports ended that stood there."""
    ends: Counter[int] = field(default_factory=Counter)
    """How all ticks and imports ended that ended."""
    starts: int = 0

    def killed(self, child: Child, *, ordered: bool) -> None:
        """Count a process that was ended by SIGKILL."""
        self.kills += 1
        self.ordered += ordered
        if steps := open_steps(child.log):
            self.inside += 1
            self.steps[steps[-1]] += 1

    def short_of(self, kills: int, strikes: int) -> str | None:
        """Why this siege shows less than was asked for; None where it does not."""
        if kills and not self.inside:
            return "no kill landed inside a step"
        if self.kills < kills:
            return f"{self.kills} of {kills} kills"
        done = sum(self.strikes.values())
        if done < strikes:
            return f"{done} of {strikes} strikes at the server"
        return None


def ends(child: Child) -> list[int]:
    """The statuses that a process's ticks or imports ended with, by its log."""
    found = child.log.read_text().splitlines() if child.log.exists() else []
    return [int(line.split()[1]) for line in found if line.startswith("status ")]


CLEAR: Final = ("drawdown: the database ", "drawdown: the connection was lost while the database committed, ")


def sound(nursery: Nursery, roles: Sequence[str]) -> None:
    """Errors: AssertionError where a process said anything but one clear line about its database each time."""
    for role in roles:
        for line in nursery.said(role).splitlines():
            assert line.startswith(CLEAR), f"{role}: {nursery.said(role)[:3000]}"
