"""The secrets of endpoints, and the signatures of messages, by the open scheme "Standard Webhooks" (its specification,
version 1.0.0). Pure.

Guarantee: an endpoint's secrets are made from the root that this machine is given, so they are stored nowhere, and
whoever has one can make neither the root of it nor another one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

PREFIX: Final = "whsec_"


def endpoint_secret(root: str, endpoint: str, generation: int) -> str:
    """`whsec_` and 256 bits in Base64: HMAC-SHA256 by the root over `hook:{endpoint}:{generation}`."""
    made = hmac.new(root.encode(), f"hook:{endpoint}:{generation}".encode(), hashlib.sha256).digest()
    return f"{PREFIX}{base64.b64encode(made).decode()}"


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """`v1,` and HMAC-SHA256 in Base64 over `{id}.{timestamp}.{body}`, by the scheme's own library."""
    return Webhook(secret).sign(message_id, datetime.fromtimestamp(timestamp_s, UTC), body.decode())


def headers_of(secrets: Sequence[str], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """What goes with a body; a signature for each secret that is in use."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signature(secret, message_id, timestamp_s, body) for secret in secrets),
    }
