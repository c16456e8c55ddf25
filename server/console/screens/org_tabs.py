"""The other tabs of an organisation: its pushes, halts and limits, assignments, and what people did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask

Tab = Callable[[sa.Connection, Ask], Mapping[str, object]]
TABS: Final[dict[str, Tab]] = {}
