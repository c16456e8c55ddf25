"""What people's commands change, each in one transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import CustomerChanged
from drawdown.schema.database import read, write
from drawdown.schema.declare import Invocation
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.checks import checks, proofs
from drawdown.worker.checks.proofs import stop_breached
from drawdown.worker.features import actions as features
from drawdown.worker.halts import cells
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments
from drawdown.worker.provider import actions as providers
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import BillFile, BillLine
from drawdown.worker.push import actions as pushes
from drawdown.worker.push import evidence
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.reconcile.acknowledgement import acknowledge
from drawdown.worker.seal import stops
from drawdown.worker.sources.samples.quarantine import QuarantineFilter
from drawdown.worker.tick import tick
from drawdown.worker.topup import actions as topups
from drawdown.worker.usage import prune, withdrawals
from drawdown.worker.usage import quarantined as samples
from drawdown.worker.verify.verify import Breach, Verification
from drawdown.worker.wallets import actions as credit
from tests.interleave.of_steps import TOPPED_UP, charged_in_vain
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import FLIP, NOW, OLD, OTHER_CAN, SEEN, T0, Stage, key

DAY: Final = NOW - NOW % DAY_MS
BILLS: Final = BillFile("a file", [BillLine("cloud", "vm", DAY, "USD", 5, False)])


def _granted(stage: Stage) -> Iterator[str]:
    """Once for a key, and once for each command without one."""
    for (times,) in stage.rows(
        "SELECT COUNT(*) FROM ledger_entries e WHERE kind = 'grant' AND amount_micro = 5 AND key = 'grant:invoice-1'"
    ):
        if times != 1:
            yield f"granted {times} times"


def _stop_breached(_stage: Stage, connection: sa.Connection) -> None:
    found = Verification()
    found.add(Breach(1, "acme", None, None, "somebody tampered with it"))
    stop_breached(connection, found, NOW, "somebody")


def _floored(stage: Stage) -> Act:
    """The floors are raised; the samples below go in transactions of their own."""
    write(stage.engine, lambda c: prune.raise_floors(c, before=OLD + DAY_MS, by=stage.by))
    return Act(lambda engine: write(engine, lambda c: prune._delete_between(c, since=OLD, to=OLD + DAY_MS)))


def _foldable(stage: Stage) -> Act:
    """The floors are raised, and a person's word is on record; the pushes below go in transactions of their own."""
    write(stage.engine, lambda c: prune.raise_floors(c, before=OLD + DAY_MS, by=stage.by))
    write(stage.engine, lambda c: prune._say(c, before=OLD + DAY_MS, by=stage.by))
    whole = partial(prune.fold_between, since=OLD, to=OLD + DAY_MS, before=OLD + DAY_MS, now_ms=NOW)
    return Act(lambda engine: write(engine, whole))


def _folded(stage: Stage) -> Iterator[str]:
    """Its push is in the sum, once, and nowhere else."""
    sums = stage.rows("SELECT pushes, sealed_qty FROM folded_pushes WHERE org_id = 'held'")
    left = stage.rows("SELECT 1 FROM pushes WHERE org_id = 'held' AND window_ms = :window", window=OLD)
    if [tuple(row) for row in sums] != [(1, 60)] or left:
        yield f"folded are {sums}, and left {left}"


def _mends_a_twin(stage: Stage) -> Act:
    """A sample of the same sandbox and moment, under an id of its own."""
    if not stage.rows("SELECT 1 FROM usage_samples WHERE id = 'seconds again'"):  # the same command once more
        stage.sample("seconds again", "acme", (FLIP + 9_000) // 1_000)
    chosen = QuarantineFilter(ids=("seconds again",))
    return Act(lambda engine: write(engine, lambda c: samples.fix(c, chosen, stage.by)))


def _one_of_a_moment(stage: Stage) -> Iterator[str]:
    """A sandbox is not billed twice for a moment."""
    ((there,),) = stage.rows("SELECT COUNT(*) FROM usage_samples WHERE org_id = 'acme' AND ts = :ts", ts=FLIP + 9_000)
    if there > 1:
        yield f"{there} samples of a sandbox and moment were entered again"
    yield from _set_aside_or_entered(stage)


def _set_aside_or_entered(stage: Stage) -> Iterator[str]:
    """What was dismissed is not billed by another id, and what was entered again is told as that."""
    ((new_id,),) = stage.rows("SELECT new_id FROM quarantine_closed WHERE sample_id = 'seconds'") or [(None,)]
    ((there,),) = stage.rows("SELECT COUNT(*) FROM usage_samples WHERE id = 'seconds:fixed'")
    if bool(there) != (new_id is not None):
        yield f"seconds is told as {new_id or 'set aside'}, and was entered again {there} times"


def _resolved(stage: Stage) -> Act:
    """Its console shows that it was charged."""
    stage.charge(2)
    return Act(lambda engine: write(engine, lambda c: pushes.resolve_accepted(c, [SEEN], stage.by, "their console")))


def _lost(stage: Stage) -> Act:
    """It was read in doubt: whoever accepts it meanwhile has not looked it up for the command."""
    lost = list(read(stage.engine, lambda c: find_pushes(c, [key(7)])).values())
    return Act(lambda engine: write(engine, lambda c: pushes.void(c, [key(7)], stage.by, "their console", lost=lost)))


CANCELLED: Final = key(8)
"""Accepted, and wrong."""


def _intended(stage: Stage) -> Act:
    """The provider is asked after it, and what it confirms is voided."""
    said: list[list[pushes.Intent]] = []
    can = {"fake": stage.fake.capabilities}

    def transaction(engine: sa.Engine) -> None:
        said.append(write(engine, lambda c: pushes.intend(c, [CANCELLED], stage.by, can)))

    def after(engine: sa.Engine) -> None:
        for intents in said[-1:]:  # none where it was refused
            _concludes(stage, intents, engine)

    return Act(transaction, after)


def _concluded(stage: Stage) -> Act:
    can = {"fake": stage.fake.capabilities}
    intents = write(stage.engine, lambda c: pushes.intend(c, [CANCELLED], stage.by, can))
    return Act(lambda engine: _concludes(stage, intents, engine))


def _concludes(stage: Stage, intents: list[pushes.Intent], engine: sa.Engine) -> None:
    answers = [asyncio.run(stage.fake.cancel(intent.request)) for intent in intents]
    write(engine, lambda c: pushes.conclude(c, intents, answers, stage.by))


def _cancelled(stage: Stage) -> Iterator[str]:
    """It counts nowhere any more, and its usage was charged once under the next revision."""
    ((state,),) = stage.rows("SELECT state FROM pushes WHERE key = :key", key=CANCELLED)
    if state == "voided" and CANCELLED in stage.fake.charged:
        yield f"{CANCELLED} is voided, and counts at its provider"


def _resolved_all(stage: Stage) -> Act:
    """Its console shows that all of a window's pushes in doubt were charged: there is one."""
    stage.charge(2)
    return _all_in_doubt(stage, 2, "accepted")


def _none_arrived(stage: Stage) -> Act:
    return _all_in_doubt(stage, 7, "absent")


def _all_in_doubt(stage: Stage, window: int, outcome: pushes.Outcome) -> Act:
    """The transaction of one portion, of all in doubt of a window."""
    from_ms = T0 + window * WINDOW_MS
    work = partial(
        pushes._portion,
        chosen=pushes.DoubtFilter(provider="fake", from_ms=from_ms, to_ms=from_ms + WINDOW_MS),
        outcome=outcome,
        by=stage.by,
        evidence="their console",
        after=(pushes.FIRST_MS, "", "", -1),
        most=pushes.AT_ONCE,
    )
    return Act(lambda engine: write(engine, work))


def _paused(stage: Stage) -> Act:
    write(stage.engine, lambda c: providers.pause(c, "fake", stage.by))
    return Act(lambda engine: write(engine, lambda c: providers.resume(c, "fake", stage.by)))


def _changed(stage: Stage) -> Act:
    """The third provider has another unit than when it was met; nothing was sent to it yet."""
    steps = tick(stage.context())
    stage.walk(steps).until("sweep", stage.engine)
    stage.other.capabilities = replace(OTHER_CAN, unit=60)
    can = stage.other.capabilities
    return Act(lambda engine: providers.accept(partial(write, engine), "other", can, stage.by))


MARK: Final = evidence.Mark(("acme", "compute_2gb"), NOW, 0, "acme", reported_quantity=3)


def _tells(stage: Stage) -> Act:
    """As a reconciliation does of a balance that fell by what is in no account of ours."""
    stage.told += MARK.reported_quantity
    return Act(lambda engine: write(engine, lambda c: evidence.write_marks(c, "fake", [MARK], NOW)))


def _acknowledged(stage: Stage) -> Act:
    _tells(stage).transaction(stage.engine)
    return Act(lambda engine: write(engine, lambda c: acknowledge(c, "acme", stage.by)))


def _still_told(stage: Stage) -> Iterator[str]:
    """What was told was acknowledged, or is told still."""
    seen = stage.rows("SELECT details FROM operator_actions WHERE action = 'balance_acknowledge'")
    left = stage.rows("SELECT told_qty FROM balance_marks WHERE feature = 'compute_2gb'")
    found = sum(json.loads(row[0])["quantity"] for row in seen) + sum(int(row[0]) for row in left)
    if found != stage.told:
        yield f"{stage.told} were told, {found} are acknowledged or still told"


def _overridden(stage: Stage, connection: sa.Connection) -> None:
    orgs.override(connection, "acme", stage.by, max_concurrent=9, halted=None, until_ms=None)


def _topped_up(stage: Stage) -> None:
    write(stage.engine, lambda c: topups.set_terms(c, "spent", TOPPED_UP, stage.pay.capabilities, stage.by))


def _topped_up_otherwise(stage: Stage, connection: sa.Connection) -> None:
    """By a service of which nobody knows what it takes."""
    can = replace(stage.pay.capabilities, least={})
    topups.set_terms(connection, "spent", replace(TOPPED_UP, currency="eur"), can, stage.by)


def _one_currency(stage: Stage) -> Iterator[str]:
    """Nobody gives `--new` here: a wallet that has a currency keeps it."""
    found = stage.rows("SELECT details FROM operator_actions WHERE action = 'topup_set' AND target = 'spent'")
    currencies = {json.loads(str(details))["currency"] for (details,) in found}
    if len(currencies) > 1:
        yield f"the wallet was topped up in {sorted(currencies)}"


def _of_topups(name: str, work: Callable[[Stage, sa.Connection], object]) -> Party:
    """Of a wallet that has terms."""

    def ready(stage: Stage) -> Act:
        _topped_up(stage)
        return Act(lambda engine: write(engine, lambda c: work(stage, c)))

    return Party(name, ready)


def _stops_all(stage: Stage, connection: sa.Connection) -> None:
    stopped = topups._stop(connection, Invocation(stage.by), all_=True)
    stage.may_leave = (stopped.open_topups, len(stage.pay.charges))


def _no_more_leave(stage: Stage) -> Iterator[str]:
    """What is charged after all were stopped was counted, unless that stop was undone."""
    most, before = stage.may_leave
    left = len(stage.pay.charges) - before
    if left > most and stage.rows("SELECT 1 FROM topup_switch WHERE stopped_ms IS NOT NULL"):
        yield f"all were stopped, {most} could still be paid, and {left} were charged"


def _doubted(stage: Stage) -> Act:
    """A charge that nobody answered, and of which a person knows."""
    charged_in_vain(stage)
    taken = stage.pay.taken[-1]
    return Act(
        lambda engine: write(
            engine, lambda c: topups.resolve(c, taken.charge_id, taken.payment_id, "their dashboard", stage.by)
        )
    )


def _bills_shadow(stage: Stage, connection: sa.Connection) -> None:
    """The windows of `fake` from the first on, as if they had been sealed in shadow until now."""
    connection.exec_driver_sql(
        f"UPDATE provider_states SET live_from_ms = {NOW - NOW % WINDOW_MS} WHERE provider = 'fake'"
    )
    with suppress(Refused):  # nothing of it is in shadow
        providers.bill_shadow(connection, "fake", NOW - NOW % WINDOW_MS - DAY_MS, stage.by)


PEOPLE: Final = (
    plain("cli.declared:run ledger grant", lambda s, c: credit.grant(c, "acme", 7, s.by, key="paid", plan="free")),
    plain(
        "cli.declared:run ledger grant keyed",
        lambda s, c: credit.grant(c, "spent", 5, s.by, key="invoice-1", plan=None),
        _granted,
    ),
    plain(
        "cli.declared:run vendor set",
        lambda s, c: vendors.set_units(
            c, "compute_1gb", vendors.Units("cloud", "vm", "hour", 1, 5, 3600, "USD"), DAY, s.by, new=False
        ),
    ),
    plain("cli.nouns.ledger:spenders_", lambda s, c: checks.check_spenders(c, s.by.now_ms)),
    plain("cli.nouns.vendors:drift", lambda s, c: checks.check_vendors(c, s.by.now_ms)),
    plain("server.api.cron:_vendors", lambda s, c: checks.check_vendors(c, s.by.now_ms)),
    plain("cli.nouns.vendors:import_", lambda s, c: vendors.import_bills(c, BILLS, s.by)),
    plain("cli.declared:run ledger rate", lambda s, c: credit.set_rate(c, "compute_1gb", 7, 1, s.by, from_ms=None)),
    plain("cli.declared:run plan set", lambda s, c: credit.set_plan_limit(c, "free", 3, s.by)),
    plain("cli.declared:run sample withdraw", lambda s, c: withdrawals.withdraw(c, ["acme-1", "a-8"], s.by)),
    plain("cli.declared:run sample withdraw what was rejected", lambda s, c: withdrawals.withdraw(c, ["a-1"], s.by)),
    plain(
        "cli.declared:run sample repair",
        lambda s, c: samples.fix(c, QuarantineFilter(ids=("seconds",)), s.by),
        _one_of_a_moment,
    ),
    Party("cli.declared:run sample repair its twin", _mends_a_twin, _one_of_a_moment),
    plain(
        "cli.declared:run sample dismiss",
        lambda s, c: samples.dismiss(c, QuarantineFilter(ids=("seconds",)), s.by),
        _set_aside_or_entered,
    ),
    plain("worker.usage.prune:prune", lambda s, c: prune.raise_floors(c, before=OLD + DAY_MS, by=s.by)),
    Party("worker.usage.prune:in_portions", _floored),
    plain("worker.usage.prune:fold", lambda s, c: prune._say(c, before=OLD + DAY_MS, by=s.by)),
    Party("worker.usage.prune:in_portions folding", _foldable, _folded),
    plain("cli.declared:run provider pause", lambda s, c: providers.pause(c, "other", s.by)),
    Party("cli.declared:run provider pause undone", _paused),
    plain("cli.nouns.providers:bill_shadow", _bills_shadow),
    Party("worker.provider.actions:accept", _changed),
    plain("cli.nouns.providers:webhook", lambda s, c: apply_notices(c, "embedded", [CustomerChanged("acme")], NOW)),
    plain("cli.declared:run push retry", lambda s, c: pushes.retry(c, [key(1), key(6)], s.by)),
    Party("cli.declared:run push resolve", _resolved),
    Party("cli.nouns.pushes:cancel", _intended, _cancelled),
    Party("cli.nouns.pushes:cancel concluding", _concluded, _cancelled),
    Party("worker.push.actions:resolve_all", _resolved_all),
    Party("worker.push.actions:resolve_all absent", _none_arrived),
    plain("cli.declared:run push void", lambda s, c: pushes.void(c, [key(7)], s.by, "their console")),
    Party("cli.nouns.pushes:void_lost", _lost),
    plain("cli.declared:run org override", _overridden),
    plain(
        "cli.declared:run org override ending",
        lambda s, c: orgs.override(c, "spent", s.by, max_concurrent=None, halted=False, until_ms=NOW + 1),
    ),
    plain("cli.declared:run org halt", lambda s, c: orgs.halt(c, ["acme"], s.by)),
    plain("cli.declared:run org halt undone", lambda s, c: orgs.halt(c, ["idle"], s.by, undo=True)),
    plain(
        "cli.declared:run org resume",
        lambda s, c: stops.resume_org(c, org_id="held", reason="fixed", now_ms=NOW, actor="somebody"),
    ),
    plain(
        "stop_org",
        lambda s, c: stops.stop_org(c, org_id="acme", reason="bad", now_ms=NOW, actor="somebody"),
    ),
    plain("cli.nouns.cells:set_", lambda s, c: cells.set_cell(c, "cell-1", "http://cell-1/", s.by, new=False)),
    plain("cli.declared:run cell remove", lambda s, c: cells.remove_cell(c, "cell-1", s.by)),
    plain("cli.nouns.orgs:_undo", lambda s, c: assignments.cancel(c, "later", s.by, NOW + DAY_MS)),
    plain(
        "cli.declared:run feature map",
        lambda s, c: features.map_size(
            c, "compute_rest", s.by, kind="up_to", memory_mb=None, unit="s", from_ms=FLIP, confirmed=True
        ),
    ),
    plain("cli.declared:run feature end", lambda s, c: features.end_feature(c, "compute_16gb", s.by)),
    plain(
        "cli.declared:run provider rate",
        lambda s, c: providers.set_rate(c, "fake", "compute_1gb", (5, 1), s.by, from_ms=None),
    ),
    plain(
        "cli.declared:run provider when-down",
        lambda s, c: providers.set_when_down(c, "embedded", "free", "stop", s.by),
    ),
    plain(
        "cli.nouns.topups:set_",
        lambda s, c: topups.set_terms(c, "spent", TOPPED_UP, s.pay.capabilities, s.by),
    ),
    plain(
        "cli.nouns.topups:set_ in another currency",
        _topped_up_otherwise,
        _one_currency,
    ),
    _of_topups("cli.nouns.topups:resume", lambda s, c: topups.resume(c, "spent", s.by)),
    _of_topups("cli.nouns.topups:_set_mode", lambda s, c: topups.set_mode(c, "spent", "stopped", s.by)),
    plain("cli.declared:run topup stop", _stops_all, _no_more_leave),
    plain("cli.declared:run topup stop undone", lambda s, c: topups.switch(c, s.by, stopped=False)),
    Party("cli.declared:run topup resolve", _doubted),
    plain("cli.nouns.database:verify_", _stop_breached),
    plain("cli.nouns.database:_keep_proof", lambda s, c: proofs.keep(c, Verification(), s.by)),
    Party("cli.nouns.reconcile:_acknowledge", _acknowledged, _still_told),
    Party("cli.nouns.reconcile:_acknowledge tells", _tells),
)
