"""An emulator of the operator's product: it takes webhooks that are signed as Standard Webhooks says.

Guarantee: the check is of its own (by the specification, and not by the product's code): `taken` holds only what came
with a right, fresh signature by one of `secrets`.
"""

from __future__ import annotations

import base64
import hmac
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from drawdown.providers.http import Answer, Call, HttpResult

MAX_AGE_S = 300


@dataclass
class ProductEmulator:
    """One endpoint. `status`: what it answers to what it would take; none but 2xx takes it."""

    secrets: list[str] = field(default_factory=list)
    status: int = 204
    taken: dict[str, bytes] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    """By message, whatever was answered."""
    refused: Counter[int] = field(default_factory=Counter)

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        headers = {name.lower(): text for name, text in call.headers.items()}
        message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        self.calls[message_id] += 1
        if call.method != "POST" or not self._genuine(headers, message_id, stamp, call.body, now_ms):
            self.refused[401] += 1
            return Answer(401, {}, b"")
        if 200 <= self.status < 300:
            self.taken[message_id] = call.body
        return Answer(self.status, {}, b"")

    def _genuine(self, headers: dict[str, str], message_id: str, stamp: str, body: bytes, now_ms: int) -> bool:
        if not stamp.isdigit() or abs(now_ms // 1000 - int(stamp)) > MAX_AGE_S or not message_id or "." in message_id:
            return False
        signed = b".".join((message_id.encode(), stamp.encode(), body))
        wanted = set()
        for secret in self.secrets:
            scheme, _, key = secret.partition("_")
            assert scheme == "whsec"
            wanted.add(b"v1," + base64.b64encode(hmac.digest(base64.b64decode(key), signed, sha256)))
        given = headers.get("webhook-signature", "").encode().split(b" ")
        return any(hmac.compare_digest(one, other) for one in given for other in wanted)
