"""Why a cell has not taken a halt, in words that are recognised again."""

from __future__ import annotations

from typing import Final

NOT_ALLOWED: Final = "is not on the allow-list (DRAWDOWN_CELL_ORIGINS)"
UNSIGNED: Final = "no secret to sign with: set DRAWDOWN_CELL_SECRET"
NOT_CALLED: Final = "not called unless"
"""Of an address that no network allows."""
ANSWERED: Final = "the cell answered"
"""How an error begins if the cell was reached and refused."""
