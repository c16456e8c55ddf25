"""The bounds of one connection, which hold before anything is parsed.

Guarantee: a server that answers without end (`100 Continue`, headers, tiny pieces, chunks of nothing, or answers that
nobody asked for) is cut off after a few kilobytes, and costs no other call more than that. A cut-off answer is no
answer.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import set_exception
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

from drawdown.providers.http import MAX_ANSWER_BYTES

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of everything before an answer's body, interim answers too."""
MAX_INTERIM: Final = 8
"""Answers of 1xx before the one that counts."""
SLICE_BYTES: Final = 4 * 1024
"""Of a head, parsed at once: what is in it shows before the next."""
MAX_WIRE_BYTES: Final = MAX_HEAD_BYTES + 2 * MAX_ANSWER_BYTES
"""Of one answer, with what its encoding adds."""
FREE_PIECES: Final = 256
PIECE_BYTES: Final = 128
"""An answer comes in so many pieces, and one more for each so many bytes: each costs the same, however small."""


class TooMuch(aiohttp.ClientError):
    """More than an answer has."""


class BoundedHandler(ResponseHandler):
    """One connection's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._renew()

    def _renew(self) -> None:
        self._interim = self._head = self._wire = self._pieces = 0
        self._has_head = False

    def set_response_params(self, **params: Any) -> None:
        """A request is about to be sent."""
        self._renew()
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """A message's head was parsed."""
        if 100 <= data[0].code < 200 and data[0].code != 101:
            self._interim += 1
        else:
            self._has_head = True
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        self._wire += len(data)
        self._pieces += bool(data)
        if (data and self._is_unasked()) or not self._is_within():
            self._cut()
            return
        at = 0
        while at < len(data) and not self._has_head and self._parser is not None:
            super().data_received(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
            self._head += SLICE_BYTES
            if self._interim > MAX_INTERIM or (self._head >= MAX_HEAD_BYTES and not self._has_head):
                self._cut()
            if self._exception is not None:
                return
        if at < len(data) or not data:
            super().data_received(data[at:])

    def _is_unasked(self) -> bool:
        return self._has_head and (self._payload is None or self._payload.is_eof())

    def _is_within(self) -> bool:
        return self._wire <= MAX_WIRE_BYTES and self._pieces <= FREE_PIECES + self._wire // PIECE_BYTES

    def _cut(self) -> None:
        error, transport = TooMuch(), self.transport
        if self._payload is not None:
            set_exception(self._payload, error)
        self.set_exception(error)
        if transport is not None:
            transport.abort()


class BoundedConnector(aiohttp.TCPConnector):
    """Connections whose ends are bounded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert self._factory.func is ResponseHandler, "this version of aiohttp is not one that drawdown was tried with"
        vars(self)["_factory"] = partial(BoundedHandler, loop=self._loop)
