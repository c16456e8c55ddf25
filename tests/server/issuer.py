"""An issuer of OpenID Connect that is asked without a socket, keeps to the rules it can, and lies where it is told to.

Guarantee: a code is exchanged once, by whoever proves the client's secret and PKCE's verifier; what it signs is signed
by a key that it publishes. Everything else is the test's to spoil.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.schema.clock import Clock

ISSUER: Final = "https://login.example.com"
CLIENT: Final = "drawdown"
SECRET: Final = "the-clients-secret: of /+ shapes"
RSA: Final = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
EC: Final = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})
FOREIGN: Final = RSAKey.generate_key(2048, {"kid": "one"})


def said(status: int, body: object, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {"content-type": "application/json", **headers}, content)


@dataclass
class Issuer:
    """`claims` and `answers` (by the end of a path) are what it says otherwise; `sign` makes a token."""

    clock: Clock
    claims: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, HttpResult | Callable[[Call], HttpResult]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=lambda: [RSA, EC])
    sign: Callable[[dict[str, Any]], str] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """What it says where it is asked for more of somebody."""
    calls: list[Call] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    async def send(self, call: Call) -> HttpResult:
        self.calls.append(call)
        path = urlsplit(call.url).path
        found = next((answer for end, answer in self.answers.items() if path.endswith(end)), None)
        if found is not None:
            return found(call) if callable(found) else found
        own: dict[str, Callable[[Call], HttpResult]] = {
            "/.well-known/openid-configuration": self._configuration,
            "/jwks": lambda _: said(200, {"keys": [key.as_dict(private=False) for key in self.keys]}),
            "/token": self._token,
            "/userinfo": lambda _: said(200, {"sub": "s-1", **self.more}),
        }
        return own[path](call) if path in own else said(404, {})

    async def close(self) -> None:
        """There is nothing to close."""

    def asked(self, end: str) -> int:
        return sum(urlsplit(call.url).path.endswith(end) for call in self.calls)

    def agree(self, url: str) -> dict[str, str]:
        """Somebody signs in there, and is sent back: with which query."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert url.startswith(f"{ISSUER}/authorize?") and asked["response_type"] == "code"
        assert (asked["client_id"], asked["code_challenge_method"]) == (CLIENT, "S256")
        assert "openid" in asked["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": ISSUER}

    def _configuration(self, _call: Call) -> HttpResult:
        own = {"issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/authorize", "token_endpoint": f"{ISSUER}/token"}
        own |= {"jwks_uri": f"{ISSUER}/jwks", "userinfo_endpoint": f"{ISSUER}/userinfo"}
        return said(200, {name: value for name, value in {**own, **self.metadata}.items() if value is not None})

    def _token(self, call: Call) -> HttpResult:
        form = dict(parse_qsl(call.body.decode()))
        basic = {name.lower(): value for name, value in call.headers.items()}.get("authorization", "")
        given = base64.b64decode(basic.removeprefix("Basic ")).decode().split(":")
        proven = [unquote(one) for one in given] == [CLIENT, SECRET]
        proven |= (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        asked = self.codes.pop(form.get("code", ""), None)
        if not proven or asked is None or form["grant_type"] != "authorization_code":
            return said(401, {"error": "invalid_client" if asked else "invalid_grant"})
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        is_same = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
        if not is_same or form["redirect_uri"] != asked["redirect_uri"]:
            return said(400, {"error": "invalid_grant"})
        now = self.clock.now_ms() // 1000
        claims = {"iss": ISSUER, "aud": CLIENT, "sub": "s-1", "exp": now + 300, "iat": now, "nonce": asked["nonce"]}
        claims |= {"email": "ann@example.com", "email_verified": True}
        claims |= self.claims
        spoken = {name: value for name, value in claims.items() if value is not None}
        token = (self.sign or signed)(spoken)
        return said(200, {"id_token": token, "access_token": "a-token", "token_type": "Bearer"})


def signed(claims: dict[str, Any], key: Any = RSA, algorithm: str = "RS256", **head: Any) -> str:
    return jwt.encode({"alg": algorithm, "kid": key.kid, **head}, claims, key, algorithms=[algorithm])


def unsigned(claims: dict[str, Any]) -> str:
    """By `none`, which is no way to sign."""
    return ".".join([*(_part(one) for one in ({"alg": "none"}, claims)), ""])


def confused(claims: dict[str, Any]) -> str:
    """HS256 with the public key for a secret, as whoever takes the head's word would check it."""
    text = ".".join(_part(one) for one in ({"alg": "HS256", "kid": "one"}, claims))
    return f"{text}.{_base64(hmac.digest(RSA.as_pem(private=False), text.encode(), 'sha256'))}"


def _part(one: object) -> str:
    return _base64(json.dumps(one).encode())


def _base64(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()
