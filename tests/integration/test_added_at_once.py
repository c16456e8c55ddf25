"""What two people say at once of what is not there yet: nobody is told that something was done which was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.batches.query_source import Question
from drawdown.worker.batches.sources import add_query, add_source, due_periods, remove_source
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.topup import actions as topups
from drawdown.worker.wallets import actions as credit
from tests.fake_payments import CAN
from tests.integration.beside import Work, beside
from tests.integration.topping import TERMS
from tests.world import T0, Fleet

ONE = By(T0, "one", "tried")
OTHER = By(T0, "other", "tried")


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return Fleet(engine)


def on_record(fleet: Fleet, action: str) -> list[tuple[object, ...]]:
    """Who did it to what, in order."""
    text = "SELECT actor, target FROM operator_actions WHERE action = :action ORDER BY action_id"
    return fleet.rows(text, action=action)


def details(fleet: Fleet, action: str) -> list[dict[str, object]]:
    text = "SELECT details FROM operator_actions WHERE action = :action ORDER BY action_id"
    return [json.loads(str(one)) for (one,) in fleet.rows(text, action=action)]


def watches(tmp_path: Path, source: str, folder: str, by: By) -> Work:
    (tmp_path / folder).mkdir(exist_ok=True)
    return lambda c: add_source(c, source, tmp_path / folder, by)


def asks(table: str, by: By, from_ms: int | None = None) -> Work:
    text = f"SELECT * FROM {table} WHERE at >= :from_ms AND at < :until_ms"
    return lambda c: add_query(c, "bi", Question(text, "warehouse", DAY_MS, 0), by, from_ms)


def terms(currency: str, by: By) -> Work:
    made = replace(TERMS, currency=currency, service_customer=f"cus_{currency}")
    return lambda c: topups.set_terms(c, "acme", made, CAN, by)


@pytest.mark.parametrize(("first", "second"), [(("a", "x"), ("a", "y")), (("a", "x"), ("b", "x"))])
def test_concurrent_source_add_same_name_or_folder_is_refused(
    fleet: Fleet, tmp_path: Path, first: tuple[str, str], second: tuple[str, str]
) -> None:
    _, said = beside(fleet.engine, watches(tmp_path, *first, ONE), watches(tmp_path, *second, OTHER))
    assert isinstance(said, Refused), said
    assert fleet.rows("SELECT source, folder FROM batch_sources") == [("a", str(tmp_path / "x"))]
    assert on_record(fleet, "source_add") == [("one", "a")]


def test_concurrent_source_add_same_name_and_folder_is_added_once(fleet: Fleet, tmp_path: Path) -> None:
    one, other = beside(fleet.engine, watches(tmp_path, "a", "x", ONE), watches(tmp_path, "a", "x", OTHER))
    assert one == other and not isinstance(one, Exception)
    assert on_record(fleet, "source_add") == [("one", "a")]


def test_concurrent_source_add_different_query_is_refused(fleet: Fleet) -> None:
    _, said = beside(fleet.engine, asks("one", ONE), asks("two", OTHER))
    assert isinstance(said, Refused) and "Use another source name" in str(said), said
    assert on_record(fleet, "source_add") == [("one", "bi")]


def test_concurrent_source_add_same_query_moves_start(fleet: Fleet) -> None:
    since = T0 - 3 * DAY_MS - T0 % DAY_MS
    _, said = beside(fleet.engine, asks("one", ONE), asks("one", OTHER, since))
    assert not isinstance(said, Exception), said
    assert fleet.rows("SELECT next_ms FROM batch_sources") == [(since,)]
    assert (on_record(fleet, "source_add"), on_record(fleet, "source_ask")) == ([("one", "bi")], [("other", "bi")])


def test_concurrent_source_add_beyond_limit_is_refused(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown.worker.batches.sources.MAX_SOURCES", 1)
    _, said = beside(fleet.engine, watches(tmp_path, "a", "x", ONE), watches(tmp_path, "b", "y", OTHER))
    assert isinstance(said, Refused) and "the limit of 1 is reached" in str(said), said


def test_concurrent_first_topup_terms_in_second_currency_are_refused(fleet: Fleet) -> None:
    """A slip of the currency is refused as it is of a wallet that has terms; on record each says what was before."""
    write(fleet.engine, lambda c: credit.grant(c, "acme", 10 * MICRO, fleet.by, key="first", plan=None, new=True))
    _, said = beside(fleet.engine, terms("usd", ONE), terms("eur", OTHER))
    assert isinstance(said, UsageError) and "the terms so far are in usd" in str(said), said
    assert fleet.rows("SELECT currency, actor FROM topup_terms") == [("usd", "one")]
    assert on_record(fleet, "topup_set") == [("one", "acme")]


def test_concurrent_first_topup_terms_second_reports_previous(fleet: Fleet) -> None:
    write(fleet.engine, lambda c: credit.grant(c, "acme", 10 * MICRO, fleet.by, key="first", plan=None, new=True))
    one, other = beside(fleet.engine, terms("usd", ONE), terms("usd", OTHER))
    assert isinstance(one, topups.TermsChange) and isinstance(other, topups.TermsChange)
    assert (one.was, other.was) == (None, one.terms)


def listens(name: str, by: By, path: str = "in") -> Work:
    return lambda c: hooks.set_endpoint(c, name, f"https://app.example/{path}", ["balance.low"], by, new=True)


def test_concurrent_new_endpoint_second_reports_previous(fleet: Fleet) -> None:
    one, other = beside(fleet.engine, listens("app", ONE), listens("app", OTHER, "there"))
    assert isinstance(one, tuple) and isinstance(other, tuple)
    assert (one[1], other[1]) == (None, one[0])
    was = {"url": "https://app.example/in", "events": ["balance.low"]}
    assert [said["was"] for said in details(fleet, "hook_set")] == [None, was]


def test_concurrent_endpoints_beyond_limit_are_refused(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.worker.hooks.actions.MAX_ENDPOINTS", 1)
    _, said = beside(fleet.engine, listens("app", ONE), listens("other", OTHER))
    assert isinstance(said, Refused) and "limit of 1 active endpoints is reached" in str(said), said
    assert fleet.rows("SELECT name FROM hook_endpoints") == [("app",)]


@pytest.mark.both_databases
def test_query_source_removed_during_tick_has_empty_due_periods(fleet: Fleet, tmp_path: Path) -> None:
    """Also where another person has given its name to a folder by then."""
    question = Question("SELECT * FROM one WHERE at >= :from_ms AND at < :until_ms", "warehouse", DAY_MS, 0)
    write(fleet.engine, asks("one", ONE, T0 - 3 * DAY_MS))
    later = T0 + DAY_MS
    assert write(fleet.engine, lambda c: due_periods(c, "bi", question, later))
    write(fleet.engine, lambda c: remove_source(c, "bi", ONE))
    for _ in range(2):
        assert write(fleet.engine, lambda c: due_periods(c, "bi", question, later)) == []
        write(fleet.engine, watches(tmp_path, "bi", "x", OTHER))
    assert fleet.rows("SELECT next_ms FROM batch_sources") == [(None,)]
