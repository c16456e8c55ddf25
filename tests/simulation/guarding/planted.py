"""Bugs of the guard planted on purpose, one at a time: each has to be seen by what people and products were told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.guard import decide, periods
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import terms as guard_facts
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Metric
from drawdown.worker.guard.use import Charged, Wish
from tests.simulation.guarding.life import lived
from tests.simulation.mutants_remote import Patches
from tests.simulation.planting import Kind


def _each_call_is_another(patches: Patches) -> None:
    """Whoever gives a call again is told that it is another use."""
    count = itertools.count()
    patches.put(guard.Ask, "fingerprint", property(lambda _ask: str(next(count))))


def _counts_where_it_ends(patches: Patches) -> None:
    def wrong(connection: sa.Connection, use: guard_counts.Use) -> guard_counts.Counters:
        return guard_counts._locked(connection, use.org_id, use.metric, use.expires_ms or use.at_ms)

    patches.put(guard_counts, "lock_of", wrong)


def _price_of_now(patches: Patches) -> None:
    newest = "(SELECT MAX(n.number) FROM guard_metrics n WHERE n.metric = guard_uses.metric)"
    patches.query(guard_counts, "its_terms", "guard_uses.metric_number", newest)


def _who_asks_pays(patches: Patches) -> None:
    right = guard_facts.run_of

    def wrong(wish: Wish, metric: Metric, amount_micro: int) -> Request:
        return right(wish, replace(metric, payer=None), amount_micro)

    patches.put(guard, "run_of", wrong)


def _without_credit(patches: Patches, when: Callable[[Charged], bool]) -> None:
    """A use goes in though whoever pays was refused."""
    right = guard.attempt

    def wrong(*given: Any) -> Charged:
        done = right(*given)
        return replace(done, code=None) if when(done) else done

    patches.put(guard, "attempt", wrong)
    patches.put(guard, "attempt", wrong)


def _incurred_is_free(patches: Patches) -> None:
    def wrong(connection: sa.Connection, key: str, incurred: Any, by: Any, **more: Any) -> Any:
        return executions.release(connection, key, None, by, **more)

    patches.put(guard, "executions", SimpleNamespace(**{**vars(executions), "release": wrong}))


def _hour_long_growth(patches: Patches) -> None:
    """What a hold that grows holds is held for an hour, however short the hold."""

    def wrong(connection: sa.Connection, key: str, to: int | None, for_ms: int | None, by: Any, **more: Any) -> Any:
        return executions.extend(connection, key, to, None if to is not None else for_ms, by, **more)

    patches.put(guard, "executions", SimpleNamespace(**{**vars(executions), "extend": wrong}))


def _months_of_thirty_days(patches: Patches) -> None:
    right = periods.start_of

    def wrong(period: periods.Period, moment_ms: int) -> int:
        return moment_ms - moment_ms % (30 * DAY_MS) if period == "month" else right(period, moment_ms)

    for where in (periods, guard, guard_counts):
        patches.put(where, "start_of", wrong)


def _warned_at_each_use(patches: Patches) -> None:
    def wrong(facts: decide.Facts, bound: decide.Bound, amount: int) -> bool:
        used = facts.counted[bound.period].used + amount
        return decide.warned_after(facts.warn_ppm, bound.amount, used, before=False)

    patches.put(decide, "_warns_anew", wrong)


def _oldest_override(patches: Patches) -> None:
    right = decide.in_force

    def wrong(facts: decide.Facts) -> list[decide.Bound]:
        newest_first = sorted(facts.overrides, key=lambda one: -one.number)
        oldest = {(one.reach, one.period): one for one in newest_first}
        return right(replace(facts, overrides=tuple(oldest.values())))

    for where in (decide, guard):
        patches.put(where, "in_force", wrong)


def _any_plan_first(patches: Patches) -> None:
    def wrong(found: Iterable[decide.Limit]) -> tuple[decide.Limit, ...]:
        limits = {one.period: one for one in sorted(found, key=lambda limit: limit.plan == "*")}
        return tuple(limits.values())

    for where in (guard_facts, guard):
        patches.put(where, "limits_of", wrong)


def _blocked_and_emitted(patches: Patches) -> None:
    """A use that is blocked for lack of credit leaves its event behind."""

    def wrong(_: sa.Connection, book: guard.Book, ask: guard.Ask) -> Any:
        try:
            return guard.decide_use(book, ask)
        except (Refused, UsageError) as error:
            return error

    patches.put(guard, "_answered", wrong)


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], str]]] = {
    "a use that is given again is another one": (_each_call_is_another, "was answered Denied"),
    "a hold that is over goes on counting": (
        lambda p: p.query(guard_counts, "is_over", "expires_ms <= :now_ms", "expires_ms < :now_ms - 86400000"),
        "(answered, right)",
    ),
    "what is given back is not given back to its day": (
        lambda p: p.query(guard_counts, "give_back", "WHERE {these}", "WHERE {these} AND period <> 'day'"),
        "",
    ),
    "settling corrects no counter": (lambda p: p.put(guard, "_moved", lambda *given: None), ""),
    "a hold counts where it ends": (_counts_where_it_ends, ""),
    "the oldest override counts": (_oldest_override, "'override:"),
    "an override that is over goes on": (
        lambda p: p.query(guard_facts, "overrides", "o.ends_ms > :now_ms", "o.ends_ms > :now_ms - 34560000000"),
        "'override:",
    ),
    "an override that is asked for counts": (
        lambda p: p.query(guard_facts, "overrides", "o.state = 'in_force'", "o.state IN ('in_force', 'asked')"),
        "'override:",
    ),
    "a pattern stands before an organisation": (
        lambda p: p.put(decide, "_CLOSENESS", {"org": 1, "pattern": 0, "plan": 2}),
        "'override:",
    ),
    "any plan stands before the plan": (_any_plan_first, "'limit:"),
    "a limit that was ended counts": (
        lambda p: p.query(guard_facts, "limits", "AND NOT l.ended", "AND l.number > 0"),
        "(answered, right)",
    ),
    "what was reserved is charged by the price of now": (_price_of_now, "charged_micro"),
    "what rounds to nothing holds nothing": (
        lambda p: p.put(decide.Price, "hold_micro", decide.Price.of),
        "price_micro",
    ),
    "what a use again is told costs nothing": (
        lambda p: p.put(guard_counts.Use, "price_micro", property(lambda use: use.charged_micro)),
        "price_micro",
    ),
    "who asks pays in the payer's place": (_who_asks_pays, ""),
    "phase 2 blocks whoever bought credit": (
        lambda p: p.put(decide, "holds", lambda phase, pays: phase >= 2),
        "'enforced'",
    ),
    "without credit it is allowed": (
        lambda p: _without_credit(p, lambda done: not done.costs.degraded),
        "'no_credit'",
    ),
    "what nobody knows is allowed": (lambda p: _without_credit(p, lambda done: done.costs.degraded), "_"),
    "what was incurred before a release is not charged": (_incurred_is_free, "charged_micro"),
    "what a hold that grew holds is held for an hour": (_hour_long_growth, "was told of"),
    "months have thirty days": (_months_of_thirty_days, ""),
    "it is warned at each use": (_warned_at_each_use, "'low'"),
    "a check takes no hold that is over off": (
        lambda p: p.query(guard_facts, "seen", "AND u.expires_ms <= :now_ms", "AND u.expires_ms < 0"),
        "step by step",
    ),
    "a check sees nothing that is due in a wallet": (
        lambda p: p.query(guard_facts, "seen", "x.next_due_ms", "NULL AS next_due_ms"),
        "",
    ),
    "a blocked use emits its event": (_blocked_and_emitted, "pending"),
    "a use emits nothing": (lambda p: p.put(guard, "_emit", lambda *given: None), "the event of"),
    "denials count once a minute": (
        lambda p: p.query(
            guard_counts, "deny", "count = guard_denials.count + excluded.count", "count = guard_denials.count"
        ),
        "(requests, blocked, would",
    ),
}
"""Each bug, and a part of what is said of it."""
TICKS: Final = 8
SEEN_AT: Final[dict[str, int]] = {
    "a blocked use emits its event": 1,
    "a hold that is over goes on counting": 10,
    "what is given back is not given back to its day": 3,
    "any plan stands before the plan": 1,
    "a check takes no hold that is over off": 21,
    "a pattern stands before an organisation": 5,
    "a limit that was ended counts": 9,
    "what was reserved is charged by the price of now": 8,
    "what rounds to nothing holds nothing": 14,
    "phase 2 blocks whoever bought credit": 2,
    "without credit it is allowed": 5,
    "what was incurred before a release is not charged": 1,
    "what a hold that grew holds is held for an hour": 4,
}
"""Where a bug showed last, if not in the first life."""


def _wrong(seed: int) -> list[str]:
    life, wrong = lived(seed, TICKS)
    life.world.close()
    return wrong


KIND: Final = Kind(_wrong, PLANTED, SEEN_AT)
