"""Drawdown. Each folder of this project is imported as `drawdown.<folder>`, by a link beside this file."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Return `__version__` of the installed distribution. Errors: AttributeError."""
    if name != "__version__":
        raise AttributeError(f"module 'drawdown' has no attribute {name!r}")
    from importlib.metadata import version

    return version("drawdown")
