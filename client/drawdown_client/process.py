"""Call a method when the process forks or ends."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
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


def at_end_of_child(method: Callable[[], None]) -> None:
    """Call a method at the end of a child of multiprocessing.

    Such a child ends without `atexit`.
    """
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, method, exitpriority=0)


def _call(itself: weakref.WeakMethod[Callable[[], None]]) -> None:
    method = itself()
    if method is not None:
        method()
