"""From files to lines: opening, unpacking, decoding, none of them without an end."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.worker.sources.samples.rows import Sample
from drawdown.worker.sources.samples.values import BadRow

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN: Final = "-"


MAX_LINE_BYTES: Final = 1 << 20


MAX_PASSED_OVER_BYTES: Final = 64 << 20
"""Of a line that is too long: one without an end, as /dev/zero or a packed file may hold, ends the import."""


MAX_BLANK_BYTES: Final = 1 << 20
"""Of blank lines in a row, once they are unpacked: a small packed file may hold them for hours."""


MAX_FILE_LINES: Final = 10**9
"""Of one file: a stream without an end ends, too; a larger file can be given in parts."""


Record = tuple[int, bytes, Sample | BadRow]
"""The number of its first line, its bytes, and what came of it."""


_BOM: Final = b"\xef\xbb\xbf"
_AGAIN: Final = "mend the file and give all of it again, nothing is counted twice"


def unzipped(name: str) -> Path:
    path = Path(name)
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


class _Counted(io.RawIOBase):
    """Counts the bytes that are read of a file before they are unpacked."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        size = cast(io.BufferedIOBase, self._raw).readinto(buffer)
        self.count += size
        return size


class Lines:
    """The lines of a file with their numbers; a line may be put back.

    Errors: DrawdownError where the file cannot be read to its end.
    """

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self.name = name
        self._number = 0
        self._blank_bytes = 0
        self._back: deque[tuple[int, bytes]] = deque()
        self._counted = _Counted(raw)
        buffered = io.BufferedReader(self._counted, MAX_LINE_BYTES)
        packed = buffered.peek(2)[:2] == b"\x1f\x8b"
        self._stream: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=buffered)) if packed else buffered

    @property
    def bytes_read(self) -> int:
        """Bytes taken from the file itself, before they are unpacked."""
        return self._counted.count

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self

    def __next__(self) -> tuple[int, bytes]:
        if self._back:
            return self._back.popleft()
        raw = self._line()
        if not raw:
            raise StopIteration
        self._number += 1
        if self._number > MAX_FILE_LINES:
            raise DrawdownError(f"{self.name}: more than {MAX_FILE_LINES:,} lines; give the rest as a file of its own")
        self._blank_bytes = self._blank_bytes + len(raw) if is_blank(raw) else 0
        if self._blank_bytes > MAX_BLANK_BYTES:
            raise DrawdownError(
                f"{self.name}: more than {MAX_BLANK_BYTES >> 20} MiB of blank lines up to line {self._number}: it is "
                f"no file of samples or events; {_AGAIN}"
            )
        if self._number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        return self._number, raw

    def put_back(self, lines: list[tuple[int, bytes]]) -> None:
        """These come next, in this order."""
        self._back.extendleft(reversed(lines))

    def _line(self) -> bytes:
        """The next line with its end; of one that is too long a byte too many, and the rest is passed over."""
        try:
            raw = rest = self._stream.readline(MAX_LINE_BYTES + 1)
            passed = 0
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = self._stream.readline(MAX_LINE_BYTES + 1)
                passed += len(rest)
                if passed > MAX_PASSED_OVER_BYTES:
                    raise DrawdownError(
                        f"{self.name}: line {self._number + 1} does not end within {MAX_PASSED_OVER_BYTES >> 20} MiB: "
                        f"it is no file of samples or events; {_AGAIN}"
                    )
            return raw
        except (OSError, EOFError, zlib.error) as error:
            raise DrawdownError(
                f"{self.name}: cannot be read beyond line {self._number} ({error}); {_AGAIN}"
            ) from error


@contextmanager
def open_lines(name: str, stdin: BinaryIO | None = None) -> Iterator[Lines]:
    """The lines of a file, or of standard input for `-`; gzip is known by its first bytes.

    Errors: UsageError where there is no such file, it may not be read, or it is empty.
    """
    if name == STDIN:
        yield _begun(Lines(name, stdin if stdin is not None else sys.stdin.buffer))
        return
    try:
        raw = Path(name).open("rb")  # noqa: SIM115 -- closed below
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: {getattr(error, 'strerror', None) or error}; give a file that can be read"
        ) from error
    with raw:
        yield _begun(Lines(name, raw))


def _begun(lines: Lines) -> Lines:
    first = next(lines, None)
    if first is None or (first[1] == b""):
        raise UsageError(f"{lines.name}: is empty; give a file with samples, or events")
    lines.put_back([first])
    return lines


def is_blank(raw: bytes) -> bool:
    return not raw.strip(b"\r\n")


def text_of(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise BadRow("", "line_too_long")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRow("", "not_utf8") from error
