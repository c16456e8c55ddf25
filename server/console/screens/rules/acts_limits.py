"""What is done to overrides, to what plans allow, and to the phases of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, cast

import sqlalchemy as sa

from drawdown.guard.decide import Reach
from drawdown.guard.periods import PERIODS, Period
from drawdown.schema.typed.parsing import show_time
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size, WrongField
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.guard import lists as guard_blocks
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.lists import list_limits
from drawdown.worker.guard.overrides import OverrideRow, Terms, Word
from drawdown.worker.guard.terms import ANY_PLAN, Change, PlanLimit

MOST_LIMITS: Final = 200
MOST_OVERRIDES: Final = 200
NUMBER: Final = Field("number", "Override", "number")
METRIC: Final = Field("metric", "Metric")
AMOUNT: Final = Field("amount", "Amount", hint="Base units; none: without an end.")
PER: Final = Field("per", "Per", "choice", choices=[(one, one) for one in reversed(PERIODS)])
PHASES: Final = [
    ("0", "0: silent"),
    ("1", "1: warn"),
    ("2", "2: block who never bought credit"),
    ("3", "3: block all"),
]


def _number(doing: Doing) -> int:
    found = doing.number("number")
    if not found:
        raise WrongField("number", "the number of an override, from 1 on")
    return found


def _units(doing: Doing) -> int | None:
    """None: without an end."""
    return None if doing.values["amount"].strip() == "none" else doing.number("amount")


def _shown(amount: int | None) -> str:
    return "without an end" if amount is None else f"{amount:,}"


def _until(ends_ms: int | None) -> str:
    return "for good" if ends_ms is None else f"until {figures.time(ends_ms)} UTC"


def _decide(word: Word, connection: sa.Connection, doing: Doing) -> Done:
    found, _ = guard_overrides.decide(connection, _number(doing), word, doing.by)
    return Done(f"override {found.number}: {found.state.replace('_', ' ')}; {_terms_said(found)}")


def _terms_said(one: OverrideRow | Terms) -> str:
    amount, until = _shown(one.amount), _until(one.ends_ms)
    return f"{amount} of {one.metric} per {one.period} for {one.target}, {until}"


def _override(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = guard_overrides.show(connection, _number(doing))
    return [
        Fact("Override", _terms_said(found)),
        Fact("State", found.state.replace("_", " ")),
        Fact("In force for the same", _in_force(connection, found.metric, found.target, doing.by.now_ms)),
        *_plans(connection, found.metric, found.period),
    ]


def _in_force(connection: sa.Connection, metric: str, target: str, now_ms: int) -> str:
    """Overrides by their numbers; the nearest and newest counts."""
    found = guard_overrides.list_overrides(connection, metric, now_ms, MOST_OVERRIDES, state="in_force")
    return ", ".join(f"{one.number} ({_shown(one.amount)})" for one in found if one.target == target) or "none"


def _plans(connection: sa.Connection, metric: str, period: str) -> list[Fact]:
    """What plans allow of it, where they say something."""
    found = [one for one in list_limits(connection, metric, MOST_LIMITS) if one.period == period]
    said = ", ".join(f"{one.plan}: {_shown(one.amount)}" for one in found)
    return [Fact(f"Plans allow a {period}", said or "nothing is said: none")]


def _to_limits(doing: Doing) -> str:
    return url("/console/limits", metric=doing.text("metric"))


def _size(connection: sa.Connection, terms: OverrideRow | Terms) -> Size:
    """What may be used by it in one period, at the metric's price."""
    if terms.amount is None or terms.reach != "org":
        return Size(unbounded=True)
    return Size(micro=guard_terms.find(connection, terms.metric).price.of(terms.amount))


def _decided_size(word: Word, connection: sa.Connection, doing: Doing) -> Size:
    return _size(connection, guard_overrides.show(connection, _number(doing))) if word == "approve" else Size()


def _made_size(connection: sa.Connection, doing: Doing) -> Size:
    return _size(connection, _terms(doing))


def _deciding(word: Word, title: str, said: str) -> Action:
    return Action(
        f"override-{word}",
        title,
        (NUMBER,),
        partial(_decide, word),
        _override,
        lambda doing: ["override", word, str(_number(doing))],
        _to_limits,
        said,
        size=partial(_decided_size, word),
    )


def _terms(doing: Doing) -> Terms:
    """Errors: WrongField for an end that is missing, or one too many."""
    ends, good = doing.time("expires"), doing.values["lasts"] == "for-good"
    if good == (ends is not None):
        raise WrongField("expires", "give an end, or choose for good: one of them")
    reach, period = cast(Reach, doing.values["reach"]), cast(Period, doing.values["per"])
    return Terms(doing.text("metric"), reach, doing.text("id"), period, _units(doing), ends)


def _make(connection: sa.Connection, doing: Doing) -> Done:
    terms = _terms(doing)
    made, changed = guard_overrides.add(connection, terms, doing.by, asked=False, permanent=terms.ends_ms is None)
    return Done(f"override {made.number}: {_terms_said(made)}; in force{'' if changed else '; it was so before'}")


def _making(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    terms = _terms(doing)
    return [
        Fact("In force for the same", _in_force(connection, terms.metric, terms.target, doing.by.now_ms)),
        *_plans(connection, terms.metric, terms.period),
    ]


def _make_command(doing: Doing) -> list[str]:
    terms = _terms(doing)
    amount = "none" if terms.amount is None else str(terms.amount)
    found = ["override", "make", terms.metric, amount, "--plan" if terms.reach == "plan" else "--org", terms.target]
    ends = ["--permanent"] if terms.ends_ms is None else ["--expires", show_time(terms.ends_ms)]
    return [*found, "--per", terms.period, *ends]


MAKE: Final = Action(
    "override-make",
    "Make an override",
    (
        METRIC,
        AMOUNT,
        Field(
            "reach",
            "For",
            "choice",
            choices=[("org", "an organisation"), ("pattern", "all whose ids begin alike: acme-*"), ("plan", "a plan")],
        ),
        Field("id", "Which"),
        PER,
        Field("lasts", "Lasts", "choice", choices=[("until", "until the time below"), ("for-good", "for good")]),
        Field("expires", "Until", "time", "+7d, or 2026-12-31: 90 days from now at the latest.", optional=True),
    ),
    _make,
    _making,
    _make_command,
    _to_limits,
    "It stands in place of what the plan allows, from now on: an organisation's own first, then a pattern's, a plan's.",
    size=_made_size,
)


def _limit(doing: Doing) -> PlanLimit:
    phase = doing.number("phase")
    return PlanLimit(doing.text("metric"), doing.text("plan"), cast(Period, doing.values["per"]), _units(doing), phase)


def _set_limit(connection: sa.Connection, doing: Doing) -> Done:
    terms = _limit(doing)
    changed = guard_terms.set_limit(connection, terms, doing.by)
    said = f"{terms.metric} of {terms.plan}, per {terms.period}: {_shown(terms.amount)}"
    return Done(said if changed else f"{said}; it was so before")


def _limits(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    terms = _limit(doing)
    found = list_limits(connection, terms.metric, MOST_LIMITS)
    now = [one for one in found if (one.plan, one.period) == (terms.plan, terms.period)]
    said = "nothing is said" if not now else f"{_shown(now[0].amount)}, phase {_phase(now[0].phase)}"
    return [Fact(f"{terms.metric} of {terms.plan}, per {terms.period}", said)]


def _phase(phase: int | None) -> str:
    return "of the metric" if phase is None else str(phase)


def _limit_command(doing: Doing) -> list[str]:
    terms = _limit(doing)
    amount = "none" if terms.amount is None else str(terms.amount)
    found = ["limit", "set", terms.metric, amount, "--per", terms.period, "--plan", terms.plan]
    return [*found, *([] if terms.phase is None else ["--phase", str(terms.phase)])]


LIMIT: Final = Action(
    "limit-set",
    "Set a limit",
    (
        METRIC,
        Field("plan", "Plan", hint=f"{ANY_PLAN} is every other plan, and who is on none."),
        AMOUNT,
        PER,
        Field("phase", "Phase", "choice", choices=[("", "the metric's"), *PHASES], optional=True),
    ),
    _set_limit,
    _limits,
    _limit_command,
    _to_limits,
    "It counts from now on, also in the period that goes on.",
    role="admin",
)


def _set_phase(connection: sa.Connection, doing: Doing) -> Done:
    metric, phase = doing.text("metric"), doing.number("phase")
    now, was = guard_terms.set_metric(connection, metric, Change(phase=phase), doing.by, new=False)
    return Done(f"{metric}: phase {now.phase}" + ("; it was so before" if now == was else ""))


def _phases(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """What the phase would have blocked shows before it does."""
    metric, phase = doing.text("metric"), doing.number("phase") or 0
    found = guard_terms.find(connection, metric)
    (blocks,) = guard_blocks.block_rates(connection, doing.by.now_ms, metric=metric).metrics
    would = f"{blocks.would_in(phase):,} times, of {blocks.orgs:,} organisations, {blocks.paying:,} bought credit"
    return [Fact("Phase", str(found.phase)), Fact("In 7 days it would have blocked", would, fixed=False)]


PHASE: Final = Action(
    "guard-phase",
    "Set a metric's phase",
    (METRIC, Field("phase", "Phase", "choice", choices=PHASES)),
    _set_phase,
    _phases,
    lambda doing: ["guard", "set", doing.text("metric"), "--phase", doing.values["phase"]],
    _to_limits,
    "It says what comes of a limit that is reached, from the next use on.",
    role="admin",
)
ACTIONS: Final = (
    _deciding("approve", "Approve an override", "It counts from now on, in place of what the plan allows."),
    _deciding("refuse", "Refuse an override", "It never counts. Whoever asked is told by a webhook."),
    _deciding("end", "End an override", "The plan's limit counts again, from now on."),
    MAKE,
    LIMIT,
    PHASE,
)
