"""Find a file, and return its name, its format, and the hash that identifies it.

Guarantee: Drawdown reads only regular files, never a pipe or a device. In a watched folder, a link cannot lead to a
file outside the folder. Where /proc/self/fd exists, Drawdown reads the opened file that it hashed, even if another
file gets the same name meanwhile. If the file changes or another file gets its name during the read, it is not taken.
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
"""Largest file of usage, in bytes."""
HASH_CHARS: Final = 32
"""Hexadecimal characters of a file's SHA-256 in the batch's id (128 bits)."""
_CHUNK_BYTES: Final = 1 << 20
"""Bytes of a file that one step hashes."""
_OPENED: Final = Path("/proc/self/fd")
"""The folder in which Linux lists the open files of this process by number."""
FORMATS: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PACKED: Final = {".gz": "gzip", ".zst": "zstd"}


class NotNow(Refused):
    """Raised if a file was not taken, for a reason other than its content.

    A retry can succeed.
    """


class TimeUp(NotNow):
    """Raised if a read exceeded its time. A retry takes the same time."""


class Unreadable(UsageError):
    """Raised if this machine cannot access a file, or lacks a package to read it.

    The content of the file may be valid.
    """


class FileChanged(NotNow):
    """Raised if a file was changed or deleted during the read, so it was not taken."""


Bring = Callable[[Path, Event], "FoundFile"]


@dataclass(frozen=True)
class FoundFile:
    """A file that can be read, with its absolute path.

    `size_bytes` and `modified_ns` are those at the time when Drawdown found the file.

    `packed`: the packing (None: not packed). `number`: the descriptor of the opened file (None: it is not open).
    """

    path: Path
    name: str
    format: str
    packed: str | None
    size_bytes: int
    modified_ns: int
    number: int | None = None
    at: str = ""
    """The address of a remote file, such as s3://BUCKET/PREFIX/NAME ('': local)."""
    bring: Bring | None = field(default=None, compare=False, repr=False)
    """The function that copies a remote file into a folder of this machine.

    The copy stops when the event is set. None: the file is local.
    """

    @property
    def place(self) -> str:
        """Return its address or path, as the database stores it."""
        return self.at or str(self.path)

    @property
    def folder(self) -> str:
        return self.at.rpartition("/")[0] if self.at else str(self.path.parent)

    def brought_by(self, bring: Bring) -> FoundFile:
        return replace(self, bring=bring)

    @property
    def opened(self) -> str:
        """Return the path of the opened file, such as /proc/self/fd/5.

        If the system does not have such paths, return the file's own path.
        """
        return str(self.path if self.number is None or not _OPENED.is_dir() else _OPENED / str(self.number))


def found_file(path: Path, *, within: Path | None = None) -> FoundFile:
    """Return a file by its path.

    `within`: the folder that must contain the file after links are resolved.

    Errors: Unreadable. UsageError if the file is outside `within`, is not a regular file, is too large, or has an
    invalid name or a name that does not end with a format.
    """
    try:
        whole = path.resolve(strict=True)
        status = whole.stat()
    except (OSError, RuntimeError) as error:
        raise Unreadable(
            f"{path}: {getattr(error, 'strerror', None) or error}. Name a file that Drawdown can read"
        ) from error
    if within is not None and not whole.is_relative_to(within.resolve()):
        raise UsageError(f"{path}: the file is outside its folder. Move it into the folder")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: not a regular file. Name a file, not a folder or a device")
    if status.st_size > MAX_BATCH_BYTES:
        raise UsageError(f"{path}: the file has more than {MAX_BATCH_BYTES:,} bytes. Split it")
    format_, packed = format_by_name(path.name, str(path))
    return FoundFile(whole, path.name, format_, packed, status.st_size, status.st_mtime_ns)


def format_by_name(name: str, place: str) -> tuple[str, str | None]:
    """Return the format and the packing of a batch's name, as `format_of` does.

    Errors: UsageError for an invalid name or format.
    """
    if not is_clean_id(name):
        raise UsageError(f"invalid batch name {name!r}: expected 1 to 200 characters without control characters")
    format_, packed = format_of(name)
    if format_ is None:
        raise UsageError(
            f"{place}: unknown format. Expected Parquet, CSV or JSON lines, with the ending {', '.join(FORMATS)}"
        )
    return format_, packed


def format_of(name: str) -> tuple[str | None, str | None]:
    """Return the format and the packing that a name ends with.

    Formats are `parquet`, `csv` and `jsonl`. Packings are `gzip` and `zstd`.

    A name without a format or a packing has None in its place. A packed Parquet file has two None, because Drawdown
    does not read it.
    """
    endings = Path(name.lower()).suffixes
    packed = PACKED.get(endings.pop()) if endings and endings[-1] in PACKED else None
    found = FORMATS.get(endings[-1]) if endings else None
    return (None, None) if found == "parquet" and packed else (found, packed)


@contextmanager
def unchanged(file: FoundFile, over: Event | None = None) -> Iterator[tuple[str, FoundFile]]:
    """Yield the hash of a file and the opened file, to read it inside the block.

    `over`: an event that is set when the time is up.

    Errors: FileChanged if the file is deleted, is not a regular file, or changed meanwhile; NotNow if the time is up.
    """
    with _open(file) as number:
        before = _hash(file, number, over)
        try:
            yield before, replace(file, number=number)
        except NotNow:
            raise
        except Refused:
            _require_same(file, number, before, None)  # a half-written file must not be refused for good
            raise
        _require_same(file, number, before, over)


def changed(file: FoundFile, why: str = "the file changed while it was read") -> FileChanged:
    return FileChanged(f"{file.name}: {why}, so Drawdown did not take it. Take the file again")


def _require_same(file: FoundFile, number: int, before: str, over: Event | None) -> None:
    """Check that a file's content is the same, and that its name still belongs to it.

    Errors: as `unchanged`.
    """
    if _hash(file, number, over) != before:
        raise changed(file)
    with _open(file) as again:
        if not os.path.sameopenfile(number, again):
            raise changed(file)


def hash_of(file: FoundFile) -> str:
    """Return the hash of a file.

    Errors: FileChanged if it was deleted or changed since it was found.
    """
    with _open(file) as number:
        return _hash(file, number, None)


@contextmanager
def _open(file: FoundFile) -> Iterator[int]:
    """Open a file and yield its descriptor.

    If a pipe has the file's name now, the call does not wait for the pipe. Errors: FileChanged if the file cannot be
    opened.
    """
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
        raise changed(file, "the file is no longer a regular file")
    if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.modified_ns):
        raise changed(file)
    at = 0
    try:
        while chunk := os.pread(number, _CHUNK_BYTES, at):  # pread does not move the offset that readers share
            digest.update(chunk)
            at += len(chunk)
            if over is not None and over.is_set():
                raise TimeUp(f"{file.name}: the time limit ended before Drawdown had read the file. Split the file")
    except OSError as error:
        raise changed(file, str(error.strerror)) from error
    return digest.hexdigest()[:HASH_CHARS]
