"""A month of life: hosts' samples, acts and ticks, in the order of time.

Guarantee: the same moment and seed give the same month.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console

from drawdown.cli.demo.acts import perform
from drawdown.cli.demo.cast import CELLS, DAYS, MEMBER, samples_of
from drawdown.cli.demo.moments import Calendar
from drawdown.cli.demo.opening import open_business
from drawdown.cli.demo.services import PRICES_MICRO, DemoBilling, DemoCard, feature_of
from drawdown.cli.demo.stage import Stage, set_up
from drawdown.cli.demo.story import story
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.audit import By
from drawdown.schema.clock import Clock
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, MICRO, SECOND_MS, WINDOW_MS, window_of
from drawdown.worker.checks import proofs
from drawdown.worker.engine import runner
from drawdown.worker.sources.demo_host import Sandbox, SandboxSample
from drawdown.worker.tick import tick
from drawdown.worker.verify.verify import verify
from drawdown.worker.watch import Watcher, watch

BURST: Final = 40
"""Sandboxes of acme at once: five minutes of them, of 4 GB each, are 4.80 credits."""
LATE: Final = (("acme", 18, 3), ("cyberdyne", 23, 2), ("vandelay", 28, 4))
"""Whose host was cut off: told on this day, so many days late."""


def live(
    folder: Path,
    file: Path,
    behind: Clock,
    out: Console,
    err: Console,
    days: int = DAYS,
    told: Callable[[int, int, int], None] = lambda _day, _days, _at_ms: None,
) -> Stage:
    """Make a database with the month (or its last `days`) up to now; `behind` is the clock that goes on afterwards.
    `told` is called with each day, their number and the moment."""
    calendar = Calendar(window_of(behind.now_ms()), days)
    stage = set_up(folder, file, behind, out, err)
    try:
        stage.clock.turn(calendar.start_ms)
        stage.hurry()
        hire(stage, calendar)
        upgrade(stage.app.engine)
        by = By(calendar.start_ms, "the demo", "a month of life, made up", "cli")
        stage.app.write(lambda connection: open_business(stage, connection, by))
        turn(stage, calendar, told)
        prove(stage)
    except BaseException:
        stage.close()
        raise
    stage.go_on()
    return stage


def prove(stage: Stage) -> None:
    """As a nightly `drawdown verify` does, so that the page of proofs says when all last held."""
    by = By(stage.clock.now_ms(), "the demo", "nightly", "cli")
    found = stage.app.read(verify)
    stage.app.write(lambda connection: proofs.keep(connection, found, by, took_ms=0, orgs=None, doubted=None))


def hire(stage: Stage, calendar: Calendar) -> None:
    """The demo's services, in the place of real ones."""
    prices = {feature_of(size): price for size, price in PRICES_MICRO.items()}
    paid = {"cyberdyne": 900 * MICRO, "tyrell": 140 * MICRO}
    real = stage.app.real_providers()
    outages = calendar.outages()
    stage.app.billing = {
        "autumn": DemoBilling(real["autumn"], stage.clock, outages["autumn"], paid, prices),
        "stripe": DemoBilling(real["stripe"], stage.clock, outages["stripe"]),
    }
    stage.app.card = DemoCard(stage.app.real_card(), stage.clock, silent=frozenset({"topup:globex:2"}))


def turn(stage: Stage, calendar: Calendar, told: Callable[[int, int, int], None]) -> None:
    """Every span between two ticks: its acts, its samples, then the tick."""
    acts = story(stage, calendar)
    stage.often_from_ms = calendar.often_from_ms
    before, done = calendar.start_ms, 0
    days, shown = -(-(calendar.now_ms - calendar.start_ms) // DAY_MS), 0
    for now in calendar.ticks():
        stage.clock.turn(now)
        day = min((now - calendar.start_ms) // DAY_MS + 1, days)
        if day != shown:
            told(shown := day, days, now)
        upto = next((number for number, act in enumerate(acts[done:], done) if act.at_ms > now), len(acts))
        if upto > done:
            part = acts[done:upto]
            stage.app.write(lambda connection: perform(connection, part))  # noqa: B023, done at once
            done = upto
        stage.host_writes([*used(stage, before, now), *told_late(calendar, before, now)])
        if now == calendar.now_ms:
            look(stage)
        settle(stage)
        before = stage.told_to_ms = now
    stage.done["acts"] = done


def used(stage: Stage, from_ms: int, to_ms: int) -> Iterator[SandboxSample]:
    """What the hosts' sandboxes used in [from_ms, to_ms)."""
    for hour in range(from_ms - from_ms % HOUR_MS, to_ms, HOUR_MS):
        for org, sandboxes in stage.running.items():
            found = samples_of(MEMBER[org], sandboxes, hour, often=hour >= stage.often_from_ms)
            yield from (one for one in found if from_ms <= one.ts < to_ms)


def told_late(calendar: Calendar, from_ms: int, to_ms: int) -> Iterator[SandboxSample]:
    """Samples beside the usual: the burst that makes a charge of 4.80, and hosts that were cut off for days."""
    burst = calendar.charged_ms - 2 * WINDOW_MS
    if from_ms <= burst < to_ms:
        for number in range(BURST):
            sandbox = Sandbox(f"acme-loadtest-{number}", "acme", CELLS[number % len(CELLS)], MEMBER["acme"].memory_mb)
            yield SandboxSample(f"loadtest-{number}", sandbox, WINDOW_MS // SECOND_MS, burst + number * SECOND_MS)
    for org, day, days_late in LATE:
        told = calendar.start_ms + day * DAY_MS
        if from_ms <= told < to_ms:
            sandbox = Sandbox(f"{org}-cut-off", org, CELLS[0], MEMBER[org].memory_mb)
            for number in range(12):
                ts = told - days_late * DAY_MS + number * WINDOW_MS
                yield SandboxSample(f"late-{org}-{number}", sandbox, 240, ts)


def look(stage: Stage) -> None:
    """One round of the watch, so that the first page says who runs out. What a tick has sealed wakes no watch."""
    runner.run(watch(stage.app.context(), Watcher()), stage.app.world())


def settle(stage: Stage) -> None:
    """One tick, as `drawdown tick`."""
    runner.run(tick(stage.app.context()), stage.app.world())
    stage.done["ticks"] += 1
