"""The settings that the server receives.

Guarantee: this module does not read the environment. It never prints a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

UnknownOrg = Literal["not_found", "deny", "allow"]


@dataclass(frozen=True)
class OidcSettings:
    """The OpenID Connect issuer at which people of the console may sign in.

    If `issuer` is empty, this sign-in is off.
    """

    issuer: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    """If it is empty, the client is public and proves itself by PKCE alone."""
    claim: str = "email"
    """Claim that contains a person's name in Drawdown."""
    label: str = ""
    """Name of the issuer on the button.

    If it is empty, the button has the issuer's host.
    """
    unverified_email: bool = False
    """True if Drawdown accepts an `email` without the claim `email_verified`."""


@dataclass(frozen=True)
class MySettings:
    """The links by which an organisation's own people sign in.

    If neither a secret nor a JWKS URL is set, the pages at `/my` answer 404.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)
    jwks_url: str = ""
    url: str = ""
    """Address of the pages at `/my`. If it is empty, these pages have the console's address."""
    contact: str = ""
    """A person or address to contact."""

    @property
    def is_set(self) -> bool:
        return bool(self.secrets or self.jwks_url)


@dataclass(frozen=True)
class ServerSettings:
    """The settings of the server.

    If `admin_secrets` or `cron_secret` is not set, the routes that need it answer 503.
    """

    admin_secrets: tuple[str, ...] = field(default=(), repr=False)
    admin_hosts: tuple[str, ...] = ()
    """Names of this deployment, in lower case.

    Drawdown refuses requests that were signed for another host. If the setting is empty, Drawdown accepts any host.
    """
    cron_secret: str = field(default="", repr=False)
    gate_unknown_org: UnknownOrg = "not_found"
    gate_open_when_in_doubt: bool = False
    requests_per_s: int = 1_000
    """Average requests a second of one caller's address.

    A burst may have twice as many.
    """
    console_url: str = ""
    """Address of the console. If it is empty, the console is off."""
    console_proxy_header: str = ""
    """Header, in lower case, in which a proxy names the signed-in person.

    If it is empty, Drawdown does not trust a proxy.
    """
    console_proxy_secret: str = field(default="", repr=False)
    oidc: OidcSettings = OidcSettings()
    my: MySettings = MySettings()

    @property
    def my_page(self) -> str:
        """Return the address of the page for an organisation's own people.

        The address is empty if that page is not set up.
        """
        return f"{self.my.url or self.console_url}/my/usage" if self.console_url and self.my.is_set else ""
