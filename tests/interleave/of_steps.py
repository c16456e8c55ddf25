"""The transactions of the product's steps: ticks, pushes, lookups, projections, the watch, halts, replay, reconcile."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine.effects import LoadWitness, Steps
from drawdown.worker.engine.shard import NewOrgs
from drawdown.worker.halts.dispatch import dispatch
from drawdown.worker.history.recover import recover
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.flips import FlipOptions, Wish, flip
from drawdown.worker.parity.parity import check_cells, check_totals
from drawdown.worker.push.confirm import confirm
from drawdown.worker.push.push import push
from drawdown.worker.reconcile.reconcile import ReconcileScope, reconcile
from drawdown.worker.replay import plan as planning
from drawdown.worker.replay.replay import replay
from drawdown.worker.tick import tick
from drawdown.worker.topup import actions as said
from drawdown.worker.topup.actions import Terms
from drawdown.worker.topup.fill import fill
from drawdown.worker.usage import withdrawals
from drawdown.worker.verdict import project as projecting
from drawdown.worker.verdict import refresh_requests as verdict_asks
from drawdown.worker.verdict.project import project
from drawdown.worker.verdict.refresh_requests import DueProjection
from drawdown.worker.watch import Watcher, watch
from tests.interleave.party import Act, Party, step
from tests.interleave.stage import NOW, T0, Stage

WITHOUT: Final = "other"
"""Most hosts do not have the third provider yet; the one whose tick begins does."""


TOPPED_UP: Final = Terms(5, 20, None, 10**8, "usd", "fake", "cus_1", 10**9)
"""In micro-credits, which cost a dollar each."""


def _ask(stage: Stage) -> None:
    """Somebody has to be asked about."""
    write(stage.engine, lambda c: verdict_asks.mark_for_projection(c, ["acme", "spent"], stage.clock.now_ms()))


def _halted(stage: Stage) -> None:
    """A halt that no cell was told of."""
    write(stage.engine, lambda c: orgs.halt(c, ["acme"], stage.by))


def _sweep_left(stage: Stage) -> None:
    """The last part of the nightly sweep, that of the newest windows."""
    stage.write("UPDATE buckets SET sweep_next_ms = sweep_next_ms - 3600000")


def _sealed(stage: Stage) -> None:
    """Something is due at the embedded ledger."""
    walk = stage.walk(tick(stage.context(WITHOUT)))
    walk.until("sweep", stage.engine)


def _withdrawn_as_it_is_sent(stage: Stage) -> None:
    """What gives it back is sealed once its push is settled."""
    write(stage.engine, lambda c: withdrawals.withdraw(c, ["a-6"], stage.by))


def sent_before(stage: Stage) -> None:
    """And was sent once, by a worker that died: it is not charged in place."""
    _sealed(stage)
    due = "provider = 'embedded' AND state = 'due' AND attempts = 0"
    stage.write(
        "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty) "
        f"SELECT window_ms, org_id, feature, revision, 1, {NOW}, 'gone', sent_qty FROM pushes WHERE {due}"
    )
    stage.write(f"UPDATE pushes SET attempts = 1, first_attempt_ms = {NOW}, claim_owner = 'gone' WHERE {due}")


def _seals(stage: Stage) -> Steps[Any]:
    return tick(stage.context(WITHOUT))


def _seals_and_assigns(stage: Stage) -> Steps[Any]:
    return tick(stage.context(WITHOUT, new_orgs=NewOrgs("embedded")))


def _looks_again(stage: Stage) -> Steps[Any]:
    """A tick whose host remembers something else by then than when it began."""
    context, known, steps = stage.context(WITHOUT), None, tick(stage.context(WITHOUT))
    assert context.witness is not None
    later = replace(context.witness, sends=0)
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            return stop.value
        answer, failure = None, None
        if isinstance(effect, LoadWitness):
            answer, known = known, later
            continue
        try:
            answer = yield effect
        except Exception as error:  # handed to the tick, which decides
            failure = error


def _replays(stage: Stage) -> Steps[Any]:
    found = read(stage.engine, lambda c: planning.plan(c, planning.ReplayScope(), T0, NOW - 2 * WINDOW_MS, NOW))
    return replay(stage.context(WITHOUT), found, stage.by, dry_run=False)


def _reconciles(stage: Stage) -> Steps[Any]:
    return reconcile(stage.context(WITHOUT), ReconcileScope(provider="fake", correct=True), stage.by)


def _compares_recent(stage: Stage) -> Steps[Any]:
    return reconcile(stage.context(WITHOUT), ReconcileScope(provider="fake", recent=True), stage.by)


def _compares(stage: Stage) -> Steps[Any]:
    """What one cell counted of the first day, which is taken to be over; another cannot be read."""
    day = T0 - T0 % DAY_MS
    clock = FixedClock(day + 2 * DAY_MS)
    yield from check_totals({(day, "cell-1"): {"acme": {1024: 60}, "nobody": {None: 5}}}, 0, clock)
    return (yield from check_cells([day], 0, clock))


def _doubts(stage: Stage) -> Steps[Any]:
    stage.write("UPDATE incarnation SET doubted_ms = :now, doubted_reason = 'a person requested it'", now=NOW)
    return recover(stage.context(WITHOUT), stage.by)


def _flips(stage: Stage) -> Steps[Any]:
    return flip(stage.context(WITHOUT), [Wish("acme"), Wish("drifter")], FlipOptions("fake"), stage.by)


def _fills(stage: Stage) -> Steps[Any]:
    return fill(stage.context(WITHOUT, payments={"fake": stage.pay.capabilities}))


def _runs_low(stage: Stage) -> None:
    """The wallet of one that has no credit is to be topped up."""
    write(stage.engine, lambda c: said.set_terms(c, "spent", TOPPED_UP, stage.pay.capabilities, stage.by))


def charged_in_vain(stage: Stage) -> None:
    """And was called, and nobody answered."""
    _runs_low(stage)
    stage.pay.script.append("answer_lost")
    stage.walk(_fills(stage)).rest(stage.engine)
    stage.clock.at_ms += 10_000


def _put_off(stage: Stage) -> Act:
    """The verdict of one organisation cannot be written: it is asked about later."""
    _ask(stage)
    context = stage.context(WITHOUT)
    asks = stage.rows("SELECT refresh_requests FROM orgs WHERE org_id = 'acme'")[0][0]
    put_off = partial(projecting._put_off, due=DueProjection("acme", "acme", asks, None, None), context=context)
    return Act(lambda engine: write(engine, put_off))


STEPS: Final = (
    step("begin_tick", lambda s: tick(s.context())),
    step("recognise", _looks_again),
    step("seal", _seals),
    step("seal newcomers", _seals_and_assigns),
    step("sweep", _seals, _sweep_left),
    step("end_tick", _seals),
    step("expire", lambda s: push(s.context(WITHOUT), "fake")),
    step("claim", lambda s: push(s.context(WITHOUT), "fake")),
    step("settle", lambda s: push(s.context(WITHOUT), "fake")),
    step("settle what was withdrawn", lambda s: push(s.context(WITHOUT), "fake"), _withdrawn_as_it_is_sent),
    step("charge", lambda s: push(s.context(WITHOUT), "embedded"), _sealed),
    step("claim embedded", lambda s: push(s.context(WITHOUT), "embedded"), sent_before),
    step("settle embedded", lambda s: push(s.context(WITHOUT), "embedded"), sent_before),
    step("claim_lookups", lambda s: confirm(s.context(WITHOUT), "fake")),
    step("confirm_accounted", lambda s: confirm(s.context(WITHOUT), "fake")),
    step("confirm_lost", lambda s: confirm(s.context(WITHOUT), "fake")),
    step("confirm", lambda s: confirm(s.context(WITHOUT), "fake")),
    step("projections_due", lambda s: project(s.context(WITHOUT), "embedded"), _ask),
    step("project", lambda s: project(s.context(WITHOUT), "embedded"), _ask),
    Party("project_later", _put_off),
    step("watch", lambda s: watch(s.context(WITHOUT), Watcher())),
    step("topup_begin", _fills, _runs_low),
    step("topup_claim", _fills, _runs_low),
    step("topup_settle", _fills, _runs_low),
    step("topup_claim_lookups", _fills, charged_in_vain),
    step("topup_settle_lookups", _fills, charged_in_vain),
    step("due_halts", lambda s: dispatch(s.context(WITHOUT))),
    step("claim_halts", lambda s: dispatch(s.context(WITHOUT)), _halted),
    step("settle_halts", lambda s: dispatch(s.context(WITHOUT)), _halted),
    step("begin_replay", _replays),
    step("replay", _replays),
    step("replay_backlog", _replays),
    step("reconcile_begins", _reconciles),
    step("reconcile_ours", _reconciles),
    step("reconcile_keep", _reconciles),
    step("keep_marks", _compares_recent),
    step("reconcile_accepted", _reconciles),
    step("reconcile_accounted", _reconciles),
    step("reconcile_short", _reconciles),
    step("reconcile_windows", _reconciles),
    step("reconcile_over", _reconciles),
    step("reconcile_lost", _reconciles),
    step("reconcile_drawn", _reconciles),
    step("parity_cells", _compares),
    step("parity_ours", _compares),
    step("parity_keep", _compares),
    step("recover", _doubts, last=True),
    step("flip_candidates", _flips, ends=(Refused,)),
    step("assign", _flips),
)
