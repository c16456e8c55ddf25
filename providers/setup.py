"""The inputs of a provider. Part of `protocol`, from which it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.providers.http import Http
from drawdown.schema.clock import Clock


@dataclass(frozen=True)
class Setup:
    """What a provider is built from. `settings` holds the environment's DRAWDOWN_<NAME>_… by the rest of their names,
    in lower case; secrets among them go into no message. No name ends in `_file`: that is how a file is given for one,
    and when its content changes, the provider is built anew."""

    name: str
    settings: Mapping[str, str]
    clock: Clock
    http: Http
    engine: sa.Engine
