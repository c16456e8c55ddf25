"""A file as it is found: its name, its format, and the hash that identifies it.

Guarantee: only a plain file is read, never a pipe or a device. In a watched folder, no link leads to a file outside it.
A file is opened once, and the checked file is the one that is read, even if its name is given to another meanwhile. A
file that changes while it is read is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Final

from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id

MAX_BATCH_BYTES: Final = 16 * 1024**3
"""Size of one file of usage."""
HASH_CHARS: Final = 32
"""Part of a file's SHA-256 in hexadecimal by which a batch is known: 128 bits."""
_CHUNK_BYTES: Final = 1 << 20
"""Bytes of a file that are hashed at once."""
_OPENED: Final = Path("/proc/self/fd")
"""Under which Linux has, by their numbers, the files that this process opened."""
FORMATS: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PACKED: Final = {".gz": "gzip", ".zst": "zstd"}


class NotNow(Refused):
    """The machine or the moment keeps a file out, not its content: the same may be taken later. Nothing was taken."""


class TimeUp(NotNow):
    """Reading took longer than it may: a tick that tries again takes as long again."""


class Unreadable(UsageError):
    """This machine does not reach the file, or lacks what reads it; nothing is given of its content."""


class FileChanged(NotNow):
    """The file was written, replaced or deleted while it was read: nothing of it was taken."""


Bring = Callable[[Path, Event], "FoundFile"]


@dataclass(frozen=True)
class FoundFile:
    """A file that may be read: its whole path, and its size and times when it was found.

    `number`: of the opened file.
    """

    path: Path
    name: str
    format: str
    packed: str | None
    size_bytes: int
    modified_ns: int
    number: int | None = None
    at: str = ""
    """Its place, if not in a folder of this machine."""
    bring: Bring | None = field(default=None, compare=False, repr=False)
    """Brings a file from elsewhere into a folder of this machine, within a time."""

    @property
    def place(self) -> str:
        """Its place, as it is stored."""
        return self.at or str(self.path)

    @property
    def folder(self) -> str:
        return self.at.rpartition("/")[0] if self.at else str(self.path.parent)

    def brought_by(self, bring: Bring) -> FoundFile:
        return replace(self, bring=bring)

    @property
    def opened(self) -> str:
        """The path of the file that was looked at; if the system has no such path, the file at its place now."""
        return str(self.path if self.number is None or not _OPENED.is_dir() else _OPENED / str(self.number))


def found_file(path: Path, *, within: Path | None = None) -> FoundFile:
    """Return a file by its path; `within`: the folder that must hold it, after links are followed.

    Errors: Unreadable; UsageError if it is not a plain file, is too large, or its name has no format.
    """
    try:
        whole = path.resolve(strict=True)
        status = whole.stat()
    except (OSError, RuntimeError) as error:
        raise Unreadable(
            f"{path}: {getattr(error, 'strerror', None) or error}. Name a file that Drawdown can read"
        ) from error
    if within is not None and not whole.is_relative_to(within.resolve()):
        raise UsageError(f"{path}: the file is outside its folder")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: not a regular file")
    if status.st_size > MAX_BATCH_BYTES:
        raise UsageError(f"{path}: the file has more than {MAX_BATCH_BYTES:,} bytes. Split it")
    format_, packed = format_by_name(path.name, str(path))
    return FoundFile(whole, path.name, format_, packed, status.st_size, status.st_mtime_ns)


def format_by_name(name: str, place: str) -> tuple[str, str | None]:
    """As `format_of`. Errors: UsageError for a name that no batch may have."""
    if not is_clean_id(name):
        raise UsageError(f"invalid batch name {name!r}: expected 1 to 200 characters without control characters")
    format_, packed = format_of(name)
    if format_ is None:
        raise UsageError(
            f"{place}: unknown format. Expected Parquet, CSV or JSON lines, with the ending {', '.join(FORMATS)}"
        )
    return format_, packed


def format_of(name: str) -> tuple[str | None, str | None]:
    """Return `parquet`, `csv` or `jsonl`, and `gzip` or `zstd`; None for each that the name does not have."""
    endings = Path(name.lower()).suffixes
    packed = PACKED.get(endings.pop()) if endings and endings[-1] in PACKED else None
    found = FORMATS.get(endings[-1]) if endings else None
    return (None, None) if found == "parquet" and packed else (found, packed)


@contextmanager
def unchanged(file: FoundFile, over: Event | None = None) -> Iterator[tuple[str, FoundFile]]:
    """Yield the hash of a file and the opened file, to be read meanwhile. `over` is set when its time is up.

    Errors: FileChanged if it is gone, is not a plain file, or changed meanwhile; NotNow once its time is up.
    """
    with _open(file) as number:
        before = _hash(file, number, over)
        try:
            yield before, replace(file, number=number)
        except NotNow:
            raise
        except Refused:
            _require_same(file, number, before, None)  # what was half-written says nothing of what it will be
            raise
        _require_same(file, number, before, over)


def changed(file: FoundFile, why: str = "the file changed while it was read") -> FileChanged:
    return FileChanged(f"{file.name}: {why}; nothing was taken. Take the file again")


def _require_same(file: FoundFile, number: int, before: str, over: Event | None) -> None:
    """By content, and by its name: another may lie there. Errors: as `unchanged`."""
    if _hash(file, number, over) != before:
        raise changed(file)
    with _open(file) as again:
        if not os.path.sameopenfile(number, again):
            raise changed(file)


def hash_of(file: FoundFile) -> str:
    """Return the hash of a file. Errors: FileChanged if it is gone or has changed since it was found."""
    with _open(file) as number:
        return _hash(file, number, None)


@contextmanager
def _open(file: FoundFile) -> Iterator[int]:
    """By its number, as it was found. No pipe that was put in its place is waited for."""
    try:
        number = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise changed(file, str(error.strerror)) from error
    try:
        yield number
    finally:
        os.close(number)


def _hash(file: FoundFile, number: int, over: Event | None) -> str:
    digest = hashlib.sha256()
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        raise changed(file, "not a regular file any more")
    if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.modified_ns):
        raise changed(file)
    at = 0
    try:
        while chunk := os.pread(number, _CHUNK_BYTES, at):  # no offset is moved that another reader shares
            digest.update(chunk)
            at += len(chunk)
            if over is not None and over.is_set():
                raise TimeUp(f"{file.name}: the time limit ended before the file was read. Split the file")
    except OSError as error:
        raise changed(file, str(error.strerror)) from error
    return digest.hexdigest()[:HASH_CHARS]
