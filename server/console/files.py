"""Send the files of pages row by row.

Guarantee: a process holds few rows in memory, for a file of any size. It reads all rows in one transaction, and sends
them in pieces of about PIECE_BYTES. If a browser stops reading, its file ends after TAKEN_WITHIN_S, and other files
continue. If a browser reads slowly, its file ends after WHOLE_WITHIN_S. At most MOST_FILES of the console and as many
of `/my` are in progress. An organisation's own people have at most one file in progress. After the last row that it
reads, Drawdown records the person and the number of rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.database import read, write
from drawdown.server.console.request_params import Ask
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.threads import Threads

PIECE_BYTES: Final = 64 * 1024
"""Bytes in one piece of a file that the console sends."""
MOST_FILES: Final = 2
"""Files that the console sends at the same time. `/my` has the same limit.

The other half of the threads stays free for pages.
"""
MOST_PIECES: Final = 4
"""Pieces of a file that the server has read but not sent yet."""

GONE_EVERY_S: Final = 1.0
"""Seconds after which a thread notices that the browser of its file is gone."""
TAKEN_WITHIN_S: Final = 30.0
"""Seconds that a client may take to read one piece.

After this time, the server ends the file, so that another file can begin.
"""

WHOLE_WITHIN_S: Final = 300.0
"""Seconds that one file may take.

Without this limit, two slow readers would block all other files. A fast reader gets millions of rows in this time.
"""


class NotTaken(Exception):
    """Raised if the browser did not read the file in time."""


@dataclass(frozen=True)
class FileRequest:
    """The request for a file, for the audit log: the path, the person and the query."""

    path: str
    ask: Ask


class Stream:
    """A file in progress. One thread reads its rows, and the event loop sends them."""

    def __init__(self, taken: FileRequest, ended: Callable[[], None]) -> None:
        self._taken = taken
        self._ended = ended
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(MOST_PIECES)
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + WHOLE_WITHIN_S
        self._gone = False

    async def pieces(self, first: bytes) -> AsyncIterator[bytes]:
        """Yield each piece of the file.

        An error ends the file early, so that a program detects that the file is incomplete.
        """
        try:
            yield first
            while (piece := await self._pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self._gone = True
            self._forget()

    def _put(self, piece: bytes | Exception | None) -> bool:
        """Wait until the queue has space for a piece, and add the piece.

        Return False if the browser no longer reads. The stream then ends with NotTaken.
        """
        waiting = asyncio.run_coroutine_threadsafe(self._pieces.put(piece), self._loop)
        waited_s = 0.0
        while not self._gone and waited_s < TAKEN_WITHIN_S and self._loop.time() < self._ends_at:
            try:
                waiting.result(GONE_EVERY_S)
                return True
            except TimeoutError:
                waited_s += GONE_EVERY_S
        waiting.cancel()
        self._loop.call_soon_threadsafe(self._give_up)
        return False

    def _give_up(self) -> None:
        self._gone = True
        self._forget()
        path, last = self._taken.path, f"the client did not take data for {TAKEN_WITHIN_S:.0f} s"
        if self._loop.time() >= self._ends_at:
            last = f"the client did not take the whole file within {WHOLE_WITHIN_S:.0f} s"
        self._pieces.put_nowait(NotTaken(f"{path}: {last}"))

    def _forget(self) -> None:
        while not self._pieces.empty():
            self._pieces.get_nowait()

    def work(self, engine: sa.Engine, begin: Callable[[sa.Connection], Iterator[str]]) -> None:
        """Read all rows in this thread, piece by piece, then record the file."""
        rows = 0

        def send(connection: sa.Connection) -> None:
            nonlocal rows
            held: list[str] = []
            size = 0
            for line in begin(connection):
                held.append(line)
                size += len(line)
                rows += 1
                if size >= PIECE_BYTES:
                    if not self._put("".join(held).encode()):
                        return
                    held, size = [], 0
            self._put("".join(held).encode())

        try:
            read(engine, send)
            keep(engine, self._taken, max(rows - (self._taken.ask.form == "csv"), 0))  # minus the line of names
            self._put(None)
        except Exception as error:
            self._put(error)
        finally:
            self._loop.call_soon_threadsafe(self._ended)

    async def first(self) -> bytes:
        """Return the first piece.

        Errors: the errors of reading its rows, so that the browser gets an error page.
        """
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece or b""


def keep(engine: sa.Engine, taken: FileRequest, rows: int) -> None:
    """Record the person, the path, the query and the number of rows in the audit log."""
    ask = taken.ask
    by = By(ask.now_ms, ask.person.actor, "took a file", ask.person.via)
    details = {"rows": rows, "query": dict(ask.query)}
    write(engine, lambda c: record(c, "console_export", taken.path, details, by))


class Files:
    """The files that the console, or `/my`, is sending.

    Guarantee: at most MOST_FILES are in progress.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._under_way = 0
        self._of: set[str | None] = set()

    async def open(
        self, begin: Callable[[sa.Connection], Iterator[str]], taken: FileRequest, of: str | None = None
    ) -> AsyncIterator[bytes]:
        """Begin a file, and return its pieces.

        `of`: an organisation. Its own people may have one file in progress at a time. Errors: ApiError 503 if they have
        one, or if too many files are in progress; the errors of reading the first rows.
        """
        if of in self._of:
            raise ApiError(503, "busy", "your last file is not complete yet. Try again in a moment", headers=SOON)
        if self._under_way >= MOST_FILES:
            raise ApiError(503, "busy", "too many files are in progress. Try again in a moment", headers=SOON)
        self._under_way += 1
        if of is not None:
            self._of.add(of)
        stream = Stream(taken, partial(self._ended, of))
        self._threads.begin(lambda engine: stream.work(engine, begin))
        return stream.pieces(await stream.first())

    def _ended(self, of: str | None) -> None:
        self._under_way -= 1
        self._of.discard(of)
