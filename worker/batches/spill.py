"""Folders for what reading a file leaves on the disk meanwhile.

Guarantee: what a reading left whose process was killed is removed by the next one; nothing is of one that goes on.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "drawdown-batch-"


@contextmanager
def spill_folder() -> Iterator[str]:
    """A folder of this reading's own. Errors: OSError."""
    _remove_left(Path(tempfile.gettempdir()))
    while True:
        made = tempfile.mkdtemp(prefix=PREFIX)
        lock = _locked(made)
        if lock is not None:
            break  # else another reading took it for one that was left, in between
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _remove_left(folder: Path) -> None:
    """A lock ends with its process."""
    for left in folder.glob(f"{PREFIX}*"):
        lock = _locked(str(left))
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(folder: str) -> int | None:
    """None where another has it, or it is no folder of ours, or gone."""
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_nlink:  # one that was removed before it was locked is nobody's
                    return lock
        except OSError:
            pass
        os.close(lock)
    return None
