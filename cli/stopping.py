"""The handling of a signal to end.

Guarantee: the signal's handler takes no lock, neither the log's nor an event's: the thread that it interrupts may hold
it, and would wait for itself. The signal is logged by the code that waits for it.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Final

import structlog

log = structlog.get_logger()

LOOK_S: Final = 0.1
"""Between two looks at the flag."""


class Stopping:
    """A plain flag; empty until a signal came. `parent`: the process whose end is told like a signal."""

    def __init__(self, parent: int | None = None) -> None:
        self._signal = ""
        self._parent = parent

    def on_signals(self) -> None:
        """Have SIGTERM and SIGINT end between two effects."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)

    def _told(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def end(self) -> None:
        """End without a signal."""
        self._signal = "none"

    def is_set(self) -> bool:
        if not self._signal and self._parent is not None and os.getppid() != self._parent:
            self._signal = "none: the command is gone"
        return bool(self._signal)

    def wait(self, seconds: float | None = None) -> None:
        """Until then, or for so long."""
        ends = None if seconds is None else time.monotonic() + seconds
        while not self.is_set() and (ends is None or time.monotonic() < ends):
            time.sleep(LOOK_S if ends is None else max(0.0, min(LOOK_S, ends - time.monotonic())))
        if self._signal:
            log.info("stopping", signal=self._signal)
