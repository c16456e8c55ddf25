"""Sign in people by OpenID Connect, at the one configured issuer.

The sign-in uses the authorization code flow with PKCE.

Guarantee: a sign-in ends in the browser that began it, within WITHIN_MS. Drawdown derives the state, the nonce and
PKCE's verifier from one secret, which it uses once. Only that browser's cookie has the secret. Drawdown accepts a token
only with the issuer's signature, this audience, this nonce and a valid time. The issuer identifies a person. Drawdown
decides whether the person may sign in, and with which role. It redirects a browser only to the issuer, and then to the
console.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode, urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from drawdown.providers.http import Call
from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value, typed
from drawdown.schema.units import MINUTE_MS
from drawdown.server import jwts
from drawdown.server.console import session_auth
from drawdown.server.console.jwks import DocumentCache, Trouble, is_safe
from drawdown.server.console.request_params import said_by
from drawdown.server.console.sign_in import Desk, inside
from drawdown.server.http.callers import caller_of
from drawdown.server.http.threads import Threads
from drawdown.server.jwts import Unproven
from drawdown.server.services import Services
from drawdown.server.settings import OidcSettings
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.access.people import NAME, Person

log = structlog.get_logger()

BEGIN: Final = "/console/oidc"
BACK: Final = "/console/oidc/back"
COOKIE: Final = "__Host-drawdown-oidc"
WITHIN_MS: Final = 10 * MINUTE_MS
"""Time limit of a sign-in at the issuer, from the button to the person's return."""
MAX_NEXT_CHARS: Final = 1_000
"""Characters of the page's address that Drawdown remembers during a sign-in.

Drawdown drops a longer address.
"""
MAX_CODE_CHARS: Final = 4_000
"""Characters of the code that a person brings back from an identity provider."""
_CODE: Final = re.compile(r"[a-z_]{1,50}")
"""Matches an issuer's error code.

Drawdown never shows the issuer's own text, because it may have any content.
"""
SCOPES: Final = "openid profile email"


def require_sane(settings: OidcSettings) -> None:
    """Check the settings of the issuer.

    Errors: UsageError if a setting is invalid, or the library for tokens is missing.
    """
    if not settings.issuer:
        return
    if not is_safe(settings.issuer) or urlsplit(settings.issuer).query:
        raise UsageError(  # without the value, because a user's password may be in it
            "invalid DRAWDOWN_CONSOLE_OIDC_ISSUER: expected https://, or http:// with localhost, 127.0.0.1 or [::1], "
            "without a user name, password, query or fragment, such as https://login.example.com"
        )
    if not settings.client_id or not settings.claim:
        raise UsageError(
            "DRAWDOWN_CONSOLE_OIDC_ISSUER needs a client and a claim. Set DRAWDOWN_CONSOLE_OIDC_CLIENT_ID and "
            "DRAWDOWN_CONSOLE_OIDC_CLAIM"
        )
    jwts.require_library()


def label_of(settings: OidcSettings) -> str:
    """Return the issuer's name for the sign-in button; '' if there is no button."""
    return settings.issuer and (settings.label or urlsplit(settings.issuer).hostname or "")


@dataclass(frozen=True)
class Trip:
    """One sign-in at the issuer.

    Only the browser's cookie has `secret`. The issuer gets values derived from it.
    """

    secret: str
    began_ms: int

    @property
    def state(self) -> str:
        return f"{self.began_ms}.{self._derive('state')}"

    @property
    def nonce(self) -> str:
        return self._derive("nonce")

    @property
    def verifier(self) -> str:
        return self._derive("verifier")

    @property
    def challenge(self) -> str:
        """Return PKCE's challenge with the method S256 (RFC 7636)."""
        return _base64(hashlib.sha256(self.verifier.encode()).digest())

    def _derive(self, what: str) -> str:
        return _base64(hmac.digest(self.secret.encode(), f"{what} {self.began_ms}".encode(), "sha256"))


def trip_of(secret: str, state: str) -> Trip | None:
    """Return the sign-in of a state; None unless this secret signed the state."""
    began, _, _ = state.partition(".")
    if not (began.isascii() and began.isdecimal() and len(began) <= 15 and secret):
        return None
    trip = Trip(secret, int(began))
    return trip if hmac.compare_digest(trip.state.encode(), state.encode("utf-8", "replace")) else None


class Oidc:
    """The two routes of the sign-in at the issuer.

    `desk`: shows pages, and knows the console's address.
    """

    def __init__(self, desk: Desk, threads: Threads, services: Services, elsewhere: DocumentCache) -> None:
        self._desk = desk
        self._threads = threads
        self._services = services
        self._elsewhere = elsewhere

    def routes(self) -> list[Route]:
        return [Route(BEGIN, self._begin, methods=["GET"]), Route(BACK, self._back, methods=["GET"])]

    @property
    def _settings(self) -> OidcSettings:
        return self._services.settings.oidc

    async def _begin(self, request: Request) -> Response:
        async def to_issuer() -> Response:
            if not self._settings.issuer:
                return self._desk.failed(
                    404,
                    "sign-in through another service is not set up here. Ask an admin to set "
                    "DRAWDOWN_CONSOLE_OIDC_ISSUER",
                )
            place = inside(said_by(request).get("next"))
            try:
                found = await self._provider()
            except Trouble as error:
                return self._show_form(str(error), 502)
            trip = Trip(secrets.token_urlsafe(32), self._services.clock.now_ms())
            answer = RedirectResponse(self._address(found["authorization_endpoint"], trip), 303)
            kept = f"{trip.secret}.{quote(place, safe='')}" if len(place) <= MAX_NEXT_CHARS else trip.secret
            answer.set_cookie(
                COOKIE, kept, max_age=WITHIN_MS // 1000, path="/", secure=True, httponly=True, samesite="lax"
            )
            return answer

        return await self._desk.answered(request, to_issuer)

    def _address(self, endpoint: str, trip: Trip) -> str:
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._desk.url + BACK,
            "scope": SCOPES,
            "state": trip.state,
            "nonce": trip.nonce,
            "code_challenge": trip.challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    async def _provider(self) -> Mapping[str, Any]:
        """Return the issuer's configuration. Errors: Trouble."""
        issuer = self._settings.issuer
        said = await self._elsewhere.get_cached(f"{issuer.rstrip('/')}/.well-known/openid-configuration", issuer)
        if said.get("issuer") != issuer:
            raise Trouble(
                f"{issuer} states another issuer, {quote_value(said.get('issuer'))}. Check DRAWDOWN_CONSOLE_OIDC_ISSUER"
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(said.get(name), str) or not is_safe(said[name]):
                raise Trouble(
                    f"{issuer} states an invalid {name} {quote_value(said.get(name))}: expected an https:// address. "
                    "Ask an admin to fix it"
                )
        return said

    async def _back(self, request: Request) -> Response:
        return await self._desk.answered(request, lambda: self._came_back(request))

    async def _came_back(self, request: Request) -> Response:
        secret, _, place = request.cookies.get(COOKIE, "").partition(".")
        query = said_by(request)
        trip = trip_of(secret, query.get("state", ""))
        if not secret or not self._settings.issuer:
            why = "this sign-in began in another browser, is over ten minutes old, or was used. Begin again"
            return self._show_form(why, 400)
        if trip is None:  # the cookie of the newer sign-in stays valid
            return self._show_form(
                "another sign-in has begun in this browser since. Finish that sign-in, or begin again", 400
            )
        try:
            if not 0 <= self._services.clock.now_ms() - trip.began_ms <= WITHIN_MS:
                raise Unproven("this sign-in took longer than ten minutes. Begin again")
            claims = await self._proven(query, trip)
            answer = await self._entered(request, self._name_of(claims), inside(unquote(place)))
        except Unproven as error:
            answer = self._show_form(str(error), 400)
        except Trouble as error:
            answer = self._show_form(str(error), 502)
        answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return answer

    async def _proven(self, query: Mapping[str, str], trip: Trip) -> Mapping[str, Any]:
        """Return the issuer's claims about the person who returned.

        Errors: Unproven; Trouble.
        """
        issuer = self._settings.issuer
        if query.get("iss", issuer) != issuer:  # RFC 9207
            other = quote_value(query["iss"])
            raise Unproven(f"cannot sign in: expected a response from {issuer}, not from {other}. Begin again")
        if "error" in query:
            why = query["error"] if _CODE.fullmatch(query["error"]) else "an unknown error"
            raise Unproven(f"{issuer} returned an error: {why}. Begin again")
        if not 0 < len(query.get("code", "")) <= MAX_CODE_CHARS:
            raise Unproven(f"{issuer} did not send a valid code. Begin again")
        provider = await self._provider()
        status, said = await self._elsewhere.ask(self._exchange(provider, query["code"], trip), issuer)
        token = said.get("id_token")
        if status != 200 or not isinstance(token, str):
            code = said.get("error")
            why = code if isinstance(code, str) and _CODE.fullmatch(code) else f"it answers {status}"
            raise Trouble(f"{issuer} did not return a token: {why}. Begin again")
        claims = await self._claims_of(token, provider, trip)
        if self._settings.claim in claims or not isinstance(provider.get("userinfo_endpoint"), str):
            return claims
        return await self._more(claims, provider["userinfo_endpoint"], said.get("access_token"))

    def _exchange(self, provider: Mapping[str, Any], code: str, trip: Trip) -> Call:
        """Return the call that exchanges a code for a token, once."""
        own = self._settings
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._desk.url + BACK}
        form |= {"code_verifier": trip.verifier}
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        ways = provider.get("token_endpoint_auth_methods_supported")
        if not own.client_secret:
            form |= {"client_id": own.client_id}
        elif isinstance(ways, list) and "client_secret_basic" not in ways and "client_secret_post" in ways:
            form |= {"client_id": own.client_id, "client_secret": own.client_secret}
        else:
            both = f"{quote(own.client_id, safe='')}:{quote(own.client_secret, safe='')}"
            headers |= {"authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
        return Call("POST", provider["token_endpoint"], headers, urlencode(form).encode())

    async def _claims_of(self, token: str, provider: Mapping[str, Any], trip: Trip) -> Mapping[str, Any]:
        """Return the claims of the issuer's token after all checks.

        Errors: Unproven; Trouble.
        """
        own = self._settings
        try:
            _, kid = jwts.head_of(token)
            keys = await self._elsewhere.keys(provider["jwks_uri"], kid, f"the key endpoint of {own.issuer}")
            claims = jwts.claims_of(token, keys, jwts.BY_KEYS)
            audience = claims.get("aud")
            several = isinstance(audience, list) and len(audience) > 1
            more = {"azp": own.client_id} if "azp" in claims or several else {}
            wanted = {"iss": own.issuer, "aud": own.client_id, "nonce": trip.nonce, **more}
            jwts.require(claims, self._services.clock.now_ms(), **wanted)
            if not isinstance(claims.get("sub"), str):
                raise Unproven("the token does not have the claim sub")
        except Unproven as error:
            raise Unproven(f"the token of {own.issuer} is invalid: {error}. Begin again") from None
        return claims

    async def _more(self, claims: Mapping[str, Any], url: str, access: object) -> Mapping[str, Any]:
        """Return the claims, plus those of the userinfo endpoint about the same person.

        Errors: Trouble.
        """
        if not isinstance(access, str) or not access.isascii() or not access.isprintable():
            return claims
        headers = {"authorization": f"Bearer {access}", "accept": "application/json"}
        status, said = await self._elsewhere.ask(Call("GET", url, headers), self._settings.issuer)
        if status != 200 or said.get("sub") != claims["sub"]:
            raise Trouble(
                f"{self._settings.issuer} did not return the details of the person who signed in. Begin again"
            )
        # An email and its verification must be from one document, so the token's `email_verified` does not count.
        kept = {name: value for name, value in claims.items() if name != "email_verified"}
        return {**said, **kept}

    def _name_of(self, claims: Mapping[str, Any]) -> str:
        """Return the person's name in Drawdown. Errors: Unproven."""
        claim, issuer = self._settings.claim, self._settings.issuer
        name = claims.get(claim)
        if not isinstance(name, str) or not (name.isascii() and NAME.fullmatch(name.lower())):
            raise Unproven(
                f"{issuer} returned an invalid or missing {claim} {quote_value(name)}: expected 1 to 64 characters of "
                "a-z, 0-9 and . _ @ + -. Ask an admin to change it"
            )
        verified = claims.get("email_verified", self._settings.unverified_email)
        if claim == "email" and verified is not True:
            raise Unproven(
                f"{issuer} has not verified the email {name}. Verify the email at the issuer, then begin again"
            )
        # `lower` is safe because the name is ASCII. In other alphabets, two letters may have the same lower case.
        return name.lower()

    async def _entered(self, request: Request, name: str, place: str) -> Response:
        session = secrets.token_urlsafe(32)
        address = caller_of(request.client and request.client.host)
        if await self._let_in(name, session, address) is None:
            why = f"{name} signed in at {self._settings.issuer}, but has no access here. Ask an admin to run "
            return self._show_form(f"{why}`drawdown console user add {typed(name, '--role', 'viewer')}`", 403)
        answer = RedirectResponse(place, 303)
        session_auth.give(answer, session)
        return answer

    async def _let_in(self, name: str, session: str, address: str) -> Person | None:
        now_ms, through = self._services.clock.now_ms(), self._settings.issuer
        return await self._threads.write(
            lambda c: console_sessions.begin_proven(c, name, session, address, now_ms, through)
        )

    def _show_form(self, why: str, status: int) -> Response:
        """Return the sign-in form with the reason."""
        passed_over = self._services.log_throttle.passed_over(
            self._services.clock.now_ms(), "oidc_refused", status, why
        )
        if passed_over is not None:
            log.info("oidc_refused", status=status, why=why, passed_over=passed_over)
        return self._desk.render("sign_in.html", {"next": "/console/", "name": "", "why": why}, status)


def _base64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
