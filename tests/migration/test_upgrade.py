"""A database of earlier versions keeps everything when it is upgraded, and gets the new guards."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.maturing import mature_due
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.worker.commands import backfills, guard_terms
from drawdown.worker.sources.events.store import take
from drawdown.worker.verify.verify import verify
from drawdown.worker.views.api_keys import list_keys
from tests.migration.chapters import CHAPTERS, LOTS_OVER, PUSHES, WAIT_MS
from tests.migration.past import Past
from tests.world import T0

pytestmark = pytest.mark.xdist_group("migration")


def test_what_was_told_at_each_version_is_as_it_was(grown: Past) -> None:
    """And what came beside it since says nothing of it yet."""
    for chapter in CHAPTERS:
        assert grown.found(chapter.found) == chapter.found, chapter.version


def test_what_came_later_guards_what_was_there_before(grown: Past) -> None:
    for chapter in CHAPTERS:
        grown.say(*chapter.later)
        assert grown.wrongly_taken(chapter.refused) == {}, chapter.version
    grown.say("UPDATE reservation_sandboxes SET is_open = FALSE")
    if grown.kind == "postgresql":
        with pytest.raises(DBAPIError, match="truncate"):
            grown.say("TRUNCATE ledger_lots")
    else:
        sample = PUSHES.told[-2].replace("INSERT", "INSERT OR REPLACE").replace("1024, 60", "1024, 61")
        grown.say(sample)
        assert grown.rows("SELECT interval_s FROM usage_samples WHERE id = 'one'") == [(60,)]


def test_wallets_of_before_lots_are_sound(grown: Past) -> None:
    """By `verify`, which knows one that is not."""
    wrong = [one.text for one in read(grown.engine, verify).breaches if one.invariant == 10]
    assert [one for one in wrong if "wallet:acme" in one or "wallet:b:c" in one] == []
    assert any("wallet:runner" in one for one in wrong), "it was given nothing, and has something"


def test_lots_that_were_over_and_not_booked_are_looked_at_by_the_first_sweep(grown: Past) -> None:
    write(grown.engine, lambda c: mature_due(c, T0 + 6))
    (wallets,) = LOTS_OVER.found
    assert grown.rows(wallets)[2] == ("wallet:over", 60, 50, T0 + 5 + WAIT_MS, T0 + 5)


def test_keys_go_on_and_a_metric_counts_what_has_its_name(grown: Past) -> None:
    keys = {one.name: one for one in read(grown.engine, lambda c: list_keys(c, T0, 9))}
    assert {name: (one.state, one.used_ms, one.cell_id) for name, one in keys.items()} == {
        "app": ("good", None, None),
        "old": ("good", None, None),
        "host": ("good", None, "cell-1"),
    }
    grown.say(f"UPDATE api_keys SET used_ms = {T0 + 1} WHERE name = 'app'")
    kept = read(grown.engine, lambda c: guard_terms.find(c, "idea"))
    assert kept == guard_terms.Metric("idea", 1, 5, 2, None, 3, 9, fails_open=True, counts=None)
    by = By(T0 + 1, "ann", "a test")
    write(grown.engine, lambda c: guard_terms.set_metric(c, "idea", guard_terms.Change(counts="page.seen"), by))
    with pytest.raises(NotImplementedError, match="restore a backup"):
        grown.down("0038")


def test_events_of_before_are_known_by_their_claims_and_their_organisations(grown: Past) -> None:
    def sent(org: str, event_id: str, *, own: bool) -> tuple[str, str | None]:
        event = UsageEvent("app", event_id, "page.render", org, 3, T0 + 1)
        (found,) = write(grown.engine, lambda c: take(c, [event], T0 + 10, own=own))
        return found.status, found.code

    kept = {"a": ("duplicate", None), "b": ("duplicate", "withdrawn"), "gone": ("invalid", "withdrawn")}
    before = len(grown.rows("SELECT sample_id FROM usage_events"))
    for own in (True, False):
        assert {event_id: sent("nova", event_id, own=own) for event_id in kept} == kept
        assert sent("nova", "staged", own=own)[0] == ("pending" if own else "duplicate")
    assert sent("globex", "a", own=False) == ("conflict", "other_content")
    assert sent("globex", "a", own=True)[0] == "pending"
    assert len(grown.rows("SELECT sample_id FROM usage_events")) == before + 2
    assert read(grown.engine, lambda c: backfills.diff(c, "june")).counts == {"duplicate": 1}


def test_files_go_back_to_a_version_that_knew_one_a_name(grown: Past) -> None:
    grown.say(
        "INSERT INTO batch_files VALUES ('', 'u.csv', 'b1', '/y/u.csv', 1, 1, 'repeated', '', 2, 0, NULL, NULL)",
        "UPDATE batch_files SET outcome = 'reading' WHERE name = 'a.csv'",
    )
    with pytest.raises(NotImplementedError):
        grown.down("0059")
    grown.down("0060")
    assert grown.rows("SELECT name, outcome FROM batch_files") == [("u.csv", "repeated")]
    grown.up()
