"""Verify tokens that others signed (JWT, RFC 7519), with joserfc.

Guarantee: Drawdown selects the algorithm by the kind of key. It never uses a public key as a secret, and never accepts
the algorithm `none`. It verifies the signature, the audience and the expiry time before it uses any other claim. It
uses its own clock.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OctKey, RSAKey

    Key: TypeAlias = ECKey | OctKey | RSAKey
else:
    Key: TypeAlias = Any

SLACK_S: Final = 60
"""Seconds by which the clocks of the signer and of Drawdown may differ."""
MAX_TOKEN_BYTES: Final = 12 * 1024
"""Largest signed token, in bytes.

A larger token does not fit into a request's headers.
"""
LEAST_SECRET_BYTES: Final = 32
"""Minimum length of an HS256 secret in bytes, the size of the hash. A shorter secret can be guessed."""
_KINDS: Final[Mapping[str, str]] = {"RS256": "RSA", "ES256": "EC", "HS256": "oct"}
"""Kind of key of each algorithm."""
BY_KEYS: Final = ("RS256", "ES256")
_LEAST_RSA_BITS: Final = 2048
_WORDS: Final[Mapping[str, str]] = {
    "iss": "the issuer of the token is another provider", "aud": "the audience of the token is another client",
    "azp": "the token was issued to another client", "nonce": "the nonce of the token is of another sign-in",
    "iat": "the token was issued in the future", "nbf": "the token is not valid yet",
}  # fmt: skip


class Unproven(Exception):
    """Raised if a token or a key is invalid, with the reason in words."""


def require_library() -> None:
    """Check that joserfc is installed. Errors: UsageError if it is not."""
    try:
        import joserfc  # noqa: F401
    except ImportError:
        raise UsageError(
            "the library joserfc is missing. Sign-in by OpenID Connect, and links to /my, need it. Run: pip install "
            "'drawdown[oidc]'"
        ) from None


def key_of(said: object) -> Key:
    """Return a public key from its JWK.

    Errors: Unproven if the key cannot be read, has another use or type, or is too weak.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    try:
        if not isinstance(said, dict) or said.get("use", "sig") != "sig":
            raise Unproven("the key is not for signatures")
        public = {name: value for name, value in said.items() if name not in ("use", "key_ops", "alg")}
        if said.get("kty") == "EC" and said.get("crv") == "P-256":
            return ECKey.import_key(public)
        if said.get("kty") == "RSA":
            found = RSAKey.import_key(public)
            if found.raw_value.key_size >= _LEAST_RSA_BITS:
                return found
    except (JoseError, ValueError, TypeError, KeyError):
        raise Unproven("the key cannot be read") from None
    raise Unproven(
        f"the key has an unsupported type or size: expected EC P-256, or RSA of at least {_LEAST_RSA_BITS:,} bits"
    )


def secret_key(secret: str) -> Key:
    """Return the key of a shared secret."""
    from joserfc.jwk import OctKey

    return OctKey.import_key(secret)


def head_of(token: str) -> tuple[str, str | None]:
    """Return the algorithm and the key's id that a token names, without verification.

    Errors: Unproven.
    """
    try:
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise ValueError
        first, _, _ = token.split(".")
        said = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
        algorithm, kid = str(said["alg"]), said.get("kid")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unproven("the token is not a signed JWT, or is too long") from None
    if algorithm not in _KINDS or not isinstance(kid, str | None):
        raise Unproven(f"the token has an unsupported algorithm {quote_value(algorithm)} or key id")
    return algorithm, kid


def claims_of(token: str, keys: Sequence[Key], algorithms: Collection[str]) -> Mapping[str, Any]:
    """Return the claims of a token that one of the keys signed.

    `algorithms`: the accepted algorithms. Errors: Unproven.
    """
    from joserfc import jwt
    from joserfc.errors import JoseError

    algorithm, _ = head_of(token)
    if algorithm not in algorithms:
        raise Unproven(f"the algorithm {algorithm} is not supported")
    for key in keys:
        if key.key_type == _KINDS[algorithm]:
            try:
                return jwt.decode(token, key, algorithms=[algorithm]).claims
            except (JoseError, ValueError, TypeError, RecursionError):
                continue
    raise Unproven("the signature does not match a known key")


def require(claims: Mapping[str, Any], now_ms: int, **wanted: str) -> None:
    """Check that a token is valid now (`exp`), and that its claims have these values.

    If a claim is a list, it must contain the value. Errors: Unproven.
    """
    from joserfc.errors import ExpiredTokenError, JoseError, MissingClaimError
    from joserfc.jwt import JWTClaimsRegistry

    options: dict[str, Any] = {name: {"essential": True, "value": value} for name, value in wanted.items()}
    try:
        JWTClaimsRegistry(now_ms // 1000, SLACK_S, exp={"essential": True}, **options).validate(dict(claims))
    except ExpiredTokenError:
        raise Unproven("the token expired") from None
    except MissingClaimError as error:
        raise Unproven(f"the token does not have the claim {error.claim}") from None
    except JoseError as error:
        raise Unproven(_WORDS.get(str(getattr(error, "claim", "")), "a claim of the token is invalid")) from None
