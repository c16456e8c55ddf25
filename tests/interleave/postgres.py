"""A PostgreSQL of the explorer's own, whose one database is put back to where it was before each case.

Guarantee: a case finds every row and sequence as it was kept, and nothing else; only transactions' numbers go on.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from tests.postgres_server import Server

SETTINGS: Final = {
    "autovacuum": "off",  # its transactions would move what the seal's cursor goes by
    "jit": "off",  # it compiles for 80 ms what runs for one
    "deadlock_timeout": "'100ms'",  # how long a case of two that wait for each other takes
}
# Everything back to where it was kept, without a trigger or a foreign key in between: 10 ms, where a copy of the
# database takes 60 to 200, and connections stay.
KEEP: Final = """
DO $$ DECLARE one record; names text; BEGIN
    CREATE SCHEMA kept;
    CREATE TABLE kept.steps (number serial, step text);
    FOR one IN SELECT c.oid, c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    LOOP
        SELECT string_agg(quote_ident(attname), ', ') INTO names FROM pg_attribute
        WHERE attrelid = one.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('CREATE TABLE kept.%I AS SELECT * FROM public.%I', one.relname, one.relname);
        INSERT INTO kept.steps (step) VALUES (format('DELETE FROM public.%I', one.relname)), (format(
            'INSERT INTO public.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM kept.%I', one.relname, names, names,
            one.relname));
    END LOOP;
    FOR one IN SELECT sequencename AS name, COALESCE(last_value, start_value) AS at, last_value IS NOT NULL AS used
        FROM pg_sequences WHERE schemaname = 'public'
    LOOP
        INSERT INTO kept.steps (step) VALUES (
            format('SELECT setval(%L, %s, %L)', 'public.' || one.name, one.at, one.used));
    END LOOP;
END $$
"""
RESTORE: Final = """
DO $$ DECLARE one text; BEGIN
    SET LOCAL session_replication_role = replica;
    FOR one IN SELECT step FROM kept.steps ORDER BY number LOOP EXECUTE one; END LOOP;
END $$
"""
NUMBER: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
"""Of the next transaction that changes anything: a sequence that is put back takes one, too, when it is next used."""
VACUUM_EVERY: Final = 25


class Postgres:
    """One server with one database, as long as the process goes on."""

    def __init__(self) -> None:
        self._server = Server()
        self.url = self._server.url
        self.admin = sa.create_engine(
            sa.make_url(self.url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT", pool_size=1
        )
        self._do(*(f"ALTER SYSTEM SET {name} = {value}" for name, value in SETTINGS.items()), "SELECT pg_reload_conf()")
        self._restored, self._number = 0, ""

    def _do(self, *statements: str) -> None:
        with self.admin.connect() as connection:
            for one in statements:
                connection.exec_driver_sql(one.replace("%", "%%"))

    def keep(self) -> None:
        """The database as it is now is what `restore` goes back to."""
        self._do(KEEP, "VACUUM ANALYZE")

    def restore(self) -> None:
        """Undo what happened since, if anything did."""
        if self._next_number() == self._number:
            return
        self._do(RESTORE)
        self._restored += 1
        if self._restored % VACUUM_EVERY == 0:
            self._do("VACUUM")
        self._number = self._next_number()

    def _next_number(self) -> str:
        with self.admin.connect() as connection:
            return str(connection.exec_driver_sql(NUMBER).scalar_one())

    def close(self) -> None:
        self.admin.dispose()
        self._server.close()
