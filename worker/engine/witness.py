"""Define a machine's local checkpoint of a database (rule R1).

Code that only reads a checkpoint does not need an effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa


@dataclass(frozen=True)
class Witness:
    """This machine's local checkpoint of a database.

    `database_id`: the id that the database got when it was created.
    """

    database_id: str
    number: int
    """The incarnation, which grows by 1 with each recovery."""
    sends: int
    """The number of sends that were claimed."""
    tick_id: int
    tick_worker: str
    """The worker of `tick_id`, the last tick that this machine began. Only this history has a tick with this number and
    worker.
    """


class WitnessStore(Protocol):
    """The store of this machine's checkpoint, outside of the database (R1)."""

    def load(self, engine: sa.Engine) -> Witness | None:
        """Return the checkpoint; None if it does not exist.

        Errors: UsageError if the checkpoint cannot be read.
        """

    def save(self, engine: sa.Engine, witness: Witness) -> None:
        """Save the checkpoint, on disk before this returns."""
