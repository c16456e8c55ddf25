"""Where usage lies that is read from elsewhere, and what lets one read it. Secrets never print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ObjectStore:
    """Which one objects lie in."""

    key_id: str = ""
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    region: str = ""
    endpoint: str = ""
    """'' for Amazon's own."""


@dataclass(frozen=True)
class Databases:
    """The databases that sources query: their URLs by name, in lower case. URLs hold passwords."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def setting(name: str) -> str:
        """Return the setting that names the URL of a database."""
        return f"DRAWDOWN_QUERY_{name.upper()}_URL"
