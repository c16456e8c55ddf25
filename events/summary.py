"""The public summary of usage events, without organisations.

The summary shows counts and quantities by plan, kind and day.

Guarantee: this module is pure. Each row covers at least LEAST organisations. Smaller groups of one kind and day are
joined into one group. If it is still too small, it joins such groups of that day, and then those of all days. If the
last group is still too small, it is omitted. The summary does not have totals, because an omitted row could be computed
from a total.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from drawdown.events.privacy.shapes import DAY, FLAG, LABEL, NUMBER, NUMBER_OR_NONE, TIME, Rows, Shape, word
from drawdown.schema.errors import UsageError

NAME: Final = "usage-summary"
LEAST: Final = 5
MAX_GROUPS: Final = 100_000
"""Most groups in one public summary of usage."""
OTHER: Final = "other"
NO_PLAN: Final = "none"
SHAPE: Final[Shape] = {
    "report": word(NAME),
    "made_at": TIME,
    "from": DAY,
    "to": DAY,
    "least": NUMBER,
    "withheld": FLAG,
    "rows": Rows({"plan": LABEL, "kind": LABEL, "day": DAY, "events": NUMBER, "quantity": NUMBER_OR_NONE}),
}
"""The fields that a published summary may have."""

Label: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class OrgUse:
    """The use of one organisation, by kind, day and plan. `quantity`: base units."""

    org_id: str
    plan_key: str | None
    kind: str
    day: str
    events: int
    quantity: int


@dataclass(frozen=True)
class SummaryRow:
    """A group of at least LEAST organisations.

    `quantity`: base units; None if the group has several kinds, because their units do not add up.
    """

    plan: str
    kind: str
    day: str
    events: int
    quantity: int | None


@dataclass
class _Group:
    events: int = 0
    quantity: int = 0
    orgs: set[str] = field(default_factory=set)
    """At most LEAST organisations, which is enough to know that the group is not small."""

    def add(self, events: int, quantity: int, orgs: Iterable[str]) -> None:
        self.events += events
        self.quantity += quantity
        for org_id in orgs:
            if len(self.orgs) < LEAST:
                self.orgs.add(org_id)

    @property
    def is_small(self) -> bool:
        return len(self.orgs) < LEAST


def grouped(uses: Iterable[OrgUse]) -> tuple[list[SummaryRow], bool]:
    """Return the rows, ordered by day, kind and plan.

    The second result is True if a group was omitted because it is too small.

    Errors: UsageError for more than MAX_GROUPS.
    """
    groups: dict[Label, _Group] = {}
    for use in uses:
        label = (use.plan_key or NO_PLAN, use.kind, use.day)
        if label not in groups and len(groups) >= MAX_GROUPS:
            raise UsageError(f"too many groups: at most {MAX_GROUPS:,} are allowed. Choose a shorter range")
        groups.setdefault(label, _Group()).add(use.events, use.quantity, (use.org_id,))
    for level in range(3):
        for label in [label for label, group in groups.items() if group.is_small]:
            group = groups.pop(label)
            wider = (*(OTHER,) * (level + 1), *label[level + 1 :])
            groups.setdefault(wider, _Group()).add(group.events, group.quantity, group.orgs)  # type: ignore[arg-type]
    rows = [
        SummaryRow(*label, group.events, None if label[1] == OTHER else group.quantity)
        for label, group in groups.items()
        if not group.is_small
    ]
    rows.sort(key=lambda row: (row.day, row.kind, row.plan))
    return rows, any(group.is_small for group in groups.values())
