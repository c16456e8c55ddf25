"""What a tick did of files in watched folders."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class BatchesDone:
    """Files that this tick took, and in words those that it could not; `wait`: some are left for the next one."""

    taken: int = 0
    wait: bool = False
    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
