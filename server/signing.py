"""Proof of who asks: signed admin requests, and the cron's bearer secret.

Guarantee: an admin request is believed only with an HMAC-SHA256, by one of the secrets, over its moment, its path and
query byte for byte as they came, and its body; at most 300 s from now; and each signature once. Comparisons take the
same time whatever is offered.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import SECOND_MS
from drawdown.server.errors import ApiError

TOLERANCE_MS: Final = 300 * SECOND_MS
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_HEX: Final = re.compile(r"[0-9a-f]{64}")

USE = """
INSERT INTO used_signatures (signature_sha256, expires_ms) VALUES (:hash, :expires)
ON CONFLICT (signature_sha256) DO NOTHING RETURNING expires_ms
"""
FORGET = "DELETE FROM used_signatures WHERE expires_ms < :now"


def signature(secret: str, timestamp: str, path: bytes, query: bytes, body: bytes) -> str:
    """HMAC-SHA256 in hex over `{timestamp}.{path}?{query}.{body}`; the `?` stands there without a query, too."""
    signed = timestamp.encode() + b"." + path + b"?" + query + b"." + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def verify(
    secrets: Sequence[str], headers: Mapping[str, str], path: bytes, query: bytes, body: bytes, now_ms: int
) -> str:
    """The signature, once it is proven; use it up with `use_once`. Header names are in lower case.

    Errors: ApiError 503 where no secret is set, else 401.
    """
    if not secrets:
        raise ApiError(503, "not_configured", "no admin secret is set here")
    timestamp, offered = headers.get("x-timestamp", ""), headers.get("x-signature", "")
    if not _SECONDS.fullmatch(timestamp) or not _HEX.fullmatch(offered):
        raise _refused("send X-Timestamp in seconds, and X-Signature in lower-case hex")
    wanted = [signature(secret, timestamp, path, query, body) for secret in secrets]
    genuine = sum([hmac.compare_digest(one, offered) for one in wanted])
    if not genuine:
        raise _refused("the signature is not of this request")
    if abs(now_ms - int(timestamp) * SECOND_MS) > TOLERANCE_MS:
        raise _refused("it was signed more than 300 s from now")
    return offered


def use_once(connection: sa.Connection, offered: str, now_ms: int) -> bool:
    """Whether this signature was not used before; it is remembered for longer than it could be fresh."""
    connection.execute(sa.text(FORGET), {"now": now_ms})
    values = {"hash": hashlib.sha256(offered.encode()).hexdigest(), "expires": now_ms + 2 * TOLERANCE_MS}
    return connection.execute(sa.text(USE), values).first() is not None


def check_bearer(secret: str, authorization: str) -> None:
    """Errors: ApiError 503 where no secret is set, else 401."""
    if not secret:
        raise ApiError(503, "not_configured", "no cron secret is set here")
    scheme, _, token = authorization.partition(" ")
    # Hashes of equal length are compared: how long the secret is shows nowhere either.
    wanted, offered = (hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest() for one in (secret, token.strip()))
    if not (hmac.compare_digest(wanted, offered) and scheme.lower() == "bearer"):
        raise ApiError(
            401,
            "unauthorized",
            "send Authorization: Bearer with the cron secret",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _refused(message: str) -> ApiError:
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "HMAC-SHA256"})
