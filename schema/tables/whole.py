"""The metadata of all tables.

`schema.create` makes the tables, with the triggers that enforce the rules.

The metadata includes each table that you add to one of these files.
"""

from drawdown.schema.tables import (  # noqa: F401 each adds its tables to the metadata
    checks,
    fleet,
    guard,
    hooks,
    ledger,
    orgs,
    outbox,
    server,
    settlements,
    topups,
    usage,
)
from drawdown.schema.tables.columns import metadata

__all__ = ["metadata"]
