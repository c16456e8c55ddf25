"""What a step may ask of the world, and nothing else.

Guarantee: a step is a generator that decides and yields effects; it never does one itself. So the same step is driven
by production (`worker.runner`) and, effect by effect with crashes in between, by the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa

from drawdown.providers.protocol import PushRequest

R = TypeVar("R")


@dataclass(frozen=True)
class Transaction:
    """Run `work` in one write transaction; the answer is what it returns. With `rollback`: a dry run."""

    name: str
    work: Callable[[sa.Connection], Any]
    rollback: bool = False


@dataclass(frozen=True)
class Push:
    """Send a batch to a provider; the answer is one Outcome each, in order."""

    provider: str
    batch: Sequence[PushRequest]


@dataclass(frozen=True)
class ReadCustomers:
    """Ask a provider for its customers' states; the answer maps each id to a CustomerState or ReadFailed."""

    provider: str
    customer_ids: Sequence[str]


@dataclass(frozen=True)
class HaltRequest:
    """One halt for one cell."""

    org_id: str
    cell_id: str
    url: str
    halted_at: int


@dataclass(frozen=True)
class SendHalts:
    """Send halts to cells; the answer is None for each acknowledged one, else what went wrong, in order."""

    halts: Sequence[HaltRequest]


@dataclass(frozen=True)
class Together:
    """Run several steps side by side; the answer is their results in order. One that fails stops no other."""

    steps: Sequence[Steps[Any]]


Effect: TypeAlias = Transaction | Push | ReadCustomers | SendHalts | Together
Steps: TypeAlias = Generator[Effect, Any, R]
