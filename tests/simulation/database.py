"""The simulation's databases: in memory, copies of one migrated template, with triggers that see what no table keeps.

Guarantee: nothing in them is drawn at random, so that a seed says all; a transaction fails as production's may.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import sqlalchemy as sa

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from tests.simulation.shortcut import KNOWN, shorten

T = TypeVar("T")
AUDIT = (
    "CREATE TABLE audit (what TEXT)",
    # Invariant 8, and "halted_at changes only on a transition", seen at the very statement that breaks them.
    "CREATE TRIGGER audit_read AFTER UPDATE ON orgs WHEN NEW.projection_read_ms < OLD.projection_read_ms BEGIN "
    "INSERT INTO audit VALUES ('a projection of ' || NEW.org_id || ' went back in time'); END",
    "CREATE TRIGGER audit_older AFTER UPDATE ON orgs WHEN NEW.max_concurrent_sandboxes >= 1000 "
    "AND NEW.max_concurrent_sandboxes < OLD.max_concurrent_sandboxes BEGIN "
    "INSERT INTO audit VALUES ('an older read of ' || NEW.org_id || ' overwrote a newer one'); END",
    # What an answer to a push says is left never raises a balance: a read alone does.
    "CREATE TRIGGER audit_answer AFTER UPDATE ON orgs WHEN NEW.projection_read_ms = OLD.projection_read_ms "
    "AND NEW.balance_read_ms >= OLD.balance_read_ms AND NEW.balance_micro > OLD.balance_micro BEGIN "
    "INSERT INTO audit VALUES ('an answer to a push raised the balance of ' || NEW.org_id); END",
    "CREATE TRIGGER audit_balance AFTER UPDATE ON orgs WHEN NEW.balance_read_ms < OLD.balance_read_ms BEGIN "
    "INSERT INTO audit VALUES ('the balance of ' || NEW.org_id || ' went back in time'); END",
    "CREATE TRIGGER audit_halt AFTER UPDATE ON orgs WHEN OLD.is_halted AND NEW.is_halted "
    "AND NEW.halted_at <> OLD.halted_at BEGIN "
    "INSERT INTO audit VALUES ('halted_at of ' || NEW.org_id || ' was rewritten without a transition'); END",
    "CREATE TRIGGER audit_held AFTER UPDATE ON orgs WHEN NEW.held_watermark_ms < OLD.held_watermark_ms BEGIN "
    "INSERT INTO audit VALUES ('the watermark of ' || NEW.org_id || ' went back'); END",
    "CREATE TRIGGER audit_push AFTER UPDATE ON pushes WHEN OLD.state = 'rejected' AND NEW.state = 'due' BEGIN "
    "INSERT INTO audit VALUES ('the rejected push ' || NEW.key || ' became due by itself'); END",
)


@cache
def _template() -> bytes:
    engine = connect("sqlite://")
    raw = engine.raw_connection()
    # A database's name is drawn at random: here a seed says all.
    raw.driver_connection.create_function("randomblob", 1, bytes)  # type: ignore[union-attr]
    upgrade(engine)
    with engine.connect() as connection, connection.begin():
        for statement in AUDIT:
            connection.exec_driver_sql(statement)
    image: bytes = raw.driver_connection.serialize()  # type: ignore[union-attr]
    raw.close()
    return image


def _keep_statements(_dialect: object, _record: object, _args: object, options: dict[str, object]) -> None:
    """The driver prepares a statement once a life, not each time that 128 others came in between."""
    options["cached_statements"] = KNOWN


def new_database() -> sa.Engine:
    """A migrated, empty database in memory, with the audit's triggers."""
    engine = connect("sqlite://")
    sa.event.listen(engine, "do_connect", _keep_statements)
    raw = engine.raw_connection()
    raw.driver_connection.deserialize(_template())  # type: ignore[union-attr]
    raw.driver_connection.text_factory = str  # type: ignore[union-attr]
    raw.close()
    shorten(engine)
    return engine


class SerialisationFailure(Exception):
    """What PostgreSQL says of a transaction that it did not commit, because of another."""

    sqlstate = "40001"


def in_conflict(work: Callable[[sa.Connection], T], times: int) -> Callable[[sa.Connection], T]:
    """`work` does all it does, and is refused, so many times in a row."""
    left = iter(range(times))

    def tried(connection: sa.Connection) -> T:
        answer = work(connection)
        if next(left, None) is not None:
            raise sa.exc.OperationalError("COMMIT", {}, SerialisationFailure("could not serialize access"))
        return answer

    return tried
