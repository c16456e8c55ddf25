"""Routes of which the whole path is known are found by it: no other is compared with it, and nothing stands between.

Guarantee: a request is answered as the application would answer it, with the same meaning of each error. What is found
here is described, and refused for its method, by the application, which knows all routes.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from drawdown.server.http.errors import Handlers

Endpoint = Callable[[Request], Awaitable[Response]]


class Straight:
    """`routes`: of those, the ones that take a request, as it came, at one path. `handlers`: the nearest base of an
    error says what is answered; an error without one is for whoever is around this."""

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
