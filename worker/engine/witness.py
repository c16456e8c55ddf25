"""A machine's checkpoint of a database, apart from it (rule R1). Code that only looks at one needs no effect for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa


@dataclass(frozen=True)
class Witness:
    """This machine's checkpoint of a database, apart from it."""

    database_id: str
    number: int
    """The incarnation: one more with each recovery."""
    sends: int
    """The number of sends that had been claimed."""
    tick_id: int
    tick_worker: str
    """The last tick that this machine began, and the worker of it: they are in no other history."""


class WitnessStore(Protocol):
    """Keeps this machine's checkpoint of a database, outside of it (R1)."""

    def recall(self, engine: sa.Engine) -> Witness | None:
        """Return the checkpoint. Errors: UsageError if it cannot be read."""

    def remember(self, engine: sa.Engine, witness: Witness) -> None:
        """On disk once it returns."""
