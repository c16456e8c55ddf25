"""Reconcile where events show too much of one window and nothing of another: the balance says what it comes to.

A list of events that stands still shows neither of two pushes alike, and the balance was drawn on by one: the wrong one
may have been accepted by it, and the right one voided and sent anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Drawn, ReadFailed, RetryAt
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.reconcile.comparison import ONLY_THERE
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.reconciling import (
    FEATURE,
    KEY,
    SHOWN,
    TOTALS,
    charged,
    clean,
    compare,
    drawn,
    everything,
    settle,
    states,
    told,
)
from tests.world import T0, Fleet

LATER = pytest.mark.parametrize("later", [WINDOW_MS, DAY_MS], ids=["the same day", "another day"])


def mistaken(engine: sa.Engine, later: int, extra: int) -> Any:
    """Two minutes are accepted; no event shows the first, and events show `extra` too much beside the second."""
    provider = FakeProvider(capabilities(**TOTALS, drawn=True))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1, 60)
    fleet.sample("acme", T0 + later + 1, 60)
    fleet.tick(T0 + later + 3 * WINDOW_MS)
    fleet.clock.at_ms += SHOWN
    del provider.charged[KEY]
    provider.over["acme", FEATURE, T0 + later + 9] = extra
    return fleet, provider


def test_push_accepted_for_other_is_corrected_in_both_windows(engine: sa.Engine) -> None:
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, 120)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 60), ("over", 60, 120, 60)], 75)
    settle(fleet)
    assert fleet.one("SELECT SUM(sent_qty) FROM pushes WHERE state = 'accepted'") == 120
    assert charged(provider) == 120
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_push_drawn_for_other_is_voided_only_if_excess_can_be_refunded(engine: sa.Engine) -> None:
    """Else both would stand until the next run: the customer would pay twice."""
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, 120)
    right = provider.totals

    async def by_day_alone(customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int] | ReadFailed:
        return await right(customer_id, from_ms, to_ms) if to_ms - from_ms > WINDOW_MS else ReadFailed("503")

    provider.totals = by_day_alone
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert [one.corrected for one in found.differing] == [0, 0]
    assert everything(fleet) == before
    provider.totals = right
    assert [one.corrected for one in compare(fleet, correct=True).differing] == [60, 60]


@LATER
@pytest.mark.parametrize("extra", [45, 75])
def test_excess_of_events_that_balance_agrees_with_is_not_refunded(engine: sa.Engine, later: int, extra: int) -> None:
    """Something else was lost or drawn besides, and nothing tells what: the customer pays what was used."""
    fleet, provider = mistaken(engine, later, extra)
    drawn(provider, 120)
    before = everything(fleet)
    for _ in range(2):
        found = compare(fleet, correct=True)
        assert (told(found), found.exit_status) == ([], 0)
        assert everything(fleet) == before
    clean(fleet)


def test_excess_of_events_at_unclear_balance_is_not_refunded(engine: sa.Engine) -> None:
    """It was drawn on by some of them, and somebody topped it up or the service lost something."""
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, 120 - 17)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0), ("over", 60, 120, 0)], 1)
    assert ["compare" in str(one.note) for one in found.differing] == [True, True]
    assert everything(fleet) == before


def test_excess_in_window_does_not_hide_push_not_drawn(engine: sa.Engine) -> None:
    fleet, provider = mistaken(engine, DAY_MS, 45)
    drawn(provider, 60 + 45)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 60), ("over", 60, 105, 45)], 75)
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert fleet.one("SELECT SUM(sent_qty) FROM pushes WHERE sent_qty < 0") == -45
    drawn(provider, 120)
    assert compare(fleet, correct=True).exit_status == 0
    clean(fleet)


def test_excess_drawn_in_both_windows_is_refunded_once(engine: sa.Engine) -> None:
    fleet, provider = mistaken(engine, DAY_MS, 45)
    drawn(provider, 120 + 45)
    found = compare(fleet, correct=True)
    assert (told(found), found.covered) == ([("over", 60, 105, 45)], 1)
    clean(fleet)


@LATER
def test_excess_at_balance_used_by_other_system_is_not_refunded(engine: sa.Engine, later: int) -> None:
    """A balance that somebody else draws on, too, covers the first, and cannot tell that nothing stands for it."""
    fleet, provider = mistaken(engine, later, 45)
    drawn(provider, 120 + 45 + 1_000)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert [one.corrected for one in found.differing] == [0] * len(found.differing)
    assert any(ONLY_THERE in str(one.note) for one in found.differing)
    assert everything(fleet) == before


def test_double_draw_is_refunded_on_day_that_is_short(engine: sa.Engine) -> None:
    """Events show nothing of the first push, and too much beside the second: less in all than was accepted."""
    fleet, provider = mistaken(engine, WINDOW_MS, 45)
    drawn(provider, 120 + 45)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 120, 105, 15)], 75)
    settle(fleet)
    assert fleet.one("SELECT SUM(sent_qty) FROM pushes WHERE sent_qty < 0") == -45
    drawn(provider, 120)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status, found.covered) == ([], 0, 1)
    clean(fleet)


def test_balance_of_new_cycle_does_not_correct_earlier_windows(engine: sa.Engine) -> None:
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, 0, since_ms=fleet.clock.at_ms)
    before = everything(fleet)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 60, 0, 0), ("over", 60, 120, 0)], 1)
    assert everything(fleet) == before, "what events show too much of may stand for what they lack"


def with_the_first_day_open(fleet: Fleet, provider: FakeProvider) -> dict[str, Any]:
    """A push of that day waits to be sent again."""
    late = T0 + WINDOW_MS
    provider.answers[KEY.replace(str(T0), str(late))] = RetryAt(fleet.clock.at_ms + 30 * DAY_MS, "HTTP 429")
    fleet.sample("acme", late, 7)
    fleet.tick_windows(3)
    assert fleet.one("SELECT state FROM pushes WHERE sent_qty = 7") == "due"
    fleet.clock.at_ms += SHOWN
    return {}


def asked_of_the_second(*_: object) -> dict[str, Any]:
    """Whoever asks names the second day alone."""
    return {"from_ms": T0 + DAY_MS - T0 % DAY_MS}


NOT_COMPARED = pytest.mark.parametrize("how", [with_the_first_day_open, asked_of_the_second])


@NOT_COMPARED
def test_draw_for_push_of_uncompared_day_is_not_refunded(engine: sa.Engine, how: Any) -> None:
    """The push that no event shows may be of any day; a balance tells of all."""
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, 120)
    scope = how(fleet, provider)
    before = everything(fleet)
    found = compare(fleet, correct=True, **scope)
    assert [one.corrected for one in found.differing] == [0] * len(found.differing)
    assert everything(fleet) == before


@pytest.mark.parametrize(
    ("quantity", "corrected"), [(180, 60), (180 - 17, 0), (180 + 1_000, 0)], ids=["drawn", "not whole", "and by others"]
)
def test_excess_of_events_is_refunded_only_if_balance_shows_draw(
    engine: sa.Engine, quantity: int, corrected: int
) -> None:
    """Else something was lost or topped up besides, and only their console tells what."""
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, quantity)
    found = compare(fleet, correct=True, **asked_of_the_second())
    assert told(found) == [("over", 60, 120, corrected)]
    assert found.exit_status == (75 if corrected else 1)
    assert ("compare" in str(found.differing[0].note)) is not corrected


def test_excess_during_unsettled_push_waits_for_next_run(engine: sa.Engine) -> None:
    """And a person is not sent to their console for what the next run tells."""
    fleet, provider = mistaken(engine, DAY_MS, 60)
    drawn(provider, 180)
    with_the_first_day_open(fleet, provider)
    found = compare(fleet, correct=True)
    (line,) = (one for one in found.differing if one.verdict == "over")
    assert (line.corrected, line.note) == (
        0,
        "60: in windows that were still being settled. The next run compares them",
    )


def test_excess_at_balance_with_parts_of_other_cycles_is_reported(engine: sa.Engine) -> None:
    """It is made of parts of other cycles, and was never looked at before: no next run has more."""
    fleet, provider = mistaken(engine, DAY_MS, 60)
    provider.drawn_says = {"acme": {FEATURE: Drawn(180, None, whole=False)}}
    found = compare(fleet, correct=True, **asked_of_the_second())
    assert (told(found), found.exit_status) == ([("over", 60, 120, 0)], 1)
    assert "compare" in str(found.differing[0].note)


def test_push_below_floor_beside_refund_is_reported(engine: sa.Engine) -> None:
    fleet, provider = mistaken(engine, WINDOW_MS, 45)
    fleet.write("UPDATE orgs SET floor_ms = :floor WHERE org_id = 'acme'", {"floor": T0 + WINDOW_MS})
    drawn(provider, 60)
    found = compare(fleet, correct=True)
    assert (told(found), found.exit_status) == ([("short", 120, 105, 0)], 1)
    assert "below the floor" in str(found.differing[0].note)
