"""Webhooks to the operator's product: written with their fact, once; sent at least once, by a schedule; replayable."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature_due
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.messages import EVENTS, Message, tell
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.effects import HookAnswer
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks import deliver as delivering
from drawdown.worker.hooks.deliver import BATCH, CALL_MS, ENDPOINT_BUDGET_MS, WAITS, Deliveries, deliver
from drawdown.worker.topup import actions as said
from drawdown.worker.watch import Watcher, watch
from tests.integration.hooking import Shop
from tests.integration.topping import HOUR_MS, Purses
from tests.world import T0


@pytest.fixture
def shop(engine: sa.Engine) -> Shop:
    return Shop(engine)


# What is told, and when.


def test_halt_and_resume_write_webhook_once_each(shop: Shop) -> None:
    shop.endpoint()
    shop.fleet.assign("acme", provider="none")
    shop.halt()
    shop.halt()
    shop.clock.at_ms += 5
    shop.halt(undo=True)
    ((halted, first), (resumed, second)) = shop.told()
    assert (halted, resumed) == ("organisation.halted", "organisation.resumed")
    assert (first["org_id"], first["customer_id"], first["provider"]) == ("acme", "acme", "none")
    assert (first["reason"], first["halted_at_ms"]) == ("operator", T0)
    assert (second["reason"], second["halted_at_ms"]) == (None, T0), "the halt that it is the end of"
    shop.clock.at_ms += 5
    shop.halt()
    assert shop.events().count("organisation.halted") == 2, "another halt is another fact"


@pytest.mark.both_databases
def test_low_and_exhausted_balance_write_webhook_once_per_episode(shop: Shop) -> None:
    shop.endpoint()
    shop.write(lambda c: hooks.set_low(c, "", 5 * MICRO, shop.fleet.by))
    shop.fleet.assign("acme", from_ms=T0)
    shop.grant(10 * MICRO, "first")
    shop.fleet.sample("acme", T0 + 1, 60)
    shop.tick()
    assert shop.events() == []
    shop.grant(-6 * MICRO, "back")
    shop.tick()
    shop.tick()
    ((event, data),) = shop.told()
    assert event == "balance.low" and data["level_micro"] == 5 * MICRO and data["episode"] == 1
    assert data["balance_micro"] == 4 * MICRO - 6_000 and data["balance"] == 3.994
    shop.grant(-4 * MICRO, "all")
    shop.tick()
    assert sorted(shop.events()) == ["balance.exhausted", "balance.low", "organisation.halted"]
    shop.grant(20 * MICRO, "paid")
    shop.tick()
    assert shop.rows("SELECT level, episode, ended_ms IS NULL FROM balance_episodes ORDER BY level") == [
        ("exhausted", 1, False), ("low", 1, False)]  # fmt: skip
    shop.grant(-16 * MICRO, "again")
    shop.tick()
    assert shop.events().count("balance.low") == 2 and shop.events()[-1] == "balance.low"
    assert shop.told()[-1][1]["episode"] == 2


def test_low_balance_level_of_org_replaces_default(shop: Shop) -> None:
    shop.endpoint()
    shop.fleet.assign("acme", "quiet", "others", from_ms=T0)
    for org in ("acme", "quiet", "others"):
        shop.grant(50 * MICRO, org, org)
    by = shop.fleet.by
    shop.write(lambda c: hooks.set_low(c, "", 5 * MICRO, by))
    assert shop.write(lambda c: hooks.set_low(c, "acme", 60 * MICRO, by)) == (False, None)
    shop.write(lambda c: hooks.set_low(c, "quiet", 60 * MICRO, by))
    assert shop.write(lambda c: hooks.set_low(c, "quiet", None, by)) == (True, 60 * MICRO)
    shop.tick()
    assert [(event, data["org_id"]) for event, data in shop.told()] == [("balance.low", "acme")]
    with pytest.raises(UnknownId, match="did you mean acme"):
        shop.write(lambda c: hooks.set_low(c, "acmee", MICRO, by))
    with pytest.raises(UsageError, match="1,000,000,000"):
        shop.write(lambda c: hooks.set_low(c, "", 10**16, by))


def test_execution_lowering_balance_writes_low_balance_webhook(shop: Shop) -> None:
    """Nothing is metered, so nothing but the run itself can tell."""
    shop.endpoint()
    shop.write(lambda c: hooks.set_low(c, "", 5 * MICRO, shop.fleet.by))
    shop.fleet.assign("acme", from_ms=T0)
    shop.grant(10 * MICRO, "first")
    shop.tick()
    shop.write(lambda c: executions.accept(c, "e-1", Request("acme", 7 * MICRO), shop.fleet.by))
    shop.tick()
    assert shop.events() == [], "what is held is there"
    shop.write(lambda c: executions.settle(c, "e-1", Cost(7 * MICRO), shop.fleet.by))
    shop.tick()
    assert shop.events() == ["balance.low"]


def test_expired_reservation_writes_webhook_with_freed_credit(shop: Shop) -> None:
    shop.endpoint()
    shop.fleet.assign("acme", from_ms=T0)
    shop.grant(10 * MICRO, "first")
    shop.tick()
    for key in ("e-1", "e-2", "e-3"):
        run = Request("acme", 2 * MICRO, project="site", for_ms=MINUTE_MS)
        shop.write(lambda c, key=key, run=run: executions.accept(c, key, run, shop.fleet.by))  # type: ignore[misc]
    shop.write(lambda c: executions.settle(c, "e-3", Cost(MICRO), shop.fleet.by))
    shop.clock.at_ms += HOUR_MS
    shop.write(lambda c: executions.settle(c, "e-1", Cost(MICRO), shop.fleet.by))  # late: it had expired
    shop.write(lambda c: mature_due(c, shop.clock.at_ms))
    shop.write(lambda c: mature_due(c, shop.clock.at_ms))
    told = shop.told()
    assert [(event, data["reservation"]) for event, data in told] == [
        ("reservation.expired", "e-1"), ("reservation.expired", "e-2")]  # fmt: skip
    assert told[1][1]["freed_micro"] == 2 * MICRO and told[1][1]["project"] == "site"
    assert (told[1][1]["org_id"], told[1][1]["customer_id"]) == ("acme", "acme")


def test_topup_credited_or_failed_writes_webhook(engine: sa.Engine) -> None:
    shop, purses = Shop(engine), Purses(engine)
    shop.endpoint()
    shop.fleet.assign("acme", from_ms=T0)
    purses.set()
    purses.fill()
    ((event, data),) = shop.told()
    assert event == "topup.credited" and data["org_id"] == "acme" and data["payment_id"] == "pay_1"
    assert (data["topup"], data["credits"], data["money_minor"], data["currency"]) == ("topup:acme:1", 20, 2_000, "usd")
    purses.pay.cards["cus_acme"] = "stolen"
    purses.use(20 * MICRO)
    purses.fill()
    (*_, (event, data)) = shop.told()
    assert (event, data["state"], data["blocked"]) == ("topup.failed", "declined", True)
    assert "stolen_card" in data["reason"]
    purses.write(lambda c: said.resume(c, "acme", purses.by))
    purses.pay.script.append("request_lost")
    purses.fill()
    purses.write(lambda c: said.resolve(c, "topup:acme:3", None, "their dashboard", purses.by))
    purses.write(lambda c: said.resolve(c, "topup:acme:3", "pay_9", "it was paid after all", purses.by))
    assert shop.events()[-2:] == ["topup.credited", "topup.failed"], "one time, in the order of their names"


def test_webhook_is_written_only_for_subscribed_endpoints(shop: Shop) -> None:
    shop.fleet.assign("acme", provider="none")
    shop.halt()
    assert shop.told() == [], "nobody listened"
    shop.endpoint("resumes", "organisation.resumed")
    shop.endpoint("all")
    shop.clock.at_ms += 1
    shop.halt(undo=True)
    shop.clock.at_ms += 1
    shop.halt()
    assert shop.rows("SELECT m.event, d.endpoint FROM hook_messages m JOIN hook_deliveries d "
                     "ON d.message_id = m.message_id ORDER BY 1, 2") == [
        ("organisation.halted", "all"), ("organisation.resumed", "all"), ("organisation.resumed", "resumes")
    ]  # fmt: skip


def test_low_balance_webhook_is_written_for_endpoint_added_later(shop: Shop) -> None:
    by = shop.fleet.by
    shop.write(lambda c: hooks.set_low(c, "", 5 * MICRO, by))
    shop.endpoint("one", "balance.low")
    shop.fleet.assign("acme", from_ms=T0)
    shop.grant(MICRO, "first")
    shop.tick()
    shop.write(lambda c: hooks.end(c, "one", by))
    shop.endpoint("two")
    shop.grant(MICRO, "second")
    shop.tick()
    assert shop.rows("SELECT d.endpoint FROM hook_messages m JOIN hook_deliveries d ON d.message_id = m.message_id "
                     "WHERE m.event = 'balance.low' ORDER BY 1") == [("one",), ("two",)]  # fmt: skip


def test_webhook_with_repeated_key_is_written_once(shop: Shop) -> None:
    shop.endpoint()
    message = Message("topup.credited", "topup.credited:topup:acme:1", T0, {"topup": "topup:acme:1"}, "acme", "acme")
    assert shop.write(lambda c: tell(c, [message, message])) == 1
    assert shop.write(lambda c: tell(c, [replace(message, at_ms=T0 + 1)])) == 0
    ((name, body),) = shop.rows("SELECT message_id, body FROM hook_messages")
    assert name == message.message_id and name.startswith("msg_") and "." not in name
    assert body == (
        '{"type":"topup.credited","timestamp":"2026-01-01T00:00:00.000Z","data":'
        '{"org_id":"acme","customer_id":"acme","topup":"topup:acme:1"}}'
    )
    assert len(shop.deliveries()) == 1


def test_many_webhooks_of_same_time_are_all_written(shop: Shop) -> None:
    shop.endpoint()
    many = [Message("reservation.expired", f"reservation.expired:e-{n}", T0, {"n": n}) for n in range(2_500)]
    assert shop.write(lambda c: tell(c, many)) == 2_500
    assert shop.rows("SELECT COUNT(*) FROM hook_deliveries") == [(2_500,)]


def test_manual_change_of_webhook_rows_is_refused(shop: Shop) -> None:
    shop.endpoint()
    shop.write(lambda c: hooks.set_low(c, "", MICRO, shop.fleet.by))
    shop.tries()
    shop.deliver()
    for statement in (
        "UPDATE hook_messages SET body = '{}'",
        "DELETE FROM hook_messages",
        "DELETE FROM hook_deliveries",
        "UPDATE hook_deliveries SET state = 'due', ended_ms = NULL",
        "UPDATE hook_deliveries SET attempts = 0",
        "DELETE FROM hook_endpoints",
        "UPDATE hook_endpoints SET generation = 0",
        "DELETE FROM balance_levels",
    ):
        with pytest.raises(DBAPIError):
            shop.fleet.write(statement)


# How it is sent.


def test_accepted_webhook_is_sent_once(shop: Shop) -> None:
    shop.endpoint()
    (name,) = shop.tries()
    assert shop.deliver() == Deliveries(delivered=1)
    assert shop.deliver(DAY_MS) == Deliveries()
    (sent,) = shop.product.taken["app"]
    assert (sent.message_id, sent.url, list(sent.generations)) == (name, "https://app.example/in", [1])
    assert shop.rows("SELECT body FROM hook_messages") == [(sent.body,)]
    assert shop.deliveries("state, attempts, failures, last_status, last_error") == [("delivered", 1, 0, 204, None)]


def test_refused_message_is_resent_by_schedule_and_then_fails(shop: Shop) -> None:
    shop.endpoint()
    (name,) = shop.tries()
    shop.product.answer["app"] = "broken"
    assert shop.deliver() == Deliveries(failed=1)
    for wait_ms in WAITS[:-1]:
        assert shop.deliver(wait_ms - 1) == Deliveries()
        assert shop.deliver(1) == Deliveries(failed=1)
    assert shop.deliver(WAITS[-1]) == Deliveries(failed=1, given_up=1)
    assert shop.deliveries("state, attempts, failures, last_status, last_error") == [
        ("failed", 8, 8, 500, "the endpoint answered 500")]  # fmt: skip
    assert shop.deliver(30 * DAY_MS) == Deliveries(), "it waits for a person"
    shop.product.answer.clear()
    assert shop.write(lambda c: hooks.replay(c, name, shop.fleet.by)) == ["app"]
    assert shop.deliver() == Deliveries(delivered=1)
    assert shop.deliveries("state, attempts, replays") == [("delivered", 9, 1)]
    assert shop.product.ids() == [name], "under the id that it always had"


def test_replay_of_delivered_webhook_sends_same_bytes(shop: Shop) -> None:
    shop.endpoint()
    shop.endpoint("other")
    (name,) = shop.tries()
    shop.deliver()
    by = shop.fleet.by
    shop.write(lambda c: hooks.replay(c, name, by, endpoint="app"))
    shop.deliver()
    assert shop.product.ids() == [name, name]
    first, second = shop.product.taken["app"]
    assert first == second, "the same bytes"
    with pytest.raises(Refused, match="it is not for the endpoint other"):
        shop.write(lambda c: hooks.replay(c, name, by, endpoint="other"))
    with pytest.raises(UnknownId, match="did you mean"):
        shop.write(lambda c: hooks.replay(c, name[:-1] + "z", by))


def test_replay_of_failed_webhooks_sends_all_in_portions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "REPLAYED_AT_ONCE", 3)
    shop.endpoint()
    shop.tries(5)
    shop.product.answer["app"] = "broken"
    for wait_ms in (0, *WAITS):
        shop.deliver(wait_ms)
    assert {state for state, *_ in shop.deliveries()} == {"failed"}
    shop.product.answer.clear()
    by = shop.fleet.by
    assert shop.write(lambda c: hooks.replay_failed(c, "app", by)) == hooks.Replayed(3, 2)
    assert shop.write(lambda c: hooks.replay_failed(c, "app", by)) == hooks.Replayed(2, 0)
    assert shop.deliver().delivered == 5


def test_unreachable_endpoint_does_not_delay_second_endpoint(shop: Shop) -> None:
    shop.endpoint("gone")
    shop.endpoint("well")
    shop.tries(20, "gone")
    shop.tries(20, "well")
    shop.product.answer["gone"] = "unreached"
    assert shop.deliver() == Deliveries(delivered=20, failed=2)
    assert shop.product.sizes("gone") == [1, 1], "its circuit is open"
    assert shop.product.sizes("well") == [1, BATCH, BATCH, 20 - 1 - 2 * BATCH]


def test_slow_endpoint_does_not_delay_second_endpoint(shop: Shop) -> None:
    """While `slow` holds its first call, the other is told all there is: else it is never let go."""
    shop.endpoint("slow")
    shop.endpoint("well")
    shop.tries(3, "slow")
    shop.tries(12, "well")

    async def world() -> Deliveries:
        event = shop.product.held["slow"] = asyncio.Event()

        async def let_go() -> None:
            while len(shop.product.taken["well"]) < 12:
                await asyncio.sleep(0.01)
            event.set()

        waiting = asyncio.ensure_future(let_go())
        done = await runner._whole(deliver(shop.context()), shop.world())
        await waiting
        return done

    assert asyncio.run(world()) == Deliveries(delivered=15)


def test_endpoint_time_per_delivery_round_is_limited(shop: Shop) -> None:
    shop.endpoint()
    shop.tries(5)

    def later() -> None:
        shop.clock.at_ms += ENDPOINT_BUDGET_MS

    shop.product.during = later
    assert shop.deliver() == Deliveries(delivered=1)
    assert shop.deliver() == Deliveries(delivered=4)


def test_webhook_call_that_cannot_end_in_time_is_not_started(shop: Shop) -> None:
    shop.endpoint()
    shop.tries(2)
    assert shop.deliver(deadline_ms=shop.clock.at_ms + CALL_MS - 1) == Deliveries(), "less than a call's time is left"
    assert shop.deliver(stopping=lambda: True) == Deliveries()

    def later() -> None:
        shop.clock.at_ms += SECOND_MS

    shop.product.during = later
    assert shop.deliver(deadline_ms=shop.clock.at_ms + CALL_MS + 500) == Deliveries(delivered=1)
    assert shop.product.batches == [("app", 1)]


def test_host_without_endpoint_origin_leaves_webhook_due(shop: Shop) -> None:
    shop.endpoint()
    shop.tries()
    for origins in ((), {"https://other.example:443"}):
        assert shop.deliver(hooks=origins) == Deliveries()
    assert shop.deliveries() == [("due", 0, 0)]


def test_tick_and_watch_deliver_own_webhooks(shop: Shop) -> None:
    shop.endpoint()
    shop.fleet.assign("acme", from_ms=T0)
    shop.fleet.sample("acme", T0 + 1)
    report = shop.tick()
    assert report.messages_delivered == 2 and report.exit_status == 0
    assert len(shop.product.ids()) == 2
    shop.grant(MICRO, "paid")
    watched = runner.run(watch(shop.context("watch"), Watcher()), shop.world())
    assert (watched.resumed, watched.messages_delivered, watched.messages_failed) == (1, 1, 0)
    assert sorted(shop.events()) == ["balance.exhausted", "organisation.halted", "organisation.resumed"]


def test_webhook_claim_of_dead_worker_is_retried_after_lease(shop: Shop) -> None:
    shop.endpoint()
    (name,) = shop.tries()
    _, effect = shop.asked_to_send("w1")
    assert shop.deliveries() == [("due", 1, 0)], "the attempt is on record before the call"
    shop.product.told(effect.messages)  # it arrived, and the process died
    assert shop.deliver(LEASE_MS - 1) == Deliveries(), "its lease still runs"
    assert shop.deliver(1) == Deliveries(delivered=1)
    assert shop.product.ids() == [name, name], "at least once"
    assert shop.deliveries() == [("delivered", 2, 0)]


def test_worker_with_expired_webhook_claim_does_not_send(shop: Shop) -> None:
    shop.endpoint()
    shop.tries()
    steps, effect = shop.asked_to_send("w1")
    assert not effect.over()
    shop.clock.at_ms += LEASE_MS
    assert effect.over()
    shop.go_on(steps, [HookAnswer(error="not sent", is_sent=False)])
    assert shop.deliveries() == [("due", 1, 0)], "what was not begun is no failure"
    assert shop.deliver() == Deliveries(delivered=1)


def test_late_webhook_success_counts_and_late_failure_is_ignored(shop: Shop) -> None:
    shop.endpoint()
    shop.tries()
    steps, _ = shop.asked_to_send("w1")
    shop.product.answer["app"] = "broken"
    shop.deliver(LEASE_MS)
    shop.go_on(steps, [HookAnswer(200)])
    assert shop.deliveries() == [("delivered", 2, 1)], "whoever has the claim by now: the endpoint has it"
    shop.product.answer.clear()
    shop.tries()
    steps, _ = shop.asked_to_send("w2")
    shop.deliver(LEASE_MS)
    shop.go_on(steps, [HookAnswer(500, "the endpoint answered 500")])
    assert {state for state, *_ in shop.deliveries()} == {"delivered"}


def test_webhook_sender_exception_counts_as_failure(shop: Shop) -> None:
    shop.endpoint()
    shop.tries()
    shop.product.script.append("raised")
    assert shop.deliver() == Deliveries(failed=1)
    ((error,),) = shop.rows("SELECT last_error FROM hook_deliveries")
    assert error == "OSError: the network went away"
    assert shop.deliver(WAITS[0]) == Deliveries(delivered=1)


def test_two_workers_share_due_webhooks(shop: Shop) -> None:
    shop.endpoint()
    shop.tries(2)
    first, one = shop.asked_to_send("w1")
    second, other = shop.asked_to_send("w2")
    assert one.messages[0].message_id != other.messages[0].message_id
    for steps, effect in ((first, one), (second, other)):
        shop.go_on(steps, shop.product.told(effect.messages))
    assert [state for state, *_ in shop.deliveries()] == ["delivered", "delivered"]


# What people change.


def test_rotated_webhook_secret_signs_with_both_during_overlap(shop: Shop) -> None:
    shop.endpoint()
    by = shop.fleet.by
    done = shop.write(lambda c: hooks.rotate(c, "app", by, overlap_ms=HOUR_MS))
    assert (done.generation, done.old_until_ms) == (2, shop.clock.at_ms + HOUR_MS)
    shop.tries()
    shop.deliver()
    shop.tries()
    shop.deliver(HOUR_MS)
    assert [list(one.generations) for one in shop.product.taken["app"]] == [[2, 1], [2]]
    with pytest.raises(UsageError, match="0 to 30 days"):
        shop.write(lambda c: hooks.rotate(c, "app", by, overlap_ms=31 * DAY_MS))


def test_ended_endpoint_does_not_receive_webhooks(shop: Shop) -> None:
    shop.endpoint()
    (name,) = shop.tries()
    by = shop.fleet.by
    assert shop.write(lambda c: hooks.end(c, "app", by)) == 1
    assert shop.write(lambda c: hooks.end(c, "app", by)) is None
    assert shop.deliveries("state, last_error") == [("failed", "the endpoint was ended")]
    assert shop.deliver() == Deliveries()
    for work in (
        lambda c: hooks.replay(c, name, by),
        lambda c: hooks.replay_failed(c, "app", by),
        lambda c: hooks.rotate(c, "app", by),
        lambda c: hooks.try_endpoint(c, "app", by),
        lambda c: hooks.set_endpoint(c, "app", "https://app.example", (), by, new=True),
    ):
        with pytest.raises(Refused):
            shop.write(work)
    # A transaction that saw it go on may write a message for it after all: it is never sent.
    shop.fleet.write("INSERT INTO hook_deliveries (message_id, endpoint, due_at_ms) VALUES ('msg_x', 'app', 0)")
    assert shop.deliver() == Deliveries()


def test_endpoint_with_changed_url_keeps_events(shop: Shop) -> None:
    shop.endpoint("app", "balance.low")
    by = shop.fleet.by
    url = "https://new.example/in"
    made, before = shop.write(lambda c: hooks.set_endpoint(c, "app", url, (), by, new=False))
    assert before is not None and before.url == "https://app.example/in" and made.events == ("balance.low",)
    shop.tries()
    shop.deliver()
    assert shop.product.taken["app"][0].url == "https://new.example/in", "also what was due before"
    shop.endpoint("all")
    assert shop.rows("SELECT events FROM hook_endpoints WHERE name = 'all'") == [(" ".join(EVENTS),)]


@pytest.mark.parametrize(
    ("name", "url", "events", "error"),
    [
        ("", "https://a.example", (), "name '': expected 1 to 200"),
        ("app", "https://a.example/?x=1", (), "a plain http"),
        ("app", "ftp://a.example", (), "a plain http"),
        ("app", "https://user:pw@a.example", (), "a plain http"),
        ("app", "https://a.example", ("balance.lwo",), "did you mean balance.low"),
    ],
)
def test_endpoint_with_invalid_field_is_rejected(
    shop: Shop, name: str, url: str, events: tuple[str, ...], error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        shop.write(lambda c: hooks.set_endpoint(c, name, url, events, shop.fleet.by, new=True))


def test_endpoint_beyond_maximum_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MAX_ENDPOINTS", 2)
    shop.endpoint("one")
    shop.endpoint("two")
    with pytest.raises(Refused, match="limit of 2 active endpoints is reached"):
        shop.endpoint("three")
    shop.write(lambda c: hooks.end(c, "one", shop.fleet.by))
    shop.endpoint("three")


def test_webhook_batch_size_equals_parallel_calls() -> None:
    from drawdown.worker.hooks import client

    assert delivering.BATCH == client.AT_ONCE
