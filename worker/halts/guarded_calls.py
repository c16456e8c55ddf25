"""Calls to URLs that people registered: cells, and the operator's product.

Guarantee: a connection is made only to an address that was judged when the connection was made: an earlier answer of
DNS does not count. Through a proxy that the operator set, the proxy finds the address, and the origin alone is judged.
Redirects and cookies are not followed or kept. An answer that is too long, never ends or
is no HTTP is an error in our words: those of a library may hold headers.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Final

from drawdown.providers.http import NoAnswer, NotSent
from drawdown.providers.http.client import HttpClient
from drawdown.providers.http.connection import CUT_OFF, TOO_MUCH
from drawdown.providers.http.dialing import Dialer
from drawdown.providers.http.names import Lookup
from drawdown.providers.http.outgoing import Outgoing
from drawdown.worker.halts.cell_urls import CellUrl
from drawdown.worker.halts.judging import Judge
from drawdown.worker.halts.reasons import NOT_CALLED

TOO_LONG: Final = "the answer is too long"


@dataclass
class Target:
    """One URL that may be called; `refused`: why the last address it had was not connected to."""

    url: CellUrl
    judge: Judge
    path: str = ""
    """Behind the URL's own."""
    refused: str | None = None

    @property
    def full(self) -> str:
        return f"{self.url.origin}{self.url.path}{self.path}"

    def socket_to(self, found: tuple[Any, ...]) -> socket.socket:
        """The one place where a connection begins: to the address given here, and to no other."""
        self.refused = self.judge.address_refused(self.url, found[4][0])
        if self.refused is not None:
            raise OSError(self.refused)
        return socket.socket(*found[:3])

    def client(self, lookup: Lookup, outgoing: Outgoing, at_once: int, within_s: float) -> HttpClient:
        """Connections for this target, so many at once."""
        dialer = Dialer(outgoing=outgoing, lookup=lookup, socket_to=self.socket_to, names_kept_s=0)
        return HttpClient(connections=at_once, connect_timeout_s=within_s, dialer=dialer)

    def failure(self, result: NotSent | NoAnswer, allows: str, too_long: str = TOO_LONG) -> str:
        """What went wrong. `allows`: the setting that would allow an address."""
        if self.refused is not None and isinstance(result, NotSent):
            return f"{self.refused}: {NOT_CALLED} {allows} allows it"
        return too_long if result.reason == CUT_OFF or result.reason.startswith(TOO_MUCH) else result.reason


def late(timeout_s: float) -> str:
    """What is said of a call that took too long."""
    return f"no whole answer within {timeout_s:g} s"
