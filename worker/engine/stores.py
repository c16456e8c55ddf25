"""Define the external stores of usage, and their credentials.

Secrets are never printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ObjectStore:
    """The object store with batches of usage."""

    key_id: str = ""
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    region: str = ""
    endpoint: str = ""
    """The URL of the store; '' for Amazon S3."""


@dataclass(frozen=True)
class Databases:
    """The databases that sources query: URLs with passwords, by lower-case name."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def setting(name: str) -> str:
        """Return the setting that names the URL of a database."""
        return f"DRAWDOWN_QUERY_{name.upper()}_URL"
