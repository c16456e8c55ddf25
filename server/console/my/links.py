"""Links to the small face: signed by the operator's product, for one organisation, once, for a quarter of an hour.

    {"aud": "https://drawdown.internal", "org": "acme", "sub": "ann", "exp": 1767225900, "jti": "6f1c…"}

Guarantee: HS256 is proven by our shared secret alone, RS256 and ES256 by the product's public keys alone. A link says
for whom it is meant, of which organisation, until when, and has a number of its own; one without any of these is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drawdown.schema.ids import is_clean_id
from drawdown.server.services import Services
from drawdown.server.tokens import jwts
from drawdown.server.tokens.elsewhere import Elsewhere
from drawdown.server.tokens.jwts import Unproven
from drawdown.worker.access.my_sessions import LINK_MS, STAFF, Visitor, visitor


@dataclass(frozen=True)
class Link:
    """One that was proven: its number, and whom it lets in."""

    number: str
    visitor: Visitor


class Links:
    """Reads links of one server."""

    def __init__(self, services: Services, elsewhere: Elsewhere) -> None:
        self._services = services
        self._elsewhere = elsewhere

    async def read(self, token: str, audience: str, now_ms: int) -> Link:
        """Errors: Unproven; Trouble where the keys cannot be read."""
        claims = await self._claims_of(token)
        jwts.require(claims, now_ms, aud=audience)
        if claims["exp"] * 1000 > now_ms + LINK_MS + jwts.SLACK_S * 1000:
            raise Unproven("it lasts longer than a quarter of an hour")
        org_id, person = _id(claims, "org"), _id(claims, "sub") if "sub" in claims else None
        if person is not None and person.startswith(STAFF):
            raise Unproven(f"sub begins with {STAFF}, as the names of the console's own people do")
        return Link(_id(claims, "jti"), visitor(org_id, person))

    async def _claims_of(self, token: str) -> Mapping[str, Any]:
        """Errors: Unproven, Trouble."""
        own = self._services.settings.my
        algorithm, kid = jwts.head_of(token)
        if algorithm == "HS256" and own.secrets:
            return jwts.claims_of(token, [jwts.secret_key(one) for one in own.secrets], ("HS256",))
        if algorithm in jwts.BY_KEYS and own.jwks_url:
            keys = await self._elsewhere.keys(own.jwks_url, kid, "the product")
            return jwts.claims_of(token, keys, jwts.BY_KEYS)
        raise Unproven(f"it is signed by {algorithm}, which is not set up here")


def _id(claims: Mapping[str, Any], name: str) -> str:
    """Errors: Unproven."""
    found = claims.get(name)
    if not isinstance(found, str) or not is_clean_id(found):
        raise Unproven(f"it does not say {name}, as 1 to 200 characters")
    return found
