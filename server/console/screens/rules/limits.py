"""Show limits: limit overrides, block rates, phases and plans' limits.

The page lists the limit overrides that are requested, and those in force.

Guarantee: the figures equal those of `drawdown override list`, `guard list`, `guard report` and `limit list`. If one
read cannot count all checks, the page shows the start of the counted time. This module has the actions that create a
limit override, and that set the phase of a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Final, cast

import sqlalchemy as sa

from drawdown.guard.decide import Reach
from drawdown.guard.periods import PERIODS, Period
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.text import counted, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.rules.cells import amount, org, part, text_cell, time
from drawdown.worker.guard import lists as guard_blocks
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.lists import SPANS, BlockRate, BlocksPage, MetricBlocks, list_limits, open_overrides
from drawdown.worker.guard.overrides import SOON_MS, OverrideRow, Terms, list_overrides
from drawdown.worker.guard.terms import Change

PATH: Final = "/console/limits"
PAGE_OVERRIDES: Final = 50
"""Limit overrides of one state on a page."""
MOST_LIMITS: Final = 200
"""Limits of plans that a page shows, or that a dry run reads."""
WORDS: Final = {"24h": "24 hours", "7d": "7 days", "30d": "30 days"}
PHASES: Final = ("silent", "warns", "blocks those who never bought credit", "blocks all")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    metric, span = ask.text("metric"), ask.choice("span", ("7d", "24h", "30d"))
    blocks = guard_blocks.block_rates(connection, ask.now_ms, metric=metric, span=span, after=ask.text("after"))
    now_ms = ask.now_ms
    waiting = open_overrides(connection, now_ms, now_ms + SOON_MS, metric)
    filters = (
        Filter("metric", "Metric", metric),
        Filter(
            "span",
            "Blocked most in",
            "" if span == "7d" else span,
            [("", "7 days"), *((one, WORDS[one]) for one in ("24h", "30d"))],
        ),
    )
    query = {"metric": metric, "span": ask.query.get("span")}
    tables = [
        _requests_table(connection, ask, metric, query),
        _in_force(connection, ask, metric, query),
        _rates(blocks, query, url(PATH, **query) if ask.text("after") else ""),
        _phases(blocks),
        _most(blocks, span),
        _limits(connection, metric),
    ]
    return to_context(
        PageContent(
            PATH,
            tables,
            _tiles(*waiting, blocks, now_ms),
            filters,
            (
                act("Create limit override", "override-make", metric=metric),
                act("Set a limit", "limit-set", "admin", metric=metric),
            ),
            query=query,
        )
    )


def _tiles(waiting: int, since_ms: int | None, ending: int, blocks: BlocksPage, now_ms: int) -> list[Tile]:
    day = [one.rates[0] for one in blocks.metrics]
    asked, blocked = sum(one.requests for one in day), sum(one.blocked for one in day)
    more = "" if all(one.whole for one in day) else ", of the newest"
    return [
        Tile(
            "Requested limit overrides",
            figures.count(waiting),
            f"the first {figures.ago(since_ms, now_ms)}" if waiting else "none open",
            "warn" if waiting else "",
        ),
        Tile("Limit overrides that end soon", figures.count(ending), "within 7 days", "warn" if ending else ""),
        Tile("Blocked in 24 hours", figures.count(blocked), f"of {counted(asked, 'check')}{more}"),
        Tile("Metrics", figures.count(len(blocks.metrics)), "on this page"),
    ]


def _requests_table(connection: sa.Connection, ask: Ask, metric: str, query: Mapping[str, object]) -> Table:
    found = list_overrides(
        connection, metric, ask.now_ms, PAGE_OVERRIDES + 1, state="asked", after=ask.place("asked"), known=True
    )
    rows = [(*_override(one, ask.now_ms), time(one.at_ms)) for one in found[:PAGE_OVERRIDES]]
    heads = (
        "#Override",
        "Actions",
        "Metric",
        "Target",
        "Period",
        "#Amount",
        "Until, UTC",
        "Actor",
        "Reason",
        "Requested, UTC",
    )
    none = "No request is open. Programs and people can request a limit above their plan."
    return Table(
        "Requests to approve",
        heads,
        rows,
        none,
        _listed("drawdown override list", metric),
        _next(found, "asked", query),
        first=url(PATH, **query) if ask.place("asked") else "",
    )


def _in_force(connection: sa.Connection, ask: Ask, metric: str, query: Mapping[str, object]) -> Table:
    found = list_overrides(
        connection, metric, ask.now_ms, PAGE_OVERRIDES + 1, state="in_force", after=ask.place("behind"), known=True
    )
    rows = [
        (*_override(one, ask.now_ms), text_cell(one.decided_by or figures.UNKNOWN, wide=True))
        for one in found[:PAGE_OVERRIDES]
    ]
    heads = (
        "#Override",
        "Actions",
        "Metric",
        "Target",
        "Period",
        "#Amount",
        "Until, UTC",
        "Actor",
        "Reason",
        "Approved by",
    )
    none = "No limit override is in force."
    return Table(
        "Limit overrides in force, by end",
        heads,
        rows,
        none,
        _listed("drawdown override list", metric),
        _next(found, "behind", query),
        first=url(PATH, **query) if ask.place("behind") else "",
    )


def _override(one: OverrideRow, now_ms: int) -> tuple[Cell, ...]:
    target = (
        org(one.target)
        if one.reach == "org"
        else text_cell(f"plan {one.target}" if one.reach == "plan" else one.target)
    )
    until = (
        Cell(f"{figures.time(one.ends_ms)}, soon", "state", "warn")
        if one.ends_soon(now_ms)
        else time(one.ends_ms, "permanent")
    )
    return (
        Cell(str(one.number), "number", narrow=False),
        _words(one),
        text_cell(one.metric),
        target,
        Cell(one.period),
        amount(one.amount),
        until,
        text_cell(one.actor),
        text_cell(one.reason),
    )


def _words(one: OverrideRow) -> Cell:
    """Return a cell with the possible decisions about a limit override."""
    words = (("approve", "Approve"), ("refuse", "Refuse")) if one.state == "asked" else (("end", "End"),)
    links = (act(text, f"override-{word}", number=one.number) for word, text in words)
    return Cell("", links=tuple(links))


def _next(found: Sequence[OverrideRow], name: str, query: Mapping[str, object]) -> str:
    return url(PATH, **{**query, name: found[PAGE_OVERRIDES - 1].number}) if len(found) > PAGE_OVERRIDES else ""


def _rates(blocks: BlocksPage, query: Mapping[str, object], first: str) -> Table:
    rows = [
        (
            text_cell(one.metric),
            Cell(PHASES[one.phase]),
            *(Cell(_rate(rate), "number", narrow=rate.span == "24h") for rate in one.rates),
        )
        for one in blocks.metrics
    ]
    heads = ("Metric", "Phase", *(f"#Blocked in {WORDS[span]}" for span in SPANS))
    none = "No metric exists yet. The command creates one, and `drawdown limit set` sets a limit."
    cut = [rate for one in blocks.metrics for rate in one.rates if not rate.whole]
    note = f"For a metric with more checks, only the newest {guard_blocks.MOST_COUNTED:,} count." if cut else ""
    next_ = url(PATH, **{**query, "after": blocks.next_after}) if blocks.next_after else ""
    command = "drawdown guard list" if rows else "drawdown guard set idea.create --phase 1 --new"
    return Table("Block rates", heads, rows, none, command, next_, note, first=first)


def _rate(rate: BlockRate) -> str:
    """Return the share of blocked checks, and the number of checks.

    If the checks do not cover the whole span, the text states their start.
    """
    since = "" if rate.whole else f" since {figures.time(rate.since_ms)}"
    return f"{part(rate.blocked_ppm)} of {rate.requests:,}{since}" if rate.requests else figures.UNKNOWN


def _set_phase(one: MetricBlocks) -> Cell:
    return Cell("", links=(act("Set", "guard-phase", "admin", metric=one.metric, phase=str(one.phase)),))


def _phases(blocks: BlocksPage) -> Table:
    rows = [
        (text_cell(one.metric), _set_phase(one), Cell(f"{one.phase} {PHASES[one.phase]}"), *_would(one))
        for one in blocks.metrics
    ]
    heads = ("Metric", "Actions", "Phase now", "#In phase 2", "#In phase 3", "#Organisations", "#Bought credit")
    none = "No metric exists yet. Its phase sets the effect of a reached limit: silence, a warning or a block."
    note = (
        "Blocks that each phase would have caused in 7 days. Phase 2 enforces a block only for organisations that "
        "never bought credit. Phase 3 enforces each block."
    )
    return Table(
        "Phases and their block rates",
        heads,
        rows,
        none,
        f"drawdown guard report {typed(_one(blocks))} --phase 3 --since 7d",
        note=note,
    )


def _would(one: MetricBlocks) -> tuple[Cell, ...]:
    counts = (one.would_in(2), one.would_in(3), one.orgs, one.paying)
    return tuple(Cell(figures.count(count), "number", narrow=at == 1) for at, count in enumerate(counts))


def _one(blocks: BlocksPage) -> str:
    return blocks.metrics[0].metric if len(blocks.metrics) == 1 else "METRIC"


def _most(blocks: BlocksPage, span: str) -> Table:
    rows = [
        (org(one.org_id, tab="limits"), text_cell(one.metric), Cell(figures.count(one.blocked), "number"),
         Cell(figures.count(one.would), "number", narrow=False), time(one.last_ms, wide=True),
         Cell("yes" if one.pays else "no", narrow=False))
        for one in blocks.most_blocked
    ]  # fmt: skip
    heads = ("Organisation", "Metric", "#Blocked", "#In phase 3", "Last, UTC", "Bought credit")
    none = "Drawdown did not block any organisation in this time, and phase 3 would not have blocked any."
    return Table(f"Blocked most in {WORDS[span]}", heads, rows, none, "drawdown guard report METRIC")


def _limits(connection: sa.Connection, metric: str) -> Table:
    found = list_limits(connection, metric, MOST_LIMITS, known=True)
    rows = [
        (text_cell(one.metric), text_cell("every other plan, and no plan" if one.plan == "*" else one.plan),
         Cell(one.period), amount(one.amount),
         Cell(figures.UNKNOWN if one.phase is None else PHASES[one.phase], narrow=False),
         time(one.at_ms, wide=True), text_cell(one.actor, wide=True), text_cell(one.reason, wide=True))
        for one in found
    ]  # fmt: skip
    heads = ("Metric", "Plan", "Period", "#Amount", "Own phase", "Since, UTC", "Actor", "Reason")
    none = "No plan has a limit yet, so no plan allows any use of a metric."
    note = (
        f"This table shows the first {MOST_LIMITS} limits. To see others, choose a metric."
        if len(found) == MOST_LIMITS
        else ""
    )
    command = (
        _listed("drawdown limit list", metric)
        if rows
        else f"drawdown limit set {typed(metric or 'idea.create')} 100 --per month"
    )
    return Table("Limits of plans", heads, rows, none, command, note=note)


def _listed(command: str, metric: str) -> str:
    return f"{command} --metric {quote(metric)}" if metric else command


MOST_OVERRIDES: Final = 200
"""Limit overrides that a dry run reads."""
METRIC: Final = Field("metric", "Metric")
AMOUNT: Final = Field("amount", "Amount", hint="Number of base units, or none for unlimited.")
PER: Final = Field("per", "Period", "choice", choices=[(one, one) for one in reversed(PERIODS)])
PHASE_CHOICES: Final = [
    ("0", "0: silent"),
    ("1", "1: warn"),
    ("2", "2: block those who never bought credit"),
    ("3", "3: block all"),
]


def _units(doing: Doing) -> int | None:
    """Return the amount in base units; None means unlimited.

    Errors: WrongField.
    """
    return None if doing.values["amount"].strip() == "none" else doing.number("amount")


def _format_amount(amount: int | None) -> str:
    return "unlimited" if amount is None else f"{amount:,}"


def _until(ends_ms: int | None) -> str:
    return "permanently" if ends_ms is None else f"until {figures.time(ends_ms)} UTC"


def _terms_said(one: OverrideRow | Terms) -> str:
    amount, until = _format_amount(one.amount), _until(one.ends_ms)
    return f"{amount} of {one.metric} per {one.period} for {one.target}, {until}"


def _numbers_in_force(connection: sa.Connection, metric: str, target: str, now_ms: int) -> str:
    """Return the numbers and amounts of a target's limit overrides in force."""
    found = guard_overrides.list_overrides(connection, metric, now_ms, MOST_OVERRIDES, state="in_force")
    return ", ".join(f"{one.number} ({_format_amount(one.amount)})" for one in found if one.target == target) or "none"


def _plans(connection: sa.Connection, metric: str, period: str) -> list[Fact]:
    """Return the limits of all plans for a metric and a period, as one fact."""
    found = [one for one in list_limits(connection, metric, MOST_LIMITS) if one.period == period]
    said = ", ".join(f"{one.plan}: {_format_amount(one.amount)}" for one in found)
    return [Fact(f"Limits of plans, per {period}", said or "no limit set, so use is not allowed")]


def _to_limits(doing: Doing) -> str:
    return url("/console/limits", metric=doing.text("metric"))


def _size(connection: sa.Connection, terms: OverrideRow | Terms) -> Size:
    """Return the size of a limit override: the price of its amount in one period.

    If the limit override has no amount, or covers several organisations, the size is unbounded.
    """
    if terms.amount is None or terms.reach != "org":
        return Size(unbounded=True)
    return Size(micro=guard_terms.find(connection, terms.metric).price.of(terms.amount))


def _made_size(connection: sa.Connection, doing: Doing) -> Size:
    return _size(connection, _terms(doing))


def _terms(doing: Doing) -> Terms:
    """Return the terms in a form.

    Errors: WrongField unless the form has either an end or `for-good`.
    """
    ends, good = doing.time("expires"), doing.values["lasts"] == "for-good"
    if good == (ends is not None):
        raise WrongField("expires", "specify either an end or permanent, not both")
    reach, period = cast(Reach, doing.values["reach"]), cast(Period, doing.values["per"])
    return Terms(doing.text("metric"), reach, doing.text("id"), period, _units(doing), ends)


def _make(connection: sa.Connection, doing: Doing) -> ActionResult:
    terms = _terms(doing)
    made, changed = guard_overrides.add(connection, terms, doing.by, asked=False, permanent=terms.ends_ms is None)
    return ActionResult(
        f"limit override {made.number}: {_terms_said(made)}; in force{'' if changed else '; unchanged'}"
    )


def _making(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    terms = _terms(doing)
    return [
        Fact("In force for this target", _numbers_in_force(connection, terms.metric, terms.target, doing.by.now_ms)),
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
    "Create limit override",
    (
        METRIC,
        AMOUNT,
        Field(
            "reach",
            "Target",
            "choice",
            choices=[
                ("org", "an organisation"),
                ("pattern", "organisations with an id pattern, such as acme-*"),
                ("plan", "a plan"),
            ],
        ),
        Field("id", "Id or pattern"),
        PER,
        Field("lasts", "Duration", "choice", choices=[("until", "until the time below"), ("for-good", "permanently")]),
        Field("expires", "Until", "time", "Date such as 2026-12-31, or +7d; at most 90 days ahead.", optional=True),
    ),
    _make,
    _making,
    _make_command,
    _to_limits,
    "The limit override replaces the plan's limit immediately. One for an organisation has precedence, then one for a "
    "pattern, then that of a plan.",
    size=_made_size,
)


def _do_set_phase(connection: sa.Connection, doing: Doing) -> ActionResult:
    metric, phase = doing.text("metric"), doing.number("phase")
    now, was = guard_terms.set_metric(connection, metric, Change(phase=phase), doing.by, new=False)
    return ActionResult(f"{metric}: phase {now.phase}" + ("; unchanged" if now == was else ""))


def _phase_facts(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Return the facts of a phase, with the blocks that it would cause in 7 days."""
    metric, phase = doing.text("metric"), doing.number("phase") or 0
    found = guard_terms.find(connection, metric)
    (blocks,) = guard_blocks.block_rates(connection, doing.by.now_ms, metric=metric).metrics
    orgs = counted(blocks.orgs, "organisation")
    would = f"{counted(blocks.would_in(phase), 'time')}; {blocks.paying:,} of {orgs} bought credit"
    return [Fact("Phase", str(found.phase)), Fact("Blocks in this phase over 7 days", would, fixed=False)]


PHASE: Final = Action(
    "guard-phase",
    "Set a metric's phase",
    (METRIC, Field("phase", "Phase", "choice", choices=PHASE_CHOICES)),
    _do_set_phase,
    _phase_facts,
    lambda doing: ["guard", "set", doing.text("metric"), "--phase", doing.values["phase"]],
    _to_limits,
    "From the next use on, the phase sets the effect of a reached limit.",
    role="admin",
)
ACTIONS: Final = (MAKE, PHASE)
