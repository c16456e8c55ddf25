"""Serve the health of this process.

Guarantee: /healthz reads only the process itself. /readyz fails while the database is unavailable, has another schema,
or may have lost history (R1). It does not wait until a process records this doubt.
"""

from __future__ import annotations

import asyncio
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.errors import DrawdownError
from drawdown.schema.migrate import require_ready
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services

WITHIN_S: Final = 5.0
"""Longest time that /readyz waits for the database."""
AT_ONCE: Final = 1
"""Concurrent checks of the database, on their own thread."""


class Readiness:
    """The readiness of one process. Concurrent callers share one check."""

    def __init__(self, services: Services) -> None:
        self._restores = services.restores
        self._threads = Threads(services.engine, services.restores, AT_ONCE, "health")
        self._looking: asyncio.Task[str | None] | None = None

    def close(self) -> None:
        self._threads.close()

    async def require(self) -> None:
        """Check that the database is ready. Errors: ApiError 503, with the reason."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._threads.run(self._doubt))
        try:
            doubted = await asyncio.wait_for(asyncio.shield(self._looking), WITHIN_S)
        except DrawdownError:
            text = "the database is unavailable, or its schema has another version. Run `drawdown doctor`"
            raise ApiError(503, "database", text) from None
        except Exception:
            raise ApiError(
                503, "database", "the database does not answer. Try again, or run `drawdown doctor`"
            ) from None
        if doubted is not None:
            raise ApiError(
                503, "history_doubted", "the database history may be lost. Ask the operator to run `drawdown recover`"
            )

    def _doubt(self, engine: sa.Engine) -> str | None:
        read(engine, require_ready)
        return self._restores.doubt(engine)
