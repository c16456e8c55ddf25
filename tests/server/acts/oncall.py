"""Of pushes, halts, providers, organisations, usage that waits, runs, cells and backfills."""

from __future__ import annotations

from typing import Final

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.features import actions as features
from drawdown.worker.halts import cells
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import ReplayJob
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider import actions as providers
from drawdown.worker.push import actions as pushes
from drawdown.worker.replay.plan import ReplayScope
from drawdown.worker.usage import backfills
from tests.server.acts.example import Example
from tests.server.console_home import Home
from tests.world import T0

KEY: Final = f"usage:acme:{T0 + 3 * WINDOW_MS}:compute_1gb"
HASH: Final = "2c51800ba183ac73ed89a34a474288df"
"""Of what the backfill below shows: the same each time, as its event and its moment are."""


def _halt(home: Home) -> None:
    write(home.engine, lambda c: orgs.halt(c, ["acme"], home.fleet.by))


def _lift(home: Home) -> None:
    write(home.engine, lambda c: orgs.halt(c, ["acme"], home.fleet.by, undo=True))


def _pause(home: Home) -> None:
    write(home.engine, lambda c: providers.pause(c, "embedded", home.fleet.by))


def _rejected(home: Home) -> None:
    """A push that its provider refused."""
    _pause(home)
    home.fleet.sample("acme", T0 + 3 * WINDOW_MS + 1)
    home.fleet.tick_windows(2)
    home.now = home.fleet.clock.at_ms
    home.fleet.write("UPDATE pushes SET state = 'rejected', last_error = 'no such meter' WHERE state = 'due'")


def _taken_again(home: Home) -> None:
    """As a tick would, whose answer was lost."""
    home.fleet.write("UPDATE pushes SET state = 'in_doubt' WHERE state = 'rejected'")


def _somebody_retries(home: Home) -> None:
    """It is voided; its usage is due again under the next revision, and the push that was seen is no more."""
    write(home.engine, lambda c: pushes.retry(c, [KEY], home.fleet.by))


def _due_again(home: Home) -> None:
    home.fleet.write("UPDATE pushes SET state = 'due' WHERE state = 'rejected'")


def _another(home: Home) -> None:
    home.fleet.sample("acme", T0 // 1000 + 61, sample_id="in-seconds, too")


def _somebody_overrides(home: Home) -> None:
    write(home.engine, lambda c: orgs.override(c, "acme", home.fleet.by, max_concurrent=7))


def _run(home: Home) -> None:
    write(home.engine, lambda c: executions.accept(c, "run-1", Request("acme", MICRO), home.fleet.by))


def _released(home: Home) -> None:
    write(home.engine, lambda c: executions.extend(c, "run-1", 2 * MICRO, None, home.fleet.by))


def _cell(home: Home) -> None:
    write(home.engine, lambda c: cells.set_cell(c, "cell-1", "http://cell-1:80", home.fleet.by, new=True))


def _moved_cell(home: Home) -> None:
    write(home.engine, lambda c: cells.set_cell(c, "cell-1", "http://cell-9:80", home.fleet.by, new=True))


def _used(home: Home) -> None:
    """By somebody whom nobody bills; of a size that makes no feature."""
    home.fleet.sample("initech", home.now - 1)
    home.fleet.sample("acme", home.now - 1, memory_mb=3)
    home.fleet.tick_windows(2)
    home.now = home.fleet.clock.at_ms


def _assigned(home: Home) -> None:
    write(home.engine, lambda c: assign(c, ["initech"], "none", home.fleet.by, from_ms=T0))


def _mapped(home: Home) -> None:
    write(
        home.engine, lambda c: features.map_size(c, "compute_5mb", home.fleet.by, kind="exact", memory_mb=5, unit="s")
    )


def _quarantined(home: Home) -> None:
    home.fleet.sample("acme", T0 // 1000 + 60, sample_id="in-seconds")


def _staged(home: Home) -> None:
    """The clock goes on a day: a backfill is of the past."""
    home.fleet.clock.at_ms = home.now = home.now + DAY_MS // 12
    by, event = home.fleet.by, UsageEvent("app", "e-1", "page.render", "acme", 3, T0 + 1)
    write(home.engine, lambda c: backfills.open_backfill(c, "june", "acme", T0, T0 + WINDOW_MS, by))
    write(home.engine, lambda c: backfills.stage(c, "june", [event], by.now_ms))


def _reverted(home: Home) -> None:
    write(home.engine, lambda c: backfills.revert(c, "june", home.fleet.by))


CHOSEN_WRONG: Final = {"keys": "usage:acme:1:x", "org": "acmee", "provider": "nowhere", "error": "\x01", "expect": "7"}
RANGE: Final = {"from": "2026-01-01", "to": "2026-01-01T00:10"}


def queues_one(home: Home) -> int:
    asked = ReplayJob(ReplayScope(("acme",)), T0, T0 + 2 * WINDOW_MS)
    return write(home.engine, lambda c: queue.place(c, asked, home.fleet.by))


def _somebody_cancels(home: Home) -> None:
    write(home.engine, lambda c: queue.cancel(c, 1, home.fleet.by))


def _other_terms(home: Home) -> None:
    """Those in force are others than this server declares."""
    home.fleet.tick_windows(1)
    home.now = home.fleet.clock.at_ms
    home.fleet.write("UPDATE provider_states SET terms = '{}' WHERE provider = 'embedded'")


def _terms_of_another(home: Home) -> None:
    home.fleet.write("""UPDATE provider_states SET terms = '{"unit": 7}' WHERE provider = 'embedded'""")


def _somebody_elsewhere(home: Home) -> None:
    """A provider that has to be asked is known."""
    _used(home)
    home.fleet.assign("initech", provider="autumn")


EXAMPLES: Final = {
    "provider-accept": Example({"provider": "embedded"}, {"provider": "embeded"}, _terms_of_another, _other_terms),
    "assign-remote": Example(
        {"id": "acme", "provider": "autumn", "customer": "cus_1", "halts": "no"},
        {"id": "nobody", "provider": "embedded", "customer": "\x01", "from": "00:01", "halts": "x"},
        None,  # whoever assigns it otherwise meanwhile makes it impossible, and its answer says so
        _somebody_elsewhere,
    ),
    "replay": Example(
        {"id": "acme", "all": "no", **RANGE},
        {"all": "perhaps", "id": "acmee", "provider": "embedded", "from": "soon", "to": "2025-12-31"},
    ),
    "job-cancel": Example({"job": "1"}, {"job": "99"}, prepare=queues_one),
    "halt": Example({"id": "acme"}, {"id": "acmee"}, _halt),
    "lift": Example({"id": "acme"}, {"id": "\x01"}, _lift, prepare=_halt),
    "push-retry": Example({"keys": KEY, "expect": "1"}, CHOSEN_WRONG, _due_again, _rejected),
    "push-resolve": Example(
        {"keys": KEY, "outcome": "absent", "evidence": "their console shows it"},
        {**CHOSEN_WRONG, "state": "due", "outcome": "perhaps", "evidence": "x" * 501},
        _taken_again,
        _rejected,
    ),
    "push-void": Example(
        {"state": "rejected", "org": "acme", "evidence": "it is nowhere", "although": "no"},
        {**CHOSEN_WRONG, "evidence": "\x00", "although": "maybe"},
        None,
        _rejected,
    ),
    "provider-pause": Example({"provider": "embedded", "undo": "no"}, {"provider": "embeded", "undo": "x"}, _pause),
    "org-override": Example(
        {"org": "acme", "never_halt": "no", "max_concurrent": "3", "until": "+30d", "undo": "no"},
        {"org": "acmee", "never_halt": "x", "max_concurrent": "99999999999", "until": "2020-01-01", "undo": "x"},
        _somebody_overrides,
    ),
    "execution-release": Example(
        {"execution": "run-1", "incurred": "0.5"}, {"execution": "run-2", "incurred": "-1"}, _released, _run
    ),
    "cell-set": Example(
        {"cell": "cell-1", "url": "http://cell-1:81", "new": "no"},
        {"cell": "cell-7", "url": "ftp://cell", "new": "x"},
        _moved_cell,
        _cell,
    ),
    "cell-remove": Example({"cell": "cell-1"}, {"cell": "cell-7"}, _moved_cell, _cell),
    "assign": Example(
        {"id": "initech", "provider": "embedded", "halts": "yes", "new": "no"},
        {"id": "nobody", "provider": "nowhere", "customer": "\x01", "from": "00:01", "halts": "x", "new": "x"},
        _assigned,
        _used,
    ),
    "feature-map": Example(
        {"feature": "compute_3mb", "memory_mb": "3", "unit": "s", "rest": "no", "yes": "no", "new": "yes"},
        {
            "feature": "Compute",
            "memory_mb": "-1",
            "up_to": "x",
            "unit": "x",
            "from": "soon",
            "rest": "x",
            "yes": "x",
            "new": "x",
        },
        _mapped,
        _used,
    ),
    "feature-map-event": Example(
        {"event_type": "page.render", "feature": "renders", "unit": "units", "yes": "no", "new": "no"},
        {"event_type": "\x01", "feature": "R!", "unit": "x", "from": "x", "yes": "x", "new": "x"},
        _mapped,
    ),
    "sample-repair": Example(
        {"org": "acme", "as": "auto"},
        {"id": "in-second", "org": "acmee", "why": "x", "expect": "2", "as": "weeks"},
        _another,
        _quarantined,
    ),
    "sample-dismiss": Example(
        {"why": "ts_before_2000", "expect": "1"},
        {"id": "x", "org": "\x01", "why": "\x01", "expect": "2"},
        None,
        _quarantined,
    ),
    "backfill-close": Example({"backfill": "june", "hash": HASH}, {"backfill": "july", "hash": "0"}, None, _staged),
    "backfill-revert": Example({"backfill": "june"}, {"backfill": "july"}, _reverted, _staged),
}
