"""After a loss of history (rule R1): what a provider has that we know nothing of, and what a host remembers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.app import App
from drawdown.cli.settings import Settings
from drawdown.providers.protocol import CannotTell, Drawn, Duplicate, PushRequest, Rejected, RetryAt, Unknown
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS, window_of
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import LoadWitness, ReadTotals, RunTogether, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.features.actions import end_feature, map_size
from drawdown.worker.history import incarnation
from drawdown.worker.history.incarnation import HistoryDoubted, present, recognise, require_whole
from drawdown.worker.history.recover import Recovered, recover
from drawdown.worker.history.witness import WitnessFile
from drawdown.worker.provider import actions as providers
from drawdown.worker.push import actions as pushes
from drawdown.worker.push import claim, confirm
from drawdown.worker.push.claim import MOST_LOST
from drawdown.worker.push.outcome import OTHERS
from drawdown.worker.reconcile.reconcile import ReconcileScope, reconcile
from drawdown.worker.seal import seal
from drawdown.worker.seal.seal import SealRequest
from drawdown.worker.tick import tick
from drawdown.worker.usage import withdrawals
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.reconciling import compare
from tests.world import T0, Fleet

KEY = f"usage:acme:{T0}:compute_1gb"
ASKED: dict[str, object] = {
    "key_retention_ms": DAY_MS,
    "duplicate_proves_delivery": False,
    "lookup_lag_ms": MINUTE_MS,
    "applied_within_ms": DAY_MS,
    "totals_lag_ms": MINUTE_MS,
}


def restored(engine: sa.Engine, has: dict[str, int], **changes: object) -> tuple[Fleet, FakeProvider]:
    return restored_after(engine, 1, has, **changes)


def restored_after(
    engine: sa.Engine, windows: int, has: dict[str, int], **changes: object
) -> tuple[Fleet, FakeProvider]:
    """A database that was just recovered, at a provider that has some keys of its first window already."""
    provider = FakeProvider(capabilities(**changes))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.tick(T0 + MINUTE_MS)
    for suffix, quantity in has.items():
        key = KEY + suffix
        provider.charged[key] = PushRequest(key, "acme", "compute_1gb", quantity, T0, 1)
    fleet.clock.at_ms = T0 + (windows + 1) * WINDOW_MS
    assert recovered(fleet).number == 2
    for number in range(windows):
        fleet.sample("acme", T0 + number * WINDOW_MS + 1, 60)
    return fleet, provider


def recovered(fleet: Fleet) -> Recovered:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(recover(fleet.context(), fleet.by, restored=True), world)


def pass_by(fleet: Fleet, *minutes: int) -> None:
    for one in minutes:
        fleet.tick(fleet.clock.at_ms + one * MINUTE_MS)


def charged(provider: FakeProvider) -> int:
    return sum(one.quantity for one in provider.charged.values())


def proven(fleet: Fleet) -> None:
    assert read(fleet.engine, verify).breaches == []
    assert fleet.rows("SELECT key FROM pushes WHERE state NOT IN ('accepted', 'voided')") == []


def test_lost_push_found_at_provider_is_accepted_and_not_sent(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {"": 60}, **ASKED)
    pass_by(fleet, 1, 3)
    assert (charged(provider), provider.seen) == (60, [])
    proven(fleet)


def test_window_with_several_revisions_is_adopted_before_rest_is_sealed(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {"": 40, ":r1": 15}, **ASKED)
    pass_by(fleet, 1, 3, 3, 3)
    assert [(one.key, one.quantity) for one in provider.seen] == [(f"{KEY}:r3", 5)], "r2 holds what r0 is there"
    assert charged(provider) == 60
    proven(fleet)


def test_lost_window_with_many_revisions_is_adopted_completely(engine: sa.Engine) -> None:
    """Else what is adopted for the first would take the place, and the key, of one that nobody asked for."""
    fleet, provider = restored(engine, {"": 35, ":r1": 5, ":r2": 5, ":r3": 5, ":r4": 5}, **ASKED)
    pass_by(fleet, 1, 3, 3, 3)
    assert [(one.key, one.quantity) for one in provider.seen] == [(f"{KEY}:r6", 5)]
    assert charged(provider) == 60
    proven(fleet)


def test_lost_push_reversed_at_provider_is_resent_as_new_revision(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {"": 60, ":r1": -60}, **ASKED)
    pass_by(fleet, 1, 3, 3, 3)
    assert [(one.key, one.quantity) for one in provider.seen] == [(f"{KEY}:r2", 60)]
    assert charged(provider) == 60
    proven(fleet)


def test_push_voided_and_resealed_in_lost_history_is_found_by_later_key(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {":r2": 60}, **ASKED)
    pass_by(fleet, 1, 3, 60)
    assert provider.seen == [], "the first one may still be applied there"
    pass_by(fleet, 24 * 60, 5)
    assert (charged(provider), provider.seen) == (60, [])
    states = fleet.rows("SELECT revision, sealed_qty, state FROM pushes ORDER BY revision")
    assert states == [(0, 60, "voided"), (1, 0, "voided"), (2, 60, "accepted")]
    proven(fleet)


def test_draw_of_later_lost_revision_does_not_prove_first_revision(engine: sa.Engine) -> None:
    """At a provider that may charge without an event the customer's balance is asked, too."""
    fleet, provider = restored(engine, {":r1": 60}, **ASKED, drawn=True)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    pass_by(fleet, 1, 3, 24 * 60, 5)
    assert (charged(provider), provider.seen) == (60, [])
    states = fleet.rows("SELECT revision, sealed_qty, state FROM pushes ORDER BY revision")
    assert states == [(0, 60, "voided"), (1, 60, "accepted")]
    proven(fleet)


@pytest.mark.parametrize(
    ("together", "windows", "states"),
    [(1_000, 110, [("accepted", 110)]), (60, 111, [("in_doubt", MOST_LOST + 60), ("queued", 1)])],
)
def test_lost_draws_of_many_windows_are_looked_up_together(
    engine: sa.Engine, together: int, windows: int, states: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One balance tells of all of a customer's feature, and of none of a part. Of too many a person decides."""
    monkeypatch.setattr(claim, "MOST_TOGETHER", together)
    monkeypatch.setattr(confirm, "MOST_TOGETHER", together)
    fleet, provider = restored_after(engine, windows, {}, **ASKED, drawn=True)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60 * windows, None)}}
    pass_by(fleet, 1, 25 * 60, 15)
    assert fleet.rows("SELECT state, COUNT(*) FROM pushes GROUP BY state ORDER BY state") == states
    assert provider.seen == []


def test_lost_push_sealed_later_is_accepted_by_drawn_balance(engine: sa.Engine) -> None:
    """The backup is more than a day old; samples are written again half an hour after it was recovered."""
    fleet, provider = long_ago(engine)
    recovered(fleet)
    pass_by(fleet, *[5] * 6)
    fleet.sample("acme", T0 + 1, 60)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    pass_by(fleet, *[360] * 3, 325, *[1] * 10, *[11] * 5, 30)  # until nothing lost can be applied any more
    assert (fleet.rows("SELECT state FROM pushes"), provider.seen) == ([("accepted",)], [])


def long_ago(engine: sa.Engine, **changes: Any) -> tuple[Fleet, FakeProvider]:
    """A database as it was more than a day ago."""
    provider = FakeProvider(capabilities(**ASKED, drawn=True, **changes))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.tick(T0 + MINUTE_MS)
    fleet.clock.at_ms = T0 + DAY_MS + 60 * MINUTE_MS
    return fleet, provider


@pytest.mark.parametrize("unit", [1, 60])
def test_pushes_waiting_for_each_other_become_in_doubt(
    engine: sa.Engine, unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pushes of a lost history and one of now, and a balance that does not tell; also where units are carried."""
    monkeypatch.setattr(confirm, "MOST_WAITS", 4)
    fleet, provider = long_ago(engine, unit=unit)
    fleet.sample("acme", T0 + 1, 60)
    fleet.sample("acme", T0 + WINDOW_MS + 1, 60)
    recovered(fleet)
    late = fleet.clock.at_ms - fleet.clock.at_ms % WINDOW_MS + WINDOW_MS
    key = KEY.replace(str(T0), str(late))
    provider.answers[key] = Unknown("timeout")
    fleet.sample("acme", late + 1, 60)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(67, None)}}
    fleet.tick(late + 2 * WINDOW_MS)
    provider.answers[key] = Duplicate()
    pass_by(fleet, 2, 2, 2, 25 * 60, *[5] * 8)
    assert fleet.rows("SELECT state FROM pushes") == [("in_doubt",)] * 3


def test_lost_push_with_inconclusive_lookup_is_resolved_manually(engine: sa.Engine) -> None:
    """It was never sent in this one: whoever sees it on their console has the last word all the same."""
    fleet, provider = restored(engine, {"": 60}, **ASKED)
    provider.lookups[KEY] = CannotTell("several may share its minute")
    pass_by(fleet, 1, 3)
    assert fleet.rows("SELECT state, attempts FROM pushes") == [("in_doubt", 0)]
    write(engine, lambda c: pushes.resolve_accepted(c, [KEY], fleet.by, "their console shows it"))
    assert (charged(provider), provider.seen) == (60, [])
    proven(fleet)


def voided(engine: sa.Engine) -> tuple[Fleet, FakeProvider]:
    """A push without a response that the provider did not have a day later."""
    provider = FakeProvider(capabilities(**ASKED))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    provider.answers[KEY] = Unknown("timeout")
    fleet.tick(T0 + WINDOW_MS + MINUTE_MS)
    pass_by(fleet, 5, 25 * 60)
    return fleet, provider


def test_voided_push_that_a_replaced_history_sent_is_adopted(engine: sa.Engine) -> None:
    """A backup of a history that an earlier restore had replaced: its void did not stop the send in the other one."""
    fleet, provider = voided(engine)
    assert fleet.rows("SELECT revision, state FROM pushes") == [(0, "voided")]
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 2)
    recovered(fleet)
    provider.seen.clear()
    pass_by(fleet, 1, 3, 25 * 60, 3, 3)
    assert (charged(provider), provider.seen) == (60, [])
    assert fleet.rows("SELECT wire_key, sent_qty FROM pushes WHERE state = 'accepted' AND sent_qty > 0") == [(KEY, 60)]
    proven(fleet)


def test_lost_push_missing_at_provider_is_sent_after_lookup(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {}, **ASKED)
    pass_by(fleet, 1)
    assert (provider.seen, fleet.one("SELECT state FROM pushes")) == ([], "queued")
    pass_by(fleet, 3, 1)
    assert [(one.key, one.quantity) for one in provider.seen] == [(KEY, 60)]
    proven(fleet)


def test_possibly_forgotten_key_is_not_resent_while_lost_send_may_apply(
    engine: sa.Engine,
) -> None:
    fleet, provider = restored(engine, {}, **ASKED)
    fleet.clock.at_ms += DAY_MS - MINUTE_MS
    pass_by(fleet, 0, 1, 1)
    assert provider.seen == []
    pass_by(fleet, 1, 1)
    assert len(provider.seen) == 1, "a day after the loss nothing lost can be applied any more"
    proven(fleet)


def test_window_after_loss_is_sent_without_lookup(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {"": 60}, **ASKED)
    fleet.sample("acme", T0 + 3 * WINDOW_MS + 1, 30)
    fleet.tick(T0 + 5 * WINDOW_MS)
    assert [one.quantity for one in provider.seen] == [30]


@pytest.mark.parametrize("how", ["void", "retry", "resolve", "accept"])
def test_push_change_with_doubted_history_is_refused(engine: sa.Engine, how: str) -> None:
    """It may have been sent since: until `recover` nothing is voided, sent again, resolved or accepted anew by hand."""
    provider = FakeProvider(capabilities(**ASKED))
    provider.answers[KEY] = Rejected("no such meter")
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick_windows(2)
    fleet.clock.at_ms += DAY_MS
    by, terms = fleet.by, capabilities(**{**ASKED, "unit": 60})
    work: Callable[[sa.Connection], object] = {
        "void": lambda c: pushes.void(c, [KEY], by, "never sent"),
        "retry": lambda c: pushes.retry(c, [KEY], by),
        "resolve": lambda c: pushes.resolve_accepted(c, [KEY], by, "seen"),
        "accept": lambda c: providers.accept_some(c, "fake", terms, by),
    }[how]
    fleet.write("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'restored'")
    with pytest.raises(HistoryDoubted):
        write(engine, work)
    assert fleet.rows("SELECT state FROM pushes") == [("rejected",)]
    fleet.write("UPDATE incarnation SET doubted_ms = NULL, doubted_reason = NULL")
    write(engine, work)


def test_lost_push_without_lookup_is_in_doubt_until_voided(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {}, duplicate_proves_delivery=False)
    pass_by(fleet, 1)
    assert (fleet.one("SELECT state FROM pushes"), provider.seen) == ("in_doubt", [])
    assert read(engine, verify).breaches == []
    write(engine, lambda c: pushes.void(c, [KEY], fleet.by, "their console shows nothing"))
    pass_by(fleet, 1, 1)
    assert [(one.key, one.quantity) for one in provider.seen] == [(f"{KEY}:r1", 60)]
    proven(fleet)


@pytest.mark.parametrize(("asks", "then"), [(False, ["in_doubt", "in_doubt"]), (True, ["voided", "voided"])])
def test_recovery_without_provider_marks_open_pushes_in_doubt(engine: sa.Engine, asks: bool, then: list[str]) -> None:
    """Queued at a provider that cannot be asked, it would wait for ever."""
    provider = FakeProvider(capabilities(**ASKED) if asks else capabilities())
    later = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    provider.answers = {KEY: Rejected("no such meter"), later: RetryAt(T0 + DAY_MS, "busy")}
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    for number in range(2):
        fleet.sample("acme", T0 + number * WINDOW_MS + 1, 60)
    fleet.tick_windows(3)
    assert fleet.rows("SELECT state FROM pushes ORDER BY key") == [("rejected",), ("due",)]
    fleet.extra = {}
    found = recovered(fleet)
    assert (found.to_look_up, found.to_decide) == (0, 2)
    assert read(engine, verify).breaches == []
    fleet.extra = {"fake": provider}
    pass_by(fleet, 2, 24 * 60)
    assert fleet.rows("SELECT state FROM pushes WHERE revision = 0 ORDER BY key") == [(state,) for state in then]


def test_embedded_ledger_after_recovery_accepts_push(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("bolt")
    fleet.tick(T0 + 2 * WINDOW_MS)
    recovered(fleet)
    fleet.sample("bolt", T0 + 1, 60)
    assert fleet.tick().accepted == 1


def test_database_with_doubted_history_does_not_seal_or_send(engine: sa.Engine, tmp_path: Path) -> None:
    fleet = Fleet(engine)
    fleet.assign("bolt")
    fleet.tick(T0)
    fleet.sample("bolt", T0 + 1, 60)
    known = read(engine, lambda c: recognise(c, None, T0))
    ahead = Witness(known.database_id, known.number, known.sends + 1, 1, "w1")
    doubted = write(engine, lambda c: recognise(c, ahead, T0)).doubted
    assert doubted is not None and "this machine saw 1" in doubted
    report = fleet.tick(T0 + 3 * WINDOW_MS)
    assert (report.exit_status, report.sealed, fleet.rows("SELECT * FROM pushes")) == (1, 0, [])
    assert fleet.one("SELECT MAX(watermark_ms) FROM buckets") == T0 - WINDOW_MS
    with pytest.raises(HistoryDoubted, match="drawdown recover"):
        write(engine, lambda c: seal.seal(c, SealRequest(Shard(), T0, T0)))
    recovered(fleet)
    assert fleet.tick().accepted == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sends": 5}, "has 0 sends, but this machine saw 5"),
        ({"number": 2}, "has incarnation 1, but this machine saw 2"),
        ({"tick_id": 99}, "lacks tick 99"),
        ({"tick_worker": "another"}, "lacks tick 1"),
    ],
)
def test_local_checkpoint_ahead_of_database_detects_restore(
    engine: sa.Engine, changes: dict[str, object], text: str
) -> None:
    fleet = Fleet(engine)
    fleet.tick(T0)
    known = read(engine, lambda c: recognise(c, None, T0))
    values = {"number": 1, "sends": 0, "tick_id": 1, "tick_worker": "w1", **changes}
    witness = Witness(known.database_id, **values)  # type: ignore[arg-type]
    found = write(engine, lambda c: recognise(c, witness, T0))
    assert found.doubted is not None and text in found.doubted


def test_identity_of_server_is_kept_while_server_does_not_report_it(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for system, timeline, text in (("7", "1", None), (None, None, None), ("8", "1", "another PostgreSQL system")):
        monkeypatch.setattr(incarnation, "server_of", lambda _c, reported=(system, timeline): reported)
        doubted = write(engine, lambda c: recognise(c, None, T0)).doubted
        assert (doubted is None) if text is None else (text in str(doubted))


def test_command_refused_on_restored_database_stores_doubt(engine: sa.Engine, tmp_path: Path) -> None:
    fleet = Fleet(engine)
    fleet.tick(T0)
    known = read(engine, present)
    WitnessFile(tmp_path).save(engine, replace(known, sends=known.sends + 1))
    app = App(Settings(state_dir=str(tmp_path)), fleet.clock)
    app._engine = engine
    with pytest.raises(HistoryDoubted):
        app.write(require_whole)
    assert "this machine saw 1" in str(fleet.one("SELECT doubted_reason FROM incarnation"))
    assert fleet.tick().doubted is not None


def test_local_checkpoint_is_not_replaced_by_older_state(engine: sa.Engine, tmp_path: Path) -> None:
    file, known = WitnessFile(tmp_path / "state"), read(engine, lambda c: recognise(c, None, T0))
    assert file.load(engine) is None
    newer, older = (Witness(known.database_id, 1, sends, 7, "w1") for sends in (9, 4))
    file.save(engine, newer)
    file.save(engine, older)
    assert WitnessFile(tmp_path / "state").load(engine) == newer


def test_new_local_checkpoint_is_on_disk_with_its_folder_entry(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, synced = read(engine, lambda c: recognise(c, None, T0)), list[str]()
    file = tmp_path / f"drawdown-{known.database_id}.json"
    monkeypatch.setattr(
        os, "fsync", lambda of: synced.append(f"{Path(f'/proc/self/fd/{of}').resolve()} {file.exists()}")
    )
    WitnessFile(tmp_path).save(engine, Witness(known.database_id, 1, 9, 7, "w1"))
    assert synced == [f"{file.with_suffix('.new')} False", f"{tmp_path} True"]


def test_tick_with_unusable_local_checkpoint_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, and no folder")
    fleet = Fleet(engine)
    fleet.assign("bolt")
    fleet.sample("bolt", T0 + 1, 60)
    full = WitnessFile(tmp_path / "state")
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock, witness=full)
    fleet.clock.at_ms = T0 + 2 * WINDOW_MS
    with pytest.raises(UsageError, match="DRAWDOWN_STATE_DIR"):
        runner.run(tick(fleet.context()), world)
    assert fleet.rows("SELECT * FROM attempts") == []
    broken = WitnessFile(tmp_path)
    known = read(engine, lambda c: recognise(c, None, T0))
    kinds: dict[str, object] = {"database_id": 7, "number": None, "sends": "a", "tick_id": [], "tick_worker": {}}
    for text in ("{", "[]", "{}", json.dumps(kinds)):
        (tmp_path / f"drawdown-{known.database_id}.json").write_text(text)
        with pytest.raises(UsageError, match="invalid checkpoint"):
            broken.load(engine)


def test_unknown_charge_after_loss_is_reported_by_reconcile(engine: sa.Engine) -> None:
    fleet, _ = restored(engine, {"": 60}, **ASKED)
    fleet.write("INSERT INTO withdrawals SELECT id, org_id, ts, memory_mb, interval_s, 0, 'a', 'r' FROM usage_samples")
    pass_by(fleet, 1, 5)
    assert fleet.rows("SELECT * FROM pushes") == [], "nothing of that day is left to be compared with"
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    found = runner.run(reconcile(fleet.context(), ReconcileScope(recent=True), fleet.by), world)
    assert [(one.org_id, one.feature, one.ours, one.theirs) for one in found.differing] == [
        ("acme", "compute_1gb", 0, 60)
    ]
    assert found.exit_status == 1


def test_unknown_charge_after_loss_is_reported_after_unread_nights(engine: sa.Engine) -> None:
    """The loss stays due until a night has read it, although the days since then are compared."""
    fleet, provider = restored(engine, {"": 60}, **ASKED)
    fleet.write("INSERT INTO withdrawals SELECT id, org_id, ts, memory_mb, interval_s, 0, 'a', 'r' FROM usage_samples")
    pass_by(fleet, 1, 5)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)

    def night() -> list[tuple[int, int]]:
        fleet.clock.at_ms += DAY_MS
        found = runner.run(reconcile(fleet.context(), ReconcileScope(recent=True), fleet.by), world)
        return [(one.ours, one.theirs) for one in found.differing]

    provider.totals_fail = True
    assert [night() for _ in range(4)] == [[]] * 4
    provider.totals_fail = False
    assert [night() for _ in range(2)] == [[(0, 60)], []]


def test_recent_reconcile_after_loss_does_not_report_settled_day(engine: sa.Engine) -> None:
    """A run of recent days leaves it out, and it has a push of ours all the same."""
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities(**ASKED))})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert fleet.rows("SELECT sent_qty, state FROM pushes") == [(60, "accepted")]
    fleet.clock.at_ms += 3 * DAY_MS
    recovered(fleet)
    pass_by(fleet, 5)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    found = runner.run(reconcile(fleet.context(), ReconcileScope(recent=True), fleet.by), world)
    assert (found.differing, found.exit_status) == ([], 0)


def test_withdrawal_after_loss_is_refused_before_next_tick(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {"": 60}, **ASKED)
    with pytest.raises(Refused, match="after the next tick"):
        write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    fleet.sample("acme", T0 + 2, 7)
    pass_by(fleet, 1, 1)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1", "s2"], fleet.by))  # of one window, together
    pass_by(fleet, 3, 3, 3, 3)
    assert charged(provider) == 0
    proven(fleet)


def test_reconcile_running_during_recovery_does_not_correct(engine: sa.Engine) -> None:
    fleet, provider = restored(engine, {"": 60}, **ASKED)
    pass_by(fleet, 1, 3, 16)
    provider.over["acme", "compute_1gb", T0] = 7
    steps = reconcile(fleet.context(), ReconcileScope(correct=True), fleet.by)
    asked = next(steps)
    while not isinstance(asked, ReadTotals):
        assert isinstance(asked, Transaction)
        work = asked.work
        asked = steps.send(write(engine, work, rollback=asked.rollback))
    recovered(fleet)
    with pytest.raises(HistoryDoubted):
        answer: object = [{"compute_1gb": 67}]
        while True:
            asked = steps.send(answer)
            answer = (
                write(engine, asked.work, rollback=asked.rollback)
                if isinstance(asked, Transaction)
                else [{"compute_1gb": 67}]
            )
    assert fleet.rows("SELECT * FROM adoptions") == []


def test_whole_units_sent_for_other_windows_are_found_before_any_send(engine: sa.Engine) -> None:
    """Sealed all at once, after a restore, whole units fall on other windows than they did one by one."""
    provider = FakeProvider(capabilities(**ASKED, unit=700, negatives=False))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.tick(T0 + MINUTE_MS)
    for window, suffix in ((3, ""), (0, ":r1")):
        key = f"usage:acme:{T0 + window * WINDOW_MS}:compute_1gb{suffix}"
        provider.charged[key] = PushRequest(key, "acme", "compute_1gb", 700, T0 + window * WINDOW_MS, 1)
    fleet.clock.at_ms = T0 + 6 * WINDOW_MS
    recovered(fleet)
    for window, second in ((0, 1), (1, 1), (2, 1), (3, 1), (0, 30)):
        fleet.sample("acme", T0 + window * WINDOW_MS + second, 300)
    for _ in range(3):
        pass_by(fleet, 2, 3, 60, 60)
    pass_by(fleet, 24 * 60, 5, 5, 5)
    assert (charged(provider), provider.seen) == (1400, [])
    assert fleet.rows("SELECT carry_qty FROM carries") == [(100,)]
    assert fleet.rows("SELECT key FROM pushes WHERE state NOT IN ('accepted', 'voided', 'carried')") == []
    assert read(fleet.engine, verify).breaches == []


def test_latest_history_is_decided_by_order_of_ticks_not_by_clocks(engine: sa.Engine) -> None:
    """A host whose clock is behind ticks after another has found that history was lost."""
    fleet, _ = restored(engine, {}, **ASKED)
    before = fleet.clock.at_ms
    fleet.tick()
    fleet.write("UPDATE incarnation SET sends = 0")
    found = read(engine, lambda c: c.execute(sa.text("SELECT database_id, number FROM incarnation")).one())
    more = Witness(found.database_id, found.number, 99, 0, "")
    write(engine, lambda c: recognise(c, more, before + 10 * MINUTE_MS))
    fleet.tick(before + 9 * MINUTE_MS)
    assert recovered(fleet).from_ms == before


def test_mapping_change_in_lost_history_requires_confirmation(engine: sa.Engine) -> None:
    """What was billed there under a feature that nothing makes there any more, nobody would look for."""
    fleet, _ = restored(engine, {"": 60}, **ASKED)

    def maps(from_ms: int | None, *, confirmed: bool, size: int = 1024) -> int:
        more = {"kind": "exact", "memory_mb": size, "unit": "s", "from_ms": from_ms, "confirmed": confirmed}
        return write(engine, lambda c: map_size(c, "renamed", fleet.by, **more)).start_ms  # type: ignore[arg-type]

    with pytest.raises(Refused, match="was lost"):
        maps(T0, confirmed=False)
    with pytest.raises(Refused, match="was lost"):
        write(engine, lambda c: end_feature(c, "compute_1gb", fleet.by, from_ms=T0))
    assert maps(None, confirmed=False) == fleet.clock.at_ms
    assert maps(T0, confirmed=True) == T0
    assert write(engine, lambda c: end_feature(c, "compute_4gb", fleet.by, from_ms=T0, confirmed=True))
    fleet.write(f"UPDATE buckets SET watermark_ms = {T0 + WINDOW_MS}")
    with pytest.raises(Refused, match="was lost"):  # and not that windows are sealed, which asks for the same --yes
        maps(T0, confirmed=False, size=77)


@pytest.mark.both_databases
def test_tick_suspended_during_restore_does_not_seal(engine: sa.Engine) -> None:
    """What another worker of this machine wrote down meanwhile says so, once the tick has begun."""
    fleet, _ = restored(engine, {}, **ASKED)
    fleet.clock.at_ms += 2 * WINDOW_MS
    found = read(engine, present)
    remembered = iter([found, replace(found, sends=found.sends + 1)])
    steps, done, answer = tick(fleet.context()), list[str](), None
    try:
        asked = next(steps)
        while not isinstance(asked, RunTogether):
            if isinstance(asked, Transaction):
                done.append(asked.name)
                answer = write(engine, asked.work, rollback=asked.rollback)
            else:
                answer = next(remembered) if isinstance(asked, LoadWitness) else None
            asked = steps.send(answer)
    finally:
        steps.close()
    assert done == ["begin_tick", "recognise", "shrink_holds", "expire_holds_elsewhere", "expire_holds"]
    assert "sends" in str(fleet.one("SELECT doubted_reason FROM incarnation"))


@pytest.mark.parametrize("night", [True, False])
def test_draw_reported_before_samples_is_not_billed_twice(engine: sa.Engine, night: bool) -> None:
    """A lost push was drawn, and no event shows it. The balance shows more than is known here; a person is told."""
    lost = KEY.replace(str(T0), str(T0 + 2 * WINDOW_MS))
    provider = FakeProvider(capabilities(**ASKED, drawn=True))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick(T0 + 2 * WINDOW_MS)
    fleet.clock.at_ms = T0 + DAY_MS
    recovered(fleet)
    fleet.tick()
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(120, None)}}
    if night:
        assert compare(fleet, correct=True).exit_status == 1
    fleet.sample("acme", T0 + 2 * WINDOW_MS + 1, 60)
    provider.answers[lost] = Duplicate()
    pass_by(fleet, 1, 2, 25 * 60, *[16] * 3)
    newest = "SELECT state FROM pushes ORDER BY window_ms DESC, revision DESC LIMIT 1"
    assert fleet.one(newest) == ("in_doubt" if night else "accepted")
    assert {one.key for one in provider.seen} <= {KEY, lost}, "nothing is billed a second time under another key"


@pytest.mark.parametrize(
    ("drawn", "readable", "state"), [(60, True, "sent"), (120, True, "drawn"), (60, False, "waits")]
)
def test_lost_push_is_not_proven_by_draw_of_push_without_samples_yet(
    engine: sa.Engine, drawn: int, readable: bool, state: str
) -> None:
    """One balance tells of both. Of the other nothing is known here, but its event shows it."""
    other = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    fleet, provider = long_ago(engine)
    recovered(fleet)
    fleet.sample("acme", T0 + 1, 60)
    provider.charged[other] = PushRequest(other, "acme", "compute_1gb", 60, T0 + WINDOW_MS + 1, 1)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(drawn, None)}}
    provider.totals_fail = not readable
    pass_by(fleet, 5, 25 * 60, *[16] * 3)
    if state == "waits":
        assert fleet.rows("SELECT state, last_error FROM pushes") == [("queued", OTHERS)]
        provider.totals_fail = False
        pass_by(fleet, 16, 16)
    assert fleet.rows("SELECT state FROM pushes") == [("accepted",)]
    assert [(one.key, one.quantity) for one in provider.seen] == ([] if state == "drawn" else [(KEY, 60)])
    fleet.sample("acme", T0 + WINDOW_MS + 1, 60)
    pass_by(fleet, 5, 5, 5)
    assert fleet.rows("SELECT state FROM pushes") == [("accepted",), ("accepted",)]
    proven(fleet)


def test_push_after_loss_is_not_proven_by_lost_draw(engine: sa.Engine) -> None:
    """Nothing is known here yet of what the lost history drew; its event shows it."""
    other = KEY.replace(str(T0), str(T0 + WINDOW_MS))
    fleet, provider = long_ago(engine)
    recovered(fleet)
    provider.charged[other] = PushRequest(other, "acme", "compute_1gb", 60, T0 + WINDOW_MS + 1, 1)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    now = window_of(fleet.clock.at_ms) + WINDOW_MS
    key = KEY.replace(str(T0), str(now))
    provider.answers[key] = Unknown("cut off")
    fleet.sample("acme", now + 1, 60)
    pass_by(fleet, 15, 25 * 60)
    del provider.answers[key]
    pass_by(fleet, 25 * 60, *[16] * 3)
    assert [one.key for one in provider.seen][-1] == f"{key}:r1", "it was voided, and is sent"
    assert charged(provider) == 120


def test_voided_push_adopted_as_excess_is_not_adopted_again(engine: sa.Engine) -> None:
    """Reconcile compares the totals of windows, so what it adopted does not name the key."""
    fleet, provider = voided(engine)
    pass_by(fleet, 5, 5)
    assert fleet.rows("SELECT state FROM pushes ORDER BY revision") == [("voided",), ("accepted",)]
    provider.charged[KEY] = PushRequest(KEY, "acme", "compute_1gb", 60, T0, 2)
    fleet.clock.at_ms += DAY_MS
    day = T0 - T0 % DAY_MS
    compare(fleet, from_ms=day, to_ms=day + DAY_MS, correct=True)
    pass_by(fleet, 5, 5)
    assert (charged(provider), fleet.one("SELECT COUNT(*) FROM adoptions WHERE kind = 'excess'")) == (60, 1)
    recovered(fleet)
    fleet.sample("acme", T0 + 2, 7)
    pass_by(fleet, 5, 5, 25 * 60, 5, 5)
    assert charged(provider) == 67
    proven(fleet)
