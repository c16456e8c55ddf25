"""One siege, from an empty database to the proof that nothing was lost and nothing doubled."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.commands import must
from tests.acceptance.tables import billed_exactly, number
from tests.crash.controller import Controller, Plan
from tests.crash.data import FROM_MS, usage
from tests.crash.nursery import Nursery
from tests.crash.toll import Toll
from tests.postgres_server import Server
from tests.sqlite_databases import migrated

LATER_MS = 86_400_000
"""After the last sample: every window is closed, every dead worker's lease has ended."""


@dataclass(frozen=True)
class Outcome:
    """What a siege came to; it is only returned where every sum was exact."""

    toll: Toll
    samples: int
    pushes: int
    seconds: int
    sent_again: int
    """Pushes with more than one attempt: their first sender died, or its answer was lost."""
    took_s: float
    struck: Mapping[str, int] = field(default_factory=dict)
    """Faults of a service that were asked for."""


def siege(
    folder: Path,
    url: str,
    plan: Plan,
    *,
    seed: int,
    server: Server | None = None,
    parts: int | None = None,
    most: int | None = None,
    planted: str = "",
) -> Outcome:
    """Errors: AssertionError where anything is lost, doubled, left over or broken."""
    dice = random.Random(seed)
    made = usage(parts or plan.kills + 2 * plan.strikes + 6, dice, most=most)
    must(migrated(url), "init", at=str(made.released_ms[0]))
    began = time.monotonic()
    with closing(Nursery(folder, url, {"CRASH_PLANTED": planted})) as nursery:
        toll = Controller(nursery, made, dice, plan, server).besiege()
    took = time.monotonic() - began
    later = str(made.released_ms[-1] + LATER_MS)
    assign = ("--new-org-provider", "embedded", "--new-org-from", str(FROM_MS))
    must(url, "tick", *assign, at=later)  # one tick heals: the exit status says that nothing is left
    expected = made.sums()
    billed_exactly(url, expected)
    assert number(url, "SELECT COUNT(*) FROM usage_samples") == made.samples
    assert must(url, "verify", at=later)["breaches"] == []
    return Outcome(
        toll=toll,
        samples=made.samples,
        pushes=number(url, "SELECT COUNT(*) FROM pushes"),
        seconds=sum(expected.values()),
        sent_again=number(url, "SELECT COUNT(*) FROM pushes WHERE attempts > 1"),
        took_s=took,
    )
