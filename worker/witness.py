"""What this host remembers of a database, in a file outside of it (rule R1).

Guarantee: what is remembered is on disk before anything it counts is sent, and never goes back; several processes of
one host share one file.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.errors import UsageError
from drawdown.worker.incarnation import Witness

ELSEWHERE: Final = (
    "set DRAWDOWN_STATE_DIR to a folder of this host that outlives the process and is not restored with the database"
)


KINDS: Final = {"str": str, "int": int}


class WitnessFile:
    """One file a database, in a folder that no backup of the database brings back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, engine: sa.Engine) -> Witness | None:
        """What is remembered of the database behind `engine`; None: nothing yet.

        Errors: UsageError for a file that cannot be read.
        """
        name = read(engine, lambda c: str(c.execute(sa.text("SELECT database_id FROM incarnation")).scalar_one()))
        return self._load(self._file(name))

    def remember(self, witness: Witness) -> None:
        """Errors: UsageError where it cannot be written down: then nothing may be sent."""
        file = self._file(witness.database_id)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _alone(file.with_suffix(".lock")):
                before = self._load(file)
                if before is not None and (before.number, before.sends) > (witness.number, witness.sends):
                    return
                new = file.with_suffix(".new")
                with new.open("w", encoding="utf-8") as out:
                    json.dump(asdict(witness), out)
                    out.flush()
                    os.fsync(out.fileno())
                new.replace(file)
        except OSError as error:
            raise UsageError(f"{file} cannot be written ({error.strerror}): {ELSEWHERE}") from error

    def _file(self, database_id: str) -> Path:
        return self._folder / f"drawdown-{database_id}.json"

    def _load(self, file: Path) -> Witness | None:
        try:
            found = Witness(**json.loads(file.read_text(encoding="utf-8")))
            if not all(isinstance(getattr(found, one.name), KINDS[str(one.type)]) for one in fields(found)):
                raise ValueError("other kinds of values")
            return found
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({error.strerror}): {ELSEWHERE}") from error
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{file} holds something else: delete it and, if the database may have been restored, run "
                "`drawdown recover --restored`"
            ) from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


class NoWitness:
    """For a database that ends with its process."""

    def recall(self, engine: sa.Engine) -> Witness | None:
        return None

    def remember(self, witness: Witness) -> None:
        """Nothing outlives it."""
