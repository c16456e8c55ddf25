"""Bugs planted into the client that sends money's calls: on some socket each shows as a lie about what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from drawdown.providers.http import Answer, HttpResult, NoAnswer, NotSent
from drawdown.providers.http import client as sending
from drawdown.providers.http.client import Connection, HttpClient
from tests.cases import cases
from tests.contract import sockets
from tests.contract.sockets import Manner, Peer, answering, serving
from tests.contract.test_http_client import call

Planted = Callable[[pytest.MonkeyPatch], None]
PAUSE_S: Final = 0.15


async def _unsolicited(peer: Peer) -> None:
    """Answer once, and soon after without being asked; then nothing more."""
    await peer.request()
    await peer.say(sockets.OK)
    await asyncio.sleep(PAUSE_S / 3)
    await peer.say(sockets.body_of(b"not yours"))
    await asyncio.sleep(60)


def _unknown_is_unsent(patch: pytest.MonkeyPatch) -> None:
    sound = sending._exchanged

    async def exchanged(*given: Any) -> HttpResult:
        result = await sound(*given)
        return NotSent(result.reason) if isinstance(result, NoAnswer) else result

    patch.setattr(sending, "_exchanged", exchanged)


def _sent_again(patch: pytest.MonkeyPatch) -> None:
    sound = HttpClient.send

    async def send(self: HttpClient, one: Any) -> HttpResult:
        result = await sound(self, one)
        return await sound(self, one) if isinstance(result, NoAnswer) else result

    patch.setattr(HttpClient, "send", send)


def _half_is_whole(patch: pytest.MonkeyPatch) -> None:
    sound = Connection.connection_lost

    def connection_lost(self: Connection, exc: Exception | None) -> None:
        self._is_framed = False
        sound(self, exc)

    patch.setattr(Connection, "connection_lost", connection_lost)


def _unasked_is_kept(patch: pytest.MonkeyPatch) -> None:
    """What comes while nothing is asked is the next request's answer."""
    sound, asked = Connection.data_received, Connection.ask

    def data_received(self: Connection, data: bytes) -> None:
        if self._answer is None:
            vars(self)["early"] = data
        else:
            sound(self, data)

    def ask(self: Connection, request: bytes, most: int) -> asyncio.Future[None]:
        answer = asked(self, request, most)
        if early := vars(self).pop("early", b""):
            sound(self, early)
        return answer

    patch.setattr(Connection, "data_received", data_received)
    patch.setattr(Connection, "ask", ask)


def _used_after_a_cut(patch: pytest.MonkeyPatch) -> None:
    """A connection whose answer was given up is used again, and the late answer is the next request's."""

    def done_with(self: Connection) -> bool:
        self._answer = None
        return self.is_open

    patch.setattr(Connection, "done_with", done_with)


async def _late(peer: Peer) -> None:
    await peer.request()
    await asyncio.sleep(PAUSE_S * 3)  # in the middle of the second call
    await peer.say(sockets.body_of(b"not yours"))
    await peer.request()
    await asyncio.sleep(60)


async def _twice(manner: Manner, first_s: float) -> tuple[list[HttpResult], int]:
    """What two calls give, one after the other, and how many requests reached the server."""
    client = HttpClient()
    async with serving(manner) as seen:
        first = await client.send(call(seen.url, timeout_s=first_s))
        await asyncio.sleep(PAUSE_S)
        second = await client.send(call(seen.url, timeout_s=PAUSE_S * 2))
        await client.close()
        return [first, second], len(seen.requests)


HALF: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
PLANTED: Final[dict[str, tuple[Planted, Manner, float]]] = {
    "an unknown outcome is called unsent": (_unknown_is_unsent, sockets.reset_after_reading, 2.0),
    "a call that broke is sent again": (_sent_again, sockets.reset_after_reading, 2.0),
    "half an answer is taken for a whole one": (_half_is_whole, answering(HALF), 2.0),
    "what nobody asked for is the next answer": (_unasked_is_kept, _unsolicited, 2.0),
    "a connection is used again within an answer": (_used_after_a_cut, _late, PAUSE_S),
}


def holds(manner: Manner, first_s: float) -> bool:
    """Whether two calls told nothing but what was: sent once each, and no answer but a whole one of its own."""
    results, requests = asyncio.run(_twice(manner, first_s))
    told = all(isinstance(one, NoAnswer) or (isinstance(one, Answer) and one.body == b"ok") for one in results)
    return told and requests <= len(results)


@cases("name", PLANTED)
def test_http_client_bug_breaks_delivery_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, manner, first_s = PLANTED[name]
    assert holds(manner, first_s)
    plant(monkeypatch)
    assert not holds(manner, first_s)
