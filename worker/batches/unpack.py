"""A file that is packed: one by zstd is unpacked before it is read, since DuckDB would read one that was cut off as if
it had ended there; one by gzip is measured before DuckDB unpacks it.

Guarantee: it is unpacked whole, or refused: cut off, with anything behind its last frame, beyond what is named here, or
packed so that unpacking would take more memory than is named here. Frames one after another are one file.
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Final

from drawdown.schema.errors import Refused
from drawdown.worker.batches.files import FoundFile, NotNow, TimeUp, Unreadable

MAX_UNPACKED_BYTES: Final = 8 * 1024**3
"""Of a `.zst` it lies in the folder for what spills while it is read."""
GZIP_RATIO: Final = 1_032
"""The most that a byte of gzip unpacks to."""
MAX_WINDOW_LOG: Final = 27
"""Of the 128 MiB that unpacking holds in memory; beyond it packs who asks for it (`zstd --ultra`, `--long`)."""
_CHUNK_BYTES: Final = 1 << 20
_PACKED_BYTES: Final = 1 << 16
_GZIP: Final = 16 + zlib.MAX_WBITS


def unpacked(file: FoundFile, folder: Path, over: Event) -> FoundFile:
    """What is to be read of a file that was opened: itself, or what is packed in it by zstd. One that is packed by gzip
    is measured.

    Errors: Refused; Unreadable where what unpacks is not installed; NotNow once its time is up, and for what
    keeps the disk from it."""
    if file.packed == "gzip":
        _measure_gzip(file, over)
    return _unpacked_zstd(file, folder, over) if file.packed == "zstd" else file


def _measure_gzip(file: FoundFile, over: Event) -> None:
    """Insist that it unpacks to no more than a file may, before DuckDB reads it. What is broken, DuckDB says. A small
    one cannot unpack to so much. Errors: Refused; NotNow."""
    if file.size_bytes * GZIP_RATIO <= MAX_UNPACKED_BYTES:
        return
    left = MAX_UNPACKED_BYTES
    try:
        with Path(file.opened).open("rb") as packed:
            member, behind = zlib.decompressobj(_GZIP), b""
            while chunk := behind or packed.read(_PACKED_BYTES):
                left -= len(member.decompress(chunk, _CHUNK_BYTES))
                behind = member.unconsumed_tail or member.unused_data
                if left < 0:
                    raise _too_large(file)
                if over.is_set():
                    raise _too_late(file)
                if member.eof:
                    member = zlib.decompressobj(_GZIP)
    except zlib.error:
        return
    except OSError as error:
        raise NotNow(f"{file.name}: cannot be unpacked here: {error.strerror or error}") from error


def _unpacked_zstd(file: FoundFile, folder: Path, over: Event) -> FoundFile:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise Unreadable("a .zst is unpacked by backports.zstd: install drawdown[columnar]") from error
    path = folder / f"unpacked.{file.format}"
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    left = MAX_UNPACKED_BYTES
    try:
        with (
            Path(file.opened).open("rb") as packed,
            zstd.ZstdFile(packed, options=options) as frames,
            path.open("wb") as written,
        ):
            while chunk := frames.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise _too_large(file)
                if over.is_set():
                    raise _too_late(file)
                written.write(chunk)
    except EOFError as error:
        raise Refused(f"{file.name}: is cut off: its last frame of zstd has no end") from error
    except zstd.ZstdError as error:
        raise Refused(f"{file.name}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise NotNow(f"{file.name}: cannot be unpacked here: {error.strerror or error}") from error
    return replace(file, path=path, packed=None, size_bytes=path.stat().st_size, number=None)


def _too_large(file: FoundFile) -> Refused:
    return Refused(f"{file.name}: unpacked, it has more than {MAX_UNPACKED_BYTES:,} bytes: split it")


def _too_late(file: FoundFile) -> TimeUp:
    return TimeUp(f"{file.name}: its time was up before it was unpacked: split it")
