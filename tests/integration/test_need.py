"""After pushes those are asked about of whom there is need: at once, or in their turn within the hour."""

from __future__ import annotations

from itertools import count
from threading import Thread

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import RetryAt
from drawdown.schema.database import write
from drawdown.schema.locks import lock_org
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.push.push import expire, push
from drawdown.worker.verdict.project import project
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.verdict.rules import TURN_MS, WINDOWS_A_TURN, turn_ms
from tests.fake_provider import capabilities
from tests.prepaid import CREDIT, Moving, Prepaid, price
from tests.world import T0, Fleet

ORG = next(
    name for name in (f"org-{n}" for n in count()) if turn_ms(name, T0) in range(T0 + TURN_MS // 2, T0 + TURN_MS)
)
"""Its turn comes in the second half of an hour."""
AN_HOUR = 60 * WINDOWS_A_TURN * CREDIT
"""What a minute of use in each window takes in an hour."""


@pytest.fixture
def provider() -> Prepaid:
    return Prepaid(capabilities(), credit={ORG: 100 * AN_HOUR}, tells=True)


@pytest.fixture
def fleet(engine: sa.Engine, provider: Prepaid) -> Fleet:
    """An organisation with credit to spare, read once."""
    made = Fleet(engine, Moving(T0), extra={"fake": provider})
    made.assign(ORG, provider="fake", from_ms=T0 - 10 * WINDOW_MS)
    made.tick(T0 + SECOND_MS)
    provider.asked.clear()
    return made


def used(fleet: Fleet, window: int, *orgs: str) -> None:
    """A minute of use in a window, sealed and sent by a tick."""
    for org in orgs or (ORG,):
        fleet.sample(org, T0 + window * WINDOW_MS)
    fleet.tick(T0 + (window + 1) * WINDOW_MS + 3 * MINUTE_MS)


def stands(fleet: Fleet, what: str) -> tuple[object, ...]:
    return fleet.rows(f"SELECT {what} FROM orgs WHERE org_id = '{ORG}'")[0]


def test_org_with_ample_credit_is_read_once_per_hour(fleet: Fleet, provider: Prepaid) -> None:
    read_ms = int(str(fleet.one(f"SELECT projection_read_ms FROM orgs WHERE org_id = '{ORG}'")))
    turn = turn_ms(ORG, read_ms)
    asked_at = []
    for window in range(2 * WINDOWS_A_TURN + 1):
        used(fleet, window)
        asked_at += [fleet.clock.at_ms] * len(provider.asked)
        provider.asked.clear()
        left = (100 * AN_HOUR - (window + 1) * 60 * CREDIT, None)
        assert stands(fleet, "balance_micro, projection_due_ms") == left, "what an answer says is as good as a read"
    first, second = asked_at
    assert turn <= first <= turn + WINDOW_MS + 3 * MINUTE_MS
    assert turn + TURN_MS <= second <= turn + TURN_MS + WINDOW_MS + 3 * MINUTE_MS


def test_idle_org_is_read_once_at_refresh_deadline(fleet: Fleet, provider: Prepaid) -> None:
    used(fleet, 0)
    assert (provider.asked, stands(fleet, "refresh_deadline_ms IS NOT NULL")) == ([], (True,))
    fleet.tick(T0 + TURN_MS + MINUTE_MS)
    assert (provider.asked, stands(fleet, "refresh_deadline_ms")) == ([ORG], (None,))
    fleet.tick(T0 + 3 * TURN_MS)
    assert provider.asked == [ORG], "until it is used again, there is nothing to ask"


def test_org_near_exhaustion_is_read_each_tick_and_halted(fleet: Fleet, provider: Prepaid) -> None:
    provider.credit[ORG] = AN_HOUR
    used(fleet, 0)
    used(fleet, 1)
    assert (provider.asked, stands(fleet, "is_halted")) == ([ORG, ORG], (False,))
    provider.credit[ORG] = 180 * CREDIT
    used(fleet, 2)
    assert (provider.asked, stands(fleet, "is_halted")) == ([ORG] * 3, (True,))


def test_halted_org_with_new_credit_is_read_after_push_and_resumed(fleet: Fleet, provider: Prepaid) -> None:
    provider.credit[ORG] = 60 * CREDIT
    used(fleet, 0)
    assert stands(fleet, "is_halted") == (True,)
    provider.credit[ORG] = 100 * AN_HOUR  # nobody is told
    used(fleet, 1)
    assert stands(fleet, "is_halted, refresh_deadline_ms") == (False, None)


def test_push_answer_showing_payment_triggers_read(fleet: Fleet, provider: Prepaid) -> None:
    provider.credit[ORG] = 200 * AN_HOUR
    used(fleet, 0)
    assert provider.asked == [ORG]
    assert stands(fleet, "balance_micro") == (200 * AN_HOUR - 60 * CREDIT,)


def test_push_answer_older_than_read_does_not_overwrite_balance(fleet: Fleet, provider: Prepaid) -> None:
    """Somebody paid, and was read, while a charge of before was on its way."""

    def read_by_another() -> None:
        fleet.write(
            "UPDATE orgs SET projection_read_ms = projection_read_ms + 1, balance_read_ms = "
            f"projection_read_ms + 1, balance_micro = 900 WHERE org_id = '{ORG}'"
        )
        provider.down = "503"

    fleet.write(f"UPDATE orgs SET balance_micro = {100 * AN_HOUR} WHERE org_id = '{ORG}'")
    provider.credit[ORG], provider.meanwhile = 60 * CREDIT + 100, read_by_another
    used(fleet, 0)
    assert (provider.asked, stands(fleet, "balance_micro")) == ([ORG], (900,)), "it is asked about instead"


def test_read_older_than_push_answer_does_not_overwrite_balance(fleet: Fleet, provider: Prepaid) -> None:
    noted = f"UPDATE orgs SET balance_micro = 7, balance_read_ms = balance_read_ms + 1 WHERE org_id = '{ORG}'"
    fleet.write(f"UPDATE orgs SET projection_due_ms = 0 WHERE org_id = '{ORG}'")
    seen = []

    def noted_meanwhile() -> None:
        fleet.write(noted)
        provider.meanwhile = lambda: seen.append(stands(fleet, "balance_micro"))

    provider.meanwhile = noted_meanwhile
    fleet.tick()
    assert (provider.asked, seen) == ([ORG, ORG], [(7,)]), "it is read once more, and counts for nothing before"
    assert stands(fleet, "balance_micro, projection_due_ms") == (100 * AN_HOUR, None)


def test_running_orgs_with_least_credit_are_read_first_and_turns_last(fleet: Fleet, provider: Prepaid) -> None:
    orgs = {"halted": 0, "much": 300, "little": 2, "turn": 1, "some": 40}
    fleet.assign(*orgs, provider="fake", from_ms=T0)
    fleet.tick(T0 + 3 * TURN_MS)
    provider.asked.clear()
    for number, (org, micro) in enumerate(orgs.items()):
        due = f"refresh_deadline_ms = {T0}" if org == "turn" else f"projection_due_ms = {T0 + number}"
        halt = f", is_halted = true, halted_at = {T0}" if org == "halted" else ", is_halted = false, halted_at = NULL"
        fleet.write(f"UPDATE orgs SET balance_micro = {micro}, {due} {halt} WHERE org_id = '{org}'")
    fleet.tick(fleet.clock.at_ms + SECOND_MS)
    assert provider.asked == ["little", "some", "much", "halted", "turn"]


@pytest.mark.parametrize("at_once", [1, 64])
def test_overtaken_read_does_not_end_projection_round(engine: sa.Engine, at_once: int) -> None:
    """The server reads the first in line for a webhook, while a tick does: all behind it are read in this round."""
    others = [f"org-{number:03}" for number in range(5)]
    provider = Prepaid(capabilities(in_flight=at_once), credit={ORG: AN_HOUR, **dict.fromkeys(others, 2 * AN_HOUR)})
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign(ORG, *others, provider="fake", from_ms=T0 - 10 * WINDOW_MS)
    fleet.tick(T0 + SECOND_MS)
    provider.credit.update(dict.fromkeys(others, 0))
    write(engine, lambda c: mark_for_projection(c, [ORG, *others], fleet.clock.now_ms()))
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock)

    def overtakes() -> None:
        server = Thread(target=lambda: runner.run(project(fleet.context("server"), "fake", ORG), world))
        server.start()
        server.join()

    provider.meanwhile = overtakes
    done = runner.run(project(fleet.context("tick"), "fake"), world)
    assert (done.halted, fleet.one("SELECT COUNT(*) FROM orgs WHERE is_halted")) == (5, 5)


@pytest.mark.parametrize(("at_once", "reads"), [(1, 1), (64, 2)])
def test_two_ticks_overtaking_reads_do_not_repeat_endlessly(engine: sa.Engine, at_once: int, reads: int) -> None:
    """Each read of the tick is overtaken by another tick's, which answers what was asked; nobody asks once more."""
    provider = Prepaid(capabilities(in_flight=at_once), credit={ORG: AN_HOUR, "org-2": AN_HOUR})
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign(ORG, "org-2", provider="fake", from_ms=T0 - 10 * WINDOW_MS)
    fleet.tick(T0 + SECOND_MS)
    write(engine, lambda c: mark_for_projection(c, [ORG, "org-2"], fleet.clock.now_ms()))
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock)

    def overtakes() -> None:
        if len(provider.asked) > 20:
            return  # no end is in sight
        other = Thread(target=lambda: runner.run(project(fleet.context("other"), "fake"), world))
        other.start()
        other.join()
        provider.meanwhile = overtakes

    provider.asked.clear()
    provider.meanwhile = overtakes
    done = runner.run(project(fleet.context("tick"), "fake"), world)
    assert (done.read, len(provider.asked)) == (reads, reads + 2)


UNDER_WAY = (
    "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
    "sealed_at_ms, seal_id, state, due_at_ms, claim_owner, attempts) "
    "SELECT window_ms - 300000, org_id, feature, 0, provider, customer_id, 60, 60, 'another', sealed_at_ms, seal_id, "
    "'due', due_at_ms + 60000, 'another', 1 FROM pushes"
)
ASKED = f"UPDATE orgs SET projection_due_ms = 0, refresh_requests = refresh_requests + 1 WHERE org_id = '{ORG}'"


@pytest.mark.parametrize("meanwhile", [UNDER_WAY, ASKED], ids=["under way", "asked about"])
def test_ambiguous_push_answer_does_not_update_balance(fleet: Fleet, provider: Prepaid, meanwhile: str) -> None:
    """Noted, the moment of the balance would pass that push, which nobody would count until it is settled."""

    def under_its_lock(connection: sa.Connection) -> None:
        lock_org(connection, ORG)
        assert connection.execute(sa.text(meanwhile)).rowcount == 1

    def happens() -> None:
        write(fleet.engine, under_its_lock)
        provider.down = "503"  # no read shows it

    provider.meanwhile = happens
    used(fleet, 0)
    assert stands(fleet, "balance_micro") == (100 * AN_HOUR,)


def test_lost_send_keeps_later_response_from_balance_until_read(
    fleet: Fleet, provider: Prepaid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies after a send. While a backlog is sent, the responses to later pushes may include that send."""
    monkeypatch.setattr("drawdown.worker.push.claim.claim_size", lambda _capabilities: 1)
    fleet.sample(ORG, T0)
    fleet.sample(ORG, T0 + WINDOW_MS)
    provider.answers |= {f"usage:{ORG}:{T0 + n * WINDOW_MS}:compute_1gb": RetryAt(T0, "busy") for n in range(2)}
    fleet.tick(T0 + 2 * WINDOW_MS + 3 * MINUTE_MS)
    provider.answers.clear()
    provider.asked.clear()
    fleet.clock.at_ms += 10 * MINUTE_MS
    lost = {"w": T0, "at": fleet.clock.at_ms}
    unread = (
        "UPDATE orgs SET projection_due_ms = NULL, refresh_deadline_ms = NULL, projection_read_ms = :at - 9, "
        "balance_read_ms = :at - 9"
    )
    fleet.write(unread, lost)
    fleet.write(
        "UPDATE pushes SET first_attempt_ms = :at - 5, due_at_ms = :at - 1, claim_owner = 'dead' WHERE window_ms = :w",
        lost,
    )
    fleet.write("UPDATE attempts SET outcome = NULL, finished_ms = NULL WHERE window_ms = :w", lost)
    fleet.write("UPDATE pushes SET due_at_ms = :at - 2 WHERE window_ms <> :w", lost)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    for asked in ([ORG], []):
        runner.run(expire(fleet.context("expire"), "fake"), world)
        runner.run(project(fleet.context("read"), "fake"), world)
        assert provider.asked == asked, "that read counts it"
        provider.asked.clear()
    fleet.write(unread, lost)
    seen = []
    provider.meanwhile = lambda: seen.append(stands(fleet, "projection_due_ms IS NOT NULL"))
    runner.run(push(fleet.context("again"), "fake"), world)
    assert len(provider.charged) == 2 and seen == [(True,)]
    assert stands(fleet, "balance_micro") == (100 * AN_HOUR,), "a read decides, not the first response"


def test_org_without_balance_in_answer_is_read_by_estimate(fleet: Fleet, provider: Prepaid) -> None:
    provider.tells = False
    price(fleet)
    used(fleet, 0)
    assert provider.asked == [ORG], "nobody watches, so nobody can tell"
    provider.asked.clear()
    for window, hours, late_ms, asked in ((1, 3, 0, []), (2, 1, 0, [ORG]), (3, 3, MINUTE_MS, [ORG]), (4, 3, 0, [])):
        watched(fleet, window, hours, late_ms)
        used(fleet, window)
        assert provider.asked == asked, "nor where no watch has looked at it in time, though others go on"
        provider.asked.clear()
    watched(fleet, 5, 3)
    fleet.sample(ORG, T0 + 5 * WINDOW_MS, memory_mb=4096)
    used(fleet, 5)
    assert provider.asked == [ORG], "what has no rate is in no estimate"


def watched(fleet: Fleet, window: int, hours: int, late_ms: int = 0) -> None:
    """A watch goes round, and says when credit ends; its next look was due so long before the tick."""
    at_ms = T0 + (window + 1) * WINDOW_MS + 3 * MINUTE_MS
    fleet.write("UPDATE watch_state SET round_ms = :at_ms", {"at_ms": at_ms})
    looked = f"UPDATE orgs SET runs_out_ms = :ends, watch_due_ms = :due WHERE org_id = '{ORG}'"
    fleet.write(looked, {"ends": at_ms - 3 * MINUTE_MS + hours * TURN_MS, "due": at_ms - late_ms})


def test_push_answer_for_other_customer_does_not_update_balance(fleet: Fleet, provider: Prepaid) -> None:
    """A late revision goes to whoever was billed then (P4)."""
    used(fleet, 0)
    flips = T0 + 2 * WINDOW_MS
    fleet.write(f"UPDATE assignments SET end_ms = {flips} WHERE org_id = '{ORG}'")
    fleet.write(
        f"INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
        f"VALUES ('{ORG}', {flips}, 'fake', 'other', {T0}, 'test', 'a test')"
    )
    provider.credit["other"] = 200 * AN_HOUR
    fleet.tick(T0 + 3 * WINDOW_MS)
    provider.asked.clear()
    fleet.sample(ORG, T0 + MINUTE_MS)
    fleet.tick(T0 + 4 * WINDOW_MS)
    assert [push.customer_id for push in provider.seen] == [ORG, ORG]
    assert (provider.asked, stands(fleet, "balance_micro")) == (["other"], (200 * AN_HOUR,))
