"""A file as it lies there: what it is called, how it is written, and the hash by which it is known.

Guarantee: only a plain file is read, never a pipe or a device, and of a watched folder nothing that a link leads out of
it to. A file that is not the same before and after it was read is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id

MAX_BATCH_BYTES: Final = 16 * 1024**3
HASH_CHARS: Final = 32
"""Of a SHA-256 in hexadecimal: 128 bits, by which a batch is known."""
_CHUNK_BYTES: Final = 1 << 20
FORMATS: Final = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PACKED: Final = {".gz": "gzip", ".zst": "zstd"}


class NotNow(Refused):
    """The machine or the moment keeps a file out, not its content: the same may be taken later. Nothing was taken."""


class Unreadable(UsageError):
    """This machine does not reach the file, or lacks what reads it; nothing is said of its content."""


class FileChanged(NotNow):
    """The file was written, replaced or deleted while it was read: nothing of it was taken."""


@dataclass(frozen=True)
class FoundFile:
    """A file that may be read: its whole path, and how it stood when it was found."""

    path: Path
    name: str
    format: str
    packed: str | None
    size_bytes: int
    modified_ns: int


def found_file(path: Path, *, within: Path | None = None) -> FoundFile:
    """A file by its path; `within`: the folder that it has to lie in, whatever links say.

    Errors: Unreadable; UsageError for what is no plain file, too large, packed by zstd, or named without a format.
    """
    try:
        whole = path.resolve(strict=True)
        status = whole.stat()
    except (OSError, RuntimeError) as error:
        raise Unreadable(
            f"{path}: {getattr(error, 'strerror', None) or error}; name a file that can be read"
        ) from error
    if within is not None and not whole.is_relative_to(within.resolve()):
        raise UsageError(f"{path}: leads out of its folder")
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path}: is no plain file")
    if status.st_size > MAX_BATCH_BYTES:
        raise UsageError(f"{path}: has more than {MAX_BATCH_BYTES:,} bytes; split it")
    if not is_clean_id(path.name):
        raise UsageError(f"{path.name!r}: a batch's name has 1 to 200 characters, none of them control characters")
    format_, packed = format_of(path.name)
    if format_ is None:
        raise UsageError(f"{path}: is it Parquet, CSV or JSON lines? Its name ends with none of {', '.join(FORMATS)}")
    if packed == "zstd":  # DuckDB reads a stream that was cut off as if it had ended there
        raise UsageError(f"{path}: a .zst that was cut off cannot be told from a whole one: give it as .gz, or Parquet")
    return FoundFile(whole, path.name, format_, packed, status.st_size, status.st_mtime_ns)


def format_of(name: str) -> tuple[str | None, str | None]:
    """`parquet`, `csv` or `jsonl`, and `gzip` or `zstd`; None where the name says neither."""
    endings = Path(name.lower()).suffixes
    packed = PACKED.get(endings.pop()) if endings and endings[-1] in PACKED else None
    found = FORMATS.get(endings[-1]) if endings else None
    return (None, None) if found == "parquet" and packed else (found, packed)


@contextmanager
def unchanged(file: FoundFile) -> Iterator[str]:
    """The hash of a file that is read meanwhile. Errors: FileChanged where it is not the same afterwards."""
    before = hash_of(file)
    yield before
    if hash_of(file) != before:
        raise FileChanged(f"{file.name}: was written while it was read; nothing was taken: take it again")


def hash_of(file: FoundFile) -> str:
    """Errors: FileChanged where it is gone, or no longer as it was found."""
    digest = hashlib.sha256()
    try:
        with file.path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.modified_ns):
                raise FileChanged(f"{file.name}: was written while it was read; nothing was taken: take it again")
            while chunk := opened.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise FileChanged(f"{file.name}: {error.strerror}; nothing was taken: take it again") from error
    return digest.hexdigest()[:HASH_CHARS]
