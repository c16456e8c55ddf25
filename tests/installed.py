"""The providers and payment services that are installed, read once a process: to look through all that Python has took
a third of a command.

Guarantee: where Python looks elsewhere, or a folder changed, it is read again, so that a plug-in of a test is found.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

from drawdown.providers import registry
from drawdown.providers.payments import registry as payments


@cache
def _read(group: str, _path: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=group)


def _changed_ns(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


def _installed(*, group: str) -> EntryPoints:
    return _read(group, tuple((folder, _changed_ns(folder)) for folder in sys.path))


def share() -> None:
    """From now on the registries read what none before them has."""
    vars(registry)["package_of"] = cache(registry.package_of)
    for module in (registry, payments):
        vars(module)["entry_points"] = _installed
        _installed(group=module.GROUP)
