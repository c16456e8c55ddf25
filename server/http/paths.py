"""Ids that stand in paths.

Guarantee: a route is found by the path as it was sent. What is percent-encoded in it is a part of an id and of nothing
else: `/v1/accounts/acme%2Fledger` names the account `acme/ledger`, and not the entries of `acme`.
"""

from __future__ import annotations

from urllib.parse import quote, unquote, unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send


class _IdConvertor(Convertor[str]):
    """`{org:id}`: any text, percent-encoded. Bytes that are no UTF-8 become U+FFFD, which is in no id."""

    regex = ".*"

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
