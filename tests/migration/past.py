"""A database that goes through versions, up and down, and what it holds and refuses at each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import read
from drawdown.schema.migrate import MIGRATIONS, migrate_to, require_ready, upgrade

Rows = list[tuple[Any, ...]]


class Past:
    """One database."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.kind = engine.dialect.name

    def up(self, version: str = "") -> None:
        """To a version, or to that of the program."""
        if not version:
            upgrade(self.engine)
            read(self.engine, require_ready)
            return
        with self.engine.begin() as connection:
            migrate_to(connection, version)

    def down(self, version: str) -> None:
        """Errors: NotImplementedError where something would be lost."""
        with self.engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.downgrade(config, version)

    def say(self, *statements: str) -> None:
        """In one transaction."""
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, query: str) -> Rows:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def found(self, queries: Iterable[str]) -> dict[str, Rows]:
        """What each of these queries finds."""
        return {query: self.rows(query) for query in queries}

    def wrongly_taken(self, refused: Mapping[str, str]) -> dict[str, str]:
        """Of statements that have to be refused, those that are not, or in other words than these."""
        wrong = {}
        for statement, rule in refused.items():
            try:
                self.say(statement)
            except DBAPIError as error:
                if not re.search(rule, str(error)):
                    wrong[statement] = str(error)
            else:
                wrong[statement] = "it was taken"
        return wrong

    def indexes(self, *tables: str) -> set[str]:
        return {str(one["name"]) for table in tables for one in sa.inspect(self.engine).get_indexes(table)}
