"""Run a tick's transactions on SQLite in the test's thread.

Threads took a third of the CPU of a tick. Each lane of a tick had a connection of its own, which reads the schema and
compiles every statement.

Guarantee: transactions and their order stay the same, because SQLite has one writer at a time. PostgreSQL, files and
commands in processes of their own keep their threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from drawdown.worker.engine import runner

R = TypeVar("R")


class _Asyncio:
    """Stand in for the module `asyncio` in the runner."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def to_thread(work: Callable[..., R], *given: Any, **named: Any) -> R:
        if any(isinstance(one, sa.Engine) and one.dialect.name == "sqlite" for one in given):
            return work(*given, **named)
        return await asyncio.to_thread(work, *given, **named)


def install() -> None:
    """Make the runner of this process use it."""
    vars(runner)["asyncio"] = _Asyncio()
