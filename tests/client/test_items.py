"""What is recorded becomes one JSON text, the same for ever: ids, times, and the names that the server reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drawdown.events.body_items import MAX_ITEM_BYTES, MOST_ITEMS
from drawdown.events.envelope import MAX_QUANTITY
from drawdown.events.fields import moment_of
from drawdown.schema.ids import is_clean_id
from drawdown.schema.units import MAX_ID_CHARS
from drawdown_client import BadItem, Event, World, items, settings
from drawdown_client.items import moment_ms, of_event, of_sample, of_use


def test_client_item_bounds_equal_server_bounds() -> None:
    assert (items.MAX_ITEM_BYTES, items.MAX_QUANTITY, items.MAX_ID_CHARS) == (
        MAX_ITEM_BYTES,
        MAX_QUANTITY,
        MAX_ID_CHARS,
    )
    assert settings.BATCH_ITEMS == MOST_ITEMS


@example(2_190_201_663_943, 0)  # which floats do not show
@given(st.integers(946_684_800_000, 4_102_444_800_000), st.integers(0, 999))
def test_client_event_time_is_read_by_server_as_same_moment(ms: int, finer: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms, microseconds=finer)
    assert moment_ms(at) == ms
    assert moment_ms(at) == moment_of(at.isoformat(), "time")
    assert moment_ms(at.astimezone(timezone(timedelta(hours=-7)))) == moment_ms(at)


def test_client_event_content_has_only_given_fields() -> None:
    made = of_event(Event("page.render", 3, "acme"), "/web", 7, "id-1")
    said = {"source": "/web", "event_id": "id-1", "event_type": "page.render", "org_id": "acme", "quantity": 3}
    assert json.loads(made.body) == {**said, "occurred_at": 7} == made.content
    named = of_event(Event("page.render", 3, "acme", event_id="id-1"), "/web", 7, "id-2")
    assert named.content == {**said, "recorded_at": 7}, "recorded again, it has another time, and is the same"
    whole = Event("a", 1, "o", 5, "e", "s", "sub", "pro", "plan", {"k": "ü"})
    assert of_event(whole, "/web", 7, "id-1").content == {
        "source": "s", "event_id": "e", "event_type": "a", "org_id": "o", "quantity": 1, "occurred_at": 5,
        "subject": "sub", "project": "pro", "plan_key": "plan", "properties": {"k": "ü"},
    }  # fmt: skip


def test_client_given_item_id_is_not_replaced() -> None:
    with pytest.raises(BadItem, match="event_id"):
        of_event(Event("page.render", 3, "acme", event_id=""), "/web", 7, "id-1")
    with pytest.raises(BadItem, match="id"):
        of_sample({"id": ""}, 7, "id-1")
    assert of_sample({}, 7, "id-1").content == {"id": "id-1", "ts": 7}


def test_client_generated_id_is_valid_on_server() -> None:
    made = {World().new_id() for _ in range(1_000)}
    assert len(made) == 1_000 and all(is_clean_id(one) for one in made)


def test_client_quantity_defaults_to_1_and_accepts_whole_floats() -> None:
    assert of_event(Event("a"), "s", 5, "e").content["quantity"] == 1
    assert of_event(Event("a", 2.0), "s", 5, "e").content["quantity"] == 2
    for wrong in (2.5, float("nan"), float("inf"), True, -1.0, 1e300):
        with pytest.raises(BadItem):
            of_event(Event("a", wrong), "s", 5, "e")


def test_client_event_of_use_has_only_given_fields() -> None:
    assert of_use("a", 5) == {"event_type": "a", "recorded_at": 5}
    assert of_use(Event("a", 3, at=7, source="/web"), 5) == {
        "event_type": "a", "quantity": 3, "source": "/web", "occurred_at": 7,
    }  # fmt: skip
    with pytest.raises(BadItem):
        of_use(Event("a", 1, properties={"x": float("nan")}), 5)
