"""Serves the application on a socket, by uvicorn.

Guarantee: SIGTERM and SIGINT end it cleanly: nothing new is taken, what is under way ends (a tick at its next effect),
and the process goes on to its exit status. Who sends a request's head without end is cut off, and so is who was
answered and does not end its body.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from drawdown.schema.errors import UsageError
from drawdown.server.app import Server

log = structlog.get_logger()

PATIENCE_S: Final = 15.0
KEEP_ALIVE_S: Final = 30
SHUTDOWN_S: Final = 25
AT_ONCE: Final = 512
BACKLOG: Final = 512


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Errors: UsageError where there is none to be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


class _Patient(H11Protocol):
    """Waits for the head of a request, and for the rest of one that is answered already, and not for ever: nothing of
    uvicorn's runs then, and an application that reads a body has its own limit."""

    _awaited: object = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """One time for each thing that is awaited: more of it does not prolong it."""
        awaited = self._awaits()
        if awaited is not self._awaited:
            self._disarm()
        if awaited is not None and self._timer is None:
            self._awaited, self._timer = awaited, self.loop.call_later(PATIENCE_S, self._give_up)

    def _awaits(self) -> object:
        theirs = self.conn.their_state
        rest = theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE
        return theirs if theirs is h11.IDLE or rest else None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._awaited = self._timer = None

    def _give_up(self) -> None:
        awaited = self._awaited
        self._disarm()
        if self._awaits() is awaited and not self.transport.is_closing():
            self.transport.close()


class _Ending(uvicorn.Server):
    """Tells the worker's steps as soon as the process is told."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._drawdown = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drawdown.crew.stopping.set()
        super().handle_exit(sig, frame)


def serve(server: Server, listening: socket.socket, trusted_proxies: str) -> None:
    """Serve until told to end. `trusted_proxies`: addresses whose X-Forwarded-For is believed, separated by commas."""
    config = uvicorn.Config(
        server.app,
        http=_Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        limit_concurrency=AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )

    def told(number: int, _frame: FrameType | None) -> None:
        log.info("stopped", signal=signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)  # uvicorn raises what it was sent again once it has ended: then it is ours
    with suppress(KeyboardInterrupt):
        _Ending(config, server).run(sockets=[listening])
