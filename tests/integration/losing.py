"""A COMMIT that is done, and whose answer never comes: put in the place of `schema.database._commit`."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.errors import AnswerLost


def lost(transaction: sa.RootTransaction) -> None:
    transaction.commit()
    raise AnswerLost("cut")
