"""The effect of reading files: what a step asks of the disk of its machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class OnDisk:
    """Read files, in a thread; the answer is what `look` returns."""

    name: str
    look: Callable[[], object]
