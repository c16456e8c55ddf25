"""The settings that the server is given. Guarantee: it reads no environment. Secrets never print."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

UnknownOrg = Literal["not_found", "deny", "allow"]


@dataclass(frozen=True)
class OidcSettings:
    """Where people of the console may sign in besides; nowhere, while `issuer` is empty."""

    issuer: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    """Empty: the client is a public one, and proves itself by PKCE alone."""
    claim: str = "email"
    """Which claim is a person's name here."""
    label: str = ""
    """The button's name of the issuer; empty: the issuer's host."""
    unverified_email: bool = False
    """True if a name is taken from `email` although the issuer does not state that it verified it."""


@dataclass(frozen=True)
class MySettings:
    """Links by which an organisation's own people come in; none is taken while neither a secret nor keys are set."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    jwks_url: str = ""
    url: str = ""
    """Where those people reach it; empty: where the console is."""
    contact: str = ""
    """A person or address to contact."""

    @property
    def is_set(self) -> bool:
        return bool(self.secrets or self.jwks_url)


@dataclass(frozen=True)
class ServerSettings:
    """Secrets are none where the tuple or text is empty: what they guard then answers 503."""

    admin_secrets: tuple[str, ...] = field(default=(), repr=False)
    admin_hosts: tuple[str, ...] = ()
    """The names of this deployment, in lower case: orders signed for another host are refused. None: any is taken."""
    cron_secret: str = field(default="", repr=False)
    gate_unknown_org: UnknownOrg = "not_found"
    gate_open_when_in_doubt: bool = False
    requests_per_s: int = 1_000
    """Requests a second of one caller's address, on average; twice as many at once."""
    console_url: str = ""
    """Where the console is reached; empty: there is none."""
    console_proxy_header: str = ""
    """The header, in lower case, in which a proxy names who it signed in; empty: none is believed."""
    console_proxy_secret: str = field(default="", repr=False)
    oidc: OidcSettings = OidcSettings()
    my: MySettings = MySettings()

    @property
    def my_page(self) -> str:
        """Where an organisation's own people see their usage; empty: nowhere."""
        return f"{self.my.url or self.console_url}/my/usage" if self.console_url and self.my.is_set else ""
