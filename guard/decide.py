"""Decide if an amount of a metric can be used now.

A decision shows its rule and the remaining amount.

Guarantee: this module is pure. Rules apply in one order: the operator, a limit override in place of the plan's limit,
the plan's limit, the credit of the payer. If the credit is unknown, a setting decides. If a plan lacks a limit for a
metric, it does not allow the use of the metric. To allow unlimited use, set a limit of `none`. The decision of phase 3
is always computed (`would`), and the phase determines its effect. The gate of sandboxes uses the same rules
(`worker/verdict/refresh_requests.py`).

    phase          nothing left                              little left
    0 silent       allow                                     allow
    1 warn         warn                                      warn
    2 block free   block if no credit was bought, else warn  warn
    3 block all    block                                     warn

An operator's block applies in every phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from drawdown.guard.periods import SPANS, Span

Decision: TypeAlias = Literal["allow", "warn", "block"]
Reach: TypeAlias = Literal["org", "pattern", "plan"]
"""The reach of a limit override.

It is one organisation, all organisations with a common prefix, or a plan.
"""

ONE_PPM: Final = 1_000_000
HYSTERESIS_PPM: Final = 100_000
"""Parts per million of a limit by which use must fall before the next warning.

The fall counts from the level of the warning.
"""
SILENT: Final = 0
WARN: Final = 1
BLOCK_FREE: Final = 2
BLOCK_ALL: Final = 3
IN_DOUBT: Final = frozenset(
    {"balance_unknown", "needs_quantities", "never_projected", "database_unreadable", "unknown_org"}
)
"""Codes of a refusal because the credit is unknown here, or now."""
_CLOSENESS: Final[Mapping[Reach, int]] = {"org": 0, "pattern": 1, "plan": 2}


@dataclass(frozen=True)
class Limit:
    """A plan's limit of a metric in a period, in base units.

    `amount`: base units in the period; None: unlimited. `phase`: the phase; None: that of the metric. `plan`: the name
    of the plan.
    """

    period: Span
    amount: int | None
    phase: int | None = None
    plan: str = ""


@dataclass(frozen=True)
class Override:
    """A limit override or org override, in place of a plan's limit, with its reach.

    `number`: the number of a limit override; 0: the org override (`drawdown org override`). `amount`: base units in the
    period; None: unlimited.
    """

    number: int
    reach: Reach
    period: Span
    amount: int | None


@dataclass(frozen=True)
class Counted:
    """The use of a metric in a period, in base units.

    `warned`: True if the caller was warned in this period.
    """

    used: int = 0
    warned: bool = False


@dataclass(frozen=True)
class Facts:
    """The facts that a decision uses.

    `phase`: the phase of the metric. `warn_ppm`: the parts per million of a limit that count as little left. `counted`:
    the use by span. `halted`: the operator's reason to halt all use. `limits`: the limits of the plan, at most one for
    each span. `overrides`: the overrides that apply to the caller, in any order. `no_credit`: the code with which the
    payer was refused, or why the credit is unknown. `fails_open`: True to allow use if the credit is unknown. `pays`:
    True if credit was ever bought.
    """

    phase: int
    warn_ppm: int
    pays: bool
    limits: Sequence[Limit]
    counted: Mapping[Span, Counted]
    overrides: Sequence[Override] = ()
    halted: str | None = None
    no_credit: str | None = None
    fails_open: bool = False

    @property
    def degraded(self) -> bool:
        """Return True if the credit is unknown."""
        return self.no_credit in IN_DOUBT


@dataclass(frozen=True)
class Bound:
    """A limit or override that applies in a period, with its rule and its phase.

    `amount`: base units in the period; None: unlimited.
    """

    rule: str
    period: Span
    amount: int | None
    phase: int


@dataclass(frozen=True)
class Verdict:
    """The result of a decision.

    `decision`: the decision that counts. `would`: the decision if each phase were 3. `enforced`: True if the phase
    enforces the decision. `rule`: the rule that decided. `reason`: the code of the reason. `bound`: the bound with the
    smallest remainder (None: all bounds are unlimited, or bounds are missing). If several bounds are too small for the
    use, an enforced bound takes precedence. `used`: the use in its period before this use, in base units. `remaining`:
    the base units left after this use, or without it if the decision is to block. `used` and `remaining` are None if
    `bound` is None.
    """

    decision: Decision
    would: Decision
    enforced: bool
    rule: str
    reason: str
    bound: Bound | None
    used: int | None
    remaining: int | None


def in_force(facts: Facts) -> list[Bound]:
    """Return the bound of each period: the closest override, or else the limit.

    The closest override has the narrowest reach. If several have the same reach, the newest applies.
    """
    found: list[Bound] = []
    for period in SPANS:
        limit = next((one for one in facts.limits if one.period == period), None)
        over = min(
            (one for one in facts.overrides if one.period == period),
            key=lambda one: (_CLOSENESS[one.reach], -one.number),
            default=None,
        )
        phase = facts.phase if limit is None or limit.phase is None else limit.phase
        if over is not None:
            found.append(Bound(f"override:{over.number}" if over.number else "override", period, over.amount, phase))
        elif limit is not None:
            found.append(Bound(f"limit:{limit.plan}:{period}", period, limit.amount, phase))
    return found


def decide(facts: Facts, amount: int) -> Verdict:
    """Decide a request for `amount` base units (more than 0)."""
    bounds = in_force(facts)
    nearest = min((one for one in bounds if one.amount is not None), key=lambda one: _room(facts, one), default=None)
    if facts.halted is not None:
        return _verdict(facts, nearest, amount, "block", "operator", facts.halted, BLOCK_ALL)
    if not bounds:
        return _verdict(facts, None, amount, "block", "limit", "no_entitlement", facts.phase)
    short = [one for one in bounds if one.amount is not None and _room(facts, one) < amount]
    if short:
        worst = min(short, key=lambda one: (not holds(one.phase, facts.pays), _room(facts, one)))
        return _verdict(facts, worst, amount, "block", worst.rule, "limit", worst.phase)
    if facts.no_credit is not None and not (facts.degraded and facts.fails_open):
        return _verdict(facts, nearest, amount, "block", "credits", facts.no_credit, facts.phase)
    rule = "unlimited" if nearest is None else nearest.rule
    phase = facts.phase if nearest is None else nearest.phase
    is_new = any(_warns_anew(facts, one, amount) for one in bounds)
    would: Decision = "warn" if is_new else "allow"
    return _verdict(facts, nearest, amount, would, rule, "low" if is_new else "allowed", phase)


def beyond(facts: Facts, amount: int) -> bool:
    """Return True if an additional amount exceeds a limit that is enforced."""
    short = (one for one in in_force(facts) if one.amount is not None and _room(facts, one) < amount)
    return amount > 0 and any(holds(one.phase, facts.pays) for one in short)


def holds(phase: int, pays: bool) -> bool:
    """Return True if a phase enforces a decision."""
    return phase == BLOCK_ALL or (phase == BLOCK_FREE and not pays)


def warned_after(warn_ppm: int, limit: int | None, used: int, *, before: bool) -> bool:
    """Return True if the caller counts as warned at this use.

    `limit`, `used`: base units; `limit` None: unlimited. `before`: True if the caller was warned before.

    The warning begins once at most `warn_ppm` of the limit is left. It ends once HYSTERESIS_PPM more is left. The next
    call about the metric notices a change of the use. A new period starts without a warning.
    """
    if limit is None:
        return False
    left = (limit - used) * ONE_PPM
    return left <= limit * warn_ppm or (before and left < limit * (warn_ppm + HYSTERESIS_PPM))


def _verdict(
    facts: Facts, bound: Bound | None, amount: int, would: Decision, rule: str, reason: str, phase: int
) -> Verdict:
    enforced = holds(phase, facts.pays)
    decision = would
    if would == "block" and not enforced:
        decision = "warn"
    if decision == "warn" and phase == SILENT:
        decision = "allow"
    used = None if bound is None else facts.counted[bound.period].used
    left = None
    if bound is not None and bound.amount is not None and used is not None:
        left = max(bound.amount - used - (0 if decision == "block" else amount), 0)
    return Verdict(decision, would, enforced, rule, reason, bound, used, left)


def _room(facts: Facts, bound: Bound) -> int:
    assert bound.amount is not None
    return bound.amount - facts.counted[bound.period].used


def _warns_anew(facts: Facts, bound: Bound, amount: int) -> bool:
    found = facts.counted[bound.period]
    before = found.warned and warned_after(facts.warn_ppm, bound.amount, found.used, before=True)
    return not before and warned_after(facts.warn_ppm, bound.amount, found.used + amount, before=False)


@dataclass(frozen=True)
class Price:
    """The price of a metric: `micro` micro-credits for `per` base units.

    A metric without a cost is not charged.
    """

    micro: int
    per: int

    def of(self, amount: int) -> int:
        """Return the micro-credits of an amount, rounded to the nearest, half up."""
        return (2 * amount * self.micro + self.per) // (2 * self.per)

    def hold_micro(self, amount: int) -> int:
        """Return the micro-credits to reserve for an amount.

        If the metric has a cost, the result is at least 1, because the use can be larger.
        """
        return max(self.of(amount), 1) if self.micro else 0
