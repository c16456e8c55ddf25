"""The process's streams. Guarantee: one that is closed, full or broken stops nothing and changes no exit status."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drawdown.schema.errors import DrawdownError, Exit
from drawdown.schema.text import clean


def open_missing() -> None:
    """Open what the caller closed, as some schedulers do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 for as long as we live


@dataclass(frozen=True)
class Fault:
    """What a command that failed says: a line for people, the exit status, and for programs a code, with the step of
    the permission order that said no, where one did."""

    text: str
    status: int
    code: str
    step: str | None = None


def as_error(fault: Fault) -> DrawdownError:
    """What another process of this command failed by, raised again here."""
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
