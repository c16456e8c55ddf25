"""Drawdown. Each folder of this project is imported as `drawdown.<folder>`, by a link beside this file."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """`__version__`: that of the installed distribution, read when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module 'drawdown' has no attribute {name!r}")
    from importlib.metadata import version

    return version("drawdown")
