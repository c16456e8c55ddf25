"""Reconcile: compare accepted pushes with the provider's charges (R2).

A line is an organisation's feature on a day.

Guarantee: a line is compared only after the provider's lag, and only if its pushes are settled. A mark for each
customer moves only past windows that were compared, that a person acknowledged as unbilled, or with pushes that were
sent on earlier terms. Windows on earlier terms are never compared, and the run only counts them. If a night is skipped,
or its totals cannot be read, a later run makes the comparison. Without `--correct`, a comparison does not change
pushes. A correction follows the provider's own report. It voids a push that the provider lacks, and adopts a charge
without a push. The next seal then bills or gives back the difference. If a difference cannot be assigned to a push, the
run reports it as a note. Once time is over, the run does not make further calls or corrections.

Days with a lost history (R1) may have charges without a push here. The run reports these charges, and does not correct
them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import ReadFailed, Totals
from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, MINUTE_MS, window_of
from drawdown.worker.catalog.costs import Pools, read_pools
from drawdown.worker.catalog.mapping import FOREVER_MS
from drawdown.worker.catalog.terms import TermsChanged, require_terms, stored_terms, wire_since
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Over, ReadTotals, Steps, Transaction, visible_by
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import present, require_same
from drawdown.worker.push.evidence import CustomerPool
from drawdown.worker.push.rows import Row
from drawdown.worker.reconcile.acknowledgement import OPEN_AFTER_MS, read_covered, with_worth
from drawdown.worker.reconcile.balances import OUT_OF_TIME, compare_drawn
from drawdown.worker.reconcile.comparison import Short, compare_over, ended_short, find_absent, read_totals
from drawdown.worker.reconcile.report import Line, Reconciled, ReconcileScope, above, tell
from drawdown.worker.verdict.costs import learn_costs
from drawdown.worker.verdict.rates import Prices, Quantity

log = structlog.get_logger()

SQL = queries(__file__)

__all__ = ["Line", "ReconcileScope", "Reconciled", "reconcile"]

CHUNK: Final = 200
"""Comparisons that one transaction makes."""
SETTLING_MS: Final = 15 * MINUTE_MS
"""Age in milliseconds from which usage is normally settled.

The time covers the usage's window, its grace and a tick.
"""
RECENT_MS: Final = 2 * DAY_MS
"""Age in milliseconds up to which a comparison without a range covers pushes.

The comparison covers the days of pushes that were settled since then, and all days since the customer's mark.
"""


def reconcile(context: Context, scope: ReconcileScope, by: By) -> Steps[Reconciled]:
    """Compare each provider; with `scope.correct`, correct proven differences.

    Errors: HistoryDoubted for corrections while a recovery is needed, or if the database is not that of
    `context.witness`. Such corrections would rest on a lost history (R1).
    """
    done = Reconciled()
    if scope.correct:
        context.witness = yield Transaction(
            "reconcile_begins", partial(_begins, witness=context.witness), rollback=True
        )
    for name in sorted({*context.capabilities, *context.broken}):
        if scope.provider not in ("", name):
            continue
        if name in context.ready() and context.capabilities[name].totals_lag_ms is not None:
            try:
                yield from _provider(context, name, scope, by, done)
            except TermsChanged as changed:  # continue with the other providers
                done.skipped[name] = str(changed)
                done.unusable.append(name)
            continue
        done.skipped[name] = _why_not(context, name)
        if name not in context.ready() and (yield Transaction("billed_by", partial(_bills, provider=name))):
            done.unusable.append(name)
    return done


def _begins(connection: sa.Connection, *, witness: Witness | None) -> Witness:
    require_same(connection, witness)
    return present(connection)


def _why_not(context: Context, provider: str) -> str:
    if provider in context.broken:
        return context.broken[provider]
    if provider in context.changed:
        return context.changed[provider]
    return "its API key is missing" if provider in context.dormant else "it does not return totals"


def _bills(connection: sa.Connection, *, provider: str) -> bool:
    return SQL.run(connection, "bills", {"provider": provider}).first() is not None


def _provider(context: Context, provider: str, scope: ReconcileScope, by: By, done: Reconciled) -> Steps[None]:
    yield from learn_costs(context, provider)
    now = context.clock.now_ms()
    settled_by = visible_by(now, context.capabilities[provider])
    ours: list[_Ours] = yield Transaction(
        "reconcile_ours", partial(_ours, provider=provider, scope=scope, now=now), rollback=True
    )
    done.other_terms += sum(day.other_terms for day in ours)
    same = [day for day in ours if not day.other_terms]
    ready = [day for day in same if day.is_settled(settled_by)]
    waiting = {day.line for day in same} - {day.line for day in ready}
    until = window_of(settled_by - SETTLING_MS)
    if waiting:  # compare the old part of the present day, so that a customer in steady use is compared, too
        part: list[_Ours] = yield Transaction(
            "reconcile_ours", partial(_ours, provider=provider, scope=scope, now=now, until=until), rollback=True
        )
        ready += [day for day in part if day.line in waiting and not day.other_terms and day.is_settled(settled_by)]
    compared = {day.line for day in ready}
    done.waiting += len(waiting - compared)
    spans = sorted({day.span for day in ready})
    reached: set[_Which] = set()
    refused: dict[_Which, str] = {}
    """The reasons of lines that later runs cannot read until a person acts."""
    untold: set[tuple[str, str]] = set()
    left_open: set[tuple[str, str]] = set()
    for at in range(0, len(spans), CHUNK):
        if context.out_of_time():
            break
        some = spans[at : at + CHUNK]
        totals = yield from read_totals(provider, some, context.out_of_time)
        theirs = dict(zip(some, totals, strict=True))
        part_of = [day for day in ready if day.span in theirs]
        unread, differ = yield from _compare(context, provider, part_of, theirs, scope, by, done)
        reached |= {day.line for day in part_of if not isinstance(theirs[day.span], ReadFailed)}
        for day in part_of:
            read = theirs[day.span]
            if isinstance(read, ReadFailed) and read.reason.startswith(NEEDS_YOU):
                refused[day.line] = read.reason
        untold |= unread
        left_open |= differ
    found = Balanced()
    before, is_lost_read = None, False
    if scope.recent and not scope.org_id:
        before = yield Transaction("compared_to", partial(compared_to_ms, provider=provider), rollback=True)
    if context.out_of_time():
        done.unfinished = True  # this run must not compare balances before all events
    else:
        seen = {(day.row.org_id, day.row.customer_id, day.row.feature, int(day.row.day_ms)) for day in ours}
        since = min(now - RECENT_MS, before or 0) if scope.recent else 0
        is_lost_read = yield from compare_lost(provider, scope, seen, since, now, done, context.out_of_time)
    if context.capabilities[provider].drawn and done.unfinished:
        found = Balanced(left_out={day.row.customer_id: OUT_OF_TIME for day in same if day.row.live})
    elif context.capabilities[provider].drawn:
        # If balances were compared first, differences that events show later would be corrected twice.
        untold |= {(line.customer_id, line.feature) for line in waiting - compared}
        pools: Pools = yield Transaction("known_costs", partial(read_pools, provider=provider), rollback=True)

        def pairs(features: Iterable[tuple[str, str]]) -> set[CustomerPool]:
            return {(customer, pools.of(feature)) for customer, feature in features}

        # One balance pays for several features, so the events of all of them must be compared first.
        told = pairs((day.line.customer_id, day.line.feature) for day in ready) - pairs(untold)
        # In a credit system, one balance pays for several features. If an open day of one feature left the balance out,
        # missing draws of the other features would stay hidden. If this run does not correct events, the balance is
        # left out, because it would report the same difference again.
        standing = {pair for pair in pairs(left_open) if pools.in_credits(pair[1]) and scope.correct}
        told -= pairs(left_open) - standing
        going_on = pairs((line.customer_id, line.feature) for line in waiting)
        seen_to = {pair: until if pair in going_on else FOREVER_MS for pair in told}
        left_out = yield from compare_drawn(context, provider, seen_to, standing, pools, scope, by, done)
        found = Balanced({customer for customer, _ in told}, left_out)
    if scope.recent and not scope.org_id:
        days = [_settled(day, reached, waiting - compared, refused) for day in same]
        # Move the mark past a loss only after the loss was compared. Otherwise, the next run would begin after the
        # loss.
        whole_to_ms = until if is_lost_read else now - RECENT_MS if before is None else before
        keep = partial(keep_marks, provider=provider, days=days, balances=found, to_ms=until, now_ms=now)
        done.open_days += yield Transaction("keep_marks", partial(keep, whole_to_ms=whole_to_ms))


def _settled(day: _Ours, reached: set[_Which], waiting: set[_Which], refused: Mapping[_Which, str]) -> Settled:
    left = "" if day.line in reached else "not settled" if day.line in waiting else refused.get(day.line, "not read")
    sent = int(day.row.accepted) if day.row.live else 0
    row = day.row
    is_live = bool(row.live)
    return Settled(row.org_id, row.customer_id, int(row.day_ms), int(row.touched_ms), left, row.feature, sent, is_live)


@dataclass(frozen=True)
class _Ours:
    """Our pushes of a line, or of its sent part or its shadow part."""

    row: Row
    span: tuple[str, int, int]
    """Customer, from, to: the time in which only this organisation was billed as the customer."""
    other_terms: bool

    @property
    def line(self) -> _Which:
        return _Which(
            self.row.org_id, self.row.customer_id, self.row.feature, int(self.row.day_ms), bool(self.row.live)
        )

    def is_settled(self, by_ms: int) -> bool:
        return not self.row.unsettled and bool(self.row.settled_ms <= by_ms)


class _Which(NamedTuple):
    """The key of a line."""

    org_id: str
    customer_id: str
    feature: str
    day_ms: int
    live: bool


def _ours(
    connection: sa.Connection, *, provider: str, scope: ReconcileScope, now: int, until: int = FOREVER_MS
) -> list[_Ours]:
    terms = stored_terms(connection).get(provider)
    live = (terms.live_from_ms if terms is not None else None) or 0
    since = wire_since(connection, provider)
    values = {
        "provider": provider,
        "from_ms": scope.from_ms,
        "to_ms": min(scope.to_ms, now, until),
        "org_id": scope.org_id,
        "since_ms": now - RECENT_MS if scope.recent else 0,
        "first_ms": now - FIRST_LOOK_MS if scope.recent else 0,
        "live_from_ms": live,
    }
    found = []
    for row in SQL.run(connection, "ours", values):
        begins, ends = max(row.day_ms, row.begins_ms), min(row.day_ms + DAY_MS, row.ends_ms, until)
        begins, ends = (max(begins, live), ends) if row.live else (begins, min(ends, live))
        found.append(_Ours(row, (row.customer_id, int(begins), int(ends)), bool(row.live) and row.sent_ms < since))
    return found


def _compare(
    context: Context,
    provider: str,
    ours: Sequence[_Ours],
    theirs: Mapping[tuple[str, int, int], Totals | ReadFailed],
    scope: ReconcileScope,
    by: By,
    done: Reconciled,
) -> Steps[tuple[set[tuple[str, str]], set[tuple[str, str]]]]:
    """Compare days, and return the unread and the open (customer, feature) pairs.

    Unread: Drawdown could not read the events. Open: a difference remains.
    """
    lines, unread, left_open = [], set[tuple[str, str]](), set[tuple[str, str]]()
    capabilities = context.capabilities[provider]
    settled_by = visible_by(context.clock.now_ms(), capabilities)
    for day in ours:
        read = theirs[day.span]
        if isinstance(read, ReadFailed):
            done.not_read(day.row.customer_id, read.reason)
            unread.add((day.row.customer_id, day.row.feature))
            log.warning("totals_not_read", provider=provider, customer=day.row.customer_id, reason=read.reason)
        else:
            lines.append(_line(provider, day, int(read.get(day.row.feature, 0))))
    yield Transaction("reconcile_keep", partial(_keep, lines=lines, context=context, now=by.now_ms))
    done.compared += len(lines)
    differing = [
        line for line in lines if above(line, scope.shadow_threshold if line.verdict == "shadow" else scope.threshold)
    ]
    done.forgiven += sum(line.ours != line.theirs for line in lines) - len(differing)
    if scope.correct:
        suspects = [line for line in differing if line.verdict == "over" and not capabilities.drawn]
        hidden = [line for line in [*suspects, *(line for line in lines if line.verdict == "equal")] if line.by_hand]
        differing = yield from _corrected(context, provider, differing, hidden, settled_by, by)
    for line in differing:  # report these corrections first, because the next transaction may refuse
        tell(line)
        if line.verdict != "equal":
            done.differing.append(line)
        if line.verdict in ("over", "short") and line.corrected != abs(line.theirs - line.ours):
            left_open.add((line.customer_id, line.feature))
    if scope.correct:
        changed = [line for line in differing if line.verdict == "equal" or line.by_hand]
        yield Transaction("reconcile_keep", partial(_keep, lines=changed, context=context, now=by.now_ms))
        done.covered += sum(line.verdict == "equal" for line in differing)
    return unread, left_open


def _corrected(
    context: Context, provider: str, differing: Sequence[Line], hidden: Sequence[Line], settled_by: int, by: By
) -> Steps[list[Line]]:
    """Correct proven differences, and return the lines with their results.

    `hidden`: lines that are equal or over only without the quantity that a person billed by hand. Events may show that
    quantity, and lack a push of ours. If a push of such a line is absent, the result has the line as short.
    """
    capabilities = context.capabilities[provider]
    # If the provider lacks the event of a push that gave usage back, the provider's sum is above ours.
    asked = [line for line in differing if line.verdict == "short" or (line.verdict == "over" and capabilities.drawn)]
    shorts = [replace(line, ours=line.ours + line.by_hand, verdict="short") for line in hidden]
    found = {short.line: short for short in (yield from find_absent(context, [*asked, *shorts], settled_by, by))}
    for line, whole in zip(hidden, shorts, strict=True):
        short = found[whole]
        if short.is_absent and (line.verdict == "equal" or short.corrected + short.below > 0):
            differing = [*(other for other in differing if other != line), whole]
        else:
            found[line] = replace(short, line=line)
    ended: dict[Line, Line] = {}
    for line in differing:
        if line.verdict == "short":
            ended[line] = ended_short(found[line], capabilities)
            if found[line].too_much:
                ended[line] = yield from _give_back_beside(context, found[line], ended[line], settled_by, by)
        elif line.verdict == "over":
            short = found.get(line, Short(line))
            ended[line] = yield from compare_over(context, short, settled_by, by)
    return [ended.get(line, line) for line in differing]


def _give_back_beside(context: Context, short: Short, line: Line, settled_by: int, by: By) -> Steps[Line]:
    """Correct a short line that has an excess in other windows of its day.

    `line`: the line with its results before this correction.
    """
    over = yield from compare_over(context, short, settled_by, by)
    notes = [note for note in (line.note, over.note) if note]
    rest = short.line.theirs - short.line.ours - over.corrected + short.covered
    whole = not (rest or over.note or short.below or short.untold)
    done = abs(line.theirs - line.ours) if whole else short.corrected
    return replace(line, corrected=done, note="; ".join(notes) or None)


def _line(provider: str, day: _Ours, theirs: int) -> Line:
    row = day.row
    ours = int(row.accepted) + int(row.shadow)
    beside = ours - int(row.by_hand)
    by_hand = int(row.by_hand) if beside <= theirs < ours else 0
    if theirs == beside or theirs < ours:  # the events probably lack the charges by hand
        ours = beside
    verdict = "equal" if ours == theirs else "short" if theirs < ours else "over"
    return Line(
        day_ms=row.day_ms,
        org_id=row.org_id,
        provider=provider,
        customer_id=row.customer_id,
        feature=row.feature,
        ours=ours,
        theirs=theirs,
        verdict=verdict if row.live else "shadow",
        by_hand=by_hand,
        from_ms=day.span[1],
        to_ms=day.span[2],
    )


def _keep(connection: sa.Connection, *, lines: Sequence[Line], context: Context, now: int) -> None:
    """Store the lines of one provider.

    Errors: TermsChanged, because a later run would not compare these days again.
    """
    names = ("day_ms", "org_id", "provider", "customer_id", "feature", "verdict")
    if lines:
        require_terms(connection, lines[0].provider, context.capabilities[lines[0].provider])
        kept = [
            {
                **{name: getattr(line, name) for name in names},
                "ours_qty": line.ours,
                "theirs_qty": line.theirs,
                "at_ms": now,
            }
            for line in lines
        ]
        SQL.run(connection, "keep", kept)


NOTE: Final = (
    "the provider charged usage that this database does not have, and history was lost. Import "
    "the samples of that day again"
)


@dataclass(frozen=True)
class Span:
    """A part of a day in which a lost history may have billed an organisation."""

    org_id: str
    customer_id: str
    from_ms: int
    to_ms: int

    @property
    def day_ms(self) -> int:
        return self.from_ms - self.from_ms % DAY_MS


ComparedDays = Collection[tuple[str, str, str, int]]
"""The (organisation, customer, feature, day) keys that the ordinary comparison covers, in this run or a later one."""


def compare_lost(
    provider: str,
    scope: ReconcileScope,
    compared: ComparedDays,
    since_ms: int,
    now_ms: int,
    done: Reconciled,
    over: Over,
) -> Steps[bool]:
    """Report charges of lost days without a push in this database.

    `since_ms`: losses that were recorded before this time are left out. Differences are added to `done`. Return False
    if a later run must read some of these days again.
    """
    is_read = True
    spans, pushed = yield Transaction(
        "reconcile_lost",
        partial(_find_lost, provider=provider, scope=scope, since_ms=since_ms, now_ms=now_ms),
        rollback=True,
    )
    known = {*compared, *pushed}
    for at in range(0, len(spans), CHUNK):
        part = spans[at : at + CHUNK]
        totals: Sequence[Totals | ReadFailed] = yield ReadTotals(
            provider, [(span.customer_id, span.from_ms, span.to_ms) for span in part], over
        )
        for span, read in zip(part, totals, strict=True):
            if isinstance(read, ReadFailed):
                done.not_read(span.customer_id, read.reason)
                is_read = is_read and read.reason.startswith(NEEDS_YOU)
                continue
            for feature, theirs in sorted(read.items()):
                if theirs and (span.org_id, span.customer_id, feature, span.day_ms) not in known:
                    line = Line(
                        span.day_ms, span.org_id, provider, span.customer_id, feature, 0, int(theirs), "over", note=NOTE
                    )
                    done.compared += 1
                    done.differing.append(line)
                    tell(line)
    return is_read


def _find_lost(
    connection: sa.Connection, *, provider: str, scope: ReconcileScope, since_ms: int, now_ms: int
) -> tuple[list[Span], set[tuple[str, str, str, int]]]:
    """Return the lost spans, and the known pushes of their days.

    A day that was settled long ago is known, although a run of recent days does not compare it.
    """
    spans = _spans(connection, provider=provider, scope=scope, since_ms=since_ms, now_ms=now_ms)
    days = [{"org_id": org, "day_ms": day} for org, day in sorted({(one.org_id, one.day_ms) for one in spans})]
    values = {"provider": provider, "days": days, "day_length_ms": DAY_MS}
    pushed = SQL.run(connection, "pushed_then", values) if days else ()
    return spans, {(str(row.org_id), str(row.customer_id), str(row.feature), int(row.day_ms)) for row in pushed}


def _spans(
    connection: sa.Connection, *, provider: str, scope: ReconcileScope, since_ms: int, now_ms: int
) -> list[Span]:
    terms = stored_terms(connection).get(provider)
    live = (terms.live_from_ms if terms is not None else None) or 0
    values = {"provider": provider, "org_id": scope.org_id, "since_ms": since_ms}
    folded = {(row.org_id, row.customer_id, int(row.day_ms)) for row in SQL.run(connection, "folded", values)}
    spans = set()
    for row in SQL.run(connection, "lost_spans", values):
        # Compare the first day as a whole, because usage of its earlier windows may have been billed after the loss
        # began.
        first = int(row.from_ms) - int(row.from_ms) % DAY_MS
        for day in range(first, min(int(row.until_ms), now_ms, scope.to_ms), DAY_MS):
            begins, ends = max(day, live, scope.from_ms), min(day + DAY_MS, int(row.until_ms), now_ms, scope.to_ms)
            begins, ends = begins - begins % 60_000, ends - ends % 60_000  # providers report sums by the minute
            if begins < ends and (row.org_id, row.customer_id, day) not in folded:
                spans.add(Span(str(row.org_id), str(row.customer_id), begins, ends))
    return sorted(spans, key=lambda span: (span.from_ms, span.org_id, span.to_ms))


FIRST_LOOK_MS: Final = 35 * DAY_MS
"""Range before now that the first comparison of a customer covers, in milliseconds."""


@dataclass(frozen=True)
class Settled:
    """A customer's day and feature, and whether it was compared.

    `settled_ms`: when its last push was settled (if it is not settled: sealed). `open_reason`: the reason why it was
    not compared; '' if it was.
    `quantity`: the base units that the provider accepted. `is_live`: False for the part of a day in shadow.
    """

    org_id: str
    customer_id: str
    day_ms: int
    settled_ms: int
    open_reason: str = ""
    feature: str = ""
    quantity: int = 0
    is_live: bool = True

    def is_open(self, now_ms: int) -> bool:
        return bool(self.open_reason) and self.settled_ms < now_ms - OPEN_AFTER_MS


@dataclass(frozen=True)
class Balanced:
    """The customers with balances that a reconciliation compared or tried to compare.

    `left_out`: the reasons why it did not compare balances, by customer.
    """

    customers: Collection[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def compared_to_ms(connection: sa.Connection, provider: str) -> int | None:
    """Return the time up to which a provider was compared; None: never."""
    found = SQL.run(connection, "provider_mark", {"provider": provider}).scalar_one_or_none()
    return None if found is None else int(found)


def keep_marks(
    connection: sa.Connection,
    *,
    provider: str,
    days: Sequence[Settled],
    balances: Balanced,
    to_ms: int,
    whole_to_ms: int,
    now_ms: int,
) -> int:
    """Move the marks of a provider and its customers past compared days.

    Acknowledged days count as compared. Return the number of open lines.

    Marks move at most to `to_ms`, and the provider's own mark to `whole_to_ms`. If this run left out a balance, the
    customer's mark stays at the last settled push, so that the next run compares the balance. If an earlier run left
    out a balance, the balance stays left out until a run tries to compare it.
    """
    by_customer: dict[str, list[Settled]] = {}
    days = _without_acknowledged(connection, provider, days)
    for day in days:
        by_customer.setdefault(day.customer_id, []).append(day)
    before = SQL.run(connection, "left_out", {"provider": provider})
    left_out = {str(row.customer_id): str(row.said) for row in before if row.customer_id not in balances.customers}
    left_out = {**balances.left_out, **left_out}
    prices = Prices(connection)
    marks = [
        {
            **dict(_mark(customer, found, to_ms, now_ms, is_left_out=customer in left_out)),
            "said": _explain_open_days(provider, found, now_ms, prices) or left_out.get(customer, ""),
        }
        for customer, found in sorted(by_customer.items())
    ]
    its = {"provider": provider, "now_ms": now_ms}
    provider_mark = {"customer_id": "", "compared_ms": whole_to_ms, "open_days": 0, "open_since_ms": None, "said": ""}
    SQL.run(connection, "keep_mark", {**its, "marks": [*marks, provider_mark]})
    SQL.run(connection, "close_others", {**its, "marks": [{"customer_id": mark["customer_id"]} for mark in marks]})
    return sum(day.is_open(now_ms) for day in days)


def _without_acknowledged(connection: sa.Connection, provider: str, days: Sequence[Settled]) -> list[Settled]:
    """Treat acknowledged days as compared.

    Other days keep the quantity that was not acknowledged before. Only the sent part of a day has a quantity.
    """
    orgs = {day.org_id for day in days if day.open_reason.startswith(NEEDS_YOU)}
    covered = read_covered(connection, provider, orgs)
    left: list[Settled] = []
    for day in days:
        before = covered[day.org_id, day.customer_id]
        if not day.open_reason.startswith(NEEDS_YOU):
            left.append(day)
        elif day.settled_ms < before.until_ms:
            left.append(replace(day, open_reason=""))
        elif not day.is_live:
            left.append(day)
        else:
            left.append(replace(day, quantity=day.quantity - before.quantities.pop((day.feature, day.day_ms), 0)))
    return left


def _explain_open_days(provider: str, days: Collection[Settled], now_ms: int, prices: Prices) -> str:
    """Return the reason of a customer's open days; '' if all are compared.

    If a person must act before a provider bills the usage, the text includes its amount.
    """
    open_ = [day for day in days if day.is_open(now_ms)]
    lost = [day for day in open_ if day.open_reason.startswith(NEEDS_YOU) and day.quantity]
    if not lost:
        return open_[0].open_reason if open_ else ""
    worth = prices.worth(Quantity(provider, day.feature, day.day_ms, day.quantity) for day in lost)
    return with_worth(lost[0].open_reason, worth)


def _mark(
    customer: str, days: Collection[Settled], to_ms: int, now_ms: int, *, is_left_out: bool
) -> Iterator[tuple[str, object]]:
    left = [day for day in days if day.open_reason]
    open_ = [day for day in left if day.is_open(now_ms)]
    yield "customer_id", customer
    newest = [max(day.settled_ms for day in days)] if is_left_out else []
    yield "compared_ms", min([to_ms, *newest, *(day.settled_ms for day in left)])
    yield "open_days", len({day.day_ms for day in open_})
    yield "open_since_ms", min((day.day_ms for day in open_), default=now_ms if is_left_out else None)
