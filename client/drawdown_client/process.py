"""Call a method when the process forks."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable


def after_fork(method: Callable[[], None]) -> None:
    """Call a method in each forked process, while its object exists.

    The method must create new locks, because another thread of the parent process may hold the old locks.
    """
    if hasattr(os, "register_at_fork"):
        itself = weakref.WeakMethod(method)
        os.register_at_fork(after_in_child=lambda: _call(itself))


def _call(itself: weakref.WeakMethod[Callable[[], None]]) -> None:
    method = itself()
    if method is not None:
        method()
