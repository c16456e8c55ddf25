"""What the processes of a siege share: its clock, which follows the trace, and how far each client has come.

Guarantee: the controller alone moves the clock, and only forward; each client writes its own place alone.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path


class Board:
    """A file of 64-bit numbers that all of them map: the clock, then a place for each client."""

    def __init__(self, folder: Path, *, clients: int | None = None, start_ms: int = 0) -> None:
        path = folder / "board"
        if clients is not None:
            path.write_bytes(struct.pack(f"<{clients + 1}q", start_ms, *([0] * clients)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.clients = len(self._map) // 8 - 1

    def now_ms(self) -> int:
        return self._get(0)

    def forward(self, to_ms: int) -> None:
        self._put(0, max(to_ms, self.now_ms()))

    def come(self, client: int, place: int) -> None:
        """A client has come so far in the list of requests."""
        self._put(client + 1, place)

    def place(self, client: int) -> int:
        """How far a client has come."""
        return self._get(client + 1)

    def behind(self) -> int:
        """How far the last of them has come."""
        return min(map(self.place, range(self.clients)))

    def _get(self, at: int) -> int:
        (found,) = struct.unpack_from("<q", self._map, at * 8)
        return int(found)

    def _put(self, at: int, value: int) -> None:
        struct.pack_into("<q", self._map, at * 8, value)
