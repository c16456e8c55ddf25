"""No item that the server did not keep is answered as if it were: by status, by result, by line."""

from __future__ import annotations

import pytest

from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, SAMPLES, Sender, event, sample
from tests.server.test_events import shop

__all__ = ["shop"]


@pytest.mark.parametrize(("path", "good", "bad"), [
    (EVENTS, event("good"), event("bad", quantity=-1)),
    (SAMPLES, sample("good"), sample("bad", interval_s=-1)),
])  # fmt: skip
def test_intake_status_is_200_207_or_422_by_accepted_items(shop: House, path: str, good: object, bad: object) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        for items, status, ids in ((good, 200, ["good"]), (bad, 422, ["bad"]), ([good, bad], 207, ["good", "bad"])):
            answer = await send.send(path, items)
            assert answer.status_code == status, answer.text
            assert [one["id"] for one in answer.json()["results"]] == ids
        answer = await send.send(path, [bad, bad])
        assert answer.status_code == 422
        assert (
            answer.json()["error"]["message"] == "Drawdown did not keep any of the 2 items. `results` has the reasons"
        )
        assert [one["status"] for one in answer.json()["results"]] == ["invalid", "invalid"]
        assert (await send.send(path, [])).json() == {"results": []}

    served(shop, work)


def test_intake_empty_line_has_own_result(shop: House) -> None:
    async def work(caller: Caller) -> None:
        lines = b'\n{"a": 1}\n \r\nnothing\n'
        answer = await Sender(caller).send(EVENTS, lines, "application/x-ndjson")
        assert answer.status_code == 422
        codes = [one["code"] for one in answer.json()["results"]]
        assert codes == ["empty_line", "unknown_field", "empty_line", "not_json"]

    served(shop, work)


def test_event_recorded_twice_is_duplicate_and_first_time_applies(shop: House) -> None:
    """As the Python client says an event with an id and without a time."""
    own = {"source": "/web", "event_id": "r1", "event_type": "page.render", "org_id": "acme", "quantity": 3}

    async def work(caller: Caller) -> None:
        send, now = Sender(caller), shop.clock.at_ms
        assert await send.told(EVENTS, {**own, "recorded_at": now - 5_000}) == [("accepted",)]
        assert await send.told(EVENTS, {**own, "recorded_at": now - 1_000}) == [("duplicate",)]
        assert await send.told(EVENTS, own) == [("duplicate",)]
        assert await send.told(EVENTS, {**own, "occurred_at": now - 1_000}) == [("conflict", "other_content")]
        assert await send.told(EVENTS, {**own, "event_id": "r2", "recorded_at": now + 10**9}) == [
            ("invalid", "in_the_future")
        ]
        assert shop.fleet.rows("SELECT event_id, ts FROM usage_events") == [("r1", now - 5_000)]

    served(shop, work)
