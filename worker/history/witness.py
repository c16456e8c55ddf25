"""The local checkpoint, this machine's record of a database (rule R1).

It is a file outside the database.

Guarantee: the checkpoint is on disk before the pushes that it counts are sent, and its counts never fall. Several
processes of one machine share one file. The kernel's table of mounts shows whether the folder of the file survives a
container.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Final, TextIO, TypeAlias

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.errors import StorageFull, UsageError
from drawdown.schema.sql import queries
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import server_of, worker_of_tick

SQL = queries(__file__)

ELSEWHERE: Final = (
    "Set DRAWDOWN_STATE_DIR to a folder of this machine that outlives the process and is not restored with the database"
)


FULL: Final = (errno.ENOSPC, errno.EDQUOT)
UNSENT: Final = (
    "Drawdown sends only after it can write its local checkpoint. Keep the folder, because it detects a "
    "restored database"
)
PROBE: Final = "x" * 4_096

Kept: TypeAlias = str | int | Mapping[str, str | int]
"""A value in the JSON of a checkpoint file."""


@dataclass(frozen=True)
class KeptWitness:
    """The checkpoint of a database at one place, with its first tick there.

    `last`: the checkpoint. `since_tick`, `since_worker`: the first tick that this machine began there, and its worker.
    """

    last: Witness
    since_tick: int
    since_worker: str


class WitnessFile:
    """The checkpoint files, one for each database id.

    A restore of the database does not restore the folder of these files.

    A copy of a database has the id of its original, and its own history from its first use on. So checkpoints are
    stored by place: a file, or a server and a database on it. A database is compared with the checkpoint of its own
    place, and with those of places that its history includes. It is also compared with those of a higher incarnation:
    if a copy was recovered, the original stops. At a new place, it is compared with all checkpoints, because it may
    have been restored there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, engine: sa.Engine) -> Witness | None:
        """Return the checkpoint of the database of `engine`.

        None: a checkpoint does not exist yet.

        Errors: UsageError for an unreadable or invalid file.
        """
        return read(engine, self._load_last)

    def _load_last(self, connection: sa.Connection) -> Witness | None:
        name = str(SQL.run(connection, "database_id").scalar_one())
        witnesses = self._load(self._file(name))
        own = witnesses.get(place_of(connection))
        counts = [
            kept.last
            for kept in witnesses.values()
            if own is None or kept is own or kept.last.number > own.last.number or _went_through(connection, kept)
        ]
        return max(counts, key=lambda witness: (witness.number, witness.sends), default=None)

    def save(self, engine: sa.Engine, witness: Witness) -> None:
        """Write a checkpoint, unless the stored checkpoint is newer.

        Errors: StorageFull; UsageError if the file cannot be written. After either error, the caller must not send.
        """
        file, place = self._file(witness.database_id), read(engine, place_of)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(file.with_suffix(".lock")):
                witnesses = self._load(file)
                before = witnesses.get(place)
                if before is not None and (before.last.number, before.last.sends) > (witness.number, witness.sends):
                    return
                since = (witness.tick_id, witness.tick_worker)
                since = since if before is None else (before.since_tick, before.since_worker)
                witnesses[place] = KeptWitness(witness, *since)
                new = file.with_suffix(".new")
                with _private(new) as out:
                    json.dump({place: asdict(kept) for place, kept in witnesses.items()}, out)
                    out.flush()
                    os.fsync(out.fileno())
                new.replace(file)
                _sync_folder(self._folder)
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull(f"the disk of {self._folder} is full. Free some space. {UNSENT}") from error
            raise UsageError(f"cannot write {file}: {error.strerror}. {ELSEWHERE}") from error

    def try_to_write(self) -> None:
        """Check that the folder is writable: write a test file, then delete it.

        Errors: as `save`.
        """
        probe = self._folder / f".drawdown-doctor-{os.getpid()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with _private(probe) as out:
                    out.write(PROBE)
                    out.flush()
                    os.fsync(out.fileno())
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull(f"the disk of {self._folder} is full. Free some space. {UNSENT}") from error
            raise UsageError(f"cannot write to {self._folder}: {error.strerror}. {ELSEWHERE}") from error

    def _file(self, database_id: str) -> Path:
        return self._folder / f"drawdown-{database_id}.json"

    def _load(self, file: Path) -> dict[str, KeptWitness]:
        """Return the stored checkpoints, by place.

        Errors: UsageError for an unreadable or invalid file.
        """
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if "database_id" in kept:  # an earlier version, without places, wrote this file
                kept = {"": {"last": kept, "since_tick": kept["tick_id"], "since_worker": kept["tick_worker"]}}
            if not kept:
                raise ValueError("the file is empty")
            return {place: _kept_witness(parts) for place, parts in kept.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            keep = "Let this user read the file, because it detects a restored database"
            then = ELSEWHERE if isinstance(error, NotADirectoryError) else keep
            raise UsageError(f"cannot read {file}: {error.strerror}. {then}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"invalid checkpoint {file}. Delete it. If the database may have been restored, "
                "run `drawdown recover --restored`"
            ) from error


def _kept_witness(kept: Mapping[str, Kept]) -> KeptWitness:
    last = kept["last"]
    if not isinstance(last, dict) or set(last) != {part.name for part in fields(Witness)}:
        raise ValueError("another shape")
    witness = Witness(
        _text(last["database_id"]),
        _number(last["number"]),
        _number(last["sends"]),
        _number(last["tick_id"]),
        _text(last["tick_worker"]),
    )
    return KeptWitness(witness, _number(kept["since_tick"]), _text(kept["since_worker"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("another kind of value")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("another kind of value")
    return value


def place_of(connection: sa.Connection) -> str:
    """Return the place of a database: its file, or its server and name, as text.

    A restored backup has the same place, and a copy beside it has another place.
    """
    if connection.dialect.name == "postgresql":
        name = str(SQL.run(connection, "current_database").scalar_one())
        return f"postgresql:{server_of(connection)[0] or ''}/{name}"
    return f"sqlite:{Path(str(connection.engine.url.database)).resolve()}"


def _went_through(connection: sa.Connection, kept: KeptWitness) -> bool:
    """Return True if the database has the first tick of a checkpoint.

    If this tick is 0, the database was recovered at the checkpoint's place before it recorded a first tick.
    """
    return kept.since_tick == 0 or worker_of_tick(connection, kept.since_tick) == kept.since_worker


def _sync_folder(folder: Path) -> None:
    made = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(made)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not offer fsync for a folder
            raise
    finally:
        os.close(made)


def _private(file: Path) -> TextIO:
    """Open a file for writing. For any umask, only this user can read the file."""
    return os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with _private(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


MOUNTS: Final = "/proc/self/mountinfo"
_UNNAMED: Final = re.compile(r"/volumes/[0-9a-f]{64}/_data(/|$)")
"""The path of an unnamed volume, which Docker and Podman name by 64 hexadecimal digits."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def is_on_unnamed_volume(folder: str, mounts: str) -> bool:
    """Return True if a folder is on an unnamed volume.

    A new container gets another volume, so the folder does not survive.

    `mounts`: the text of MOUNTS. This function is pure.
    """
    deepest, its_root = "", ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) < 5:
            continue
        root, point = (_ESCAPED.sub(lambda code: chr(int(code[1], 8)), part) for part in parts[3:5])
        if PurePosixPath(folder).is_relative_to(point) and len(point) >= len(deepest):
            deepest, its_root = point, root
    return _UNNAMED.search(its_root) is not None
