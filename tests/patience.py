"""Bounds of real time that a machine which does much else would reach: tests that are not of a bound wait longer.

A test of one sets it by itself. What an answer may take is measured by `make bench`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from drawdown.schema.units import SECOND_MS
from drawdown.server.api import fail_open, gate, health, programs
from drawdown.server.console import action_forms, console, my
from drawdown.server.usage import intake

PATIENT_S: Final = 60.0


@contextmanager
def patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "READ_WITHIN_S", PATIENT_S)
        patch.setattr(gate, "FRESH_WITHIN_S", PATIENT_S)
        patch.setattr(programs, "LOCK_WAIT_MS", int(PATIENT_S * SECOND_MS))
        for module in (health, fail_open, programs, intake, console, action_forms, my):
            patch.setattr(module, "WITHIN_S", PATIENT_S)
        yield
