"""Settings that are given as files, as containers mount secrets: DRAWDOWN_…_FILE=/path.

Guarantee: a file that cannot be used is named with its setting, and its content never. If a file turns bad while the
process runs, the process keeps the last good content, and the log tells the fault once, and its mending once.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from drawdown.schema.errors import UsageError

log = structlog.get_logger()

SUFFIX: Final = "_FILE"
MAX_BYTES: Final = 128 * 1024
"""As much as one environment variable may hold on Linux."""

Check = Callable[[str, str | None], object]
"""Looks at what a file holds now and, once the process runs, at what it held before. Errors: UsageError."""


@dataclass
class _File:
    """One of them. `text` is what is used, `trouble` why that is not what the file holds."""

    variable: str
    path: Path
    check: Check | None
    text: str = field(repr=False)
    trouble: str | None = None

    def read_again(self) -> None:
        try:
            text = _checked(self.path, self.check, self.text)
        except UsageError as error:
            if self.trouble != str(error):
                log.error("settings_file_bad", setting=self.variable, reason=str(error), used="what it held before")
            self.trouble = str(error)
            return
        if self.trouble is not None or text != self.text:
            log.info("settings_file_taken", setting=self.variable)
        self.text, self.trouble = text, None


class SecretFiles:
    """The files of one process, shared by its threads. `texts`: what they hold, by setting; another mapping once
    something has changed."""

    def __init__(self, paths: Mapping[str, str] | None = None, checks: Mapping[str, Check] | None = None) -> None:
        """`paths` and `checks` by setting, in lower case without the prefix. Errors: UsageError."""
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        for name, path in (paths or {}).items():
            variable, check = f"DRAWDOWN_{name.upper()}{SUFFIX}", (checks or {}).get(name)
            try:
                text = _checked(Path(path), check, None)
            except UsageError as error:
                raise UsageError(f"{variable}: {error}") from None  # what was read is in nothing that is told
            self._files[name] = _File(variable, Path(path), check, text)
        self.texts: Mapping[str, str] = self._texts()

    @property
    def paths(self) -> Mapping[str, Path]:
        return {file.variable: file.path for file in self._files.values()}

    def read_again(self) -> None:
        """Look whether anything has changed."""
        with self._lock:
            for file in self._files.values():
                file.read_again()
            found = self._texts()
            if found != self.texts:
                self.texts = found

    def _texts(self) -> Mapping[str, str]:
        return {name: file.text for name, file in self._files.items()}


def _checked(path: Path, check: Check | None, was: str | None) -> str:
    text = _read(path)
    if check is not None:
        check(text, was)
    return text


def _read(path: Path) -> str:
    """What a file holds, without the line's end. Errors: UsageError, which quotes nothing of it."""
    try:
        found = _bytes(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no such name'}") from None
    if len(found) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES:,} bytes")
    try:
        text = found.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None
    if not text.strip():
        raise UsageError(f"{path} is empty")
    return text


def _bytes(path: Path) -> bytes:
    """One more than there may be, where there are so many. Errors: OSError, UsageError."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would never open
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise UsageError(f"{path} is no regular file")
        with os.fdopen(number, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(number)
