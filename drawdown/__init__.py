"""The package `drawdown`, with a link to each folder of the program.

Import a folder as `drawdown.<folder>`.
"""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Return `__version__` of the installed distribution. Errors: AttributeError."""
    if name != "__version__":
        raise AttributeError(f"module 'drawdown' has no attribute {name!r}")
    from importlib.metadata import version

    return version("drawdown")
