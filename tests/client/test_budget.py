"""A budget: held on entry, settled at the end, given up by any error; for threads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import respx

from drawdown_client import Blocked, Client, Refused, Unreachable, Wish
from tests.client.book import KEY, URL, hasty
from tests.client.counter import Counter


@pytest.fixture
def counter() -> Iterator[Counter]:
    made = Counter()
    with respx.mock(base_url=URL, using="httpx") as router:
        router.post(path__startswith="/v1/guard/").side_effect = made.answer
        yield made


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(URL, KEY, world=hasty()) as made:
        yield made


def test_budget_is_settled_with_actual_quantity(counter: Counter, client: Client) -> None:
    with client.guard.budget("b-1", "idea.create", 6, org_id="acme", project="site", hold_s=90) as budget:
        assert counter.uses["b-1"] == {"state": "held", "quantity": 6}
        assert budget.answer is not None and budget.answer.remaining == 94
        budget.actual = 4
    assert counter.uses["b-1"] == {"state": "settled", "quantity": 4}
    use = {"key": "b-1", "metric": "idea.create", "quantity": 6, "org_id": "acme", "project": "site"}
    assert counter.said("reserve") == [{**use, "for_ms": 90_000}]


def test_budget_without_actual_is_settled_as_estimated(counter: Counter, client: Client) -> None:
    with client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
        pass
    with client.guard.budget("b-2", "idea.create", 6, org_id="acme") as budget:
        budget.actual = 0
    assert [counter.uses[key]["quantity"] for key in ("b-1", "b-2")] == [6, 0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("incurred", [None, 2])
def test_budget_of_failed_block_is_released_with_incurred_quantity(
    counter: Counter, client: Client, error: type[BaseException], incurred: int | None
) -> None:
    with pytest.raises(error), client.guard.budget("b-1", "idea.create", 6, org_id="acme") as budget:
        budget.actual = incurred
        raise error
    assert counter.uses["b-1"] == {"state": "released", "quantity": incurred or 0}


def test_budget_that_is_blocked_does_not_run_block(counter: Counter, client: Client) -> None:
    with pytest.raises(Blocked) as found, client.guard.budget("b-1", "idea.create", 101, org_id="acme"):
        pytest.fail("it ran")
    assert found.value.answer.options == ("request_override", "run_locally")
    assert str(found.value) == "blocked by limit:*:day: limit; options: request_override, run_locally"
    assert counter.calls == [("reserve", counter.said("reserve")[0])], "and nothing is ended"


def test_budget_with_expired_reservation_is_settled_late(counter: Counter, client: Client) -> None:
    for key, fails in (("b-1", False), ("b-2", True)):
        try:
            with client.guard.budget(key, "idea.create", 6, org_id="acme") as budget:
                budget.actual = 5
                counter.uses[key]["state"] = "expired"
                if fails:
                    raise LookupError
        except LookupError:
            assert fails
        assert counter.uses[key] == {"state": "settled", "quantity": 5}


def test_budget_release_failure_does_not_hide_error_of_block(
    counter: Counter, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LookupError), client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
        counter.uses["b-1"]["state"] = "settled"
        raise LookupError
    assert "b-1: cannot send usage of 0" in caplog.text


def test_budget_settle_failure_is_raised(counter: Counter, client: Client) -> None:
    with pytest.raises(Refused, match="unknown_use"), client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
        counter.uses.clear()


def test_budget_with_key_of_ended_use_is_refused(counter: Counter, client: Client) -> None:
    with client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
        pass
    again = client.guard.budget("b-1", "idea.create", 6, org_id="acme")
    with pytest.raises(Refused, match="409 ended: key b-1 is already settled"), again:
        pytest.fail("it ran")


def test_budget_with_reserved_key_continues_after_crash(counter: Counter, client: Client) -> None:
    client.guard.reserve("b-1", Wish("acme", "idea.create", 6))
    with client.guard.budget("b-1", "idea.create", 6, org_id="acme") as budget:
        budget.actual = 5
    assert counter.uses["b-1"] == {"state": "settled", "quantity": 5}


def test_budget_with_extend_is_extended_until_block_ends(
    counter: Counter, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with client.guard.budget("b-1", "idea.create", 6, org_id="acme", hold_s=0.15, extend=True):
        while len(counter.said("extend")) < 3:
            time.sleep(0.01)
    count = len(counter.said("extend"))
    time.sleep(0.15)
    assert len(counter.said("extend")) == count and counter.said("extend")[0] == {"key": "b-1", "for_ms": 150}
    assert not caplog.records


def test_budget_with_extend_is_not_extended_beyond_longest_time(counter: Counter, client: Client) -> None:
    with client.guard.budget("b-1", "idea.create", 6, org_id="acme", hold_s=0.09, extend=True, longest_s=0.13):
        time.sleep(0.5)
    assert len(counter.said("extend")) == 4


def test_budget_ended_elsewhere_is_not_extended_further(
    counter: Counter, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused), client.guard.budget("b-1", "idea.create", 6, org_id="a", hold_s=0.06, extend=True):
        counter.uses["b-1"].update(state="released", quantity=0)
        while not caplog.records:
            time.sleep(0.01)
        time.sleep(0.1)
    assert len(counter.said("extend")) == 1 and "cannot extend the reservation of b-1: 409 ended" in caplog.text


def test_budget_interrupted_on_entry_is_released(client: Client) -> None:
    made, is_first = Counter(), [True]

    def answer(request: httpx.Request) -> httpx.Response:
        found = made.answer(request)
        if is_first:
            is_first.pop()
            raise KeyboardInterrupt
        return found

    with respx.mock(base_url=URL, using="httpx") as router:
        router.post(path__startswith="/v1/guard/").side_effect = answer
        with pytest.raises(KeyboardInterrupt), client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
            pytest.fail("it ran")
    assert made.uses["b-1"] == {"state": "released", "quantity": 0}


@pytest.mark.parametrize("fault", [httpx.ReadError("cut"), httpx.ReadTimeout("late"), httpx.Response(503)])
def test_guard_client_lost_answer_is_retried_and_counts_once(client: Client, fault: Any) -> None:
    """Each act is done, its answer is lost, and it is said again."""
    made, lost = Counter(), set[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        found = made.answer(request)
        if request.url.path not in lost:
            lost.add(request.url.path)
            if isinstance(fault, Exception):
                raise fault
            assert isinstance(fault, httpx.Response)
            return fault
        return found

    with respx.mock(base_url=URL, using="httpx") as router:
        router.post(path__startswith="/v1/guard/").side_effect = answer
        assert client.guard.consume("c-1", Wish("acme", "idea.create", 3)).repeated
        with client.guard.budget("b-1", "idea.create", 6, org_id="acme") as budget:
            budget.actual = 4
    assert made.used == 7 and [act for act, _ in made.calls] == ["consume"] * 2 + ["reserve"] * 2 + ["settle"] * 2


def test_budget_with_unreachable_guard_raises_after_all_tries(client: Client) -> None:
    with respx.mock(base_url=URL, using="httpx") as router:
        route = router.post("/v1/guard/reserve").mock(side_effect=httpx.ConnectError("refused"))
        with pytest.raises(Unreachable, match="ConnectError"), client.guard.budget("b-1", "idea.create", 6, org_id="a"):
            pytest.fail("it ran")
        assert route.call_count == 4


def test_guard_client_unknown_decision_is_not_permission(client: Client) -> None:
    with respx.mock(base_url=URL, using="httpx") as router:
        router.post("/v1/guard/check").mock(httpx.Response(200, json={"decision": "perhaps"}))
        with pytest.raises(Unreachable, match="unknown decision"):
            client.guard.check(Wish("acme", "idea.create", 1))


def test_guard_client_check_and_consume_return_decision(counter: Counter, client: Client) -> None:
    assert client.guard.check(Wish("acme", "idea.create", 100)).is_allowed and not counter.uses
    assert not client.guard.check(Wish("acme", "idea.create", 101)).is_allowed
    found = client.guard.consume("c-1", Wish("acme", "idea.create", 60, payer="platform"))
    assert (found.decision, found.limit, found.remaining, found.repeated) == ("allow", 100, 40, False)
    assert client.guard.consume("c-1", Wish("acme", "idea.create", 60, payer="platform")).repeated
    assert not client.guard.consume("c-2", Wish("acme", "idea.create", 41)).is_allowed
    assert counter.said("consume")[0]["payer"] == "platform" and "project" not in counter.said("consume")[0]
    assert client.guard.reserve("r-1", Wish("acme", "idea.create", 40)).is_allowed
    assert client.guard.extend("r-1", to=40).is_allowed and counter.said("extend") == [{"key": "r-1", "to": 40}]
    client.guard.release("r-1", 1)
    assert counter.used == 61
