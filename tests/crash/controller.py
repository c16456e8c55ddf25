"""The siege: an importer and two tick workers at work, and a controller that kills them one after another.

Guarantee of the count: a kill counts as `inside` only if its process was alive, ended by SIGKILL, and its own log,
written before and after each step, breaks off in the middle of one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.commands import environment
from tests.crash.data import FROM_MS, Usage
from tests.crash.observer import open_steps

ROLES = ("importer", "ticker-a", "ticker-b")
ORDERS = {
    "import": [f"{when} chunk" for when in ("begin", "inside", "end")],
    "tick": [
        *(f"{when} {step}" for when in ("begin", "inside", "end") for step in (
            "begin_tick", "seal", "sweep", "claim", "charge", "settle", "projections_due", "project", "claim_halts",
            "end_tick",
        )),
        *(f"{when} {step}" for when in ("begin", "end") for step in ("push", "read")),
    ],
}  # fmt: skip
ORDER_WAIT_S = 15.0
END_WAIT_S = 240.0


@dataclass
class Toll:
    """What the controller did."""

    kills: int = 0
    inside: int = 0
    """Kills that hit a process in the middle of a step: begun, not ended."""
    ordered: int = 0
    """Kills at a named step; the others came at random moments."""
    steps: Counter[str] = field(default_factory=Counter)
    """In the middle of what."""
    starts: int = 0


class Controller:
    """Runs one siege in a folder, against one database."""

    def __init__(self, folder: Path, url: str, usage: Usage, dice: random.Random) -> None:
        self.folder, self.url, self.usage, self.dice = folder, url, usage, dice
        self.toll = Toll()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        usage.write(folder)
        self._began_ms = time.time_ns() // 1_000_000
        self._release(0)

    def besiege(self, kills: int) -> Toll:
        """Kill `kills` times while the data comes in, then let everything end in peace."""
        try:
            for role in ROLES:
                self._start(role)
            for number in range(kills):
                self._release(1 + (number + 1) * (len(self.usage.parts) - 1) // (kills + 1))
                self._kill_one(ordered=number % 2 == 0)
            self._release(len(self.usage.parts))
            self._end("importer")
            (self.folder / "stop").touch()
            for role in ROLES[1:]:
                self._end(role)
        finally:
            for process in self._running.values():
                process.kill()
                process.wait()
        return self.toll

    def _release(self, parts: int) -> None:
        """Let the importer have the parts before this one, and time go on to where they end."""
        state = {
            "parts": len(self.usage.parts),
            "released": parts,
            "now_ms": self.usage.released_ms[max(parts, 1) - 1],
            "began_ms": self._began_ms,
            "from_ms": FROM_MS,
        }
        new = self.folder / "state.new"
        new.write_text(json.dumps(state))
        new.rename(self.folder / "state.json")

    def _start(self, role: str) -> None:
        command = [sys.executable, "-m", "tests.crash.process", role, str(self.folder)]
        with (self.folder / f"{role}.err").open("ab") as err:
            self._running[role] = subprocess.Popen(
                command, env=environment(self.url), stdout=subprocess.DEVNULL, stderr=err
            )
        self.toll.starts += 1

    def _log(self, role: str) -> Path:
        return self.folder / f"{role}.{self._running[role].pid}.log"

    def _kill_one(self, *, ordered: bool) -> None:
        if ordered and (role := self._by_order()) is not None:
            self.toll.ordered += 1
        else:
            role = self._at_random()
        process = self._running[role]
        assert process.wait() == -signal.SIGKILL, (
            f"{role} ended by itself with {process.returncode}: {self._said(role)}"
        )
        self.toll.kills += 1
        steps = open_steps(self._log(role))
        if steps:
            self.toll.inside += 1
            self.toll.steps[" in ".join(reversed(steps))] += 1
        self._start(role)

    def _by_order(self) -> str | None:
        """Have the first process that comes to a named step end there; None where none does in time."""
        kind = self.dice.choice(("import", "tick", "tick"))
        if kind == "import" and self._running["importer"].poll() is not None:
            kind = "tick"
        order = self.folder / f"order.{kind}"
        new = order.with_suffix(".new")
        new.write_text(self.dice.choice(ORDERS[kind]))
        new.rename(order)
        until = time.monotonic() + ORDER_WAIT_S
        while time.monotonic() < until:
            for role, process in self._running.items():
                if process.poll() == -signal.SIGKILL:
                    return role
            time.sleep(0.01)
        order.unlink(missing_ok=True)
        return next((role for role, one in self._running.items() if one.poll() == -signal.SIGKILL), None)

    def _at_random(self) -> str:
        """Kill any process at any moment, once it has come to work."""
        role = self.dice.choice([role for role, one in self._running.items() if one.poll() is None])
        log, until = self._log(role), time.monotonic() + END_WAIT_S
        while not log.exists() and self._running[role].poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(self.dice.uniform(0, 0.4))
        os.kill(self._running[role].pid, signal.SIGKILL)
        return role

    def _end(self, role: str) -> None:
        status = self._running[role].wait(timeout=END_WAIT_S)
        assert status == 0, f"{role} ended with {status}: {self._said(role)}"

    def _said(self, role: str) -> str:
        log = self._log(role)
        last = log.read_text()[-300:] if log.exists() else "no log"
        return f"{(self.folder / f'{role}.err').read_text()[-2000:]}\n{last}"
