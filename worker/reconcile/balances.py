"""Compare the draws that balances show with our pushes (reconcile).

Guarantee: if the second draws of pushes that were sent twice exactly equal an excess, Drawdown adopts them, and so
gives them back. A second draw is as large as its push. A part of a balance is hidden if reads never showed it. If a
hidden part may have paid for further draws, the amount is reported to a person.

If a balance lacks exactly the draws of pushes within a few minutes, the provider lost these draws with its store. In
such a loss, the events stay and the balance goes back (observed). Drawdown adopts the missing draws, so that the next
seal sends the usage again. At the first comparison of credits, it only reports them, because a hidden part may be used
up.

Drawdown reports any other difference above the threshold to a person once, with the amount, and stores it as a mark.
Later comparisons begin from the mark. Only a run with `--correct` adopts draws and stores marks. If a push was on its
way at the time, the balance is not compared. If events and pushes still differ in a way that only a console shows, the
balance's difference is reported each time, without a mark. With a mark, a correction in the console would count as
drawn twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Part, ReadFailed
from drawdown.providers.validated_provider import MAX_FIGURE
from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets, lock_rates
from drawdown.schema.sql import queries
from drawdown.schema.text import counted
from drawdown.schema.units import DAY_MS, MINUTE_MS, show_quantity
from drawdown.worker.catalog.balance_parts import STALE_MS, known_parts, note_shown_parts
from drawdown.worker.catalog.costs import Pools, read_pools
from drawdown.worker.catalog.terms import wire_since
from drawdown.worker.engine.clock_check import MAX_SKEW_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import CLOCKS_APART_MS, Steps, Transaction, visible_by
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_excess
from drawdown.worker.push.evidence import (
    CHUNK,
    Accounted,
    Balances,
    CustomerPool,
    Level,
    Mark,
    drawn_of,
    nearest,
    read_accounted,
    read_balances,
    read_unsure,
    write_marks,
)
from drawdown.worker.push.rows import PushRow
from drawdown.worker.reconcile.comparison import drew as drew_of
from drawdown.worker.reconcile.report import LeftOut, Line, Reconciled, ReconcileScope, above, tell, tell_left_out

SQL = queries(__file__)

AGAIN: Final = (
    "the provider charged the balance twice for pushes that were sent twice. Pass `--correct` to give the "
    "second charges back"
)
GIVEN_BACK: Final = (
    "the second charges of pushes that were sent twice are given back. A part of the balance that no read showed may "
    "have paid for further charges"
)
MORE: Final = (
    "the provider charged the balance more than pushes sent twice explain. Another system may use the "
    "balance, or a person may have set it"
)
LOST: Final = (
    "the balance lacks exactly the charges of pushes settled within minutes, because the provider lost these charges. "
    "Pass `--correct` to send them again"
)
LESS: Final = (
    "the balance fell by less than was charged. The cause is a top-up, a balance set by hand, or a loss at the "
    "provider. If the provider lost a charge, draw it again in the provider's console"
)
FAR: Final = (
    "the difference between the balance and the pushes exceeds the largest storable number, so Drawdown did not "
    "compare them"
)
BESIDE: Final = (
    "the balance differs by this amount from all accepted pushes, including those without an "
    "event. Charge or refund it in the provider's console"
)
MOST_LOST: Final = 500
"""Newest pushes of one customer to compare with the missing amount of a balance."""
LOST_SPAN_MS: Final = 15 * MINUTE_MS
"""Longest time in milliseconds between the settlements of lost pushes.

A provider's store writes every few seconds, and a crash loses the changes since its last write. If a person's top-up
equals the sum of pushes within this time, it counts as such a loss.
"""
MOST_BESIDE: Final = 12
"""Most pushes that may have been in flight at the provider's last write.

That write may include any of these pushes.
"""
MOST_SUMS: Final = 10_000
"""Most sums of pushes that one comparison tries.

Above this number, a person decides about the difference.
"""
MOST_LOST_SUMS: Final = 50_000
"""Sums of pushes to compare with a balance's missing amount.

Seals wait for this comparison.
"""
MOST_CHARGES: Final = 5_000
"""Most pushes since the last comparison that may have used up a one-time part of a balance.

If there are more, a person decides.
"""
CHANCE: Final = 20
"""Ratio of possible round amounts to those that equal a sum of pushes.

Below this ratio, Drawdown leaves a difference to a person, because a top-up may equal a sum by chance.
"""
AGREES: Final = (
    "the balance equals the pushes only if it excludes charges that a person resolved, or if "
    "charges drew the lower of two costs"
)
OWN: Final = (
    "the balance equals the pushes only if own units count at certain costs. The cost of the feature changed, and the "
    "cost of each unit is unknown"
)
UNSURE: Final = ". The difference is uncertain by up to {}, because the amounts of some charges are unknown"
MAY_AGREE: Final = (
    "the balance may or may not equal the pushes, because the amount drawn before its cycle began is unknown"
)
PART: Final = (
    "the balance may or may not equal the pushes. The amount drawn on an ended or changed plan, "
    "or on a part that expired after its last read, is unknown"
)
UNTOLD: Final = "the provider does not return the balance, the start of its cycle, or the cost of its features"
MOVING: Final = "a push was in flight. The next run compares the balance"
FINER: Final = "a cost with more decimals was learned. The next run compares the balance"
OUT_OF_TIME: Final = "the run ran out of time before this comparison. The next run compares it"
OTHER_TERMS: Final = "a push was sent on earlier terms"
FIRST: Final = (
    "the amount drawn before the cycle began is unknown, so reconcile does not compare the charges since "
    "then ({}). The next run compares later charges"
)
STALE: Final = "the read of the balance may predate the newest push. The next run compares it"
MAY_SHOW: Final = "an event may still show the charge. A later run compares it"
ONCE: Final = ". Reported once, until you run `drawdown reconcile ORG --acknowledge`"


@dataclass(frozen=True)
class Compared:
    """The inputs of a comparison: balances, pushes and options.

    `before`: the accepted pushes, read before the balances. `settled_by`: a push that was settled after this time, in
    milliseconds, may be missing at the provider. `pools`: the balances that pay for features.
    """

    provider: str
    balances: Balances
    before: Mapping[CustomerPool, Accounted]
    seen_to: Mapping[CustomerPool, int]
    """The end of the windows with compared events, in milliseconds."""
    settled_by: int
    read_ms: int
    """When the read of balances began."""
    scope: ReconcileScope
    by: By
    witness: Witness | None
    pools: Pools
    standing: Collection[CustomerPool]
    """Balances of customers with an open difference in their events."""


def compare_drawn(
    context: Context,
    provider: str,
    pairs: Mapping[CustomerPool, int],
    standing: Collection[CustomerPool],
    pools: Pools,
    scope: ReconcileScope,
    by: By,
    done: Reconciled,
) -> Steps[Mapping[str, str]]:
    """Compare balances with pushes, for customers with compared events.

    `pairs`: the end of the compared windows in milliseconds, by customer and balance. `standing`: balances of customers
    with an open difference in their events. Add differences to `done`, and correct them if `scope.correct`. Return the
    reasons of balances that were not compared, by customer.

    Errors: HistoryDoubted for corrections on another history, or while a recovery is needed.
    """
    customers = sorted({customer for customer, _ in pairs})
    uncompared: dict[str, str] = {}
    for at in range(0, len(customers), CHUNK):
        part = set(customers[at : at + CHUNK])
        some = sorted(pair for pair in pairs if pair[0] in part)
        before: dict[CustomerPool, Accounted] = yield Transaction(
            "reconcile_accounted",
            partial(read_accounted, provider=provider, pairs=some, balances={}),
            rollback=True,
        )
        read_ms = context.clock.now_ms()
        balances = yield from read_balances(provider, part, read_ms, context.out_of_time)
        for customer in sorted(part):
            read = balances[customer]
            if isinstance(read, ReadFailed):
                done.not_read(customer, read.reason)
                uncompared[customer] = read.reason
        asked = Compared(
            provider=provider,
            balances=balances,
            before=before,
            seen_to=pairs,
            settled_by=visible_by(by.now_ms, context.capabilities[provider]),
            read_ms=read_ms,
            scope=scope,
            by=by,
            witness=context.witness,
            pools=pools,
            standing=standing,
        )
        lines, left_out = yield Transaction("reconcile_drawn", partial(_compare, asked=asked))
        for line in lines:
            tell(line)
            done.differing.append(line)
        for one in left_out:
            tell_left_out(one)
            done.left_out.append(one)
            uncompared[one.customer_id] = one.reason
    return uncompared


def _compare(connection: sa.Connection, *, asked: Compared) -> tuple[list[Line], list[LeftOut]]:
    if asked.scope.correct:
        lock_buckets(connection)
        lock_rates(connection, shared=True)
        require_same(connection, asked.witness)
    pairs = [pair for pair in asked.before if drawn_of(asked.balances, pair) is not None]
    left_out = [
        LeftOut(asked.provider, *pair, UNTOLD)
        for pair in asked.before
        if pair not in pairs and not isinstance(asked.balances[pair[0]], ReadFailed)
    ]
    now = read_accounted(connection, provider=asked.provider, pairs=pairs, balances=asked.balances)
    pools, wire = read_pools(connection, asked.provider), wire_since(connection, asked.provider)
    lines, marks = [], []
    for pair in pairs:
        drawn = drawn_of(asked.balances, pair)
        assert drawn is not None
        then = asked.before[pair]
        if pools.scale(pair[1]) != asked.pools.scale(pair[1]):  # a finer cost was learned since the run began
            left_out.append(LeftOut(asked.provider, *pair, FINER))
            continue
        if now[pair].open or now[pair].send_counts != then.send_counts or now[pair].accepted != then.accepted:
            left_out.append(LeftOut(asked.provider, *pair, MOVING))
            continue
        if drawn.from_ms < wire:
            left_out.append(LeftOut(asked.provider, *pair, OTHER_TERMS))
            continue
        for line, mark in _of_pair(connection, asked, pair, drawn, now[pair]):
            left_out += [line] if isinstance(line, LeftOut) else []
            lines += [line] if isinstance(line, Line) else []
            marks += [mark] if mark is not None else []
    if asked.scope.correct:
        write_marks(connection, asked.provider, marks, asked.by.now_ms)
        _note_parts(connection, asked, marks)
    return lines, left_out


def _of_pair(
    connection: sa.Connection, asked: Compared, pair: CustomerPool, drawn: Level, ours: Accounted
) -> Iterator[tuple[Line | LeftOut | None, Mark | None]]:
    # Draws before this cycle may have used an older part. If all our pushes are of this cycle, such draws are not ours.
    beyond = ours.beyond(replace(drawn, whole=drawn.whole or ours.in_cycle))
    since = drawn.since_ms or 0
    scale = asked.pools.scale(pair[1])
    in_cycle = drawn.quantity - (ours.ours if ours.of_cycle is None else ours.of_cycle)
    mark = Mark(pair, since, in_cycle, ours.org_id, scale=scale)
    mark = replace(mark, accepted=ours.accepted, lasting=drawn.lasting, own=drawn.own)
    if abs(mark.apart) > MAX_FIGURE:
        day_ms, theirs = since - since % DAY_MS, drawn.quantity
        line = Line(day_ms, ours.org_id, asked.provider, *pair, ours.ours, theirs, "over", balance=True, scale=scale)
        yield replace(line, verdict="over" if mark.apart > 0 else "short", note=FAR), None
        return
    if ours.is_unmatched:
        beyond = -ours.fresh[0], -ours.fresh[1]
    if beyond is None:
        is_charged = ours.ours or ours.least or ours.most
        reason = FIRST.format(f"{'credits' if scale > 1 else 'base units'}: {show_quantity(ours.ours, scale)}")
        yield LeftOut(asked.provider, *pair, reason) if is_charged else None, None if pair in asked.standing else mark
        return
    least, most = beyond
    apart, is_sure = least if least > 0 else most, least == most
    in_one = ours.of_cycle is None and drawn.earliest_ms is not None
    is_first = ours.apart is None and not ours.is_unmatched and (ours.is_range or in_one)
    agrees, is_range = False, is_first or ours.is_unmatched or ours.expired != (0, 0)
    if least <= 0 <= most and not is_sure:
        is_open = is_range or ours.is_repriced
        apart = 0 if is_open else nearest(least, read_unsure(connection, asked.provider, pair, drawn, ours))
        # If uncertain amounts explain the difference, the agreement is a guess. The same amount may be lost or drawn
        # twice.
        agrees = not apart and (is_range or not ours.is_as_settled(drawn))
    if apart == 0 and not agrees:
        # The balance may include pushes that were billed by hand since the last comparison. The new mark includes their
        # draws, if any.
        first = mark.apart == 0 and ours.least == ours.most and not asked.pools.in_credits(pair[1])
        unchanged = is_sure if ours.apart is not None else first
        unchanged = unchanged and drawn.lasting is None and ours.of_cycle is None and drawn.own == ours.own
        unchanged = unchanged and not _ended_now(asked, drawn)
        yield None, None if unchanged or pair in asked.standing else mark
        return
    customer, pool = pair
    org, day = ours.org_id, since - since % DAY_MS
    verdict, theirs = "over" if apart > 0 else "short", ours.ours + apart
    unsure = max(most - apart, apart - least)  # the true difference may have the other sign, too
    line = Line(day, org, asked.provider, customer, pool, ours.ours, theirs, verdict, balance=True, scale=scale)
    line = replace(line, verdict="unsure" if agrees else verdict, unsure=unsure)
    if not above(line, asked.scope.threshold):
        return
    why = MAY_AGREE if is_first else PART if is_range else OWN if ours.is_repriced and not ours.joined else AGREES
    if pair in asked.standing:
        line = _with_parts(connection, asked, line, ours.marked_ms)
        yield replace(line, note=_noted(why if agrees else BESIDE, line), standing=True), None
        return
    if agrees:
        yield _of_told(connection, asked, line, mark, ours.marked_ms, why)
        return
    # If reads never showed a part that exactly these pushes used up, their draws would look lost. So Drawdown assumes a
    # loss of credits only after an earlier comparison.
    is_new = ours.apart is None and ours.earlier is None and asked.pools.in_credits(pool)
    if apart < 0 and is_sure and not drawn.is_gone and not is_new:
        # Draws from before the cycle, on parts that were granted once, may be lost, too.
        from_ms = ours.marked_ms - LOST_SPAN_MS
        goes_on = ours.earlier is not None or ours.of_cycle is not None
        newest = _newest(connection, asked, pair, from_ms if goes_on else max(drawn.from_ms, from_ms))
        if newest and newest[0].settled_ms > asked.read_ms - STALE_MS:
            yield LeftOut(asked.provider, *pair, STALE), None
            return
        lost = _find_lost_pushes(asked.pools, pool, newest, -apart, asked.by.now_ms)
        if lost is not None and not _may_be_part(connection, asked, pair, ours.marked_ms, -apart):
            yield _of_lost(connection, asked, line, lost)
            return
    if apart < 0 or not is_sure:
        yield _of_told(connection, asked, line, mark, ours.marked_ms, LESS if apart < 0 else MORE)
        return
    yield _of_more(connection, asked, line, mark, ours.marked_ms)


def _ended_now(asked: Compared, drawn: Level) -> list[Part]:
    """Return the parts that ended at this read."""
    return [one.part for one in drawn.expired if one.ends_ms == asked.read_ms]


def _note_parts(connection: sa.Connection, asked: Compared, marks: Collection[Mark]) -> None:
    """Store the use of parts that may end, and ended parts, for later comparisons."""
    shown: dict[str, list[Part]] = defaultdict(list)
    for mark in marks:
        drawn = drawn_of(asked.balances, mark.pair)
        assert drawn is not None
        before_ms = asked.by.now_ms - MAX_SKEW_MS - 1  # only this comparison may cover the ended parts
        ended = [replace(part, ends_ms=before_ms) for part in _ended_now(asked, drawn)]
        shown[mark.pair[0]] += [*drawn.shown_parts, *ended]
    note_shown_parts(connection, asked.provider, shown, asked.read_ms)


def _of_told(
    connection: sa.Connection, asked: Compared, line: Line, mark: Mark, marked_ms: int, note: str
) -> tuple[Line, Mark]:
    """Return a line to report to a person once, and its mark.

    The line includes uncertainties from hidden parts.
    """
    line = _with_parts(connection, asked, line, marked_ms)
    told = replace(mark, reported_quantity=line.theirs - line.ours, unsure=min(line.unsure, MAX_FIGURE))
    return replace(line, note=_noted(note, line) + ONCE), told


def _noted(note: str, line: Line) -> str:
    return note + (UNSURE.format(show_quantity(line.unsure, line.scale)) if line.unsure else "")


def _newest(connection: sa.Connection, asked: Compared, pair: CustomerPool, since_ms: int) -> list[PushRow]:
    """Return the newest pushes that drew on a balance, newest first."""
    values = {
        "provider": asked.provider,
        "customer_id": pair[0],
        "features": list(asked.pools.features(pair[1])),
        "since_ms": since_ms,
        "at_most": MOST_LOST,
    }
    return list(SQL.run(connection, "newest_charges", values))


def _may_be_part(connection: sa.Connection, asked: Compared, pair: CustomerPool, since_ms: int, amount: int) -> bool:
    """Return True if a used-up part may explain the missing amount of a balance.

    Such a part was granted once, and reads and responses never showed it. Charges without a response used it up, and
    can have drawn on another part as well. As a caution, the function allows for a response to the charge that used up
    the part. It checks only customers with parts granted once.
    """
    if not _has_parts(connection, asked, pair):
        return False
    hidden, is_all = _hidden(connection, asked, pair, since_ms)
    if not is_all or amount <= hidden:
        return True
    rows = _charges(connection, asked, pair, since_ms, "charges_since")
    answered = (_drawn_by(asked.pools, row) for row in rows if row.answered)
    return len(rows) > MOST_CHARGES or any(0 < amount - one <= hidden for one in answered)


def _with_parts(connection: sa.Connection, asked: Compared, line: Line, marked_ms: int) -> Line:
    """Add to a line the uncertainty of parts that reads and responses never showed.

    Such parts look like a missing amount of the balance. Only charges without a response can have used them up, because
    each response shows the parts that its charge drew on, even at zero. Recorded calls show this.
    """
    pair = line.customer_id, line.feature
    if not asked.pools.in_credits(line.feature) or not _has_parts(connection, asked, pair):
        return line
    hidden, is_all = _hidden(connection, asked, pair, marked_ms)
    return replace(line, unsure=line.unsure + (hidden if is_all else max(hidden, abs(line.theirs - line.ours))))


def _hidden(connection: sa.Connection, asked: Compared, pair: CustomerPool, since_ms: int) -> tuple[int, bool]:
    """Return the largest draw on hidden parts since a comparison.

    Only charges without a response can have drawn on them. The second value is False if there are more than
    MOST_CHARGES such charges. The draw then covers only some of them.
    """
    rows = _charges(connection, asked, pair, since_ms, "unanswered_since")
    return sum(_drawn_by(asked.pools, row) for row in rows), len(rows) <= MOST_CHARGES


def _has_parts(connection: sa.Connection, asked: Compared, pair: CustomerPool) -> bool:
    known = known_parts(connection, asked.provider, [pair[0]]).get(pair[0], ())
    features = asked.pools.features(pair[1])
    return any(part.balance in features and not part.begins_again for part in known)


def _drawn_by(pools: Pools, push: PushRow) -> int:
    """Return the largest possible draw of a push."""
    return round(int(push.sent_qty) * drew_of(pools, push)[1])


def _charges(
    connection: sa.Connection, asked: Compared, pair: CustomerPool, since_ms: int, statement: str
) -> Sequence[PushRow]:
    """Return the charges since a comparison, at most MOST_CHARGES + 1."""
    values = {
        "provider": asked.provider,
        "customer_id": pair[0],
        "features": list(asked.pools.features(pair[1])),
        "since_ms": since_ms - CLOCKS_APART_MS,
        "at_most": MOST_CHARGES + 1,
    }
    return list(SQL.run(connection, statement, values))


def _find_lost_pushes(
    pools: Pools, pool: str, newest: Sequence[PushRow], amount: int, now_ms: int
) -> list[PushRow] | None:
    """Return the pushes with draws that a balance has lost.

    None: the pushes are unknown, or a person may have topped up the balance. A store that goes back to its last write
    loses all later draws, and may lose draws that were under way.
    """
    drew: list[int] = []
    for row in newest:
        began_ms, settled_ms = int(row.first_attempt_ms), int(row.settled_ms)
        then = pools.weight_told_between(pool, str(row.feature), began_ms, settled_ms, row.credit_cost)
        if then != pools.weight_told_between(pool, str(row.feature), now_ms, now_ms, None) or not then[1]:
            break  # the push did not draw here, or a new send would draw another amount
        drew.append(round(int(row.sent_qty) * then[1]))
    found = lost_among(drew, [int(row.settled_ms) for row in newest[: len(drew)]], amount)
    return None if found is None else [newest[place] for place in found]


def lost_among(drew: Sequence[int], settled_ms: Sequence[int], amount: int) -> list[int] | None:
    """Return the indexes of charges that add up to an amount, newest first.

    `drew`, `settled_ms`: the draws and the times of the charges, newest first. The result has consecutive charges
    within LOST_SPAN_MS, and any of the charges that were settled together just before them. Of these earlier charges,
    at most MOST_BESIDE are tried. None: such charges do not exist, too many sums are possible, or a top-up may equal a
    tried sum by chance.
    """
    tried: set[int] = set()
    tries = 0
    for begin in range(len(drew)):
        total = 0
        for end in range(begin, len(drew)):
            if settled_ms[begin] - settled_ms[end] > LOST_SPAN_MS:
                break
            total += drew[end]
            before = range(end + 1, min(end + 1 + MOST_BESIDE, len(drew)))
            in_time = [at for at in before if settled_ms[begin] - settled_ms[at] <= LOST_SPAN_MS]
            beside = _sums_of([(at, drew[at]) for at in in_time if settled_ms[at] == settled_ms[in_time[0]]])
            tried.update(total + some for some in beside)
            tries += len(beside)
            chosen = beside.get(amount - total)
            if chosen is not None:
                return None if _is_chance(tried, amount) else [*range(begin, end + 1), *chosen]
            if tries > MOST_LOST_SUMS:
                return None
    return None


def _sums_of(drew: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    """Return the possible sums of a few charges, with their places."""
    reached: dict[int, list[int]] = {0: []}
    for place, quantity in drew:
        for before, chosen in list(reached.items()):
            reached.setdefault(before + quantity, [*chosen, place])
    return reached


def _is_chance(tried: Collection[int], amount: int) -> bool:
    """Return True if an amount may be among some sums by chance.

    People top up by round amounts. Consider all amounts up to the largest sum that are as round as this one. If more
    than one in CHANCE of these amounts is among the sums, return True.
    """
    grain = 1
    while amount % (grain * 10) == 0:
        grain *= 10
    like_it = sum(1 for one in tried if one > 0 and one % grain == 0)
    # `like_it` always includes the sum that was found.
    return (like_it - 1) * CHANCE > max(tried) // grain


def _of_lost(
    connection: sa.Connection, asked: Compared, line: Line, lost: Sequence[PushRow]
) -> tuple[Line | None, Mark | None]:
    """Adopt lost draws as negative charges, so that their usage is owed again."""
    if not asked.scope.correct:
        return replace(line, note=LOST), None
    # A command can take long. An adoption belongs to the cycle that was read, and comes after the charge that it
    # undoes.
    by = replace(asked.by, now_ms=asked.read_ms)
    for row in lost:
        evidence = (
            "the provider keeps its event, but the balance lacks its charge and those of "
            f"{counted(len(lost) - 1, 'other push', 'other pushes')}"
        )
        lost_qty = -int(row.sent_qty)
        adopt_excess(connection, row, lost_qty, by, evidence, drawn=True, credit_cost=row.credit_cost)
    return replace(line, corrected=line.ours - line.theirs), None


def _of_more(
    connection: sa.Connection, asked: Compared, line: Line, mark: Mark, marked_ms: int
) -> tuple[Line | LeftOut | None, Mark | None]:
    """Adopt or report draws beyond the pushes.

    Such draws come from pushes that were sent twice, or from another system.
    """
    pools = asked.pools
    values = {
        "provider": line.provider,
        "customer_id": line.customer_id,
        "features": list(pools.features(line.feature)),
        "since_ms": mark.since_ms,
    }
    again = SQL.run(connection, "sent_again", values).all()
    more = line.theirs - line.ours
    seen_to = asked.seen_to[mark.pair]
    if any(row.settled_ms > asked.settled_by or row.window_ms >= seen_to for row in again):
        # An event may still show the extra draw. Drawdown would then give the draw back twice.
        return LeftOut(asked.provider, *mark.pair, MAY_SHOW), None
    costs = [_cost(pools, line.feature, row) for row in again]
    drew = [
        (int(row.sent_qty) * cost, int(row.may_be) // int(row.sent_qty))
        for row, cost in zip(again, costs, strict=True)
        if cost
    ]
    twice = sent_twice(drew, more)
    if twice is None:
        return _of_told(connection, asked, line, mark, marked_ms, MORE)
    line = _with_parts(connection, asked, line, marked_ms)
    if not asked.scope.correct:
        return replace(line, note=_noted(AGAIN, line)), None
    known = [row for row, cost in zip(again, costs, strict=True) if cost]
    _adopt_drawn(connection, [(known[place], times) for place, times in twice.items()], asked.by)
    note = _noted(GIVEN_BACK, line) + ONCE if line.unsure else None
    corrected = replace(mark, apart=mark.apart - more, unsure=min(line.unsure, MAX_FIGURE))
    return replace(line, corrected=more, note=note), corrected


def _cost(pools: Pools, pool: str, push: PushRow) -> int:
    """Return the draw of a push's unit; 0 if its cost has changed since.

    At another cost, Drawdown would give back another amount than the push drew.
    """
    feature, settled_ms = str(push.feature), int(push.settled_ms)
    least, most = pools.weight_between(pool, feature, int(push.first_attempt_ms), settled_ms)
    return most if least == most == pools.weight_between(pool, feature, settled_ms, 2**62)[1] else 0


def sent_twice(pushes: Sequence[tuple[int, int]], amount: int) -> dict[int, int] | None:
    """Return the pushes with extra draws that add up to an amount.

    `pushes`: each quantity, and its possible number of extra draws. The result is the number of extra draws, by the
    index of the push. None: the extra draws do not add up to the amount, or there are more than MOST_SUMS sums. With so
    many sums, a person's change of the balance is more likely.
    """
    counts = range(1, max((times for _, times in pushes), default=0) + 1)
    copies = [place for copy in counts for place, (_, times) in enumerate(pushes) if times >= copy]
    reached: dict[int, tuple[int, int]] = {0: (-1, 0)}  # each sum, with its last push and the sum before that push
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


def _adopt_drawn(connection: sa.Connection, twice: Sequence[tuple[PushRow, int]], by: By) -> None:
    """Adopt extra draws for pushes that were sent twice."""
    for row, times in twice:
        part = row.sent_qty * times
        evidence = f"may have arrived {counted(row.arrived, 'time')}. The balance fell by {part:,} more than was pushed"
        adopt_excess(connection, row, part, by, evidence, drawn=True)
