"""Shards: the organisations that a worker takes, and the registration of those it meets for the first time."""

from __future__ import annotations

from dataclasses import dataclass

from drawdown.schema.units import BUCKETS


@dataclass(frozen=True)
class Shard:
    """The buckets lo..hi (inclusive) that one worker takes."""

    lo: int = 0
    hi: int = BUCKETS - 1

    def __str__(self) -> str:
        return f"buckets {self.lo} to {self.hi}"


@dataclass(frozen=True)
class NewOrgs:
    """`--new-org-provider`: assign organisations as they appear. `start_ms` None: from the watermark on."""

    provider: str
    start_ms: int | None = None
