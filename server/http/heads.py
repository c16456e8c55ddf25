"""How large the head of a request, and the trailers behind a body, may be.

Guarantee: none that is larger, or has more lines, is read into headers, however it comes. h11 measures only what has
not ended yet: a head that comes in one read it takes whole.
"""

from __future__ import annotations

import re
from typing import Final

import h11
from h11._receivebuffer import ReceiveBuffer

MAX_HEAD_BYTES: Final = 16 * 1024
"""A request's first line and headers, up to the empty line; the same of trailers."""
MOST_HEADERS: Final = 100
"""Their lines: an empty header costs four bytes, and as much time as any other."""
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
_AT_ONCE: Final = (b"\n", b"\r\n")
"""What no lines begin with: there are none of them."""


class Heads(ReceiveBuffer):
    """h11's bytes that wait. Lines up to an empty one are heads and trailers alone: a body is not looked at."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Errors: LocalProtocolError, which h11 makes its own error of what was sent."""
        has_none = self._data.startswith(_AT_ONCE)
        if len(self) > MAX_HEAD_BYTES and not has_none and not _EMPTY_LINE.search(self._data, 0, MAX_HEAD_BYTES):
            raise h11.LocalProtocolError("the head is too large", error_status_hint=431)
        lines = super().maybe_extract_lines()
        if lines is not None and len(lines) > 1 + MOST_HEADERS:
            raise h11.LocalProtocolError("the head has too many headers", error_status_hint=431)
        return lines
