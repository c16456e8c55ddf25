"""The addresses of names. Nothing that calls is imported here: settings are judged without it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

Lookup = Callable[[str, int], Sequence[tuple[Any, ...]]]


def system_lookup(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """The addresses of a name, as the system has them. Errors: OSError, UnicodeError."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
