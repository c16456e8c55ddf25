"""Authenticate people, and reject forms from other sites.

Guarantee: the cookie's name begins with __Host-, so that other hosts, other paths and plain connections cannot set it.
Browsers send it only over HTTPS, or over HTTP to this machine. Drawdown accepts a form only if the browser states that
a page of the console sent the form. It rejects a form above MAX_FORM_BYTES. A proxy may name a person only with the
proxy's secret, and Drawdown decides the person's role.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value
from drawdown.server.http.bodies import Budget, body_of
from drawdown.server.http.errors import ApiError
from drawdown.server.settings import ServerSettings
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.access.people import NAME, Person
from drawdown.worker.access.sessions import LIFE_MS

COOKIE: Final = "__Host-drawdown-console"
SECRET_HEADER: Final = "x-drawdown-proxy-secret"  # noqa: S105, the header's name
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
PORTS: Final = {"http": 80, "https": 443}
HOST: Final = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:]+\]")


def require_url(text: str, setting: str) -> str:
    """Return the URL of a setting if it is an origin, as browsers send it.

    Errors: UsageError unless it is an origin with HTTPS, or with HTTP and a loopback address or `localhost`.
    """
    origin = _origin_of(text)
    if not origin:
        raise UsageError(f"invalid {setting}: expected an origin such as https://drawdown.internal")
    parts = urlsplit(origin)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise UsageError(f"invalid {setting}: expected https://, or http:// with localhost, 127.0.0.1 or [::1]")
    if text != origin:
        raise UsageError(f"invalid {setting}: expected {origin}")
    return text


def _origin_of(text: str) -> str:
    """Return a URL's origin, as browsers send it; '' if a part is invalid."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host = f"[{IPv6Address(host)}]" if ":" in host else host
    except ValueError:
        return ""
    if parts.scheme not in PORTS or not HOST.fullmatch(host):
        return ""
    return f"{parts.scheme}://{host}" + ("" if port in (None, PORTS[parts.scheme]) else f":{port}")


@dataclass(frozen=True)
class SignedIn:
    """A signed-in person.

    `seen_ms`: the last use of the session (milliseconds), if there is a session.
    """

    person: Person
    session: str = ""
    seen_ms: int = 0


FOUND: Final = "drawdown.session"
"""Key in a request's scope: the session that was looked up, and whether it exists."""


def who(connection: sa.Connection, settings: ServerSettings, request: Request, now_ms: int) -> SignedIn | None:
    """Return the signed-in person; None without a valid session or proxy.

    The function stores the session in the request's scope (FOUND).
    """
    named = proxied(settings, request)
    if named is not None:
        person = console_sessions.person_named(connection, named)
        return None if person is None else SignedIn(person)
    session = request.cookies.get(COOKIE, "")
    found = console_sessions.find(connection, session, now_ms)
    request.scope[FOUND] = session, found is not None
    return None if found is None else SignedIn(found[0], session, found[1])


def proxied(settings: ServerSettings, request: Request) -> str | None:
    """Return the person that the proxy names.

    Return None if the proxy does not name a person, or does not prove that it is the proxy.
    """
    if not (settings.console_proxy_header and settings.console_proxy_secret):
        return None
    wanted, offered = (
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        for text in (settings.console_proxy_secret, request.headers.get(SECRET_HEADER, ""))
    )
    named = request.headers.getlist(settings.console_proxy_header)
    genuine = hmac.compare_digest(wanted, offered)
    return named[0] if genuine and len(named) == 1 and NAME.fullmatch(named[0]) else None


def is_ours(request: Request, url: str) -> bool:
    """Return True if a form comes from a page of this console.

    Browsers state this in a header that scripts cannot set. Older browsers send the origin.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return request.headers.get("origin") == url


def give(answer: Response, session: str) -> None:
    """Set the cookie of a session, for the longest lifetime of a session."""
    answer.set_cookie(COOKIE, session, max_age=LIFE_MS // 1000, path="/", secure=True, httponly=True, samesite="lax")


def take_back(answer: Response) -> None:
    """Delete the cookie of the session."""
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")


MAX_FORM_BYTES: Final = 16 * 1024
"""Largest form of the console, in bytes.

Drawdown rejects a larger form.
"""
MOST_FIELDS: Final = 20
"""Fields of a form of the console."""


async def form_of(request: Request, url: str, budget: Budget, home: str = "/console/") -> Mapping[str, str]:
    """Return the fields of a form of the console, each once.

    `url`: the console's address, and `home` the path of its first page. Errors: ApiError 403 for a form of another
    site, 400 for an invalid form; the errors of `bodies`.
    """
    if not is_ours(request, url):
        why = f"this form was not sent from the console. Open the form at {url}{home}"
        raise ApiError(403, "foreign_form", why)
    async with body_of(request, MAX_FORM_BYTES, budget) as body:
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
        except (UnicodeDecodeError, ValueError):
            raise ApiError(
                400,
                "bad_form",
                f"the form cannot be read: expected at most {MOST_FIELDS} fields in UTF-8. Open the form again",
            ) from None
    found = dict(pairs)
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ApiError(400, "bad_form", f"the form has the field {quote_value(twice[0])} twice. Open the form again")
    return found
