"""The process's streams. Guarantee: one that is closed, full or broken stops nothing and changes no exit status."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from drawdown.schema.text import clean


def open_missing() -> None:
    """Open what the caller closed, as some schedulers do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 for as long as we live


def fail(text: str, status: int, *, as_json: bool) -> int:
    """Say one line on stderr, whatever ids and messages hold, and one object on stdout; returns the exit status."""
    with suppress(OSError, ValueError):
        if as_json:
            print(json.dumps({"error": text, "exit_status": status}), flush=True)
    Stderr().write(f"drawdown: {clean(text)}\n")
    return status


class Stderr:
    """stderr for logs and messages."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
