"""Define a worker's share of organisations, and the option for new organisations."""

from __future__ import annotations

from dataclasses import dataclass

from drawdown.schema.units import BUCKETS


@dataclass(frozen=True)
class Shard:
    """The buckets lo..hi (inclusive) of a worker."""

    lo: int = 0
    hi: int = BUCKETS - 1

    def __str__(self) -> str:
        return f"buckets {self.lo} to {self.hi}"


@dataclass(frozen=True)
class NewOrgs:
    """The option `--new-org-provider`, which assigns new organisations.

    `start_ms`: the start of the assignments; None: the watermark.
    """

    provider: str
    start_ms: int | None = None
