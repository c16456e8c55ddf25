"""A proxy that cuts connections: in a request, while the server works on it, and in an answer, at any byte.

Guarantee: what it passes on it passes on whole or as a beginning, byte by byte as it was, and once.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from contextlib import suppress
from typing import Final

DOOMED: Final = 0.5
"""Of all connections. Of those that are served a third at least are cut: some end before, with a process killed."""
SURELY: Final = 2
"""The first answers of a call that was done: cut whatever the dice say, so that something comes again."""
MOST_CALLS: Final = 3
"""On one connection, which then ends in peace."""
MOST_HEAD: Final = 64 * 1024
AT_WORK_S: Final = 0.02
_LENGTH: Final = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
_DONE: Final = b"HTTP/1.1 200 "
_LOST: Final = (OSError, asyncio.IncompleteReadError)


class Cutter:
    """Between clients and the port of a server, in a thread of its own. `cuts`: how many, by where."""

    def __init__(self, target: int, dice: random.Random) -> None:
        self._target, self._dice = target, dice
        self.connections = self.calls = 0
        """Connections that the server took, and calls that began on them."""
        self.cuts: Counter[str] = Counter()
        self._owed = SURELY
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._work(),), daemon=True)

    def __enter__(self) -> Cutter:
        self._thread.start()
        assert self._begun.wait(30), "the proxy listens"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)
        self._loop.close()

    @property
    def share(self) -> float:
        """Of the connections, those that were cut."""
        return sum(self.cuts.values()) / max(self.connections, 1)

    async def _work(self) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MOST_HEAD)
        self.port = server.sockets[0].getsockname()[1]
        self._begun.set()
        await self._ended.wait()
        server.close()
        others = list(self._tasks)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)  # the loop itself does not hold it
        task.add_done_callback(self._tasks.discard)
        with suppress(*_LOST):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=MOST_HEAD)
            self.connections += 1
            try:
                await self._pass_on(reader, writer, server_reader, server_writer)
            finally:
                self._end(server_writer)
        self._end(writer)

    async def _pass_on(
        self, reader: StreamReader, writer: StreamWriter, server_reader: StreamReader, server_writer: StreamWriter
    ) -> None:
        calls = self._dice.randint(1, MOST_CALLS)
        where = self._dice.choice(("request", "work", "answer")) if self._dice.random() < DOOMED else ""
        at = self._dice.randint(1, calls)
        for number in range(1, calls + 1):
            request = await _message(reader)
            self.calls += 1
            cut = where if number == at else ""
            await self._give(server_writer, request, cut if cut == "request" else "")
            if cut == "work":
                await asyncio.sleep(self._dice.uniform(0, AT_WORK_S))
            if cut in ("request", "work"):
                self.cuts[cut] += 1
                return
            answer = await _message(server_reader)
            if not cut and self._owed and answer.startswith(_DONE):
                self._owed, cut = self._owed - 1, "answer"
            await self._give(writer, answer, cut)
            if cut:
                self.cuts[cut] += 1
                return

    async def _give(self, writer: StreamWriter, message: bytes, cut: str) -> None:
        writer.write(message[: self._dice.randrange(len(message))] if cut else message)
        await writer.drain()

    def _end(self, writer: StreamWriter) -> None:
        """Closed, or broken off without a word."""
        if self._dice.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()


async def _message(reader: StreamReader) -> bytes:
    """A request or an answer, whole. Errors: OSError, IncompleteReadError where it ends before."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return head + (await reader.readexactly(int(length[1])) if length is not None else b"")
