"""Reconcile: what we call accepted beside what the provider says it charged, by organisation, feature and day (R2).

Guarantee: nothing is compared before the provider's lag is over or while a push of it is unsettled; comparing changes
nothing. A correction rests on what the provider itself says: a push it does not have is voided, what it charged beside
our pushes is adopted; the next seal then owes, or gives back, the difference. What cannot be pinned down is a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import Absent, CannotTell, Drawn, Found, LookupResult, PushRequest, ReadFailed, Totals
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker import reconcile_sql as sql
from drawdown.worker.actions import lock_buckets
from drawdown.worker.adopt import adopt_excess, adopt_other
from drawdown.worker.context import Context
from drawdown.worker.corrections import void_one
from drawdown.worker.effects import LookUp, ReadDrawn, ReadTotals, Steps, Transaction
from drawdown.worker.orgs import Said
from drawdown.worker.push import dated, request_of

log = structlog.get_logger()

CHUNK: Final = 200
RECENT_MS: Final = 2 * DAY_MS
"""Without a range, those days are compared of which something was settled so recently."""


@dataclass(frozen=True)
class Scope:
    """What to compare. `threshold` is the share of ours by which theirs may differ without a word."""

    from_ms: int = 0
    to_ms: int = 2**53
    org_id: str = ""
    provider: str = ""
    threshold: float = 0.0
    shadow_threshold: float = 0.15
    """The same for what is only estimated here, and billed by another system over there."""
    correct: bool = False
    recent: bool = False


@dataclass(frozen=True)
class Line:
    """One organisation's feature on one day, in base units."""

    day_ms: int
    org_id: str
    provider: str
    customer_id: str
    feature: str
    ours: int
    theirs: int
    verdict: str
    corrected: int = 0
    """How much of the difference was corrected."""
    note: str | None = None


@dataclass
class Reconciled:
    """What was found. `waiting` lines were left for later: something of them is unsettled, or too fresh."""

    compared: int = 0
    waiting: int = 0
    unread: int = 0
    differing: list[Line] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Providers that cannot be compared, with the reason."""

    @property
    def exit_status(self) -> int:
        """1: a person is needed. 75: what differed was corrected, or could not be read, and the next run tells."""
        if any(abs(one.theirs - one.ours) != one.corrected for one in self.differing):
            return 1
        return 75 if self.differing or self.unread else 0


def reconcile(context: Context, scope: Scope, said: Said) -> Steps[Reconciled]:
    """Compare, provider after provider; with `scope.correct`, correct what is proven."""
    done = Reconciled()
    for name in sorted(context.capabilities):
        can = context.capabilities[name]
        if scope.provider not in ("", name):
            continue
        if can.totals_lag_ms is None or name not in context.ready():
            done.skipped[name] = "it has no totals" if can.totals_lag_ms is None else "it cannot be called yet"
            continue
        yield from _provider(context, name, scope, said, done)
    return done


def _provider(context: Context, provider: str, scope: Scope, said: Said, done: Reconciled) -> Steps[None]:
    lag = context.capabilities[provider].totals_lag_ms or 0
    now = context.clock.now_ms()
    ours: list[Any] = yield Transaction(
        "reconcile_ours", partial(_ours, provider=provider, scope=scope, now=now), rollback=True
    )
    ready = [row for row in ours if not row.unsettled and row.settled_ms <= now - lag]
    done.waiting += len(ours) - len(ready)
    days = sorted({(row.customer_id, row.day_ms) for row in ready})
    for at in range(0, len(days), CHUNK):
        part = days[at : at + CHUNK]
        totals = yield from _totals(provider, [(customer, day, day + DAY_MS) for customer, day in part])
        theirs = dict(zip(part, totals, strict=True))
        rows = [row for row in ready if (row.customer_id, row.day_ms) in theirs]
        yield from _compare(context, provider, rows, theirs, scope, said, done)
    if context.capabilities[provider].drawn:
        yield from _drawn(context, provider, ready, scope, said, done)


def _ours(connection: sa.Connection, *, provider: str, scope: Scope, now: int) -> list[Any]:
    values = {
        "provider": provider,
        "from_ms": scope.from_ms,
        "to_ms": min(scope.to_ms, now),
        "org": scope.org_id,
        "since": now - RECENT_MS if scope.recent else 0,
    }
    return list(connection.execute(sa.text(sql.OURS), values))


def _totals(provider: str, wanted: Sequence[tuple[str, int, int]]) -> Steps[Sequence[Totals | ReadFailed]]:
    found: Sequence[Totals | ReadFailed] = yield ReadTotals(provider, wanted)
    assert len(found) == len(wanted), f"{provider} answered {len(found)} of {len(wanted)} totals"
    return found


def _compare(
    context: Context,
    provider: str,
    rows: Sequence[Any],
    theirs: Mapping[tuple[str, int], Totals | ReadFailed],
    scope: Scope,
    said: Said,
    done: Reconciled,
) -> Steps[None]:
    lines = []
    settled_by = context.clock.now_ms() - (context.capabilities[provider].totals_lag_ms or 0)
    for row in rows:
        read = theirs[(row.customer_id, row.day_ms)]
        if isinstance(read, ReadFailed):
            done.unread += 1
            log.warning("totals_not_read", provider=provider, customer=row.customer_id, reason=read.reason)
        else:
            lines.append(_line(provider, row, int(read.get(row.feature, 0))))
    yield Transaction("reconcile_keep", partial(_keep, lines=lines, now=said.now_ms))
    done.compared += len(lines)
    for line in lines:
        if above(line, scope.shadow_threshold if line.verdict == "shadow" else scope.threshold):
            ended = line
            if scope.correct and line.verdict != "shadow":
                ended = yield from (_short if line.verdict == "short" else _over)(context, line, settled_by, said)
            tell(ended)
            done.differing.append(ended)


def _line(provider: str, row: Any, theirs: int) -> Line:
    ours = int(row.accepted) + int(row.shadow)
    verdict = "equal" if ours == theirs else "short" if theirs < ours else "over"
    if row.shadow:
        verdict = "shadow"
    return Line(row.day_ms, row.org_id, provider, row.customer_id, row.feature, ours, theirs, verdict)


def above(line: Line, threshold: float) -> bool:
    """Whether a difference is worth a word."""
    return line.ours != line.theirs and abs(line.theirs - line.ours) > threshold * abs(line.ours)


def tell(line: Line) -> None:
    """An event for each difference, so that an alert can rest on it."""
    log.error(
        "reconcile_differs",
        org=line.org_id,
        provider=line.provider,
        feature=line.feature,
        day_ms=line.day_ms,
        verdict=line.verdict,
        ours=line.ours,
        theirs=line.theirs,
        corrected=line.corrected,
        note=line.note,
    )


def _keep(connection: sa.Connection, *, lines: Sequence[Line], now: int) -> None:
    names = ("day_ms", "org_id", "provider", "customer_id", "feature", "ours", "theirs", "verdict")
    if lines:
        values = [{**{name: getattr(one, name) for name in names}, "now": now} for one in lines]
        connection.execute(sa.text(sql.KEEP), values)


def _of(line: Line) -> dict[str, object]:
    return {
        "provider": line.provider,
        "day": line.day_ms,
        "org": line.org_id,
        "customer": line.customer_id,
        "feature": line.feature,
    }


def _short(context: Context, line: Line, settled_by: int, said: Said) -> Steps[Line]:
    """They have less than we call accepted: look up each push of that day, and void those they do not have. One that
    was settled meanwhile may not be seen there yet."""
    can = context.capabilities[line.provider]
    if not can.lookup:
        return replace(line, note="one push cannot be looked up there: compare with their console, then `push void`")
    rows: list[Any] = yield Transaction(
        "reconcile_accepted", lambda c: list(c.execute(sa.text(sql.ACCEPTED), _of(line))), rollback=True
    )
    rows = [row for row in rows if row.settled_ms <= settled_by]
    requests = [replace(request_of(row, can), ts=dated(int(row.window_ms), int(row.dated_as))) for row in rows]
    found: Sequence[LookupResult] = (yield LookUp(line.provider, requests)) if requests else []
    corrected: int = yield Transaction(
        "reconcile_short", partial(_void_absent, rows=rows, requests=requests, found=found, said=said)
    )
    missing = line.ours - line.theirs - corrected
    untold = sum(isinstance(one, ReadFailed | CannotTell) for one in found)
    why = f"{untold:,} pushes of that day could not be looked up" if untold else "no push of that day is"
    note = None if not missing else f"{missing:,} more are missing, and {why}"
    return replace(line, corrected=corrected, note=note)


def _void_absent(
    connection: sa.Connection,
    *,
    rows: Sequence[Any],
    requests: Sequence[PushRequest],
    found: Sequence[LookupResult],
    said: Said,
) -> int:
    """Returns how much of a shortfall is explained, in base units."""
    lock_buckets(connection)
    explained = 0
    for row, request, one in zip(rows, requests, found, strict=True):
        if not _is_still(connection, row, "accepted"):
            continue
        if isinstance(one, Absent) or one == Found(0):
            what = "absent" if isinstance(one, Absent) else "charged nothing"
            evidence = f"accepted, and {what} when it was looked up at {said.now_ms} under {request.key}"
            void_one(connection, row, said, evidence, "absent", answered=False)
            explained += int(row.sent_qty)
        elif isinstance(one, Found) and one.quantity != row.sent_qty:
            adopt_other(connection, row, one.quantity, said)
            explained += int(row.sent_qty) - one.quantity
    return explained


def _is_still(connection: sa.Connection, row: Any, state: str) -> bool:
    where = {name: getattr(row, name) for name in ("window_ms", "org_id", "feature", "revision")}
    found = connection.execute(
        sa.text(
            "SELECT state FROM pushes WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature "
            "AND revision = :revision"
        ),
        where,
    ).scalar_one()
    return bool(found == state)


def _over(context: Context, line: Line, settled_by: int, said: Said) -> Steps[Line]:
    """They have more than we call accepted: find the windows, and adopt what is too much there."""
    windows: list[Any] = yield Transaction("reconcile_windows", partial(_windows, line=line), rollback=True)
    spans = [(line.customer_id, int(row.window_ms), int(row.window_ms) + WINDOW_MS) for row in windows]
    totals = yield from _totals(line.provider, spans)
    excess: dict[Any, int] = {}
    by_hand, open_still = 0, 0
    for row, read in zip(windows, totals, strict=True):
        if isinstance(read, ReadFailed):
            return replace(line, note=f"could not be read by window: {read.reason}")
        more = int(read.get(line.feature, 0)) - int(row.accepted)
        if more > 0 and row.by_hand:
            by_hand += more
        elif more > 0 and (row.unsettled or row.settled_ms > settled_by):
            open_still += more
        elif more > 0:
            excess[row] = more
    corrected: int = yield Transaction("reconcile_over", partial(_adopt_windows, line=line, excess=excess, said=said))
    open_still += sum(excess.values()) - corrected
    rest = line.theirs - line.ours - corrected
    note = None if rest <= 0 else f"{rest:,} lie in no window of ours: somebody else charges this customer"
    if open_still:
        note = f"{open_still:,} lie in windows that were being settled: the next run tells"
    elif by_hand:
        note = f"{by_hand:,} lie in windows that a person settled by hand: compare with their console"
    return replace(line, corrected=corrected, note=note)


def _windows(connection: sa.Connection, *, line: Line) -> list[Any]:
    return list(connection.execute(sa.text(sql.BY_WINDOW), _of(line)))


def _adopt_windows(connection: sa.Connection, *, line: Line, excess: Mapping[Any, int], said: Said) -> int:
    """Only in windows that are as they were before the provider was asked: else a push that was settled meanwhile, or
    an excess that another run adopted, would be given back."""
    lock_buckets(connection)
    now, adopted = set(_windows(connection, line=line)) if excess else set(), 0
    for window, more in excess.items():
        if window not in now:
            continue
        row = _last_push(connection, line, int(window.window_ms))
        evidence = f"{line.provider} charged {more:,} more in this window than was pushed"
        adopt_excess(connection, row, more, said, evidence)
        adopted += more
    return adopted


def _last_push(connection: sa.Connection, line: Line, window_ms: int) -> Any:
    return connection.execute(
        sa.text(
            "SELECT * FROM pushes WHERE window_ms = :window AND org_id = :org AND feature = :feature "
            "AND provider = :provider AND customer_id = :customer ORDER BY revision DESC LIMIT 1"
        ),
        {**_of(line), "window": window_ms},
    ).one()


def _drawn(
    context: Context, provider: str, ready: Sequence[Any], scope: Scope, said: Said, done: Reconciled
) -> Steps[None]:
    """Balances beside pushes: a key store that failed open draws twice, and leaves one event."""
    customers = sorted({row.customer_id for row in ready})
    features = {customer: {row.feature for row in ready if row.customer_id == customer} for customer in customers}
    for at in range(0, len(customers), CHUNK):
        part = customers[at : at + CHUNK]
        read: Sequence[Mapping[str, Drawn] | ReadFailed] = yield ReadDrawn(provider, part)
        for customer, balances in zip(part, read, strict=True):
            if isinstance(balances, ReadFailed):
                done.unread += 1
                continue
            for feature in sorted(features[customer] & set(balances)):
                line: Line | None = yield Transaction(
                    "reconcile_drawn",
                    partial(
                        _compare_drawn,
                        provider=provider,
                        customer=customer,
                        feature=feature,
                        drawn=balances[feature],
                        settled_by=said.now_ms - (context.capabilities[provider].totals_lag_ms or 0),
                        correct=scope.correct,
                        said=said,
                    ),
                )
                if line is not None and above(line, scope.threshold):
                    tell(line)
                    done.differing.append(line)


def _compare_drawn(
    connection: sa.Connection,
    *,
    provider: str,
    customer: str,
    feature: str,
    drawn: Drawn,
    settled_by: int,
    correct: bool,
    said: Said,
) -> Line | None:
    if correct:
        lock_buckets(connection)
    since = drawn.since_ms or 0
    values = {"provider": provider, "customer": customer, "feature": feature, "since": since}
    found = connection.execute(sa.text(sql.DRAWN), values).all()
    if len(found) != 1 or found[0].unsettled or found[0].settled_ms > settled_by:
        return None
    ours, org = int(found[0].ours), str(found[0].org_id)
    if drawn.quantity <= ours:
        return None  # less drawn than pushed: a top-up, a reset or a lost event; events tell those apart
    line = Line(since - since % DAY_MS, org, provider, customer, feature, ours, drawn.quantity, "over")
    again = connection.execute(sa.text(sql.SENT_AGAIN), values).all()
    most = sum((row.attempts - 1) * row.sent_qty for row in again)
    if drawn.quantity - ours > most:
        return replace(line, note="the balance was drawn on by more than pushes sent twice: somebody else uses it too")
    if not correct:
        return replace(
            line, note="the balance was drawn on twice for pushes that were sent twice: --correct gives it back"
        )
    return replace(line, corrected=_adopt_drawn(connection, again, drawn.quantity - ours, said))


def _adopt_drawn(connection: sa.Connection, again: Sequence[Any], excess: int, said: Said) -> int:
    """Attribute what was drawn too much to pushes that were sent twice: exact matches first, then in their order."""
    left = excess
    for row in sorted(again, key=lambda one: (one.sent_qty != excess, one.window_ms, one.revision)):
        part = min(left, (row.attempts - 1) * row.sent_qty)
        if part > 0:
            evidence = f"sent {row.attempts} times; the balance was drawn on by {part:,} more than was pushed"
            adopt_excess(connection, row, part, said, evidence, drawn=True)
            left -= part
    return excess - left
