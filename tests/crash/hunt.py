"""Kills processes of a siege, at steps that are named and at any moment.

Guarantee: `no_kill` leaves out the kill and nothing else; whatever is waited for has a limit, so that a process that
hangs makes the siege fail.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.crash.nursery import Child, Nursery
from tests.crash.toll import Toll, ends

ORDER_WAIT_S, WAIT_S, END_WAIT_S = 4.0, 90.0, 900.0
RANDOM_S = 0.25


class Hunt:
    """The processes of one siege, by role, and what was done to them."""

    def __init__(self, nursery: Nursery, dice: random.Random, *, no_kill: bool) -> None:
        self.nursery, self.folder, self.dice, self.no_kill = nursery, nursery.folder, dice, no_kill
        self.toll = Toll()
        self.running: dict[str, Child] = {}

    def start(self, *roles: str) -> None:
        for role in roles:
            self.running[role] = self.nursery.start(role)

    def watch(self) -> None:
        """Errors: AssertionError where one of them has ended by itself."""
        for child in self.running.values():
            assert child.poll() is None, f"{child.role} ended by itself with {child.status}: {self.said(child)}"

    def kill_by_order(self, kind: str, at: str, most_s: float = ORDER_WAIT_S) -> bool:
        """Have the first process that comes to a named step end there; False where none does in time."""
        child = self.order(kind, f"{'pass' if self.no_kill else 'kill'} {at}", most_s)
        if child is None:
            return False
        if not self.no_kill:
            wait(lambda: child.poll() is not None, f"{child.role} to die")
            self._killed(child, ordered=True)
        return True

    def kill_at_random(self) -> None:
        """Any process at any moment, once it has come to work."""
        child = self.dice.choice(list(self.running.values()))
        wait(child.log.exists, f"{child.role} to begin")
        time.sleep(self.dice.uniform(0, RANDOM_S))
        self.kill(child)

    def kill(self, child: Child) -> None:
        """At once, and start another in its place."""
        if not self.no_kill:
            child.kill()
            self._killed(child, ordered=False)

    def order(self, kind: str, text: str, most_s: float = ORDER_WAIT_S) -> Child | None:
        """Whoever takes an order; None where nobody does in time."""
        order = self.folder / f"order.{kind}"
        new = order.with_suffix(".new")
        new.write_text(text)
        new.rename(order)
        until = time.monotonic() + most_s
        while time.monotonic() < until and order.exists():
            time.sleep(0.005)
        order.unlink(missing_ok=True)
        return next((one for one in self.running.values() if taken(one).exists()), None)

    def end(self, roles: Iterable[str]) -> None:
        """Wait until they have ended, in peace."""
        for role in roles:
            child = self.running[role]
            wait(lambda child=child: child.poll() is not None, f"{role} to end", END_WAIT_S)  # type: ignore[misc]
            assert child.poll() == 0, f"{role} ended with {child.status}: {self.said(child)}"
            self.toll.ends.update(ends(child))

    def said(self, child: Child) -> str:
        last = child.log.read_text()[-300:] if child.log.exists() else "no log"
        return f"{self.nursery.said(child.role)[-2000:]}\n{self.nursery.answered(child.role)[-500:]}\n{last}"

    def _killed(self, child: Child, *, ordered: bool) -> None:
        status = child.poll()
        assert status == -signal.SIGKILL, f"{child.role} ended by itself with {status}: {self.said(child)}"
        self.toll.killed(child, ordered=ordered)
        self.toll.ends.update(ends(child))
        self.start(child.role)


def taken(child: Child) -> Path:
    """An order that a process took, see `Observer`."""
    return child.log.with_suffix(".order")


def wait(until: Callable[[], bool], what: str, most_s: float = WAIT_S) -> None:
    """Errors: AssertionError where it does not come about."""
    end = time.monotonic() + most_s
    while not until():
        assert time.monotonic() < end, f"waited {most_s:.0f} s for {what}"
        time.sleep(0.005)
