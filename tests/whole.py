"""Choose between the fixed representative of a long table, for `make test`, and the whole, for `make test-whole`."""

from __future__ import annotations

import os
from typing import Final, TypeVar

WHOLE: Final = os.environ.get("DRAWDOWN_TEST_WHOLE") == "1"
_T = TypeVar("_T")


def share(part: _T, *, whole: _T) -> _T:
    """The part of every day, or the whole."""
    return whole if WHOLE else part
