"""Compare a line with its provider's events and balance, and correct a difference.

A line is an organisation's feature on a day.

Guarantee: only a lookup or a balance decides about a push, and a failed read never counts as zero. While a push is on
its way, a balance is not conclusive. A push counts as undrawn only if the figures agree exactly (P5). Drawdown voids a
push only if its lookup shows that it was not charged. If the provider may charge without an event, the customer's
balance must agree as well.

Drawdown refunds an excess once, and only if its own pushes of the window do not explain the excess and the balance
agrees. A quantity that was refunded before does not count as excess. If neither events nor balance decide, or if the
floor prevents another seal, a person decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Absent, CannotTell, Capabilities, FoundPush, LookupResult, ReadFailed, Totals
from drawdown.schema.audit import By
from drawdown.schema.clock import utc
from drawdown.schema.locks import lock_buckets, lock_rates
from drawdown.schema.sql import queries
from drawdown.schema.text import counted
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.catalog.costs import Pools, read_pools
from drawdown.worker.catalog.terms import require_terms
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Over, ReadTotals, Steps, Transaction, look_up_all
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_excess, adopt_other
from drawdown.worker.push.evidence import (
    Accounted,
    Balances,
    CustomerPool,
    Level,
    can_be_zero,
    charged_among,
    drawn_of,
    is_of_cycle,
    read_accounted,
    read_balances,
)
from drawdown.worker.push.outcome import UNTRACED
from drawdown.worker.push.rows import PushRow, Row, dated, push_id_of, request_of
from drawdown.worker.push.void import void_one
from drawdown.worker.reconcile.report import Line, of_line

SQL = queries(__file__)

ByWindow = Mapping[int, Totals | ReadFailed]
"""The totals that events show of each window of a line."""


def read_totals(
    provider: str, wanted: Sequence[tuple[str, int, int]], over: Over
) -> Steps[Sequence[Totals | ReadFailed]]:
    """Return a provider's totals of each (customer, from, to), in order.

    Times are in milliseconds, and a range is [from, to). If a read fails, its result is ReadFailed.
    """
    found: Sequence[Totals | ReadFailed] = yield ReadTotals(provider, wanted, over)
    assert len(found) == len(wanted), (
        f"invalid response of {provider}: it returned {len(found)} of {counted(len(wanted), 'total')}"
    )
    return found


def accepted_of(connection: sa.Connection, *, line: Line) -> list[PushRow]:
    """Return a line's accepted pushes that must have events at the provider."""
    return list(SQL.run(connection, "accepted", of_line(line)))


def look_up(
    provider: str, rows: Sequence[PushRow], capabilities: Capabilities, over: Over
) -> Steps[Sequence[LookupResult]]:
    """Look up pushes (rows of `accepted_of`), in their order."""
    requests = [replace(request_of(row, capabilities), ts=dated(int(row.window_ms), int(row.dated_as))) for row in rows]
    return (yield from look_up_all(provider, requests, over))


def is_unclear(row: PushRow, found: LookupResult) -> bool:
    """Return True if a later send may have charged without an event.

    Only the customer's balance shows such a charge.
    """
    return found == FoundPush(0) and int(row.arrivals) > 1


def is_contradicted(row: PushRow, found: LookupResult) -> bool:
    """Return True if a push's response proved a charge, but its event shows less.

    Either the response or the event is wrong. If the customer's balance is conclusive, it decides, as for a push
    without an event.
    """
    if not isinstance(found, FoundPush) or not row.answered:
        return False
    sent, shown = int(row.sent_qty), found.quantity
    return shown * sent >= 0 and abs(shown) < abs(sent)


def windows_of(connection: sa.Connection, *, line: Line) -> list[Row]:
    """Return the sums of a line's pushes by window, the earliest window first.

    A row also has the number of due, queued and in-doubt pushes, the last revision and the floor. Carried pushes are
    not counted.
    """
    return list(SQL.run(connection, "by_window", of_line(line)))


def read_windows(line: Line, before: ByWindow, over: Over) -> Steps[tuple[Sequence[Row], ByWindow]]:
    """Return the windows of a line, and the totals that events show for each now.

    If a window cannot be read, the result has its totals of `before`, if there are any. So charges in the place of
    voided pushes are corrected nevertheless.
    """
    windows: list[Row] = yield Transaction("reconcile_windows", partial(windows_of, line=line), rollback=True)
    asked = [int(row.window_ms) for row in windows]
    spans = [(line.customer_id, window, window + WINDOW_MS) for window in asked]
    totals = (yield from read_totals(line.provider, spans, over)) if spans else ()
    found = zip(asked, totals, strict=True)
    return windows, {at: before.get(at, read) if isinstance(read, ReadFailed) else read for at, read in found}


COVERED: Final = "no event shows them, but the customer's balance fell by the same amount, so they are charged"
MEANWHILE: Final = ". Until then, compare that whole balance in the provider's console, because reconcile does not"
UNTOLD: Final = (
    "no event shows them, and the customer's balance does not prove a charge. Compare them with "
    f"the provider's console{MEANWHILE}"
)
BELOW: Final = "below the floor, so that Drawdown cannot seal a replacement. Settle them with the customer"

BY_HAND: Final = (
    "compare them with the provider's console. Run `drawdown push void-lost KEY` for lost pushes, and invoice the "
    "pushes that it refunded twice"
)


@dataclass
class Short:
    """A line with its pushes, their lookups and the results.

    `corrected`: the quantity that was corrected now. `covered`: the quantity that the balance shows as charged.
    `untold`: the quantity without a proven outcome.
    """

    line: Line
    rows: Sequence[PushRow] = ()
    lookup_results: Sequence[LookupResult] = ()
    corrected: int = 0
    covered: int = 0
    untold: int = 0
    below: int = 0
    """The quantity below the floor. All quantities are base units, and negative for pushes that give back."""
    by_window: ByWindow = field(default_factory=dict)
    """The totals that events show of each window, if they show too much in some windows."""
    unseen: dict[int, int] = field(default_factory=dict)
    """The quantity by window that only the balance shows as charged."""
    doubted: set[int] = field(default_factory=set)
    """Windows with pushes that neither events nor the balance decide."""
    balanced: bool = False
    """True if the draws of the balance equal the accepted pushes, while events show some of them in other windows. It
    is unknown which pushes these are. The customer pays the right amount, so a part must not be given back.
    """
    explained: bool = False
    """True if excess events may belong to pushes without an event in other windows."""
    moving: bool = False
    """True if the balance is not conclusive yet, because it was not read or a push was on its way. The next run
    compares it.
    """

    @property
    def shown_too_much(self) -> bool:
        """Return True if events show more than the pushes that have events."""
        absent = sum(
            int(row.sent_qty) for row, found in zip(self.rows, self.lookup_results, strict=True) if found == Absent()
        )
        return self.line.theirs - self.line.ours + absent > 0

    @property
    def too_much(self) -> int:
        """Return the excess of events in other windows of the line's day."""
        explained = self.corrected + self.covered + self.below + self.untold
        return 0 if self.balanced else max(self.line.theirs - self.line.ours + explained, 0)

    @property
    def is_absent(self) -> bool:
        """Return True if the provider lacks a push, or has another quantity for it."""
        return bool(self.corrected or self.covered or self.untold or self.below)

    def begin(self) -> None:
        """Clear the results, because the transaction may run again."""
        self.corrected = self.covered = self.untold = self.below = 0
        self.unseen, self.doubted = {}, set()
        self.balanced = self.explained = self.moving = False

    def still(self, connection: sa.Connection) -> list[tuple[PushRow, LookupResult]]:
        """Return the pushes that have not changed since they were read, with lookups."""
        pairs = zip(self.rows, self.lookup_results, strict=True)
        return [(row, found) for row, found in pairs if _is_still(connection, row)]


def ended_short(short: Short, capabilities: Capabilities) -> Line:
    """Return the line of a provider that charged less, with its results and note.

    If the balance shows all missing charges, the verdict is `equal`.
    """
    if not capabilities.lookup:
        note = (
            "the provider cannot look up a single push. Compare with its console, then run `drawdown push "
            "void-lost KEY` for lost pushes"
        )
        return replace(short.line, note=note)
    line, done = short.line, short.corrected + short.covered
    missing = line.ours - line.theirs - done
    notes = [f"{short.covered:,}: {COVERED}"] if short.covered else []
    if short.below:
        notes.append(f"{short.below:,}: {BELOW}")
    if short.untold:
        notes.append(f"{short.untold:,}: {UNTOLD}")
    rest = missing - short.below - short.untold
    if rest > 0:
        pairs = list(zip(short.rows, short.lookup_results, strict=True))
        asked = sum(isinstance(found, ReadFailed | CannotTell) for found in short.lookup_results)
        silent = [f"{row.key}: {found.reason}" for row, found in pairs if isinstance(found, CannotTell)]
        unclear = [row.key for row, found in pairs if is_unclear(row, found)]
        why = (
            f"lookups of {counted(asked, 'push', 'pushes')} of that day failed"
            if asked
            else "each push of that day was found"
        )
        why += f" ({silent[0]}): {BY_HAND}" if silent else ""
        if unclear:
            pushes = counted(len(unclear), "push of that day is", "pushes of that day are")
            why = f"{pushes} unclear ({unclear[0]}): {UNTRACED}"
        notes.append(f"{counted(rest, 'more is', 'more are')} missing: {why}")
    only_covered = (not missing or (missing < 0 and short.balanced)) and not short.corrected
    return replace(
        line, corrected=done, note="; ".join(notes) or None, verdict="equal" if only_covered else line.verdict
    )


def _is_still(connection: sa.Connection, row: PushRow) -> bool:
    """Return True if a push has not changed since it was read.

    The state `accepted` is not enough, because the push may have been refused late and billed by hand meanwhile. In
    that case it is accepted again, and an invoice has its usage without an event.
    """
    found = SQL.run(connection, "hold_settlement", push_id_of(row)).one()
    return all(getattr(row, name) == now for name, now in found._mapping.items())


def drew(pools: Pools, push: PushRow) -> tuple[Fraction, Fraction]:
    """Return the least and the most that a base unit of an accepted push drew.

    Both are in quantities of the push's balance.
    """
    settled_ms = int(push.settled_ms or push.sealed_at_ms)
    pool = pools.of(str(push.feature))
    began_ms = int(push.first_attempt_ms or settled_ms)
    return pools.weight_told_between(pool, str(push.feature), began_ms, settled_ms, push.credit_cost)


def _standing(
    connection: sa.Connection,
    provider: str,
    pair: CustomerPool,
    before: Accounted,
    balances: Balances,
    taken_over: int,
) -> Accounted | None:
    """Return the accepted pushes of a balance.

    None: the balance is not conclusive yet, because it was not read or a push was on its way.
    """
    now = read_accounted(connection, provider=provider, pairs=[pair], balances=balances)[pair]
    unread = isinstance(balances.get(pair[0]), ReadFailed)
    if unread or now.open or now.send_counts != before.send_counts or now.accepted != before.accepted - taken_over:
        return None
    return now


def _charged_of(
    quantities: Sequence[int], beyond: tuple[int, int], extra: int, fits: Callable[[int], bool]
) -> frozenset[int] | None:
    """Return the places of absent pushes that drew on the balance.

    These pushes stay accepted. None: the balance does not show which pushes drew on it, or it does not include the
    excess of events. Such an excess belongs to a day that is not compared now.
    """
    if not quantities:
        return frozenset() if beyond[1] >= extra else None
    if beyond[0] >= extra and all(quantity > 0 for quantity in quantities):
        return frozenset(range(len(quantities)))  # the balance covers all pushes, and possibly draws of others
    of_absent = sum(quantities) - extra
    return charged_among(quantities, beyond[0] + of_absent, beyond[1] + of_absent, fits)


def weighed(
    connection: sa.Connection,
    some: Sequence[Short],
    pair: CustomerPool,
    pools: Pools,
    before: Accounted | None,
    balances: Balances,
    absent: Sequence[tuple[PushRow, int]],
    told: Sequence[bool],
    taken_over: int,
) -> frozenset[int] | None:
    """Return the indexes of absent pushes that drew on the customer's balance.

    The indexes are those of `absent`. None: the balance does not decide. This also notes the results in `some`, unless
    `before` is None, or there is neither an absent push nor an excess of events.

    `before`: the accepted pushes before the read of the balance; None: events decide, and the result is empty.
    `absent`: each push with its base units without an event. `told`: True for pushes that the balance can show.
    `taken_over`: the decrease of the accepted quantity in this transaction, in quantities of the balance.
    """
    drawn = drawn_of(balances, pair)
    costs = [drew(pools, row) for row, _ in absent]
    amounts = [round(quantity * most) for (_, quantity), (_, most) in zip(absent, costs, strict=True)]
    extra = 0 if before is None else _extra(some, pools, drawn, sum(amounts))
    if before is None or not (absent or extra):
        return frozenset()
    unread = any(isinstance(read, ReadFailed) for short in some for read in short.by_window.values())
    now = None if unread else _standing(connection, some[0].line.provider, pair, before, balances, taken_over)
    if read_pools(connection, some[0].line.provider).scale(pair[1]) != pools.scale(pair[1]):
        now = None  # Drawdown learned a finer cost since the reads, so a later run compares the pushes
    beyond = None if now is None or drawn is None else now.beyond(drawn)
    if any(least != most or not most for least, most in costs):
        beyond = None  # a push was sent during a change of cost, or drew elsewhere, so this balance cannot show it
    places = [place for place, is_told in enumerate(told) if is_told]
    quantities = [amounts[place] for place in places]
    among = None
    if now is not None and drawn is not None and beyond is not None:
        fits = partial(can_be_zero, connection, some[0].line.provider, pair, drawn, now)
        among = _charged_of(quantities, beyond, extra, fits)
    # A reported difference may be the excess of events. Then the figures agree for another reason.
    hidden = now is not None and 0 < extra <= (now.apart or 0)
    balanced = among is None and beyond == (0, 0) and not hidden
    among = frozenset(range(len(quantities))) if balanced else among
    # The balance covers these pushes, so they stay accepted. But draws of others may hide that one of them, or a push
    # of another day, never drew. Then the excess of events is its charge. So an excess is given back only if other
    # draws are excluded.
    besides = beyond is not None and beyond[0] > extra and (min(quantities) > 0 if quantities else extra > 0)
    besides = besides or len(places) < len(absent)
    for short in some:
        short.balanced, short.explained, short.moving = balanced, among is None or besides, now is None
    return None if among is None else frozenset(places[at] for at in among)


def _extra(some: Sequence[Short], pools: Pools, drawn: Level | None, absent: int) -> int:
    """Return the draw of events beyond accepted pushes.

    The draw is 0 unless all of it is in the balance's cycle and above the floor. The absent pushes did not make this
    draw. If a stale list of events showed neither of two equal pushes, the balance may have proven the wrong push. The
    event of the other push then arrives late.
    """
    since = 0 if drawn is None else drawn.since_ms or 0
    floor = max((int(row.floor_ms) for short in some for row in short.rows), default=0)
    if any(short.line.from_ms < max(since, floor) for short in some):
        return 0
    shown = sum(
        (short.line.theirs - short.line.ours + short.corrected)
        * pools.weight_between(pools.of(short.line.feature), short.line.feature, short.line.from_ms, 2**62)[1]
        for short in some
    )
    return max(0, absent + shown)


def find_absent(context: Context, lines: Sequence[Line], settled_by: int, by: By) -> Steps[list[Short]]:
    """Look up the pushes of these lines, and void those that the provider lacks.

    If the provider shows another quantity, this adopts that quantity. A push that was settled after `settled_by` (in
    milliseconds) is left out, because the provider may not show it yet. All days of a customer are compared together,
    because one balance covers them. If the provider cannot look up pushes, the lines are returned without results.

    Errors: HistoryDoubted on another history, or while a recovery is needed. TermsChanged, also after a part of the
    corrections.
    """
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
            # Correct an absent push and an excess in another window together. If Drawdown voided only the push, the
            # customer would be charged twice until the next run.
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
                context=context,
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
    context: Context,
) -> None:
    """Correct the pushes of one balance by lookups and draws.

    `before`: the accepted pushes before the read of the balance; None: events are conclusive.
    """
    _lock(connection, context, some[0].line.provider)
    for short in some:
        short.begin()
    # `compare_over` adopts an excess by window.
    shorts = [short for short in some if short.line.verdict == "short"]
    taken_over = sum(_take_over(connection, short, pools, by, weighs=before is not None) for short in shorts)
    missing = [
        (short, row, found if isinstance(found, FoundPush) else FoundPush(0))
        for short in some
        for row, found in short.still(connection)
        if isinstance(found, Absent) or (before is not None and short in shorts and is_contradicted(row, found))
    ]
    drawn = drawn_of(balances, pair)
    first_sent = [int(row.first_attempt_ms or row.window_ms) for _, row, _ in missing]
    told = [drawn is None or is_of_cycle(sent_ms, drawn) for sent_ms in first_sent]
    unshown = [(row, int(row.sent_qty) - shown.quantity) for _, row, shown in missing]
    charged = weighed(connection, some, pair, pools, before, balances, unshown, told, taken_over)
    for number, (short, row, shown) in enumerate(missing):
        window, quantity = int(row.window_ms), unshown[number][1]
        if charged is not None and number in charged:
            short.covered += quantity
            short.unseen[window] = short.unseen.get(window, 0) + quantity
        elif row.window_ms < row.floor_ms:
            short.below += quantity
        elif charged is None or not told[number]:
            short.untold += quantity
            short.doubted.add(window)
        elif shown.quantity:
            adopt_other(connection, row, shown.quantity, by, shown.cost)
            short.corrected += quantity
        else:
            evidence = f"accepted, but absent in the lookup of {utc(by.now_ms)} under {row.wire_key or row.key}"
            evidence += ". The customer's balance agrees" if before is not None else ""
            void_one(connection, row, by, evidence, "absent", answered=False)
            short.corrected += quantity


def _lock(connection: sa.Connection, context: Context, provider: str) -> None:
    """Take S1's lock to correct pushes by a provider's data.

    Errors: HistoryDoubted; TermsChanged.
    """
    lock_buckets(connection)
    lock_rates(connection, shared=True)
    require_same(connection, context.witness)
    require_terms(connection, provider, context.capabilities[provider])


def _take_over(connection: sa.Connection, short: Short, pools: Pools, by: By, *, weighs: bool) -> int:
    """Adopt the quantities that events show, including zero.

    `weighs`: leave out pushes that the balance decides. Return the decrease of the accepted quantity, in quantities of
    the balance.
    """
    fell = 0
    for row, found in short.still(connection):
        if not isinstance(found, FoundPush) or found.quantity == row.sent_qty or is_unclear(row, found):
            continue
        if weighs and is_contradicted(row, found):
            continue
        less = int(row.sent_qty) - found.quantity
        if row.window_ms < row.floor_ms:
            short.below += less
            continue
        if found.quantity == 0:
            evidence = f"accepted, but the lookup of {utc(by.now_ms)} shows no charge"
            void_one(connection, row, by, evidence, "absent", answered=False)
        else:
            adopt_other(connection, row, found.quantity, by, found.cost)
        short.corrected += less
        fell += round(less * drew(pools, row)[1])
    return fell


ONLY_THERE: Final = (
    f"in windows that only the provider's console or the customer's balance can show. Compare them{MEANWHILE}"
)


def compare_over(context: Context, short: Short, settled_by: int, by: By) -> Steps[Line]:
    """Find the windows with an excess of charges, and adopt the excess.

    Return the line with its results and note. `short`: the results of `find_absent` for the line. If a push without an
    event gives back, it looks like an excess at the provider. The next run compares windows with pushes that were
    settled after `settled_by` (in milliseconds).

    Errors: HistoryDoubted on another history, or while a recovery is needed. TermsChanged.
    """
    line = short.line
    if short.balanced and not short.corrected:
        return replace(line, verdict="equal")
    if not short.doubted and line.ours - line.theirs == short.corrected + short.covered:
        verdict = line.verdict if short.corrected else "equal"
        return replace(line, corrected=abs(short.corrected), verdict=verdict)
    windows, there = yield from read_windows(line, short.by_window, context.out_of_time)
    excess: dict[Row, int] = {}
    by_hand, open_still, below = 0, 0, 0
    for row in windows:
        window = int(row.window_ms)
        read = there[window]
        if isinstance(read, ReadFailed):
            return replace(line, note=f"could not be read by window: {read.reason}")
        more = int(read.get(line.feature, 0)) - int(row.accepted) + short.unseen.get(window, 0)
        if more > 0 and (row.unsettled or row.settled_ms > settled_by or short.moving):
            open_still += more
        elif more > 0 and (row.by_hand or short.explained or window in short.doubted):
            by_hand += more
        elif more > 0 and row.window_ms < row.floor_ms:
            below += more
        elif more > 0:
            excess[row] = more
    for row in (yield from _unclear(context, line, list(excess))):
        by_hand += excess.pop(row)
    corrected: int = yield Transaction(
        "reconcile_over", partial(_adopt_windows, line=line, excess=excess, by=by, context=context)
    )
    open_still += sum(excess.values()) - corrected
    corrected -= short.corrected
    rest = line.theirs - line.ours - corrected + short.covered
    note = (
        None
        if rest <= 0
        else f"{rest:,}: outside all windows of Drawdown, because another system charges this customer"
    )
    if open_still:
        note = f"{open_still:,}: in windows that were still being settled. The next run compares them"
    elif below:
        note = f"{below:,}: below the floor, where Drawdown cannot give usage back. Settle it with the customer"
    elif by_hand:
        note = f"{by_hand:,}: {ONLY_THERE}"
    return replace(line, corrected=corrected, note=note)


def _unclear(context: Context, line: Line, windows: Sequence[Row]) -> Steps[list[Row]]:
    """Return windows in which a push may have given back without an event.

    Such a push looks like an excess at the provider. Only the balance shows that the push gave back.
    """
    capabilities = context.capabilities[line.provider]
    if not (windows and capabilities.lookup):
        return []
    rows: list[PushRow] = yield Transaction("reconcile_accepted", partial(accepted_of, line=line), rollback=True)
    there = {int(row.window_ms) for row in windows}
    rows = [row for row in rows if row.sent_qty < 0 and int(row.arrivals) > 1 and int(row.window_ms) in there]
    found = yield from look_up(line.provider, rows, capabilities, context.out_of_time)
    unclear = {
        int(row.window_ms)
        for row, result in zip(rows, found, strict=True)
        if is_unclear(row, result) or isinstance(result, ReadFailed)
    }
    return [row for row in windows if int(row.window_ms) in unclear]


def _adopt_windows(
    connection: sa.Connection, *, line: Line, excess: Mapping[Row, int], by: By, context: Context
) -> int:
    """Adopt the excess of windows, and return the adopted quantity.

    Leave out windows that changed since the read of the provider. Otherwise Drawdown would give back a push that was
    settled meanwhile, or an excess that another run adopted.
    """
    _lock(connection, context, line.provider)
    now, adopted = set(windows_of(connection, line=line)) if excess else set(), 0
    for window, more in excess.items():
        if window not in now:
            continue
        row = _last_push(connection, line, int(window.window_ms))
        evidence = f"{line.provider} charged {more:,} more in this window than Drawdown pushed"
        adopt_excess(connection, row, more, by, evidence)
        adopted += more
    return adopted


def _last_push(connection: sa.Connection, line: Line, window_ms: int) -> PushRow:
    return SQL.run(connection, "last_push", {**of_line(line), "window_ms": window_ms}).one()
