"""Define which endpoints may be called, and the secrets that sign messages.

Guarantee: pure, except that `HookSettings.why_not` resolves a host name. Drawdown signs messages by the open
specification "Standard Webhooks", version 1.0.0. An endpoint's secrets are derived from the root secret of the
settings, so they are not stored. From an endpoint's secret, an attacker cannot derive the root secret or another
endpoint's secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from drawdown.providers.http.egress import Lookup, Outgoing, system_lookup
from drawdown.worker.halts.addresses import CellUrl, Network, address_refused, why_not


@dataclass(frozen=True)
class HookSettings:
    """The settings of webhooks. Secrets never print.

    `allowed`: origins (scheme://host:port) that may be called. `roots`: the root secrets, from which each endpoint's
    secrets are derived, the newest first. `networks`: networks that are allowed in addition to public addresses.
    """

    allowed: frozenset[str] = frozenset()
    roots: tuple[str, ...] = field(default=(), repr=False)
    networks: tuple[Network, ...] = ()
    outgoing: Outgoing = field(default_factory=Outgoing)
    """The trusted certificate authorities and the proxy of outgoing calls."""

    @property
    def origins(self) -> frozenset[str]:
        """Return the origins that this machine can call; empty without a root secret."""
        return self.allowed if self.roots else frozenset()

    def secrets_of(self, endpoint: str, generations: Sequence[int]) -> tuple[str, ...]:
        """Return the secrets that sign messages for this endpoint, newest first."""
        return tuple(endpoint_secret(root, endpoint, number) for number in generations for root in self.roots)

    def why_not(self, url: str, lookup: Lookup | None = None) -> str | None:
        """Return the reason why a message to a URL is refused, or None.

        The function resolves the host name now.
        """
        return why_not(url, self, lookup or system_lookup, "DRAWDOWN_HOOK")

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Return the reason that prevents a connection to this address, or None."""
        return address_refused(self, url, host)


PREFIX: Final = "whsec_"


def endpoint_secret(root: str, endpoint: str, generation: int) -> str:
    """Return an endpoint's secret: `whsec_` and 256 bits in Base64.

    The bits are the HMAC-SHA256 of `hook:{endpoint}:{generation}` with the root secret.
    """
    made = hmac.new(root.encode(), f"hook:{endpoint}:{generation}".encode(), hashlib.sha256).digest()
    return f"{PREFIX}{base64.b64encode(made).decode()}"


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the signature of a message.

    The signature is `v1,` and the HMAC-SHA256 of `{id}.{timestamp}.{body}` in Base64, computed by the library of
    Standard Webhooks.
    """
    return Webhook(secret).sign(message_id, datetime.fromtimestamp(timestamp_s, UTC), body.decode())


def headers_of(secrets: Sequence[str], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the webhook headers of a message, with a signature for each secret."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signature(secret, message_id, timestamp_s, body) for secret in secrets),
    }
