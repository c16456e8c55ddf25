"""Alembic's entry point.

It runs on the connection of `schema.migrate`, inside its transaction.
"""

from alembic import context

from drawdown.schema.tables.whole import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
