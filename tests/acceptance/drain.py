"""A trace drained by real processes through an emulated provider, with one clock for all of them.

Guarantee: the emulator is served from the process that judges, so it outlives every worker; the clock is a file that
all of them map, so a jump is a jump for everybody. A worker speaks through its own settings and registry as the command
line does, but for the provider's rates: seconds of this clock are not the machine's. It reads commands on stdin, a line
each, and answers with a line of JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from drawdown.cli import settings
from drawdown.cli.app import App
from drawdown.cli.startup import set_up_logs
from drawdown.providers.protocol import ReadFailed
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused
from drawdown.worker.engine import runner
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.reconcile.reconcile import ReconcileScope, reconcile
from drawdown.worker.tick import tick
from drawdown.worker.verify.verify import verify
from tests import fork_server
from tests.acceptance.commands import PROJECT, environment
from tests.whole import share

LEASE_MS = 120_000
IDLE_S = 0.1
"""Between two ticks of a worker."""
UNPACED = "from drawdown.worker.engine import fair_queue; fair_queue.PACED_MS = 0"
"""A customer who was refused waits for a later tick: within a tick it would wait by the machine's clock."""
STUCK_S, END_S = 5.0, 240.0
"""How long a siege waits for calls, and for its end."""


class SharedClock:
    """One clock of several processes. Only one of them jumps at a time."""

    trusted = True

    def __init__(self, path: Path, start_ms: int | None = None) -> None:
        if start_ms is not None:
            path.write_bytes(struct.pack("<q", start_ms - self._ran_ms()))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def now_ms(self) -> int:
        (base,) = struct.unpack_from("<q", self._map)
        return int(base) + self._ran_ms()

    def jump(self, ms: int) -> None:
        (base,) = struct.unpack_from("<q", self._map)
        struct.pack_into("<q", self._map, 0, base + ms)

    @staticmethod
    def _ran_ms() -> int:
        return time.monotonic_ns() // 1_000_000


# In the process that is told


class Worker:
    """What a process does when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.clock = SharedClock(folder / "clock")
        self.provider = (folder / "provider").read_text()
        self.stop = folder / "stop"
        found = settings.load()
        set_up_logs(found.log_level)
        self.state = App(found, self.clock, json=True)
        for one in self.state.registry.providers.values():
            one.capabilities = replace(one.capabilities, calls_per_s=None, reads_per_s=None, lookups_per_s=None)

    @property
    def by(self) -> By:
        return By(self.clock.now_ms(), "operator", "the drain")

    def drain(self) -> dict[str, Any]:
        """Ticks, on and on, until the file `stop` is there."""
        ticks = 0
        while not self.stop.exists():
            self.tick()
            ticks += 1
            time.sleep(IDLE_S)
        return {"ticks": ticks}

    def tick(self) -> dict[str, Any]:
        report = runner.run(tick(self.state.context()), self.state.world())
        return {**asdict(report), "exit_status": report.exit_status}

    def retry(self) -> dict[str, Any]:
        """`push retry` of whatever is rejected, one by one: what may still arrive waits."""
        keys = self.state.read(
            lambda c: list(c.execute(sa.text("SELECT key FROM pushes WHERE state = 'rejected'")).scalars())
        )
        waits = 0
        for key in keys:
            try:
                self.state.write(lambda c, key=key: pushes.retry(c, [key], self.by))  # type: ignore[misc]
            except Refused:
                waits += 1
        return {"retried": len(keys) - waits, "waits": waits}

    def decide(self, key: str, charged: bool) -> dict[str, Any]:
        """`push resolve`, by whoever compared the customer's balance."""
        work = pushes.resolve_accepted if charged else pushes.void
        try:
            self.state.write(lambda c: work(c, keys=[key], by=self.by, evidence="their balance says so"))
        except Refused:
            return {"waits": True}
        return {"waits": False}

    def reconcile(self) -> dict[str, Any]:
        scope = ReconcileScope(provider=self.provider, correct=True)
        found = runner.run(reconcile(self.state.context(), scope, self.by), self.state.world())
        return {**asdict(found), "exit_status": found.exit_status}

    def verify(self) -> list[str]:
        """The breaches that are found."""
        return [str(one) for one in self.state.read(verify).breaches]

    def notice(self, headers: Mapping[str, str], body: str) -> dict[str, Any]:
        """A webhook, as a server would take it; `again` where it is to be delivered once more."""
        provider, now = self.state.registry.providers[self.provider], self.clock.now_ms()
        said = runner.ask(lambda: provider.notices(headers, body.encode(), now), self.state.world())
        if isinstance(said, ReadFailed):
            return {"again": True}
        return {"again": False, "done": self.state.write(lambda c: apply_notices(c, self.provider, said, now))}


def main() -> None:
    if (bug := os.environ.get("CRASH_PLANTED", "")) != "":
        from tests.crash.planted import PLANTED

        PLANTED[bug]()
    worker = Worker(Path(sys.argv[1]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *given = json.loads(line)
        sys.stdout.write(json.dumps(getattr(worker, command)(*given), default=str) + "\n")  # one write: a long line
        sys.stdout.flush()


# In the process that judges


@dataclass
class Process:
    """A worker of its own process."""

    url: str
    folder: Path
    env: Mapping[str, str]
    child: fork_server.Started = field(init=False)

    def __post_init__(self) -> None:
        env = environment(self.url, self.env)
        with (self.folder / "workers.err").open("ab") as err:
            self.child = fork_server.Started(
                [str(self.folder)], env=env, cwd=PROJECT, err=err, module=__name__, before=share(UNPACED, whole="")
            )

    def ready(self) -> Process:
        assert self.answer() == "ready"
        return self

    def tell(self, *command: object) -> None:
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()

    def answer(self) -> Any:
        line = self.child.stdout.readline()
        assert line, (self.folder / "workers.err").read_text()[-3000:]
        return json.loads(line)

    def do(self, *command: object) -> Any:
        self.tell(*command)
        return self.answer()

    def kill(self) -> None:
        self.child.kill()
        assert self.child.wait() == -signal.SIGKILL
        self.close()

    def end(self) -> None:
        """However it stands."""
        self.child.kill()
        self.child.wait()
        self.close()

    def close(self) -> None:
        for stream in (self.child.stdin, self.child.stdout):
            with suppress(BrokenPipeError):  # what it was told last
                stream.close()


@dataclass
class Siege:
    """Two workers that tick on and on; one of them or both are killed whenever so many more calls were made."""

    url: str
    folder: Path
    clock: SharedClock
    env: Mapping[str, str]
    dice: random.Random
    calls: Callable[[], int]
    """How many calls that bill the service has taken so far."""
    power_cut: bool = False
    """Always both at once: whichever is sending is among them."""
    kills: int = 0
    workers: list[Process] = field(default_factory=list)

    def new(self) -> Process:
        return Process(self.url, self.folder, self.env)

    def run(self, after: Sequence[int], done: Callable[[], bool], between: Callable[[], None]) -> None:
        """Kill once that many calls were made, each time; then go on in peace until all is done."""
        (self.folder / "stop").unlink(missing_ok=True)
        self.workers = [self.new(), self.new()]
        try:
            for one in self.workers:
                one.ready().tell("drain")
            for calls in after:
                self._wait(lambda calls=calls: self.calls() >= calls, STUCK_S)  # type: ignore[misc]
                self._kill()
                between()
            self._wait(done, END_S)
            assert done(), "the siege does not end"
            (self.folder / "stop").touch()
            for one in self.workers:
                one.answer()
        finally:
            for one in self.workers:
                one.end()

    @staticmethod
    def _wait(until: Callable[[], bool], most_s: float) -> None:
        end = time.monotonic() + most_s
        while not until() and time.monotonic() < end:
            time.sleep(0.01)

    def _kill(self) -> None:
        """One worker or, as a power cut would, both. Their leases end soon after."""
        hit = [0, 1] if self.power_cut else self.dice.choice(([0], [1], [0, 1]))
        for at in hit:
            self.workers[at].kill()
            self.kills += 1
        self.clock.jump(LEASE_MS)
        for at in hit:
            self.workers[at] = self.new()
        for at in hit:
            self.workers[at].ready().tell("drain")


def insert_samples(engine: sa.Engine, rows: Sequence[tuple[int, str, int, int]]) -> None:
    """Requests of the trace as samples: (line, organisation, time, seconds)."""
    text = sa.text(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:id, :org, :org, 'cell-1', 1024, :seconds, :ts, :ts)"
    )
    with engine.begin() as connection:
        connection.execute(
            text, [{"id": f"line-{line}", "org": org, "ts": ts, "seconds": s} for line, org, ts, s in rows]
        )
