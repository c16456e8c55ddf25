"""Which object store files of usage lie in."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ObjectStore:
    """Where objects lie, and what lets one read them. Secrets never print."""

    key_id: str = ""
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    region: str = ""
    endpoint: str = ""
    """'' for Amazon's own."""
