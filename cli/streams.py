"""The process's streams.

Guarantee: one that is closed, full or broken stops nothing, and changes no exit status: what was done is done. Two
things are the printing itself, and fail with it: a file that is printed, where its disk is full (`print_file`); and a
secret that is shown once (`require_shown`).
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

LEFT: Final[tuple[int, ...]] = (errno.EPIPE, errno.EBADF)
"""Errors after which the reader is gone, or never existed: it wanted no more."""


class Stdout(io.FileIO):
    """stdout for results. From the first write that fails on, all that is written is dropped."""

    lost: OSError | None = None
    told = False
    """Why it failed was said."""

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override] # None: it would block
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def open_missing() -> None:
    """Open what the caller closed, as some schedulers do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 for as long as we live


def keep_stdout(*, closed: bool) -> None:
    """Have this process's stdout drop what it cannot write; `closed`: all of it."""
    given = sys.stdout
    raw = Stdout(given.fileno(), "w", closefd=False)
    raw.lost = OSError(errno.EBADF, "stdout is closed") if closed else None
    lines = isinstance(given, io.TextIOWrapper) and given.line_buffering
    buffer = io.BufferedWriter(raw)
    sys.stdout = io.TextIOWrapper(buffer, encoding=given.encoding, errors=given.errors, line_buffering=lines)


def say_what_was_lost() -> None:
    """At the end of a command, print a line on stderr if its output was lost; nothing if the reader left."""
    raw = _flushed()
    if raw is not None and raw.lost is not None and raw.lost.errno not in LEFT and not raw.told:
        why = f"the output could not be written: {raw.lost.strerror}"
        Stderr().write(f"drawdown: {why}; the command's changes stay. The exit status shows the outcome\n")


def require_shown(told: str) -> None:
    """Insist that the last output went out: it is shown once.

    Errors: DrawdownError, with the text `told`, if it did not.
    """
    _require(_flushed(), told, ())


def print_file(parts: Iterable[str]) -> None:
    """Print a result that is kept as a file. If the reader leaves, the rest is left out.

    Errors: DrawdownError if the file is not whole for another reason.
    """
    raw = _raw()
    for part in parts:
        sys.stdout.write(part)
        if raw is not None and raw.lost is not None:
            break
    _require(_flushed(), "this file is incomplete, because the rest could not be written. Repeat the command", LEFT)


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
    """A failed command's message: a line for people, the exit status, and for programs a code.

    `step`: the step of the permission order that refused, if there is one.
    """

    text: str
    status: int
    code: str
    step: str | None = None


def as_error(fault: Fault) -> DrawdownError:
    """Return the fault of another process of this command as an error."""
    error = DrawdownError(fault.text)
    error.exit_status, error.code, error.step = Exit(fault.status), fault.code, fault.step
    return error


def fail(fault: Fault, *, as_json: bool) -> int:
    """Say one line on stderr, whatever ids and messages hold, and one object on stdout; returns the exit status."""
    with suppress(OSError, ValueError):
        if as_json:
            step = {} if fault.step is None else {"step": fault.step}
            told = {"error": fault.text, "code": fault.code, **step, "exit_status": fault.status}
            print(json.dumps(told), flush=True)
    Stderr().write(f"drawdown: {clean(fault.text)}\n")
    return fault.status


class Stderr:
    """stderr for logs and messages."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
