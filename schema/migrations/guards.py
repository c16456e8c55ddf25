"""Rules that the database itself keeps, written once for both databases.

Guarantee: a guard refuses a statement, with a message that names the rule, whoever sends it.
"""

from dataclasses import dataclass

from alembic import op


@dataclass(frozen=True)
class Guard:
    """Refuses `event` on `table` while `when` holds.

    `when` is SQL over NEW and OLD; `<>?` stands for a comparison in which NULL is a value.
    """

    name: str
    table: str
    event: str
    when: str
    message: str


def create(guard: Guard) -> None:
    """Create the guard as a trigger in the database that the migration runs on."""
    postgres = op.get_bind().dialect.name == "postgresql"
    when = guard.when.replace("<>?", "IS DISTINCT FROM" if postgres else "IS NOT")
    message = guard.message.replace("'", "''")
    if not postgres:
        op.execute(
            f"CREATE TRIGGER {guard.name} BEFORE {guard.event} ON {guard.table} FOR EACH ROW WHEN {when} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
        return
    # A condition without a subquery is checked natively, without calling the function for each row.
    native = f"WHEN ({when})" if "SELECT" not in when else ""
    back = "OLD" if guard.event == "DELETE" else "NEW"
    op.execute(
        f"CREATE FUNCTION {guard.name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF ({'true' if native else when}) THEN RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; "
        f"END IF; RETURN {back}; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {guard.name} BEFORE {guard.event} ON {guard.table} FOR EACH ROW {native} "
        f"EXECUTE FUNCTION {guard.name}()"
    )


def drop(name: str, table: str) -> None:
    """Take a guard away, to put a better one in its place."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP FUNCTION {name}()")
    else:
        op.execute(f"DROP TRIGGER {name}")
