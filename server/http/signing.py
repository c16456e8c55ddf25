"""Verify signed admin requests, and the cron's bearer secret.

Guarantee: Drawdown accepts an admin request only with an HMAC-SHA256 by one of the secrets. The HMAC covers the
timestamp, method, path, query and body byte for byte as received, and the host in lower case. The timestamp differs
from now by at most 300 s, and each signature counts once. A signature for one path or action is invalid for all others.
If the deployment's hosts are set, the host must be one of them. Otherwise deployments with the same secret would accept
each other's requests. Comparisons take the same time for any input.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drawdown.schema.text import quote_value
from drawdown.schema.units import SECOND_MS
from drawdown.server.http.errors import ApiError

TOLERANCE_MS: Final = 300 * SECOND_MS
"""Largest difference between the timestamp of a signature and the server's clock."""
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
VERSION: Final = "v2"
_VERSION_1: Final = re.compile(r"[0-9a-f]{64}")
_VERSION_2: Final = re.compile(r"v2=[0-9a-f]{64}")


@dataclass(frozen=True)
class Signed:
    """The content that a signature covers besides its timestamp."""

    method: str
    host: str
    path: bytes
    query: bytes
    body: bytes


def signature(secret: str, timestamp: str, of: Signed) -> str:
    """Return `v2=` and the HMAC-SHA256 of a request in hex.

    The HMAC covers five lines, each with its line feed, and then the body. The lines are `v2`, the timestamp, the
    method, the host in lower case, and `{path}?{query}`. The `?` is there even without a query.
    """
    head = f"{VERSION}\n{timestamp}\n{of.method}\n{of.host.lower()}\n".encode()
    signed = head + of.path + b"?" + of.query + b"\n" + of.body
    return f"{VERSION}={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def verify(
    secrets: Sequence[str], headers: Mapping[str, str], of: Signed, now_ms: int, hosts: Sequence[str] = ()
) -> str:
    """Verify a signature, and return it.

    `worker.access.idempotency.use_once` then marks the signature as used. `headers` and `hosts` are in lower case.
    `hosts`: the deployment's names; empty to accept any. Errors: ApiError 503 if the secret is not set, 401 otherwise.
    """
    if not secrets:
        raise ApiError(
            503, "not_configured", "the admin secret is not set. Ask the operator to set DRAWDOWN_ADMIN_SECRETS"
        )
    timestamp, offered = headers.get("x-timestamp", ""), headers.get("x-signature", "")
    if _VERSION_1.fullmatch(offered):
        raise _refused("signature version 1 is not supported. Send version 2, which also signs the method and the host")
    if not _SECONDS.fullmatch(timestamp) or not _VERSION_2.fullmatch(offered):
        raise _refused(
            "missing or malformed signature. Send X-Timestamp in seconds, and X-Signature as v2= and 64 lower-case "
            "hex digits"
        )
    wanted = [signature(secret, timestamp, of) for secret in secrets]
    genuine = sum([hmac.compare_digest(expected, offered) for expected in wanted])
    if not genuine:
        raise _refused(
            "the signature does not match this request. Check the secret, the signed bytes, and that each proxy "
            "forwards Host unchanged"
        )
    if hosts and of.host.lower() not in hosts:
        raise _refused(
            f"the signed host {quote_value(of.host)} is not in DRAWDOWN_ADMIN_HOSTS. Sign and send the request for a "
            "host of this setting"
        )
    require_fresh(headers, now_ms)
    return offered


def require_fresh(headers: Mapping[str, str], now_ms: int) -> None:
    """Refuse a verified request that is no longer fresh. Errors: ApiError 401.

    Call this function again after a wait, because Drawdown forgets used signatures once they are too old.
    """
    if abs(now_ms - int(headers["x-timestamp"]) * SECOND_MS) > TOLERANCE_MS:
        raise _refused(
            f"the timestamp {quote_value(headers['x-timestamp'])} differs by more than 300 s from the clock of the "
            "server. Check your clock, and sign the request again"
        )


def check_bearer(secret: str, authorization: str) -> None:
    """Check the bearer secret.

    Errors: ApiError 503 if the secret is not set, 401 otherwise.
    """
    if not secret:
        raise ApiError(
            503, "not_configured", "the cron secret is not set. Ask the operator to set DRAWDOWN_CRON_SECRET"
        )
    scheme, _, token = authorization.partition(" ")
    # compare hashes of equal length, so that the time does not reveal the secret's length
    wanted, offered = (
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (secret, token.strip())
    )
    if not (hmac.compare_digest(wanted, offered) and scheme.lower() == "bearer"):
        raise ApiError(
            401,
            "unauthorized",
            "missing or wrong cron secret. Send `Authorization: Bearer SECRET` with the cron secret",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _refused(message: str) -> ApiError:
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "HMAC-SHA256"})
