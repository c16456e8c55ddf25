"""Choose between the fixed representative of a long table, for `make test`, and the whole, for `make test-whole`."""

from __future__ import annotations

import os
from typing import Final, TypeVar

import pytest

WHOLE: Final = os.environ.get("DRAWDOWN_TEST_WHOLE") == "1"
_T = TypeVar("_T")


def share(part: _T, *, whole: _T) -> _T:
    """The part of every day, or the whole."""
    return whole if WHOLE else part


def at_length(command: str) -> pytest.MarkDecorator:
    """Of a test that takes long by its nature, and is left to a command of its own."""
    return pytest.mark.skipif(not WHOLE, reason=f"at length: {command}")
