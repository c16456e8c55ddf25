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


def test_a_group_of_five_is_told() -> None:
    assert grouped(uses("free", "render", range(5))) == ([SummaryRow("free", "render", DAY, 10, 50)], False)
    assert grouped(uses(None, "render", range(5)))[0][0].plan == "none"


def test_what_is_of_fewer_is_told_with_the_other_plans() -> None:
    rows, withheld = grouped(
        [*uses("free", "render", range(6)), *uses("team", "render", range(6, 9)), *uses("pro", "render", range(8, 12))]
    )
    assert rows == [SummaryRow("free", "render", DAY, 12, 60), SummaryRow("other", "render", DAY, 14, 70)]
    assert not withheld


def test_one_organisation_on_two_plans_counts_once() -> None:
    rows, withheld = grouped([*uses("team", "render", range(4)), *uses("pro", "render", range(4))])
    assert (rows, withheld) == ([], True)


def test_rare_kinds_are_grouped_without_quantity_and_then_by_days() -> None:
    rows, withheld = grouped([*uses("free", "render", range(3)), *uses("free", "export", range(3, 6))])
    assert (rows, withheld) == ([SummaryRow("other", "other", DAY, 12, None)], False)
    rows, withheld = grouped([*uses("free", "render", range(3)), *uses("free", "render", range(3, 6), "2026-02-01")])
    assert (rows, withheld) == ([SummaryRow("other", "other", "other", 12, None)], False)


def test_what_is_of_too_few_even_so_is_left_out() -> None:
    assert grouped(uses("free", "render", range(4))) == ([], True)
    assert grouped([]) == ([], False)


def test_a_plan_that_is_called_other_is_told_with_the_rest() -> None:
    rows, _ = grouped([*uses("other", "render", range(5)), *uses("team", "render", range(5, 7))])
    assert rows == [SummaryRow("other", "render", DAY, 14, 70)]


def test_whatever_is_used_each_row_is_of_five_and_nothing_is_counted_twice() -> None:
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


def test_groups_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MAX_GROUPS", 3)
    assert grouped(uses("a", "x", range(9)) + uses("b", "x", range(9)) + uses("c", "x", range(9)))[1] is False
    with pytest.raises(UsageError, match="at most 3"):
        grouped([use for plan in "abcd" for use in uses(plan, "x", range(9))])
