"""Serve the application on a socket with uvicorn.

Guarantee: SIGTERM and SIGINT end the server cleanly, unless the process ignored the signal at its start. The server
then stops accepting requests, and waits up to SHUTDOWN_S for requests in progress. A tick ends at its next effect. Then
the process exits with its usual status.
"""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

import structlog
import uvicorn

from drawdown.schema.errors import UsageError
from drawdown.server.app import Server
from drawdown.server.http.callers import proxies
from drawdown.server.http.connection import MAX_HEAD_BYTES, ConnectionSlots, protocol

log = structlog.get_logger()

KEEP_ALIVE_S: Final = 30
"""Seconds that an idle connection stays open between two requests."""
SHUTDOWN_S: Final = 25
"""Seconds that a stopping server waits for requests in progress."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
BACKLOG: Final = 512
"""Connections that the operating system queues until the server accepts them."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Errors: UsageError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Choose another address or port"
        ) from error


class _Ending(uvicorn.Server):
    """A server that stops the worker's steps at the first signal.

    `was_told`: True if a signal arrived before the server handled signals. The server then ends right after its start.
    `is_told`: a function that returns True if another event ends the server.
    """

    def __init__(self, config: uvicorn.Config, server: Server, is_told: Callable[[], bool]) -> None:
        super().__init__(config)
        self._drawdown = server
        self._is_told = is_told
        self.deaf = {number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN}
        self.was_told = False

    async def main_loop(self) -> None:
        self.should_exit = self.should_exit or self.was_told
        await super().main_loop()

    async def on_tick(self, counter: int) -> bool:
        ends = await super().on_tick(counter)
        if not ends and self._is_told():
            self._drawdown.step_threads.stopping.set()
            return True
        return ends

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig in self.deaf:
            return  # the signal was ignored before the server began, such as after a shell script's `&`
        self._drawdown.step_threads.stopping.set()
        super().handle_exit(sig, frame)


def serve(
    server: Server, listening: socket.socket, trusted_proxies: str, is_told: Callable[[], bool] = lambda: False
) -> None:
    """Serve until a signal or `is_told` ends it.

    `trusted_proxies`: addresses with a trusted X-Forwarded-For, separated by commas. `is_told`: a function that returns
    True if the server must end. Errors: UsageError if one of `trusted_proxies` is not an address or network.
    """
    slots = ConnectionSlots(proxies(trusted_proxies), server.refused)
    config = uvicorn.Config(
        server.app,
        http=protocol(slots),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # otherwise each invalid request would write a line to stderr
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )

    ending = _Ending(config, server, is_told)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("stopped", signal=signal.Signals(number).name)
        ending.was_told = True

    for number in set(SIGNALS) - ending.deaf:
        signal.signal(number, on_signal)  # after its end, uvicorn raises the signal again
    _keep_what_is_loaded()
    with suppress(KeyboardInterrupt):
        ending.run(sockets=[listening])


def _keep_what_is_loaded() -> None:
    """Exclude the loaded modules and routes from garbage collection.

    They are some 170,000 objects. A full collection would visit them for some 40 ms while all requests wait.
    """
    gc.collect()
    gc.freeze()
