"""The public summary tells of nobody: five organisations at least stand behind each row."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from drawdown.events import summary
from drawdown.events.summary import LEAST, OrgUse, SummaryRow, grouped
from drawdown.schema.errors import UsageError

DAY = "2026-01-31"


def uses(plan: str | None, kind: str, orgs: range, day: str = DAY) -> list[OrgUse]:
    return [OrgUse(f"org-{number}", plan, kind, day, 2, 10) for number in orgs]


def test_event_summary_group_of_five_orgs_is_shown() -> None:
    assert grouped(uses("free", "render", range(5))) == ([SummaryRow("free", "render", DAY, 10, 50)], False)
    assert grouped(uses(None, "render", range(5)))[0][0].plan == "none"


def test_event_summary_small_groups_are_merged_into_other_plan() -> None:
    rows, withheld = grouped(
        [*uses("free", "render", range(6)), *uses("team", "render", range(6, 9)), *uses("pro", "render", range(8, 12))]
    )
    assert rows == [SummaryRow("free", "render", DAY, 12, 60), SummaryRow("other", "render", DAY, 14, 70)]
    assert not withheld


def test_event_summary_org_on_two_plans_is_counted_once() -> None:
    rows, withheld = grouped([*uses("team", "render", range(4)), *uses("pro", "render", range(4))])
    assert (rows, withheld) == ([], True)


def test_event_summary_rare_kinds_are_merged_without_quantity() -> None:
    rows, withheld = grouped([*uses("free", "render", range(3)), *uses("free", "export", range(3, 6))])
    assert (rows, withheld) == ([SummaryRow("other", "other", DAY, 12, None)], False)
    rows, withheld = grouped([*uses("free", "render", range(3)), *uses("free", "render", range(3, 6), "2026-02-01")])
    assert (rows, withheld) == ([SummaryRow("other", "other", "other", 12, None)], False)


def test_event_summary_of_fewer_than_five_orgs_is_withheld() -> None:
    assert grouped(uses("free", "render", range(4))) == ([], True)
    assert grouped([]) == ([], False)


def test_event_summary_plan_named_other_is_merged_with_other() -> None:
    rows, _ = grouped([*uses("other", "render", range(5)), *uses("team", "render", range(5, 7))])
    assert rows == [SummaryRow("other", "render", DAY, 14, 70)]


def test_event_summary_random_rows_have_at_least_five_orgs() -> None:
    stream = random.Random(5)
    for _ in range(300):
        given = [
            OrgUse(f"o{stream.randrange(12)}", stream.choice(("a", "b", None)), stream.choice("xyz"),
                   f"2026-01-0{stream.randint(1, 3)}", 1, 1)
            for _ in range(stream.randrange(60))
        ]  # fmt: skip
        rows, withheld = grouped(given)
        told = Counter((row.kind, row.day) for row in rows)
        assert sum(row.events for row in rows) <= len(given) and (withheld or sum(r.events for r in rows) == len(given))
        for row in rows:
            behind = {
                use.org_id
                for use in given
                if row.plan in (use.plan_key or "none", "other")
                and row.kind in (use.kind, "other")
                and row.day in (use.day, "other")
            }
            assert len(behind) >= LEAST and row.events >= LEAST, (row, told)


def test_event_summary_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MAX_GROUPS", 3)
    assert grouped(uses("a", "x", range(9)) + uses("b", "x", range(9)) + uses("c", "x", range(9)))[1] is False
    with pytest.raises(UsageError, match="at most 3"):
        grouped([use for plan in "abcd" for use in uses(plan, "x", range(9))])
