"""A database of the size that the console is held to: made by the database itself, in a minute or two.

Guarantee: the same scale gives the same rows. No row is like what no command or tick would write, but for the hashes of
the audit, which are not there.
"""

from __future__ import annotations

import json
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.wallets import actions as credit
from tests.benchmarks.fleet import START_MS
from tests.benchmarks.wallets import BY, insert

ORGS: Final = 100_000
PUSHES_AN_ORG: Final = 9
DAYS: Final = 30
WINDOWS: Final = DAYS * DAY_MS // WINDOW_MS
NOW: Final = START_MS + DAYS * DAY_MS
BUSY_ONE_IN: Final = 5
"""One organisation in so many used something in the last minutes."""
PASSWORD: Final = "00:ff"
TICKS: Final = 2_000
TICK: Final = json.dumps({"accepted_at": {"embedded": 300, "stripe": 20}, "problems": []})


def secret(number: int) -> str:
    return f"{number:043}"


def fill(engine: sa.Engine, scale: float) -> int:
    """So many organisations with a month behind them; org-0 used something in each window (in the last hundreds, where
    there are few). How many there are."""
    orgs, steady = max(int(ORGS * scale), 100), max(int(WINDOWS * min(scale, 1)), 300)
    _organisations(engine, orgs)
    _outbox(engine, orgs, steady)
    _ledger(engine, orgs, steady)
    _fleet(engine, orgs, steady)
    _people(engine, orgs)
    return orgs


def _organisations(engine: sa.Engine, orgs: int) -> None:
    """One in ten is billed at Stripe, one in a thousand by nobody, one in fifty is halted."""
    write(engine, lambda c: install_defaults(c, BY))
    provider = "CASE WHEN i % 1000 = 7 THEN NULL WHEN i % 10 = 1 THEN 'stripe' ELSE 'embedded' END"
    plan = "CASE i % 3 WHEN 0 THEN 'team' WHEN 1 THEN 'pro' ELSE 'hobby' END"
    insert(
        engine,
        'orgs (org_id, bucket, billing_provider, "plan", is_halted, halted_at, halt_reason, max_concurrent_sandboxes, '
        "balance_micro, balance_read_ms, projection_read_ms, unconfirmed_micro, stopped_at_ms, stopped_reason, "
        "runs_out_ms)",
        f"'org-' || i, i % 256, {provider}, {plan}, i % 50 = 3, CASE WHEN i % 50 = 3 THEN {NOW - DAY_MS} + i END, "
        f"CASE WHEN i % 50 = 3 THEN 'no_credit' END, 20, CASE WHEN i % 10 = 1 THEN NULL ELSE i * 1000 END, "
        f"{NOW - MINUTE_MS}, {NOW - MINUTE_MS}, 0, CASE WHEN i % 20000 = 11 THEN {NOW - DAY_MS} END, "
        "CASE WHEN i % 20000 = 11 THEN 'a quantity that no integer holds' END, "
        f"CASE WHEN i % {BUSY_ONE_IN} = 0 THEN {NOW} + i * {MINUTE_MS} END",
        orgs,
    )
    insert(
        engine,
        "assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason)",
        "'org-' || i, 0, CASE WHEN i % 10 = 1 THEN 'stripe' ELSE 'embedded' END, 'org-' || i, 0, 'bench', 'a bench'",
        orgs,
        where="i % 1000 <> 7",
    )
    write(engine, lambda c: c.execute(sa.text("UPDATE buckets SET watermark_ms = :to"), {"to": NOW - WINDOW_MS}))
    insert(
        engine,
        "projections (org_id, read_ms, at_ms, is_halted, max_concurrent_sandboxes, reason, balance_micro)",
        f"'org-' || i, {NOW - DAY_MS}, {NOW - DAY_MS} + i, i % 50 = 3, 20, 'no_credit', i * 1000",
        orgs,
    )


def _outbox(engine: sa.Engine, orgs: int, steady: int) -> None:
    """Nine pushes of each, and one of each window of org-0; the last hundreds are open."""
    columns = (
        "pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, sealed_at_ms, "
        "seal_id, state, due_at_ms, attempts, first_attempt_ms, settled_ms, last_error)"
    )
    count = orgs * PUSHES_AN_ORG
    window = (
        f"{START_MS} + (i / {orgs} * {WINDOWS // PUSHES_AN_ORG} + i * 7919 % {WINDOWS // PUSHES_AN_ORG}) * {WINDOW_MS}"
    )
    left = f"{count} - i"
    state = (
        f"CASE WHEN {left} <= 20 THEN 'rejected' WHEN {left} <= 60 THEN 'in_doubt' WHEN {left} <= 600 THEN 'due' "
        "ELSE 'accepted' END"
    )
    rest = (
        f"CASE WHEN i % 10 = 1 THEN 'stripe' ELSE 'embedded' END, 'org-' || (i % {orgs}), 300, 300, 'push-' || i, "
        f"{NOW - DAY_MS}, 1, {state}, {NOW}, CASE WHEN {left} <= 60 THEN 3 ELSE 1 END, {NOW - DAY_MS}, "
        f"CASE WHEN {left} <= 600 THEN NULL ELSE {NOW - DAY_MS} END, CASE WHEN {left} <= 60 THEN 'no answer' END"
    )
    insert(engine, columns, f"{window}, 'org-' || (i % {orgs}), 'sandbox_1gb', 0, {rest}", count)
    rest = f"'embedded', 'org-0', 180, 180, 'steady-' || i, {NOW}, 1, 'accepted', {NOW}, 1, {NOW}, {NOW}, NULL"
    insert(engine, columns, f"{_last(steady)}, 'org-0', 'sandbox_4gb', 0, {rest}", steady)
    insert(
        engine,
        "pending_usage (window_ms, org_id, memory_mb, reason, seconds, samples)",
        f"{NOW - DAY_MS} + i % 288 * {WINDOW_MS}, 'org-' || i, 1024, 'no_assignment', 300, 5",
        min(300, orgs),
    )
    insert(
        engine,
        "reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, at_ms)",
        f"{NOW - DAY_MS}, 'org-' || i, 'stripe', 'org-' || i, 'sandbox_1gb', 300, 300, "
        f"CASE WHEN i % 5000 = 1 THEN 'short' ELSE 'equal' END, {NOW}",
        orgs // 10,
    )


def _last(count: int) -> str:
    """The last so many windows, for i from 0 on."""
    return f"{START_MS} + ({WINDOWS - count} + i) * {WINDOW_MS}"


def _ledger(engine: sa.Engine, orgs: int, steady: int) -> None:
    """A wallet of each, in lots, what it was charged, and runs."""
    insert(engine, "ledger_accounts (account_id, balance_micro)", f"'wallet:org-' || i, {1000 * MICRO} - i", orgs)
    said = "'bench', 'a benchmark'"
    insert(
        engine,
        "ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, at_ms, actor, reason)",
        f"'lot-' || i, 'org-' || i, 'purchased', {1000 * MICRO}, {START_MS}, {START_MS}, {said}",
        orgs,
    )
    entries = (
        "ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, "
        "actor, reason)"
    )
    insert(
        engine,
        entries,
        f"'lot-' || i, 'grant', 'source:grants', 'wallet:org-' || i, {1000 * MICRO}, NULL, NULL, {START_MS}, "
        f"{START_MS}, {said}",
        orgs,
    )
    at = f"{START_MS} + (i / {orgs} * {WINDOWS // PUSHES_AN_ORG} + i * 7919 % {WINDOWS // PUSHES_AN_ORG}) * {WINDOW_MS}"
    insert(
        engine,
        entries,
        f"'push-' || i, 'usage', 'wallet:org-' || i % {orgs}, 'usage', 30000, 'sandbox_1gb', 300, {at}, {at} + 400000, "
        f"{said}",
        orgs * PUSHES_AN_ORG,
    )
    at = _last(steady)
    insert(
        engine,
        entries,
        f"'steady-' || i, 'usage', 'wallet:org-0', 'usage', 72000, 'sandbox_4gb', 180, {at}, {at} + 400000, {said}",
        steady,
    )
    insert(
        engine,
        "reservations (reservation, org_id, customer_id, amount_micro, drawn_micro, state, overage, accepted_ms, "
        "expires_ms, ended_ms, fingerprint, actor, reason)",
        f"'run-' || i, 'org-' || (i % 500), 'org-' || (i % 500), 1000000, 700000, "
        f"CASE WHEN i % 1000 = 0 THEN 'held' ELSE 'settled' END, 'charge', {NOW - DAY_MS * DAYS} + i * 100, "
        f"{NOW + DAY_MS}, CASE WHEN i % 1000 = 0 THEN NULL ELSE {NOW - DAY_MS} END, 'f', {said}",
        orgs // 4,
    )


def _fleet(engine: sa.Engine, orgs: int, steady: int) -> None:
    """A sandbox of each, the samples of the last minutes and a week's of org-0, and ticks."""
    insert(engine, "cells (cell_id, url)", "'cell-' || i, 'http://cell-' || i", 7)
    insert(
        engine,
        "sandboxes (sandbox_id, org_id, cell_id, state)",
        "'box-' || i, 'org-' || i, 'cell-' || (i % 7), 'running'",
        orgs,
    )
    samples = "usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at)"
    ts = f"{NOW} - i % 5 * {MINUTE_MS} - 1000"
    insert(
        engine,
        samples,
        f"'s-' || i, 'org-' || (i / 5 * {BUSY_ONE_IN}), 'box-' || (i / 5 * {BUSY_ONE_IN}), 'cell-1', 1024, 60, {ts}, "
        f"{ts} + 500",
        orgs // BUSY_ONE_IN * 5,
    )
    ts = f"{NOW} - 60000 - i / 3 * {MINUTE_MS}"
    insert(
        engine,
        samples,
        f"'week-' || i, 'org-0', 'box-0-' || (i % 3), 'cell-1', 4096, 60, {ts}, {ts} + 500",
        steady * 7 // 2,
    )
    ticks = min(TICKS, steady)
    began = f"{NOW} - ({ticks} - i) * {WINDOW_MS}"
    insert(
        engine,
        "ticks (worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status, clock_trusted, report)",
        f"'w', 0, 255, {began}, {began} + 4000, CASE WHEN i % 40 = 3 THEN 75 ELSE 0 END, 1 = 1, '{TICK}'",
        ticks,
    )


def _people(engine: sa.Engine, orgs: int) -> None:
    """An admin who is signed in, and what people did."""
    insert(
        engine,
        "operator_actions (at_ms, action, target, details, actor, reason, via)",
        f"{START_MS} + i * 1000, 'grant', 'org-' || (i % {orgs}), '{{}}', 'ann', 'a benchmark', 'cli'",
        orgs // 2,
    )

    def sign_in(connection: sa.Connection) -> None:
        console_users.add(connection, "ann", "admin", secret(1), BY)
        console_users.set_password(connection, secret(1), PASSWORD, BY.now_ms)
        console_sessions.begin(connection, "ann", PASSWORD, secret(7), "192.0.2.7", NOW)
        credit.set_plan_limit(connection, "team", 20, BY)

    write(engine, sign_in)
