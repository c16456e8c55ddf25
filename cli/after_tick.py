"""The traces of a one-shot tick for monitoring: metrics in a file, a ping to a URL.

Guarantee: neither changes the result of the tick. The file is whole at each moment; but by a kill, nothing is left
beside it. The URL, which often holds a secret, is in no log.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import structlog

from drawdown.cli.app import App
from drawdown.providers.http import Answer, Call
from drawdown.worker.engine.runner import ask

log = structlog.get_logger()

HEARTBEAT_TIMEOUT_S: Final = 10.0
READABLE: Final = 0o644


def write_metrics(app: App, file: Path) -> None:
    """What the server's /metrics would say, for the textfile collector."""
    from drawdown.server.metrics import metrics  # here: cron's ticks rarely write any

    try:
        found = metrics.render(app.engine, app.clock.now_ms())
        number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        made = Path(name)
        try:
            with os.fdopen(number, "wb") as out:
                out.write(found)
            made.chmod(READABLE)
            made.replace(file)
        except BaseException:  # else each tick would leave one there
            made.unlink(missing_ok=True)
            raise
    except OSError as error:
        log.error("metrics_not_written", file=str(file), error=error.strerror)


def beat(app: App, url: str) -> None:
    """Tell whoever waits for it that a tick ended well."""
    world = app.world()
    assert world.http is not None
    http = world.http
    try:
        answer = ask(lambda: http.send(Call("GET", url, timeout_s=HEARTBEAT_TIMEOUT_S)), world)
    except Exception as error:  # the tick is done, whatever this was
        log.warning("heartbeat_failed", kind=type(error).__name__)
        return
    if not isinstance(answer, Answer):
        log.warning("heartbeat_failed", reason=answer.reason)
    elif not 200 <= answer.status < 300:
        log.warning("heartbeat_failed", status=answer.status)
