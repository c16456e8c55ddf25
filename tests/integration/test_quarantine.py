"""What is quarantined is kept until somebody has dealt with it, and fixed samples count once."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy, Refused, UnknownId
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.sources.samples.quarantine import QuarantineFilter
from drawdown.worker.usage import quarantined as samples
from drawdown.worker.usage.prune import Pruned, prune
from drawdown.worker.usage.sample_faces import chosen_of
from drawdown.worker.usage.withdrawals import withdraw
from tests.integration.plans import explained, plan_of, sequential
from tests.world import T0, Fleet

R = TypeVar("R")


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    return made


def pruned(fleet: Fleet, *, dry_run: bool = False) -> Pruned:
    return prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by, dry_run=dry_run)


def quarantine(fleet: Fleet) -> None:
    """Sixty days on: a sound old sample, one dated in seconds of today, and one old whose size is wrong."""
    fleet.sample("acme", T0 + 1, sample_id="sound")
    fleet.clock.at_ms = T0 + 60 * DAY_MS
    fleet.sample("acme", fleet.clock.at_ms // 1000, 3600, sample_id="in-s")
    fleet.sample("acme", T0 + 2, memory_mb=-1, sample_id="negative")
    fleet.tick(accept_clock=True)


@pytest.mark.both_databases
def test_prune_keeps_quarantined_samples_until_fixed_or_dismissed(fleet: Fleet) -> None:
    """A time in seconds lies below every floor: deleted with the old ones, it could never be fixed."""
    quarantine(fleet)
    for dry_run in (True, False):
        done = pruned(fleet, dry_run=dry_run)
        assert (done.samples, done.quarantined) == (1, 2)
    assert fleet.rows("SELECT id FROM usage_samples ORDER BY id") == [("in-s",), ("negative",)]
    (fixed,) = write(fleet.engine, lambda c: samples.fix(c, QuarantineFilter(ids=("in-s",)), fleet.by))
    write(fleet.engine, lambda c: samples.dismiss(c, QuarantineFilter(ids=("negative",)), fleet.by))
    fleet.tick_windows(2)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes") == 3660
    for dry_run in (True, False):
        done = pruned(fleet, dry_run=dry_run)
        assert (done.samples, done.quarantined) == (2, 0)
    assert fleet.rows("SELECT id FROM usage_samples") == [(fixed.new_id,)]


def test_withdrawal_of_closed_quarantined_sample_names_billed_sample(fleet: Fleet) -> None:
    quarantine(fleet)
    (fixed,) = write(fleet.engine, lambda c: samples.fix(c, QuarantineFilter(ids=("in-s",)), fleet.by))
    write(fleet.engine, lambda c: samples.dismiss(c, QuarantineFilter(ids=("negative",)), fleet.by))
    said = {
        "in-s": f"is billed as {fixed.new_id}. Run `drawdown sample withdraw {fixed.new_id}`",
        "negative": "dismissed",
    }
    for sample, words in said.items():
        with pytest.raises(Refused, match=re.escape(words)):
            write(fleet.engine, lambda c, sample=sample: withdraw(c, [sample], fleet.by))  # type: ignore[misc]


def test_quarantined_samples_of_unregistered_organisation_are_chosen(fleet: Fleet) -> None:
    """A tick registers no organisation whose samples are all quarantined, so each of its samples had to be named."""
    fleet.clock.at_ms = T0 + 60 * DAY_MS
    fleet.sample("newcomer", fleet.clock.at_ms // 1000, 3600, sample_id="in-s")
    fleet.tick(accept_clock=True)
    assert fleet.rows("SELECT 1 FROM orgs WHERE org_id = 'newcomer'") == []
    chosen = read(fleet.engine, lambda c: chosen_of(c, None, "newcomer", "", None, None))
    (fixed,) = write(fleet.engine, lambda c: samples.fix(c, chosen, fleet.by))
    assert fixed.sample_id == "in-s" and fixed.new_id is not None
    with pytest.raises(UnknownId):
        read(fleet.engine, lambda c: chosen_of(c, None, "newcome", "", None, None))


def test_prune_with_old_quarantined_sample_skips_empty_windows(fleet: Fleet) -> None:
    quarantine(fleet)
    pruned(fleet)
    work: list[str] = []

    def transact(what: Callable[[sa.Connection], R], *, rollback: bool = False) -> R:
        work.append(getattr(what, "func", what).__name__)
        return write(fleet.engine, what, rollback=rollback)

    prune(transact, T0 + DAY_MS, fleet.by)
    assert work.count("_delete_between") == 1


SEED = f"""
INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts)
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 29999)
SELECT 'n' || i, 'acme', 'box', 'c', 1024, 60,
    CASE WHEN i % 10 = 0 THEN {T0 // 1000} + i ELSE {T0} + i % 288 * {WINDOW_MS} + i END FROM n
"""
CLOSE = """
INSERT INTO quarantine_closed (sample_id, new_id, at_ms, actor, reason)
SELECT id, NULL, 0, 'test', 'a test' FROM usage_samples WHERE problem IS NOT NULL AND ts % 3 = 0
"""


def test_prune_of_many_samples_uses_index(fleet: Fleet) -> None:
    for text in (SEED, CLOSE, "ANALYZE"):
        fleet.write(text)
    fleet.tick(T0 + 60 * DAY_MS, accept_clock=True)
    before = T0 + 12 * WINDOW_MS
    with explained(fleet.engine) as plans:
        done = prune(partial(write, fleet.engine), before, fleet.by)
    assert done.quarantined == fleet.one("SELECT COUNT(*) FROM usage_samples WHERE ts < :before", before=before) == 2000
    assert "usage_samples" not in sequential(plan_of(plans, "DELETE FROM usage_samples"))
    assert "usage_samples" not in sequential(plan_of(plans, "COUNT(*)", "quarantine_closed"))


@pytest.mark.parametrize("at_once", [True, False])
def test_sample_fix_in_single_command_equals_fix_of_each_sample(fleet: Fleet, at_once: bool) -> None:
    """Three of one sandbox and moment: the first goes in, whether or not it is stored when the next is judged."""
    fleet.clock.at_ms = T0 + DAY_MS
    for name, memory_mb in (("m1", 1024), ("m2", 1024), ("m3", 4096)):
        fleet.sample("acme", T0 // 1000, 60, memory_mb, sample_id=name)
    fleet.sample("acme", T0 // 1000 + 60, 60, sample_id="m4")
    names = ("m1", "m2", "m3", "m4")
    chosen = [QuarantineFilter(ids=names)] if at_once else [QuarantineFilter(ids=(name,)) for name in names]
    done: list[samples.Mended] = []
    for each in chosen:
        done += write(fleet.engine, partial(samples.fix, chosen=each, by=fleet.by))
    assert [one.new_id for one in done] == ["m1:fixed", None, None, "m4:fixed"]
    assert done[2].why_not == "its sandbox already has a sample of that time: m1:fixed"
    fleet.tick(accept_clock=True)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes") == 120


@pytest.mark.both_databases
def test_sample_fix_stays_open_if_its_new_id_is_of_another_sample(fleet: Fleet) -> None:
    """A second sample of that sandbox and moment is fixed, because the first is not inserted."""
    fleet.clock.at_ms = T0 + DAY_MS
    for name in ("m1", "m2"):
        fleet.sample("acme", T0 // 1000, 60, sample_id=name)
    fleet.sample("acme", T0 + WINDOW_MS, 30, sample_id="m1:fixed")
    first, second = write(fleet.engine, lambda c: samples.fix(c, QuarantineFilter(ids=("m1", "m2")), fleet.by))
    assert (first.new_id, first.why_not) == (None, "a different sample already has its new id m1:fixed")
    assert second.new_id == "m2:fixed"
    assert fleet.rows("SELECT sample_id FROM quarantine_closed") == [("m2",)]
    assert fleet.rows("SELECT target FROM operator_actions WHERE action = 'sample_repair'") == [("m2",)]
    assert fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 0
    fleet.tick(accept_clock=True)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes") == 90


def test_sample_fix_that_loses_its_new_id_to_concurrent_sample_fails(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.clock.at_ms = T0 + DAY_MS
    fleet.sample("acme", T0 // 1000, 60, sample_id="m1")
    fleet.sample("acme", T0 + WINDOW_MS, 30, sample_id="m1:fixed")
    monkeypatch.setattr(samples, "differing", lambda _connection, _rows: set())  # stored after the check
    with pytest.raises(DatabaseBusy, match="Try again"):
        write(fleet.engine, lambda c: samples.fix(c, QuarantineFilter(ids=("m1",)), fleet.by))
    assert fleet.one("SELECT COUNT(*) FROM quarantine_closed") == 0
    assert fleet.one("SELECT COUNT(*) FROM sample_conflicts") == 0
