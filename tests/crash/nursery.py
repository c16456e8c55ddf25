"""Starts the siege's processes by forking one that has imported everything: a kill costs no start of Python.

Guarantee: a child is a process of its own, forked before any database was opened; it is reaped only when it was asked
for, so its pid names nobody else until then; and when the controller is gone, so are all of them.

    python -m tests.crash.nursery FOLDER WORK   reads commands on stdin, a line each, and answers with a line of JSON

WORK is the module whose `work(role, number, folder)` is a child's whole life; it returns the exit status. What its
`prepare(folder)` reads, where it has one, all children have.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.commands import PROJECT, environment

BROKE = 70
"""What a child ends with that was stopped by an exception of the siege's own code."""


@dataclass
class Child:
    """A process of the siege, as its controller sees it."""

    role: str
    number: int
    """Unlike a pid, it never comes round again."""
    pid: int
    nursery: Nursery
    status: int | None = None
    """As subprocess tells it: below zero, the signal that ended it."""

    @property
    def log(self) -> Path:
        """Where it leaves its marks."""
        return self.nursery.folder / f"{self.role}.{self.number}.log"

    def poll(self) -> int | None:
        if self.status is None:
            self.status = self.nursery.ask("poll", self.pid)
        return self.status

    def kill(self) -> int:
        """SIGKILL, whatever it does; returns what it ended with."""
        if self.status is None:
            self.status = int(self.nursery.ask("kill", self.pid))
        return self.status


@dataclass
class Nursery:
    """The controller's end."""

    folder: Path
    url: str
    env: Mapping[str, str] = field(default_factory=dict)
    starts: int = 0
    work: str = "tests.crash.process"

    def __post_init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery", str(self.folder), self.work],
            env=environment(self.url, self.env), cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, *command: object) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, role: str) -> Child:
        self.starts += 1
        return Child(role, self.starts, int(self.ask("start", role, self.starts)), self)

    def said(self, role: str) -> str:
        """What processes of a role wrote on stderr."""
        return self._written(role, "err")

    def answered(self, role: str) -> str:
        """What they wrote on stdout."""
        return self._written(role, "out")

    def _written(self, role: str, stream: str) -> str:
        file = self.folder / f"{role}.{stream}"
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        """Whatever still runs is killed."""
        self._process.communicate()


# In the nursery's own process


class _Births:
    def __init__(self, folder: Path, work: Callable[[str, int, Path], int]) -> None:
        self.folder, self.work = folder, work
        self.alive: set[int] = set()

    def start(self, role: str, number: int) -> int:
        pid = os.fork()
        if pid == 0:
            _live(self.work, role, number, self.folder)
        self.alive.add(pid)
        return pid

    def poll(self, pid: int, options: int = os.WNOHANG) -> int | None:
        found, status = os.waitpid(pid, options)
        if found == 0:
            return None
        self.alive.remove(pid)
        return os.waitstatus_to_exitcode(status)

    def kill(self, pid: int) -> int | None:
        os.kill(pid, signal.SIGKILL)
        return self.poll(pid, 0)


def _live(work: Callable[[str, int, Path], int], role: str, number: int, folder: Path) -> None:
    """The whole life of a child; never returns."""
    status = BROKE
    try:
        for name, stream, flags in (
            (os.devnull, 0, os.O_RDONLY),
            (str(folder / f"{role}.out"), 1, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            (str(folder / f"{role}.err"), 2, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ):
            opened = os.open(name, flags, 0o644)
            os.dup2(opened, stream)
            os.close(opened)
        status = work(role, number, folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    import psycopg  # noqa: F401 whatever a child would import first thing

    folder, module = Path(sys.argv[1]), importlib.import_module(sys.argv[2])
    if hasattr(module, "prepare"):
        module.prepare(folder)
        gc.freeze()
    births = _Births(folder, module.work)
    for line in sys.stdin:
        command, *given = json.loads(line)
        print(json.dumps(getattr(births, command)(*given)), flush=True)
    for pid in list(births.alive):
        births.kill(pid)


if __name__ == "__main__":
    main()
