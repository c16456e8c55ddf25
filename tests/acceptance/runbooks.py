"""Runbooks as they are read by the tests, and a home to run their commands in: a database, two services and a cell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drawdown.schema.clock import FixedClock
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import GRACE_MS, WINDOW_MS
from tests.acceptance.commands import PROJECT, Ended, drawdown
from tests.acceptance.tables import rows
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.cell import CellEmulator
from tests.emulators.stripe import StripeEmulator

RUNBOOKS = PROJECT / "ops" / "runbooks"


@dataclass(frozen=True)
class Step:
    """One command of a runbook, under a heading, with the exit status it should end with."""

    heading: str
    line: str
    status: int
    until_0: bool
    says: tuple[str, ...]
    """What it prints, where a person has to decide by it."""


def steps(name: str) -> list[Step]:
    """The commands of a runbook, as they stand there."""
    found, heading, fenced = [], "", False
    for line in (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = line == "```console"
        elif line.startswith("#") and not fenced:
            heading = line.lstrip("# ")
        elif fenced:
            assert line.startswith("$ drawdown "), line
            command, _, comment = line[2:].partition(" #")
            status = re.search(r"exit status (\d+)", comment)
            says = tuple(re.findall(r'"([^"]*)"', comment))
            found.append(Step(heading, command.strip(), int(status[1]) if status else 0, "until 0" in comment, says))
    return found


def filled(text: str, values: Mapping[str, str]) -> str:
    """With its placeholders filled in, as far as they have a value."""
    return re.sub(r"\b[A-Z][A-Z_]{2,}\b", lambda word: values.get(word[0], word[0]), text)


@dataclass
class Home:
    """A database, two services and a cell, on one clock; what was used, in seconds, by organisation."""

    url: str
    folder: Path
    clock: FixedClock
    env: dict[str, str]
    autumn: AutumnEmulator
    stripe: StripeEmulator
    cell: CellEmulator
    used: dict[str, int] = field(default_factory=dict)
    samples: int = 0

    def run(self, *arguments: str, status: int | None = 0) -> Ended:
        found = drawdown(self.url, *arguments, at=show_time(self.clock.at_ms), env=self.env)
        assert status is None or found.status == status, (arguments, found)
        assert "Traceback" not in found.err
        return found

    def follow(self, name: str, heading: str, values: Mapping[str, str], *, wait_ms: int = WINDOW_MS) -> str:
        """Run what stands under a heading, with its placeholders filled in; returns all that was printed."""
        mine = [step for step in steps(name) if step.heading.startswith(heading)]
        assert mine, f"{name} has no commands under {heading!r}"
        said = ""
        for step in mine:
            arguments = shlex.split(filled(step.line, values))[1:]
            done = self.run(*arguments, status=None)
            for _ in range(40 if step.until_0 else 0):
                if done.status == 0:
                    break
                assert done.status == 75, done
                self.clock.at_ms += wait_ms
                done = self.run(*arguments, status=None)
            assert done.status == step.status, (step, done)
            printed = " ".join((done.out + done.err).split())
            assert all(filled(text, values) in printed for text in step.says), (step, printed)
            said += done.out
        return said

    def use(self, org: str, seconds: int, *, memory_mb: int = 4096, ts: int | None = None, billed: bool = True) -> str:
        """One sample, imported as a person would."""
        self.samples += 1
        moment = self.clock.at_ms - WINDOW_MS if ts is None else ts
        file = self.folder / f"samples-{self.samples}.csv"
        head = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts"
        row = f"s-{self.samples},{org},box,cell-1,{memory_mb},{seconds},{show_time(moment)}"
        file.write_text(f"{head}\n{row}\n", encoding="utf-8")
        self.run("import", str(file))
        if billed:
            self.used[org] = self.used.get(org, 0) + seconds
        return f"s-{self.samples}"

    def tick(self, status: int = 0, later_ms: int = 2 * WINDOW_MS + GRACE_MS) -> None:
        self.clock.at_ms += later_ms
        self.run("tick", status=status)

    def at_autumn(self) -> int:
        return int(sum(self.autumn.charged_by().values()))

    def clean(self) -> None:
        """Nothing is open, and what was used is sealed, all of it once."""
        self.run("verify")
        assert rows(self.url, "SELECT key FROM pushes WHERE state IN ('due', 'queued', 'in_doubt', 'rejected')") == []
        sealed = "SELECT org_id, SUM(sealed_qty) FROM pushes WHERE state <> 'voided' GROUP BY 1 ORDER BY 1"
        assert rows(self.url, sealed) == sorted(self.used.items())
