"""Reconcile, from the other side: the drawings that balances show, beside our pushes.

Guarantee: a push that was sent twice and drawn twice is adopted, and so given back, where pushes sent twice make up the
amount exactly: a second drawing draws all of its push. Any other difference between a balance and our pushes, more or
less, is told a person once, with the amount, and remembered: comparisons go on from there. Where a push was on its way
meanwhile, nothing is compared. Where events and pushes still differ by what only a console tells, nothing is compared
either, and a person is told each time: a mark would take what the console shows for known, and a correction of it for
drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Drawn, ReadFailed
from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.terms import wire_since
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.waiting import visible_by
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_excess
from drawdown.worker.push.balances import (
    CHUNK,
    MOST_UNSURE,
    Accounted,
    Balances,
    CustomerFeature,
    Mark,
    drawn_of,
    read_accounted,
    read_balances,
    read_unsure,
    remember,
)
from drawdown.worker.push.rows import PushRow
from drawdown.worker.reconcile.report import Line, Reconciled, ReconcileScope, above, tell

SQL = queries(__file__)

AGAIN: Final = "the balance was drawn on twice for pushes that were sent twice: --correct gives it back"
MORE: Final = "the balance was drawn on by more than pushes sent twice: somebody else uses it too, or a person set it"
LESS: Final = (
    "less was drawn from the balance than was charged: a top-up, a balance set by hand, or a loss over there (which "
    "a person has to draw again)"
)
MOST_SUMS: Final = 10_000
"""Sums of pushes that are tried, until a person is asked instead."""
ONCE: Final = "; told this once, until `drawdown reconcile ORG --acknowledge`"


@dataclass(frozen=True)
class Compared:
    """One comparison: what the balances said, and what is asked of it."""

    provider: str
    balances: Balances
    before: Mapping[CustomerFeature, Accounted]
    seen_to: Mapping[CustomerFeature, int]
    """Up to which window events were compared."""
    settled_by: int
    scope: ReconcileScope
    by: By
    witness: Witness | None


def compare_drawn(
    context: Context,
    provider: str,
    pairs: Mapping[CustomerFeature, int],
    scope: ReconcileScope,
    by: By,
    done: Reconciled,
) -> Steps[None]:
    """Balances beside pushes, of customers' features whose events have told all, up to a window each."""
    customers = sorted({customer for customer, _ in pairs})
    for at in range(0, len(customers), CHUNK):
        part = set(customers[at : at + CHUNK])
        some = sorted(pair for pair in pairs if pair[0] in part)
        before: dict[CustomerFeature, Accounted] = yield Transaction(
            "reconcile_accounted",
            partial(read_accounted, provider=provider, pairs=some, balances={}),
            rollback=True,
        )
        balances = yield from read_balances(provider, part, context.out_of_time)
        for customer in sorted(part):
            read = balances[customer]
            if isinstance(read, ReadFailed):
                done.not_read(customer, read.reason)
        asked = Compared(
            provider=provider,
            balances=balances,
            before=before,
            seen_to=pairs,
            settled_by=visible_by(by.now_ms, context.capabilities[provider]),
            scope=scope,
            by=by,
            witness=context.witness,
        )
        lines: list[Line] = yield Transaction("reconcile_drawn", partial(_compare, asked=asked))
        for line in lines:
            tell(line)
            done.differing.append(line)


def _compare(connection: sa.Connection, *, asked: Compared) -> list[Line]:
    if asked.scope.correct:
        lock_buckets(connection)
        require_same(connection, asked.witness)
    pairs = [pair for pair in asked.before if drawn_of(asked.balances, pair) is not None]
    now = read_accounted(connection, provider=asked.provider, pairs=pairs, balances=asked.balances)
    wire = wire_since(connection, asked.provider)
    lines, marks = [], []
    for pair in pairs:
        drawn = drawn_of(asked.balances, pair)
        assert drawn is not None
        then = asked.before[pair]
        if now[pair].open or now[pair].sent != then.sent or now[pair].accepted != then.accepted:
            continue  # something was on its way
        if (drawn.since_ms or 0) < wire:
            continue  # something was drawn under another name, or in another unit
        for line, mark in _of_pair(connection, asked, pair, drawn, now[pair]):
            lines += [line] if line is not None else []
            marks += [mark] if mark is not None else []
    if asked.scope.correct:
        remember(connection, asked.provider, marks, asked.by.now_ms)
    return lines


def _of_pair(
    connection: sa.Connection, asked: Compared, pair: CustomerFeature, drawn: Drawn, ours: Accounted
) -> Iterator[tuple[Line | None, Mark | None]]:
    beyond = ours.beyond(drawn)
    since = drawn.since_ms or 0
    mark = Mark(pair, since, drawn.quantity - ours.ours, ours.org_id)
    if beyond is None:
        yield None, mark  # nothing to compare with yet: the next run has
        return
    least, most = beyond
    apart, is_sure = least if least > 0 else most, least == most
    if least <= 0 <= most and not is_sure:
        apart = _nearest(least, read_unsure(connection, asked.provider, pair, since, ours))
    if apart == 0:
        # What was billed by hand since is in the balance or beside it: from now on that is known, too.
        unchanged = is_sure if ours.apart is not None else mark.apart == 0 and ours.least == ours.most
        yield None, None if unchanged else mark
        return
    customer, feature = pair
    org, day = ours.org_id, since - since % DAY_MS
    verdict = "over" if apart > 0 else "short"
    line = Line(day, org, asked.provider, customer, feature, ours.ours, ours.ours + apart, verdict, balance=True)
    if not above(line, asked.scope.threshold):
        return
    if apart < 0 or not is_sure:
        yield replace(line, note=(LESS if apart < 0 else MORE) + ONCE), replace(mark, told=apart)
        return
    yield _of_more(connection, asked, line, mark)


def _nearest(least: int, unsure: Sequence[int]) -> int:
    """What a balance shows beyond our pushes, where each of some is in it or beside it: the least that it can be, from
    `least` on, which counts as given back or billed all that could be."""
    if len(unsure) > MOST_UNSURE:
        return 0
    sums = {least}
    for quantity in unsure:
        sums |= {one + abs(quantity) for one in sums}
    return min(sums, key=lambda one: (abs(one), one))


def _of_more(connection: sa.Connection, asked: Compared, line: Line, mark: Mark) -> tuple[Line | None, Mark | None]:
    """More was drawn than pushed: for pushes that were sent twice, or by somebody else."""
    whose = {"provider": line.provider, "customer_id": line.customer_id, "feature": line.feature}
    again = SQL.run(connection, "sent_again", {**whose, "since_ms": mark.since_ms}).all()
    more = line.theirs - line.ours
    seen_to = asked.seen_to[mark.pair]
    if any(row.settled_ms > asked.settled_by or row.window_ms >= seen_to for row in again):
        return None, None  # an event may still show it, and would be given back a second time
    twice = sent_twice([(row.sent_qty, row.may_be // row.sent_qty) for row in again], more)
    if twice is None:
        return replace(line, note=MORE + ONCE), replace(mark, told=more)
    if not asked.scope.correct:
        return replace(line, note=AGAIN), None
    adopted = _adopt_drawn(connection, [(again[place], times) for place, times in twice.items()], asked.by)
    return replace(line, corrected=adopted), replace(mark, apart=mark.apart - adopted)


def sent_twice(pushes: Sequence[tuple[int, int]], amount: int) -> dict[int, int] | None:
    """Which of some pushes (quantity, and how often it may have been drawn on for too often) make up an amount
    together: their places, and how often each. None: none do, or more sums than MOST_SUMS are possible. A person's own
    change of the balance is the likelier cause then."""
    counts = range(1, max((times for _, times in pushes), default=0) + 1)
    copies = [place for copy in counts for place, (_, times) in enumerate(pushes) if times >= copy]
    reached: dict[int, tuple[int, int]] = {0: (-1, 0)}  # a sum: the last push in it, and the sum before
    for place in copies:
        quantity = pushes[place][0]
        for before in [total for total in reached if total + quantity <= amount]:
            reached.setdefault(before + quantity, (place, before))
        if amount in reached:
            twice: dict[int, int] = {}
            left = amount
            while left:
                last, left = reached[left]
                twice[last] = twice.get(last, 0) + 1
            return twice
        if len(reached) > MOST_SUMS:
            return None
    return None


def _adopt_drawn(connection: sa.Connection, twice: Sequence[tuple[PushRow, int]], by: By) -> int:
    """Attribute what was drawn too much to pushes that were sent twice; how much that is."""
    for row, times in twice:
        part = row.sent_qty * times
        evidence = f"may have arrived {row.arrived} times; the balance was drawn on by {part:,} more than was pushed"
        adopt_excess(connection, row, part, by, evidence, drawn=True)
    return sum(int(row.sent_qty) * times for row, times in twice)
