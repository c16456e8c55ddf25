"""What one tick did and what it left; kept as JSON in the tick's row."""

from __future__ import annotations

from dataclasses import dataclass, field

from drawdown.worker.views.backlog import Backlog


@dataclass
class Report:
    """What one tick did, and what it left."""

    tick_id: int
    at_ms: int
    horizon_ms: int
    sealed: int = 0
    swept: int = 0
    accepted: int = 0
    accepted_at: dict[str, int] = field(default_factory=dict)
    """The same by provider: the rate at which each is drained."""
    not_accepted: int = 0
    looked_up: int = 0
    voided: int = 0
    adopted: int = 0
    projected: int = 0
    halted: int = 0
    resumed: int = 0
    halts_acknowledged: int = 0
    halts_failed: int = 0
    stopped_orgs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    doubted: str | None = None
    """Why the database's history is in doubt (R1): nothing is sealed or sent until `drawdown recover`."""
    problems: list[str] = field(default_factory=list)
    """Providers that cannot be used, and cells that do not obey, until a person mends it."""
    left: Backlog = field(default_factory=Backlog)

    @property
    def exit_status(self) -> int:
        """0: all settled. 75: something is left for the next tick. 1: a person is needed."""
        if self.left.needs_person or self.problems or self.doubted is not None:
            return 1
        return 75 if self.failures or self.left.waits_for_tick else 0
