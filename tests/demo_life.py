"""What a demo's month has to be, whenever it is made: what commands show beside raw rows, and what the story promises.

`python -m tests.demo_life 20` makes and judges months that end at 20 moments of several years.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from rich.console import Console

from drawdown.cli.demo.cast import CELLS, HOSTILE, MEMBERS
from drawdown.cli.demo.stage import feature_of
from drawdown.cli.demo.story import BURST, Calendar, live
from drawdown.cli.main import run
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read
from drawdown.schema.errors import Exit
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS, horizon, window_of
from drawdown.worker.verify.verify import verify

YEARS_MS = (1_640_995_200_000, 1_767_225_600_000)
"""2022 to 2025: commands take no moment that lies ahead."""
WALLETS = (*(member.org_id for member in MEMBERS if member.provider == "embedded"), "incubator")


class Month:
    """A month that was made: what commands say of it, and what its rows are."""

    def __init__(self, url: str, calendar: Calendar) -> None:
        self.url = url
        self.calendar = calendar
        self.engine = connect(url)

    def rows(self, text: str, **values: object) -> list[tuple[Any, ...]]:
        return read(self.engine, lambda c: [tuple(row) for row in c.execute(sa.text(text), values)])

    def one(self, text: str, **values: object) -> Any:
        return self.rows(text, **values)[0][0]

    def text(self, *command: str, options: Sequence[str] = ()) -> str:
        """What a command prints, at the month's last moment."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = run(["--database-url", self.url, "--at", str(self.calendar.now_ms), *options, *command])
        assert status in (0, 1, Exit.LEFT), (command, status)  # LEFT: the export of the month is not final yet
        return out.getvalue()

    def said(self, *command: str) -> Any:
        return json.loads(self.text(*command, options=["--json"]))

    def wrong(self, *, is_whole: bool = True) -> list[str]:
        """All that is not as it should be; of its last days alone, what holds of any."""
        looks = (_proof, _money, *((_usage, _credit, _halts, _incidents, _rules) if is_whole else ()))
        return [text for look in looks for text in look(self)]


def _proof(month: Month) -> Iterator[str]:
    for breach in read(month.engine, verify).breaches:
        yield f"verify: {breach}"


def _money(month: Month) -> Iterator[str]:
    """Each wallet as it is shown is the sum of its entries, and so is the export."""
    moved: Counter[str] = Counter()
    ends = {"from": str(month.calendar.start_ms), "to": str(month.calendar.now_ms + 1)}
    exported = month.text("export", "ledger", "--from", ends["from"], "--to", ends["to"], "--format", "jsonl")
    for entry in map(json.loads, exported.splitlines()):
        moved[entry["to_account"]] += entry["amount_micro"]
        moved[entry["from_account"]] -= entry["amount_micro"]
    for wallet in WALLETS:
        account = f"wallet:{wallet}"
        booked = month.one(
            "SELECT SUM(CASE WHEN to_account = :a THEN amount_micro ELSE -amount_micro END) FROM ledger_entries "
            "WHERE :a IN (from_account, to_account)",
            a=account,
        )
        shown = month.said("ledger", "show", wallet)["balance_micro"]
        if not shown == booked == moved[account]:
            yield f"{wallet}: {shown} is shown, {booked} booked, {moved[account]} exported"


def _usage(month: Month) -> Iterator[str]:
    """Usage as it is shown is what the samples say, and each second of a window that may be sealed was sealed."""
    until = horizon(month.calendar.now_ms)
    for member in MEMBERS:
        in_force = dict(
            month.rows(
                "SELECT CASE WHEN s.memory_mb > 16777216 THEN 'units' ELSE 's' END, SUM(s.interval_s) "
                "FROM usage_samples s WHERE s.org_id = :org AND s.ts < :until AND s.problem IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id) GROUP BY 1",
                org=member.org_id,
                until=until,
            )
        )
        begun = month.calendar.start_ms - 10 * DAY_MS
        found = month.said("usage", member.org_id, "--from", str(begun), "--to", str(until))
        if found["used"] != in_force:
            yield f"{member.org_id}: {found['used']} is shown, {in_force} are in samples"
        if member.provider and found["sealed"] != found["used"]:
            yield f"{member.org_id}: {found['used']} used, {found['sealed']} sealed"


def _credit(month: Month) -> Iterator[str]:
    """One runs out within a day, one is below zero, one has a charge that is asked about, one an ample wallet."""
    now = month.calendar.now_ms
    forecast = month.said("ledger", "show", "umbrella")["forecast"]
    if forecast["state"] != "ends" or not now < forecast["ends_ms"] < now + DAY_MS:
        yield f"umbrella does not run out within a day: {forecast}"
    if not month.said("ledger", "show", "vandelay")["balance_micro"] < -5 * MICRO:
        yield "vandelay is not below zero"
    for org in ("acme", "globex", "initech", HOSTILE):
        if not month.said("ledger", "show", org)["available_micro"] > 0:
            yield f"{org} has nothing left"
    charge = [
        row
        for row in csv.DictReader(io.StringIO(month.text("export", "ledger", "--org", "acme", "--from", "35d")))
        if row["moved"] == "-4.800000" and int(row["at_ms"]) == month.calendar.charged_ms
    ]
    if len(charge) != 1:
        yield f"{len(charge)} charges of 4.80 at 14:05"
    window = month.calendar.charged_ms - 2 * WINDOW_MS
    samples = month.rows(
        "SELECT interval_s FROM usage_samples WHERE org_id = 'acme' AND ts BETWEEN :w AND :w + 299999", w=window
    )
    if [row["key"] for row in charge] != [f"usage:acme:{window}:{feature_of(4096)}"] or samples != [(300,)] * BURST:
        yield "that charge is not of the forty sandboxes"
    topups = dict(month.rows("SELECT state, COUNT(*) FROM topups GROUP BY state"))
    if not (topups.get("credited", 0) >= 3 and topups.get("declined") == 3):
        yield f"top-ups: {topups}"


def _halts(month: Month) -> Iterator[str]:
    """Hooli is halted, and its cells were told; wonka was halted by hand and lifted."""
    told = month.said("org", "show", "hooli")
    if not month.one("SELECT is_halted FROM orgs WHERE org_id = 'hooli'"):
        yield "hooli is not halted"
    asked = {row["cell_id"] for row in told["halts"] if row["acked_at_ms"] is not None}
    if asked != set(CELLS):
        yield f"hooli's halt was told to {asked}"
    if month.one("SELECT COUNT(*) FROM sandboxes WHERE org_id = 'hooli' AND state = 'running'"):
        yield "hooli's sandboxes run on"
    actions = dict(month.rows("SELECT action, COUNT(*) FROM operator_actions GROUP BY action"))
    if (actions.get("org_halt"), actions.get("org_halt_lift")) != (1, 1):
        yield "no halt by hand was lifted"


def _incidents(month: Month) -> Iterator[str]:
    """Something waits at Stripe, is in doubt and rejected there; Autumn's outage is over, by lookups."""
    states = {(provider, state): n for provider, state, n in month.rows(
        "SELECT provider, state, COUNT(*) FROM pushes GROUP BY 1, 2")}  # fmt: skip
    for state in ("due", "in_doubt", "rejected"):
        if not states.get(("stripe", state)):
            yield f"nothing is {state} at Stripe"
    if {state for provider, state in states if provider == "autumn"} != {"accepted"}:
        yield "something is open at Autumn"
    outcomes = dict(month.rows("SELECT outcome, COUNT(*) FROM attempts GROUP BY outcome"))
    if not (outcomes.get("unknown") and outcomes.get("retry") and outcomes.get("rejected")):
        yield f"attempts came to {outcomes}"
    for action in ("push_resolve", "sample_withdraw", "backfill_close", "settlement_payout", "settlement_reverse"):
        if not month.one("SELECT COUNT(*) FROM operator_actions WHERE action = :a", a=action):
            yield f"nobody did {action}"
    if month.rows("SELECT DISTINCT org_id FROM pending_usage") != [("soylent",)]:
        yield "what waits is not soylent's alone"
    for table in ("settlement_freezes", "vendor_bills", "payouts"):
        if not month.one(f"SELECT COUNT(*) FROM {table}"):
            yield f"{table} is empty"
    if month.rows("SELECT state FROM backfills ORDER BY state") != [("closed",), ("open",)]:
        yield "the backfills are not one closed and one open"


def _rules(month: Month) -> Iterator[str]:
    """Limits refused something; overrides were asked for, approved, refused and made; runs ended in every way."""
    if not month.one("SELECT SUM(count) FROM guard_denials WHERE enforced"):
        yield "the guard refused nothing"
    overrides = [state for (state,) in month.rows("SELECT state FROM guard_overrides ORDER BY number")]
    if overrides != ["in_force", "refused", "in_force", "asked", "asked"]:
        yield f"overrides are {overrides}"
    runs = dict(month.rows("SELECT state, COUNT(*) FROM reservations GROUP BY state"))
    if set(runs) != {"held", "settled", "released", "expired"}:
        yield f"runs are {runs}"
    if (
        month.one("SELECT COUNT(*) FROM reservations WHERE state = 'held' AND expires_ms > :n", n=month.calendar.now_ms)
        < 3
    ):
        yield "fewer than three runs go on"


def main(count: int) -> None:
    """Make and judge months at many moments; ends with 1 where one is wrong."""
    os.environ["DRAWDOWN_LOG_LEVEL"] = "CRITICAL"  # of the commands that judge
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    chance, bad = random.Random(14), 0
    for _ in range(count):
        now = window_of(chance.randrange(*YEARS_MS))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            live(folder, folder / "demo.db", FixedClock(now), Console(), Console()).close()
            found = Month(f"sqlite:///{folder}/demo.db", Calendar(now)).wrong()
        bad += bool(found)
        print(now, found or "as it should be", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
