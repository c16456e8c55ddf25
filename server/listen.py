"""Serves the application on a socket, by uvicorn.

Guarantee: SIGTERM and SIGINT end it cleanly: nothing new is taken, what is under way ends (a tick at its next effect),
and the process goes on to its exit status. Who sends a request's head without end is cut off.
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

HEAD_TIMEOUT_S: Final = 15.0
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
    """Waits for the head of a request, and not for ever: uvicorn's own limits begin after it."""

    _head: asyncio.TimerHandle | None = None

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
        if self.conn.their_state is not h11.IDLE:
            self._disarm()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _disarm(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
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
