"""Handle the standard streams of the process.

Guarantee: a closed, full or broken stream does not stop work or change the exit status. There are two exceptions. A
command that prints a file fails if the disk is full (`print_file`). A command that shows a secret once fails if it
could not show the secret (`require_shown`).
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drawdown.schema.errors import DrawdownError, Exit
from drawdown.schema.text import clean

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_GONE: Final[tuple[int, ...]] = (errno.EPIPE, errno.EBADF)
"""Error numbers of a stream that its reader closed. Drawdown does not report this lost output."""


class Stdout(io.FileIO):
    """The stream of results, which drops all output after the first failed write."""

    lost: OSError | None = None
    told = False
    """True if the command reported the lost output."""

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override] # None: it would block
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def open_missing() -> None:
    """Open the streams that the caller closed, as some schedulers do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 for as long as we live


def keep_stdout(*, closed: bool) -> None:
    """Make this process's stdout drop output that it cannot write.

    `closed`: True if the caller closed stdout. Then drop all output.
    """
    given = sys.stdout
    raw = Stdout(given.fileno(), "w", closefd=False)
    raw.lost = OSError(errno.EBADF, "stdout is closed") if closed else None
    lines = isinstance(given, io.TextIOWrapper) and given.line_buffering
    buffer = io.BufferedWriter(raw)
    sys.stdout = io.TextIOWrapper(buffer, encoding=given.encoding, errors=given.errors, line_buffering=lines)


def say_what_was_lost() -> None:
    """Report lost output on stderr at the end of a command.

    The function does not report a loss if the reader closed the stream.
    """
    raw = _flushed()
    if raw is not None and raw.lost is not None and raw.lost.errno not in READER_GONE and not raw.told:
        why = f"the output could not be written: {raw.lost.strerror}"
        Stderr().write(f"drawdown: {why}; the command's changes stay. The exit status shows the outcome\n")


def require_shown(told: str) -> None:
    """Check that the output was written, before a command with a secret ends.

    Errors: DrawdownError with the text `told` if the output was not written.
    """
    _require(_flushed(), told, ())


def print_file(parts: Iterable[str]) -> None:
    """Print the parts of a file.

    If the reader closes the stream, the function stops without an error. Errors: DrawdownError if the file is
    incomplete for another reason.
    """
    raw = _raw()
    for part in parts:
        sys.stdout.write(part)
        if raw is not None and raw.lost is not None:
            break
    _require(
        _flushed(), "this file is incomplete, because the rest could not be written. Repeat the command", READER_GONE
    )


def _raw() -> Stdout | None:
    found = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return found if isinstance(found, Stdout) else None


def _flushed() -> Stdout | None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    return _raw()


def _require(raw: Stdout | None, told: str, pardoned: Container[int | None]) -> None:
    if raw is not None and raw.lost is not None and raw.lost.errno not in pardoned:
        raw.told = True
        raise DrawdownError(f"{told} ({raw.lost.strerror})")


@dataclass(frozen=True)
class Fault:
    """The message, exit status and code of a failed command.

    `step`: the step of the permission order that refused, if any.
    """

    text: str
    status: int
    code: str
    step: str | None = None


def as_error(fault: Fault) -> DrawdownError:
    """Return this fault as an error, after another process of the command failed."""
    error = DrawdownError(fault.text)
    error.exit_status, error.code, error.step = Exit(fault.status), fault.code, fault.step
    return error


def fail(fault: Fault, *, as_json: bool) -> int:
    """Print a fault as one line on stderr and, for programs, one object on stdout.

    Unprintable characters of the line are escaped. Return the exit status.
    """
    with suppress(OSError, ValueError):
        if as_json:
            step = {} if fault.step is None else {"step": fault.step}
            told = {"error": fault.text, "code": fault.code, **step, "exit_status": fault.status}
            print(json.dumps(told), flush=True)
    Stderr().write(f"drawdown: {clean(fault.text)}\n")
    return fault.status


class Stderr:
    """The stream of logs and messages."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
