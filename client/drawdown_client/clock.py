"""The only module that reads clocks and makes ids, so that tests can replace both."""

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
    """Return a random id.

    It is from the system's randomness, so that a process and its fork never make the same id.
    """
    return uuid.uuid4().hex


@dataclass(frozen=True)
class World:
    """The clocks and the source of randomness of a client.

    `now_ms`: returns milliseconds since 1970. `monotonic_s`: returns the seconds of a monotonic clock. `new_id`:
    returns a new random id. `jitter`: the random numbers that spread retries.
    """

    now_ms: Callable[[], int] = _now_ms
    monotonic_s: Callable[[], float] = time.monotonic
    new_id: Callable[[], str] = _new_id
    jitter: random.Random = field(default_factory=random.Random)


URL: Final = "DRAWDOWN_URL"
KEY: Final = "DRAWDOWN_KEY"


def server_of(url: str | None, key: str | None) -> tuple[str, str]:
    """Return the server's address and the key, by default from the environment.

    Errors: ValueError if the address or the key is missing.
    """
    found = [given or os.environ.get(name, "") for name, given in ((URL, url), (KEY, key))]
    missing = [name for name, text in zip((URL, KEY), found, strict=True) if not text]
    if missing:
        raise ValueError(f"missing server address or key. Pass `url` and `key`, or set {' and '.join(missing)}")
    return found[0], found[1]
