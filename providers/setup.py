"""The inputs of a provider. Part of `protocol`, from which it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drawdown.providers.http import Http
from drawdown.schema.clock import Clock

if TYPE_CHECKING:
    import httpx2
    import sqlalchemy as sa


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

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """A client of httpx2 that sends by `http`. Options are those of `httpx2.AsyncClient`: base_url, headers, auth.
        Send by `drawdown.providers.kit.clients.ask`, which says what is proven. Errors: UsageError."""
        from drawdown.providers.kit.clients import client_on

        client: httpx2.AsyncClient = client_on(self.http, **options)
        return client
