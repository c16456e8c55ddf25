"""A transaction that stays open on the server, in whatever database, is told to people; it holds up nothing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.doctor import _open_for_long
from drawdown.cli.nouns.status import other_lines
from drawdown.schema.database import read
from drawdown.server.metrics import measure
from drawdown.worker.status import backlog
from drawdown.worker.status.backlog import oldest_open
from drawdown.worker.status.status import status
from tests.integration.test_interleavings import held_elsewhere
from tests.world import Fleet


class _State:
    """As much of a command's state as the check reads."""

    def __init__(self, engine: sa.Engine) -> None:
        self.read = lambda work: read(engine, work)


def age(engine: sa.Engine) -> list[float]:
    found = read(engine, lambda c: {one.name: one for one in measure(c, 0)})
    return [sample.value for sample in found["drawdown_oldest_transaction_seconds"].samples]


def test_long_open_transaction_is_reported(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(postgres)
    with held_elsewhere(postgres):
        found = read(postgres, oldest_open)
        assert found is not None
        assert "on postgres" in found.who
        assert not found.is_long
        assert status_line(fleet) == []
        assert [one.ok for one in _open_for_long(_State(postgres))] == [True]  # type: ignore[arg-type]
        monkeypatch.setattr(backlog, "LONG_MS", 0)
        assert found.who in status_line(fleet)[0]
        assert [one.ok for one in _open_for_long(_State(postgres))] == [False]  # type: ignore[arg-type]
        assert len(age(postgres)) == 1


def status_line(fleet: Fleet) -> list[str]:
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms))
    return [text for what, text in other_lines(found.standing, fleet.clock.at_ms) if what == "open"]


@pytest.mark.both_databases
def test_oldest_transaction_without_open_transaction_is_zero(engine: sa.Engine) -> None:
    assert read(engine, oldest_open) is None
    assert age(engine) == [0.0]


def test_open_transaction_of_other_user_has_unknown_age(postgres: sa.Engine) -> None:
    """Any user sees whose it is; a number out of thin air would be worse than none."""
    with held_elsewhere(postgres), postgres.connect() as connection:
        connection.execute(sa.text("CREATE ROLE nobody_much"))
        connection.execute(sa.text("SET ROLE nobody_much"))
        found = oldest_open(connection)
        connection.rollback()
    assert found is not None
    assert (found.age_ms, found.is_long) == (None, False)
