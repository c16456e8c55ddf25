"""What the environment says. Guarantee: this is the only module that reads it; secrets never print."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from drawdown.cli import cell_settings
from drawdown.schema.errors import UsageError
from drawdown.server.services import ServerSettings, UnknownOrg
from drawdown.worker.cells import CellSettings

PREFIX: Final = "DRAWDOWN_"


class Settings(BaseSettings):
    """Each is also an environment variable: DRAWDOWN_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="DRAWDOWN_", extra="ignore")

    database_url: str = "sqlite:///drawdown.db"
    cell_origins: str = ""
    """Origins of cells that may be called, separated by commas: https://cell-1.internal:8443"""
    cell_secret: SecretStr = SecretStr("")
    """Signs halts; the cells check it."""
    cell_secrets: SecretStr = SecretStr("")
    """Secrets of single cells, two while they are rotated: cell-1=new,old;cell-2=other;*=new,old"""
    cell_networks: str = ""
    """Networks besides the public internet in which cells may be called: 10.0.0.0/8,fd12:3456::/32"""
    log_level: str = "INFO"
    state_dir: str = ""
    """Where this host remembers how far it had come, apart from the database; by default ~/.local/state/drawdown."""

    admin_secrets: SecretStr = SecretStr("")
    """Sign requests to the server's /admin; several, separated by commas, while they are rotated."""
    cron_secret: SecretStr = SecretStr("")
    """The bearer secret of the server's /cron/tick."""
    gate_unknown_org: UnknownOrg = "not_found"
    """What the gate says of an organisation it does not know: not_found (404), deny or allow."""
    gate_open_when_in_doubt: bool = False
    """Whether the gate is open where the database cannot be read, or the provider was not asked yet."""
    requests_per_s: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """What the server takes of one address, on the average."""
    trusted_proxies: str = ""
    """Addresses of proxies before the server, whose X-Forwarded-For is believed, separated by commas."""

    def server(self) -> ServerSettings:
        secrets = (one.strip() for one in self.admin_secrets.get_secret_value().split(","))
        return ServerSettings(
            admin_secrets=tuple(filter(None, secrets)),
            cron_secret=self.cron_secret.get_secret_value(),
            gate_unknown_org=self.gate_unknown_org,
            gate_open_when_in_doubt=self.gate_open_when_in_doubt,
            requests_per_s=self.requests_per_s,
        )

    def of_providers(self) -> Mapping[str, str]:
        """The environment's DRAWDOWN_… by the rest of their names, in lower case: `autumn_secret_key`."""
        return _of_providers()

    def state_folder(self) -> Path:
        """Outlives the process, and no backup of the database brings it back (rule R1)."""
        if self.state_dir:
            return Path(self.state_dir)
        home = os.environ.get("XDG_STATE_HOME")
        return (Path(home) if home else Path.home() / ".local" / "state") / "drawdown"

    def cells(self) -> CellSettings:
        """Errors: UsageError for an entry that makes no sense; what it says of a secret is its place alone."""
        return CellSettings(
            cell_settings.origins(self.cell_origins),
            self.cell_secret.get_secret_value(),
            cell_settings.secrets(self.cell_secrets.get_secret_value()),
            cell_settings.networks(self.cell_networks),
        )


def _of_providers() -> Mapping[str, str]:
    """What the environment says to providers; it is theirs to name and to check."""
    return {
        name.removeprefix(PREFIX).lower(): text for name, text in os.environ.items() if name.startswith(PREFIX) and text
    }


def load() -> Settings:
    """The settings of this process."""
    try:
        return Settings()
    except ValidationError as error:
        names = ", ".join(str(one["loc"][0]) for one in error.errors())
        raise UsageError(f"these settings cannot be read: {names}") from error
