"""The providers and payment services that are installed, read once a process: to look through all that Python has took
a third of a command.

Guarantee: where Python looks elsewhere, it is read anew, so that a plug-in of a test is found.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoints, entry_points

from drawdown.providers import registry
from drawdown.providers.payments import registry as payments


@cache
def _read(group: str, _path: tuple[str, ...]) -> EntryPoints:
    return entry_points(group=group)


def _installed(*, group: str) -> EntryPoints:
    return _read(group, tuple(sys.path))


def share() -> None:
    """From now on the registries read what none before them has."""
    vars(registry)["_package"] = cache(registry._package)
    for module in (registry, payments):
        vars(module)["entry_points"] = _installed
        _installed(group=module.GROUP)
