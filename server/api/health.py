"""Whether this process can be used. Guarantee: /healthz reads nothing outside the process; /readyz says no while the
database cannot be reached, has another schema, or has its history in doubt (R1), also before that is written down."""

from __future__ import annotations

import asyncio
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.errors import DrawdownError
from drawdown.schema.migrate import require_ready
from drawdown.server.http.errors import ApiError
from drawdown.server.http.restores import Restores
from drawdown.server.http.threads import Threads

WITHIN_S: Final = 5.0


async def require_readiness(threads: Threads, restores: Restores) -> None:
    """Errors: ApiError 503, with the reason."""

    def doubt(engine: sa.Engine) -> str | None:
        read(engine, require_ready)
        return restores.doubt(engine)

    try:
        doubted = await asyncio.wait_for(threads.run(doubt), WITHIN_S)
    except DrawdownError:
        raise ApiError(503, "database", "the database cannot be used, or is not of this program's version") from None
    except Exception:
        raise ApiError(503, "database", "the database does not answer") from None
    if doubted is not None:
        raise ApiError(503, "history_doubted", "the database's history is in doubt: `drawdown recover`")
