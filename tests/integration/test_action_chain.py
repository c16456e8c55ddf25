"""What people did is chained: a row that is changed, taken out, put in or moved shows, whoever did it."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from drawdown.schema import audit
from drawdown.schema.audit import By, record, record_many
from drawdown.schema.database import write
from tests.integration.verifying import tamper, verified
from tests.world import T0, Fleet

PUT_IN = (
    "INSERT INTO operator_actions (action_id, at_ms, action, target, details, actor, reason, hash) "
    "SELECT {id}, at_ms, action, 'somebody', details, actor, reason, hash FROM operator_actions WHERE target = 't2'"
)
LAST = "(SELECT MAX(action_id) FROM operator_actions)"
TAMPERING = {
    "changed": ("UPDATE operator_actions SET reason = 'another' WHERE target = 't2'",),
    "moved in time": ("UPDATE operator_actions SET at_ms = at_ms - 1 WHERE target = 't1'",),
    "taken out": ("DELETE FROM operator_actions WHERE target = 't1'",),
    "the last taken out": (f"DELETE FROM operator_actions WHERE action_id = {LAST}",),
    "the last taken out, and the count with it": (
        f"DELETE FROM operator_actions WHERE action_id = {LAST}",
        "UPDATE action_chain SET actions = actions - 1",
    ),
    "all taken out": ("DELETE FROM operator_actions",),
    "put in": (PUT_IN.replace("{id}", "1000"),),
    "put in before all": (PUT_IN.replace("{id}", "-1"),),
    "put in with the largest number there is": (PUT_IN.replace("{id}", "9223372036854775807"),),
    "put in without a hash": (
        "INSERT INTO operator_actions (at_ms, action, target, details, actor, reason) "
        "VALUES (0, 'org_halt', 'acme', '{}', 'nobody', 'none')",
    ),
    "two in another order": (
        "UPDATE operator_actions SET action_id = 900 WHERE target = 't1'",
        "UPDATE operator_actions SET action_id = 901 WHERE target = 't2'",
        "UPDATE operator_actions SET action_id = 902 WHERE target = 't0'",
    ),
}


def do(fleet: Fleet, *targets: str) -> None:
    work = [(target, {"was": "Ω"}) for target in targets]
    write(fleet.engine, lambda c: record_many(c, "org_halt", work, By(T0, "alice", "abuse")))


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    do(made, "t0", "t1", "t2")
    do(made, "t3")
    assert verified(made).breaches == []
    return made


@pytest.mark.parametrize("how", TAMPERING)
def test_audit_log_tampered_row_is_reported(fleet: Fleet, how: str) -> None:
    before = verified(fleet)
    tamper(fleet, *TAMPERING[how])
    found = verified(fleet)
    assert set(found.by_invariant) == (
        {1, 2, 6} if how == "all taken out" else {6}
    )  # what the rates and the mapping say
    assert {one.org_id for one in found.breaches} == {None}, "nobody's pushes are stopped for it"
    assert before.newest_action == verified(fleet).newest_action
    do(fleet, "later")
    assert not verified(fleet).clean, "what is recorded later does not heal it"


def test_audit_log_rechained_after_delete_has_different_newest_hash(fleet: Fleet) -> None:
    kept = verified(fleet).newest_action
    tamper(
        fleet,
        "DELETE FROM operator_actions WHERE target = 't3'",
        "UPDATE action_chain SET actions = actions - 1, hash = (SELECT hash FROM operator_actions WHERE target = 't2')",
    )
    found = verified(fleet)
    assert found.clean and found.newest_action != kept


def test_audit_chain_of_concurrent_actions_is_intact(postgres: sa.Engine) -> None:
    fleet = Fleet(postgres)
    barrier, failed = threading.Barrier(4), list[BaseException]()

    def person(name: str) -> None:
        try:
            barrier.wait(30)
            for number in range(20):
                do(fleet, f"{name}-{number}")
        except BaseException as error:
            failed.append(error)

    people = [threading.Thread(target=person, args=(f"p{n}",)) for n in range(4)]
    for one in people:
        one.start()
    for one in people:
        one.join(60)
    assert not failed
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'org_halt'") == 80
    assert verified(fleet).breaches == []


def test_audit_chain_rolled_back_action_does_not_break_chain(fleet: Fleet) -> None:
    write(
        fleet.engine,
        lambda c: record(c, "org_halt", "dry", {}, By(T0, "a", "r")),
        rollback=True,
    )
    do(fleet, "after")
    assert verified(fleet).breaches == []


def test_verify_page_ending_at_largest_action_id_reports_breach(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 1)
    tamper(fleet, *TAMPERING["put in with the largest number there is"])
    assert any(breach.invariant for breach in verified(fleet).breaches)
