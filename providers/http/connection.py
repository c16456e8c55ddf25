"""One connection of HTTP/1.1, and the bounds of what may come back on it.

Guarantee: an answer is whole, or it is none. A server that answers without end (`100 Continue`, headers, tiny pieces,
chunks of nothing) is cut off after a few kilobytes. What nobody asked for ends the connection, and is never taken for
the answer to what is asked next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final, cast

import httptools

from drawdown.providers.http import MAX_ANSWER_BYTES

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of everything before an answer's body, interim answers too."""
MAX_HEADERS: Final = 256
"""Of one answer, trailers too: each is a call of ours."""
MAX_INTERIM: Final = 8
"""Answers of 1xx before the one that counts."""
MAX_WIRE_BYTES: Final = MAX_HEAD_BYTES + 2 * MAX_ANSWER_BYTES
"""Of one answer, with what its encoding adds."""
CHUNK_BYTES: Final = 7
"""What a server may add to each byte of a body: chunks of a single byte add five."""
FREE_PIECES: Final = 256
PIECE_BYTES: Final = 128
"""An answer comes in so many pieces, and one more for each so many bytes: each costs the same, however small."""
ORIGIN_BYTES: Final = 32 * 1024 * 1024
"""Of all answers of one origin that are on their way: one that floods costs others nothing, and us no more memory."""


class Unusable(Exception):
    """What came back is no answer; the message says why, in words of ours alone."""


CUT_OFF: Final = "more than an answer has: cut off"
CUT_SHORT: Final = "the answer was cut short"
NO_ANSWER: Final = "closed before an answer"
BROKE: Final = "the connection broke"
NOT_HTTP: Final = "the answer is not HTTP"
TOO_MUCH: Final = "an answer of over"
INTERIM: Final = "an answer of 1xx, and no other"


class Connection(asyncio.Protocol):
    """One connection's end. One request at a time: `ask`, and `done_with` once that is answered. `held` counts the
    bytes of all answers of its origin that are on their way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, held: Counter[str], origin: str) -> None:
        self._loop = loop
        self._held = held
        self._origin = origin
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.is_open = True
        self.idle_since = 0.0
        self._renew(0)

    def _renew(self, most: int) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._most = most
        self._head = self._wire = self._pieces = self._named = self._interim = 0
        self._has_head = self._is_framed = self._is_whole = self._keeps = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, most: int) -> asyncio.Future[None]:
        """Send a request whole; the future is done when its answer is. From here on its bytes may be on their way.
        Errors, of the future: Unusable."""
        assert self._transport is not None and self.is_open and self._answer is None, "one request at a time"
        self._renew(most)
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return self._answer

    def done_with(self) -> bool:
        """Forget the answer; whether the connection may be used again."""
        self._held[self._origin] -= len(self.body)
        self.body = bytearray()
        self._answer = None
        if not (self._is_whole and self._keeps):
            self.abort()
        return self.is_open

    def abort(self) -> None:
        """Close it now."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._is_whole:
            self.abort()  # nobody asked
            return
        self._wire += len(data)
        self._pieces += 1
        if self._wire > MAX_WIRE_BYTES or self._pieces > FREE_PIECES + self._wire // PIECE_BYTES:
            self._fail(CUT_OFF)
            return
        try:
            self._parser.feed_data(data)
        except Unusable as error:
            self._fail(str(error))
        except httptools.HttpParserError as error:  # of what a callback raised, or of what comes after a whole answer
            self._keeps = False
            if not self._is_whole:
                said = error.__context__
                self._fail(str(said) if isinstance(said, Unusable) else NOT_HTTP)
        # Of what it says beside the body the parser keeps a part that is not told yet, such as a trailer's name.
        free = 2 * MAX_HEAD_BYTES + CHUNK_BYTES * len(self.body) if self._has_head else MAX_HEAD_BYTES
        if self._wire - len(self.body) > free:
            self._fail(CUT_OFF)
        if self._is_whole:
            self._done()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is None or self._answer.done():
            return
        if exc is not None:
            self._fail(BROKE)
        elif self._has_head and not self._is_framed:
            self._is_whole = True  # it says nowhere how long it is: its end is the connection's
            self._done()
        else:
            self._fail(CUT_SHORT if self._has_head else NO_ANSWER)

    def _done(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _fail(self, why: str) -> None:
        self._is_whole = False
        self.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unusable(why))

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._is_whole:
            self._keeps = False  # another answer in the same breath

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_whole:
            return
        self._named += 1
        self._head += len(name) + len(value)
        if self._named > MAX_HEADERS or self._head > MAX_HEAD_BYTES:
            raise Unusable(CUT_OFF)
        if self._has_head:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key in ("content-length", "transfer-encoding"):
            self._is_framed = True
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self._is_whole:
            return
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._has_head = True
            return
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise Unusable(CUT_OFF)
        if self.status == 101:
            raise Unusable(INTERIM)
        self.headers, self._is_framed = {}, False

    def on_body(self, data: bytes) -> None:
        if self._is_whole:
            return
        self.body += data
        self._held[self._origin] += len(data)
        if len(self.body) > self._most:
            raise Unusable(f"{TOO_MUCH} {self._most} bytes")
        if self._held[self._origin] > ORIGIN_BYTES:
            raise Unusable(f"answers of over {ORIGIN_BYTES} bytes at once")

    def on_message_complete(self) -> None:
        if self._has_head and not self._is_whole:
            self._keeps = self._parser.should_keep_alive()
            self._is_whole = True
