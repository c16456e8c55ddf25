"""The check of webhooks with the signatures of "standard webhooks", as from Svix.

Guarantee: a body is used only after its signature was compared in constant time. The signature is made with one of the
secrets over id, time and body, and its time is within TOLERANCE_MS of the given moment. This module does not read a
clock. The library's own `verify` reads a clock, so only its signing is used. Source: Svix's documentation and the
library standardwebhooks.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from drawdown.providers.protocol import WebhookRefused
from drawdown.schema.units import MINUTE_MS

TOLERANCE_MS: Final = 5 * MINUTE_MS
"""Largest difference between the timestamp of a Svix signature and the machine's clock, in milliseconds."""
SIGNATURE_HEADERS: Final = ("svix-signature", "webhook-signature")
VERSION: Final = "v1"
MAX_SIGNATURES: Final = 20
"""Signatures of one header that Drawdown compares.

A sender adds a signature for each secret in use.
"""
_SECRET: Final = re.compile(r"whsec_[A-Za-z0-9+/_-]{16,}={0,2}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


def is_secret(text: str) -> bool:
    """Return True if a text can be a signing secret: `whsec_` and Base64."""
    if not _SECRET.fullmatch(text):
        return False
    try:
        Webhook(text)
    except (ValueError, RuntimeError):
        return False
    return True


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now_ms: int) -> str:
    """Verify that a webhook is genuine and fresh, and return the text of its body.

    Header names are in lower case.

    Errors: WebhookRefused, which names the fault and does not show a part of a secret or signature.
    """
    message_id, sent, signatures = (_header(headers, part) for part in ("id", "timestamp", "signature"))
    sent_at = _fresh(sent, now_ms)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise WebhookRefused("the webhook's body is not UTF-8") from None
    offered = _offered(signatures)
    # Hash the body only once for each secret, because a stranger can send many signatures.
    wanted = [_expected(secret, message_id, sent_at, text) for secret in secrets] if offered else []
    # Compare every secret with every signature, even after a match, so that the time does not reveal a match.
    genuine = [hmac.compare_digest(expected, given) for expected in wanted for given in offered]
    if not any(genuine):
        raise WebhookRefused(
            "the webhook's signature does not match a configured secret. Check the webhook secrets of the provider"
        )
    return text


def _header(headers: Mapping[str, str], part: str) -> str:
    """Return a header of a webhook.

    The header's name begins with `svix-`, or with `webhook-` from some self-hosted servers. Errors: WebhookRefused.
    """
    found = headers.get(f"svix-{part}") or headers.get(f"webhook-{part}")
    if not found or not found.isascii():
        raise WebhookRefused(f"the webhook does not have a valid header svix-{part} or webhook-{part}")
    return found


def _fresh(sent: str, now_ms: int) -> datetime:
    if not _SECONDS.fullmatch(sent):
        raise WebhookRefused("the webhook's header svix-timestamp or webhook-timestamp is not a time in seconds")
    if abs(now_ms - int(sent) * 1000) > TOLERANCE_MS:
        # An older webhook can be a replay by anyone who saw it. A newer one could be stored for a replay.
        raise WebhookRefused(
            "the webhook's timestamp differs by more than 300 s from the clock of this machine. Check the clock. If it "
            "is right, the webhook may be a replay"
        )
    return datetime.fromtimestamp(int(sent), UTC)


def _offered(header: str) -> list[bytes]:
    found = []
    for signature in header.split(" ")[:MAX_SIGNATURES]:
        version, _, encoded = signature.partition(",")
        if version == VERSION:
            try:
                found.append(base64.b64decode(encoded, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found


def _expected(secret: str, message_id: str, sent_at: datetime, text: str) -> bytes:
    signature = Webhook(secret).sign(message_id, sent_at, text)
    return base64.b64decode(signature.removeprefix(f"{VERSION},"))
