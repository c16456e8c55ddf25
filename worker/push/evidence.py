"""Find evidence of pushes without an event: balances (P5) and lost history (R1).

Guarantee: a balance decides only if it was read between two equal reads of the accepted pushes. In that case, no push
was on its way during the read of the balance. If a change by a person or use by another system leaves a doubt, the
result is None.

Autumn draws on a balance immediately and stores the event later, or never (observed). So a missing event alone does not
prove that a push is absent. A top-up by `add_to_balance` looks like usage that was given back. A mark stores the
difference between balance and pushes at the last comparison, so that a difference is reported once. If a top-up between
two comparisons equals a draw without an event, Drawdown cannot see either.

A balance pays for one feature, or, as a credit system, for several features at a cost each. All quantities here are
those of the balance (`worker.catalog.costs.Pools`). They are base units of its feature, or parts of a credit.
`Pools.scale` is the number of parts in a credit. A feature of a credit system may have its own units, which are drawn
on first. They count at the cost in force when they are read. If the cost changed since the last comparison, the amount
of units that were drawn since is a range.

If a balance does not show a part that was ever reset, all draws since its beginning are compared. If a part ended
before it was used up, the amount is a range. The range follows from the last shown use of the part, or, for a plan,
from all charges since the last mark.

If history was lost, Drawdown looks up a push of a window before the loss before it sends the push. It also looks up the
next possible revisions, which finds charges under unknown keys. The draws of such charges do not count as draws of a
known push. A failed read is None, never zero.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from functools import partial
from math import ceil, floor
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import (
    CannotTell,
    Capabilities,
    Drawn,
    FoundPush,
    LookupResult,
    Part,
    PushRequest,
    ReadFailed,
    Totals,
)
from drawdown.providers.validated_provider import MAX_FIGURE
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, WINDOW_MS, next_window, push_key
from drawdown.worker.catalog.balance_parts import UNSETTLED_MS, known_parts
from drawdown.worker.catalog.costs import Pools, read_pools
from drawdown.worker.catalog.mapping import FOREVER_MS
from drawdown.worker.engine.clock_check import MAX_SKEW_MS
from drawdown.worker.engine.effects import (
    CLOCKS_APART_MS,
    Over,
    ReadDrawn,
    ReadTotals,
    Steps,
    Transaction,
    look_up_all,
    never,
)
from drawdown.worker.history.incarnation import Loss, loss_of, read_losses
from drawdown.worker.push.adopt import Other
from drawdown.worker.push.outcome import OTHERS, OTHERS_FIRST
from drawdown.worker.push.rows import PushRow, Row, dated, push_id_of, request_of, wire_key

SQL = queries(__file__)

CustomerPool = tuple[str, str]
"""The ids of a customer and of a balance, at one provider."""


@dataclass(frozen=True)
class Outlasting:
    """The lasting parts of a balance (`Lasting`), in quantities of the balance.

    `used` includes parts that were used up and that the provider does not show. `lasting_left`: the rest of the parts
    granted once. `cycle_left`: the rest of the parts that renew at `ends_ms`.
    """

    used: int
    lasting_left: int
    cycle_left: int
    ends_ms: int

    def used_at_end(self, charged: int) -> tuple[int, int] | None:
        """Return the least and most draws on parts granted once, at the cycle's end.

        `charged`: the charges until the cycle's end.

        Parts that were granted in the meantime may have paid for more than the known parts could. None: unknown,
        because `charged` is negative.
        """
        if charged < 0:
            return None
        beyond = max(0, charged - self.cycle_left)
        return self.used + min(beyond, max(0, self.lasting_left)), self.used + beyond

    def within(self, between: Between) -> tuple[int, int]:
        """Return the bounds of `used_at_end` if the charges are not exactly known.

        This also applies if credit was given back to an unknown part.
        """
        least, most = (max(0, charged - self.cycle_left) for charged in (between.least, between.most))
        return self.used + min(least, max(0, self.lasting_left)) - between.back, self.used + most


@dataclass(frozen=True)
class Between:
    """The bounds of the charges between a comparison and the end of a cycle.

    `back`: the further amount that may have been given back. All amounts are quantities of the balance.
    """

    least: int = 0
    most: int = 0
    back: int = 0


OwnUnits = Mapping[str, tuple[Decimal, int]]
"""Drawn own units, and the amount of a unit in the balance, by feature of a credit system."""


@dataclass(frozen=True)
class Expired:
    """A part that ended before it was used up.

    `used`: the use of the part when it was last shown, which counts as drawn. `unused`: the rest. Both are quantities
    of its balance.
    """

    part: Part
    used: int
    unused: int

    @property
    def ends_ms(self) -> int:
        return self.part.ends_ms or 0


@dataclass(frozen=True)
class Level:
    """The draws that a balance shows since `since_ms`, in its own quantities.

    `since_ms` None: all draws count. `expired`: parts that are gone and may not be used up. `whole`: True if the draws
    were zero at `since_ms`. `is_gone`: True if the provider does not show any balance, so that it did not give credit
    back to the balance. `lasting`: the part that does not end with the cycle, or zeros (None: unknown, or no cycle).
    """

    quantity: int
    since_ms: int | None
    whole: bool = True
    expired: tuple[Expired, ...] = ()
    is_gone: bool = False
    lasting: Outlasting | None = None
    own: OwnUnits = field(default_factory=dict)
    """Own units, which `quantity` includes."""
    earliest_ms: int | None = None
    """The earliest possible start of its cycle, if that is before `since_ms`."""
    is_first: bool = False
    """True if the parts of the balance were never reset, so that this is its first cycle."""
    shown_parts: tuple[Part, ...] = field(default=(), compare=False)
    """The parts that the read showed."""

    @property
    def from_ms(self) -> int:
        """Return the earliest possible start of its cycle.

        Pushes that were sent before this time do not count in the cycle.
        """
        return (self.since_ms if self.earliest_ms is None else self.earliest_ms) or 0


Balances = Mapping[str, Mapping[str, Level] | ReadFailed]
"""The draws that were read, by customer and balance.

`ReadFailed`: the read of the customer failed.
"""
CHUNK: Final = 200
"""Customers that one step of a read of balances covers."""
MOST_SUMS: Final = 2_000
"""Most different sums of a set of pushes that Drawdown tries.

Above this number, Drawdown assumes that several parts of the set have the same sum. A part is then not evidence, and a
person decides.
"""

MOST_UNSURE: Final = 12
"""Most uncertain pushes for which Drawdown tries all combinations.

A balance may include any of these pushes. With more uncertain pushes, Drawdown compares only the bounds.
"""


@dataclass(frozen=True)
class Accounted:
    """The accepted pushes of a customer, in quantities of a balance's present cycle."""

    org_id: str = ""
    """The organisation of the newest accepted push."""
    send_counts: tuple[int, int] = (0, 0)
    """The number of attempts, and of open pushes.

    If two reads agree on both and on `accepted`, pushes were not sent or settled between them.
    """
    accepted: int = 0
    """The accepted quantity in all cycles."""
    ours: int = 0
    least: int = 0
    most: int = 0
    """The upper bound of `ours`; `least` is the lower bound. Pushes sent around the start of the cycle may count or
    not.
    """
    hand_above: int = 0
    hand_below: int = 0
    """The sums billed and credited by hand since the last comparison, which the balance may include or not. If a person
    voided a push that gives back, it counts as credited, because the provider may have credited a part of it. If a
    cost changed around a charge, the balance may have the charge at the lower cost. So the difference of the costs
    also counts here.
    """
    other_balance: int = 0
    """The sum of the pushes that may have drawn on another balance, so that this balance may lack them."""
    in_cycle: bool = False
    """True if all accepted pushes are of this cycle, so that they did not draw on earlier parts."""
    newest_ms: int = 0
    open: int = 0
    """Pushes that may have arrived, and are not settled."""
    open_above: int = 0
    open_below: int = 0
    """The sum of open pushes that give back; `open_above` is the sum of those that draw."""
    apart: int | None = None
    """The difference of the balance from `ours` at the last comparison in this cycle.

    None: the balance was not compared in this cycle.
    """
    marked_ms: int = 0
    """The time of the last comparison in this cycle, or else in the cycle before."""
    earlier: tuple[int, int] | None = None
    """The least and the most draws on a balance that were made before its cycle began; None: unknown.

    The bounds follow from the last comparison in the cycle before.
    """
    own: OwnUnits = field(default_factory=dict)
    """The own units at the last comparison."""
    repriced: tuple[int, int] = (0, 0)
    """The bounds of the difference between drawn own units and their amount in the balance. They differ from zero if a
    cost changed, or a feature joined or left a credit system.
    """
    joined: bool = False
    """True if only a feature that joined or left a credit system makes the bounds of `repriced` differ."""
    fresh: tuple[int, int] = (0, 0)
    """The charges, and the sums given back, since the last comparison."""
    is_unmatched: bool = False
    """True if the last comparison was of an ended cycle, and the draws up to it are unknown.

    The balance may show or omit each charge since then.
    """
    expired: tuple[int, int] = (0, 0)
    """The amounts by which draws on parts that ended since the last comparison may be below and above the count."""
    is_range: bool = False
    """True if the earlier draws may be any value between the bounds of `earlier`."""
    of_cycle: int | None = None
    """The accepted quantity in the balance's cycle, if all draws since the beginning are compared.

    In that case, the balance does not show a part that was ever reset, and all other figures are since the beginning.
    """

    def beyond(self, drawn: Level) -> tuple[int, int] | None:
        """Return the least and most draws beyond the accepted pushes; None: unknown."""
        if self.is_unmatched:
            return None
        found = self._beyond(drawn)
        return None if found is None else (found[0] + self.repriced[0], found[1] + self.repriced[1])

    def _beyond(self, drawn: Level) -> tuple[int, int] | None:
        less, more = self.expired
        if self.apart is not None:
            beyond = drawn.quantity - self.ours - self.apart
            return beyond + self.hand_below - less, beyond + self.hand_above + more
        least, most = self.earlier or (0, 0)
        if not (drawn.whole or self.earlier is not None or self.of_cycle is not None):
            return None
        return drawn.quantity - self.most - most - less, drawn.quantity - self.least - least + more

    def is_as_settled(self, drawn: Level) -> bool:
        """Return True if a balance shows exactly the accepted pushes, as people decided.

        - If either of two costs may have applied, the higher cost counts, because the lower cost would hide a loss of
          the same amount.
        - If a feature joined or left a credit system, all its charges may have drawn on the other balance.
        - The balance may show any of the pushes that were sent as the cycle began, because events and responses prove
          them.
        - Own units that were drawn while a cost changed may have any amount between the two costs. In that case, the
          result is False.
        """
        if self.is_repriced and not self.joined:
            return False
        if not (self.hand_above or self.hand_below or self.is_repriced):
            return True
        least, most = (self.apart, self.apart) if self.apart is not None else self.earlier or (0, 0)
        beyond = drawn.quantity - self.ours
        may_be = [beyond + own + other for own in self.repriced for other in (0, self.other_balance)]
        return any(least <= one <= most for one in may_be)

    @property
    def is_repriced(self) -> bool:
        """Return True if own units were drawn with several possible amounts."""
        return self.repriced[0] != self.repriced[1]


def read_accounted(
    connection: sa.Connection, *, provider: str, pairs: Collection[CustomerPool], balances: Balances
) -> dict[CustomerPool, Accounted]:
    """Return the accepted pushes of each balance.

    `balances`: the draws that were read. If they are not read yet, pass an empty mapping, and compare the result only
    with that of a later call.
    """
    pools = read_pools(connection, provider)
    since = {pair: _since(balances.get(pair[0]), pair[1]) for pair in sorted(pairs)}
    wanted = [{"customer_id": pair[0], "feature": pair[1], "since_ms": since[pair]} for pair in since]
    marks: dict[CustomerPool, tuple[int, int]] = {}
    before: dict[CustomerPool, _Before] = {}
    unmatched: dict[CustomerPool, int] = {}
    ever = {pair for pair in since if since[pair] and _level(balances, pair).is_first}
    own: dict[CustomerPool, OwnUnits] = {}
    for row in SQL.run(connection, "marks", {"provider": provider, "pairs": wanted}):
        pair, scale = (str(row.customer_id), str(row.feature)), pools.scale(str(row.feature))
        if scale % int(row.scale):
            continue  # the balance itself changed, because a finer cost would only multiply the scale
        level, finer = _level(balances, pair), scale // int(row.scale)
        own[pair] = _read_own(row.own_units, finer)
        begun_ms, lasting = int(row.since_ms), _lasting_of(row, finer)
        if begun_ms == since[pair]:
            marks[pair] = int(row.apart_qty) * finer, int(row.at_ms)
            ever.discard(pair)
        elif begun_ms == 0 and pair in ever:
            marks[pair] = int(row.apart_qty) * finer, int(row.at_ms)
        elif level.since_ms is None and lasting is not None and _is_same(own[pair], level.own):
            # omit draws on parts that ended with the cycle
            marks[pair] = lasting.used - int(row.accepted_qty) * finer, int(row.at_ms)
            ever.add(pair)
        elif begun_ms > since[pair] or pair in ever:
            unmatched[pair] = int(row.at_ms)
            ever.add(pair)
        elif begun_ms in (0, row.cycle_ms) and row.accepted_qty is not None and _is_same(own[pair], level.own):
            before[pair] = _before(row, level, finer, has_own=bool(own[pair]))
    moments = {pair: at_ms for pair, (_, at_ms) in marks.items()} | unmatched
    of_all = _read_rows(connection, provider, pools, moments, {pair: _Cycle() for pair in ever})
    cycles = {pair: _Cycle(since[pair], _level(balances, pair).from_ms) for pair in since}
    of_cycle = _read_rows(connection, provider, pools, moments, cycles)
    found = {pair: _accounted(of_cycle[pair], pools, pair[1], *marks.get(pair, (None, 0))) for pair in pairs}
    for pair in ever:
        whole = _accounted(of_all[pair], pools, pair[1], *marks.get(pair, (None, unmatched.get(pair, 0))))
        found[pair] = replace(whole, of_cycle=found[pair].ours, is_unmatched=pair in unmatched)
    for pair, now in found.items():
        if drawn_of(balances, pair) is not None:
            known = own.get(pair, {}) if pair in marks else {}
            from_ms = now.marked_ms if pair in ever else max(now.marked_ms, since[pair])
            repriced, joined = _repriced(pools, pair[1], _level(balances, pair), known, from_ms)
            found[pair] = replace(now, own=known, repriced=repriced, joined=joined)
    disturbed = _disturbed(connection, provider, before, since, pools)
    for pair, then in before.items():
        exact = None if pair in disturbed else then.used_at_end(found[pair])
        earlier = exact or then.within(disturbed.get(pair, Between()))
        if earlier is not None and (exact is not None or not _level(balances, pair).whole):
            is_range = exact is None and earlier[0] != earlier[1]
            above, below = found[pair].fresh
            fresh = max(above, found[pair].accepted - then.accepted), below
            found[pair] = replace(found[pair], marked_ms=then.at_ms, earlier=earlier, is_range=is_range, fresh=fresh)
    expired = _expired(connection, provider, found, balances, pools)
    return found | {pair: replace(found[pair], expired=bounds) for pair, bounds in expired.items()}


def _expired(
    connection: sa.Connection,
    provider: str,
    found: Mapping[CustomerPool, Accounted],
    balances: Balances,
    pools: Pools,
) -> Mapping[CustomerPool, tuple[int, int]]:
    """Return the amounts by which draws on ended parts may differ from the count.

    The amounts are the largest shortfall and the largest excess since the last comparison.

    A response shows the parts that its charge drew on, so only charges without a response may have drawn more. If a
    proxy repeated charges, the last charges before a part was last shown may also have drawn more. The provider may
    also have lost such charges. A part of a plan may have paid for all charges since the last comparison, because
    Drawdown does not store the part's use.
    """
    ended: dict[CustomerPool, list[Expired]] = {}
    for pair, now in found.items():
        from_ms = now.marked_ms or (_level(balances, pair).from_ms if now.of_cycle is None else 0)
        ended[pair] = [one for one in _level(balances, pair).expired if one.ends_ms + MAX_SKEW_MS >= from_ms]
    rows = [
        {"customer_id": pair[0], "pool": pair[1], "feature": feature, **_shown_times(known)}
        for pair, parts in ended.items()
        if (known := [one for one in parts if one.part.used is not None])
        for feature in pools.features(pair[1])
    ]
    sums: dict[CustomerPool, Counter[str]] = defaultdict(Counter)
    for row in SQL.run(connection, "unseen", {"provider": provider, "pairs": rows}) if rows else ():
        pair = str(row.customer_id), str(row.pool)
        each = _most(pools, pair[1], str(row.feature))
        for name in ("unanswered", "last_charged", "given_back"):
            sums[pair][name] += int(getattr(row, name)) * each
    bounds = {}
    for pair, parts in ended.items():
        unseen, known = sums[pair], [one for one in parts if one.part.used is not None]
        less = min(unseen["given_back"] + unseen["last_charged"], sum(one.used for one in known))
        more = min(unseen["unanswered"] + unseen["last_charged"], sum(one.unused for one in known))
        if len(known) < len(parts):
            charged, given_back = found[pair].fresh
            less, more = less - given_back, more + charged
        bounds[pair] = less, more
    return bounds


def _shown_times(parts: Sequence[Expired]) -> dict[str, int]:
    """Return the spans of charges with unknown draws on ended parts.

    `last_after_ms` to `last_to_ms` are the last charges before a part was shown.
    """
    first, last = (choose(one.part.seen_ms for one in parts) for choose in (min, max))
    return {
        "since_ms": first - CLOCKS_APART_MS,
        "to_ms": max(one.ends_ms for one in parts) + CLOCKS_APART_MS,
        "last_after_ms": first - UNSETTLED_MS,
        "last_to_ms": last + MAX_SKEW_MS,
    }


@dataclass(frozen=True)
class _Cycle:
    """The latest and the earliest possible start of a cycle; 0: it never began."""

    since_ms: int = 0
    from_ms: int = 0


def _read_rows(
    connection: sa.Connection,
    provider: str,
    pools: Pools,
    moments: Mapping[CustomerPool, int],
    cycles: Mapping[CustomerPool, _Cycle],
) -> Mapping[CustomerPool, Sequence[Row]]:
    """Return the accepted pushes of each balance, feature by feature and cost by cost.

    `moments`: the times of the last comparisons.
    """
    features = [
        {
            "customer_id": pair[0],
            "feature": feature,
            "pool": pair[1],
            "since_ms": cycle.since_ms,
            "from_ms": cycle.from_ms,
            "mark_ms": moments.get(pair, 0),
        }
        for pair, cycle in cycles.items()
        for feature in pools.features(pair[1])
    ]
    by_pair: dict[CustomerPool, list[Row]] = defaultdict(list)
    changes = pools.changes({str(one["feature"]) for one in features})
    values = {"provider": provider, "pairs": features, "changes": changes, "apart_ms": CLOCKS_APART_MS}
    for row in SQL.run(connection, "accounted", values) if features else ():
        by_pair[(row.customer_id, row.pool)].append(row)
    return by_pair


def _repriced(pools: Pools, pool: str, level: Level, known: OwnUnits, from_ms: int) -> tuple[tuple[int, int], bool]:
    """Return the bounds by which own units differ from their amount in the balance.

    Own units of the last comparison (`known`) keep the amount that they had then. Units drawn since count at one of the
    costs since then. The last value is True if the bounds differ only because a feature joined or left a credit system.
    """
    least = most = Decimal(0)
    joined = True
    for feature in sorted({*known, *level.own}):
        (used, each), (before, then) = level.own.get(feature, _NO_UNITS), known.get(feature, _NO_UNITS)
        costs = pools.weight_between(pool, feature, from_ms, FOREVER_MS)
        fresh = [(used - before) * cost + before * then - used * each for cost in costs]
        least, most = least + min(fresh), most + max(fresh)
        joined = joined and (fresh[0] == fresh[1] or not costs[0])
    return (int(least.to_integral_value(ROUND_FLOOR)), int(most.to_integral_value(ROUND_CEILING))), joined


_NO_UNITS: Final = (Decimal(0), 0)


def _lasting_of(row: Row, finer: int) -> Outlasting | None:
    if row.used_qty is None or row.accepted_qty is None:
        return None
    used, left, cycle_left = (int(one) * finer for one in (row.used_qty, row.left_qty, row.cycle_left_qty))
    return Outlasting(used, left, cycle_left, int(row.ends_ms))


def _is_same(before: OwnUnits, now: OwnUnits) -> bool:
    """Return True if the same own units were drawn."""
    return {name: used for name, (used, _) in before.items()} == {name: used for name, (used, _) in now.items()}


def _read_own(found: str | None, finer: int) -> OwnUnits:
    units = {} if found is None else json.loads(found)
    return {feature: (Decimal(used), int(each) * finer) for feature, (used, each) in units.items()}


def _as_json(own: OwnUnits) -> str | None:
    return json.dumps({name: [f"{used:f}", each] for name, (used, each) in sorted(own.items())}) if own else None


@dataclass(frozen=True)
class _Before:
    """The last comparison of a balance before its present cycle.

    `at_ms`: its time. `accepted`: the accepted sum then. `bounds`: the known limits of its parts, for any order of
    draws.
    """

    at_ms: int
    accepted: int
    lasting: Outlasting | None
    bounds: Outlasting | None = None

    def used_at_end(self, now: Accounted) -> tuple[int, int] | None:
        """Return the least and most draws on parts granted once, at the cycle's end.

        A charge around the end counts once, before or after it. If less was charged after the end, more may have been
        drawn on parts granted once before it.
        """
        if self.lasting is None:
            return None
        charged = now.accepted - self.accepted
        least, most = (self.lasting.used_at_end(charged - of_cycle) for of_cycle in (now.least, now.most))
        return None if least is None or most is None else (least[0], most[1])

    def within(self, between: Between) -> tuple[int, int] | None:
        return None if self.bounds is None else self.bounds.within(between)


def _before(row: Row, level: Level, finer: int, *, has_own: bool) -> _Before:
    """Return the last comparison of a balance.

    If own units were drawn, the comparison's `bounds` is None, because the costs of the units may have changed.
    """
    at_ms, accepted, known = int(row.at_ms), int(row.accepted_qty) * finer, _lasting_of(row, finer)
    if int(row.since_ms) == 0:  # a reset since then may have removed a part of the charges
        bounds: Outlasting | None = Outlasting(accepted + int(row.apart_qty) * finer, 0, 0, 0)
        known = None
    elif known is None or level.lasting is not None:
        bounds = known
    else:  # a part that was granted since may be drawn on first
        bounds, known = replace(known, lasting_left=0, cycle_left=0), None
    return _Before(at_ms, accepted, known, None if has_own else bounds)


def _disturbed(
    connection: sa.Connection,
    provider: str,
    before: Mapping[CustomerPool, _Before],
    since: Mapping[CustomerPool, int],
    pools: Pools,
) -> dict[CustomerPool, Between]:
    """Return the balances with draws that are known only within bounds.

    The draws are those until the end of the balance's cycle. They are uncertain if a cost changed since the last
    comparison. They are also uncertain if, since then, a push gave back, was billed by hand, was voided or is still
    open. The order of the draws on the balance's parts may also be unknown.
    """
    moments = {pair: then.at_ms - CLOCKS_APART_MS for pair, then in before.items()}
    found: dict[CustomerPool, Between] = {}
    disturbed = {pair for pair, then in before.items() if then.lasting is None}
    disturbed |= {
        pair
        for pair, from_ms in moments.items()
        if any(int(str(one["at_ms"])) >= from_ms for one in pools.changes(pools.features(pair[1])))
    }
    rows = [
        {"customer_id": pair[0], "feature": feature, "pool": pair[1], "since_ms": since[pair], "mark_ms": from_ms}
        for pair, from_ms in moments.items()
        for feature in pools.features(pair[1])
    ]
    changes = pools.changes({str(one["feature"]) for one in rows})
    values = {"provider": provider, "pairs": rows, "changes": changes, "apart_ms": CLOCKS_APART_MS}
    for row in SQL.run(connection, "between", values) if rows else ():
        pair = str(row.customer_id), str(row.pool)
        least, most = pools.weight_told(pair[1], str(row.feature), int(row.first), int(row.last), row.credit_cost)
        sums = found.get(pair, Between())
        found[pair] = Between(
            sums.least + floor(int(row.sure) * least),
            sums.most + ceil(int(row.above) * most),
            sums.back + ceil(int(row.below) * most),
        )
        disturbed |= {pair} if row.disturbs else set()
    return {pair: found.get(pair, Between()) for pair in disturbed}


def _level(balances: Balances, pair: CustomerPool) -> Level:
    return drawn_of(balances, pair) or Level(0, None)


def _accounted(rows: Sequence[Row], pools: Pools, pool: str, apart: int | None, marked_ms: int) -> Accounted:
    if not rows:
        return Accounted(apart=apart, marked_ms=marked_ms)
    costs = [pools.weight_told(pool, str(row.feature), int(row.first), int(row.last), row.credit_cost) for row in rows]

    def total(name: str) -> int:
        return round(sum(int(getattr(row, name)) * most for row, (_, most) in zip(rows, costs, strict=True)))

    def unsure(name: str) -> int:
        """Return the amount by which charges during a change of cost may be lower."""
        less = (int(getattr(row, name)) * (most - least) for row, (least, most) in zip(rows, costs, strict=True))
        return round(sum(less))

    newest = max(rows, key=lambda row: int(row.newest_ms))
    attempts, is_open = (sum(int(getattr(row, name)) for row in rows) for name in ("attempts", "open"))
    return Accounted(
        org_id=str(newest.org_id),
        send_counts=(attempts, is_open),
        accepted=total("accepted"),
        ours=total("ours"),
        least=total("least") - unsure("fresh_above"),
        most=total("most") - unsure("fresh_below"),
        hand_above=total("hand_above") + unsure("fresh_above"),
        hand_below=total("hand_below") + unsure("fresh_below"),
        other_balance=round(
            sum(
                (int(row.fresh_above) + int(row.fresh_below)) * most
                for row, (least, most) in zip(rows, costs, strict=True)
                if not least
            )
        ),
        # A voided push may have given back a part in this cycle. `least` counts that part, `least_accepted` does not.
        in_cycle=total("accepted") == total("ours") == total("least_accepted") == total("most"),
        newest_ms=int(newest.newest_ms),
        fresh=(total("fresh_above"), total("fresh_below")),
        open=is_open,
        open_above=total("open_above"),
        open_below=total("open_below"),
        apart=apart,
        marked_ms=marked_ms,
    )


@dataclass(frozen=True)
class Unsure:
    """Quantities that a balance may include or not, at most MOST_UNSURE + 1."""

    quantities: Sequence[int]
    is_decided: bool
    """True if people decided about more than MOST_UNSURE of the pushes."""


def read_unsure(connection: sa.Connection, provider: str, pair: CustomerPool, drawn: Level, now: Accounted) -> Unsure:
    """Read the quantities that a balance may include or not.

    They are pushes that people billed or credited by hand, and pushes that were sent as the balance's cycle began. If
    the cost changed around a charge, the amount by which the charge may be lower is also such a quantity.
    """
    pools = read_pools(connection, provider)
    features = list(pools.features(pair[1]))
    values = {
        "provider": provider,
        "customer_id": pair[0],
        "features": features,
        "changes": pools.changes(features),
        "since_ms": drawn.since_ms or 0,
        "from_ms": drawn.from_ms,
        "mark_ms": 0 if now.apart is None else now.marked_ms,
        "apart_ms": CLOCKS_APART_MS,
        "at_most": MOST_UNSURE + 1,
    }
    found, decided = [], 0
    for row in SQL.run(connection, "unsure", values):
        least, most = pools.weight_told(pair[1], str(row.feature), int(row.first), int(row.last), row.credit_cost)
        found.append(round(int(row.sent_qty) * (most if row.is_unsure else most - least)))
        decided += int(row.decided)
    return Unsure([quantity for quantity in found if quantity], decided > MOST_UNSURE)


def nearest(least: int, unsure: Unsure) -> int:
    """Return the possible difference of a balance from our pushes nearest to zero.

    Each uncertain push is in the balance or not. `least`: the lowest possible difference. If more than MOST_UNSURE
    pushes are uncertain, return 0, because some of them would explain any amount. If people decided more than
    MOST_UNSURE of them, return `least`, because otherwise Drawdown would never report a loss.
    """
    if unsure.is_decided:
        return least
    if len(unsure.quantities) > MOST_UNSURE:
        return 0
    sums = {least}
    for quantity in unsure.quantities:
        sums |= {one + abs(quantity) for one in sums}
    return min(sums, key=lambda one: (abs(one), one))


def can_be_zero(
    connection: sa.Connection, provider: str, pair: CustomerPool, drawn: Level, now: Accounted, least: int
) -> bool:
    """Return True if a balance can show exactly the accepted pushes.

    Each uncertain push counts in full or not at all. `least`: the least draw beyond the accepted pushes. Draws on an
    ended part, before a first comparison, or while a cost changed can be any amount between two bounds. In that case,
    return False, because a lost charge could hide in this range.
    """
    is_first = now.apart is None and (now.is_range or (now.of_cycle is None and drawn.earliest_ms is not None))
    if is_first or now.is_unmatched or now.is_repriced or now.expired != (0, 0):
        return False
    return nearest(least, read_unsure(connection, provider, pair, drawn, now)) == 0


def _since(balance: Mapping[str, Level] | ReadFailed | None, pool: str) -> int:
    level = None if balance is None or isinstance(balance, ReadFailed) else balance.get(pool)
    return 0 if level is None else level.since_ms or 0


def read_balances(provider: str, customers: Collection[str], now_ms: int, over: Over = never) -> Steps[Balances]:
    """Read the draws that customers' balances show.

    `over`: a function that returns True when time is up. The remaining customers then count as not read.
    """
    found: dict[str, Mapping[str, Level] | ReadFailed] = {}
    wanted = sorted(customers)
    for at in range(0, len(wanted), CHUNK):
        part = wanted[at : at + CHUNK]
        # List the known parts before the read. Otherwise, a part that is first shown meanwhile would look gone.
        pools, known = yield Transaction(
            "known_parts", partial(_pools_and_parts, provider=provider, customers=part), rollback=True
        )
        read: Sequence[Mapping[str, Drawn] | ReadFailed] = yield ReadDrawn(provider, part, over)
        for customer, one in zip(part, read, strict=True):
            gone = known.get(customer, ())
            found[customer] = one if isinstance(one, ReadFailed) else levels(one, pools, gone, now_ms)
    return found


def _pools_and_parts(
    connection: sa.Connection, *, provider: str, customers: Collection[str]
) -> tuple[Pools, Mapping[str, Sequence[Part]]]:
    return read_pools(connection, provider), known_parts(connection, provider, customers)


def levels(read: Mapping[str, Drawn], pools: Pools, known: Sequence[Part], now_ms: int) -> Mapping[str, Level]:
    """Return the draws of balances, including draws on parts that are gone.

    This function is pure.

    If a part is gone before its end, it was used up. This also applies to a feature's own units in a credit system. A
    balance of one feature with a fraction is left out, because our pushes do not draw fractions.
    """
    found: dict[str, Level] = {}
    # A feature that left a credit system shows its parts itself.
    shown = {(part.balance, part.name) for drawn in read.values() for part in drawn.parts}
    for name, drawn in read.items():
        scale = pools.scale(name)
        features = pools.features(name)
        gone = [part for part in known if part.balance in features and (part.balance, part.name) not in shown]
        gone = [_as_ended(part, now_ms) if part.ended(drawn.plans) else part for part in gone]
        expired = [part for part in gone if part.ends_ms is not None and part.ends_ms <= now_ms + MAX_SKEW_MS]
        used_up = [part for part in gone if part not in expired]
        drew = [*((part.balance, part.granted) for part in used_up), *((part.balance, _used(part)) for part in expired)]
        own = _own_units(name, drawn, drew, pools)
        credits = Decimal(drawn.quantity) + sum((amount for balance, amount in drew if balance == name), Decimal(0))
        quantity = credits * scale + sum((used * each for used, each in own.values()), Decimal(0))
        whole = quantity.to_integral_value(ROUND_HALF_EVEN)
        if not pools.in_credits(name) and whole != quantity:
            continue
        found[name] = Level(
            int(whole),
            drawn.since_ms,
            # If a balance begins again, the draws since then on parts that are gone are unknown.
            drawn.whole and not (gone and drawn.since_ms is not None),
            tuple(_as_expired(part, _most(pools, name, part.balance)) for part in expired),
            pools.in_credits(name) and drawn.since_ms is None and not (drawn.quantity or drawn.parts or drawn.own),
            _outlasting(drawn, gone, sum(part.granted * _each(pools, name, part.balance) for part in used_up), scale),
            own,
            drawn.earliest_ms,
            drawn.is_first,
            drawn.parts,
        )
    return found


def _used(part: Part) -> Decimal:
    """Return the amount drawn on an ended part.

    With a debt, the amount exceeds the grant.
    """
    return Decimal(0) if part.used is None else max(Decimal(0), part.used)


def _as_ended(part: Part, now_ms: int) -> Part:
    return replace(part, ends_ms=now_ms if part.ends_ms is None else min(part.ends_ms, now_ms))


def _as_expired(part: Part, each: int) -> Expired:
    used = int((_used(part) * each).to_integral_value(ROUND_CEILING))
    granted = int((part.granted * each).to_integral_value(ROUND_CEILING))
    return Expired(part, used, max(0, granted - used))


def _own_units(pool: str, drawn: Drawn, drew: Sequence[tuple[str, Decimal]], pools: Pools) -> OwnUnits:
    """Return the own units that were drawn, at their present amounts.

    `drew`: the draws on parts that are gone. The result includes these draws.
    """
    units: dict[str, Decimal] = {}
    for feature, used in [*drawn.own.items(), *((balance, amount) for balance, amount in drew if balance != pool)]:
        units[feature] = units.get(feature, Decimal(0)) + used
    return {feature: (used, _each(pools, pool, feature)) for feature, used in units.items() if used}


def _each(pools: Pools, pool: str, feature: str) -> int:
    """Return the present amount of a unit of a balance, or of a feature's own unit."""
    return pools.scale(pool) if feature == pool else pools.weight_between(pool, feature, FOREVER_MS, FOREVER_MS)[1]


def _most(pools: Pools, pool: str, feature: str) -> int:
    """Return the largest amount that a unit ever had."""
    return pools.scale(pool) if feature == pool else pools.weight_between(pool, feature, 0, FOREVER_MS)[1]


def _outlasting(drawn: Drawn, gone: Sequence[Part], used_up: Decimal | int, scale: int) -> Outlasting | None:
    """Return the parts that outlast the cycle; None if unknown.

    If a part is gone before its end, charges may have drawn on it before or after the parts of the cycle.
    """
    lasting, since_ms = drawn.lasting, (drawn.since_ms if drawn.earliest_ms is None else drawn.earliest_ms) or 0
    if lasting is None or any(part.ends_ms is not None and part.ends_ms + MAX_SKEW_MS >= since_ms for part in gone):
        return None
    figures = (lasting.used * scale + used_up, lasting.lasting_left * scale, lasting.cycle_left * scale)
    used, left, cycle_left = (int(one.to_integral_value(ROUND_HALF_EVEN)) for one in figures)
    return Outlasting(used, left, cycle_left, lasting.ends_ms)


def drawn_of(balances: Balances, pair: CustomerPool) -> Level | None:
    """Return the level of a balance; None if it was not read or is not shown."""
    balance = balances.get(pair[0])
    return None if balance is None or isinstance(balance, ReadFailed) else balance.get(pair[1])


def is_of_cycle(sent_ms: int, drawn: Level) -> bool:
    """Return True if a push first sent at `sent_ms` must draw in this cycle.

    A balance does not prove whether other pushes were charged.
    """
    return drawn.since_ms is None or sent_ms >= drawn.since_ms + CLOCKS_APART_MS


def charged_among(
    quantities: Sequence[int], least: int, most: int, can_be_zero: Callable[[int], bool]
) -> frozenset[int] | None:
    """Return the indexes of the pushes that drew `least` to `most` on a balance.

    `can_be_zero`: a function that gets `least`, and returns True if some choice of the uncertain amounts makes the draw
    0. If no choice explains the balance exactly, another charge was lost or drawn twice. In that case, the balance does
    not prove that these pushes were not charged (P5).

    None: the balance does not show which pushes drew on it. If all pushes are settled together, any set with the same
    sum costs the customer the same. Otherwise the caller must check `is_only_choice`. If events show another set later,
    reconcile compares the windows together.

    None, too, if only some pushes equal the draw, and all sets of pushes have more than MOST_SUMS sums. In that case,
    many draws equal such a sum by chance. If a part of the balance was used up before a read showed it, the draw looks
    smaller.
    """
    whole, draws = sum(quantities), all(quantity > 0 for quantity in quantities)
    if least == most == 0 or (draws and least <= 0 <= most < min(quantities) and can_be_zero(least)):
        return frozenset()  # the draws may also cancel out, but events do not show them, and the balance fits
    if least == most == whole:
        return frozenset(range(len(quantities)))
    if least != most:
        return None
    chosen, left = set(), least
    for place in sorted(range(len(quantities)), key=lambda place: -abs(quantities[place])):
        if (quantities[place] > 0) == (left > 0) and abs(quantities[place]) <= abs(left):
            chosen.add(place)
            left -= quantities[place]
    return frozenset(chosen) if left == 0 and _ways(quantities) else None


def _ways(quantities: Sequence[int]) -> dict[int, int]:
    """Return the sums of all sets, each with its number of sets.

    Numbers above 2 count as 2. The result is empty if there are more than MOST_SUMS sums.
    """
    ways = {0: 1}
    for quantity in quantities:
        grown = dict(ways)
        for reached, count in ways.items():
            grown[reached + quantity] = min(2, grown.get(reached + quantity, 0) + count)
        if len(grown) > MOST_SUMS:
            return {}
        ways = grown
    return ways


def is_only_choice(quantities: Sequence[int], chosen: Collection[int]) -> bool:
    """Return True if the sum of the chosen pushes is unique among all sets.

    In that case the balance decides each push, and not only their sum. If there are too many sums, return False.
    """
    if len(chosen) in (0, len(quantities)) and (min(quantities) > 0 or max(quantities) < 0):
        return True
    return _ways(quantities).get(sum(quantities[place] for place in chosen)) == 1


@dataclass(frozen=True)
class Mark:
    """The difference of a balance from the accepted pushes.

    `pair`: the customer and the balance. `apart`: the difference, in quantities. `scale`: the quantities in one unit of
    the balance. `reported_quantity`: the part of the difference that is reported to a person now. `unsure`: the
    uncertainty of that part.
    """

    pair: CustomerPool
    since_ms: int
    apart: int
    org_id: str
    reported_quantity: int = 0
    scale: int = 1
    unsure: int = 0
    accepted: int = 0
    """The accepted quantity in all cycles."""
    lasting: Outlasting | None = None
    own: OwnUnits = field(default_factory=dict)


def write_marks(connection: sa.Connection, provider: str, marks: Sequence[Mark], now_ms: int) -> None:
    """Write the marks for the next comparisons.

    If a person has not acknowledged a report, the new report is added to it.
    """
    rows = [
        {
            "customer_id": mark.pair[0],
            "feature": mark.pair[1],
            "since_ms": mark.since_ms,
            "apart_qty": mark.apart,
            "org_id": mark.org_id,
            "told_qty": mark.reported_quantity,
            "told_ms": now_ms if mark.reported_quantity or mark.unsure else None,
            "scale": mark.scale,
            "unsure_qty": mark.unsure,
            "accepted_qty": mark.accepted if abs(mark.accepted) <= MAX_FIGURE else None,
            "own_units": _as_json(mark.own),
            **_figures_of_next_cycle(mark),
        }
        for mark in marks
    ]
    if rows:
        SQL.run(connection, "write_marks", {"marks": rows, "provider": provider, "at_ms": now_ms})


def _figures_of_next_cycle(mark: Mark) -> dict[str, int | None]:
    """Return the figures for the first comparison of the next cycle."""
    one = mark.lasting
    if one is None or max(map(abs, (mark.accepted, one.used, one.lasting_left, one.cycle_left))) > MAX_FIGURE:
        return dict.fromkeys(("used_qty", "left_qty", "cycle_left_qty", "ends_ms"))
    return {
        "used_qty": one.used,
        "left_qty": one.lasting_left,
        "cycle_left_qty": one.cycle_left,
        "ends_ms": one.ends_ms,
    }


def taken_back(connection: sa.Connection, accepted: Sequence[Row]) -> dict[str, str]:
    """Return pushes that a comparison of balances took back as lost.

    The result maps the key of each push to the key of the adopted push that took it back.
    """
    keys = [{"key": push.key} for push in accepted]
    return {str(row.key): str(row.adopted) for row in SQL.run(connection, "taken_back", {"keys": keys})} if keys else {}


def own_up_to_lost(connection: sa.Connection, voided: Sequence[Row]) -> None:
    """Reduce the missing draws of balances by pushes that a person reports lost.

    Call this under S1's lock. Without this, the draws of the replacement pushes would look like draws of the lost
    pushes.
    """
    lost: dict[tuple[str, CustomerPool], list[tuple[Row, Fraction]]] = defaultdict(list)
    scales: dict[str, Pools] = {}
    for push in voided:
        provider = str(push.provider)
        pools = scales.setdefault(provider, read_pools(connection, provider))
        settled_ms = int(push.settled_ms or push.sealed_at_ms)
        pair = str(push.customer_id), pools.of(str(push.feature))
        began_ms = int(push.first_attempt_ms or settled_ms)
        least, most = pools.weight_told_between(pair[1], str(push.feature), began_ms, settled_ms, push.credit_cost)
        if least == most:  # otherwise, the missing amount is unknown, and Drawdown reports it to a person once more
            lost[(provider, pair)].append((push, most))
    sums = {of: round(sum(int(push.sent_qty) * cost for push, cost in some)) for of, some in lost.items()}
    rows = [
        {
            "provider": provider,
            "customer_id": pair[0],
            "feature": pair[1],
            "sent_qty": sums[provider, pair],
            "settled_ms": max(int(push.settled_ms or push.sealed_at_ms) for push, _ in some),
            "scale": scales[provider].scale(pair[1]),
        }
        for (provider, pair), some in lost.items()
        if abs(sums[provider, pair]) <= MAX_FIGURE  # a mark cannot hold a larger difference
    ]
    if rows:
        SQL.run(connection, "own_up_to_lost", {"lost": rows})


@dataclass(frozen=True)
class ShownEvents:
    """The events of a customer's windows in [from_ms, until_ms).

    `totals`: base units by feature.
    """

    from_ms: int
    until_ms: int
    totals: Totals | ReadFailed


def read_shown(
    provider: str,
    asked: Sequence[Sought],
    pairs: Collection[CustomerPool],
    pools: Pools,
    balances: Balances,
    capabilities: Capabilities,
    over: Over,
) -> Steps[Mapping[CustomerPool, ShownEvents]]:
    """Read the provider's totals in spans of lost history, by customer and balance.

    A span counts if the balance was not compared after the loss. The result is empty if totals cannot be read.
    """
    if capabilities.totals_lag_ms is None:
        return {}
    losses: Mapping[CustomerPool, Loss] = yield Transaction(
        "confirm_lost", partial(_lost_since, provider=provider, pairs=pairs, balances=balances), rollback=True
    )
    spans: dict[CustomerPool, tuple[str, int, int]] = {}
    for pair, loss in losses.items():
        windows = [
            int(it.row.window_ms)
            for it in asked
            if (it.row.customer_id, pools.of(str(it.row.feature))) == pair and it.loss
        ]
        # Begin with the loss's first day, because the lost history may have billed late samples of that day.
        first = min(loss.from_ms - loss.from_ms % DAY_MS, *windows, loss.from_ms)
        spans[pair] = pair[0], first, next_window(loss.until_ms)
    wanted = sorted(set(spans.values()))
    totals: Sequence[Totals | ReadFailed] = (yield ReadTotals(provider, wanted, over)) if wanted else ()
    read = dict(zip(wanted, totals, strict=True))
    return {pair: ShownEvents(span[1], span[2], read[span]) for pair, span in spans.items()}


def _lost_since(
    connection: sa.Connection, *, provider: str, pairs: Collection[CustomerPool], balances: Balances
) -> Mapping[CustomerPool, Loss]:
    """Return the loss of each balance's cycle after the balance's last comparison.

    That comparison covers earlier losses.
    """
    losses = read_losses(connection)
    if not losses:
        return {}
    found: dict[CustomerPool, Loss] = {}
    for pair, now in read_accounted(connection, provider=provider, pairs=pairs, balances=balances).items():
        drawn = drawn_of(balances, pair)
        since = max(0 if now.apart is None else now.marked_ms, (drawn.since_ms or 0) if drawn else 0)
        loss = loss_of(0, [it for it in losses if it.until_ms > since])
        if drawn is not None and loss is not None:
            found[pair] = loss
    return found


def unknown_of(
    connection: sa.Connection, provider: str, pair: CustomerPool, pools: Pools, shown: ShownEvents | None, found: int
) -> int | None:
    """Return the quantity that events show beyond accepted and `found` pushes.

    The quantity is in the balance's quantities. It is at least 0, because charges without an event can make the
    difference negative. If `shown` is None, history was not lost, and the result is 0. None: the totals could not be
    read, or a cost changed since.
    """
    if shown is None:
        return 0
    if isinstance(shown.totals, ReadFailed):
        return None
    whose = {"provider": provider, "customer_id": pair[0], "from_ms": shown.from_ms, "until_ms": shown.until_ms}
    total = 0
    for feature in pools.features(pair[1]):
        known = int(SQL.run(connection, "known_by_events", {**whose, "feature": feature}).scalar_one())
        least, most = pools.weight_between(pair[1], feature, shown.from_ms, FOREVER_MS)
        if least != most:
            return None
        total += (int(shown.totals.get(feature, 0)) - known) * most
    return max(0, total - found)


NEXT_REVISIONS: Final = 3
"""Revisions after the newest known revision to look up together after a loss.

If the provider has the last of them, Drawdown looks up the next batch of the same size. It finds later revisions step
by step. After an adoption, the next seal makes a push for the difference. Drawdown looks up that push together with the
revisions after it.
"""


@dataclass(frozen=True)
class CarryDoubt:
    """The doubts about a push of a lost window because of other pushes.

    `stale`: True if the push depends on an obsolete carry. `waits`: True if the outcomes of other pushes of its
    customer and feature are unknown.
    """

    stale: bool = False
    waits: bool = False


def carry_doubt(connection: sa.Connection, row: PushRow, capabilities: Capabilities) -> CarryDoubt:
    """Return the doubts about a push of a lost window.

    If a provider accepts only whole units, or does not accept negative quantities, a push depends on the carries of all
    earlier pushes. In that case, Drawdown looks up all of them before it sends any. It seals a push again if the push
    depends on an obsolete carry.
    """
    if capabilities.unit_of(row.feature) == 1 and capabilities.negatives:
        return CarryDoubt()
    values = {**push_id_of(row), "provider": row.provider, "customer_id": row.customer_id}
    stale = SQL.run(connection, "adopted_since", {**values, "sealed_at_ms": row.sealed_at_ms}).first() is not None
    waits = (
        SQL.run(connection, "others_untold", {**values, "others_first": OTHERS_FIRST, "others": OTHERS}).first()
        is not None
    )
    return CarryDoubt(stale, waits)


def next_revisions(row: PushRow, newest: int, capabilities: Capabilities) -> list[PushRequest]:
    """Return requests for the next keys that our lost history may have used.

    `newest`: the newest known revision of the window.
    """
    asked = request_of(row, capabilities)
    numbers = range(newest + 1, newest + 1 + NEXT_REVISIONS)
    return [
        replace(
            asked,
            key=wire_key(push_key(row.org_id, row.window_ms, row.feature, number), capabilities),
            ts=dated(row.window_ms, number),
        )
        for number in numbers
    ]


@dataclass(frozen=True)
class Sought:
    """A push to look up.

    `loss`: the loss of history that may hide its sends (None: its history is complete). `others`: pushes of its window
    that the provider has, and that this database does not have or has voided. `voided`: revisions of its window to look
    up again.
    """

    row: PushRow
    loss: Loss | None
    others: Sequence[Other] = ()
    voided: Sequence[PushRow] = ()

    @property
    def first_sent_ms(self) -> int:
        """Return the earliest time at which the push may have been sent.

        In a lost history, that may be immediately after the end of its window.
        """
        first = int(self.row.first_attempt_ms or self.row.last_sent_ms)
        if self.loss is None:
            return first
        return min(first, max(self.loss.from_ms, int(self.row.window_ms) + WINDOW_MS))

    @property
    def last_sent_ms(self) -> int:
        """Return the latest time at which the push may have been sent.

        After a loss, that is at least the end of the loss, even if our attempts are earlier.
        """
        last = int(self.row.last_sent_ms)
        if self.loss is None:
            return last
        return max(last, self.loss.until_ms) if self.row.attempts else self.loss.until_ms

    @property
    def is_unsent(self) -> bool:
        """Return True if each attempt is proven not to have arrived.

        Such a push was not charged. After a loss of history this is False, because an attempt may be missing here.
        """
        row = self.row
        return self.loss is None and bool(row.attempts) and not row.claimed and not row.arrivals


def look_further(
    provider: str, asked: Sequence[Sought], found: Sequence[LookupResult], capabilities: Capabilities
) -> Steps[tuple[Sequence[Sought], Sequence[LookupResult]]]:
    """Look up later and voided revisions, too, after a loss of history.

    Return the pushes with their `others`, and the results. If such a revision cannot be read, the result of its push is
    that failure.
    """
    asked = list(asked)
    found = [find_lost_push(result) if it.loss is not None else result for it, result in zip(asked, found, strict=True)]
    places = [
        place
        for place, (sought, result) in enumerate(zip(asked, found, strict=True))
        if sought.loss is not None and not isinstance(result, ReadFailed | CannotTell)
    ]
    newest = {place: int(asked[place].row.newest) for place in places}
    # Continue while the provider has the last revision that was looked up. An adoption takes the next number, which
    # must be free at the provider.
    while places:
        requests = [it for place in places for it in next_revisions(asked[place].row, newest[place], capabilities)]
        results = yield from look_up_all(provider, requests)
        longer = []
        for number, place in enumerate(places):
            part = slice(number * NEXT_REVISIONS, (number + 1) * NEXT_REVISIONS)
            # CannotTell does not end the lookup. Reconcile compares such a push, and Drawdown looks its key up before
            # it sends under that key.
            others = [find_lost_push(other) for other in results[part]]
            untold = [other for other in others if isinstance(other, ReadFailed)]
            if untold:
                found[place], asked[place] = untold[0], replace(asked[place], others=())
                continue
            numbered = enumerate(zip(requests[part], others, strict=True), newest[place] + 1)
            there = [Other(n, it.key, other.quantity) for n, (it, other) in numbered if isinstance(other, FoundPush)]
            more = [other for other in there if other.quantity]
            asked[place] = replace(asked[place], others=[*asked[place].others, *more])
            if isinstance(results[part][-1], FoundPush):
                newest[place] += NEXT_REVISIONS
                longer.append(place)
        places = longer
    return (yield from _look_up_voided(provider, asked, found, capabilities))


def _look_up_voided(
    provider: str, asked: list[Sought], found: list[LookupResult], capabilities: Capabilities
) -> Steps[tuple[Sequence[Sought], Sequence[LookupResult]]]:
    """Add to the pushes' `others` the voided revisions that the provider has.

    They come after the later revisions, which keep their numbers. Each voided revision takes one of the NEXT_REVISIONS
    numbers that are known to be free. If the provider has more voided revisions, a person decides.
    """
    wanted = [
        (place, row)
        for place, (sought, result) in enumerate(zip(asked, found, strict=True))
        if not isinstance(result, ReadFailed | CannotTell)
        for row in sought.voided
    ]
    requests = [request_of(row, capabilities) for _, row in wanted]
    results = (yield from look_up_all(provider, requests)) if requests else []
    back: dict[int, list[Other]] = defaultdict(list)
    for (place, row), request, result in zip(wanted, requests, map(find_lost_push, results), strict=True):
        if isinstance(result, ReadFailed):
            found[place] = result
        elif isinstance(result, FoundPush) and result.quantity:
            back[place].append(Other(int(row.revision), request.key, result.quantity))
    for place, others in back.items():
        if len(others) > NEXT_REVISIONS:
            found[place] = CannotTell(f"the provider has {len(others)} voided revisions of its window", may_have=True)
        else:
            asked[place] = replace(asked[place], others=[*asked[place].others, *others])
    failed = {place for place, result in enumerate(found) if isinstance(result, ReadFailed | CannotTell)}
    return [replace(it, others=()) if place in failed else it for place, it in enumerate(asked)], found


def find_lost_push(result: LookupResult) -> LookupResult:
    """Return a found push in place of a doubt about its quantity.

    After a loss, another quantity is that of our own lost push.
    """
    return FoundPush(result.holds) if isinstance(result, CannotTell) and result.holds is not None else result
