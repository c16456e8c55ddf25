"""A server with a console, in a process of its own, at the moment of `console_fleet`.

python -m tests.benchmarks.console_server URL: prints its port. Each answer says in `x-statements` how many statements
of the console's own connections were run since the one before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
import structlog

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.server.app import Server
from drawdown.server.http import listen
from tests.benchmarks.case_gate import services
from tests.benchmarks.console_fleet import NOW

NOT_COUNTED = re.compile(r"(BEGIN|SET|PRAGMA|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)")
"""What makes the transaction that a page reads in."""


def counted(engine: sa.Engine) -> list[str]:
    """The statements that pages make, as they are made."""
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not NOT_COUNTED.match(statement.lstrip()):
            seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    return seen


def _saying(app: Any, seen: list[str]) -> Callable[..., Awaitable[None]]:
    async def wrapped(scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Any]) -> None:
        before = len(seen)

        async def said(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-statements", str(len(seen) - before).encode())]
            await send(message)

        await app(scope, receive, said)

    return wrapped


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    url = sys.argv[1]
    console = connect(url)
    listening = listen.bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    made = services(connect(url))
    settings = replace(made.settings, console_url=f"http://127.0.0.1:{port}")
    server = Server(replace(made, clock=FixedClock(NOW), settings=settings, console_engine=console))
    server.app = _saying(server.app, counted(console))  # type: ignore[assignment]
    print(port, flush=True)
    listen.serve(server, listening, "")


if __name__ == "__main__":
    main()
