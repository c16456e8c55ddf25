"""Watch rounds, one after another, each with this process's inputs.

Guarantee: a round that fails is logged, and the next one does its work. Rounds of one process never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from drawdown.cli.app import App
from drawdown.cli.stopping import Stopping
from drawdown.schema.errors import DrawdownError
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Breaker, Shard
from drawdown.worker.watch import Watched, Watcher, watch

log = structlog.get_logger()


@dataclass
class WatchLoop:
    """One watch."""

    app: App
    shard: Shard
    stopping: Stopping
    watcher: Watcher = field(default_factory=Watcher)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    cell_breakers: dict[str, Breaker] = field(default_factory=dict)

    def round(self) -> Watched:
        self.app.read_files_again()
        context = self.app.context()
        context.shard = self.shard
        context.stopping = self.stopping.is_set
        context.breakers = self.breakers
        context.cell_breakers = self.cell_breakers
        return runner.run(watch(context, self.watcher), self.app.world())

    def try_round(self) -> None:
        """One round. What goes wrong is logged; the next round goes on from what is committed."""
        try:
            self.round()
        except DrawdownError as error:
            log.error("watch_failed", error=str(error), exit_status=error.exit_status)
        except Exception:
            log.exception("watch_failed")
