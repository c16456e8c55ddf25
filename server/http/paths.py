"""The route of a path: found as it was sent, and directly if the whole path is known.

Guarantee: a percent-encoded text in a path is a part of an id and of nothing else: `/v1/accounts/acme%2Fledger` names
the account `acme/ledger`, and not the entries of `acme`. A route that is found directly is answered as the application
would answer it, with the same meaning of each error. The application, which knows all routes, describes it, and refuses
it for its method.
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
    """`{org:id}`: a segment of any text, percent-encoded. Bytes that are no UTF-8 become U+FFFD, in no id."""

    regex = "[^/]*"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor("id", _IdConvertor())


class PathsAsSent:
    """Has the application match each path as it was sent, in one spelling: what could stand there plainly, does."""

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
    """Calls the endpoint of a request at a fixed path directly, and passes every other request on.

    `routes`: it uses those that take the bare request at a path without parameters. `handlers`: the nearest base of an
    error gives its answer; an error without a handler is for the layer around this.
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
