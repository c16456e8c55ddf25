"""Which endpoints of the operator's product may be called, and the secrets that sign what they are sent.

Guarantee: pure. Messages are signed by the open scheme "Standard Webhooks" (its specification, version 1.0.0). An
endpoint's secrets are made from the root that this machine is given, so they are stored nowhere, and who has one can
make neither the root of it nor another one.
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
    """`allowed`: origins (scheme://host:port) that may be called. `roots` make each endpoint's secrets; of two, the
    first is the new one. `networks` are allowed besides public addresses. Secrets never print."""

    allowed: frozenset[str] = frozenset()
    roots: tuple[str, ...] = field(default=(), repr=False)
    networks: tuple[Network, ...] = ()
    outgoing: Outgoing = field(default_factory=Outgoing)
    """The way of calls out: trusted authorities, and the proxy."""

    @property
    def origins(self) -> frozenset[str]:
        """Those that this machine can tell something: none without a secret."""
        return self.allowed if self.roots else frozenset()

    def secrets_of(self, endpoint: str, generations: Sequence[int]) -> tuple[str, ...]:
        """Return the secrets that sign messages for this endpoint, the newest first."""
        return tuple(endpoint_secret(root, endpoint, number) for number in generations for root in self.roots)

    def why_not(self, url: str, lookup: Lookup | None = None) -> str | None:
        """Return the reason that prevents a message to this URL, as its name resolves now; None if nothing does."""
        return why_not(url, self, lookup or system_lookup, "DRAWDOWN_HOOK")

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Why a connection for this URL is not made to this address; None where it may be."""
        return address_refused(self, url, host)


PREFIX: Final = "whsec_"


def endpoint_secret(root: str, endpoint: str, generation: int) -> str:
    """`whsec_` and 256 bits in Base64: HMAC-SHA256 by the root over `hook:{endpoint}:{generation}`."""
    made = hmac.new(root.encode(), f"hook:{endpoint}:{generation}".encode(), hashlib.sha256).digest()
    return f"{PREFIX}{base64.b64encode(made).decode()}"


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """`v1,` and HMAC-SHA256 in Base64 over `{id}.{timestamp}.{body}`, by the scheme's own library."""
    return Webhook(secret).sign(message_id, datetime.fromtimestamp(timestamp_s, UTC), body.decode())


def headers_of(secrets: Sequence[str], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a body; a signature for each secret in use."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signature(secret, message_id, timestamp_s, body) for secret in secrets),
    }
