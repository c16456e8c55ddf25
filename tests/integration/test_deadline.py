"""A tick's deadline holds for each part of it, whatever hangs: a push, a lookup, a balance, totals, a state, a cell."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from drawdown.cli import scheduler
from drawdown.cli.app import App
from drawdown.cli.processes import Stopping
from drawdown.cli.settings import Settings
from drawdown.providers.protocol import CustomerRead, Drawn, LookupResult, Outcome, PushRequest, ReadFailed, Unknown
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import HaltRequest, Steps
from drawdown.worker.engine.shard import Shard
from drawdown.worker.status.ticks import Report
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Cells, Fleet

HANGS_S = 120.0
"""As long as the test would take if nothing gave it up: then it fails."""
DEADLINE_MS = MINUTE_MS
hung: dict[str, float] = {}
"""What hangs, and since when."""


class Fast:
    """A clock by which the deadline's minute is a second, and that stands still until something hangs: what comes
    before may take as long as the machine likes."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms, self.trusted = at_ms, True

    def now_ms(self) -> int:
        return self.at_ms + int((time.monotonic() - min(hung.values())) * DEADLINE_MS if hung else 0)


async def hang(part: str) -> None:
    hung.setdefault(part, time.monotonic())
    await asyncio.sleep(HANGS_S)
    raise AssertionError("nothing gave it up")


class Hangs(FakeProvider):
    part = ""

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        if self.part == "push":
            await hang(self.part)
        return await super().push(batch)

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        if self.part == "customers":
            await hang(self.part)
        return await super().customers(customer_ids)

    async def lookup(self, request: PushRequest) -> LookupResult:
        if self.part == "lookup":
            await hang(self.part)
        return await super().lookup(request)

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        if self.part == "drawn":
            await hang(self.part)
        return await super().drawn(customer_id)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int] | ReadFailed:
        if self.part == "totals":
            await hang(self.part)
        return await super().totals(customer_id, from_ms, to_ms)


class Silent(Cells):
    hangs = False

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        if self.hangs:
            await hang("cells")
        return await super().send(halts)


@pytest.mark.parametrize("part", ["push", "lookup", "drawn", "totals", "customers", "cells"])
def test_tick_gives_up_hanging_call_at_deadline(engine: sa.Engine, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.worker.engine.calls.LAST_ANSWERS_S", 0.1)
    asked: dict[str, object] = {"duplicate_proves_delivery": False, "lookup_lag_ms": 0, "key_retention_ms": DAY_MS}
    if part in ("drawn", "totals"):
        asked |= {"drawn": True, "totals_lag_ms": 0, "applied_within_ms": 0}
    provider, cells = Hangs(capabilities(batch_size=1, in_flight=8, **asked)), Silent()
    fleet = Fleet(engine, extra={"fake": provider}, cells=cells)
    fleet.assign("acme", "bolt", provider="fake")
    fleet.sample("acme", T0 + 1)
    if part == "totals":
        fleet.write("INSERT INTO losses VALUES (2, :t - 1, :t, :t, 1, '', 'somebody', '')", {"t": T0})
        provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    if part in ("lookup", "drawn", "totals"):
        key = f"usage:acme:{T0}:compute_1gb"
        provider.answers[key], provider.lookups[key] = Unknown("cut"), ReadFailed("not yet")
        fleet.tick_windows(2)  # which may look it up, and learns nothing
        del provider.lookups[key]
    if part == "cells":
        fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')")
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'bolt', 'cell-1', 'running')"
        )
        fleet.write("UPDATE orgs SET operator_halt = true, is_halted = true, halted_at = 1 WHERE org_id = 'bolt'")
    hung.clear()
    provider.part, cells.hangs = part, part == "cells"
    clock: Any = Fast(fleet.clock.at_ms + 2 * WINDOW_MS)
    fleet.clock = clock
    report = fleet.tick(deadline_ms=clock.now_ms() + DEADLINE_MS)
    took_ms = int(fleet.one("SELECT finished_ms - started_ms FROM ticks ORDER BY tick_id DESC LIMIT 1"))  # type: ignore[call-overload]
    assert list(hung) == [part]
    assert took_ms < HANGS_S / 2 * DEADLINE_MS, "it was given up"
    assert report.exit_status in (0, 75) and not [one for one in report.failures if "AssertionError" in one]


@pytest.mark.parametrize(("deadline_s", "ms"), [(None, 240_000), (30.0, 30_000)])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_run_tick_deadline_ends_before_next_tick(
    engine: sa.Engine, deadline_s: float | None, ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(Settings(database_url=engine.url.render_as_string(hide_password=False)), FixedClock(T0))
    seen: list[int | None] = []

    def kept(context: Context) -> Steps[Report]:
        seen.append(context.deadline_ms)
        raise Refused("only looked at")
        yield

    monkeypatch.setattr(scheduler, "tick", kept)
    stopping = Stopping()
    stopping._on_signal(signal.SIGTERM, None)
    scheduler.run(app, scheduler.Options(Shard(), None, False, 300, None, deadline_s), stopping)
    assert seen == [T0 + ms]


def test_clock_set_back_an_hour_delays_jobs_by_one_interval() -> None:
    """The scheduler planned the tick, the watch and the night by a clock that was an hour ahead."""
    ahead, night = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), dt.time(2, 17)
    plan = BackgroundScheduler(timezone="UTC")
    plan.start(paused=True)
    for name, seconds in (("tick", 300), ("watch", 5)):
        plan.add_job(print, IntervalTrigger(seconds=seconds, start_date=ahead), id=name)
    plan.add_job(print, scheduler.at_night(night), id="nightly", next_run_time=ahead + dt.timedelta(days=30))
    clock, stopping = FixedClock(T0), Stopping()

    def waited(_seconds: float | None = None) -> None:
        if clock.at_ms < T0:
            stopping.end()
        clock.at_ms = T0 - 60 * MINUTE_MS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopping, "wait", waited)
        scheduler.wait_until_stopped(plan, clock, stopping, T0)
    left = {job.id: job.next_run_time - dt.datetime.now(dt.UTC) for job in plan.get_jobs()}
    plan.shutdown(wait=False)
    assert left["tick"] <= dt.timedelta(seconds=300) and left["watch"] <= dt.timedelta(seconds=5)
    assert left["nightly"] <= dt.timedelta(days=1)
