"""The siege: an importer and two tick workers at work, and a controller that kills them, and the server, one by one.

Guarantee: while the server is struck, a worker stands in the middle of a step there; what it was doing has to end in an
exit status and one clear line, and the next of it goes on.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.crash.data import FROM_MS, Usage
from tests.crash.hunt import RANDOM_S, WAIT_S, Hunt, taken, wait
from tests.crash.nursery import Child, Nursery
from tests.crash.toll import SOUND, Toll, ends, sound
from tests.postgres_server import Server

ROLES = ("importer", "ticker-a", "ticker-b")
CHUNK = tuple(f"{when} chunk" for when in ("begin", "inside", "end"))
TICK = (
    *(f"{when} {step}" for when in ("begin", "inside", "end") for step in (
        "begin_tick", "seal", "sweep", "charge", "claim", "projections_due", "project", "due_halts",
        "end_tick",
    )),
    *(f"{when} read" for when in ("begin", "end")),
)  # fmt: skip
HELD = tuple(f"inside {step}" for step in ("begin_tick", "seal", "charge", "claim", "project", "end_tick"))
"""Where a worker stands with a transaction open, while its server is struck."""
KILLED, ONE_KILLED, STOPPED, CUT = (
    "postmaster killed", "one backend killed", "stopped immediately", "connection cut"
)  # fmt: skip
STRIKES = (KILLED, ONE_KILLED, STOPPED, CUT)
BY_ORDER, IMPORT_SHARE, STRUCK_IMPORT, POWER_CUTS = 0.6, 1 / 3, 0.2, 0.4


@dataclass(frozen=True)
class Plan:
    """What a siege does. `strikes` are kills of the server; as many connections are cut besides."""

    kills: int
    strikes: int = 0
    no_kill: bool = False
    at: Sequence[str] = ()
    """Steps of the tick to kill at; all of them, the import's, and random moments, where none is named."""

    def all_strikes(self, dice: random.Random) -> list[str]:
        """How the server is struck, one after another."""
        found = [(KILLED, ONE_KILLED, STOPPED)[number % 3] for number in range(self.strikes)] + [CUT] * self.strikes
        dice.shuffle(found)
        return found


class Controller(Hunt):
    """Runs one siege in a folder, against one database."""

    def __init__(
        self, nursery: Nursery, usage: Usage, dice: random.Random, plan: Plan, server: Server | None = None
    ) -> None:
        super().__init__(nursery, dice, no_kill=plan.no_kill)
        self.usage, self.plan, self.server = usage, plan, server
        usage.write(self.folder)
        self._began_ms = time.time_ns() // 1_000_000
        self._release(0)

    def besiege(self) -> Toll:
        """Do what is planned while the data comes in, then let everything end in peace."""
        self.start(*ROLES)
        strikes, kills = self.plan.all_strikes(self.dice), self.plan.kills
        total = len(strikes) + kills
        while left := len(strikes) + kills:
            self.watch()
            self._release(1 + (total - left + 1) * (len(self.usage.parts) - 1) // (total + 1))
            if self.dice.random() < len(strikes) / left:
                self._strike(strikes.pop())
            else:
                kills -= self._kill(kills)
        self._release(len(self.usage.parts))
        self.end(ROLES[:1])
        (self.folder / "stop").touch()
        self.end(ROLES[1:])
        sound(self.nursery, ROLES)
        self.toll.starts = self.nursery.starts
        return self.toll

    def _release(self, parts: int) -> None:
        """Let the importer have the parts before this one, and time go on to where they end."""
        self._released = parts
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

    def _importing(self) -> bool:
        """Whether the importer has something to do: it does one part after the other."""
        return not (self.folder / f"part{self._released - 1}.done").exists()

    def _kill(self, most: int) -> int:
        """One of them or, as a power cut would, one after another without a pause, all; how many."""
        if not ((most == 1 and self._kill_inside()) or self._kill_by_order()):
            self.kill_at_random()
        others = list(self.running.values())
        if self.no_kill or most <= len(others) or self.dice.random() >= POWER_CUTS:
            return 1
        # The one that replaced the first has hardly begun: as long as it has not, it is no worker yet.
        hit = [one for one in others if one.log.exists()]
        for one in hit:
            self.kill(one)
        return 1 + len(hit)

    def _kill_inside(self) -> bool:
        """Where no kill landed inside a step by chance, as of a few is to be expected, the last one is aimed: at a step
        that each tick comes to."""
        return not (self.toll.inside or self.plan.at) and self.kill_by_order("tick", HELD[0], WAIT_S)

    def _kill_by_order(self) -> bool:
        """Whether it was a named step's turn, and somebody came to it."""
        if self.plan.at:
            at = self.dice.choice(self.plan.at)
            assert self.kill_by_order("tick", at, WAIT_S), f"nobody came to {at}"
            return True
        if self.dice.random() >= BY_ORDER:
            return False
        if self._importing() and self.dice.random() < IMPORT_SHARE:
            return self.kill_by_order("import", self.dice.choice(CHUNK))
        return self.kill_by_order("tick", self.dice.choice(TICK))

    # Strikes at the server

    def _strike(self, kind: str) -> None:
        """Strike the server while a worker stands in the middle of a transaction; its work then ends in one line."""
        assert self.server is not None
        child, at, backend = self._hold()
        before, early = len(ends(child)), self.dice.random() < 0.5
        self._down(self.server, kind, backend)
        if early:
            taken(child).unlink()
        self._up(self.server, kind)
        taken(child).unlink(missing_ok=True)
        wait(lambda: len(ends(child)) > before or child.poll() is not None, f"{child.role} to end what it did")
        assert child.poll() is None, f"{child.role} ended with {child.status}: {self.said(child)}"
        status = ends(child)[before]
        assert status in SOUND, f"{child.role}: status {status}: {self.said(child)}"
        if not self.no_kill:
            self.toll.strikes[kind] += 1
            self.toll.held[at] += 1
            self.toll.struck_ends[status] += 1

    def _hold(self) -> tuple[Child, str, int]:
        """A worker that stands in the middle of a transaction, which, and by which backend."""
        kind, at = "tick", self.dice.choice(HELD)
        if self._importing() and self.dice.random() < STRUCK_IMPORT:
            kind, at = "import", "inside chunk"
        child = self.order(kind, f"hold {at}")
        if child is None:  # nobody came by; but each tick has an end
            at = "inside end_tick"
            child = self.order("tick", f"hold {at}", WAIT_S)
        assert child is not None, "no worker comes to the end of a tick"
        return child, at, self._backend(child, at)

    @staticmethod
    def _backend(child: Child, at: str) -> int:
        found: list[int] = []

        def said() -> bool:
            lines = child.log.read_text().splitlines()
            found[:] = [int(line.split()[-1]) for line in lines[-2:] if line.startswith(f"held {at} backend ")]
            return bool(found)

        wait(said, f"{child.role} to say where it stands")
        return found[0]

    def _down(self, server: Server, kind: str, backend: int) -> None:
        if self.no_kill:
            return
        if kind == KILLED:
            server.kill()
        elif kind == ONE_KILLED:
            server.kill_backend(backend)
        elif kind == STOPPED:
            server.stop()
        else:
            server.cut(backend)

    def _up(self, server: Server, kind: str) -> None:
        if not self.no_kill and kind in (KILLED, STOPPED):
            time.sleep(self.dice.uniform(0, RANDOM_S))  # the others meet a server that is not there
            server.start()
        else:
            server.wait()
