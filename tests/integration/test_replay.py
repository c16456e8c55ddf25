"""Replay: chunks, a process that dies, two at once, a tick beside it, scopes, dry runs, and what is refused."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.replay import lines_of
from drawdown.ledger.rates import RateCard
from drawdown.providers.protocol import RetryAt
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import Transaction
from drawdown.worker.history.incarnation import HistoryDoubted, present
from drawdown.worker.history.witness import WitnessFile
from drawdown.worker.jobs.run_jobs import in_words
from drawdown.worker.replay import replay as replaying
from drawdown.worker.replay.plan import ReplayAhead, ReplayPlan, ReplayScope, plan
from drawdown.worker.replay.replay import Replayed, next_size, replay
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

END = T0 + 2 * DAY_MS


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    """Two days are sealed; then a sample an hour turns up that the cursor had missed."""
    return missed(Fleet(engine, extra={"fake": provider}))


def missed(made: Fleet, hours: int = 48) -> Fleet:
    made.assign("acme", provider="fake", from_ms=T0)
    made.assign("globex", provider="embedded", from_ms=T0)
    made.sample("acme", T0 + 1, 1)
    made.tick(END + WINDOW_MS)
    made.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:id, :org, 'box', 'cell-1', 1024, 10, :ts, :now)",
        [
            {"id": f"{org}-{hour}", "org": org, "ts": T0 + hour * 60 * MINUTE_MS + 5, "now": made.clock.at_ms}
            for hour in range(hours)
            for org in ("acme", "globex")
        ],
    )
    made.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 1")
    return made


def planned(fleet: Fleet, scope: ReplayScope = ReplayScope(), from_ms: int = T0, to_ms: int = END) -> ReplayPlan:  # noqa: B008 frozen
    return read(fleet.engine, lambda c: plan(c, scope, from_ms, to_ms, fleet.clock.now_ms()))


def run(fleet: Fleet, made: ReplayPlan, *, dry_run: bool = False, worker: str = "w1") -> Replayed:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(replay(fleet.context(worker), made, fleet.by, dry_run=dry_run), world)


def die_after(fleet: Fleet, made: ReplayPlan, chunks: int, worker: str = "dead") -> None:
    """Do a replay's first transactions, and never come back."""
    steps = replay(fleet.context(worker), made, fleet.by, dry_run=False)
    answer = None
    while True:
        effect = steps.send(answer)
        answer = None
        if isinstance(effect, Transaction):
            if effect.name == "replay":
                if not chunks:
                    return
                chunks -= 1
            answer = write(fleet.engine, effect.work)


def sealed(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT org_id, COUNT(*), CAST(SUM(sealed_qty) AS BIGINT) FROM pushes GROUP BY 1 ORDER BY 1")


BILLED = [("acme", 49, 481), ("globex", 48, 480)]
"""The first window of acme is billed in two revisions."""


def test_replay_of_missed_usage_seals_and_sends_once(fleet: Fleet, provider: FakeProvider) -> None:
    found = run(fleet, planned(fleet))
    assert (found.pushes, found.quantity, found.exit_status) == (96, 960, 0)
    assert sealed(fleet) == BILLED
    assert sum(push.quantity for push in provider.charged.values()) == 481
    assert run(fleet, planned(fleet)).pushes == 0
    assert sealed(fleet) == BILLED


def test_replay_dry_run_shows_prices_and_leaves_tables_unchanged(fleet: Fleet) -> None:
    tables = ("pushes", "seals", "replays", "attempts", "ledger_entries", "operator_actions", "dirty_windows")

    def figures() -> list[object]:
        return [fleet.one(f"SELECT COUNT(*) FROM {table}") for table in tables]

    before = figures()
    found = run(fleet, planned(fleet), dry_run=True)
    assert (found.pushes, found.exit_status, figures()) == (96, 0, before)
    totals = {(one.org_id, one.provider): (one.pushes, one.quantity, one.price_micro) for one in found.totals}
    assert totals == {("acme", "fake"): (48, 480, 48_000), ("globex", "embedded"): (48, 480, 48_000)}
    assert (found.first[0].org_id, found.first[0].window_ms, found.first[0].price_micro) == ("acme", T0, 1_000)
    assert RateCard([]).price("compute_1gb", T0, 10) is None


def test_replay_that_died_is_resumed_from_last_chunk(fleet: Fleet) -> None:
    made = planned(fleet)
    die_after(fleet, made, 2)
    so_far = int(str(fleet.one("SELECT next_ms FROM replays")))
    assert T0 < so_far < END
    fleet.clock.at_ms += 3 * MINUTE_MS
    found = run(fleet, planned(fleet))
    assert found.resumed_from_ms == so_far
    assert found.pushes + found.pushes_before == 96
    assert sealed(fleet) == BILLED
    assert fleet.one("SELECT COUNT(*) FROM replays WHERE finished_ms IS NULL") == 0
    assert fleet.tick_windows(1).sealed == 0


@pytest.mark.parametrize("beyond", [0, 1])
def test_replay_at_the_end_of_a_shorter_plan_is_refused(fleet: Fleet, beyond: int) -> None:
    """The replay ended at once, and counted as done."""
    die_after(fleet, planned(fleet), 2)
    reached = int(str(fleet.one("SELECT next_ms FROM replays")))
    fleet.clock.at_ms += 3 * MINUTE_MS
    with pytest.raises(ReplayAhead, match="Check that clock"):
        run(fleet, replace(planned(fleet), to_ms=reached - beyond * WINDOW_MS))
    run(fleet, planned(fleet))
    assert sealed(fleet) == BILLED


def test_replay_that_died_over_24_hours_ago_restarts(fleet: Fleet) -> None:
    die_after(fleet, planned(fleet), 2)
    fleet.clock.at_ms += DAY_MS + 3 * MINUTE_MS
    assert run(fleet, planned(fleet)).resumed_from_ms is None
    assert sealed(fleet) == BILLED


@pytest.mark.parametrize(
    "second",
    [ReplayScope(), ReplayScope(("acme", "globex")), ReplayScope(provider="fake")],
    ids=["all", "orgs", "provider"],
)
def test_second_replay_of_same_windows_is_refused_and_names_first(fleet: Fleet, second: ReplayScope) -> None:
    die_after(fleet, planned(fleet, ReplayScope(("acme",))), 1, worker="the-first")
    with pytest.raises(Refused, match=r"test \(the-first\) started it at .* for acme, .*has reached"):
        run(fleet, planned(fleet, second, T0 + DAY_MS, END), worker="w2")
    fleet.clock.at_ms += 3 * MINUTE_MS
    run(fleet, planned(fleet, second, T0, END), worker="w2")
    assert sealed(fleet)[0] == BILLED[0]


def test_concurrent_replays_of_different_windows_succeed(fleet: Fleet) -> None:
    die_after(fleet, planned(fleet, ReplayScope(("acme",)), T0, T0 + DAY_MS), 1)
    assert run(fleet, planned(fleet, ReplayScope(("globex",)))).pushes == 48
    assert run(fleet, planned(fleet, ReplayScope(("acme",)), T0 + DAY_MS, END), worker="w2").pushes == 24


def test_replay_taken_over_by_other_worker_is_refused(fleet: Fleet) -> None:
    made = planned(fleet)
    steps = replay(fleet.context("slow"), made, fleet.by, dry_run=False)
    effect, answer = steps.send(None), None
    while not (isinstance(effect, Transaction) and effect.name == "replay"):
        answer = write(fleet.engine, effect.work) if isinstance(effect, Transaction) else None
        effect = steps.send(answer)
    fleet.clock.at_ms += 3 * MINUTE_MS
    run(fleet, planned(fleet), worker="fast")
    with pytest.raises(Refused, match="took it over"):
        write(fleet.engine, effect.work)
    assert sealed(fleet) == BILLED


def test_replay_on_database_recovered_between_chunks_is_refused(fleet: Fleet) -> None:
    steps = replay(fleet.context(), planned(fleet), fleet.by, dry_run=False)
    effect = steps.send(None)
    while not (isinstance(effect, Transaction) and effect.name == "replay"):
        effect = steps.send(write(fleet.engine, effect.work) if isinstance(effect, Transaction) else None)
    effect = steps.send(write(fleet.engine, effect.work))
    before = sealed(fleet)
    fleet.write("UPDATE incarnation SET number = number + 1")
    assert isinstance(effect, Transaction) and effect.name == "replay"
    with pytest.raises(HistoryDoubted, match="the database changed"):
        write(fleet.engine, effect.work)
    assert sealed(fleet) == before


def test_replay_on_restored_database_stores_doubt_for_other_machines(fleet: Fleet, tmp_path: Path) -> None:
    made, known = planned(fleet), read(fleet.engine, present)
    file = WitnessFile(tmp_path)
    file.save(fleet.engine, replace(known, sends=known.sends + 1))
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock, witness=file)
    with pytest.raises(HistoryDoubted, match="cannot replay"):
        runner.run(replay(fleet.context(), made, fleet.by, dry_run=False), world)
    with pytest.raises(HistoryDoubted, match="cannot replay"):
        run(fleet, made, worker="a machine without a checkpoint")


def test_tick_between_replay_chunks_does_not_seal_twice(fleet: Fleet) -> None:
    die_after(fleet, planned(fleet), 2)
    fleet.write("UPDATE buckets SET cursor = 0, epoch = epoch + 1")  # the tick finds all of it, too
    fleet.tick_windows(1)
    assert sealed(fleet) == BILLED
    found = run(fleet, planned(fleet))
    assert (found.pushes, sealed(fleet)) == (0, BILLED)


def test_replay_concurrent_with_ticks_bills_once(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FakeProvider(capabilities())
    fleet = missed(Fleet(postgres, extra={"fake": provider}))
    monkeypatch.setattr(replaying, "FIRST_CHUNK", WINDOW_MS)
    monkeypatch.setattr(replaying, "CHUNK_LOAD", 1)
    fleet.write("UPDATE buckets SET cursor = 0, epoch = epoch + 1")
    made = planned(fleet, ReplayScope(), T0, T0 + 8 * WINDOW_MS)
    start = threading.Barrier(3)
    failures: list[Exception] = []

    def replayed() -> None:
        start.wait()
        run(fleet, made)

    def ticked() -> None:
        start.wait()
        for _ in range(3):
            fleet.tick(worker=threading.current_thread().name)

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (replayed, ticked, ticked)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    fleet.tick_windows(1)
    assert sealed(fleet) == BILLED
    assert sum(push.quantity for push in provider.charged.values()) == 481


def test_replay_of_provider_seals_only_its_usage(fleet: Fleet, provider: FakeProvider) -> None:
    assert run(fleet, planned(fleet, ReplayScope(provider="fake"))).pushes == 48
    assert sealed(fleet) == BILLED[:1]


def test_replay_across_reassignment_bills_each_window_at_its_provider(fleet: Fleet) -> None:
    flip = fleet.clock.at_ms + 25 * WINDOW_MS - fleet.clock.at_ms % WINDOW_MS
    fleet.assign("acme", provider="embedded", from_ms=flip)
    fleet.tick_windows(60)
    fleet.sample("acme", flip - 1, 7)
    fleet.sample("acme", flip, 5)
    fleet.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 2")
    ends = (flip - WINDOW_MS, flip + WINDOW_MS)
    made = planned(fleet, ReplayScope(("acme",)), *ends)
    assert [(one.org_id, one.at_ms, one.was, one.becomes) for one in made.flips] == [("acme", flip, "fake", "embedded")]
    assert run(fleet, planned(fleet, ReplayScope(provider="embedded"), *ends), dry_run=True).quantity == 5
    found = run(fleet, made)
    assert {(one.provider, one.quantity) for one in found.totals} == {("fake", 7), ("embedded", 5)}


def test_replay_left_out_usage_is_counted_by_reason(fleet: Fleet) -> None:
    fleet.assign("free", provider="none", from_ms=T0)
    fleet.sample("free", T0 + 5, 30)
    fleet.sample("free", T0 + 6, -1)
    fleet.write(
        "INSERT INTO pending_usage (window_ms, org_id, memory_mb, reason, seconds, samples) "
        f"VALUES ({T0}, 'acme', 3000, 'no_mapping', 20, 1), ({T0}, 'acme', 5000, 'no_mapping', 10, 1)"
    )
    made = {one.why: (one.unit, one.windows, one.quantity) for one in run(fleet, planned(fleet), dry_run=True).left_out}
    assert made["exempt: none"] == ("s", 1, 30)
    assert made["pending: no_mapping"] == ("s", 1, 30)
    assert [unit for why, (unit, _, _) in made.items() if why.startswith("quarantined")] == ["samples"]


def test_replay_counts_window_with_two_shadow_revisions_once(engine: sa.Engine) -> None:
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities(live_from_ms=T0 + 366 * DAY_MS))})
    fleet.assign("acme", provider="fake")
    for seconds in (60, 5):
        fleet.sample("acme", T0 + 1, seconds)
        fleet.tick_windows(3)
    assert fleet.rows("SELECT revision, state FROM pushes ORDER BY 1") == [(0, "shadow"), (1, "shadow")]
    (left,) = run(fleet, planned(fleet, to_ms=T0 + WINDOW_MS), dry_run=True).left_out
    assert (left.why, left.windows, left.quantity) == ("shadow: fake", 1, 65)


def test_replay_below_floor_is_refused_for_org_and_cut_for_all(fleet: Fleet) -> None:
    fleet.write(f"UPDATE orgs SET floor_ms = {T0 + DAY_MS} WHERE org_id = 'acme'")
    with pytest.raises(UsageError, match=r"closed for good.*--from 2026-01-02T00:00:00Z"):
        planned(fleet, ReplayScope(("acme",)))
    made = planned(fleet)
    assert made.floored == 1
    assert run(fleet, made).pushes == 24 + 48


def test_replay_of_stopped_org_is_left_out_and_named(fleet: Fleet) -> None:
    fleet.write("UPDATE orgs SET stopped_at_ms = 1, stopped_reason = 'x' WHERE org_id = 'acme'")
    made = planned(fleet)
    assert made.stopped == ("acme",)
    assert run(fleet, made).pushes == 48
    assert run(fleet, planned(fleet, ReplayScope(("acme",)))).pushes == 0


def test_replay_range_is_cut_at_horizon_and_first_use(fleet: Fleet) -> None:
    made = planned(fleet, ReplayScope(), T0 - 400 * DAY_MS, END + DAY_MS)
    assert (made.from_ms, made.to_ms) == (T0, END)
    assert made.cut_at_horizon
    assert made.cut_at_first_use


def test_replay_invalid_range_or_scope_is_refused(fleet: Fleet) -> None:
    for scope, span, error, text in (
        (ReplayScope(), (T0 + 5, T0), UsageError, "ends before it begins"),
        (ReplayScope(), (END + DAY_MS, END + 2 * DAY_MS), UsageError, "not closed yet"),
        (ReplayScope(), (T0 - DAY_MS, T0), UsageError, r"before the first sample of all organisations \(2026-01-01"),
        (ReplayScope(("globex",)), (T0 - DAY_MS, T0), UsageError, "before the first sample of globex"),
        (ReplayScope(("nobody",)), (T0, END), UnknownId, "unknown organisation nobody"),
        (ReplayScope(provider="stripe"), (T0, END), Refused, "never billed an organisation"),
        (ReplayScope(provider="none"), (T0, END), Refused, "does not bill usage here"),
        (
            ReplayScope(provider="fake"),
            (T0 - DAY_MS, T0),
            Refused,
            "not bill any organisation in that range. Its first",
        ),
    ):
        with pytest.raises(error, match=text):
            planned(fleet, scope, *span)


@pytest.mark.parametrize("into", [0, WINDOW_MS])
def test_replay_of_usage_in_open_windows_only_is_refused(engine: sa.Engine, into: int) -> None:
    """Begun, it would be at work for ever: there is no window by which it could end."""
    fleet = Fleet(engine)
    fleet.clock.at_ms = T0 + WINDOW_MS
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0 + into + 1)
    with pytest.raises(UsageError, match="is in a window that is not closed yet"):
        planned(fleet, ReplayScope(), T0 - DAY_MS, T0 + DAY_MS)


def test_replay_push_to_retry_is_sent_by_next_tick(fleet: Fleet, provider: FakeProvider) -> None:
    key = f"usage:acme:{T0}:compute_1gb:r1"
    provider.answers[key] = RetryAt(fleet.clock.at_ms + MINUTE_MS, "busy")
    found = run(fleet, planned(fleet))
    assert (found.backlog.due, found.exit_status) == (1, 75)
    del provider.answers[key]
    assert fleet.tick_windows(1).exit_status == 0


def test_replay_output_shows_unsettled_pushes_apart_from_owed(fleet: Fleet, provider: FakeProvider) -> None:
    provider.answers[f"usage:acme:{T0}:compute_1gb:r1"] = RetryAt(fleet.clock.at_ms + MINUTE_MS, "busy")
    assert run(fleet, planned(fleet)).open_pushes == 1
    again = run(fleet, planned(fleet), dry_run=True)
    waits = "1 push (10 units) is still to be settled"
    assert lines_of(again)[0] == f"would seal 0 pushes, 0 units: no more usage to seal; {waits}"
    assert in_words(0, again) == f"nothing more to seal; {waits}"
    assert in_words(3, again) == f"sealed 3 pushes; {waits}"
    for scope, waiting in (
        (ReplayScope(("acme",)), 1), (ReplayScope(("globex",)), 0),
        (ReplayScope((), "fake"), 1), (ReplayScope((), "embedded"), 0),
    ):  # fmt: skip
        assert run(fleet, planned(fleet, scope), dry_run=True).open_pushes == waiting, scope
    assert run(fleet, planned(fleet, from_ms=T0 + WINDOW_MS), dry_run=True).open_pushes == 0
    provider.answers.clear()
    fleet.tick_windows(1)
    again = run(fleet, planned(fleet), dry_run=True)
    assert lines_of(again)[0] == "would seal 0 pushes, 0 units: no more usage is owed"


@pytest.mark.parametrize(
    ("size", "load", "following"),
    [
        (12 * WINDOW_MS, 0, 48 * WINDOW_MS),
        (DAY_MS, 0, DAY_MS),
        (DAY_MS, replaying.CHUNK_LOAD * 2, DAY_MS // 2),
        (WINDOW_MS, replaying.CHUNK_LOAD * 9, WINDOW_MS),
    ],
)
def test_replay_chunk_grows_to_a_day_and_shrinks_under_load(size: int, load: int, following: int) -> None:
    assert next_size(size, load) == following
