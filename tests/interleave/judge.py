"""What must be true once both transactions have ended and ticks have settled the rest.

Guarantee: what should be billed is worked out in Python from what hosts wrote (`tests.simulation.oracle`), not by the
product's SQL; what is forgotten in the end counts, however many ticks might have fixed it by chance.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.history.recover import recover
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.jobs.run_jobs import do_jobs
from drawdown.worker.provider import actions as providers
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.outcome import OTHERS
from drawdown.worker.seal import stops
from drawdown.worker.topup.fill import fill
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.interleave.stage import LOST, OTHER_CAN, RAW, SEEN, Stage
from tests.simulation.oracle import Assignment, Oracle, Rule, Sample

ORIGINS: Final = frozenset(f"https://{name}.example:443" for name in ("app", "new", "b"))
"""Of the operator's product."""
DRAINS: Final = 8
"""Ticks in which everything has to be settled: two revisions of one window, with a lookup before each, and one more."""

HELD_UP: Final = """
SELECT p.key FROM pushes p WHERE p.state = 'in_doubt' AND p.provider = 'fake' AND EXISTS (SELECT 1 FROM pushes o
    WHERE o.org_id = p.org_id AND o.provider = 'fake' AND o.state = 'queued' AND o.last_error = :others)
"""
"""What a person alone can tell of, and others of its customer wait for."""
TERMS: Final = "SELECT terms FROM provider_states WHERE terms IS NOT NULL"
OPEN: Final = """
SELECT 'push ' || key || ' is ' || state FROM pushes WHERE state IN ('due', 'queued')
UNION ALL SELECT 'window ' || window_ms || ' of ' || org_id || ' is dirty' FROM dirty_windows
UNION ALL SELECT 'the halt of ' || org_id || ' on ' || cell_id || ' is due' FROM halts h WHERE acked_at_ms IS NULL
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = h.org_id AND o.is_halted AND o.halted_at = h.halted_at)
UNION ALL SELECT org_id || ' is to be asked about' FROM orgs WHERE projection_due_ms IS NOT NULL
    AND billing_provider NOT IN ('legacy', 'none')
UNION ALL SELECT 'push ' || p.key || ' waits for credit that is there' FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.state = 'rejected' AND p.due_at_ms > p.settled_ms AND p.refused_attempts IS NULL
    AND o.billing_provider = p.provider AND p.window_ms >= o.floor_ms
UNION ALL SELECT 'message ' || message_id || ' is due at ' || endpoint FROM hook_deliveries WHERE state = 'due'
"""


def settle(stage: Stage) -> None:
    """What a person and the next ticks do."""
    if stage.rows("SELECT 1 FROM incarnation WHERE doubted_ms IS NOT NULL"):
        stage.walk(recover(stage.context(), stage.by)).rest(stage.engine)
    for (org,) in stage.rows("SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL"):
        resume = partial(stops.resume_org, org_id=org, reason="fixed", now_ms=stage.clock.now_ms(), actor="somebody")
        write(stage.engine, resume)
    for (name,) in stage.rows("SELECT provider FROM provider_states WHERE paused_ms IS NOT NULL"):
        write(stage.engine, partial(providers.resume, provider=name, by=stage.by))
    for _ in range(DRAINS):
        _heed(stage)  # each time: a job that was to accept settings may have failed since
        stage.clock.at_ms += 2 * WINDOW_MS
        stage.tick()
        if stage.rows("SELECT 1 FROM jobs WHERE kind = 'topup' AND state IN ('waiting', 'under_way')"):
            stage.walk(do_jobs(_paying(stage))).rest(stage.engine)
        if stage.rows("SELECT 1 FROM topups"):
            stage.walk(fill(_paying(stage))).rest(stage.engine)
        if stage.rows("SELECT 1 FROM hook_deliveries"):
            stage.walk(deliver(stage.context(hooks=ORIGINS))).rest(stage.engine)
        if not stage.rows(OPEN):
            return


def _paying(stage: Stage) -> Context:
    """A worker that has the payment service."""
    return stage.context(payments={"fake": stage.pay.capabilities})


def _heed(stage: Stage) -> None:
    """What those who were refused were told to do: settings that could not be accepted are put back, unless that is
    ordered, and what a console shows is said again."""
    for (terms,) in stage.rows(
        "SELECT terms FROM provider_states WHERE provider = 'other' AND terms IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM jobs WHERE kind = 'accept' AND state IN ('waiting', 'under_way'))"
    ):
        if json.loads(terms)["unit"] == OTHER_CAN.unit:
            stage.other.capabilities = OTHER_CAN
    for (seen,) in stage.rows("SELECT key FROM pushes WHERE state = 'in_doubt' AND key = :key", key=SEEN):
        if seen in stage.fake.charged:
            _say(stage, seen)
    for (held_up,) in stage.rows(HELD_UP, others=OTHERS):
        _say(stage, held_up)
    if any(json.loads(terms)["unit"] != 1 for (terms,) in stage.rows(TERMS)):
        # What may give back waits for all of its organisation then (S10), and its window for what a person says of it.
        for (left,) in stage.rows(
            "SELECT key FROM pushes WHERE state IN ('in_doubt', 'rejected') AND provider = 'fake'"
        ):
            _say(stage, left)
        for key, feature in stage.rows(
            "SELECT key, feature FROM pushes WHERE state = 'rejected' AND provider = 'embedded'"
        ):
            write(
                stage.engine,
                partial(credit.set_rate, feature=feature, micro_credits=1, per_quantity=1, by=stage.by, from_ms=None),
            )
            write(stage.engine, partial(pushes.retry, keys=[key], by=stage.by))


def _say(stage: Stage, key: str) -> None:
    """What the provider's own console shows of a push."""
    said = pushes.resolve_accepted if key in stage.fake.charged else pushes.void
    write(stage.engine, partial(said, keys=[key], by=stage.by, evidence="their console"))


def judge(stage: Stage) -> list[str]:
    """What is wrong, a line each."""
    return [*_usage(stage), *_charged(stage), *_halts(stage), *_forgotten(stage), *_paid(stage), *_proof(stage)]


def _paid(stage: Stage) -> Iterator[str]:
    """The payment service's own books beside the ledger."""
    credited = {
        row[0] for row in stage.rows("SELECT key FROM ledger_entries WHERE kind = 'grant' AND key LIKE 'topup:%'")
    }
    paid = [one.charge_id for one in stage.pay.taken]
    yield from (f"{name} was charged twice" for name in stage.pay.doubles())
    yield from (f"{name} was paid, and not credited" for name in sorted(set(paid) - credited))
    yield from (f"{name} was credited, and not paid" for name in sorted(credited - set(paid)))


def _oracle(stage: Stage) -> Oracle:
    closed = {row[0] for row in stage.rows(
        "SELECT q.sample_id FROM late_quarantine q JOIN orgs o ON o.org_id = q.org_id "
        "JOIN usage_samples s ON s.id = q.sample_id WHERE s.ts < o.floor_ms")}  # fmt: skip
    oracle = Oracle()
    there = {row[0]: tuple(row) for row in stage.rows(RAW)}
    for name, org, ts, memory_mb, seconds, problem in {**stage.samples, **there}.values():
        if name not in closed:
            oracle.took(Sample(name, org, ts, memory_mb, int(seconds or 0), good=problem is None))
    oracle.withdraw(*(row[0] for row in stage.rows("SELECT sample_id FROM withdrawals")))
    oracle.rules += [
        Rule(*row)
        for row in stage.rows("SELECT kind, memory_mb, feature, unit, start_ms FROM mappings ORDER BY at_ms, start_ms")
    ]
    for org, start, provider, customer in stage.rows(
        "SELECT org_id, start_ms, provider, customer_id FROM assignments ORDER BY start_ms"
    ):
        oracle.assignments[org].append(Assignment(start, provider, customer))
    return oracle


def _usage(stage: Stage) -> Iterator[str]:
    """Every unit is sealed once or pending, in every window that is over. A day that is folded has one window."""
    until = stage.rows("SELECT MIN(watermark_ms) FROM buckets")[0][0]
    expected = _oracle(stage).expected()
    owed = {place: quantity for place, quantity in expected.owed.items() if place[1] < until}
    sealed: dict[Any, int] = defaultdict(int)
    for org, window, feature, quantity, state in stage.rows(
        "SELECT org_id, window_ms, feature, sealed_qty, state FROM pushes "
        "UNION ALL SELECT org_id, day_ms, feature, sealed_qty, state FROM folded_pushes"
    ):
        sealed[(org, window, feature)] += 0 if state == "voided" else quantity
    for place in sorted(owed.keys() | sealed.keys()):
        if owed.get(place, 0) != sealed.get(place, 0):
            yield f"used {owed.get(place, 0)} and sealed {sealed.get(place, 0)} in {place}"
    wanted = {place: found[1:] for place, found in expected.pending.items() if place[0] < until}
    got = {
        (window, org, size): (seconds, samples)
        for window, org, size, seconds, samples in stage.rows(
            "SELECT window_ms, org_id, memory_mb, seconds, samples FROM pending_usage"
        )
    }
    for spot in sorted(wanted.keys() | got.keys()):
        if wanted.get(spot) != got.get(spot):
            yield f"pending should be {wanted.get(spot)} and is {got.get(spot)} in {spot}"


def _charged(stage: Stage) -> Iterator[str]:
    """What is accepted was charged once, with that quantity; wallets hold what was granted, less what was charged."""
    pushes = stage.rows(
        "SELECT p.key, p.provider, p.sent_qty, p.state, COALESCE(a.kind, '') AS adopted, p.wire_key FROM pushes p "
        "LEFT JOIN adoptions a ON a.window_ms = p.window_ms AND a.org_id = p.org_id AND a.feature = p.feature "
        "AND a.revision = p.revision"
    )
    entries = {row[0]: row[1] for row in stage.rows("SELECT key, quantity FROM ledger_entries WHERE kind = 'usage'")}
    former = {} if stage.former is None else stage.former.charged
    charged = {**stage.fake.charged, **stage.bank.charged, **stage.other.charged, **former}
    there = {name: one.quantity for name, one in charged.items()}
    for key, provider, quantity, state, adopted, _ in pushes:
        found = entries.get(key) if provider == EMBEDDED else there.get(key)
        if state == "accepted" and not adopted and found != quantity and key != LOST:
            yield f"{key} is accepted with {quantity}, and charged was {found}"
        if state == "voided" and found and provider == EMBEDDED and f"{key}:back" not in entries:
            yield f"{key} is voided, and {found} were charged for it"
    for account, kept, summed in stage.rows(
        "SELECT a.account_id, a.balance_micro, COALESCE((SELECT SUM(l.amount_micro) FROM ledger_lines l "
        "WHERE l.account_id = a.account_id), 0) FROM ledger_accounts a"
    ):
        if kept != summed:
            yield f"the wallet {account} says {kept}, its entries say {summed}"


def _halts(stage: Stage) -> Iterator[str]:
    """Whoever is halted is told to each cell on which something of it runs; the verdict is the one that holds."""
    told = {(one.org_id, one.cell_id, one.halted_at) for one in stage.cells.received}
    for org, cell, halted_at in stage.rows(
        "SELECT o.org_id, s.cell_id, o.halted_at FROM orgs o JOIN sandboxes s ON s.org_id = o.org_id "
        "WHERE o.is_halted AND s.state <> 'stopped'"
    ):
        if (org, cell, halted_at) not in told:
            yield f"{org} is halted, its sandbox on {cell} runs, and the cell was not told"
    balances = dict(stage.rows("SELECT account_id, balance_micro FROM ledger_accounts"))
    for org, provider, halted, by_hand, override, most, plan in stage.rows(
        "SELECT org_id, billing_provider, is_halted, operator_halt, override_halted, max_concurrent_sandboxes, "
        "override_max_concurrent FROM orgs"
    ):
        spent = provider == EMBEDDED and balances.get(f"wallet:{org}", 0) <= 0
        wanted = by_hand or (spent if override is None else override)
        if bool(wanted) != halted:
            yield f"{org} should{'' if wanted else ' not'} be halted"
        if plan is not None and most != plan:
            yield f"{org} may have {most} sandboxes at once, and a person said {plan}"


def _forgotten(stage: Stage) -> Iterator[str]:
    yield from (f"failed: {one}" for one in stage.failures)
    yield from (f"still open: {row[0]}" for row in stage.rows(OPEN))


def _proof(stage: Stage) -> Iterator[str]:
    yield from (f"verify, {one.invariant}: {one.text}" for one in read(stage.engine, verify).breaches)
