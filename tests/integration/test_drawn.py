"""What is drawn: on wallets where there is no hard stop, and on balances that tell what no event shows."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from drawdown.ledger import entries
from drawdown.providers.protocol import (
    CannotTell,
    Drawn,
    Duplicate,
    FoundPush,
    PushRefused,
    Queued,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.effects import Push, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.push import actions as pushes
from drawdown.worker.push import confirm
from drawdown.worker.push.push import push
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider
from tests.integration.providing import ASKED, KEY, LAG, clean, fleet_of, settle, states
from tests.world import T0, Fleet


def is_asked_again(fleet: Fleet) -> bool:
    return fleet.one("SELECT projection_due_ms FROM orgs WHERE org_id = 'acme'") is not None


def test_wallet_of_provider_without_hard_stop_is_charged_and_refunded(engine: sa.Engine) -> None:
    fleet, _provider = fleet_of(engine, balance_in_ledger=True)

    def balance() -> object:
        return fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")

    write(engine, lambda c: credit.grant(c, "acme", 10_000, fleet.by, key="g", plan=None))
    fleet.tick_windows(2)
    assert balance() == 4_000
    write(engine, lambda c: apply_notices(c, "fake", [PushRefused(KEY, "no_meter")], fleet.clock.at_ms))
    assert balance() == 10_000, "what was refused is given back"
    assert is_asked_again(fleet)
    write(engine, lambda c: pushes.retry(c, [KEY], fleet.by))
    fleet.tick_windows(1)
    assert balance() == 4_000
    clean(fleet)


@pytest.mark.both_databases
def test_wallet_is_charged_once_for_push_accepted_by_lookup_or_person(engine: sa.Engine) -> None:
    """By a lookup, by a person, at another quantity: each time what stands accepted, and verify holds it to that."""
    fleet, provider = fleet_of(engine, **{**ASKED, "balance_in_ledger": True})
    write(engine, lambda c: credit.grant(c, "acme", 100_000, fleet.by, key="g", plan=None))
    for number in (1, 2):
        fleet.sample("acme", T0 + number * WINDOW_MS)
    keys = [f"usage:acme:{T0 + number * WINDOW_MS}:compute_1gb" for number in range(3)]
    provider.answers = {key: Unknown("cut") for key in keys}
    provider.lookups = {keys[0]: FoundPush(60), keys[1]: CannotTell("who knows"), keys[2]: FoundPush(50)}
    fleet.tick_windows(4)
    fleet.tick(fleet.clock.at_ms + LAG)
    assert not is_asked_again(fleet)
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [keys[1]], fleet.by, "seen"))
    assert is_asked_again(fleet), "or a customer who has spent all goes on"
    fleet.tick(fleet.clock.at_ms + LAG)
    assert fleet.one("SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'") == 180
    clean(fleet)
    fleet.write(
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, "
        "actor, reason) SELECT key || 'x', kind, from_account, to_account, 0, feature, 1, ts, at_ms, actor, reason "
        "FROM ledger_entries WHERE kind = 'usage' AND quantity = 50"
    )
    found = read(engine, verify)
    assert set(found.by_invariant) == {2, 5}, "one unit for nothing, which is no rate; and of no push"
    assert {one.invariant for one in found.breaches if "that push does not exist" in one.text} == {5}


def test_push_of_customer_without_wallet_is_not_charged_to_ledger(engine: sa.Engine) -> None:
    fleet, _ = fleet_of(engine, balance_in_ledger=True)
    fleet.tick_windows(2)
    assert fleet.one("SELECT COUNT(*) FROM ledger_entries") == 0


def test_wallet_at_debt_limit_does_not_block_second_wallet(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the provider has charged is accepted; of the wallet that would owe beyond all bounds it is not drawn."""
    monkeypatch.setattr(entries, "MOST_BALANCE_MICRO", 5_000)
    fleet, _ = fleet_of(engine, balance_in_ledger=True)
    fleet.assign("other", provider="fake")
    fleet.sample("other", T0 + 1, 1)
    for org in ("acme", "other"):
        write(engine, lambda c, org=org: credit.grant(c, org, 500, fleet.by, key=org, plan=None))  # type: ignore[misc]
    report = fleet.tick_windows(2)
    assert (report.failures, report.accepted) == ([], 2)
    assert fleet.rows("SELECT account_id, balance_micro FROM ledger_accounts ORDER BY 1") == [
        ("wallet:acme", 500),
        ("wallet:other", 400),
    ]
    clean(fleet)
    fleet.write("UPDATE pushes SET settled_ms = settled_ms + :later", {"later": 2 * DAY_MS})
    assert [(one.org_id, one.text.partition(", but ")[2]) for one in read(engine, verify).breaches] == [
        ("acme", "the wallet of acme was not charged for it")
    ], "it is found, once clocks are no reason"


DRAWN = {**ASKED, "drawn": True}


def claimed_and_unanswered(engine: sa.Engine, drawn: int, whole: bool = True) -> tuple[Fleet, FakeProvider]:
    """A push whose sender was killed, or the service: its key is claimed over there, and no event shows it."""
    fleet, provider = fleet_of(engine, **DRAWN)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers[KEY] = Duplicate()
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(drawn, None, whole)}}
    settle(fleet)
    return fleet, provider


def test_push_without_event_shown_by_balance_is_accepted(engine: sa.Engine) -> None:
    fleet, provider = claimed_and_unanswered(engine, 60)
    assert states(fleet) == [(0, 60, 60, "accepted")], "not a day later: the balance shows it"
    assert "balance fell by its amount" in str(fleet.one("SELECT last_error FROM pushes"))
    assert len(provider.seen) == 2
    clean(fleet)


def test_push_without_event_or_balance_change_is_voided(engine: sa.Engine) -> None:
    fleet, provider = claimed_and_unanswered(engine, 0)
    assert states(fleet) == [(0, 60, 60, "queued")]
    provider.answers = {}
    settle(fleet, 10)
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert "The customer's balance agrees" in str(fleet.one("SELECT evidence FROM voids"))
    clean(fleet)


@pytest.mark.parametrize("said", [Drawn(31, None), Drawn(-5, None), Drawn(0, None, whole=False)])
def test_push_with_inconclusive_balance_is_in_doubt(engine: sa.Engine, said: Drawn) -> None:
    fleet, provider = claimed_and_unanswered(engine, int(said.quantity), whole=said.whole)
    fleet.tick(fleet.clock.at_ms + 2 * DAY_MS)
    assert states(fleet) == [(0, 60, 60, "in_doubt")]
    assert "does not prove a charge" in str(fleet.one("SELECT last_error FROM pushes"))
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert states(fleet) == [(0, 60, 60, "accepted")], "a person may wait until it does"
    clean(fleet)


def test_balance_change_below_unexplained_pushes_leaves_them_in_doubt(engine: sa.Engine) -> None:
    """59 s were accepted and lost over there; 60 were drawn without an event, and 7 are on their way still. What the
    balance shows too much, 1, is less than each of them: that proves nothing of the 60."""
    fleet, provider = claimed_and_unanswered(engine, 0)
    last = f"usage:acme:{T0 + 2 * WINDOW_MS}:compute_1gb"
    provider.answers[last] = Queued(fleet.clock.at_ms + 2 * DAY_MS)
    fleet.sample("acme", T0 + WINDOW_MS, 59)
    fleet.sample("acme", T0 + 2 * WINDOW_MS, 7)
    fleet.tick_windows(3)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    fleet.tick(fleet.clock.at_ms + DAY_MS - LAG)  # the 7 are due a day after their send, and no later
    assert [(row[1], row[3]) for row in states(fleet)] == [(60, "queued"), (59, "accepted"), (7, "queued")]
    assert "waits for other pushes" in str(fleet.one("SELECT last_error FROM pushes WHERE sent_qty = 60"))
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert [row[3] for row in states(fleet)] == ["in_doubt", "accepted", "in_doubt"], "once all have been looked up"
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0
    clean(fleet)


@pytest.mark.parametrize(("shown", "state"), [(60, "in_doubt"), (30, "voided"), (70, "voided")])
def test_balance_with_uncertain_amount_voids_only_outside_bounds(engine: sa.Engine, shown: int, state: str) -> None:
    """60 s have no event, 30 were accepted, and 40 billed by hand may be in the balance.

    If the balance shows 60, the 30 were lost and the 60 drawn: the bounds of the difference, -10 and 30, include 0, but
    no choice leaves it.
    """
    by_hand = f"usage:acme:{T0 + 2 * WINDOW_MS}:compute_1gb"
    fleet, provider = claimed_and_unanswered(engine, 0)
    provider.answers[by_hand] = Rejected("no")
    fleet.sample("acme", T0 + WINDOW_MS, 30)
    fleet.sample("acme", T0 + 2 * WINDOW_MS, 40)
    fleet.tick_windows(3)
    write(engine, lambda c: pushes.resolve_accepted(c, [by_hand], fleet.by, "invoice item ii_1"))
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(shown, None)}}
    for _ in range(2):
        fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert next(row[3] for row in states(fleet) if row[1] == 60) == state
    clean(fleet)


def test_push_never_sent_is_voided_despite_balance_change(engine: sa.Engine) -> None:
    """A process slept before it sent, for longer than its lease; the next one's connection was refused. The key grew
    too old meanwhile. The balance shows as much for another reason: a correction that was lost."""
    fleet, provider = fleet_of(engine, **DRAWN)
    provider.answers[KEY] = RetryAt(0, "not sent: connection refused")
    fleet.tick_windows(2)
    fleet.clock.at_ms += MINUTE_MS
    slow = push(fleet.context("slow"), "fake")
    effect = next(slow)
    while not isinstance(effect, Push):
        effect = slow.send(write(engine, effect.work) if isinstance(effect, Transaction) else None)
    fleet.tick(fleet.clock.at_ms + LEASE_MS)
    fleet.clock.at_ms += DAY_MS
    settling = slow.send({0: RetryAt(0, "not sent: no time was left")})
    assert isinstance(settling, Transaction)
    write(engine, settling.work)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    settle(fleet)
    assert states(fleet) == [(0, 60, 60, "voided"), (1, 60, 60, "accepted")]
    assert "each attempt is proven not to have arrived" in str(fleet.one("SELECT evidence FROM voids"))
    clean(fleet)


def test_pushes_without_event_are_matched_by_balance_amount(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine, **DRAWN)
    fleet.sample("acme", T0 + WINDOW_MS, 45)
    keys = [KEY, f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"]
    provider.answers = {key: Unknown("cut") for key in keys}
    fleet.tick_windows(3)
    provider.answers = {key: Duplicate() for key in keys}
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(45, None)}}
    settle(fleet)
    assert [row[3] for row in states(fleet)] == ["queued", "accepted"]
    provider.answers = {}
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    fleet.tick_windows(1)
    assert [(row[0], row[1], row[3]) for row in states(fleet)] == [
        (0, 60, "voided"),
        (1, 60, "accepted"),
        (0, 45, "accepted"),
    ]
    clean(fleet)


def test_equal_pushes_without_event_stay_queued_if_balance_fits_either(engine: sa.Engine) -> None:
    """The first one's key is claimed, and it was never drawn; the second was, and the list of events stands still."""
    fleet, provider = fleet_of(engine, **DRAWN)
    fleet.sample("acme", T0 + WINDOW_MS, 60)
    last = f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"
    provider.answers = {KEY: Queued(T0 + 3 * WINDOW_MS + 3 * MINUTE_MS), last: Unknown("cut")}
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(0, None)}}
    fleet.tick_windows(3)
    provider.answers = {last: Duplicate()}
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    settle(fleet)
    assert [row[3] for row in states(fleet)] == ["queued", "queued"], "either may be the one"
    provider.lookups = {last: FoundPush(60)}
    settle(fleet)
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(120, None)}}
    fleet.tick_windows(1)
    assert [(row[0], row[1], row[3]) for row in states(fleet)] == [
        (0, 60, "voided"),
        (1, 60, "accepted"),
        (0, 60, "accepted"),
    ]
    clean(fleet)


def test_equal_pushes_claimed_by_different_workers_stay_queued(engine: sa.Engine) -> None:
    """It would be accepted alone, and the other one's event, or another answer for it, may come yet."""
    fleet, provider = fleet_of(engine, **DRAWN)
    fleet.sample("acme", T0 + WINDOW_MS, 60)
    last = f"usage:acme:{T0 + WINDOW_MS}:compute_1gb"
    provider.answers = {KEY: Unknown("cut"), last: Unknown("cut")}
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(0, None)}}
    fleet.tick_windows(3)
    provider.answers = {KEY: Duplicate(), last: Duplicate()}
    settle(fleet)
    right = provider.drawn

    async def overtaken(customer_id: str) -> Mapping[str, Drawn]:
        fleet.write("UPDATE pushes SET claim_owner = 'another/1' WHERE key = :key", {"key": last})
        return await right(customer_id)

    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    provider.drawn = overtaken  # type: ignore[method-assign]
    fleet.tick(fleet.clock.at_ms + 2 * DAY_MS)
    assert [row[3] for row in states(fleet)] == ["queued", "queued"]
    provider.drawn = right  # type: ignore[method-assign]
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert sorted(str(row[3]) for row in states(fleet))[:2] == ["accepted", "voided"]


def test_balance_of_later_cycle_does_not_prove_absence_of_earlier_draw(engine: sa.Engine) -> None:
    """The month ends between the send and the day after which it can be applied no more: what was drawn, was drawn from
    the month before."""
    fleet, provider = fleet_of(engine, **DRAWN)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    provider.answers[KEY] = Duplicate()
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(0, fleet.clock.at_ms + 60 * MINUTE_MS)}}
    for _ in range(5):
        fleet.tick(fleet.clock.at_ms + DAY_MS // 2)
    assert states(fleet) == [(0, 60, 60, "in_doubt")]
    assert "does not prove a charge" in str(fleet.one("SELECT last_error FROM pushes"))
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, fleet.clock.at_ms - 9 * DAY_MS)}}
    fleet.tick(fleet.clock.at_ms + DAY_MS)
    assert states(fleet) == [(0, 60, 60, "accepted")]
    clean(fleet)


@pytest.mark.parametrize("how", ["shards", "stopped"])
def test_pushes_of_orgs_sharing_customer_do_not_wait_forever(
    engine: sa.Engine, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One balance tells of both: they are looked up together; of one that is stopped a person is told."""
    monkeypatch.setattr(confirm, "MOST_WAITS", 4)
    fleet, provider = fleet_of(engine, **DRAWN)
    provider.answers[KEY] = Unknown("cut")
    fleet.tick_windows(2)
    fleet.clock.at_ms += 2 * WINDOW_MS
    write(engine, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="another"))
    write(engine, lambda c: assign(c, ["bolt"], "fake", fleet.by, customer_id="acme"))
    later = KEY.replace("acme", "bolt").replace(str(T0), str(T0 + 8 * WINDOW_MS))
    provider.answers[later] = Unknown("cut")
    fleet.sample("bolt", T0 + 8 * WINDOW_MS + 1, 60)
    provider.drawn_says = {"acme": {"compute_1gb": Drawn(60, None)}}
    fleet.tick(T0 + 10 * WINDOW_MS)
    provider.answers[KEY] = provider.answers[later] = Duplicate()
    shards = [Shard()]
    if how == "shards":
        buckets = [int(str(fleet.one("SELECT bucket FROM orgs WHERE org_id = :o", o=org))) for org in ("acme", "bolt")]
        shards = [Shard(0, sum(buckets) // 2), Shard(sum(buckets) // 2 + 1)]
    for number in range(8):
        if how == "stopped" and number == 1:
            fleet.write("UPDATE orgs SET stopped_at_ms = 1, stopped_reason = 'x' WHERE org_id = 'acme'")
        fleet.clock.at_ms += 180 * MINUTE_MS
        for shard in shards:
            fleet.tick(shard=shard)
    found = fleet.rows("SELECT org_id, state FROM pushes WHERE window_ms IN (:a, :b) AND revision = 0 ORDER BY 1",
        a=T0, b=T0 + 8 * WINDOW_MS)  # fmt: skip
    if how == "shards":
        assert sorted(str(row[1]) for row in found) == ["accepted", "voided"]
    else:
        assert found == [("acme", "queued"), ("bolt", "in_doubt")]
