"""The one place that reads clocks and makes ids. Tests hand in others."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _new_id() -> str:
    """From the system's randomness: a process and its fork never make the same."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class World:
    """`now_ms`: milliseconds since 1970; `monotonic_s`: seconds that only go on; `jitter`: spreads repetitions."""

    now_ms: Callable[[], int] = _now_ms
    monotonic_s: Callable[[], float] = time.monotonic
    new_id: Callable[[], str] = _new_id
    jitter: random.Random = field(default_factory=random.Random)


URL: Final = "DRAWDOWN_URL"
KEY: Final = "DRAWDOWN_KEY"


def server_of(url: str | None, key: str | None) -> tuple[str, str]:
    """The server's address and the key, from the environment if they are left out. Errors: ValueError."""
    found = [given or os.environ.get(name, "") for name, given in ((URL, url), (KEY, key))]
    missing = [name for name, text in zip((URL, KEY), found, strict=True) if not text]
    if missing:
        raise ValueError(f"the client has no server. Pass `url` and `key`, or set {' and '.join(missing)}")
    return found[0], found[1]
