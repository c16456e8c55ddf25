"""What a test needs to know of an action."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.server.console_home import Home


def nothing(_home: Home) -> None:
    """What most actions need before them."""


@dataclass(frozen=True)
class Example:
    """An action's form, filled in so that it changes something; `wrong`: values that make no sense, by their fields;
    `meanwhile`: what somebody else does between the dry run and the deed (None: nothing that matters can change);
    `prepare`: what has to be there; `secret`: whether the answer holds a secret, so that it differs each time."""

    values: Mapping[str, str]
    wrong: Mapping[str, str] = field(default_factory=dict)
    meanwhile: Callable[[Home], object] | None = None
    prepare: Callable[[Home], object] = nothing
    secret: bool = False
