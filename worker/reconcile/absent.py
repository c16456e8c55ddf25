"""Reconcile: accepted pushes that no event of the provider shows.

Guarantee: a push is voided only where its look-up shows that nothing was charged for it and, at a provider that may
charge without an event, the customer's balance agrees (P5). A push that the balance was drawn on for stands. A push
that neither can decide, or that lies below the floor and could not be sealed anew, is left to a person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import sqlalchemy as sa

from drawdown.providers.protocol import Absent, Found
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.locks import lock_buckets
from drawdown.worker.catalog.costs import Pools, read_pools
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_other
from drawdown.worker.push.balances import (
    Accounted,
    Balances,
    CustomerPool,
    drawn_of,
    is_of_cycle,
    read_accounted,
    read_balances,
)
from drawdown.worker.push.rows import PushRow
from drawdown.worker.push.void import void_one
from drawdown.worker.reconcile.events import accepted_of, is_unclear, look_up, read_windows
from drawdown.worker.reconcile.report import Line
from drawdown.worker.reconcile.short import Short
from drawdown.worker.reconcile.weighing import drew, weighed


def find_absent(context: Context, lines: Sequence[Line], settled_by: int, by: By) -> Steps[list[Short]]:
    """Look up each push of those days, and void those they do not have. One that was settled meanwhile may not be seen
    there yet. All days of a customer together, since one balance tells of all."""
    if not lines:
        return []
    provider = lines[0].provider
    capabilities = context.capabilities[provider]
    if not capabilities.lookup:
        return [Short(line) for line in lines]
    asked: list[Short] = []
    for line in lines:
        rows: list[PushRow] = yield Transaction("reconcile_accepted", partial(accepted_of, line=line), rollback=True)
        rows = [row for row in rows if row.settled_ms <= settled_by]
        found = yield from look_up(provider, rows, capabilities, context.out_of_time)
        short = Short(line, rows, found)
        if capabilities.drawn and short.shown_too_much:
            # Both windows are put right, or neither: else the customer would be charged twice until the next run.
            _, short.by_window = yield from read_windows(line, {}, context.out_of_time)
        asked.append(short)
    pools: Pools = yield Transaction("known_costs", partial(read_pools, provider=provider), rollback=True)
    by_pair: dict[CustomerPool, list[Short]] = defaultdict(list)
    for short in asked:
        by_pair[(short.line.customer_id, pools.of(short.line.feature))].append(short)
    before: Mapping[CustomerPool, Accounted] = {}
    balances: Balances = {}
    if capabilities.drawn:
        before = yield Transaction(
            "reconcile_accounted",
            partial(read_accounted, provider=provider, pairs=list(by_pair), balances={}),
            rollback=True,
        )
        customers = {customer for customer, _ in by_pair}
        balances = yield from read_balances(provider, customers, context.clock.now_ms(), context.out_of_time)
    for pair, some in by_pair.items():
        yield Transaction(
            "reconcile_short",
            partial(
                _void_absent,
                some=some,
                pair=pair,
                pools=pools,
                before=before.get(pair),
                balances=balances,
                by=by,
                witness=context.witness,
            ),
        )
    return asked


def _void_absent(
    connection: sa.Connection,
    *,
    some: Sequence[Short],
    pair: CustomerPool,
    pools: Pools,
    before: Accounted | None,
    balances: Balances,
    by: By,
    witness: Witness | None,
) -> None:
    """One customer's balance. `before`: what stood beside it before it was read; None: events tell all."""
    lock_buckets(connection)
    require_same(connection, witness)
    for short in some:
        short.begin()
    absent = [(short, row) for short in some for row, found in short.still(connection) if isinstance(found, Absent)]
    # What they have more of is taken over by window (`compare_over`).
    taken_over = sum(_take_over(connection, short, pools, by) for short in some if short.line.verdict == "short")
    drawn = drawn_of(balances, pair)
    first_sent = [int(row.first_attempt_ms or row.window_ms) for _, row in absent]
    told = [drawn is None or is_of_cycle(sent_ms, drawn) for sent_ms in first_sent]
    charged = weighed(connection, some, pair, pools, before, balances, [row for _, row in absent], told, taken_over)
    for number, (short, row) in enumerate(absent):
        window, quantity = int(row.window_ms), int(row.sent_qty)
        if charged is not None and number in charged:
            short.covered += quantity
            short.unseen[window] = short.unseen.get(window, 0) + quantity
        elif row.window_ms < row.floor_ms:
            short.below += quantity
        elif charged is None or not told[number]:
            short.untold += quantity
            short.doubted.add(window)
        else:
            evidence = f"accepted, and absent when it was looked up at {utc(by.now_ms)} under {row.wire_key or row.key}"
            evidence += "; the customer's balance agrees" if before is not None else ""
            void_one(connection, row, by, evidence, "absent", answered=False)
            short.corrected += quantity


def _take_over(connection: sa.Connection, short: Short, pools: Pools, by: By) -> int:
    """What events show at another quantity, or as nothing; returns by how much what we call accepted fell, in
    quantities of the balance."""
    fell = 0
    for row, found in short.still(connection):
        if not isinstance(found, Found) or found.quantity == row.sent_qty or is_unclear(row, found):
            continue
        less = int(row.sent_qty) - found.quantity
        if row.window_ms < row.floor_ms:
            short.below += less
            continue
        if found.quantity == 0:
            evidence = f"accepted, and charged nothing when it was looked up at {utc(by.now_ms)}"
            void_one(connection, row, by, evidence, "absent", answered=False)
        else:
            adopt_other(connection, row, found.quantity, by, found.cost)
        short.corrected += less
        fell += less * drew(pools, row)[1]
    return fell
