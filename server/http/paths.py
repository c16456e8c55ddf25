"""Find the route of a path as it was sent.

Guarantee: a percent-encoded character in a path is always a part of an id, never a separator.
`/v1/accounts/acme%2Fledger` names the account `acme/ledger`, not the entries of `acme`. If a route has no path
parameters and takes only the request, this module finds the route directly. The route's response and errors equal those
of the application. The application knows and describes all routes, and refuses wrong methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import cast
from urllib.parse import quote, unquote, unquote_to_bytes

from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from drawdown.server.http.errors import Handlers


class _IdConvertor(Convertor[str]):
    """`{org:id}`: a segment of any text, percent-encoded.

    Bytes that are not UTF-8 become U+FFFD, which no id contains.
    """

    regex = "[^/]*"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor("id", _IdConvertor())


class PathsAsSent:
    """A layer that gives the application each path as it was sent.

    If a path has a percent sign, the layer encodes each of its segments again. Then only letters, digits and `-._~` are
    not percent-encoded. Without a percent sign, the path stays as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
            if b"%" in sent:
                scope["path"] = "/".join(quote(unquote_to_bytes(part), safe="") for part in sent.split(b"/"))
        await self._app(scope, receive, send)


Endpoint = Callable[[Request], Awaitable[Response]]


class RouteTable:
    """A table that calls the endpoint of a fixed path, and passes on other requests.

    `routes`: all routes. The table passes on those with parameters, or with more arguments than the request.
    `handlers`: the responses to errors, selected by the nearest base class of an error. An error without a handler goes
    to the outer layer.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], handlers: Handlers) -> None:
        self._app = app
        self._handlers = handlers
        self._routes = {
            (method, one.path): (cast(Endpoint, one.endpoint), one)
            for one in routes
            if isinstance(one, APIRoute)
            and "{" not in one.path
            and [*inspect.signature(one.endpoint).parameters] == ["request"]
            for method in one.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, scope["route"] = found
        request = Request(scope, receive, send)
        try:
            answer = await endpoint(request)
        except Exception as error:
            handler = next((self._handlers[one] for one in type(error).__mro__ if one in self._handlers), None)
            if handler is None:
                raise
            answer = await handler(request, error)
        await answer(scope, receive, send)
